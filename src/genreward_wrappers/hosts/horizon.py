"""The number of steps of an episode, as seen by the reward."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from genreward_wrappers.checks import at_least

#: The attributes in which wrappers keep how often they repeat an action.
REPEATS = ("frame_skip", "_frame_skip", "_skip", "num_repeats", "_num_repeats")


def known_horizon(
    horizon: int | None, env: gym.Env[Any, Any] | None, spec: EnvSpec | None
) -> int | None:
    """The number of steps of an episode: the user's, or that of the time limits.

    Args:
        horizon: The number that the user gave, if any.
        env: The environment; None where it lives in another process.
        spec: The environment's spec, if it has one.

    Raises:
        ValueError: Actions are repeated below, and nobody knows how often.
    """
    if horizon is not None:
        at_least(1, horizon=horizon)
        return int(horizon)
    if env is None:
        return _from_spec(spec)
    limits, repeats = [], 1
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            limits.append(-(-env._max_episode_steps // repeats))
        repeats *= _repeats(env)
        env = env.env
    if not limits and spec is not None and spec.max_episode_steps:
        limits.append(-(-spec.max_episode_steps // repeats))
    return min(limits, default=None)


def _repeats(wrapper: gym.Wrapper[Any, Any, Any, Any]) -> int:
    """How many steps of the inner environment one step of a wrapper takes."""
    name, own = type(wrapper).__name__, vars(wrapper)
    # Others count something else in attributes of these names.
    for where in REPEATS if _looks_repeating(name) else REPEATS[:2]:
        if isinstance(own.get(where), int):
            return int(own[where])
    if _looks_repeating(name):
        raise ValueError(_unknown(name))
    return 1


def _from_spec(spec: EnvSpec | None) -> int | None:
    """The limit in a spec, unless a wrapper in it repeats actions."""
    if spec is None:
        return None
    for wrapper in spec.additional_wrappers:
        if _looks_repeating(wrapper.name):
            raise ValueError(_unknown(wrapper.name))
    return spec.max_episode_steps


def _looks_repeating(name: str) -> bool:
    return re.search("skip|repeat|AtariPre", name, re.IGNORECASE) is not None


def _unknown(name: str) -> str:
    return (
        f"{name} repeats actions below the reward, so the environment's time limit is "
        "not the number of steps that the reward sees: give that number as horizon="
    )
