"""Recorded episodes: the file, and that every host writes the same ones."""

from __future__ import annotations

import json
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from safetensors.numpy import save_file

from genreward_wrappers import RewardModelWrapper, TapFrames, VideoLevelReward, vector
from genreward_wrappers.data.episodes import Episode, Recorder
from genreward_wrappers.data.files import CODEC, FileError, pack_video
from genreward_wrappers.testing import PointMass, Traveller

HORIZON = 6


def make_env(tap=False, **kwargs):
    env = PointMass(size=16, horizon=HORIZON, **kwargs)
    return TapFrames(env, size=16) if tap else env


def actions_of(steps):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (steps, 2)).astype(np.float32)


def episode(length=4, count=3, **changes):
    rng = np.random.default_rng(0)
    fields = {
        "frames": rng.integers(0, 256, (count, 8, 6, 3)).astype(np.uint8),
        "frame_steps": np.arange(count),
        "actions": rng.normal(size=(length, 2)).astype(np.float32),
        "success": np.array([False, True, False, True][:length]),
        "rewards": {"video": np.array([0.5, np.nan, 1, 2], np.float32)[:length]},
        "info": {"seed": 3, "kind": "noisy"},
    }
    return Episode(**{**fields, **changes})


def assert_same(one, other):
    np.testing.assert_array_equal(one.frames, other.frames)
    np.testing.assert_array_equal(one.frame_steps, other.frame_steps)
    np.testing.assert_array_equal(one.actions, other.actions)
    np.testing.assert_array_equal(one.success, other.success)
    assert one.rewards.keys() == other.rewards.keys()
    for name, part in one.rewards.items():
        np.testing.assert_array_equal(part, other.rewards[name])
    assert one.terminated == other.terminated
    assert (one.states is None) == (other.states is None)
    if one.states is not None:
        assert one.states.dtype == other.states.dtype
        np.testing.assert_array_equal(one.states, other.states)


# The file


@pytest.mark.parametrize("seen", [True, False], ids=["states", "no states"])
def test_an_episode_survives_its_file(tmp_path, seen):
    # Not numbers that any precision holds.
    states = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    before = episode(terminated=True, states=states if seen else None)
    before.save(tmp_path / "a.safetensors")
    after = Episode.load(tmp_path / "a.safetensors")
    assert_same(before, after)
    assert after.info == before.info
    assert after.succeeded
    after.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (
        tmp_path / "b.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": np.zeros((3, 8, 6), np.uint8)}, r"uint8 of shape.*\(3, 8, 6\)"),
        ({"frames": np.zeros((3, 8, 6, 3))}, "got float64"),
        ({"frame_steps": np.arange(1, 4)}, r"the first one 0.*\[1, 2, 3\]"),
        ({"frame_steps": np.arange(2)}, "3 frames"),
        ({"frame_steps": np.array([0, 2, 2])}, "must increase"),
        ({"frame_steps": np.array([0, 2, 5])}, "at most 4"),
        ({"success": np.zeros(3, bool)}, "episode of 4 actions.*'success': 3"),
        ({"rewards": {"env": np.zeros(5)}}, "'env': 5"),
        ({"states": np.zeros((4, 2))}, r"4 actions needs one state more.*got \(4, 2\)"),
        ({"states": np.zeros(5)}, r"of shape \(5, numbers\), got \(5,\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        episode(**changes)


def test_files_from_before_there_were_states_still_load(tmp_path):
    """An episode as it was written then, made by hand."""
    path, before = tmp_path / "old.safetensors", episode()
    tensors = {
        "frames": pack_video(before.frames),
        "frame_steps": before.frame_steps.astype(np.int64),
        "actions": before.actions,
        "success": before.success,
        "rewards/video": before.rewards["video"],
    }
    header = {
        "schema": 1,
        "codec": CODEC,
        "shape": [3, 8, 6, 3],
        "terminated": False,
        "info": {"seed": 3},
    }
    save_file(tensors, path, {"genreward_episode": json.dumps(header)})
    after = Episode.load(path)
    assert_same(before, after)
    assert after.states is None
    assert after.info == {"seed": 3}


def test_other_files_are_no_episodes(tmp_path, goal):
    with pytest.raises(FileError, match="there is no recorded episode at"):
        Episode.load(tmp_path / "none.safetensors")
    goal.save(tmp_path / "goal.safetensors")
    with pytest.raises(FileError, match="no recorded episode"):
        Episode.load(tmp_path / "goal.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(FileError, match="a pickle, which is never read"):
        Episode.load(tmp_path / "pickle.safetensors")


# The recorder


def test_which_episodes_are_written(tmp_path):
    recorder = Recorder(tmp_path)
    still = np.zeros((4, 4, 3), np.uint8)
    for _ in range(2001):
        recorder.begin(still)
        recorder.step([0.0], still, {"env": 1.0}, False, False, True)
    written = sorted(int(p.stem.split("-")[1]) for p in tmp_path.iterdir())
    assert written == [i**3 for i in range(11)] + [2000]


def test_numbers_go_on_and_unfinished_episodes_are_dropped(tmp_path):
    still = np.zeros((4, 4, 3), np.uint8)
    recorder = Recorder(tmp_path)
    recorder.begin(still)
    recorder.step([0.0], still, {}, False, False, False)
    recorder.begin(still)
    recorder.step([1.0], None, {}, False, True, False)
    again = Recorder(tmp_path)
    assert again.number == 1
    (only,) = loaded(tmp_path)
    assert only.info["run"] == recorder.run != again.run
    np.testing.assert_array_equal(only.actions, [[1.0]])
    np.testing.assert_array_equal(only.frame_steps, [0])
    assert only.terminated


# The hosts


def single(folder, actions, **kwargs):
    env = RewardModelWrapper(make_env(**kwargs), Traveller(), record=folder)
    env.reset(seed=3)
    paid = []
    for action in actions:
        *_, terminated, truncated, info = env.step(action)
        paid.append((info["reward_env"], info["reward_traveller"]))
        if terminated or truncated:
            env.reset()
    return np.array(paid, np.float32)


def loaded(folder):
    return [Episode.load(path) for path in sorted(folder.glob("episode-*"))]


def test_what_is_written_is_what_happened(tmp_path):
    actions = actions_of(2 * HORIZON)
    paid = single(tmp_path, actions)
    first, second = loaded(tmp_path)
    for episode_, part in ((first, slice(0, HORIZON)), (second, slice(HORIZON, None))):
        np.testing.assert_array_equal(episode_.actions, actions[part])
        np.testing.assert_array_equal(episode_.rewards["env"], paid[part, 0])
        np.testing.assert_array_equal(episode_.rewards["traveller"], paid[part, 1])
        np.testing.assert_array_equal(episode_.frame_steps, np.arange(HORIZON + 1))
        assert not episode_.terminated
    env = make_env()
    frame, _ = env.reset(seed=3)
    frames = [frame] + [env.step(action)[0] for action in actions[:HORIZON]]
    np.testing.assert_array_equal(first.frames, np.stack(frames))


@pytest.mark.parametrize("tap", [False, True], ids=["pixels", "tapped"])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda m: m.name)
def test_vector_environments_write_their_first_row(tmp_path, mode, tap):
    kwargs = {"tap": True, "obs": "state", "render_mode": "rgb_array"} if tap else {}
    envs = SyncVectorEnv([partial(make_env, **kwargs)] * 2, autoreset_mode=mode)
    envs = vector.RewardModelWrapper(envs, Traveller(), record=tmp_path / "vector")
    envs.reset(seed=3)
    taken = []
    # The step of a NEXT_STEP reset is none of the episode.
    resetting = False
    for action in actions_of(2 * HORIZON + 1):
        if not resetting:
            taken.append(action)
        *_, ended, _ = envs.step(np.stack([action, -action]))
        resetting = ended[0] and mode == AutoresetMode.NEXT_STEP
        if mode == AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended.copy()})
    single(tmp_path / "single", taken, **kwargs)
    for one, other in zip(
        loaded(tmp_path / "vector"), loaded(tmp_path / "single"), strict=True
    ):
        assert_same(one, other)
    assert len(loaded(tmp_path / "vector")) == 2


