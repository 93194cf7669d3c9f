"""Properties: whatever the lengths of episodes, a host pays what a plain loop pays."""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from genreward_wrappers import RewardModelWrapper, vector
from genreward_wrappers.core import Session, check_frames
from genreward_wrappers.sb3 import VecRewardModel
from genreward_wrappers.testing import PointMass, Traveller

WEIGHTS = {"weight": 2.0, "env_weight": 0.5}

lengths = st.lists(st.integers(1, 7), min_size=1, max_size=5)
quick = settings(max_examples=25, deadline=None)


def make(horizon, wrapped=False):
    env = PointMass(size=8, horizon=horizon)
    return RewardModelWrapper(env, Traveller(), **WEIGHTS) if wrapped else env


def plain_loop(horizon, seed, actions, skipped):
    """The rewards of one wrapped environment that is reset by hand.

    Args:
        horizon: Steps an episode.
        seed: Of the first one.
        actions: What the agent does.
        skipped: Whether the step after an episode's last one resets, and pays nothing.
    """
    env = make(horizon, wrapped=True)
    env.reset(seed=seed)
    rewards, over = [], False
    for action in actions:
        if over and skipped:
            env.reset()
            rewards.append(0.0)
            over = False
            continue
        if over:
            env.reset()
        *_, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        over = terminated or truncated
    env.close()
    return rewards


@quick
@given(lengths, st.sampled_from(list(AutoresetMode)), st.integers(0, 2**32), st.data())
def test_vector_environments(horizons, mode, seed, data):
    count = data.draw(st.integers(1, 20))
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (count, len(horizons), 2)).astype(np.float32)
    envs = SyncVectorEnv([partial(make, h) for h in horizons], autoreset_mode=mode)
    envs = vector.RewardModelWrapper(envs, Traveller(), **WEIGHTS)
    envs.reset(seed=seed)
    found = []
    for action in actions:
        _, reward, terminated, truncated, _ = envs.step(action)
        found.append(reward)
        over = terminated | truncated
        if mode == AutoresetMode.DISABLED and over.any():
            envs.reset(options={"reset_mask": over.copy()})
    envs.close()
    skipped = mode == AutoresetMode.NEXT_STEP
    wanted = [
        plain_loop(horizon, seed + row, actions[:, row], skipped)
        for row, horizon in enumerate(horizons)
    ]
    np.testing.assert_array_equal(np.array(found), np.array(wanted).T)


@quick
@given(lengths, st.integers(0, 2**31), st.integers(1, 20))
def test_stable_baselines3(horizons, seed, count):
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (count, len(horizons), 2)).astype(np.float32)
    envs = DummyVecEnv([partial(make, h) for h in horizons])
    envs = VecRewardModel(envs, Traveller(), **WEIGHTS)
    envs.seed(seed)
    envs.reset()
    found = [envs.step(action)[1] for action in actions]
    envs.close()
    wanted = [
        plain_loop(horizon, seed + row, actions[:, row], skipped=False)
        for row, horizon in enumerate(horizons)
    ]
    np.testing.assert_allclose(found, np.array(wanted).T, rtol=1e-5, atol=1e-6)


@quick
@given(st.integers(1, 5), st.integers(0, 2**32), st.data())
def test_a_session_is_as_many_sessions_of_one_row(rows, seed, data):
    """Under any masks of rows that begin, and of rows in which nothing happens."""
    rng = np.random.default_rng(seed)
    together = Session([Traveller()], rows)
    alone = [Session([Traveller()], 1) for _ in range(rows)]
    masks = st.lists(st.booleans(), min_size=rows, max_size=rows).map(np.array)

    def pictures():
        return rng.integers(0, 256, (rows, 4, 4, 3)).astype(np.uint8)

    first = pictures()
    together.begin(first, seed=seed)
    for row, session in enumerate(alone):
        session.begin(first[row : row + 1], seed=seed + row)
    over = np.zeros(rows, bool)
    for _ in range(data.draw(st.integers(1, 8))):
        begins = over | data.draw(masks)
        if begins.any():
            frames = pictures()
            together.begin(frames, begins)
            for row in np.flatnonzero(begins):
                alone[row].begin(frames[row : row + 1])
        active, over = data.draw(masks), data.draw(masks)
        over = over & active
        frames, no = pictures(), np.zeros(rows, bool)
        scores = together.score(no, frames, over, no, active)["traveller"]
        for row, session in enumerate(alone):
            part = slice(row, row + 1)
            one = session.score(
                no[part], frames[part], over[part], no[part], active[part]
            )
            assert one["traveller"].value[0] == scores.value[row]
            assert one["traveller"].due[0] == scores.due[row]


@settings(deadline=None)
@given(
    st.sampled_from(["u1", "i1", "f4", "f8", "?", "u2", "c8"]),
    st.lists(st.integers(0, 4), max_size=6),
    st.integers(1, 4),
)
def test_frames_are_uint8_rgb_or_refused(kind, shape, count):
    frames = np.zeros(shape, kind)
    right = kind == "u1" and len(shape) == 4 and shape[0] == count and shape[3] == 3
    said = contextlib.nullcontext() if right else pytest.raises((ValueError, TypeError))
    with said:
        check_frames(frames, count)
