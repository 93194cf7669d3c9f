"""Nets that are trained while the agent learns, on what the agent does."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from genreward_wrappers import GoalBundle
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.forward_backward.features import Features
from genreward_wrappers.forward_backward.nets import FBConfig
from genreward_wrappers.forward_backward.train import FBTrainer, FBTraining
from genreward_wrappers.sb3 import FBCallback, VecGenReward, VecRewardModel
from genreward_wrappers.testing import Brightness, PointMass

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
        self.infos, self.happened = [], []

    def _on_step(self):
        self.infos.append([dict(info) for info in self.locals["infos"]])
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
    return VecGenReward(venv, goal, frame_weight=0, video_weight=0.0, horizon=7)


def agent(venv, kind="SAC"):
    options = {"learning_starts": 10**6} if kind == "SAC" else {"n_steps": 16}
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


def _is_of(episode, firsts):
    return bool((np.abs(firsts - episode.states[0]).max(1) < 1e-3).any())


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
