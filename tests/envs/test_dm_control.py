"""dm_control's environments: the suite's own behaviour, seeds, pictures, bad input."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers.envs import _gl
from genreward_wrappers.envs.dm_control import TASKS, DmControlEnv
from tests.envs.playing import (
    NOTHING_CHOSEN,
    actions_of,
    digest,
    making,
    refused,
    run,
)

# Not importorskip: who imports dm_control chooses how it draws.
if any(importlib.util.find_spec(name) is None for name in ("dm_control", "shimmy")):
    pytest.skip("no dm_control", allow_module_level=True)


make = making(DmControlEnv)


def upstream(task: str, seed: int) -> Any:
    """dm_control's own environment, without Shimmy and without this package."""
    _gl.choose_backend()
    from dm_control import suite

    domain, _, name = task.partition("-")
    return suite.load(domain, name, task_kwargs={"random": seed})


# What upstream does


@pytest.mark.parametrize(
    "task", ["walker-walk", "finger-turn_easy", "manipulator-bring_ball", "fish-swim"]
)
def test_states_and_rewards_are_upstreams(make, task):
    env, theirs = make(task, obs="state"), upstream(task, seed=7)

    def flat(timestep: Any) -> np.ndarray:
        parts = [np.atleast_1d(part).ravel() for part in timestep.observation.values()]
        return np.concatenate(parts).astype(np.float32)

    expected = flat(theirs.reset())
    state, _ = env.reset(seed=7)
    assert state.dtype == np.float32
    assert state in env.observation_space
    np.testing.assert_array_equal(state, expected)
    for action in actions_of(env, 7, 10):
        state, reward, terminated, truncated, _ = env.step(action)
        timestep = theirs.step(action.astype(np.float64))
        np.testing.assert_array_equal(state, flat(timestep))
        assert reward == timestep.reward
        assert not terminated
        assert not truncated
    sizes = [int(np.prod(shape)) for shape in env.state_layout.values()]
    assert list(env.state_layout) == list(timestep.observation)
    assert sum(sizes) == len(state)


def test_frames_a_second_follow_the_control_steps(make):
    for repeat, rate in ((1, 100), (2, 50)):
        env = make("cheetah-run", obs="state", action_repeat=repeat)
        assert env.metadata["render_fps"] == pytest.approx(rate)


def test_actions_are_clipped_to_the_bounds(make, monkeypatch):
    env = make("walker-walk", obs="state")
    env.reset(seed=0)
    taken, step = [], env._sim.step
    monkeypatch.setattr(env._sim, "step", lambda a: taken.append(a) or step(a))
    env.step(np.array([9, -9, 0.5, 0, 1, -1], np.float32))
    np.testing.assert_array_equal(taken, [[1, -1, 0.5, 0, 1, -1]])


