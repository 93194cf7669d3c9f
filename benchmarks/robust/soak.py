"""Every host for many steps: what memory it has taken in the second half of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv

from genreward_wrappers import GoalBundle, VideoLevelReward, vector
from genreward_wrappers.testing import PointMass

SIZE, HORIZON = 16, 25


def soak(steps: int) -> Iterator[dict[str, Any]]:
    """A row for each host; needs psutil."""
    import psutil

    process = psutil.Process()
    for name, make in _hosts().items():
        step = make()
        middle = 0.0
        for i in range(steps):
            step(i)
            if i == steps // 2:
                gc.collect()
                middle = process.memory_info().rss
        gc.collect()
        more = (process.memory_info().rss - middle) / 2**20
        told = {"host": name, "steps": steps, "environments": 1 + (name != "single")}
        yield {**told, "MiB in the second half": round(more, 1)}


def _step(host: Any, actions: Any, number: int) -> None:
    host.step(actions)


def _hosts() -> dict[str, Callable[[], Callable[[int], None]]]:
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (1, 9, SIZE, SIZE, 3)).astype(np.uint8)
    goal = GoalBundle(videos)
    env = partial(PointMass, size=SIZE, horizon=HORIZON)
    options: dict[str, Any] = {
        "encoder": "pixels", "horizon": HORIZON, "reading": "stream", "payment": "hold",
    }  # fmt: skip

    def single() -> Callable[[int], None]:
        host = VideoLevelReward(env(), goal, **options)
        host.reset(seed=0)
        action = np.ones(2, np.float32)

        def step(_: int) -> None:
            *_rest, ended, cut, _info = host.step(action)
            if ended or cut:
                host.reset()

        return step

    def several() -> Callable[[int], None]:
        host = vector.VideoLevelReward(SyncVectorEnv([env] * 2), goal, **options)
        host.reset(seed=0)
        actions = np.ones((2, 2), np.float32)
        return partial(_step, host, actions)

    def sb3() -> Callable[[int], None]:
        from stable_baselines3.common.vec_env import DummyVecEnv

        from genreward_wrappers.sb3 import VecVideoLevelReward

        host = VecVideoLevelReward(DummyVecEnv([env] * 2), goal, **options)
        host.reset()
        actions = np.ones((2, 2), np.float32)
        return partial(_step, host, actions)

    return {"single": single, "vector": several, "stable-baselines3": sb3}
