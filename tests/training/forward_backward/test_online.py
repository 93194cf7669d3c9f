"""Nets that are trained while the agent learns, on what the agent does."""

from __future__ import annotations

import dataclasses
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from genreward_wrappers import GoalBundle
from genreward_wrappers.core import Session
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.rewards.frame_level import FrameLevel
from genreward_wrappers.sb3 import (
    FBCallback,
    RelabelReplayBuffer,
    VecGenReward,
    VecRewardModel,
)
from genreward_wrappers.testing import Brightness, PointMass
from genreward_wrappers.training.forward_backward.data import Trajectory, Transitions
from genreward_wrappers.training.forward_backward.features import Features
from genreward_wrappers.training.forward_backward.nets import FBConfig
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.train import FBTrainer

sb3 = pytest.importorskip("stable_baselines3")

SIZE = 16
PIXELS = PooledPixels((SIZE, SIZE), 8, device="cpu")
CONFIG = FBConfig(192, 2, z=8, hidden=16, backward_hidden=16, discount=0.9)


@pytest.fixture
def point_goal():
    env = PointMass(size=SIZE)
    frames = []
    for share in np.linspace(0, 1, 9):
        env.reset(options={"position": share * np.ones(2) / 2, "target": (5.0, 5.0)})
        frames.append(env.render())
    return GoalBundle(np.stack(frames)[None], encoder=encoder_card(PIXELS))


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        # So short a training leaves the nets dead, which they say; toys are small.
        warnings.simplefilter("ignore", UserWarning)
        yield


class Watch(sb3.common.callbacks.BaseCallback):
    """Keeps what was paid, and what happened."""

    def __init__(self):
        super().__init__()
        self.infos, self.happened, self.rewards = [], [], []

    def _on_step(self):
        self.infos.append([dict(info) for info in self.locals["infos"]])
        self.rewards.append(np.array(self.locals["rewards"]))
        host = self.training_env
        while not hasattr(host, "session"):
            host = host.venv
        self.happened.append(host.session.last)
        return True


def environments(goal=None, count=2, obs="dict"):
    from stable_baselines3.common.vec_env import DummyVecEnv

    def make():
        return TimeLimit(PointMass(size=SIZE, obs=obs, speed=0.3), 7)

    venv = DummyVecEnv([make] * count)
    if goal is None:
        return VecRewardModel(venv, Brightness(), weight=0.0)
    return VecGenReward(
        venv, goal, frame_weight=0, video_weight=0.0, env_weight=0.25, horizon=7
    )


def agent(venv, kind="SAC", **more):
    options = {"learning_starts": 10**6} if kind == "SAC" else {"n_steps": 16}
    options |= more
    make = getattr(sb3, kind)
    extractor = {"features_extractor_kwargs": {"cnn_output_dim": 8}, "net_arch": [8]}
    if SIZE < 36:
        extractor = {"features_extractor_class": Flat, "net_arch": [8]}
    return make(
        "MultiInputPolicy",
        venv,
        policy_kwargs=extractor,
        device="cpu",
        seed=0,
        **options,
    )


class Flat(sb3.common.torch_layers.BaseFeaturesExtractor):
    """Only the state: the pictures here are too small for a CNN."""

    def __init__(self, space):
        super().__init__(space, 4)

    def forward(self, observations):
        return observations["state"]


def callback(goal, **options):
    trainer = FBTrainer(CONFIG, FBTraining(batch=16), device="cpu")
    given = {"every": 20, "updates": 3, "weight": 0.5, **options}
    return FBCallback(trainer, goal, Features(PIXELS, 1), **given)


@pytest.mark.parametrize("kind", ["SAC", "PPO"])
@pytest.mark.parametrize("given", [True, False], ids=["gen reward", "another reward"])
def test_the_reward_is_refreshed_and_says_so(point_goal, kind, given):
    if kind == "PPO" and not given:
        pytest.skip("the same as the others")
    online, watch = callback(point_goal), Watch()
    agent(environments(point_goal if given else None), kind).learn(64, [online, watch])
    assert online.version == 3
    versions = [info[0]["reward_frame_version"] for info in watch.infos]
    # Ten steps of two environments each; paid from the step after.
    assert versions[:10] == [0] * 10
    assert versions[10:20] == [1] * 10
    assert versions[-1] == 3
    due = [info[1]["reward_frame_due"] for info in watch.infos]
    assert not any(due[:10])
    assert all(due[10:])
    paid = [info[1]["reward_frame"] for info in watch.infos]
    assert paid[:10] == [0.0] * 10
    assert np.std(paid[10:]) > 0
    assert online.trainer.step == 9
    assert online.bundle.provenance[-1]["version"] == 3
    assert online.bundle.nets


