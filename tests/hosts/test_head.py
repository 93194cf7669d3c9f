"""What all hosts do with scores: weights, what is not finite, warnings, snapshots."""

from __future__ import annotations

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

from genreward_wrappers import (
    GenRewardWrapper,
    RewardModelWrapper,
    VideoLevelReward,
    vector,
)
from genreward_wrappers.core import Score
from genreward_wrappers.hosts.head import RewardHead
from genreward_wrappers.rewards.combine import WeightedSum
from genreward_wrappers.rewards.facts import Built, Part
from genreward_wrappers.sb3 import VecRewardModel
from genreward_wrappers.testing import Brightness, PointMass, Traveller

ACTION = np.array([0.5, -0.5], np.float32)


class Dim(Brightness):
    """Brightness by another name, and of another scale."""

    def __init__(self, name="dim", times=1.0):
        self.name, self.times = name, np.float32(times)

    @property
    def identity(self):
        return f"{super().identity} {self.times}"

    def step(self, memory, transition):
        score, memory = super().step(memory, transition)
        return score._replace(value=score.value * self.times), memory


class Broken(Dim):
    """Is not finite at every third step."""

    def step(self, memory, transition):
        score, memory = super().step(memory, transition)
        bad = transition.steps % 3 == 0
        return Score(np.where(bad, np.float32("nan"), score.value), score.due), memory


class Pays(gym.Wrapper):
    """An environment that pays what it is told to."""

    def __init__(self, env, amounts):
        super().__init__(env)
        self.amounts, self.step_number = amounts, 0

    def step(self, action):
        observation, _, *rest = self.env.step(action)
        self.step_number += 1
        amount = self.amounts(self.step_number)
        return observation, amount, *rest


def both(**kwargs):
    model = WeightedSum([(Brightness(), 2.0), (Dim(), 1.0)])
    return RewardModelWrapper(PointMass(size=16), model, **kwargs)


def inside(horizon=50):
    return RewardModelWrapper(PointMass(size=16, horizon=horizon), Traveller())


# Weights


def test_weights_are_an_attribute_that_works():
    env = both(env_weight=0.5)
    assert env.weights == {"env": 0.5, "brightness": 2.0, "dim": 1.0}
    env.reset(seed=0)
    for weights in ({}, {"dim": 3}, {"env": 0, "brightness": -1.5}):
        env.set_weights(**weights)
        _, reward, _, _, info = env.step(ACTION)
        now = env.weights
        assert {k: now[k] for k in weights} == weights
        expected = sum(w * info[f"reward_{name}"] for name, w in now.items())
        assert reward == pytest.approx(expected, rel=1e-12)
        assert {name: info[f"weight_{name}"] for name in now} == now


def test_scheduled_weights_are_functions_of_the_steps():
    env = both()
    env.set_weights(dim=lambda steps: steps / 4, brightness=0)
    env.reset(seed=0)
    infos = []
    for step in range(6):
        _, reward, _, _, info = env.step(ACTION)
        assert reward == pytest.approx(step / 4 * info["reward_dim"], rel=1e-6)
        infos.append(info["weight_dim"])
        env.reset()
    assert infos == [0, 0.25, 0.5, 0.75, 1, 1.25]
    env.set_weights(dim=lambda steps: float("nan"))
    with pytest.raises(ValueError, match="weight of 'dim' is nan"):
        env.step(ACTION)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"video": 1}, "weight for 'video', and the reward has the parts 'brightness'"),
        ({"dim": float("inf")}, "the weight of 'dim' is inf: expected a finite number"),
        ({"dim": "much"}, "'dim' is 'much'"),
        ({"env": "balanced"}, "measured when the wrapper is made: give a number"),
        ({"video": lambda steps: 1}, "weight for 'video'"),
    ],
)
def test_bad_weights_change_nothing(weights, message):
    env = both()
    with pytest.raises(ValueError, match=message):
        env.set_weights(**{"brightness": 7, **weights})
    assert env.weights["brightness"] == 2


@pytest.mark.parametrize("name", ["video_weight", "env_weight", "weights", "weight"])
def test_an_attribute_that_would_change_nothing_is_an_error(name):
    envs = (
        both(),
        vector.RewardModelWrapper(SyncVectorEnv([PointMass]), Traveller()),
        VecRewardModel(DummyVecEnv([PointMass]), Traveller()),
    )
    for env in envs:
        with pytest.raises(AttributeError, match=r"call set_weights\(\w+=5.0\)"):
            setattr(env, name, 5.0)


