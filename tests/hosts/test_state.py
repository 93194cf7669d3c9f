"""Rewards in mid-episode as files: what is saved comes back, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from genreward_wrappers import RewardModelWrapper, VideoLevelReward, vector
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.trees import flatten, rebuild
from genreward_wrappers.rewards.combine import WeightedSum
from genreward_wrappers.rewards.decorators import Difference, EveryK, RunningNormalised
from genreward_wrappers.rewards.exploration import RND
from genreward_wrappers.rewards.video_level import VideoLevel
from genreward_wrappers.sb3 import VecRewardModel
from genreward_wrappers.testing import Brightness, PointMass, Traveller

ACTION = np.array([0.3, -0.2], np.float32)


def model(goal):
    """Memories of every kind: streams, nets, statistics, old frames, seeds."""
    video = VideoLevel(goal, "pixels", horizon=40, reading="stream")
    window = VideoLevel(goal, "pixels", reading="window", window=4, length=3)
    window.name = "window"
    parts = [RunningNormalised(video), window, RND(grid=4, device="cpu")]
    parts += [Difference(Traveller()), EveryK(Brightness(), 3)]
    return WeightedSum([(part, 1.0) for part in parts])


def single(reward, **kwargs):
    return RewardModelWrapper(PointMass(32), reward, **kwargs)


def several(reward, **kwargs):
    envs = SyncVectorEnv([partial(PointMass, 32)] * 2)
    return vector.RewardModelWrapper(envs, reward, **kwargs)


def sb3(reward, **kwargs):
    return VecRewardModel(DummyVecEnv([partial(PointMass, 32)] * 2), reward, **kwargs)


def envs_of(host):
    return [env.unwrapped for env in getattr(host.unwrapped, "envs", [host])]


def paid(host, steps):
    rows = len(envs_of(host))
    action = (
        ACTION if isinstance(host, RewardModelWrapper) else np.stack([ACTION] * rows)
    )
    return np.array([host.step(action)[1] for _ in range(steps)])


@pytest.mark.parametrize("make", [single, several, sb3])
def test_a_host_resumes_from_a_file(make, goal, tmp_path):
    file = tmp_path / "state.safetensors"
    one, other = make(model(goal)), make(model(goal))
    one.reset()
    for env in envs_of(one):
        # Out of reach, so that no episode happens to end where the run is stopped.
        env.target = np.array([5.0, 5.0])
    paid(one, 11)
    own = [
        (env.position, env.target, env._step, env.np_random.bit_generator.state)
        for env in envs_of(one)
    ]
    one.save_state(file, own)
    expected = paid(one, 14)
    other.reset()
    paid(other, 2)
    for env, saved in zip(envs_of(other), other.load_state(file), strict=True):
        env.position, env.target, env._step, random = saved
        env.np_random.bit_generator.state = random
    np.testing.assert_array_equal(paid(other, 14), expected)
    assert len(np.unique(expected)) > 10, "there was something to remember"


def test_what_is_held_and_how_many_steps_were_paid_come_back(tmp_path):
    class Fails(Traveller):
        def step(self, memory, transition):
            score, memory = super().step(memory, transition)
            bad = transition.steps > 5
            return score._replace(value=np.where(bad, np.nan, score.value)), memory

    one, other = (single(Fails(), nonfinite="hold") for _ in range(2))
    for env in (one, other):
        env.set_weights(traveller=float)
        env.reset(seed=0)
    paid(one, 5)
    one.save_state(tmp_path / "state.safetensors")
    assert other.load_state(tmp_path / "state.safetensors") is None
    with pytest.warns(UserWarning, match="last finite value"):
        expected = paid(one, 2)
    with pytest.warns(UserWarning, match="last finite value"):
        np.testing.assert_array_equal(paid(other, 2), expected)
    assert expected[0] != 0


def test_the_state_of_another_reward_is_refused(goal, tmp_path):
    file = tmp_path / "state.safetensors"

    def make(bundle=goal, size=32, **options):
        options = {"encoder": "pixels", "horizon": 50, **options}
        return VideoLevelReward(PointMass(size), bundle, **options)

    env = make()
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.save_state(file)
    env.reset(seed=0)
    env.save_state(file)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        make().load_state(file)
    changed = goal.with_(videos=goal.videos[::-1].copy())
    several_rows = several(VideoLevel(goal, "pixels", horizon=50))
    for other, message in (
        (make(changed), "is the state of the models"),
        (make(encoder="pixels:4"), "is the state of the models"),
        (make(score="motion"), "is the state of the models"),
        (several_rows, "of 1 environments, and this wrapper has 2"),
        (make(size=48), r"'frames' is \(1, 32, 32, 3\), and here it is \(1, 48, 48, 3"),
    ):
        other.reset()
        before = other.snapshot()
        with pytest.raises(ValueError, match=message):
            other.load_state(file)
        assert other.snapshot().session is before.session
    goal.save(file)
    with pytest.raises(ValueError, match="no reward state"):
        env.load_state(file)


def test_classes_of_the_users_are_refused_when_they_are_saved(tmp_path):
    env = single(Brightness())
    env.reset()
    for own in (Pair(1), {"a": Named(1, 2)}):
        with pytest.raises(TypeError, match=r"/env.* cannot be stored"):
            env.save_state(tmp_path / "state.safetensors", own)
    assert not list(tmp_path.iterdir())


def test_an_episode_whose_beginning_was_not_seen_is_not_recorded(tmp_path):
    file = tmp_path / "state.safetensors"
    env = RewardModelWrapper(
        PointMass(32, horizon=6), Traveller(), record=tmp_path / "episodes"
    )
    env.reset(seed=0, options={"target": (5, 5)})
    paid(env, 2)
    env.save_state(file)
    env.load_state(file)
    paid(env, 4)
    env.reset(options={"target": (5, 5)})
    paid(env, 6)
    (written,) = (tmp_path / "episodes").glob("episode-*")
    assert len(Episode.load(written).actions) == 6


# Trees


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any = None


class Named(NamedTuple):
    first: Any
    second: Any


def test_trees_come_back_as_they_were():
    tree = {
        "pair": Pair(Named(np.arange(3), 2.5), [None, True, "text"]),
        "numbers": (1 << 100, float("nan"), np.float32(1.5), np.uint64(2**63)),
        "tensors": [torch.ones(2, dtype=torch.bfloat16), torch.tensor(3), ()],
    }
    again = rebuild(*flatten(tree), like=tree)
    assert isinstance(again["pair"].left, Named)
    assert isinstance(again["numbers"][2], np.float32)
    assert again["tensors"][0].dtype == torch.bfloat16
    assert repr(again) == repr(tree)


@pytest.mark.parametrize(
    "tree", [object(), {1: 2}, {"a/b": 1}, np.array(["a"]), np.zeros(1, complex), Pair]
)
def test_what_cannot_be_stored_is_refused(tree):
    with pytest.raises(TypeError, match="cannot be stored"):
        flatten(("fine", tree))


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ({"fields": {"left": None}}, r"fields \['left'\], and here it is Pair"),
        ({"fields": {"left": {"fields": {}}, "right": None}}, "here it is ndarray"),
        ({"fields": {"left": "tensor", "right": None}}, "left is tensor"),
        ({"fields": {"left": "array", "right": "array"}}, "no tensor '/right'"),
        ({"fields": {"left": None, "right": None}}, r"\['/left'\] have no place"),
        ({"fields": {"left": "bits of load", "right": None}}, "no 'bits of load'"),
        ({"fields": {"left": {"is": [1]}, "right": None}}, "no part of a tree"),
        ({"class": {"left": None}}, "no part of a tree"),
        ({"dict": {"left": "array"}}, "here it is Pair"),
        ([], "no part of a tree"),
    ],
)
def test_an_outline_that_does_not_fit_is_refused(outline, message):
    like = Pair(np.zeros((2, 3)))
    tensors = {"/left": np.zeros((2, 4))}
    assert rebuild({"fields": {"left": "array", "right": None}}, tensors, like)
    with pytest.raises(ValueError, match=message):
        rebuild(outline, tensors, like)
