"""The controllers that training episodes of dm_control are played by."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dm_control")
pytest.importorskip("scipy")

import gymnasium as gym

from scripts.models.controllers import point, swing_up


@pytest.mark.parametrize(
    ("env_id", "policy", "by"),
    [("dmc/cartpole-swingup", swing_up, 400), ("dmc/reacher-easy", point, 150)],
)
@pytest.mark.parametrize("seed", range(3))
def test_they_do_the_task_and_keep_it_done(env_id, policy, by, seed):
    env = gym.make(env_id, obs="state")
    observation, _ = env.reset(seed=seed)
    act = policy(env, seed)
    rewards = []
    for _ in range(1000):
        observation, reward, *_ = env.step(act(observation))
        rewards.append(reward)
    env.close()
    # Both tasks pay at most 1 a step; cartpole's, less while the cart comes back.
    assert np.mean(rewards[by:]) > 0.7
    assert np.mean(rewards[-100:]) > 0.95


def test_no_two_seeds_swing_alike():
    env = gym.make("dmc/cartpole-swingup", obs="state")
    played = []
    for seed in (0, 1):
        observation, _ = env.reset(seed=0)
        act = swing_up(env, seed)
        for _ in range(30):
            observation, *_ = env.step(act(observation))
        played.append(observation)
    env.close()
    assert np.abs(played[0] - played[1]).max() > 1e-2