def test_weights_through_vector_environments():
    """From inside and from outside, in the ways of both libraries."""
    actions = np.stack([ACTION] * 2)
    one = SyncVectorEnv([inside] * 2)
    other = vector.RewardModelWrapper(
        SyncVectorEnv([partial(PointMass, size=16)] * 2), Traveller()
    )
    found = []
    for envs in (one, other):
        envs.reset(seed=3)
        envs.call("set_weights", traveller=0.25, env=2.0)
        _, rewards, _, _, infos = envs.step(actions)
        np.testing.assert_array_equal(infos["weight_env"], [2, 2])
        assert infos["_weight_traveller"].all()
        found.append(rewards)
    np.testing.assert_array_equal(*found)
    outer = VecMonitor(
        VecRewardModel(DummyVecEnv([partial(PointMass, size=16)] * 2), Traveller())
    )
    for venv in (SubprocVecEnv([inside] * 2), outer):
        venv.seed(3)
        venv.reset()
        venv.env_method("set_weights", traveller=0.25, env=2.0)
        _, rewards, _, infos = venv.step(actions)
        np.testing.assert_allclose(rewards, found[0], rtol=1e-6)
        assert [info["weight_traveller"] for info in infos] == [0.25, 0.25]
        venv.close()


# What is not finite


def test_a_part_of_weight_zero_is_left_out():
    never = partial(Pays, PointMass(size=16), lambda step: float("nan"))
    env = RewardModelWrapper(never(), WeightedSum([(Dim(), 1.0), (Broken("b"), 0.0)]))
    env.reset(seed=0)
    rewards = [env.step(ACTION) for _ in range(3)]
    assert all(np.isfinite(row[1]) for row in rewards)
    assert np.isnan(rewards[-1][4]["reward_b"])
    assert np.isnan(rewards[-1][4]["reward_env"])
    env.set_weights(env=1.0)
    with pytest.raises(FloatingPointError, match="environment returned.*weight of 0"):
        env.step(ACTION)


def test_a_part_that_is_not_finite_raises_and_leaves_the_session():
    env = RewardModelWrapper(PointMass(size=16), Broken("b"))
    env.reset(seed=0)
    for _ in range(2):
        env.step(ACTION)
    with pytest.raises(FloatingPointError, match="reward model 'b' returned.*\"hold\""):
        env.step(ACTION)
    assert env.session.steps.tolist() == [2], "as before the step"


def test_a_part_that_is_not_finite_may_be_held():
    model = WeightedSum([(Broken("b"), 1.0)])
    own = PointMass(size=16), lambda step: float("inf") if step == 4 else step
    env = RewardModelWrapper(Pays(*own), model, env_weight=1, nonfinite="hold")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="last finite value is paid") as caught:
        rows = [env.step(ACTION) for _ in range(9)]
    assert len(caught) == 2, "once for each part"
    values = [row[4]["reward_b"] for row in rows]
    assert np.flatnonzero(np.isnan(values)).tolist() == [2, 5, 8]
    for t, (_, reward, *_) in enumerate(rows):
        score = values[t - 1] if t in (2, 5, 8) else values[t]
        assert reward == pytest.approx(score + (3 if t == 3 else t + 1), rel=1e-6)
    with pytest.raises(ValueError, match="nonfinite='ignore': expected one of 'raise'"):
        RewardModelWrapper(PointMass(), Dim(), nonfinite="ignore")


# What is probably not meant