def test_sb3_environments_write_their_first_row(tmp_path):
    common = pytest.importorskip("stable_baselines3.common.vec_env")
    from genreward_wrappers.sb3 import VecRewardModel

    envs = VecRewardModel(
        common.DummyVecEnv([make_env] * 2), Traveller(), record=tmp_path / "sb3"
    )
    envs.seed(3)
    envs.reset()
    actions = actions_of(2 * HORIZON)
    for action in actions:
        envs.step(np.stack([action, -action]))
    single(tmp_path / "single", actions)
    found = loaded(tmp_path / "sb3")
    for one, other in zip(found, loaded(tmp_path / "single"), strict=True):
        assert_same(one, other)
    assert len(found) == 2


def test_only_frames_that_the_reward_looks_at_are_kept(tmp_path, goal):
    env = gym.make("CartPole-v1", render_mode="rgb_array", max_episode_steps=8)
    env = TapFrames(env, size=32, length=3)
    env = VideoLevelReward(
        env, goal, encoder="pixels", length=3, record=tmp_path, horizon=8
    )
    env.reset(seed=0)
    for step in range(8):
        env.step(step % 2)
    (only,) = loaded(tmp_path)
    np.testing.assert_array_equal(only.frame_steps, [0, 4, 8])
    due = ~np.isnan(only.rewards["video"])
    np.testing.assert_array_equal(np.flatnonzero(due) + 1, [4, 8])
    # For the page: which goal it followed, and the goal itself.
    assert only.info["goal"] in (0, 1, 2)
    assert only.info["env_id"] == "CartPole-v1"
    assert type(goal).load(tmp_path / "goal.safetensors") == goal
    env.close()


def test_a_recording_wrapper_survives_its_spec(tmp_path):
    env = VideoLevelReward(
        gym.make("metaworld/pick-place"), encoder="pixels", record=tmp_path / "here"
    )
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.recorder.folder == tmp_path / "here"
    env.close()
    again.close()
