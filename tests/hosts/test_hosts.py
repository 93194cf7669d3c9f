"""Inside equals outside: one reward stream, whichever host computes it."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from genreward_wrappers import RewardModelWrapper, TapFrames, vector
from genreward_wrappers.sb3 import VecRewardModel
from genreward_wrappers.testing import PointMass, Traveller
from tests import ROOT

HORIZONS = (7, 11, 16)
STEPS = 60


def make_env(horizon, obs="pixels", tap=False, wrap=None, discrete=False):
    """Runs in worker processes too, so everything it needs comes as an argument."""
    env = PointMass(
        size=16,
        obs=obs,
        horizon=horizon,
        discrete=discrete,
        render_mode="rgb_array",
    )
    if tap:
        env = TapFrames(env, size=16)
    if wrap is not None:
        env = RewardModelWrapper(env, Traveller(), **wrap)
    return env


def actions_of(space, steps=STEPS, seed=5):
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def run_single(seed, horizon, actions, **kwargs):
    """The truth: one environment, one wrapper, reset by hand."""
    env = make_env(horizon, **kwargs)
    env.reset(seed=seed)
    rewards, ends = [], []
    for action in actions:
        *_, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        ends.append(terminated or truncated)
        if ends[-1]:
            env.reset()
    return np.array(rewards), np.array(ends)


def run_vector(envs, actions, mode):
    rewards, resetting = [], []
    _, infos = envs.reset(seed=3)
    ended = np.zeros(envs.num_envs, bool)
    for action in actions:
        resetting.append(ended & (mode == AutoresetMode.NEXT_STEP))
        _, reward, terminated, truncated, infos = envs.step(action)
        rewards.append(reward)
        ended = terminated | truncated
        if mode == AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended.copy()})
    envs.close()
    return np.array(rewards), np.array(resetting), infos


WRAP = {"weight": 2.0, "env_weight": 0.5}


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda m: m.name)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize(
    ("source", "env_kwargs"),
    [
        ("auto", {}),
        ("obs:pixels", {"obs": "dict"}),
        ("auto", {"obs": "state", "tap": True}),
        ("render", {"obs": "state"}),
    ],
    ids=["pixels", "dict", "tapped", "render"],
)
def test_inside_equals_outside(mode, kind, source, env_kwargs):
    inner_source = "info:tapped_frame" if env_kwargs.get("tap") else source
    if source == "render" and mode == AutoresetMode.SAME_STEP:
        pytest.skip("refused, see test_render_is_refused_under_same_step")
    wrap = {**WRAP, "frames": inner_source}
    inside = kind(
        [partial(make_env, h, wrap=wrap, **env_kwargs) for h in HORIZONS],
        autoreset_mode=mode,
    )
    outside = vector.RewardModelWrapper(
        kind(
            [partial(make_env, h, **env_kwargs) for h in HORIZONS],
            autoreset_mode=mode,
        ),
        Traveller(),
        frames=source,
        **WRAP,
    )
    actions = actions_of(inside.action_space)
    expected, resetting, inside_infos = run_vector(inside, actions, mode)
    actual, _, outside_infos = run_vector(outside, actions, mode)
    np.testing.assert_array_equal(actual, expected)
    assert len(np.unique(actual)) > STEPS, (
        "a reward that is always the same proves nothing"
    )
    if mode == AutoresetMode.NEXT_STEP:
        assert resetting.any()
        assert not actual[resetting].any()
    # SAME_STEP keeps the inside's last infos in final_info; otherwise they agree.
    for key in [k for k in inside_infos if "reward" in k]:
        if mode != AutoresetMode.SAME_STEP:
            np.testing.assert_array_equal(outside_infos[key], inside_infos[key])
    assert "tapped_frame" not in outside_infos


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_vector_equals_single_environments(mode):
    envs = SyncVectorEnv([partial(make_env, h) for h in HORIZONS], autoreset_mode=mode)
    envs = vector.RewardModelWrapper(envs, Traveller(), **WRAP)
    actions = actions_of(envs.action_space)
    rewards, *_ = run_vector(envs, actions, mode)
    for row, horizon in enumerate(HORIZONS):
        own, ends = run_single(3 + row, horizon, [a[row] for a in actions], wrap=WRAP)
        assert ends.sum() >= 3
        np.testing.assert_array_equal(rewards[:, row], own)


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
@pytest.mark.parametrize(
    ("source", "env_kwargs"),
    [
        ("auto", {}),
        ("auto", {"obs": "dict"}),
        ("auto", {"obs": "state", "tap": True}),
    ],
    ids=["pixels", "dict", "tapped"],
)
def test_sb3_equals_single_environments(kind, source, env_kwargs):
    venv = VecRewardModel(
        kind([partial(make_env, h, **env_kwargs) for h in HORIZONS]),
        Traveller(),
        frames=source,
        **WRAP,
    )
    venv.action_space.seed(5)
    actions = [
        np.stack([venv.action_space.sample() for _ in HORIZONS]) for _ in range(STEPS)
    ]
    venv.seed(3)
    venv.reset()
    rewards = []
    for action in actions:
        _, reward, _, infos = venv.step(action)
        rewards.append(reward)
        assert all({"reward_env", "reward_traveller"} <= set(info) for info in infos)
        assert not any("tapped_frame" in info for info in infos)
    venv.close()
    for row, horizon in enumerate(HORIZONS):
        own, _ = run_single(
            3 + row, horizon, [a[row] for a in actions], wrap=WRAP, **env_kwargs
        )
        np.testing.assert_allclose(np.array(rewards)[:, row], own, rtol=1e-6, atol=1e-6)


DEAD_WORKER = """
import warnings
from functools import partial
import os, signal
from stable_baselines3.common.vec_env import SubprocVecEnv
from genreward_wrappers.sb3 import VecRewardModel
from genreward_wrappers.testing import Traveller
from tests.hosts.test_hosts import make_env
if __name__ == "__main__":
    venv = SubprocVecEnv([partial(make_env, 7)] * 2, start_method="fork")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        venv = VecRewardModel(venv, Traveller())
    print(*(w.message for w in caught))
    venv.reset()
    # The first worker holds the last one's end of the pipe, and keeps it open.
    os.kill(venv.unwrapped.processes[1].pid, signal.SIGKILL)
    venv.unwrapped.processes[1].join()
    venv.step_async([venv.action_space.sample()] * 2)
    venv.close()
    print("closed")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_forked_workers_are_warned_about_and_do_not_hold_up_the_end(tmp_path):
    (tmp_path / "run.py").write_text(DEAD_WORKER)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'start_method="forkserver"' in done.stdout
    assert done.stdout.endswith("closed\n")


