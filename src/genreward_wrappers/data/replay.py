"""The episodes in a replay buffer of stable-baselines3, oldest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, Int64

#: Rows of a buffer that are compared at once.
COMPARED = 256


@dataclass(frozen=True)
class Stored:
    """One episode of one environment, as far as the buffer still holds it.

    Attributes:
        env: The environment.
        rows: (T,) the rows of its steps.
        name: Its name in messages.
        headless: Whether its beginning may have been overwritten.
    """

    env: int
    rows: Int64
    name: str
    headless: bool


def stored_episodes(buffer: Any) -> Iterator[Stored]:
    """The episodes of all environments of a `ReplayBuffer` or `DictReplayBuffer`.

    Raises:
        ValueError: It is empty, or does not know how episodes ended.
    """
    filled = buffer.buffer_size if buffer.full else buffer.pos
    if filled == 0:
        raise ValueError("the replay buffer is empty")
    if getattr(buffer, "optimize_memory_usage", False):
        # Next observations are stored as the observations one row later: at an
        # episode's end that is the next episode's first, and the newest row has none.
        raise ValueError(
            "the replay buffer was made with optimize_memory_usage=True and has "
            "forgotten how episodes ended: make it without"
        )
    # In a full buffer the oldest step is the one that is overwritten next.
    order = (np.arange(filled) + (buffer.pos if buffer.full else 0)) % filled
    for env in range(buffer.n_envs):
        over = buffer.dones[order, env].astype(np.bool_)
        over[:-1] |= _broken(buffer, order, env)
        for i, rows in enumerate(np.split(order, np.flatnonzero(over) + 1)):
            if len(rows):
                name = f"replay buffer, environment {env}, row {rows[0]}"
                yield Stored(env, rows, name, bool(buffer.full) and i == 0)


def _broken(buffer: Any, order: Int64, env: int) -> Bool:
    """(N - 1,) whether a row does not begin where the row before it has ended.

    Another call of `learn` resets the environments in mid-episode.
    """
    found = []
    # Bounded, for observations may be pictures.
    for i in range(0, len(order) - 1, COMPARED):
        rows = order[i : i + COMPARED + 1]
        came = rows_of(buffer.next_observations, rows[:-1], env)
        found.append(~same_rows(came, rows_of(buffer.observations, rows[1:], env)))
    return np.concatenate(found) if found else np.zeros(0, np.bool_)


def observations_of(buffer: Any, stored: Stored) -> Any:
    """(T + 1, ...) the observations of an episode, the last one included."""
    seen = rows_of(buffer.observations, stored.rows, stored.env)
    end = rows_of(buffer.next_observations, stored.rows[-1:], stored.env)
    if isinstance(seen, Mapping):
        return {key: np.concatenate([seen[key], end[key]]) for key in seen}
    return np.concatenate([seen, end])


def rows_of(observations: Any, rows: Any, envs: Any = ...) -> Any:
    """Observations in some rows of a buffer, of one environment, some, or all."""
    if isinstance(observations, Mapping):
        return {key: value[rows, envs] for key, value in observations.items()}
    return observations[rows, envs]


def same_rows(some: Any, others: Any) -> Bool:
    """(N,) whether two batches of observations are the same, row by row."""
    if isinstance(some, Mapping):
        return np.asarray(np.all([same_rows(some[k], others[k]) for k in some], 0))
    one = np.asarray(some)
    other = np.asarray(others).astype(one.dtype).reshape(one.shape)
    # What is not a number is like nothing else, not even itself.
    same = (one == other) | ((one != one) & (other != other))
    return np.asarray(same.reshape(len(one), -1).all(1))


def actions_of(buffer: Any, stored: Stored) -> NDArray[Any]:
    """(T, ...) the actions of an episode, in the environment's form."""
    return unscaled(buffer.actions[stored.rows, stored.env], buffer.action_space)


def unscaled(actions: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    """Actions in the environment's form, from the form that agents store.

    Off-policy agents store indices as a column, and other actions scaled to [-1, 1].
    """
    if isinstance(space, spaces.Discrete):
        return actions.reshape(len(actions)).astype(np.int64)
    if isinstance(space, spaces.Box):
        scaled = space.low + 0.5 * (actions + 1) * (space.high - space.low)
        return np.asarray(scaled, np.float32)
    return np.asarray(actions)


def terminated(buffer: Any, stored: Stored) -> bool:
    """Whether an episode terminated."""
    last, env = stored.rows[-1], stored.env
    return bool(buffer.dones[last, env]) and not bool(buffer.timeouts[last, env])
