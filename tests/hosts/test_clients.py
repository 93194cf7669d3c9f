"""What trainers and recorders ask of a reward wrapper, each as its client asks it."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.her import HerReplayBuffer

from genreward_wrappers import GenRewardWrapper, RewardModelWrapper, make, vector
from genreward_wrappers.data.goals import embedded_goals
from genreward_wrappers.sb3 import VecRewardModel
from genreward_wrappers.testing import Brightness, PointMass, Traveller

ARENA = {"size": 16, "horizon": 5}


class Noting(Traveller):
    """Notes something of each episode."""

    def notes(self, memory):
        return {"noted": np.full(len(memory[0]), 7)}


def rewarded(**changes):
    return RewardModelWrapper(PointMass(**{**ARENA, **changes}), Traveller())


# TorchRL and Minari


@pytest.mark.parametrize("make_env", [PointMass, rewarded], ids=["bare", "rewarded"])
def test_infos_of_resets_and_steps_are_alike(make_env):
    """Keys, types and shapes: Minari keeps both in one table."""
    env = make_env(**ARENA)
    _, first = env.reset(seed=0)
    *_, after = env.step(env.action_space.sample())
    assert first.keys() == after.keys()
    for key in first:
        assert type(first[key]) is type(after[key]), key
        # TorchRL asks every value for these.
        assert (first[key].dtype, first[key].shape) == (after[key].dtype, ())
    if make_env is rewarded:
        assert first["reward_traveller"] == 0
        assert not first["reward_traveller_due"]
        assert first["weight_traveller"] == 1


def test_where_the_last_step_of_an_episode_says_what_it_paid():
    """Gymnasium moves all of a last step's info, with what a wrapper inside added."""
    mode = AutoresetMode.SAME_STEP
    inside = SyncVectorEnv([rewarded] * 2, autoreset_mode=mode)
    outside = vector.RewardModelWrapper(
        SyncVectorEnv([partial(PointMass, **ARENA)] * 2, autoreset_mode=mode),
        Traveller(),
    )
    last = []
    for envs in (inside, outside):
        envs.reset(seed=0)
        done = np.zeros(2, bool)
        while not done.any():
            *_, ended, cut, infos = envs.step(np.full((2, 2), 0.1, np.float32))
            done = ended | cut
        last.append(infos)
    paid = last[1]["reward_traveller"][done]
    assert (paid > 0).all()
    moved = last[0]["final_info"]["reward_traveller"][done]
    np.testing.assert_allclose(moved, paid)
    assert (last[0]["reward_traveller"][done] == 0).all(), "that of the reset"


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda m: m.name)
def test_infos_of_vectors_are_numbers_and_flags(mode):
    """Not objects, whether the wrapper is inside or outside."""
    inside = SyncVectorEnv([rewarded] * 2, autoreset_mode=mode)
    outside = vector.RewardModelWrapper(
        SyncVectorEnv([partial(PointMass, **ARENA)] * 2, autoreset_mode=mode),
        Traveller(),
    )
    for envs in (inside, outside):
        _, begun = envs.reset(seed=0)
        *_, infos = envs.step(envs.action_space.sample())
        for found in (begun, infos):
            assert found["reward_traveller"].dtype.kind == "f"
            assert found["reward_traveller_due"].dtype == bool
            assert found["_reward_env"].tolist() == [True, True]


def test_an_episodes_notes_stay_in_its_infos():
    env = RewardModelWrapper(PointMass(**ARENA), Traveller())
    assert "goal_index" not in env.reset(seed=0)[1]
    env = make("genreward/pick-place-v0")
    _, info = env.reset(seed=0)
    assert env.step(env.action_space.sample())[4]["goal_index"] == info["goal_index"]
    assert info.keys() == env.step(env.action_space.sample())[4].keys()
    env.close()