@pytest.mark.parametrize(("repeat", "steps"), [(1, 1000), (3, 334)])
def test_the_suites_limit_truncates(make, repeat, steps):
    env = make("pendulum-swingup", obs="state", action_repeat=repeat)
    env.reset(seed=0)
    action = np.zeros(1, np.float32)
    ends = [env.step(action)[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]
    with pytest.raises(RuntimeError, match="reset"):
        env.step(action)
    env.reset()
    assert env.step(action)[2:4] == (False, False)


def test_an_end_of_the_task_itself_terminates(make):
    env = make("lqr-lqr_2_1", obs="state", action_repeat=4)
    env.reset(seed=0)
    env._sim.physics.data.qpos[:] = 0
    env._sim.physics.data.qvel[:] = 0
    env._sim.physics.forward()
    *_, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
    assert terminated
    assert not truncated
    assert env._control_steps == 1, "the repeats stop at the end"


# Seeds


def test_episodes_differ_and_follow_the_first_seed(make):
    def starts(env: DmControlEnv, seed: int | None) -> list[str]:
        first = env.reset(seed=seed)[0]
        return [digest([first]), *(digest([env.reset()[0]]) for _ in range(3))]

    env = make("reacher-easy", obs="state")
    large = 2**40 + 5
    for seed in (0, large):
        assert len(set(starts(env, seed))) == 4
        assert starts(env, seed) == starts(env, seed)
    for other in (5, 2**41 + 5):  # the same in the lower half
        assert set(starts(env, large)).isdisjoint(starts(env, other))
    # Without any seed, two environments are not one and the same.
    unseeded = [starts(make("reacher-easy", obs="state"), None) for _ in range(2)]
    assert set(unseeded[0]).isdisjoint(unseeded[1])


# Pictures


@pytest.mark.parametrize(
    ("task", "camera", "size"),
    [
        ("walker-walk", 0, (64, 64)),
        ("cheetah-run", "back", (48, 96)),
        ("reacher-hard", 0, (120, 80)),
        ("humanoid-walk", "egocentric", (64, 64)),
        ("fish-swim", -1, (64, 100)),
        ("quadruped-escape", "x", (64, 64)),
    ],
)
def test_full_quality_is_upstreams_picture(make, task, camera, size):
    env = make(task, camera=camera, size=size, render_quality="full")
    for seed in (0, 1):  # a second one: heights of the ground are new, for example
        frame, _ = env.reset(seed=seed)
        frame, *_ = env.step(actions_of(env, 0, 1)[0])
        height, width = size
        theirs = env._sim.physics.render(height, width, camera_id=camera)
        np.testing.assert_array_equal(frame, theirs)
    assert frame.std() > 5


def test_reflections_by_name(make):
    def frame(**quality: Any) -> np.ndarray:
        return make("walker-walk", render_quality=quality).reset(seed=0)[0]

    assert (frame(reflections=True) != frame()).any()
    np.testing.assert_array_equal(frame(reflections=False), frame())


def test_upstreams_own_renderer_is_not_disturbed_by_turns(make):
    theirs = upstream("walker-walk", 0)
    theirs.reset()
    alone = theirs.physics.render(64, 64, camera_id=0).copy()
    env = make("reacher-easy")
    ours, _ = env.reset(seed=0)
    for _ in range(3):
        again = theirs.physics.render(64, 64, camera_id=0)
        np.testing.assert_array_equal(again, alone)
        np.testing.assert_array_equal(env.reset(seed=0)[0], ours)
    env.close()
    np.testing.assert_array_equal(theirs.physics.render(64, 64, camera_id=0), alone)


# Registration, copies, workers


def test_the_tasks_are_those_of_the_installed_package():
    from dm_control import suite

    assert list(TASKS) == sorted(f"{d}-{t}" for d, t in suite.ALL_TASKS)
    assert all(f"dmc/{task}" in gym.registry for task in TASKS)


def test_limits_are_the_suites(make):
    for task in ("walker-walk", "humanoid_CMU-run", "lqr-lqr_6_2", "dog-fetch"):
        limit = upstream(task, 0)._step_limit
        spec = gym.spec(f"dmc/{task}")
        assert (spec.max_episode_steps or float("inf")) == limit


@pytest.mark.parametrize("first", ["genreward_wrappers", "shimmy"])
def test_shimmys_ids_still_work(first):
    second = {"genreward_wrappers": "shimmy", "shimmy": "genreward_wrappers"}[first]
    code = (
        "import gymnasium as gym\n"
        f"import {first}, {second}\n"
        "theirs = gym.make('dm_control/walker-walk-v0')\n"
        "ours = gym.make('dmc/walker-walk', obs='state')\n"
        "a, b = theirs.reset(seed=1)[0], ours.reset(seed=1)[0]\n"
        "print(sum(part.size for part in a.values()) == b.size)"
    )
    assert run(code, **NOTHING_CHOSEN) == "True"


# What goes wrong


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"task": "walker-wolk"}, ["'walker-wolk'", "'walker-walk'", "'walker-run'"]),
        ({"task": "wlker-walk"}, ["'wlker-walk'", "did you mean", "'cheetah'"]),
        ({"task": "walker"}, ["'walker'", "'walker-walk'"]),
        ({"task": 3}, ["3", "domain-task"]),
        ({"camera": "sid"}, ["'sid'", "0 ('side')", "1 ('back')", "-1"]),
        ({"camera": 2}, ["got 2", "0 ('side')"]),
        ({"camera": True}, ["got True"]),
    ],
)
def test_bad_arguments_are_quoted_with_what_would_do(kwargs, words):
    refused(DmControlEnv, kwargs, words)


def test_a_step_before_a_reset_is_refused(make):
    with pytest.raises(RuntimeError, match="reset"):
        make("walker-walk").step(np.zeros(6))


def test_the_end_is_quiet_when_dm_control_came_after_a_picture():
    """dm_control's hook takes away the display that the first picture was drawn on."""
    pytest.importorskip("metaworld")
    code = (
        "from genreward_wrappers.envs.dm_control import DmControlEnv\n"
        "from genreward_wrappers.envs.metaworld import MetaWorldEnv\n"
        "drawn = MetaWorldEnv('reach')\n"
        "drawn.reset(seed=0)\n"
        "other = DmControlEnv(obs='state')\n"
    )
    env = {k: v for k, v in os.environ.items() if k not in NOTHING_CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="Mesa")
def test_too_late_for_triton_is_a_warning_and_not_a_crash():
    code = (
        "import sys, warnings\n"
        "import dm_control.mujoco\n"
        "late = any('libLLVM' in line for line in open('/proc/self/maps'))\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    from genreward_wrappers.envs.dm_control import DmControlEnv\n"
        "    assert DmControlEnv().reset(seed=0)[0].std() > 1\n"
        "said = any('import triton' in str(w.message) for w in caught)\n"
        "print(said == late and (sys.modules['triton'] is None) == late)"
    )
    pytest.importorskip("triton")
    _gl.choose_backend()
    if os.environ.get("MUJOCO_GL") != "egl":
        pytest.skip("only EGL's display is opened at the import of dm_control")
    assert run(code) == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa")
def test_without_any_gl_states_work_and_pictures_say_what_to_install():
    code = (
        "import ctypes.util\n"
        "ctypes.util.find_library = lambda name: None\n"
        "from genreward_wrappers.envs.dm_control import DmControlEnv\n"
        "DmControlEnv('walker-walk', obs='state').reset(seed=0)\n"
        "try:\n"
        "    DmControlEnv('walker-walk').reset(seed=0)\n"
        "except RuntimeError as error:\n"
        "    print(error)"
    )
    says = run(code, **NOTHING_CHOSEN, PYOPENGL_PLATFORM=None)
    assert "libegl1" in says
    assert "libosmesa6" in says
