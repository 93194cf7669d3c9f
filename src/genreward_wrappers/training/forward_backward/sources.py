"""Trajectories from what a user has: recorded episodes, Minari, a replay buffer.

Whatever the source, pictures become features here, once, and the rest of the training
never sees a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.episodes import Episode, episode_files
from genreward_wrappers.data.frames import flat_state
from genreward_wrappers.data.minari import MINARI, load_minari, pictures_of, shapes_of
from genreward_wrappers.data.replay import (
    actions_of,
    observations_of,
    stored_episodes,
    terminated,
)
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.training.forward_backward.data import Trajectory
from genreward_wrappers.training.forward_backward.features import Features


@dataclass(frozen=True)
class Recorded:
    """The trajectories of a data set, and where they come from.

    Attributes:
        trajectories: The trajectories, in features.
        about: Their source, for the provenance of what is trained on them.
    """

    trajectories: list[Trajectory]
    about: Mapping[str, Any]


def load_trajectories(
    source: str,
    features: Features,
    *,
    cache: Path | None = None,
    on_progress: OnProgress = no_progress,
) -> Recorded:
    """Reads a data set.

    Args:
        source: A folder of recorded episodes (``genreward collect``, or a wrapper's
            ``record=``), or "minari:<dataset id>".
        features: The features that pictures are turned into.
        cache: A folder that keeps features for the next time.
        on_progress: Called with the number of episodes that are read, and of all.

    Raises:
        ValueError: There is nothing to read, or no next states.
    """
    if source.startswith(MINARI):
        return from_minari(
            source.removeprefix(MINARI), features, on_progress=on_progress
        )
    folder = Path(source)
    if folder.suffix in (".pkl", ".pickle", ".zip"):
        raise ValueError(
            f"data {source!r}: pickles are never read. Give a replay buffer from "
            "Python: train_fb(goal, from_sb3(model.replay_buffer, features), ...)"
        )
    paths = episode_files(folder)
    if not paths:
        raise ValueError(
            f"data {source!r}: expected a folder of recorded episodes, as `genreward "
            f'collect` writes them, or "{MINARI}<dataset id>"'
            + (": there are none in it" if folder.is_dir() else ": no such folder")
        )
    trajectories, seeds, policies, ids = [], [], set(), set()
    for done, path in enumerate(paths):
        on_progress(done, len(paths))
        episode = Episode.load(path)
        trajectories.append(from_episode(episode, features, cache, str(path)))
        seeds.append(int(episode.info.get("seed", -1)))
        policies.add(str(episode.info.get("policy", "unknown")))
        ids.add(str(episode.info.get("env_id", "")))
    on_progress(len(paths), len(paths))
    known = [seed for seed in seeds if seed >= 0]
    about: dict[str, Any] = {
        "data": f"recorded: {', '.join(sorted(policies))}",
        "env": sorted(ids),
    }
    if known:
        about["seeds"] = [min(known), max(known)]
    return Recorded(trajectories, about)


def from_episode(
    episode: Episode, features: Features, cache: Path | None, name: str
) -> Trajectory:
    """The trajectory of a recorded episode.

    Raises:
        ValueError: It lacks what the features are made of.
    """
    if features.encoder is None:
        if episode.states is None:
            raise ValueError(
                f"{name} holds no states, only pictures: give features of pictures, or "
                "record an environment that shows states (obs=dict)"
            )
        states: NDArray[Any] = episode.states
    else:
        steps = episode.frame_steps
        if len(steps) != len(episode) + 1:
            raise ValueError(
                f"{name} has pictures of {len(steps)} of its {len(episode) + 1} "
                "states: transitions need both neighbours. `genreward collect` keeps "
                "them all; a wrapper keeps those that its reward looks at"
            )
        states = _named(features, episode.frames, cache, name)
    return Trajectory(
        states, episode.actions, episode.terminated, episode.success, name
    )


def from_minari(
    dataset: str, features: Features, *, on_progress: OnProgress = no_progress
) -> Recorded:
    """The trajectories of a Minari dataset.

    Raises:
        ImportError: minari is not installed.
        ValueError: Its observations are neither pictures nor flat states, as asked.
    """
    data = load_minari(dataset)
    total = int(data.total_episodes)
    trajectories = []
    for done, episode in enumerate(data.iterate_episodes()):
        on_progress(done, total)
        name = f"{MINARI}{dataset}, episode {episode.id}"
        states = _states_of(episode.observations, features, name)
        trajectories.append(
            Trajectory(
                states,
                np.asarray(episode.actions),
                bool(episode.terminations[-1]),
                name=name,
            )
        )
    on_progress(total, total)
    return Recorded(trajectories, {"data": f"{MINARI}{dataset}"})


def from_sb3(buffer: Any, features: Features) -> Recorded:
    """The trajectories in a replay buffer of stable-baselines3.

    Args:
        buffer: A `ReplayBuffer` or `DictReplayBuffer` of observations that hold what
            the features are made of.
        features: The features that they are turned into.

    Raises:
        ValueError: It is empty, or its observations hold nothing that fits.
    """
    trajectories = []
    for stored in stored_episodes(buffer):
        seen = observations_of(buffer, stored)
        trajectories.append(
            Trajectory(
                _states_of(seen, features, stored.name),
                actions_of(buffer, stored),
                terminated(buffer, stored),
                name=stored.name,
            )
        )
    return Recorded(trajectories, {"data": "replay buffer"})


def _states_of(observations: Any, features: Features, name: str) -> NDArray[Any]:
    """Features of a trajectory's observations, pictures or flat states."""
    if features.encoder is None:
        states = flat_state(observations, 1)
        if states is None:
            raise ValueError(f"{name}: no flat states in {shapes_of(observations)}")
        return states
    return _named(features, pictures_of(observations, name), None, name)


def _named(
    features: Features, frames: Any, cache: Path | None, name: str
) -> NDArray[Any]:
    try:
        return features.encode_once(frames, cache)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
