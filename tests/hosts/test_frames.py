"""Frames that are missing or change in mid-episode are errors, whatever the host."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from genreward_wrappers import RewardModelWrapper, VideoLevelReward, vector
from genreward_wrappers.sb3 import VecRewardModel
from genreward_wrappers.testing import PointMass, Traveller

ACTION = np.zeros(2, np.float32)

#: What an environment shows in the place of its frame, and what is said of it.
SPOILED = {
    "none": (lambda frame: None, (TypeError, "got NoneType")),
    "list": (lambda frame: frame.tolist(), (TypeError, "got list")),
    "size": (lambda frame: frame[:1], (ValueError, r"uint8 \(32, 32, 3\).*\(1, 32")),
    "type": (lambda frame: frame / 255, (ValueError, r"uint8 .*float64 \(32, 32, 3")),
}
spoiled = pytest.mark.parametrize(("spoil", "error"), SPOILED.values(), ids=SPOILED)


class Spoiled(gym.Wrapper):
    """Spoils the frames of some steps, counted over all episodes."""

    def __init__(self, spoil, at, where="obs", horizon=50):
        super().__init__(PointMass(32, horizon=horizon, render_mode="rgb_array"))
        self.spoil, self.at, self.where, self.count = spoil, at, where, 0

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return observation, {**info, "frame": observation}

    def step(self, action):
        observation, *rest, info = self.env.step(action)
        self.count += 1
        frame = self.spoil(observation) if self.count == self.at else observation
        observation = frame if self.where == "obs" else observation
        return observation, *rest, {**info, "frame": frame}

    def render(self):
        frame = self.env.render()
        return self.spoil(frame) if self.count == self.at else frame


@spoiled
@pytest.mark.parametrize("frames", ["obs", "info:frame", "render"])
def test_a_single_environment(spoil, error, frames):
    env = Spoiled(spoil, at=3)
    env = RewardModelWrapper(env, Traveller(), frames=frames)
    env.reset(seed=0)
    for _ in range(2):
        env.step(ACTION)
    if frames == "info:frame" and error[1] == "got NoneType":
        error = (KeyError, "frame of step 3")
    with pytest.raises(error[0], match=error[1]):
        env.step(ACTION)
    assert env.session.steps == 2, "as before the step"


@spoiled
def test_an_observation_that_no_reward_looks_at(goal, spoil, error):
    """The frame before must not stand in for it at a later step."""
    env = Spoiled(spoil, at=2)
    env = VideoLevelReward(env, goal, encoder="pixels:4", horizon=50, length=6)
    env.reset(seed=0)
    env.step(ACTION)
    assert not env.session.wanted
    with pytest.raises(error[0], match=error[1]):
        env.step(ACTION)


@spoiled
@pytest.mark.parametrize("where", ["running", "ended"])
def test_one_row_of_many_in_stable_baselines3(spoil, error, where):
    """A smaller frame is not stretched over the row's place, nor a float one cut."""
    horizon, frames = (3, "obs") if where == "ended" else (50, "info:frame")
    make = partial(Spoiled, spoil, where="obs" if where == "ended" else "info")
    venv = DummyVecEnv([partial(make, -1), partial(make, 3, horizon=horizon)])
    venv = VecRewardModel(venv, Traveller(), frames=frames)
    venv.seed(0)  # Nothing is at its target from the beginning.
    venv.reset()
    for _ in range(2):
        venv.step(np.stack([ACTION] * 2))
    if where == "running" and error[1] == "got NoneType":
        error = (KeyError, "frame of step 3")
    with pytest.raises(error[0], match=error[1]):
        venv.step(np.stack([ACTION] * 2))


@spoiled
def test_the_last_frame_of_a_row_under_same_step(spoil, error):
    envs = SyncVectorEnv(
        [partial(Spoiled, spoil, 3, horizon=3)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    envs = vector.RewardModelWrapper(envs, Traveller())
    envs.reset(seed=0)
    for _ in range(2):
        envs.step(ACTION[None])
    with pytest.raises(error[0], match=error[1]):
        envs.step(ACTION[None])
