"""Runs rewards over recorded episodes, as the wrappers run them over live ones.

The episodes are the rows of a `Session`: what comes out is what a wrapper would have
paid. Several rewards go through the episodes side by side, so that an encoder that they
share sees no frame twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, Float32, Int64, RewardModel, Session
from genreward_wrappers.data.episodes import Episode

Models = Sequence[RewardModel[Any]]
#: (T,) the scores of an episode by the name of their model, NaN where none was due.
Scores = dict[str, Float32]


def wanted_steps(models: Models, horizon: int) -> Int64:
    """The steps whose frames at least one of the models will look at, 0 included."""
    steps = np.arange(1, horizon + 1)
    wanted = np.zeros(horizon, np.bool_)
    for model in models:
        wanted |= model.wants(steps)
    return np.concatenate([[0], steps[wanted]])


def score_episodes(
    model: RewardModel[Any], episodes: Sequence[Episode]
) -> list[Float32]:
    """What a model would have paid in each episode.

    Args:
        model: Any reward model.
        episodes: Of one frame size, with the frames that the model looks at.

    Returns:
        (T,) scores for each episode, NaN at steps where nothing was due.

    Raises:
        ValueError: An episode lacks a frame, or the states, that the model wants.
    """
    (found,) = fold([[model]], episodes)
    return [scores[model.name] for scores in found]


def fold(
    rewards: Sequence[Models],
    episodes: Sequence[Episode],
    seeds: Sequence[int] | None = None,
) -> list[list[Scores]]:
    """What the models of some rewards would have paid in each episode.

    Args:
        rewards: The models of each; those of one reward have different names.
        episodes: As for `score_episodes`.
        seeds: What each episode's reset was seeded with, for models that draw random
            numbers; None counts from 0.

    Returns:
        For each reward, the scores of each episode.

    Raises:
        ValueError: An episode lacks a frame, or the states, that a model wants.
    """
    shapes = {episode.frames.shape[1:] for episode in episodes}
    if len(shapes) > 1:
        raise ValueError(
            f"episodes of one size can be scored together, got {sorted(shapes)}"
        )
    models = [model for own in rewards for model in own]
    for model in models:
        for episode in episodes:
            _check_frames(model, episode)
    states = [_states(models, episode) for episode in episodes]
    count, horizon = len(episodes), max(map(len, episodes))
    lengths = np.array([len(episode) for episode in episodes])
    sessions = [Session(own, count) for own in rewards]
    first = np.stack([episode.frames[0] for episode in episodes])
    for session in sessions:
        begin = _at(states, [0] * count)
        session.begin(first, seed=0 if seeds is None else seeds, states=begin)
    paid: list[dict[str, NDArray[np.float32]]] = [
        {m.name: np.full((count, horizon), np.nan, np.float32) for m in own}
        for own in rewards
    ]
    # Which of an episode's frames is the newest at each step.
    newest = np.stack(
        [
            np.searchsorted(e.frame_steps, np.arange(horizon + 1), "right") - 1
            for e in episodes
        ]
    )
    terminated: Bool = np.array([e.terminated for e in episodes])
    for step in range(1, horizon + 1):
        active: Bool = lengths >= step
        last: Bool = lengths == step
        rows = [min(step, len(e)) - 1 for e in episodes]
        actions = np.stack([e.actions[t] for e, t in zip(episodes, rows, strict=True)])
        frames = np.stack(
            [e.frames[i] for e, i in zip(episodes, newest[:, step], strict=True)]
        )
        after = _at(states, [row + 1 for row in rows])
        for session, table in zip(sessions, paid, strict=True):
            ends = last & terminated, last & ~terminated
            for name, score in session.score(
                actions, frames, *ends, active, after
            ).items():
                table[name][score.due, step - 1] = score.value[score.due]
    return [
        [
            {name: values[i, :length] for name, values in table.items()}
            for i, length in enumerate(lengths)
        ]
        for table in paid
    ]


def _states(models: Models, episode: Episode) -> Float32 | None:
    """(T + 1, S) what the environment said of itself, if a model looks at that."""
    seeing = [model.name for model in models if model.sees_states]
    if not seeing:
        return None
    if episode.states is None:
        raise ValueError(
            f"{seeing[0]!r} looks at the environment's states, and the episode "
            f"{dict(episode.info)} holds none: record it in an environment whose "
            "observations have them"
        )
    return episode.states


def _at(states: Sequence[Float32 | None], steps: Sequence[int]) -> Float32 | None:
    """(N, S) the states of all episodes, each after some steps."""
    there = [
        own[step] for own, step in zip(states, steps, strict=True) if own is not None
    ]
    return np.stack(there) if there else None


def _check_frames(model: RewardModel[Any], episode: Episode) -> None:
    wanted = wanted_steps([model], len(episode))
    missing = np.setdiff1d(wanted, episode.frame_steps)
    if len(missing):
        raise ValueError(
            f"{model!r} looks at {len(wanted)} frames of an episode of {len(episode)} "
            f"steps, and {len(missing)} of them are not there (the first is that of "
            f"step {missing[0]}): the episode {dict(episode.info)} has frames of "
            f"{len(episode.frames)} steps. Record it with the same reward, or give "
            "fewer with length="
        )