def test_discrete_actions_reach_the_model():
    env = make_env(9, wrap=WRAP, discrete=True)
    env.reset(seed=0)
    snapshot = env.session.snapshot()
    paid = []
    for action in (0, 3):
        env.session.restore(snapshot)
        frame = snapshot.frames
        no = np.zeros(1, bool)
        paid.append(env.session.score(np.array([action]), frame, no, no))
    values = [scores["traveller"].value[0] for scores in paid]
    assert values[1] - values[0] == pytest.approx(3)


def test_a_partial_reset_leaves_the_other_rows_alone():
    envs = vector.RewardModelWrapper(
        SyncVectorEnv(
            [partial(make_env, 30) for _ in range(3)],
            autoreset_mode=AutoresetMode.DISABLED,
        ),
        Traveller(),
    )
    envs.reset(seed=0)
    for action in actions_of(envs.action_space, 4):
        envs.step(action)
    mask = np.array([False, True, False])
    options = {"reset_mask": mask}
    envs.reset(options=options)
    assert envs.session.steps.tolist() == [4, 0, 4]


@pytest.mark.parametrize("observe_kwargs", [{}, {"obs": "dict"}, {"obs": "state"}])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda m: m.name)
def test_progress_is_observed_alike_inside_and_outside(mode, observe_kwargs):
    wrap = {"observe": "progress", "horizon": 20, "frames": "auto"}
    tap = observe_kwargs.get("obs") == "state"
    inner = partial(make_env, tap=tap, **observe_kwargs)
    inside = SyncVectorEnv(
        [partial(inner, h, wrap=wrap) for h in HORIZONS], autoreset_mode=mode
    )
    outside = vector.RewardModelWrapper(
        SyncVectorEnv([partial(inner, h) for h in HORIZONS], autoreset_mode=mode),
        Traveller(),
        **wrap,
    )
    assert outside.observation_space == inside.observation_space
    assert outside.single_observation_space == inside.single_observation_space
    first = inside.reset(seed=0)[0], outside.reset(seed=0)[0]
    same(*first)
    for action in actions_of(inside.action_space, 30):
        a, _, terminated, truncated, a_infos = inside.step(action)
        b, *_, b_infos = outside.step(action)
        same(a, b)
        assert b in outside.observation_space
        ended = terminated | truncated
        if mode == AutoresetMode.SAME_STEP:
            for row in np.flatnonzero(ended):
                same(a_infos["final_obs"][row], b_infos["final_obs"][row])
        if mode == AutoresetMode.DISABLED and ended.any():
            for envs in (inside, outside):
                envs.reset(options={"reset_mask": ended.copy()})


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


