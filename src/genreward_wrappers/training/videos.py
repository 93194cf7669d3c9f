"""Videos to train on, wherever they are: files, folders, recorded episodes, goals."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.episodes import GOAL_FILE, Episode
from genreward_wrappers.data.frames import image_size
from genreward_wrappers.data.goals import load_goal
from genreward_wrappers.data.lerobot import is_lerobot, read_lerobot
from genreward_wrappers.data.video_files import VIDEO_ENDINGS, fit, read_video
from genreward_wrappers.generators.candidates import PREFIX, load_candidate


def load_videos(
    sources: Sequence[str | PathLike[str]] = (),
    goals: Sequence[str | PathLike[str]] = (),
    size: int | tuple[int, int] = 64,
    camera: str = "",
) -> list[UInt8]:
    """(T, H, W, 3) each, brought to one size.

    Args:
        sources: Videos (mp4, gif, npy, ...), episodes that a wrapper recorded and
            candidates that were generated (.safetensors), folders with any of them
            anywhere below, and folders of LeRobotDatasets, whose episodes are used
            unless they are marked as failed.
        goals: Goals, as `load_goal` takes them; all of their videos are used.
        size: (height, width), or one number for both.
        camera: The camera to read from LeRobotDatasets that have several.

    Raises:
        ValueError: There is nothing to read, or it does not fit the size.
    """
    target = image_size(size)
    found: list[tuple[str, UInt8]] = []
    for source in map(Path, sources):
        if is_lerobot(source):
            episodes = [e for e in read_lerobot(source, camera) if e.success]
            if not episodes:
                raise ValueError(f"{source}: none of its episodes succeeded")
            found += [(episode.name, episode.read()) for episode in episodes]
            continue
        paths = _inside(source) if source.is_dir() else [source]
        if not paths:
            raise ValueError(
                f"{source} holds neither videos ({', '.join(VIDEO_ENDINGS)}) nor "
                "recorded episodes (.safetensors)"
            )
        found += [(str(path), _read(path)) for path in paths]
    for name in goals:
        bundle = load_goal(name)
        found += [(f"{name}, video {i}", v) for i, v in enumerate(bundle.videos)]
    if not found:
        raise ValueError("there is nothing to train on: give videos, or a goal")
    return [fit(video, target, len(video), name) for name, video in found]


def _inside(folder: Path) -> list[Path]:
    endings = (*VIDEO_ENDINGS, ".safetensors")
    return sorted(
        path
        for path in folder.rglob("*")
        # A wrapper keeps the goal beside the episodes that it records.
        if path.suffix.lower() in endings
        and path.name != GOAL_FILE
        # The same video is stored beside a candidate, to look at.
        and (path.suffix == ".safetensors" or not _is_candidate(path))
    )


def _is_candidate(path: Path) -> bool:
    whole = path.with_suffix(".safetensors")
    return path.name.startswith(f"{PREFIX}-") and whole.is_file()


def _read(path: Path) -> UInt8:
    if path.suffix != ".safetensors":
        return read_video(path)
    if _is_candidate(path):
        video: UInt8 = load_candidate(path).videos[0]
        return video
    frames = Episode.load(path).frames
    if len(frames) < 2:
        raise ValueError(f"{path}: a video needs at least 2 frames, got {len(frames)}")
    return frames
