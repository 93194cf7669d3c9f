"""Reads and writes video files, and fits videos to a size and a length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.checks import one_of
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.frames import area_resize, evenly
from genreward_wrappers.data.goals import GoalError
from genreward_wrappers.extras import require

#: The suffixes that folders are searched for.
VIDEO_ENDINGS = (".mp4", ".gif", ".npy", ".webm", ".mkv", ".avi", ".mov")

#: How a video of another shape is made to fit: by cutting its sides off, or by adding
#: black bars.
FITS = ("crop", "pad")

#: The suffixes of a video's frames in a folder, which are ordered by name.
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")


def is_videos(goal: Any) -> bool:
    """Whether a goal is given as the path of a video, or as a list of them."""
    places = goal if isinstance(goal, (list, tuple)) else [goal]
    return bool(places) and all(
        isinstance(place, (str, PathLike))
        and Path(place).suffix.lower() in VIDEO_ENDINGS
        for place in places
    )


def read_video(path: str | PathLike[str]) -> UInt8:
    """(T, H, W, 3) the frames of an mp4, gif or npy, or of what else FFmpeg reads.

    Raises:
        GoalError: There is no such file, or it holds no RGB video.
    """
    path = Path(path)
    if not path.is_file():
        raise GoalError(f"there is no video at {path}")
    if path.suffix == ".npy":
        try:
            frames = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise GoalError(f"{path} is no plain numpy array: {error}") from error
    else:
        frames = _decode(path)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] not in (3, 4):
        raise GoalError(
            f"{path}: expected uint8 frames of shape (time, height, width, 3), got "
            f"{frames.dtype} {frames.shape}"
        )
    if len(frames) < 2:
        raise GoalError(f"{path}: a goal video needs at least 2 frames, got 1")
    video: UInt8 = np.ascontiguousarray(frames[..., :3])
    return video


def read_pictures(paths: Sequence[Path]) -> UInt8:
    """(T, H, W, 3) the frames of a video that is stored as pictures.

    Raises:
        GoalError: A file is no picture, or differs in size from the first.
    """
    pillow = require("PIL.Image", "evaluate", "pictures need pillow")
    frames: list[UInt8] = []
    for path in paths:
        try:
            with pillow.open(path) as picture:
                frame = np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise GoalError(f"{path} is no picture ({error})") from error
        if frames and frame.shape != frames[0].shape:
            raise GoalError(
                f"{path} is {frame.shape[0]}x{frame.shape[1]} (height x width), and "
                f"{paths[0].name} is {frames[0].shape[0]}x{frames[0].shape[1]}"
            )
        frames.append(frame)
    return np.stack(frames)


def frame_rate(path: str | PathLike[str]) -> float | None:
    """The frame rate of a video; None if the file does not say, or is no video."""
    if Path(path).suffix.lower() == ".npy":
        return None
    av = _av()
    try:
        with av.open(str(path)) as film:
            rate = film.streams.video[0].average_rate
    except (OSError, IndexError, ValueError):
        # Reading it will say what is wrong.
        return None
    return float(rate) if rate else None


def read_part(
    path: str | PathLike[str], start: float, count: int, fps: float, name: str
) -> UInt8:
    """(count, H, W, 3) a part of a longer video; no frame after it is decoded.

    Args:
        path: The video.
        start: The second at which the part begins.
        count: The number of its frames; frame i is the one at ``start + i / fps``.
        fps: The frame rate.
        name: The name of the part, for messages.

    Raises:
        GoalError: The video has fewer frames there, or does not decode.
    """
    av = _av()
    # Starts are sums of durations. A video with a higher frame rate is thinned out.
    slack = 0.2 / fps
    frames: UInt8 | None = None
    found, last = 0, 0.0
    try:
        with av.open(str(path)) as film:
            stream = film.streams.video[0]
            stream.thread_type = "AUTO"
            # Seeks to the key frame before; everything from there to the start is
            # decoded, too.
            film.seek(int(start / stream.time_base), stream=stream)
            for frame in film.decode(stream):
                last = float(frame.time)
                due = start + found / fps
                if last < due - slack:
                    continue
                if last > due + slack:
                    break
                picture = frame.to_ndarray(format="rgb24")
                if frames is None:
                    # They may take gigabytes, and must not be held twice.
                    frames = np.empty((count, *picture.shape), np.uint8)
                frames[found] = picture
                found += 1
                if found == count:
                    break
    except (OSError, IndexError, ValueError) as error:
        raise GoalError(
            f"{name}: {path} does not decode as a video "
            f"({type(error).__name__}: {error})"
        ) from error
    if frames is None or found < count:
        raise GoalError(
            f"{name}: of its {count} frames, which begin at {start:g} s at {fps:g} a "
            f"second, {path} has {found}; it was read up to {last:g} s"
        )
    return frames


def write_video(
    path: str | PathLike[str], frames: Iterable[UInt8], fps: float = 20
) -> None:
    """Writes (H, W, 3) frames as an mp4 that every player and browser shows.

    The same frames give the same bytes, whatever the number of cores.
    """
    av = _av()
    coming = iter(frames)
    first = next(coming)
    # H.264 with the common pixel format has only even sides.
    height, width = (side - side % 2 for side in first.shape[:2])
    with av.open(str(path), "w") as film:
        rate = Fraction(fps).limit_denominator(1 << 15)
        # x264's rate control by macroblock tree reads memory that it has not written.
        options = {"x264-params": "mbtree=0"}
        stream = film.add_stream(
            "libx264", rate=rate, pix_fmt="yuv420p", options=options
        )
        stream.height, stream.width = height, width
        # It cuts a picture into as many slices as it has threads.
        stream.codec_context.thread_count = 1
        for frame in chain([first], coming):
            even = np.ascontiguousarray(frame[:height, :width])
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            film.mux(stream.encode(picture))
        film.mux(stream.encode(None))


def fit(
    frames: UInt8, size: tuple[int, int], length: int, name: str, how: str = ""
) -> UInt8:
    """Fits a video to a size and length.

    Args:
        frames: (T, H, W, 3).
        size: (height, width).
        length: The number of evenly spread frames to take.
        name: The name of the video, for messages.
        how: One of `FITS`, to fit any shape, enlarging if necessary. None refuses
            whatever would distort or enlarge the video.

    Raises:
        GoalError: It is too small, or of another aspect ratio.
    """
    index = evenly(length, len(frames) - 1).tolist()
    if how:
        small = {i: _filled(frames[i], size, how) for i in set(index)}
    else:
        _check_shape(frames.shape[1:3], size, name)
        small = {i: area_resize(frames[i], size) for i in set(index)}
    return np.stack([small[i] for i in index])


def _check_shape(shape: tuple[int, ...], size: tuple[int, int], name: str) -> None:
    height, width = shape
    if height < size[0] or width < size[1]:
        raise GoalError(
            f"{name} is {height}x{width} (height x width) and would have to be "
            f"enlarged to {size[0]}x{size[1]}: give a larger video or a smaller size"
        )
    if abs(width - size[1] * height / size[0]) > 0.5 * height / size[0]:
        raise GoalError(
            f"{name} is {height}x{width} (height x width), another aspect ratio than "
            f"{size[0]}x{size[1]}: crop it, or give a size of its ratio"
        )


def _filled(frame: UInt8, size: tuple[int, int], how: str) -> UInt8:
    """A frame scaled to cover a size, or to fit into it between black bars."""
    image = require("PIL.Image", "video", "pictures need pillow")
    height, width = frame.shape[:2]
    scales = size[0] / height, size[1] / width
    picture = image.fromarray(frame)
    if how == "crop":
        # The middle of the picture, in the shape of the size.
        high, wide = size[0] / max(scales), size[1] / max(scales)
        top, left = (height - high) / 2, (width - wide) / 2
        box = (left, top, left + wide, top + high)
        return np.asarray(picture.resize((size[1], size[0]), image.BICUBIC, box))
    one_of(FITS, fit=how)
    high, wide = (round(side * min(scales)) for side in (height, width))
    filled: UInt8 = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    filled[top : top + high, left : left + wide] = np.asarray(
        picture.resize((wide, high), image.BICUBIC)
    )
    return filled


def _decode(path: Path) -> UInt8:
    """All frames of a video.

    Not by imageio, which makes room for as many frames as a file says that it has, and
    leaves there whatever memory held where there are fewer.
    """
    try:
        if path.suffix.lower() == ".gif":
            return _decode_gif(path)
        with _av().open(str(path)) as film:
            stream = film.streams.video[0]
            stream.thread_type = "AUTO"
            frames, read, end = [], 0, 0
            for packet in film.demux(stream):
                read += packet.size > 0
                # Some files say when a frame is decoded, and not when it is shown.
                shown = packet.dts if packet.pts is None else packet.pts
                end = max(end, (shown or 0) + (packet.duration or 0))
                frames += [f.to_ndarray(format="rgb24") for f in packet.decode()]
            said, length = stream.frames, stream.duration or 0
            # One that was trimmed also has fewer, and is as long as it says.
            short = end - (stream.start_time or 0) < length * (1 - 1.5 / max(said, 2))
            if read < said and short:
                raise EOFError(f"of its {said} frames the file has {read}")
        return np.stack(frames)
    except ImportError:
        raise
    except Exception as error:
        # imageio's own words are about its plugins.
        first: BaseException = error
        while cause := first.__cause__ or first.__context__:
            first = cause
        reason = getattr(first, "strerror", None) or first
        raise GoalError(
            f"{path} does not decode as a video ({reason}): is it damaged, or is a "
            "part missing?"
        ) from error


def _decode_gif(path: Path) -> UInt8:
    # FFmpeg takes several small pictures for one.
    image = require("PIL.Image", "video", "pictures need pillow")
    sequence = require("PIL.ImageSequence", "video", "pictures need pillow")
    with image.open(path) as film:
        frames = [np.asarray(f.convert("RGB")) for f in sequence.Iterator(film)]
    return np.stack(frames)


def _av() -> Any:
    return require("av", "video", "videos need av")
