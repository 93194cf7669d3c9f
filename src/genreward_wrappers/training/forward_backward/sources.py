"""Trajectories from what a user has: recorded episodes, Minari, a replay buffer.

Whatever the source, pictures become features here, once, and the rest of the training
never sees a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.extras import require
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.training.forward_backward.data import Trajectory
from genreward_wrappers.training.forward_backward.features import Features

MINARI = "minari:"


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
    paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    # The folder also has the goal that the episodes were rewarded for.
    paths = [path for path in paths if path.name != "goal.safetensors"]
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


def load_minari(dataset: str) -> Any:
    """A Minari dataset.

    Raises:
        ImportError: minari is not installed.
    """
    minari = require("minari", '"minari[hdf5]"', "Minari datasets need minari")
    return minari.load_dataset(dataset)


def from_sb3(buffer: Any, features: Features) -> Recorded:
    """The trajectories in a replay buffer of stable-baselines3.

    Args:
        buffer: A `ReplayBuffer` or `DictReplayBuffer` of observations that hold what
            the features are made of.
        features: The features that they are turned into.

    Raises:
        ValueError: It is empty, or its observations hold nothing that fits.
    """
    filled = buffer.buffer_size if buffer.full else buffer.pos
    if filled == 0:
        raise ValueError("the replay buffer is empty: nothing to train on")
    # In a full buffer the oldest step is the one that is overwritten next.
    order = (np.arange(filled) + (buffer.pos if buffer.full else 0)) % filled
    trajectories = []
    for env in range(buffer.n_envs):
        for steps in _episodes(buffer, order, env):
            name = f"replay buffer, environment {env}, row {steps[0]}"
            last = steps[-1]
            seen = _rows(buffer.observations, steps, env)
            end = _rows(_after(buffer), np.array([last]), env)
            done = bool(buffer.dones[last, env])
            trajectories.append(
                Trajectory(
                    _states_of(_join(seen, end), features, name),
                    _actions(buffer, steps, env),
                    done and not bool(buffer.timeouts[last, env]),
                    name=name,
                )
            )
    return Recorded(trajectories, {"data": "replay buffer"})


def _episodes(buffer: Any, order: NDArray[Any], env: int) -> Iterator[NDArray[Any]]:
    """The rows of each episode of one environment, in their order."""
    ends = np.flatnonzero(buffer.dones[order, env]) + 1
    for steps in np.split(order, ends):
        if len(steps):
            yield steps


def _after(buffer: Any) -> Any:
    """The next observations, wherever the buffer keeps them."""
    if getattr(buffer, "optimize_memory_usage", False):
        # They are the observations one row later, and those of the newest row are
        # not there: the next observation of an episode's end is the next episode's.
        raise ValueError(
            "the replay buffer was made with optimize_memory_usage=True and has "
            "forgotten how episodes ended: make it without"
        )
    return buffer.next_observations


def _rows(observations: Any, rows: NDArray[Any], env: int) -> Any:
    if isinstance(observations, Mapping):
        return {key: value[rows, env] for key, value in observations.items()}
    return observations[rows, env]


def _join(first: Any, last: Any) -> Any:
    if isinstance(first, Mapping):
        return {key: np.concatenate([first[key], last[key]]) for key in first}
    return np.concatenate([first, last])


def _actions(buffer: Any, rows: NDArray[Any], env: int) -> NDArray[Any]:
    actions: NDArray[Any] = np.asarray(buffer.actions[rows, env])
    space = buffer.action_space
    # Off-policy agents keep indices as a column, and others scaled to [-1, 1].
    if isinstance(space, spaces.Discrete):
        return actions.reshape(len(actions)).astype(np.int64)
    if isinstance(space, spaces.Box):
        scaled = space.low + 0.5 * (actions + 1) * (space.high - space.low)
        return np.asarray(scaled, np.float32)
    return actions


def _states_of(observations: Any, features: Features, name: str) -> NDArray[Any]:
    """Features of a trajectory's observations, pictures or flat states."""
    if features.encoder is None:
        parts = _parts(observations)
        flat = [v for v in parts.values() if v.ndim == 2 and v.dtype.kind == "f"]
        if not flat:
            raise ValueError(f"{name}: no flat states in {_shapes(parts)}")
        return np.concatenate(flat, 1).astype(np.float32)
    return _named(features, pictures_of(observations, name), None, name)


def pictures_of(observations: Any, name: str) -> UInt8:
    """(n, H, W, 3) the only pictures among a trajectory's observations.

    Args:
        observations: An array, or several arrays by name.
        name: The name of the trajectory, for messages.

    Raises:
        ValueError: There are none, or several.
    """
    parts = _parts(observations)
    pictures = [found for v in parts.values() if (found := _pictures(v)) is not None]
    if len(pictures) != 1:
        raise ValueError(
            f"{name}: expected one entry of uint8 RGB pictures, found "
            f"{len(pictures)} in {_shapes(parts)}"
        )
    return pictures[0]


def _parts(observations: Any) -> dict[str, NDArray[Any]]:
    parts = observations if isinstance(observations, Mapping) else {"": observations}
    return {key: np.asarray(v) for key, v in parts.items()}


def _pictures(values: NDArray[Any]) -> NDArray[np.uint8] | None:
    """(n, H, W, 3), whichever axis the channels are on; None for other arrays."""
    if values.dtype != np.uint8 or values.ndim != 4:
        return None
    if values.shape[-1] == 3:
        return values
    # stable-baselines3 moves channels to the front.
    return np.moveaxis(values, 1, -1) if values.shape[1] == 3 else None


def _shapes(parts: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(
        f"{key or 'the observation'}: {v.dtype} {v.shape[1:]}"
        for key, v in parts.items()
    )


def _named(
    features: Features, frames: Any, cache: Path | None, name: str
) -> NDArray[Any]:
    try:
        return features.encode_once(frames, cache)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
