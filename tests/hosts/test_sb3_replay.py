"""A replay buffer whose samples are paid by the newest reward."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common import buffers
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecNormalize,
    VecTransposeImage,
)

from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.data.replay import unscaled
from genreward_wrappers.relabel import from_buffer
from genreward_wrappers.rewards.frame_level import FrameLevel
from genreward_wrappers.sb3 import RelabelReplayBuffer, VecGenReward, VecRewardModel
from genreward_wrappers.testing import Brightness, PointMass
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets
from tests.relabel.recorded import with_nets

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SIZE = 32


def envs(goal=None, obs="pixels", **weights):
    """Two arenas, with both levels of the reward or with brightness."""
    made = DummyVecEnv([partial(PointMass, size=SIZE, obs=obs, horizon=7)] * 2)
    if goal is None:
        return VecRewardModel(made, Brightness(), **weights)
    return VecGenReward(made, goal, horizon=7, **weights)


def other_nets(goal, **options):
    """Nets of another seed over the same pixels."""
    torch.manual_seed(1)
    nets, config = FBNets(FBConfig(features=192, actions=2, z=8, hidden=16)).to_arrays()
    config = {**config, "statistics": {"mean": 0.1, "std": 2.0}}
    return FrameLevel(goal.with_(nets=nets, nets_config=config), **options)


def played(venv, steps=40, size=200, around=lambda venv: venv, **options):
    """A filled buffer, and what was noted of each step and environment."""
    buffer = RelabelReplayBuffer(
        size, venv.observation_space, venv.action_space, device="cpu", n_envs=2,
        **options,
    )  # fmt: skip
    host, venv = venv, around(venv)
    rng = np.random.default_rng(0)
    host.seed(0)
    before, noted = venv.reset(), []
    for _ in range(steps):
        scaled = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        after, rewards, dones, infos = venv.step(scaled)
        if isinstance(venv, VecNormalize):
            rewards = venv.get_original_reward()
        buffer.add(before, after, scaled, rewards, dones, infos)
        noted.append((rewards, [dict(info) for info in infos]))
        before = after
    return buffer, noted


def paid(buffer):
    """(steps, N) what samples of every step would be paid."""
    buffer._pay(np.arange(buffer.pos))
    return buffer.rewards[: buffer.pos].copy()


def test_without_a_change_samples_are_paid_as_the_steps_were():
    buffer, noted = played(envs(env_weight=0.3))
    steps = np.stack([rewards for rewards, _ in noted])
    before = buffer.rewards[:40].copy()
    np.testing.assert_array_equal(before, steps)
    np.testing.assert_array_equal(paid(buffer), steps)
    assert buffer.sample(16).rewards.shape == (16, 1)


def test_recordings_of_it_have_the_environments_own_reward():
    buffer, noted = played(envs(env_weight=0.3))
    own = np.array([[i["reward_env"] for i in infos] for _, infos in noted])
    for one in from_buffer(buffer)[:2]:
        found = one.read().rewards["env"]
        np.testing.assert_array_equal(found, own[len(found) * one.number :][:7, 0])


def test_new_weights_pay_all_samples(goal):
    venv = envs(with_nets(goal), video_weight=1.0, frame_weight=0.5)
    host = venv
    buffer, noted = played(venv, steps=30)
    host.set_weights(video=0.0, frame=2.0, env=0.5)
    venv.step_async(np.zeros((2, 2), np.float32))
    after, rewards, dones, infos = venv.step_wait()
    buffer.add(after, after, np.zeros((2, 2), np.float32), rewards, dones, infos)
    expected = [
        [2.0 * info["reward_frame"] + 0.5 * info["reward_env"] for info in infos]
        for _, infos in noted
    ]
    np.testing.assert_allclose(paid(buffer)[:30], expected, rtol=1e-5, atol=1e-6)
    assert buffer.weights == {"env": 0.5, "video": 0.0, "frame": 2.0}


def test_a_schedule(goal):
    venv = envs()
    venv.set_weights(brightness=lambda steps: 1.0 + steps)
    buffer, noted = played(venv, steps=10)
    bright = np.array([[i["reward_brightness"] for i in infos] for _, infos in noted])
    # The newest step weighed 10.
    np.testing.assert_allclose(paid(buffer), 10 * bright, rtol=1e-6)


@pytest.mark.parametrize("obs", ["pixels", "dict"])
@pytest.mark.parametrize("transposed", [False, True])
def test_new_nets_score_each_sample_once(goal, obs, transposed, monkeypatch):
    bundle = with_nets(goal)
    host = envs(bundle, obs=obs, video_weight=0.0, frame_weight=1.0)
    venv = VecTransposeImage(host) if transposed else host
    buffer = RelabelReplayBuffer(
        100, venv.observation_space, venv.action_space, device="cpu", n_envs=2
    )
    seen, actions, rng = [], [], np.random.default_rng(0)
    host.seed(0)
    before = venv.reset()
    model = other_nets(bundle)
    for step in range(20):
        scaled = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        if step == 19:
            host.put_model(model, 1.0, 1)
            buffer.put_model(model, 1)
        after, rewards, dones, infos = venv.step(scaled)
        buffer.add(before, after, scaled, rewards, dones, infos)
        frame = before["pixels"] if obs == "dict" else before
        seen.append(np.moveaxis(frame, 1, -1) if transposed else np.array(frame))
        actions.append(scaled)
        before = after
    # An independent path: the nets on the frames before the actions.
    expected = (model.values(np.concatenate(seen), np.concatenate(actions)) - 0.1) / 2
    found = paid(buffer)
    np.testing.assert_allclose(found, expected.reshape(20, 2), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(buffer, "_scores", None)
    np.testing.assert_array_equal(paid(buffer), found)


def test_nets_that_come_before_a_step_is_kept_score_it_too(goal):
    """Callbacks are asked between a step and its place in the buffer."""
    bundle = with_nets(goal)
    venv = envs(bundle, video_weight=0.0, frame_weight=1.0)
    buffer, _ = played(venv, steps=3)
    action = np.zeros((2, 2), np.float32)
    after, rewards, dones, infos = venv.step(action)
    model = other_nets(bundle)
    venv.put_model(model, 1.0, 1)
    buffer.put_model(model, 1)
    before = np.array(after)
    buffer.add(before, after, action, rewards, dones, infos)
    expected = (model.values(before, action) - 0.1) / 2
    np.testing.assert_allclose(paid(buffer)[3], expected, rtol=1e-4, atol=1e-5)


def test_steps_at_which_nothing_is_due_are_paid_nothing(goal):
    """Which they are follows from the step of the episode, of seven."""
    bundle = with_nets(goal)
    venv = envs(bundle, video_weight=0.0, frame_weight=1.0)
    buffer, noted = played(venv, steps=15)
    model = other_nets(bundle, length=3, horizon=7)
    due = {*sample_steps(3, 7)[1:]}
    buffer.put_model(model, 1)
    found, starts = paid(buffer), [0, 0]
    for row in range(15):
        for env in range(2):
            step = row - starts[env] + 1
            assert (found[row, env] != 0) == (step in due)
            if noted[row][1][env].get("terminal_observation") is not None:
                starts[env] = row + 1


def test_a_full_buffer_pays_what_it_still_holds():
    buffer, noted = played(envs(env_weight=0.3), steps=30, size=24)
    assert buffer.full
    kept = np.stack([noted[18 + (row - 18) % 12][0] for row in range(12)])
    buffer._pay(np.arange(12))
    np.testing.assert_array_equal(buffer.rewards, kept)


def test_actions_are_unscaled_as_an_agent_does_it():
    space = spaces.Box(np.array([-1, 2], np.float32), np.array([3, 6], np.float32))
    policy = SAC("MlpPolicy", Acting(space), buffer_size=1, device="cpu").policy
    scaled = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        unscaled(scaled, space), policy.unscale_action(scaled)
    )


class Acting(PointMass):
    """Takes other actions."""

    def __init__(self, space):
        super().__init__(size=8, obs="state")
        self.action_space = space


def test_a_replaced_model_that_nobody_told_of(goal):
    bundle = with_nets(goal)
    venv = envs(bundle, video_weight=0.0, frame_weight=1.0)
    buffer, _ = played(venv, steps=5)
    venv.put_model(other_nets(bundle), 1.0, 1)
    after, rewards, dones, infos = venv.step(np.zeros((2, 2), np.float32))
    buffer.add(after, after, np.zeros((2, 2), np.float32), rewards, dones, infos)
    with pytest.raises(RuntimeError, match="part 'frame' is another.*put_model"):
        buffer.sample(64)
    buffer.put_model(other_nets(bundle), 1)
    buffer.sample(64)
    # Models are not pickled; what they scored is.
    copy = pickle.loads(pickle.dumps(buffer))
    np.testing.assert_array_equal(copy.rewards, buffer.rewards)
    assert copy._ledger.parts["frame"].model is None


def test_a_part_that_older_steps_do_not_have(goal):
    bundle = with_nets(goal)
    bright = envs()
    buffer, _ = played(bright, steps=5)
    other = envs(bundle, frame_weight=0.0)
    other.reset()
    after, rewards, dones, infos = other.step(np.zeros((2, 2), np.float32))
    buffer.add(after, after, np.zeros((2, 2), np.float32), rewards, dones, infos)
    with pytest.raises(RuntimeError, match="part 'video' is another"):
        buffer.sample(64)


def test_what_remembers_more_than_a_step_is_refused(goal):
    bundle = with_nets(goal)
    buffer, _ = played(envs(bundle), steps=3)
    with pytest.raises(ValueError, match="'frame' pays the difference to the step"):
        buffer.put_model(other_nets(bundle, form="difference"), 1)
    with pytest.raises(ValueError, match="'brightness' may remember more"):
        buffer.put_model(Brightness(), 1)


@pytest.mark.skipif(not hasattr(buffers, "NStepReplayBuffer"), reason="SB3 is older")
def test_n_steps_are_added_up_of_the_newest_rewards(monkeypatch):
    venv = envs()
    buffer, noted = played(venv, n_steps=3, gamma=0.5)
    assert isinstance(buffer, buffers.NStepReplayBuffer)
    venv.set_weights(brightness=4.0)
    after, rewards, dones, infos = venv.step(np.zeros((2, 2), np.float32))
    buffer.add(after, after, np.zeros((2, 2), np.float32), rewards, dones, infos)
    bright = np.array([[i["reward_brightness"] for i in infos] for _, infos in noted])
    # Steps ahead of the newest one are in the buffer's empty rows.
    buffer._get_samples(np.array([40]))
    ends = buffer.dones[:, 0]
    which = np.arange(30) % 2
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: which)
    found = buffer._get_samples(np.arange(30)).rewards[:, 0].numpy()
    for row, env in enumerate(which):
        total, gamma = 0.0, 1.0
        for step in range(row, row + 3):
            total += gamma * 4.0 * bright[step, env]
            gamma *= 0.5
            if buffer.dones[step, env]:
                break
        assert found[row] == pytest.approx(total, rel=1e-5)
    assert ends.any()


def test_memory_may_be_saved():
    options = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    buffer, noted = played(envs(), **options)
    steps = np.stack([rewards for rewards, _ in noted])
    np.testing.assert_array_equal(paid(buffer), steps)
    buffer.sample(8)
    for more, message in (({}, "no such buffer of Dict"), ({"n_steps": 3}, "Dict")):
        with pytest.raises(ValueError, match=message):
            played(envs(obs="dict"), steps=1, **options, **more)
    with pytest.raises(ValueError, match="no n-step returns with Dict"):
        played(envs(obs="dict"), steps=1, n_steps=3)


def test_normalised_rewards_are_normalised_in_samples():
    buffer, noted = played(
        envs(), around=lambda venv: VecNormalize(venv, norm_obs=False)
    )
    np.testing.assert_array_equal(paid(buffer), np.stack([r for r, _ in noted]))


class Doubled(VecEnvWrapper):
    """Changes rewards outside of the reward wrapper."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observation, rewards, dones, infos = self.venv.step_wait()
        return observation, 2 * rewards, dones, infos


