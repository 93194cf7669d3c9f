"""Where recorded episodes come from; none is read before it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from genreward_wrappers.core import UInt8, warn_caller
from genreward_wrappers.data.episodes import Episode, episode_files
from genreward_wrappers.data.frames import flat_state, side_by_side
from genreward_wrappers.data.lerobot import (
    LeRobotEpisode,
    is_lerobot,
    read_columns,
    read_lerobot,
)
from genreward_wrappers.data.minari import (
    MINARI,
    is_lossy,
    is_minari,
    load_minari,
    pictures_of,
)
from genreward_wrappers.data.replay import (
    Stored,
    actions_of,
    observations_of,
    stored_episodes,
    terminated,
)
from genreward_wrappers.data.video_files import (
    PICTURE_ENDINGS,
    VIDEO_ENDINGS,
    frame_rate,
    read_pictures,
    read_video,
)
from genreward_wrappers.data.views import BETWEEN, names_in

EPISODE_ENDING = ".safetensors"

JPEG = (
    "{name} keeps its frames as JPEG, and what was rewarded online were the frames "
    "before that: scores differ a little from those that a wrapper paid. Minari keeps "
    "frames as they are with DataCollector(env, jpeg_encoding=False)"
)


@dataclass(frozen=True)
class Recording:
    """One recorded episode.

    Attributes:
        name: Where it is from, for tables and messages.
        read: Reads it.
        number: Its index in the dataset or the list that it is from.
        fps: Frames a second; None where nobody says.
        about: What scoring has to know of the dataset: ``env_id``, ``horizon``,
            ``action_space`` and ``camera``, as far as it says.
    """

    name: str
    read: Callable[[], Episode]
    number: int = 0
    fps: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def as_episode(
    frames: ArrayLike,
    actions: ArrayLike | None = None,
    *,
    terminated: bool = False,
    states: ArrayLike | None = None,
    env_rewards: ArrayLike | None = None,
    **info: Any,
) -> Episode:
    """An episode from a plain list of its frames.

    Args:
        frames: (T + 1, H, W, 3) uint8 RGB, from the frame before the first action to
            the one after the last.
        actions: (T, ...); None where no reward looks at them.
        terminated: Whether the episode ended in itself, and was not cut.
        states: (T + 1, S) the environment's numbers, for rewards that look at them.
        env_rewards: (T,) the environment's own rewards, for rewards that add them.
        **info: What else is known, such as ``seed``, that of its reset.

    Raises:
        ValueError: There are no two frames, or they do not fit together.
    """
    try:
        pictures = np.asarray(frames)
    except ValueError as error:
        raise ValueError("the frames of an episode have one size") from error
    steps = len(pictures) - 1 if pictures.ndim == 4 else 0
    if steps < 1:
        raise ValueError(
            "an episode has at least 2 frames, (frames, height, width, 3), got "
            f"{pictures.dtype} {pictures.shape}"
        )
    done = np.zeros((steps, 0), np.float32) if actions is None else np.asarray(actions)
    if len(done) != steps:
        raise ValueError(
            f"{len(pictures)} frames are those before and after {steps} actions, got "
            f"{len(done)} actions"
        )
    own: dict[str, Any] = {}
    if env_rewards is not None:
        own["env"] = np.asarray(env_rewards, np.float64)
    return Episode(
        frames=pictures,
        frame_steps=np.arange(steps + 1, dtype=np.int64),
        actions=done,
        success=np.zeros(steps, np.bool_),
        rewards=own,
        terminated=terminated,
        info=info,
        states=None if states is None else np.asarray(states, np.float32),
    )


def find_recordings(source: str | PathLike[str], camera: str = "") -> list[Recording]:
    """The episodes of whatever a path or an id names.

    Args:
        source: A video, a folder of videos or of one video's pictures; a recorded
            episode or a folder of them; the folder of a LeRobotDataset or of a Minari
            dataset; or "minari:<dataset id>".
        camera: The camera of a dataset that has several.

    Raises:
        ValueError: There is nothing there that has frames.
    """
    text = fspath(source)
    if text.startswith(MINARI):
        return from_minari(text, camera)
    path = Path(text).expanduser()
    if path.is_dir() and is_lerobot(path):
        return from_lerobot(path, camera)
    if path.is_dir() and is_minari(path):
        return from_minari(path, camera)
    if camera:
        raise ValueError(f"camera={camera!r}: {text} is no dataset of several cameras")
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise ValueError(
            f"there is no {text}: expected a video, a recorded episode, a folder of "
            f'either, a LeRobotDataset, or "{MINARI}<dataset id>"'
        )
    return [_of_file(path, 0)]


def from_minari(dataset: Any, camera: str = "") -> list[Recording]:
    """The episodes of a Minari dataset.

    Args:
        dataset: The dataset, its id, or its folder.
        camera: The key of the frames, where observations hold several pictures;
            "front+wrist" for several of them, side by side.
    """
    data = load_minari(dataset) if isinstance(dataset, (str, PathLike)) else dataset
    name = f"{MINARI}{data.spec.dataset_id}"
    spec = data.spec.env_spec
    views = names_in(camera) or (camera,)
    about: dict[str, Any] = {"action_space": data.action_space}
    about["camera"] = BETWEEN.join(views)
    if spec is not None:
        about |= {"env_id": spec.id, "horizon": spec.max_episode_steps}
    numbers = [int(number) for number in data.episode_indices]
    told: list[bool] = []

    def read(number: int, label: str) -> Episode:
        found = next(iter(data.iterate_episodes([number])))
        seen = [pictures_of(found.observations, label, view) for view in views]
        frames = side_by_side(seen)
        if not told and is_lossy(data, frames):
            told.append(True)
            warn_caller(JPEG.format(name=name))
        return as_episode(
            frames,
            found.actions,
            terminated=bool(found.terminations[-1]),
            states=flat_state(found.observations, 1),
            env_rewards=found.rewards,
        )

    labels = {number: f"{name}, episode {number}" for number in numbers}
    return [Recording(labels[n], partial(read, n, labels[n]), n, None, about)
            for n in numbers]  # fmt: skip


def from_lerobot(
    folder: str | PathLike[str], camera: str = "", *, last: bool = False
) -> list[Recording]:
    """The episodes of a LeRobotDataset.

    Args:
        folder: Of the dataset.
        camera: As in `data.lerobot.read_lerobot`; "front+wrist" for several, side by
            side.
        last: LeRobot keeps no frame of what came of an episode's last action. So T
            frames are T - 1 steps; or T, the last of which led to the last frame once
            more.
    """
    views = names_in(camera) or (camera,)
    seen = [read_lerobot(Path(folder), view) for view in views]
    about = {"camera": BETWEEN.join(views)}
    return [
        Recording(
            each[0].name,
            partial(_of_lerobot, each, last),
            each[0].number,
            each[0].fps,
            about,
        )
        for each in zip(*seen, strict=True)
    ]


def _of_lerobot(views: Sequence[LeRobotEpisode], last: bool) -> Episode:
    frames = side_by_side([one.read() for one in views])
    data = read_columns(views[0], "action", "observation.state")
    actions, states = data.get("action"), data.get("observation.state")
    if last:
        frames = np.concatenate([frames, frames[-1:]])
        if states is not None:
            states = np.concatenate([states, states[-1:]])
    steps = len(frames) - 1
    return as_episode(
        frames, None if actions is None else actions[:steps], states=states
    )


def from_buffer(buffer: Any) -> list[Recording]:
    """The episodes in a replay buffer of stable-baselines3, oldest first.

    A full buffer has overwritten the beginning of the oldest episode of each
    environment: what is left of it is left out. An ordinary buffer holds what the agent
    was paid, which stands for the environment's own reward; a `RelabelReplayBuffer`
    holds that as well.

    Raises:
        ValueError: It is empty, or its observations are no pictures.
    """
    about = {"action_space": buffer.action_space}
    whole = [stored for stored in stored_episodes(buffer) if not stored.headless]
    return [
        Recording(stored.name, partial(_of_buffer, buffer, stored), number, None, about)
        for number, stored in enumerate(whole)
    ]


def _of_buffer(buffer: Any, stored: Stored) -> Episode:
    seen = observations_of(buffer, stored)
    return as_episode(
        pictures_of(seen, stored.name),
        actions_of(buffer, stored),
        terminated=terminated(buffer, stored),
        states=flat_state(seen, 1),
        env_rewards=getattr(buffer, "env_rewards", buffer.rewards)[
            stored.rows, stored.env
        ],
    )


def from_frames(episodes: Sequence[Any]) -> list[Recording]:
    """Recordings from episodes that are in memory.

    Args:
        episodes: Of each an `Episode`, as `as_episode` makes them, or (T + 1, H, W, 3)
            frames alone.
    """
    return [
        Recording(f"episode {number}", partial(_of_frames, one), number)
        for number, one in enumerate(episodes)
    ]


def _of_frames(one: Any) -> Episode:
    return one if isinstance(one, Episode) else as_episode(one)


def _in_folder(folder: Path) -> list[Recording]:
    """The episodes, videos, or the one video's pictures of a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    episodes = episode_files(folder)
    films = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
    pictures = [path for path in files if path.suffix.lower() in PICTURE_ENDINGS]
    if episodes or films:
        return [_of_file(path, i) for i, path in enumerate([*episodes, *films])]
    if pictures:
        read = partial(_of_film, partial(read_pictures, pictures))
        return [Recording(str(folder), read)]
    raise ValueError(
        f"{folder} holds no recorded episodes (*{EPISODE_ENDING}), no videos "
        f"({', '.join(VIDEO_ENDINGS)}) and no pictures ({', '.join(PICTURE_ENDINGS)})"
    )


def _of_file(path: Path, number: int) -> Recording:
    if path.suffix == EPISODE_ENDING:
        return Recording(str(path), partial(Episode.load, path), number)
    film = partial(_of_film, partial(read_video, path))
    return Recording(str(path), film, number, frame_rate(path))


def _of_film(read: Callable[[], UInt8]) -> Episode:
    return as_episode(read())
