"""A peer in use: the same in all hosts, and good enough to train an agent on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from genreward_wrappers import RewardModelWrapper, TapFrames, vector
from genreward_wrappers.core import RewardModel
from genreward_wrappers.sb3 import VecRewardModel
from genreward_wrappers.testing import PointMass


def check_hosts_agree(
    model: RewardModel[Any],
    steps: int,
    check: Callable[[float, bool, dict[str, Any]], None],
) -> list[tuple[list[float], int]]:
    """One environment, several, and stable-baselines3, inside and outside.

    Args:
        model: The reward model.
        steps: How many steps are played, in episodes of 5 and of 8 steps.
        check: Given a reward, whether its episode is over, and its info.

    Returns:
        The rewards of each environment alone, and how many episodes ended.
    """
    horizons = (5, 8)
    makers = [partial(PointMass, size=32, horizon=h) for h in horizons]
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (steps, 2, 2)).astype(np.float32)
    envs = vector.RewardModelWrapper(
        gym.vector.SyncVectorEnv(
            makers, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
        ),
        model,
    )
    envs.reset(seed=3)
    of_vector = np.array([envs.step(action)[1] for action in actions])
    venv = VecRewardModel(DummyVecEnv(makers), model)
    venv.seed(3)
    venv.reset()
    of_sb3 = np.array([venv.step(action)[1] for action in actions])
    found = []
    for row, horizon in enumerate(horizons):
        env = RewardModelWrapper(PointMass(size=32, horizon=horizon), model)
        env.reset(seed=3 + row)
        own, ends = [], 0
        for action in actions[:, row]:
            *_, reward, terminated, truncated, info = env.step(action)
            check(reward, terminated or truncated, info)
            own.append(reward)
            if terminated or truncated:
                ends += 1
                env.reset()
        np.testing.assert_allclose(of_vector[:, row], own, atol=1e-5)
        np.testing.assert_allclose(of_sb3[:, row], own, atol=1e-5)
        found.append((own, ends))
    return found


def check_an_agent_trains(model: RewardModel[Any]) -> None:
    """PPO on states, paid for frames of 32x32, in episodes of 25 steps."""

    def env() -> gym.Env:
        inner = PointMass(size=32, obs="state", horizon=25, render_mode="rgb_array")
        return TapFrames(inner, size=32)

    venv = VecMonitor(VecRewardModel(DummyVecEnv([env] * 2), model))
    agent = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0, device="cpu")
    agent.learn(500)
    returns = [episode["r"] for episode in agent.ep_info_buffer]
    assert len(returns) >= 10
    assert np.isfinite(returns).all()
    assert np.ptp(returns) > 0