def test_a_part_that_drowns_the_others_is_told_once():
    def play(env_weight, amount):
        env = Pays(PointMass(size=16, horizon=5), lambda step: amount)
        env = RewardModelWrapper(env, Brightness(), env_weight=env_weight)
        for _ in range(8):
            env.reset(seed=0, options={"target": (5, 5)})
            for _ in range(5):
                env.step(ACTION)

    with pytest.warns(UserWarning, match=r"reward_env is 9\d% of.*first 3.*\"balan"):
        play(1.0, 50.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(0.0, 50.0)
        play(0.02, 50.0)


def test_a_time_limit_above_is_noticed(goal):
    def play(env, lengths):
        for length in lengths:
            env.reset(seed=0, options={"target": (5, 5)})
            for _ in range(length):
                env.step(ACTION)

    def wrapped(**kwargs):
        env = PointMass(size=32, horizon=99)
        return VideoLevelReward(env, goal, encoder="pixels", horizon=40, **kwargs)

    above = gym.wrappers.TimeLimit(wrapped(), 10)
    with pytest.warns(UserWarning, match="reset after 10 steps.*over 40.*=10"):
        play(above, [10] * 6)
    short = VideoLevelReward(
        PointMass(size=32, horizon=10), goal, encoder="pixels", horizon=40
    )
    with pytest.warns(UserWarning, match="truncated after 10 steps") as caught:
        play(short, [10] * 4)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(wrapped(), [10, 7, 12, 9])
        play(wrapped(), [40] * 3)
        # A reward that knows no time may be cut anywhere.
        window = {"reading": "window", "window": 4, "length": 3}
        play(gym.wrappers.TimeLimit(wrapped(**window), 10), [10] * 4)


@pytest.mark.parametrize(
    ("around", "expected"),
    [
        (lambda env: env, 256),
        (lambda env: gym.wrappers.TimeLimit(env, 100), 100),
        (lambda env: gym.wrappers.MaxAndSkipObservation(env, 4), 64),
        (lambda env: gym.wrappers.RepeatAction(env, 3), 86),
        (lambda env: gym.wrappers.TimeLimit(gym.wrappers.RepeatAction(env, 4), 50), 50),
        (lambda env: gym.wrappers.RepeatAction(gym.wrappers.TimeLimit(env, 50), 4), 13),
    ],
)
def test_repeated_actions_below_count(around, expected):
    env = around(gym.make("metaworld/pick-place"))
    env = VideoLevelReward(env, encoder="pixels")
    assert env.session.models[0].stretch == expected
    env.close()


class SkipSome(gym.Wrapper):
    """Repeats actions, and does not say how often."""


def test_who_repeats_actions_has_to_say_how_often():
    def make():
        return SkipSome(gym.make("metaworld/pick-place"))

    with pytest.raises(ValueError, match="SkipSome repeats actions.*give that number"):
        VideoLevelReward(make(), encoder="pixels")
    envs = SyncVectorEnv([make])
    with pytest.raises(ValueError, match="SkipSome repeats actions"):
        vector.VideoLevelReward(envs, encoder="pixels")
    env = VideoLevelReward(make(), encoder="pixels", horizon=64)
    assert env.session.models[0].stretch == 64


def test_wrapping_twice_is_an_error():
    twice = "in a RewardModelWrapper already, whose reward .* would throw away"
    with pytest.raises(ValueError, match=twice):
        RewardModelWrapper(gym.wrappers.TimeLimit(both(), 9), Dim())
    envs = SyncVectorEnv([both])
    with pytest.raises(ValueError, match=twice):
        vector.RewardModelWrapper(envs, Dim())
    with pytest.raises(ValueError, match=twice):
        vector.RewardModelWrapper(
            vector.RewardModelWrapper(SyncVectorEnv([PointMass]), Dim()), Dim()
        )
    with pytest.raises(ValueError, match=twice):
        VecRewardModel(DummyVecEnv([both]), Dim())
    with pytest.raises(ValueError, match="in a VecRewardModel already"):
        VecRewardModel(
            VecMonitor(VecRewardModel(DummyVecEnv([PointMass]), Dim())), Dim()
        )


# A balance


def scaled(scale):
    """PointMass with its reward times a number, beside a brightness that varies."""
    env = gym.wrappers.TransformReward(
        PointMass(size=16, horizon=20), lambda reward: scale * reward
    )
    return RewardModelWrapper(env, Traveller(), env_weight="balanced")


def test_a_balanced_weight_brings_both_to_one_scale():
    env, other = scaled(1.0), scaled(1000.0)
    assert env.weights["env"] == pytest.approx(1000 * other.weights["env"], rel=1e-6)
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(ACTION)
    rows = []
    env.action_space.seed(1)
    for episode in range(40):
        env.reset(seed=100 + episode)
        done = False
        while not done:
            _, _, terminated, truncated, info = env.step(env.action_space.sample())
            done = terminated or truncated
            rows.append([info["reward_env"] * info["weight_env"],
                         info["reward_traveller"]])  # fmt: skip
    spread = np.std(rows, axis=0)
    assert spread[0] == pytest.approx(spread[1], rel=0.25)
    # The same again, wherever it is made.
    assert scaled(1.0).weights == env.weights


def test_a_balanced_weight_in_the_other_hosts():
    expected = scaled(1.0).weights["env"]
    for mode in AutoresetMode:
        envs = SyncVectorEnv(
            [partial(PointMass, size=16, horizon=20)] * 2, autoreset_mode=mode
        )
        envs = vector.RewardModelWrapper(envs, Traveller(), env_weight="balanced")
        assert envs.weights["env"] == pytest.approx(expected, rel=0.3)
    venv = DummyVecEnv([partial(PointMass, size=16, horizon=20)] * 2)
    venv.seed(11)
    venv = VecRewardModel(venv, Traveller(), env_weight="balanced")
    assert venv.weights["env"] == pytest.approx(expected, rel=0.3)
    other = DummyVecEnv([partial(PointMass, size=16, horizon=20)] * 2)
    other.seed(11)
    np.testing.assert_array_equal(venv.reset(), other.reset(), "its seeds are its own")


def test_a_constant_has_no_scale():
    env = Pays(PointMass(size=16), lambda step: -1.0)
    with pytest.raises(ValueError, match="environment paid -1 at each of 512 steps"):
        RewardModelWrapper(env, Brightness(), env_weight="balanced")
    with pytest.raises(ValueError, match="goal reward paid 0 at each.*as a number"):
        RewardModelWrapper(PointMass(size=16), Dim(times=0), env_weight="balanced")


def test_the_presets_weights(goal):
    options = {"encoder": "pixels", "horizon": 300, "frame_weight": 0}
    env = GenRewardWrapper(PointMass(size=32), goal, **options)
    assert env.weights == {"env": 0.0, "video": 1.0}
    env = GenRewardWrapper(PointMass(size=32), goal, preset="paper", **options)
    assert env.weights == {"env": 1.0, "video": 0.01}
    env = VideoLevelReward(
        PointMass(size=32), goal, preset="paper", encoder="pixels", horizon=300
    )
    assert env.weights == {"env": 0.0, "video": 0.01}


# Snapshots


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_a_vector_host_comes_back_in_mid_episode(mode):
    def make():
        envs = SyncVectorEnv(
            [partial(PointMass, size=16, horizon=9)] * 3, autoreset_mode=mode
        )
        return vector.RewardModelWrapper(envs, Traveller())

    def go(envs, steps):
        rewards = []
        for _ in range(steps):
            _, reward, terminated, truncated, _ = envs.step(np.stack([ACTION] * 3))
            rewards.append(reward)
            ended = terminated | truncated
            if mode == AutoresetMode.DISABLED and ended.any():
                envs.reset(options={"reset_mask": ended})
        return np.array(rewards)

    # Two environments in the same state: one goes on, the other one comes back.
    one, other = make(), make()
    for envs in (one, other):
        envs.reset(seed=4)
    go(one, 9)
    expected = go(one, 6)
    go(other, 9)
    snapshot = other.snapshot()
    fresh = make()
    fresh.env = other.env
    fresh.restore(snapshot)
    np.testing.assert_array_equal(go(fresh, 6), expected)


def test_a_snapshot_of_another_reward_is_refused(goal):
    def make(bundle=goal, **options):
        env = PointMass(size=32)
        return VideoLevelReward(
            env, bundle, **{"encoder": "pixels", "horizon": 50, **options}
        )

    env = make()
    env.reset(seed=0)
    snapshot = env.snapshot()
    make().restore(snapshot)
    changed = goal.with_(videos=goal.videos[::-1].copy())
    for other in (
        make(changed),
        make(encoder="pixels:4"),
        make(score="motion"),
        make(horizon=49),
    ):
        with pytest.raises(ValueError, match="the snapshot belongs to the models"):
            other.restore(snapshot)
    envs = SyncVectorEnv([partial(PointMass, size=32)] * 2)
    envs = vector.VideoLevelReward(envs, goal, encoder="pixels", horizon=50)
    with pytest.raises(ValueError, match="1 environments does not fit.*of 2"):
        envs.restore(snapshot)


def test_a_head_alone():
    """No environment is needed for what all hosts do."""
    head = RewardHead(Built((Part(Brightness(), 2.0),), 0.5), 2)
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    head.begin(frames, seed=0)
    no = np.zeros(2, bool)
    paid = head.pay(np.zeros(2), frames + 255, np.array([1.0, 4.0]), no, no)
    assert paid.rewards.tolist() == [2.5, 4.0]
    assert paid.infos["reward_brightness"].tolist() == [1, 1]
    assert paid.infos["weight_env"].tolist() == [0.5, 0.5]


def test_a_row_in_which_nothing_happened_is_paid_nothing():
    """Whatever a vector environment says of a row that it has just reset."""
    head = RewardHead(Built((Part(Brightness(), 2.0),), 0.5), 2)
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    head.begin(frames, seed=0)
    no, active = np.zeros(2, bool), np.array([True, False])
    paid = head.pay(
        np.zeros(2), frames + 255, np.array([1.0, 4.0]), no, no, active=active
    )
    assert paid.rewards.tolist() == [2.5, 0.0]
    assert paid.infos["reward_env"].tolist() == [1, 0]
    assert paid.infos["reward_brightness_due"].tolist() == [True, False]