def test_a_vector_host_says_how_it_resets():
    envs = SyncVectorEnv(
        [partial(PointMass, **ARENA)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    host = vector.RewardModelWrapper(envs, Traveller())
    assert host.autoreset_mode == AutoresetMode.SAME_STEP
    assert host.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


def test_minari(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(rewarded(obs="state", render_mode="rgb_array"),
                               record_infos=True)  # fmt: skip
    env.reset(seed=0)
    paid, over = [], False
    while not over:
        *_, reward, ended, cut, _ = env.step(env.action_space.sample())
        paid, over = [*paid, reward], ended or cut
    (episode,) = env.create_dataset("test/parts-v0").iterate_episodes()
    np.testing.assert_allclose(episode.infos["reward_traveller"][1:], paid)
    np.testing.assert_allclose(episode.rewards, paid)


def test_skrl():
    pytest.importorskip("skrl")
    from skrl.envs.wrappers.torch import wrap_env

    flat = rewarded(obs="state", render_mode="rgb_array")
    envs = SyncVectorEnv([lambda: flat], autoreset_mode=AutoresetMode.SAME_STEP)
    for env in (flat, envs):
        wrapped = wrap_env(env, wrapper="gymnasium", verbose=False)
        wrapped.reset()
        for _ in range(3):
            _, paid, *_, infos = wrapped.step(torch.full((1, 2), 0.1))
            assert paid.item() == pytest.approx(infos["reward_traveller"].item())
            assert paid.item() > 0


# Hindsight


class Reaching(PointMass):
    """With the interface of `HerReplayBuffer`, whose reward is another."""

    def __init__(self):
        super().__init__(size=36, obs="dict", horizon=5)
        flat = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Dict(
            pixels=self.observation_space["pixels"],
            observation=flat, achieved_goal=flat, desired_goal=flat,
        )  # fmt: skip

    def _observe(self):
        here, there = (np.float32(a) for a in (self.position, self.target))
        return {
            "pixels": self.render(),
            "observation": here, "achieved_goal": here, "desired_goal": there,
        }  # fmt: skip

    def render(self):
        mode, self.render_mode = self.render_mode, "rgb_array"
        try:
            return super().render()
        finally:
            self.render_mode = mode

    def compute_reward(self, achieved, desired, info):
        return -np.linalg.norm(achieved - desired, axis=-1)


@pytest.mark.parametrize("where", ["inside", "outside", "vector"])
def test_hindsight_is_refused_with_the_reason(where):
    reason = "compute_reward\\(\\) asks.*another goal.*ordinary replay buffer"
    if where == "vector":
        envs = vector.RewardModelWrapper(SyncVectorEnv([Reaching]), Traveller())
        with pytest.raises(NotImplementedError, match=reason):
            envs.call("compute_reward", 0, 0, {})
        return
    if where == "inside":
        env = DummyVecEnv([lambda: RewardModelWrapper(Reaching(), Traveller())])
    else:
        env = VecMonitor(VecRewardModel(DummyVecEnv([Reaching]), Traveller()))
    agent = SAC(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer,
        learning_starts=12, batch_size=32, buffer_size=100, device="cpu",
    )  # fmt: skip
    with pytest.raises(NotImplementedError, match=reason):
        agent.learn(20)


# Pictures that are none


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: VecFrameStack(v, 4), "it is stacked.*below VecFrameStack"),
        (VecTransposeImage, "channels come first.*below.*VecTransposeImage"),
        (lambda v: VecNormalize(v, norm_obs=True), "scaled to float.*VecNormalize"),
    ],
    ids=["stacked", "transposed", "normalised"],
)
def test_what_changes_pictures_below_is_named(spoil, message):
    def venv():
        return DummyVecEnv([partial(PointMass, **ARENA, render_mode="rgb_array")])

    with pytest.raises(ValueError, match=message):
        VecRewardModel(spoil(venv()), Brightness())
    # The other way round it works.
    spoil(VecRewardModel(venv(), Brightness())).reset()


class Symbols(PointMass):
    """As MiniGrid: 7x7 cells of three numbers each in the shape of a picture."""

    def __init__(self, **changes):
        super().__init__(size=32, horizon=5, **changes)
        cells = spaces.Box(0, 255, (7, 7, 3), np.uint8)
        self.observation_space = spaces.Dict(direction=spaces.Discrete(4), image=cells)

    def _observe(self):
        return {"direction": 0, "image": np.zeros((7, 7, 3), np.uint8)}


def test_symbols_are_not_taken_for_a_picture():
    env = RewardModelWrapper(Symbols(render_mode="rgb_array"), Brightness())
    env.reset(seed=0)
    *_, info = env.step(env.action_space.sample())
    assert info["reward_brightness"] > 0, "the arena was looked at, not its symbols"
    with pytest.raises(ValueError, match=r"\(7, 7, 3\), too small for a picture"):
        RewardModelWrapper(Symbols(), Brightness())
    # Who means it says so.
    RewardModelWrapper(Symbols(), Brightness(), frames="obs:image").reset(seed=0)


def test_minigrid():
    pytest.importorskip("minigrid")
    env = gym.make("MiniGrid-Empty-5x5-v0", render_mode="rgb_array")
    env = RewardModelWrapper(env, Brightness(), frames="auto")
    env.reset(seed=0)
    assert env.snapshot().frames.shape[1] > 16
    env.close()


def test_rescaled_pictures_are_refused():
    env = gym.wrappers.RescaleObservation(PointMass(**ARENA), np.uint8(0), np.uint8(1))
    with pytest.raises(ValueError, match="from 0 to 1: give the image before"):
        RewardModelWrapper(env, Brightness())


# Ids


def test_every_embedded_goal_has_an_id_with_its_reward():
    for goal in embedded_goals():
        spec = gym.spec(f"genreward/{goal.rpartition('/')[2]}-v0")
        assert spec.max_episode_steps == gym.spec(goal).max_episode_steps
        assert spec.additional_wrappers[0].kwargs == {"goal": goal}
        assert f"genreward-state/{goal.rpartition('/')[2]}-v0" in gym.registry