def test_progress_in_sb3_and_in_its_terminal_observation():
    venv = VecRewardModel(
        DummyVecEnv([partial(make_env, 7, obs="state", tap=True)]),
        Traveller(),
        observe="progress",
        horizon=7,
    )
    assert venv.observation_space.shape == (5,)
    assert venv.reset()[0, -1] == 0
    for step in range(1, 8):
        observations, _, dones, infos = venv.step(np.zeros((1, 2), np.float32))
        if step < 7:
            assert observations[0, -1] == pytest.approx(step / 7)
    assert dones[0]
    assert infos[0]["terminal_observation"][-1] == 1
    assert observations[0, -1] == 0


def test_render_is_refused_under_same_step():
    envs = SyncVectorEnv(
        [partial(make_env, 7, obs="state")], autoreset_mode=AutoresetMode.SAME_STEP
    )
    with pytest.raises(ValueError, match="SAME_STEP"):
        vector.RewardModelWrapper(envs, Traveller())
    with pytest.raises(ValueError, match="TapFrames"):
        VecRewardModel(DummyVecEnv([partial(make_env, 7, obs="state")]), Traveller())


@pytest.mark.parametrize("single", [True, False])
def test_step_before_reset_and_after_the_end(single):
    env = make_env(2, wrap={})
    if not single:
        envs = SyncVectorEnv(
            [partial(make_env, 2)] * 2, autoreset_mode=AutoresetMode.DISABLED
        )
        env = vector.RewardModelWrapper(envs, Traveller())
    action = env.action_space.sample()
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(action)
    env.reset(seed=0)
    env.step(action)
    env.step(action)
    with pytest.raises(RuntimeError, match="after the end"):
        env.step(action)


def test_seeds_reproduce_and_differ_between_episodes():
    env = make_env(9, wrap={})
    place = {"position": (0.5, 0.5), "target": (-0.5, 0)}

    def first_reward(seed=None):
        env.reset(seed=seed, options=place)
        return env.step(np.zeros(2, np.float32))[1]

    one, two = first_reward(1), first_reward()
    assert one != two, "the noise of an episode is its own"
    assert first_reward(1) == one
    assert first_reward() == two
    assert first_reward(2) != one


def test_wrappers_keep_gymnasium_and_sb3_contracts():
    from gymnasium.utils.env_checker import check_env
    from stable_baselines3.common.env_checker import check_env as check_sb3

    for obs in ("pixels", "dict"):
        for wrap in ({}, {"observe": "progress", "horizon": 9}):
            env = make_env(9, obs=obs, wrap=wrap)
            # Traveller's noise follows the seed, so determinism is checked too.
            check_env(env, skip_render_check=True)
    check_sb3(make_env(9, obs="dict", wrap={}))


def test_a_vector_environment_must_say_how_it_resets():
    envs = SyncVectorEnv([partial(make_env, 7)])
    envs.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        vector.RewardModelWrapper(envs, Traveller())


def test_info_without_the_wanted_frame_names_the_step():
    env = RewardModelWrapper(
        TapFrames(make_env(10, obs="state"), size=16, length=3, horizon=10),
        Traveller(),
        frames="info:tapped_frame",
    )
    env.reset(seed=0)
    with pytest.raises(KeyError, match="frame of step 1"):
        env.step(np.zeros(2, np.float32))


