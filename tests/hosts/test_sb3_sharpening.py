"""A replay buffer that pays by how good the agent already is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from gymnasium import spaces
from scipy.optimize import brentq
from stable_baselines3 import SAC
from stable_baselines3.common import buffers
from stable_baselines3.common.vec_env import DummyVecEnv

from genreward_wrappers.hosts.sb3_sharpening import STILL, sharpness
from genreward_wrappers.sb3 import SharpeningReplayBuffer, VecRewardModel
from genreward_wrappers.testing import Brightness, PointMass

SPACE = spaces.Box(-1, 1, (1,), np.float32)


def filled(rewards, kind=SharpeningReplayBuffer, size=64, **options):
    """A buffer of one environment that was paid so, in episodes of ten steps."""
    buffer = kind(size, SPACE, SPACE, device="cpu", gamma=0.9, n_steps=3, **options)
    for index, reward in enumerate(rewards):
        here = np.full((1, 1), index, np.float32)
        paid, done = np.array([reward], np.float32), np.array([index % 10 == 9])
        buffer.add(here, here + 1, np.zeros((1, 1), np.float32), paid, done, [{}])
    return buffer


@pytest.mark.parametrize("aim", [STILL, 0.2])
def test_the_exponent_solves_for_the_mean(aim):
    rewards = np.random.default_rng(0).uniform(0.5, 1, (40, 2))
    expected = brentq(lambda e: (rewards**e).mean() - aim, 1, 50)
    assert sharpness(rewards, aim, most=50) == pytest.approx(expected, rel=1e-4)


def test_it_stays_within_its_bounds():
    assert sharpness(np.full(9, 0.2), STILL, most=8) == 1
    assert sharpness(np.full(9, 0.99), STILL, most=8) == 8
    assert sharpness(np.ones(9), STILL, most=8) == 1
    # Nothing is worse than 0, and nothing becomes NaN by it.
    assert 1 < sharpness(np.array([0.0, 0.9, 0.9]), STILL, most=8) < 8


def test_samples_are_paid_as_by_a_buffer_of_sharpened_rewards():
    rewards = np.random.default_rng(1).uniform(0.3, 1, 50)
    ours = filled(rewards, newest=20)
    exponent = sharpness(rewards[-20:].astype(np.float32), STILL, 8)
    assert exponent > 1.2
    plain = filled(rewards**exponent, buffers.NStepReplayBuffer)
    np.random.seed(0)  # noqa: NPY002
    found = ours.sample(200)
    np.random.seed(0)  # noqa: NPY002
    expected = plain.sample(200)
    assert (found.observations == expected.observations).all()
    np.testing.assert_allclose(found.rewards, expected.rewards, rtol=1e-5)
    # What is stored stays as it was paid.
    np.testing.assert_array_equal(ours.rewards[:50, 0], rewards.astype(np.float32))


def test_the_newest_steps_are_found_around_the_end_of_a_full_buffer():
    rewards = np.random.default_rng(2).uniform(0.5, 1, 70).astype(np.float32)
    buffer = filled(rewards, size=64, newest=10)
    buffer.sample(4)
    assert buffer.pos == 6
    assert buffer.exponent == sharpness(rewards[-10:], STILL, 8)


def test_an_agent_learns_from_it():
    venv = DummyVecEnv([partial(PointMass, size=16, horizon=7)] * 2)
    agent = SAC(
        "MlpPolicy", VecRewardModel(venv, Brightness()), learning_starts=10, seed=0,
        buffer_size=100, replay_buffer_class=SharpeningReplayBuffer,
        replay_buffer_kwargs={"newest": 14, "aim": 0.05},
    )  # fmt: skip
    agent.learn(40)
    assert agent.replay_buffer.exponent > 1


@pytest.mark.parametrize("reward", [1.5, -0.1, np.nan])
def test_a_reward_that_is_no_score_is_refused(reward):
    with pytest.raises(ValueError, match=rf"paid {reward:g}, but only scores in \[0"):
        filled([0.5, reward])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"newest": 0}, "newest=0: expected a number of steps"),
        ({"aim": 1.0}, r"aim=1\.0: expected a mean reward between 0 and 1"),
        ({"most": 0.5}, r"most=0\.5: expected an exponent of 1 or more"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        filled([], **option)
