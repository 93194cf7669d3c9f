"""Test episodes of the user's own: videos, recorded episodes, or a Minari dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.episodes import Episode, episode_files
from genreward_wrappers.data.minari import MINARI, load_minari, pictures_of
from genreward_wrappers.data.video_files import VIDEO_ENDINGS, fit, read_video
from genreward_wrappers.evaluate.judge.curves import ORDINARY


def load_rollouts(
    source: str, frames: int = 65, size: tuple[int, int] | None = None
) -> list[Episode]:
    """Reads test episodes.

    Args:
        source: A folder with a folder of videos for each kind ("success", "failure",
            "near-miss", ...), or of episodes that a wrapper recorded; or
            "minari:<dataset id>".
        frames: The number of frames used of a video. A video does not say how many
            steps it shows, so it counts as an episode of one step less.
        size: The (height, width) that larger videos are shrunk to.

    Raises:
        ValueError: There is nothing to read, or all labels are the same.
    """
    check_rollouts(source)
    if source.startswith(MINARI):
        episodes = _minari(source.removeprefix(MINARI))
    else:
        folder = Path(source)
        episodes = _recorded(folder) or _videos(folder, frames, size)
    won = sum(_wins(episode) for episode in episodes)
    if won in (0, len(episodes)):
        kinds = sorted({str(e.info["kind"]) for e in episodes})
        raise ValueError(
            f"{source}: {won} of its {len(episodes)} episodes are successes ({kinds}). "
            "A reward can only be judged on successes and failures: give both"
        )
    return episodes


def _wins(episode: Episode) -> bool:
    return bool(episode.info["kind"] == "success" or episode.succeeded)


def _recorded(folder: Path) -> list[Episode]:
    episodes = []
    for path in episode_files(folder):
        episode = Episode.load(path)
        kind = episode.info.get("kind")
        kind = kind or ("success" if episode.succeeded else "failure")
        _check_kind(kind, path)
        episodes.append(_named(episode, kind, path.stem))
    return episodes


def _videos(folder: Path, frames: int, size: tuple[int, int] | None) -> list[Episode]:
    episodes = []
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(inside.iterdir()):
            if path.suffix.lower() not in VIDEO_ENDINGS:
                continue
            _check_kind(inside.name, inside)
            video = read_video(path)
            if len(video) < 9:
                # The first chunk of a causal video encoder.
                raise ValueError(
                    f"{path} has {len(video)} frames: an episode needs at least 9"
                )
            episodes.append(
                _named(
                    _of_video(video, frames, size, inside.name, str(path)),
                    inside.name,
                    str(path),
                )
            )
    if not episodes:
        raise ValueError(
            f"{folder} holds neither recorded episodes (*.safetensors) nor folders "
            f'such as "success" and "failure" with videos ({", ".join(VIDEO_ENDINGS)})'
        )
    return episodes


def _check_kind(kind: str, where: Path) -> None:
    if kind not in ORDINARY:
        raise ValueError(
            f"{where}: {kind!r} is no kind of test episode, expected one of "
            f"{', '.join(ORDINARY)}"
        )


def _of_video(
    video: UInt8, frames: int, size: tuple[int, int] | None, kind: str, name: str
) -> Episode:
    kept = fit(video, size or (video.shape[1], video.shape[2]), frames, name)
    success = np.zeros(frames - 1, np.bool_)
    # The video does not say when it succeeded, so it counts as by its end.
    success[-1] = kind == "success"
    return Episode(
        frames=kept,
        frame_steps=np.arange(frames, dtype=np.int64),
        actions=np.zeros((frames - 1, 0), np.float32),
        success=success,
    )


def _named(episode: Episode, kind: str, group: str) -> Episode:
    return replace(
        episode, info={"group": group, "seed": 0, **episode.info, "kind": kind}
    )


def _minari(name: str) -> list[Episode]:
    dataset = load_minari(name)
    episodes = []
    for data in dataset.iterate_episodes():
        frames = pictures_of(data.observations, name)
        steps = len(frames) - 1
        success = _success(data.infos, steps)
        won = bool(success.any())
        episodes.append(
            _named(
                Episode(
                    frames=frames,
                    frame_steps=np.arange(len(frames), dtype=np.int64),
                    actions=np.asarray(data.actions),
                    success=success,
                    rewards={"env": np.asarray(data.rewards, np.float32)},
                    terminated=bool(data.terminations[-1]),
                ),
                "success" if won else "failure",
                f"{name} {data.id}",
            )
        )
    return episodes


def _success(infos: Mapping[str, Any] | None, steps: int) -> np.ndarray[Any, Any]:
    """(T,) the success flags of an episode's infos."""
    for key in ("is_success", "success"):
        if infos and key in infos:
            flags = np.asarray(infos[key], np.float64).reshape(-1)
            # Infos have one entry more if that of the reset is stored.
            return flags[-steps:] > 0
    raise ValueError(
        'the dataset does not say which episodes succeeded: its infos need "success" '
        f'or "is_success", they have {sorted(infos or {})}'
    )


def check_rollouts(source: str) -> None:
    """Raises `ValueError` for a folder that does not exist; reads nothing."""
    if not source.startswith(MINARI) and not Path(source).is_dir():
        raise ValueError(
            f"rollouts {source!r}: there is no such folder; expected one that "
            'holds "success", "failure" and the like with videos in them, or '
            f'episodes that a wrapper recorded, or "{MINARI}<dataset id>"'
        )