def test_rewards_that_the_wrapper_did_not_pay_are_refused():
    with pytest.raises(ValueError, match="is not what the wrapper paid"):
        played(envs(), around=Doubled)
    bare = DummyVecEnv([partial(PointMass, size=SIZE)] * 2)
    with pytest.raises(ValueError, match="come from no reward wrapper"):
        played(bare)


def test_an_agent_learns_with_it():
    venv = envs()
    agent = SAC(
        "MlpPolicy", venv, replay_buffer_class=RelabelReplayBuffer, buffer_size=300,
        learning_starts=20, batch_size=8, policy_kwargs={"net_arch": [4]},
        device="cpu", seed=0,
    )  # fmt: skip
    agent.learn(40)
    venv.set_weights(brightness=10.0)
    agent.learn(20, reset_num_timesteps=False)
    buffer = agent.replay_buffer
    assert isinstance(buffer, RelabelReplayBuffer)
    assert buffer.weights["brightness"] == 10
    assert paid(buffer).min() > 4


@pytest.mark.parametrize(
    ("obs", "saving"), [("pixels", False), ("pixels", True), ("dict", False)]
)
def test_resets_in_mid_episode_begin_episodes_anew(obs, saving):
    """As another call of learn() resets, which no step says."""
    venv = envs(obs=obs)
    options = {"optimize_memory_usage": saving, "handle_timeout_termination": False}
    buffer = RelabelReplayBuffer(
        40, venv.observation_space, venv.action_space, device="cpu", n_envs=2, **options
    )
    for steps in (9, 3):
        venv.seed(0)
        before = venv.reset()
        for _ in range(steps):
            action = np.random.default_rng(steps).uniform(-1, 1, (2, 2))
            after, rewards, dones, infos = venv.step(action.astype(np.float32))
            ended = [info.get("terminal_observation") for info in infos]
            buffer.add(before, ended_in(after, ended), action, rewards, dones, infos)
            before = after
    expected = [*range(1, 8), 1, 2, 1, 2, 3]
    found = buffer._ledger.steps[:12]
    np.testing.assert_array_equal(found, np.transpose([expected] * 2))
    if not saving:
        lengths = [len(one.read()) for one in from_buffer(buffer)]
        assert lengths == [7, 2, 3] * 2


def ended_in(after, ended):
    """Observations, with the last ones of episodes that have ended."""
    if isinstance(after, dict):
        parts = {
            key: [None if end is None else end[key] for end in ended] for key in after
        }
        return {key: ended_in(after[key], parts[key]) for key in after}
    return np.stack(
        [one if end is None else end for one, end in zip(after, ended, strict=True)]
    )


def test_an_agent_that_learns_twice():
    agent = SAC(
        "MlpPolicy", envs(), replay_buffer_class=RelabelReplayBuffer, buffer_size=40,
        learning_starts=99, policy_kwargs={"net_arch": [4]}, device="cpu", seed=0,
    )  # fmt: skip
    agent.learn(2 * 3)
    agent.learn(2 * 2)
    assert agent.replay_buffer._ledger.steps[:5, 0].tolist() == [1, 2, 3, 1, 2]
