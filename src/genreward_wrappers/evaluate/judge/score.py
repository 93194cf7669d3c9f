"""Runs reward models over recorded episodes, as the wrappers run them over live ones.

The episodes are the rows of one `Session`: what comes out is what a wrapper would have
paid, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genreward_wrappers.core import Bool, Float32, Int64, RewardModel, Session
from genreward_wrappers.data.episodes import Episode


def wanted_steps(models: Sequence[RewardModel[Any]], horizon: int) -> Int64:
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
    shapes = {episode.frames.shape[1:] for episode in episodes}
    if len(shapes) > 1:
        raise ValueError(
            f"episodes of one size can be scored together, got {sorted(shapes)}"
        )
    for episode in episodes:
        _check_frames(model, episode)
    states = [_states(model, episode) for episode in episodes]
    count, horizon = len(episodes), max(map(len, episodes))
    lengths = np.array([len(episode) for episode in episodes])
    session = Session([model], count)
    first = np.stack([episode.frames[0] for episode in episodes])
    session.begin(first, seed=0, states=_at(states, [0] * count))
    paid = np.full((count, horizon), np.nan, np.float32)
    # Which of an episode's frames is the newest at each step.
    newest = np.stack(
        [
            np.searchsorted(e.frame_steps, np.arange(horizon + 1), "right") - 1
            for e in episodes
        ]
    )
    for step in range(1, horizon + 1):
        active: Bool = lengths >= step
        last: Bool = lengths == step
        rows = [min(step, len(e)) - 1 for e in episodes]
        score = session.score(
            np.stack([e.actions[t] for e, t in zip(episodes, rows, strict=True)]),
            np.stack(
                [e.frames[i] for e, i in zip(episodes, newest[:, step], strict=True)]
            ),
            last & np.array([e.terminated for e in episodes]),
            last & np.array([not e.terminated for e in episodes]),
            active,
            _at(states, [row + 1 for row in rows]),
        )[model.name]
        paid[score.due, step - 1] = score.value[score.due]
    return [paid[i, : len(episode)] for i, episode in enumerate(episodes)]


def _states(model: RewardModel[Any], episode: Episode) -> Float32 | None:
    """(T + 1, S) what the environment said of itself, if the model looks at that."""
    if not model.sees_states:
        return None
    if episode.states is None:
        raise ValueError(
            f"{model.name!r} looks at the environment's states, and the episode "
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
