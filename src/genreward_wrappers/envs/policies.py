"""Ways to act that need no learning: scripted, planned, with noise, and at random.

What they play is data: goal videos, test episodes, and what forward-backward nets are
trained on. A policy is made anew for every episode, from the episode's seed, so that
an episode can be played again.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from genreward_wrappers.envs.families import find_family, find_script

Act: TypeAlias = Callable[[Any], Any]
"""From an observation to an action."""

POLICIES = ("random", "still", "scripted", "noisy", "planned")


class Wander:
    """Noise that persists for a while: independent noise averages out to a twitch."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        """Begins at zero.

        Args:
            rng: What it is drawn from.
            size: How many numbers it is.
        """
        self._rng = rng
        self._noise = np.zeros(size)

    def __call__(self) -> NDArray[np.float64]:
        """The next (size,) values, of a standard deviation of about one."""
        self._noise = 0.9 * self._noise + 0.44 * self._rng.normal(size=len(self._noise))
        return self._noise


def make_policy(policy: str, env: Any, env_id: str, seed: int) -> Act:
    """The policy for one episode.

    Args:
        policy: "random"; "still", which does nothing; "scripted" or "noisy", for
            Meta-World; "planned", for dm_control; or "<module>:<function>", a function
            of (env, seed) that gives a function from observations to actions.
        env: The environment.
        env_id: Its id.
        seed: Of the episode.

    Raises:
        ValueError: There is no such policy, or none for this environment.
    """
    rng = np.random.default_rng(seed)
    if policy == "random":
        return random_policy(env.action_space, rng)
    if policy == "still":
        return lambda observation: np.zeros(env.action_space.shape, np.float32)
    if policy == "planned":
        return _planner(env_id)(env, seed)
    if policy in ("scripted", "noisy"):
        script = _scripted(policy, env_id)
        if policy == "scripted":
            return script
        return noisy_policy(script, env.action_space, rng, rng.uniform(0.1, 0.8))
    return _own(policy)(env, seed)


def noisy_policy(
    act: Act, space: spaces.Space[Any], rng: np.random.Generator, strength: float
) -> Act:
    """A policy with noise on its actions, whose bounds are -1 and 1.

    Args:
        act: The policy without noise.
        space: The action space.
        rng: What the noise is drawn from.
        strength: The noise's standard deviation.
    """
    wander = Wander(rng, int(np.prod(space.shape or ())))

    def noisy(observation: Any) -> Any:
        action = act(observation) + strength * wander()
        return np.clip(action, -1, 1).astype(np.float32)

    return noisy


def check_policy(policy: str, env_id: str) -> None:
    """Raises the ValueError that `make_policy` would."""
    if policy in ("scripted", "noisy"):
        _scripted(policy, env_id)
    elif policy == "planned":
        _planner(env_id)
    elif policy != "random":
        _own(policy)


def random_policy(space: spaces.Space[Any], rng: np.random.Generator) -> Act:
    """Actions that wander within their bounds, or are drawn if there are none.

    Args:
        space: The action space.
        rng: What they are drawn from.
    """
    if (
        not isinstance(space, spaces.Box)
        or not np.isfinite([space.low, space.high]).all()
    ):
        space.seed(int(rng.integers(2**31)))
        return lambda observation: space.sample()
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    wander = Wander(rng, int(np.prod(space.shape)))

    def random(observation: Any) -> Any:
        # Wide enough to be at the bounds now and then.
        action = middle + half * 1.5 * wander().reshape(space.shape)
        return np.clip(action, space.low, space.high).astype(space.dtype)

    return random


def _scripted(policy: str, env_id: str) -> Act:
    make_script = find_script(env_id)
    if make_script is None:
        raise ValueError(
            f"policy {policy!r}: {env_id!r} has no scripted policy, only metaworld/... "
            'has; give "random" or one of your own, "<module>:<function>"'
        )
    script = make_script()
    return lambda seen: script(seen["state"] if isinstance(seen, dict) else seen)


def _planner(env_id: str) -> Callable[[Any, int], Act]:
    family = find_family(env_id)
    if family is None or not family.planned:
        raise ValueError(
            f"policy 'planned': {env_id!r} cannot be planned in, only dmc/... and "
            'distracting/... can; give "random" or one of your own, '
            '"<module>:<function>"'
        )
    from genreward_wrappers.envs.planner import Planner

    return Planner


def _own(policy: str) -> Callable[[Any, int], Act]:
    module, colon, name = policy.partition(":")
    if not (module and colon and name):
        raise ValueError(
            f"policy {policy!r}: expected one of {', '.join(map(repr, POLICIES))}, or "
            '"<module>:<function>"'
        )
    try:
        made: Callable[[Any, int], Act] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"policy {policy!r} cannot be loaded: {error}") from error
    return made
