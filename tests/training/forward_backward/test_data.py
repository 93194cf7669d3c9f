"""What forward-backward nets are trained on: features, trajectories, their sources."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.forward_backward.data import Trajectory, Transitions
from genreward_wrappers.training.forward_backward.features import Features, stack_before
from genreward_wrappers.training.forward_backward.sources import (
    _states_of,
    from_episode,
    from_minari,
    from_sb3,
    load_trajectories,
)

PIXELS = PooledPixels((16, 16), 8, device="cpu")


def pictures(count, seed=0, size=16):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def episode(steps=4, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "frames": pictures(steps + 1, seed),
        "frame_steps": np.arange(steps + 1),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "success": np.zeros(steps, bool),
        "info": {"seed": 4_000_000 + seed, "policy": "random", "env_id": "toy"},
        "states": rng.normal(size=(steps + 1, 3)).astype(np.float32),
    }
    return Episode(**{**fields, **changes})


def walk(steps, start=0.0, terminated=False, **changes):
    """States that count: 0, 1, 2, ... beside their squares."""
    numbers = start + np.arange(steps + 1.0)
    fields = {
        "states": np.stack([numbers, numbers**2], 1).astype(np.float32),
        "actions": -np.arange(steps, dtype=np.float32)[:, None],
        "terminated": terminated,
    }
    return Trajectory(**{**fields, **changes})


# Features


def test_features_are_the_encoders_in_half_precision():
    frames = pictures(40)
    made = Features(PIXELS).encode(frames)
    assert made.dtype == np.float16
    exact = PIXELS.encode_images(frames).flatten(1).numpy()
    np.testing.assert_allclose(made, exact, atol=1e-3)
    assert exact.std() > 0.05
    key = Features(PIXELS, stack=3).of_goal(frames[:2]).numpy()
    np.testing.assert_array_equal(key, np.tile(exact[:2], 3))


def test_features_are_computed_once(tmp_path):
    frames = pictures(20)
    memo = Memo(PIXELS)
    first = Features(memo).encode_once(frames, tmp_path)
    assert len(memo) == 20
    fresh = Memo(PIXELS)
    np.testing.assert_array_equal(Features(fresh).encode_once(frames, tmp_path), first)
    assert len(fresh) == 0, "they were in the cache"
    # Other pictures, another shape, another encoder, a damaged file: all are computed.
    others = pictures(20, seed=1)
    Features(fresh).encode_once(others, tmp_path)
    assert len(fresh) == 20
    flat = frames.reshape(20, 8, 32, 3)
    wide = PooledPixels((8, 32), 8, device="cpu")
    wide.fingerprint = PIXELS.fingerprint
    np.testing.assert_array_equal(
        Features(wide).encode_once(flat, tmp_path), Features(wide).encode(flat)
    )
    fresh = Memo(PIXELS)
    other = PooledPixels((16, 16), 4, device="cpu")
    assert Features(other).encode_once(frames, tmp_path).shape != first.shape
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    np.testing.assert_array_equal(Features(fresh).encode_once(frames, tmp_path), first)
    assert len(fresh) == 20


def test_a_stack_goes_back_to_the_episodes_first_state_and_no_further():
    states = np.arange(10)[:, None]
    stacked = stack_before(
        states, np.array([0, 1, 5, 6, 9]), np.array([0, 0, 5, 5, 5]), 3
    )
    assert stacked.tolist() == [
        [0, 0, 0], [0, 0, 1], [5, 5, 5], [5, 5, 6], [7, 8, 9],
    ]  # fmt: skip


def test_stacks_of_nothing_are_refused():
    with pytest.raises(ValueError, match="stack=0: expected at least 1"):
        Features(PIXELS, stack=0)
    with pytest.raises(ValueError, match="states, not pictures"):
        Features(None).encode(pictures(2))


# Transitions


def test_transitions_stay_inside_their_trajectory():
    data = Transitions([walk(3), walk(2, start=10, terminated=True)])
    batch = data.batch(np.arange(len(data)))
    assert batch.state[:, 0].tolist() == [0, 1, 2, 10, 11]
    assert batch.next_state[:, 0].tolist() == [1, 2, 3, 11, 12]
    assert batch.action[:, 0].tolist() == [0, -1, -2, 0, -1]
    assert batch.terminated.tolist() == [False, False, False, False, True]
    # The third was cut off and knows no next action; the last needs none.
    assert data.usable(one_step=True).tolist() == [0, 1, 3, 4]
    assert batch.next_action[[0, 1, 3], 0].tolist() == [-1, -2, -1]
    assert data.usable(one_step=False).tolist() == [0, 1, 2, 3, 4]
    assert data.of(1).state[:, 0].tolist() == [10, 11]
    stacked = Transitions(data.trajectories, stack=2).batch(np.array([0, 2, 3]))
    assert stacked.state[:, [0, 2]].tolist() == [[0, 0], [1, 2], [10, 10]]
    assert stacked.next_state[:, [0, 2]].tolist() == [[0, 1], [2, 3], [10, 11]]


def test_draws_follow_from_their_seed_and_reach_everything():
    data = Transitions([walk(30), walk(30, start=100)])
    one, same = (data.draw(64, True, (1, 5)).state for _ in range(2))
    np.testing.assert_array_equal(one, same)
    for seed in ((1, 6), (2, 5)):
        assert not np.array_equal(one, data.draw(64, True, seed).state)
    drawn = data.draw(3000, True, (0, 0)).state[:, 0]
    assert set(drawn) == {*range(29), *range(100, 129)}


def test_some_trajectories_are_held_out():
    data = Transitions([walk(3, start=10 * i) for i in range(7)])
    rest, held = data.split(3)
    assert [t.states[0, 0] for t in held.trajectories] == [20, 50]
    assert [t.states[0, 0] for t in rest.trajectories] == [0, 10, 30, 40, 60]
    assert data.split(8)[1] is None
    assert data.split(8)[0] is data
    assert rest.stack == held.stack == 1
    assert [part.stack for part in Transitions(rest.trajectories, 2).split(3)] == [2, 2]


def test_a_digest_is_of_everything():
    same = walk(4), walk(3, start=10)
    digests = {
        Transitions(trajectories, stack).digest
        for trajectories, stack in (
            (same, 1),
            (same, 2),
            (same[::-1], 1),
            ((walk(4), walk(3, start=11)), 1),
            ((walk(4), walk(3, start=10, terminated=True)), 1),
            ((walk(4), walk(3, start=10, actions=np.ones((3, 1)))), 1),
            # The same states and actions, cut elsewhere.
            (still(4, 3), 1),
            (still(3, 4), 1),
        )
    }
    assert len(digests) == 8
    assert Transitions(same).digest == Transitions((walk(4), walk(3, 10))).digest


def still(*lengths):
    return [
        Trajectory(np.zeros((n + 1, 2)), np.zeros((n, 1)), terminated=False)
        for n in lengths
    ]


def test_a_spread_reaches_from_the_first_to_the_last():
    data = Transitions([walk(30), walk(30, start=100)])
    assert data.spread(4).state[:, 0].tolist() == [0, 19, 109, 129]
    assert len(data.spread(1000)) == 60


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transitions([]), "no trajectories: nothing to train on"),
        (lambda: walk(0), "no transition: it is one state long"),
        (lambda: walk(3, actions=np.zeros((4, 1))), r"4 actions and .* \(4, 2\)"),
        (lambda: walk(2, states=np.full((3, 2), np.nan)), "its states hold NaN"),
        (lambda: walk(2, actions=np.full((2, 1), np.inf)), "its actions hold NaN"),
        (
            lambda: Transitions([walk(2), walk(2, states=np.zeros((3, 5)), name="b")]),
            r"b has 5 features and actions of shape \(1,\), a trajectory has 2",
        ),
        (
            lambda: Transitions([walk(2), walk(2, actions=np.zeros((2, 3)))]),
            r"actions of shape \(3,\)",
        ),
        (lambda: Transitions([walk(1)]).usable(False), "1 transitions to train on:"),
        (
            lambda: Transitions([walk(1), walk(1)]).usable(True),
            "0 transitions to train on that know the action after them",
        ),
    ],
)
def test_data_that_is_no_data(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Recorded episodes


def test_a_folder_of_episodes(tmp_path):
    for i in range(3):
        success = np.arange(4) == i
        written = episode(seed=i, terminated=i == 1, success=success)
        written.save(tmp_path / f"{i}.safetensors")
    # The goal that they were rewarded for lies beside them.
    (tmp_path / "goal.safetensors").write_bytes(b"no episode")
    ticks = []
    recorded = load_trajectories(
        str(tmp_path), Features(PIXELS), on_progress=lambda *count: ticks.append(count)
    )
    assert ticks == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert len(recorded.trajectories) == 3
    assert recorded.about == {
        "data": "recorded: random", "env": ["toy"], "seeds": [4_000_000, 4_000_002],
    }  # fmt: skip
    for i, trajectory in enumerate(recorded.trajectories):
        exact = PIXELS.encode_images(pictures(5, i)).flatten(1)
        np.testing.assert_allclose(trajectory.states, exact, atol=1e-3)
        np.testing.assert_array_equal(trajectory.actions, episode(seed=i).actions)
        assert trajectory.terminated == (i == 1)
        assert trajectory.success.tolist() == [t == i for t in range(4)]
        assert trajectory.name == str(tmp_path / f"{i}.safetensors")
    # Not every episode says what its seed was.
    episode(seed=9, info={}).save(tmp_path / "9.safetensors")
    recorded = load_trajectories(str(tmp_path), Features(PIXELS))
    assert recorded.about["seeds"] == [4_000_000, 4_000_002]
    assert recorded.about["data"] == "recorded: random, unknown"
    states = load_trajectories(str(tmp_path), Features(None)).trajectories[1].states
    np.testing.assert_array_equal(states, episode(seed=1).states)


def test_episodes_that_lack_what_is_asked_for():
    thin = episode(frames=pictures(2), frame_steps=np.array([0, 4]))
    with pytest.raises(ValueError, match="e has pictures of 2 of its 5 states"):
        from_episode(thin, Features(PIXELS), None, "e")
    with pytest.raises(ValueError, match="e holds no states, only pictures"):
        from_episode(episode(states=None), Features(None), None, "e")
    small = episode(frames=pictures(5, size=8))
    with pytest.raises(ValueError, match="e: frames of 8x8 cannot be resized"):
        from_episode(small, Features(PIXELS), None, "e")


def test_sources_that_are_none(tmp_path):
    features = Features(PIXELS)
    with pytest.raises(ValueError, match="no such folder"):
        load_trajectories(str(tmp_path / "none"), features)
    with pytest.raises(ValueError, match="there are none in it"):
        load_trajectories(str(tmp_path), features)
    with pytest.raises(ValueError, match=r"pickles are never read.*from_sb3"):
        load_trajectories(str(tmp_path / "buffer.pkl"), features)


# Minari


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_minari_dataset(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    cut = np.array([False, False, True])
    for kind in ("pixels", "state"):
        env = PointMass(size=16, horizon=3, obs=kind)
        rng = np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (2, 3, 2)).astype(np.float32)
        seen = [
            [env.reset(seed=seed)[0], *(env.step(a)[0] for a in actions[seed])]
            for seed in range(2)
        ]
        minari.create_dataset_from_buffers(
            dataset_id=f"toy/{kind}-v0",
            buffer=[
                EpisodeBuffer(
                    observations=seen[i],
                    actions=list(actions[i]),
                    rewards=[0.0] * 3,
                    terminations=list(cut & bool(i)),
                    truncations=list(cut & (not i)),
                    infos={},
                )
                for i in range(2)
            ],
            observation_space=env.observation_space,
            action_space=env.action_space,
            algorithm_name="none",
            author="nobody",
            author_email="nobody",
            code_permalink="none",
            description="two episodes",
        )
        features = Features(PIXELS if kind == "pixels" else None)
        found = from_minari(f"toy/{kind}-v0", features).trajectories
        for i, trajectory in enumerate(found):
            exact = np.stack(seen[i])
            if kind == "pixels":
                exact = PIXELS.encode_images(exact).flatten(1).numpy()
            np.testing.assert_allclose(trajectory.states, exact, atol=1e-3)
            np.testing.assert_array_equal(trajectory.actions, actions[i])
            assert trajectory.terminated == bool(i)
    with pytest.raises(ValueError, match="no flat states in the observation: uint8"):
        from_minari("toy/pixels-v0", Features(None))


# A replay buffer of stable-baselines3


def played(obs, discrete=False, n_envs=2, steps=23, buffer=None, **options):
    """What an off-policy agent keeps of random play, and what really happened."""
    from stable_baselines3 import DQN, SAC
    from stable_baselines3.common.vec_env import DummyVecEnv

    def make():
        size = 16 if obs == "state" else 64
        env = PointMass(size=size, horizon=5, obs=obs, discrete=discrete)
        return gym.wrappers.TimeLimit(env, 5)

    policy = {"pixels": "CnnPolicy", "state": "MlpPolicy", "dict": "MultiInputPolicy"}
    agent = (DQN if discrete else SAC)(
        policy[obs],
        DummyVecEnv([make] * n_envs),
        buffer_size=buffer or 100,
        learning_starts=1000,
        policy_kwargs={"normalize_images": False, "net_arch": [4]}
        if obs == "state"
        else None,
        device="cpu",
        seed=0,
        **options,
    )
    agent.learn(steps * n_envs)
    return agent


def test_a_replay_buffer_of_states():
    buffer = played("state").replay_buffer
    found = from_sb3(buffer, Features(None)).trajectories
    # 23 steps of two environments, cut every 5 unless the target was there before.
    assert sum(len(t) for t in found) == 46
    assert all(len(t) <= 5 for t in found)
    rows = [buffer.observations[:23, env] for env in range(2)]
    at = 0
    flat = np.concatenate(rows)
    for trajectory in found:
        np.testing.assert_array_equal(
            trajectory.states[:-1], flat[at : at + len(trajectory)]
        )
        at += len(trajectory)
        if len(trajectory) == 5:
            assert not trajectory.terminated
    ends = [t.states[-1] for t in found]
    kept = np.concatenate([buffer.next_observations[:23, env] for env in range(2)])
    last = np.cumsum([len(t) for t in found]) - 1
    np.testing.assert_array_equal(ends, kept[last])
    assert np.concatenate([t.actions for t in found]).std() > 0.3


def test_a_replay_buffer_that_has_gone_round():
    buffer = played("state", n_envs=1, steps=37, buffer=20).replay_buffer
    assert buffer.full
    found = from_sb3(buffer, Features(None)).trajectories
    assert sum(len(t) for t in found) == 20
    # In the order of time: consecutive states are at most a step apart.
    for trajectory in found:
        moved = np.abs(np.diff(trajectory.states[:, :2], axis=0))
        assert moved.max() <= 0.1 + 1e-6


def test_replay_buffers_of_pictures_and_of_indices():
    buffer = played("dict", discrete=True, steps=8).replay_buffer
    found = from_sb3(buffer, Features(PIXELS)).trajectories
    assert found[0].actions.dtype == np.int64
    assert set(np.concatenate([t.actions for t in found])) <= {0, 1, 2, 3}
    # Channels come first in the buffer.
    first = np.moveaxis(buffer.observations["pixels"][0, 0], 0, -1)
    exact = PIXELS.encode_images(first[None]).flatten(1)[0]
    np.testing.assert_allclose(found[0].states[0], exact, atol=1e-3)


def test_actions_in_a_replay_buffer_are_those_of_the_environment():
    agent = played("state", steps=10)
    buffer = agent.replay_buffer
    scaled = np.concatenate(
        [t.actions for t in from_sb3(buffer, Features(None)).trajectories]
    )
    buffer.action_space = gym.spaces.Box(np.float32(-1), np.float32(3), (2,))
    found = np.concatenate(
        [t.actions for t in from_sb3(buffer, Features(None)).trajectories]
    )
    np.testing.assert_allclose(found, 1 + 2 * scaled, rtol=1e-6)
    kept = np.concatenate([buffer.actions[:10, env] for env in range(2)])
    np.testing.assert_allclose(scaled, kept, atol=1e-6)


def test_flat_numbers_are_joined_and_nothing_else_is():
    seen = {
        "where": np.arange(6.0).reshape(3, 2),
        "pixels": pictures(3),
        "touch": np.ones((3, 1)),
    }
    found = _states_of(seen, Features(None), "toy")
    assert found.tolist() == [[0, 1, 1], [2, 3, 1], [4, 5, 1]]


def test_replay_buffers_that_are_refused():
    agent = played("state", steps=5)
    with pytest.raises(ValueError, match=r"one entry of uint8 RGB pictures, found 0"):
        from_sb3(agent.replay_buffer, Features(PIXELS))
    agent.replay_buffer.reset()
    with pytest.raises(ValueError, match="replay buffer is empty"):
        from_sb3(agent.replay_buffer, Features(None))
    thrifty = played(
        "state",
        n_envs=1,
        steps=5,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    )
    with pytest.raises(ValueError, match="optimize_memory_usage=True"):
        from_sb3(thrifty.replay_buffer, Features(None))
