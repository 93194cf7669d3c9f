"""What tests of environments share: seeded episodes, and fresh interpreters."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

NOTHING_CHOSEN = {"MUJOCO_GL": None, "DISPLAY": None, "WAYLAND_DISPLAY": None}


def making(cls: type[gym.Env]) -> Any:
    """A fixture: makes environments that are closed when the test is over."""

    @pytest.fixture
    def make(request):
        def make(*args: Any, **kwargs: Any) -> gym.Env:
            env = cls(*args, **kwargs)
            request.addfinalizer(env.close)
            return env

        return make

    return make


def actions_of(env: gym.Env, seed: int, steps: int) -> np.ndarray:
    """Actions that the seed decides, in the bounds or in [-1, 1]."""
    low = np.maximum(env.action_space.low, -1)
    high = np.minimum(env.action_space.high, 1)
    size = (steps, *env.action_space.shape)
    return np.random.default_rng(seed).uniform(low, high, size).astype(np.float32)


def rollout(env: gym.Env, seed: int, steps: int = 4) -> list[Any]:
    """Observations and rewards of an episode with actions that the seed decides."""
    seen = [env.reset(seed=seed)[0]]
    for action in actions_of(env, seed, steps):
        observation, reward, *_ = env.step(action)
        seen += [observation, reward]
    return seen


def digest(seen: list[Any]) -> str:
    """A fingerprint of a rollout of arrays and numbers."""
    content = b"".join(np.ascontiguousarray(item).tobytes() for item in seen)
    return hashlib.sha256(content).hexdigest()


def run(code: str, **environ: str | None) -> str:
    """Runs code in a fresh interpreter; returns what it printed last."""
    env: dict[str, str] = dict(os.environ)
    for name, value in environ.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    return done.stdout.strip().splitlines()[-1]


def refused(cls: type[gym.Env], kwargs: dict[str, Any], words: list[str]) -> None:
    """A bad argument is quoted, with what would do."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        cls(**kwargs)
    for word in words:
        assert word in str(caught.value)