def test_gym_make_wrappers_do_not_hide_the_frames():
    env = gym.wrappers.TimeLimit(make_env(100), max_episode_steps=5)
    env = RewardModelWrapper(env, Traveller(), observe=None)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(5)]
    assert ends == [False] * 4 + [True]


def make_gen_env(horizon, path, name, options):
    """An environment with one of the public wrappers inside, in a worker perhaps."""
    import genreward_wrappers

    env = PointMass(size=32, horizon=horizon)
    return getattr(genreward_wrappers, name)(env, path, **options)


@pytest.fixture(scope="module")
def goal_path(goal, tmp_path_factory):
    """The small goal with untrained forward-backward nets, as a file."""
    import torch

    from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets

    torch.manual_seed(0)
    config = FBConfig(features=3 * 8 * 8, actions=2, z=8, hidden=16)
    weights, shape = FBNets(config).to_arrays()
    statistics = {"mean": 0.0, "std": 1.0}
    path = tmp_path_factory.mktemp("goals") / "goal.safetensors"
    nets_config = {**shape, "statistics": statistics}
    goal.with_(nets=weights, nets_config=nets_config).save(path)
    return str(path)


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda m: m.name)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("VideoLevelReward", {}),
        ("VideoLevelReward", {"reading": "stream", "length": 5, "payment": "hold"}),
        ("VideoLevelReward", {"reading": "window", "window": 4, "length": 3}),
        ("FrameLevelReward", {"form": "difference"}),
        ("GenRewardWrapper", {"video_weight": 2.0, "frame_weight": 0.5}),
    ],
    ids=["frames", "stream", "window", "frame-level", "both"],
)
def test_each_reward_inside_equals_outside(mode, kind, name, options, goal_path):
    options = {"encoder": "pixels", "horizon": 12, "device": "cpu", **options}
    if name == "FrameLevelReward":
        options["horizon"] = None
    inside = kind(
        [partial(make_gen_env, h, goal_path, name, options) for h in HORIZONS],
        autoreset_mode=mode,
    )
    outside = getattr(vector, name)(
        kind([partial(PointMass, size=32, horizon=h) for h in HORIZONS],
             autoreset_mode=mode),
        goal_path,
        **options,
    )  # fmt: skip
    actions = actions_of(inside.action_space, 40)
    expected, _, _ = run_vector(inside, actions, mode)
    actual, _, _ = run_vector(outside, actions, mode)
    # Batches of another size round otherwise, and by no more.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(actual)) > 10


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_gen_reward_in_sb3_equals_single_environments(kind, goal_path):
    from genreward_wrappers.sb3 import VecGenReward

    options = {"encoder": "pixels", "horizon": 12, "device": "cpu"}
    venv = VecGenReward(
        kind([partial(PointMass, size=32, horizon=h) for h in HORIZONS]),
        goal_path,
        **options,
    )
    venv.action_space.seed(5)
    actions = [
        np.stack([venv.action_space.sample() for _ in HORIZONS]) for _ in range(40)
    ]
    venv.seed(3)
    venv.reset()
    rewards = np.array([venv.step(action)[1] for action in actions])
    venv.close()
    for row, horizon in enumerate(HORIZONS):
        env = make_gen_env(horizon, goal_path, "GenRewardWrapper", options)
        env.reset(seed=3 + row)
        for step, action in enumerate(actions):
            _, reward, terminated, truncated, _ = env.step(action[row])
            assert rewards[step, row] == pytest.approx(reward, rel=1e-5, abs=1e-5)
            if terminated or truncated:
                env.reset()


def test_an_environment_of_another_world_is_told_where_to_go():
    worlds = {
        RewardModelWrapper: PointMass(),
        vector.RewardModelWrapper: SyncVectorEnv([PointMass]),
        VecRewardModel: DummyVecEnv([PointMass]),
    }
    for wrapper, own in worlds.items():
        for env in worlds.values():
            if env is own:
                wrapper(env, Traveller())
                continue
            with pytest.raises(TypeError, match="expected a .*genreward_wrappers.sb3"):
                wrapper(env, Traveller())
    with pytest.raises(ValueError, match="horizon=0"):
        RewardModelWrapper(PointMass(), Traveller(), horizon=0)