@pytest.mark.parametrize("task", ["metaworld/drawer-close", "dmc/cartpole-swingup"])
def test_an_id_on_states(task, recwarn):
    if task.startswith("dmc/"):
        pytest.importorskip("dm_control")
    short = {"max_episode_steps": 100}
    env = gym.make(f"genreward-state/{task.rpartition('/')[2]}-v0", **short)
    bare = make(task, obs="state", render_mode="rgb_array", **short)
    same = GenRewardWrapper(bare, observe="progress")
    assert env.observation_space == same.observation_space
    assert env.observation_space.shape[0] == bare.observation_space.shape[0] + 1
    env.reset(seed=0)
    same.reset(seed=0)
    action = env.action_space.sample()
    (seen, paid, *_), (expected, due, *_) = env.step(action), same.step(action)
    np.testing.assert_array_equal(seen, expected)
    assert seen[-1] == pytest.approx(0.01)
    assert paid == due
    # For one, that it leads to another task.
    assert not [w for w in recwarn if "goal" in str(w.message)]
    env.close()
    same.close()


def test_an_id_is_the_wrapped_environment():
    # With the module in front, as scripts without an import of this package write it.
    env_id = "genreward_wrappers:genreward/coffee-button-v0"
    env = gym.make(env_id, max_episode_steps=128, action_repeat=2)
    env.reset(seed=0)
    _, reward, *_, info = env.step(env.action_space.sample())
    parts = info["reward_video"] + 0.25 * info["reward_frame"]
    assert reward == pytest.approx(parts)
    video = env.session.models[0]
    assert (video.goal.env_id, video.stretch) == ("metaworld/coffee-button", 128)
    # The environment's spec gives it back.
    again = gym.make(env.spec)
    again.reset(seed=0)
    again.action_space.seed(0)
    env.reset(seed=0)
    env.action_space.seed(0)
    assert (
        again.step(again.action_space.sample())[1]
        == (env.step(env.action_space.sample())[1])
    )
    env.close()
    again.close()


# Bad input


def single():
    return PointMass(**ARENA)


def vectors():
    return SyncVectorEnv([single] * 2)


def sb3s():
    return DummyVecEnv([single] * 2)


def episode_return(venv):
    """What the agent is paid over an episode, and what its monitor says."""
    venv.reset()
    paid, infos = 0.0, [{}]
    while "episode" not in infos[0]:
        _, rewards, _, infos = venv.step(np.full((1, 2), 0.1))
        paid += float(rewards[0])
    return paid, infos[0]["episode"]["r"]


def test_monitors_inside_and_outside():
    """Inside, it sees the environment's own reward; outside, what the agent is paid."""
    inside = VecRewardModel(DummyVecEnv([lambda: Monitor(single())]), Brightness())
    paid, seen = episode_return(inside)
    assert paid > 0 > seen
    outside = VecMonitor(VecRewardModel(DummyVecEnv([single]), Brightness()))
    paid, seen = episode_return(outside)
    assert paid == pytest.approx(seen, abs=1e-5)


def test_normalised_rewards_above_and_below():
    """Above, what is paid is scaled; below, only the environment's own part is."""

    def steps(venv):
        venv.seed(0)
        venv.reset()
        return [venv.step(np.full((1, 2), 0.1)) for _ in range(4)]

    def scaled(venv):
        return VecNormalize(venv, norm_obs=False)

    bare = steps(VecRewardModel(DummyVecEnv([single]), Brightness()))
    below = steps(VecRewardModel(scaled(DummyVecEnv([single])), Brightness()))
    above = steps(scaled(VecRewardModel(DummyVecEnv([single]), Brightness())))
    for plain, under, over in zip(bare, below, above, strict=True):
        assert under[1] == plain[1]
        assert over[1] != plain[1]
        infos = [step[3][0] for step in (plain, under, over)]
        parts = [info["reward_brightness"] for info in infos]
        assert parts[0] == parts[1] == parts[2]
        assert (
            infos[1]["reward_env"] != infos[0]["reward_env"] == infos[2]["reward_env"]
        )


@pytest.mark.parametrize("host", ["single", "vector", "sb3"])
def test_actions_that_are_no_numbers(host):
    """An agent that has diverged: the second environment's, where there are two."""
    nan = np.array([[0, 0], [np.nan, 0]], np.float32)
    if host == "single":
        env, actions, row = RewardModelWrapper(single(), Brightness()), nan[1], 0
    elif host == "vector":
        env, actions, row = vector.RewardModelWrapper(vectors(), Brightness()), nan, 1
    else:
        env, actions, row = VecRewardModel(sb3s(), Brightness()), nan, 1
    env.reset()
    with pytest.raises(FloatingPointError, match=rf"environments \[{row}\] hold NaN"):
        env.step(actions)