def test_kept_steps_are_paid_by_the_newest_nets(point_goal):
    online, watch = callback(point_goal), Watch()
    learner = agent(
        environments(point_goal), replay_buffer_class=RelabelReplayBuffer,
        buffer_size=200,
    )  # fmt: skip
    learner.learn(64, [online, watch])
    buffer = learner.replay_buffer
    buffer._pay(np.arange(32))
    frames = np.concatenate([t.frames for t in watch.happened])
    actions = np.concatenate([t.actions for t in watch.happened])
    newest = online._model()
    own = [[info["reward_env"] for info in infos] for infos in watch.infos]
    value = (newest.values(frames, actions) - newest._shift) / newest._scale
    expected = 0.5 * value.reshape(32, 2) + 0.25 * np.array(own)
    np.testing.assert_allclose(buffer.rewards[:32], expected, rtol=1e-3, atol=1e-4)
    # What was paid when they were taken is another thing.
    paid = np.stack(watch.rewards)
    assert np.abs(buffer.rewards[:32] - paid)[:10].max() > 0.01


def test_the_data_is_what_happened(point_goal):
    online, watch = callback(point_goal, every=1000), Watch()
    learner = agent(environments(point_goal))
    learner.learn(60, [online, watch])
    assert online.version == 0
    running = {row: episode.close(False) for row, episode in online._open.items()}
    for row in range(2):
        steps = list(watch.happened)
        before = np.stack([t.frames[row] for t in steps])
        encoded = PIXELS.encode_images(before).flatten(1).numpy()
        ends = [i for i, t in enumerate(steps) if (t.terminated | t.truncated)[row]]
        starts = [0, *(i + 1 for i in ends)]
        lengths = np.diff([*starts, len(steps)])
        mine = [e for e in online._done if _is_of(e, encoded[starts[:-1]])]
        last = running.get(row)
        whole = [*mine, *([last] if last is not None else [])]
        assert [len(e) for e in whole] == [n for n in lengths if n]
        joined = np.concatenate([e.states[:-1] for e in whole])
        np.testing.assert_allclose(joined, encoded, atol=1e-3)
        actions = np.concatenate([e.actions for e in whole])
        np.testing.assert_array_equal(actions, [t.actions[row] for t in steps])
        # The last state of an episode is its own, not the next one's first.
        after = PIXELS.encode_images(
            np.stack([steps[i].next_frames[row] for i in ends])
        ).flatten(1)
        np.testing.assert_allclose([e.states[-1] for e in mine], after, atol=1e-3)


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("form", ["value", "normalised"])
def test_what_is_paid_is_what_the_nets_say(point_goal, form, stack):
    """One refresh over 20 transitions, and the score of each step after it."""
    goal = point_goal.with_(
        videos=np.stack([point_goal.videos[0], point_goal.videos[0, ::-1]]),
        key_frames=(3, 6),
    )
    features, watch = Features(PIXELS, stack), Watch()
    trainer = FBTrainer(
        dataclasses.replace(CONFIG, features=192 * stack),
        FBTraining(batch=16, learning_rate=1e-2),
        device="cpu",
    )
    online = FBCallback(
        trainer, goal, features, every=20, updates=9, until=25, weight=0.5, form=form
    )
    agent(environments(goal)).learn(60, [online, watch])
    bundle = online.bundle
    assert bundle.nets_config["input"] == features.card
    statistics = bundle.nets_config["statistics"]
    assert statistics["transitions"] == 20
    plain = Session([FrameLevel(bundle, PIXELS, form="value")], 2)
    plain.begin(watch.happened[0].frames)
    values = []
    for t, step in enumerate(watch.happened):
        ended = step.terminated | step.truncated
        # What was seen before the refresh is unknown to the reward.
        if t == 10:
            plain.put(FrameLevel(bundle, PIXELS, form="value"))
        scores = plain.score(
            step.actions, step.next_frames, step.terminated, step.truncated
        )
        values.append(scores["frame"].value)
        if ended.any() and t + 1 < len(watch.happened):
            plain.begin(watch.happened[t + 1].frames, ended)
    before, after = np.concatenate(values[:10]), np.array(values[10:])
    assert statistics["mean"] == pytest.approx(before.mean(), abs=0.02)
    assert statistics["std"] == pytest.approx(before.std(), rel=0.05)
    expected = after
    if form == "normalised":
        expected = (after - statistics["mean"]) / statistics["std"]
    infos = watch.infos[10:]
    paid = [[info["reward_frame"] for info in row] for row in infos]
    np.testing.assert_allclose(paid, expected, rtol=1e-3, atol=1e-3)
    own = [[info["reward_env"] for info in row] for row in watch.infos]
    added = np.array(watch.rewards) - 0.25 * np.array(own)
    np.testing.assert_allclose(added[:10], 0, atol=1e-6)
    np.testing.assert_allclose(added[10:], 0.5 * expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("conditioned", [True, False])
def test_nets_are_trained_as_elsewhere(point_goal, monkeypatch, conditioned):
    asked, draw = [], Transitions.draw

    def noted(self, *given):
        asked.append((len(self), *given))
        return draw(self, *given)

    monkeypatch.setattr(Transitions, "draw", noted)
    config = dataclasses.replace(CONFIG, conditioned=conditioned)
    trainer = FBTrainer(config, FBTraining(batch=16, seed=7), device="cpu")
    online = FBCallback(trainer, point_goal, Features(PIXELS), every=20, updates=2)
    watch = Watch()
    agent(environments(point_goal)).learn(40, [online, watch])
    # Episodes that are still running are data as well.
    assert asked == [
        (20 + 20 * (step // 2), 16, not conditioned, (7, step)) for step in range(4)
    ]
    # Standardised over the data of the first refresh, and not again.
    seen = np.concatenate([step.frames for step in watch.happened[:10]])
    np.testing.assert_allclose(
        online.bundle.nets["backward_net.input.mean"],
        PIXELS.encode_images(seen).flatten(1).mean(0),
        atol=1e-3,
    )


def test_how_episodes_end(point_goal):
    """Terminated, cut, reset from outside, and going on."""
    online, frames = callback(point_goal), pictures(9)
    no = np.zeros(4, bool)
    host = SimpleNamespace(session=Session([Brightness()], 4))
    online._host = host

    def step(before, after, terminated=no, truncated=no):
        host.session.score(np.full((4, 2), after, np.float32), frames[[after] * 4],
                           terminated, truncated)  # fmt: skip
        online._watch()

    host.session.begin(frames[[0] * 4])
    step(0, 1)
    step(1, 2, np.arange(4) == 0, np.arange(4) == 1)
    # The third is reset in the middle.
    host.session.begin(frames[[5] * 4], np.arange(4) < 3)
    step(2, 6)
    encoded = PIXELS.encode_images(frames).flatten(1).numpy()
    ended = {e.terminated: e for e in online._done[:2]}
    assert [e.terminated for e in online._done] == [True, False, False]
    for episode in (*ended.values(), online._done[2]):
        np.testing.assert_allclose(episode.states, encoded[[0, 1, 2]], atol=1e-3)
        assert episode.actions[:, 0].tolist() == [1, 2]
    for row, seen in enumerate([[5, 6], [5, 6], [5, 6], [0, 1, 2, 6]]):
        running = online._open[row].close(False)
        np.testing.assert_allclose(running.states, encoded[seen], atol=1e-3)


def pictures(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)


def _is_of(episode, firsts):
    return bool((np.abs(firsts - episode.states[0]).max(1) < 1e-3).any())


def test_training_continues_in_another_environment(point_goal):
    online, watch = callback(point_goal, until=25), Watch()
    agent(environments(point_goal)).learn(30, online)
    assert online.version == 1
    agent(environments(point_goal)).learn(30, [online, watch])
    versions = {info[0]["reward_frame_version"] for info in watch.infos}
    assert versions == {1, 2} or versions == {1}
    assert all(info[0]["reward_frame_due"] for info in watch.infos)


def test_a_model_that_is_put_in_counts_by_its_own_weight():
    venv = environments()
    venv.reset()
    no = np.zeros((2, 2), np.float32)
    for weight, version in ((2.0, 4), (0.5, 7)):
        venv.put_model(Brightness(), weight, version)
        _, paid, _, infos = venv.step(no)
        bright = [info["reward_brightness"] for info in infos]
        np.testing.assert_allclose(paid, weight * np.array(bright), rtol=1e-6)
        assert {info["reward_brightness_version"] for info in infos} == {version}


def test_nets_can_be_frozen(point_goal):
    online, watch = callback(point_goal, until=25), Watch()
    agent(environments(point_goal)).learn(64, [online, watch])
    assert online.version == 1
    assert online.trainer.step == 3
    assert watch.infos[-1][0]["reward_frame_version"] == 1


def test_old_episodes_are_forgotten(point_goal):
    online = callback(point_goal, keep=20, every=30)
    agent(environments(point_goal)).learn(90, online)
    kept = sum(map(len, online._done)) + sum(
        len(e.actions) for e in online._open.values()
    )
    assert 20 <= kept < 30 + 14
    # The oldest, an episode at a time, and no more of them than has to be.
    online._done = [
        Trajectory(np.full((n + 1, 1), n), np.zeros((n, 1)), False)
        for n in (3, 4, 5, 6)
    ]
    online._keep = 14
    online._forget(3)
    assert list(map(len, online._done)) == [5, 6]
    online._forget(3)
    assert list(map(len, online._done)) == [5, 6]
    online._forget(8)
    assert list(map(len, online._done)) == [6]


def test_what_cannot_be_trained_online(point_goal):
    from stable_baselines3.common.vec_env import DummyVecEnv

    with pytest.raises(ValueError, match="every=0: expected at least 1"):
        callback(point_goal, every=0)
    trainer = FBTrainer(CONFIG, device="cpu")
    with pytest.raises(ValueError, match="give features of pictures"):
        FBCallback(trainer, point_goal, Features(None))
    bare = DummyVecEnv([lambda: PointMass(size=SIZE, obs="dict")])
    with pytest.raises(ValueError, match="has no reward wrapper: wrap it in"):
        agent(bare).learn(4, callback(point_goal))
