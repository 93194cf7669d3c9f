"""TorchRL over the wrappers, and the transform that pays its own environments."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from genreward_wrappers import RewardModelWrapper, load_reward, vector
from genreward_wrappers.relabel import from_frames, score
from genreward_wrappers.testing import PointMass, Traveller

ARENA = {"size": 16, "horizon": 5}


def test_torchrl():
    pytest.importorskip("torchrl")
    from torchrl.envs import GymWrapper

    env = GymWrapper(
        RewardModelWrapper(
            PointMass(**ARENA, obs="state", render_mode="rgb_array"), Traveller()
        )
    )
    env = env.auto_register_info_dict()
    # By chance an episode of the arena ends after a step.
    found = env.rollout(4, break_when_any_done=False)["next"]
    assert found["reward_traveller"].shape[0] == 4
    np.testing.assert_allclose(found["reward"].flatten(), found["reward_traveller"])
    envs = SyncVectorEnv(
        [partial(PointMass, **ARENA)] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    envs = GymWrapper(vector.RewardModelWrapper(envs, Traveller()))
    assert envs.rollout(3, break_when_any_done=False).batch_size == (2, 3)


class PlainInfos(gym.Wrapper):
    """Says the same in Python's own types."""

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        return observation, {key: value.item() for key, value in info.items()}

    def step(self, action):
        *outcome, info = self.env.step(action)
        return *outcome, {key: value.item() for key, value in info.items()}


@pytest.mark.parametrize("mode", [None, "SAME_STEP", "DISABLED"])
def test_torchrl_reads_the_parts_of_any_environment(mode):
    """Whatever the environment's own info holds; `auto_register_info_dict` fails."""
    pytest.importorskip("torchrl")
    from torchrl.envs import GymWrapper
    from torchrl.envs.utils import check_env_specs

    from genreward_wrappers.torchrl import info_reader

    def single():
        return PlainInfos(PointMass(**ARENA))

    if mode is None:
        env = RewardModelWrapper(single(), Traveller(), env_weight=0.5)
        with pytest.raises(AttributeError, match="dtype"):
            GymWrapper(env).auto_register_info_dict()
    else:
        envs = SyncVectorEnv([single] * 2, autoreset_mode=AutoresetMode[mode])
        env = vector.RewardModelWrapper(envs, Traveller(), env_weight=0.5)
    known = GymWrapper(env).set_info_dict_reader(info_reader(env))
    check_env_specs(known)
    found = known.rollout(7, break_when_any_done=False)["next"]
    parts = ("reward_traveller", "reward_env", "weight_env", "reward_traveller_due")
    paid, own, weight, due = (found[key] for key in parts)
    assert due.dtype == torch.bool
    assert paid.shape == (() if mode is None else (2,)) + (7,)
    assert paid.std() > 0
    np.testing.assert_allclose(found["reward"][..., 0], paid + weight * own, rtol=1e-6)
    with pytest.raises(ValueError, match="no reward wrapper of this package"):
        info_reader(single())


def torchrl_arena(horizon=5):
    from torchrl.envs import GymWrapper

    return GymWrapper(PointMass(**{**ARENA, "horizon": horizon}, obs="dict"))


def torchrl_arenas(count):
    from torchrl.envs import ParallelEnv, SerialEnv

    if not count:
        return torchrl_arena()
    kind = ParallelEnv if count == 2 else SerialEnv
    # Their episodes end at different steps.
    return kind(count, [partial(torchrl_arena, 5 - i) for i in range(count)])


@pytest.mark.parametrize("count", [0, 2, 3], ids=["one", "parallel", "serial"])
def test_a_transform_pays_as_the_wrapper(count, goal):
    """One episode after another; the reward remembers how each began."""
    pytest.importorskip("torchrl")
    from torchrl.envs import TransformedEnv
    from torchrl.envs.utils import check_env_specs

    from genreward_wrappers.torchrl import RewardTransform

    goal = goal.with_(videos=np.ascontiguousarray(goal.videos[:, :, :16, :16]))
    model = load_reward("video", goal=goal, encoder="pixels:4", horizon=5)
    envs = TransformedEnv(torchrl_arenas(count), RewardTransform(model, env_weight=0.5))
    check_env_specs(envs)
    envs.transform.set_weights(env=0.25)
    found = envs.rollout(13, break_when_any_done=False)
    found = found if count else found[None]
    for row in found:
        frames, after = row["pixels"].numpy(), row["next", "pixels"].numpy()
        ended = row["next", "done"].flatten().numpy()
        assert ended.sum() >= 2
        starts = [0, *np.flatnonzero(ended) + 1]
        for start, stop in zip(starts, [*starts[1:], len(row)], strict=True):
            if start == stop:
                continue
            episode = np.concatenate([frames[start : start + 1], after[start:stop]])
            (expected,) = score(from_frames([episode]), model)
            took = row[start:stop]["next"]
            own = took["reward_video"].flatten().numpy()
            np.testing.assert_array_equal(own, expected.rewards.astype(np.float32))
            total = own + 0.25 * took["reward_env"].flatten().numpy()
            np.testing.assert_allclose(took["reward"].flatten(), total, rtol=1e-6)
            assert row["reward_video"][start] == 0
    envs.close()


def test_torchrl_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrl.envs", None)
    monkeypatch.delitem(sys.modules, "genreward_wrappers.torchrl", raising=False)
    with pytest.raises(ImportError, match='needs TorchRL: pip install "torchrl"'):
        import_module("genreward_wrappers.torchrl")


def test_a_transform_says_where_it_belongs():
    pytest.importorskip("torchrl")
    from torchrl.envs import ToTensorImage, TransformedEnv

    from genreward_wrappers.torchrl import RewardTransform

    with pytest.raises(TypeError, match="PointMass is no RewardModel"):
        RewardTransform(PointMass())
    transform = RewardTransform(Traveller())
    with pytest.raises(NotImplementedError, match="belongs to an environment"):
        transform(torchrl_arena().reset())
    with pytest.raises(RuntimeError, match="belongs to a TransformedEnv"):
        transform.set_weights(env=1.0)
    scaled = TransformedEnv(torchrl_arena(), ToTensorImage(in_keys=["pixels"]))
    scaled.append_transform(transform)
    with pytest.raises(ValueError, match=r"uint8 RGB pictures, found 0.*float32"):
        scaled.reset()
