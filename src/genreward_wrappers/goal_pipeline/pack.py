"""Packs videos of one's own into a goal bundle.

Any video that shows the task done from start to end will do: generated, filmed, or
recorded in the environment. All are brought to one size and one length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.core import UInt8
from genreward_wrappers.frames import area_resize, evenly, image_size
from genreward_wrappers.goals import GoalBundle, GoalError

#: The frames of a packed video, of CogVideoX's grammar: 8k + 1.
LENGTH = 129

#: What folders are searched for.
VIDEO_ENDINGS = (".mp4", ".gif", ".npy", ".webm", ".mkv", ".avi", ".mov")


def read_video(path: str | PathLike[str]) -> UInt8:
    """(T, H, W, 3) the frames of an mp4, gif, or any file that imageio reads, or .npy.

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


def read_part(
    path: str | PathLike[str], start: float, count: int, fps: float, name: str
) -> UInt8:
    """(count, H, W, 3) a part of a video that holds more; no frame after it is decoded.

    Args:
        path: The video.
        start: Where the part begins, in seconds.
        count: Of its frames; frame i is the one at ``start + i / fps``.
        fps: Frames a second.
        name: What the part is, for messages.

    Raises:
        GoalError: The video has fewer frames there, or does not decode.
    """
    _imageio()
    import av

    # Begins are sums of durations. A film of more frames a second is thinned out.
    slack = 0.2 / fps
    frames: UInt8 | None = None
    found, last = 0, 0.0
    try:
        with av.open(str(path)) as film:
            stream = film.streams.video[0]
            stream.thread_type = "AUTO"
            # To the key frame before; what comes until the start is decoded, too.
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
                    # They may take gigabytes, and are not held twice.
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


def write_video(path: str | PathLike[str], frames: UInt8, fps: float = 20) -> None:
    """Writes (T, H, W, 3) frames as an mp4 that every player and browser shows."""
    imageio = _imageio()
    height, width = frames.shape[1:3]
    # H.264 with the common pixel format has only even sides.
    even = frames[:, : height - height % 2, : width - width % 2]
    imageio.imwrite(path, even, plugin="pyav", codec="libx264", fps=fps)


def pack(
    videos: Sequence[str | PathLike[str] | UInt8],
    *,
    env_id: str = "",
    camera: str = "",
    prompt: str = "",
    size: int | tuple[int, int] = 64,
    length: int = LENGTH,
    encoder: str | None = "embedded:video-vae-64",
    generator: str = "",
    license: str = "",
) -> GoalBundle:
    """Makes a goal bundle of some videos.

    Args:
        videos: Files, or arrays of shape (time, height, width, 3).
        env_id: The environment that they are for.
        camera: The environment's camera; checked when the goal is used, if given.
        prompt: The task in words.
        size: (height, width) of the packed videos; the encoder's own, usually.
        length: Frames of each packed video, evenly spread over it.
        encoder: What `load_encoder` takes; the goal will be used with it. None leaves
            it open.
        generator: What made the videos.
        license: Their licence.
    """
    if not videos:
        raise GoalError("a goal needs at least one video, got none")
    if length < 2:
        raise GoalError(f"length={length}: a goal video needs at least 2 frames")
    target = image_size(size)
    clips, sources = [], []
    for video in videos:
        frames = video if isinstance(video, np.ndarray) else read_video(video)
        name = "an array" if isinstance(video, np.ndarray) else Path(video).name
        clips.append(fit(frames, target, length, name))
        digest = hashlib.sha256(frames.tobytes()).hexdigest()[:16]
        sources.append({"video": name, "frames": len(frames), "sha256": digest})
    card: dict[str, Any] = {}
    if encoder is not None:
        from genreward_wrappers.encoders.base import encoder_card
        from genreward_wrappers.encoders.registry import load_encoder

        card = encoder_card(load_encoder(encoder, device="cpu", size=target))
    return GoalBundle(
        videos=np.stack(clips),
        env_id=env_id,
        camera=camera,
        prompt=prompt,
        encoder=card,
        generator=generator,
        license=license,
        provenance=({"step": "pack", "videos": sources, "length": length},),
    )


def fit(frames: UInt8, size: tuple[int, int], length: int, name: str) -> UInt8:
    """A video at a size and length, or why it would be spoilt by that."""
    height, width = frames.shape[1:3]
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
    index = evenly(length, len(frames) - 1).tolist()
    small = {i: area_resize(frames[i], size) for i in set(index)}
    return np.stack([small[i] for i in index])


def _decode(path: Path) -> UInt8:
    imageio = _imageio()
    try:
        frames: UInt8 = imageio.imread(path, index=..., plugin="pyav")
    except Exception as error:
        raise GoalError(
            f"{path} does not decode as a video ({type(error).__name__}: {error})"
        ) from error
    return frames


def _imageio() -> Any:
    try:
        import av  # noqa: F401
        import imageio.v3 as imageio
    except ImportError as error:
        raise ImportError(
            'videos need imageio and av: pip install "genreward-wrappers[video]"'
        ) from error
    return imageio
