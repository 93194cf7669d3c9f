"""dm_control's environments: the suite's own behaviour, seeds, pictures, bad input."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from genreward_wrappers.envs import _gl
from genreward_wrappers.envs.dm_control import TASKS, DmControlEnv
from genreward_wrappers.envs.families import register_environments
from tests import ROOT

# Not importorskip: who imports dm_control chooses how it draws.
if any(importlib.util.find_spec(name) is None for name in ("dm_control", "shimmy")):
    pytest.skip("no dm_control", allow_module_level=True)


@pytest.fixture
def make(request):
    """Makes environments that are closed when the test is over."""

    def make(*args: Any, **kwargs: Any) -> DmControlEnv:
        env = DmControlEnv(*args, **kwargs)
        request.addfinalizer(env.close)
        return env

    return make


NOTHING_CHOSEN = {"MUJOCO_GL": None, "DISPLAY": None, "WAYLAND_DISPLAY": None}


def actions_of(env: gym.Env, seed: int, steps: int) -> np.ndarray:
    """Actions that the seed decides, in the bounds or in [-1, 1]."""
    low = np.maximum(env.action_space.low, -1)
    high = np.minimum(env.action_space.high, 1)
    size = (steps, *env.action_space.shape)
    return np.random.default_rng(seed).uniform(low, high, size).astype(np.float32)


def rollout(env: gym.Env, seed: int, steps: int = 4) -> list[Any]:
    """Observations and rewards of an episode with actions that the seed decides."""
    seen = [env.reset(seed=seed)[0]]
    for action in actions_of(env, seed, steps):
        observation, reward, *_ = env.step(action)
        seen += [observation, reward]
    return seen


def digest(seen: list[Any]) -> str:
    content = b"".join(np.ascontiguousarray(item).tobytes() for item in seen)
    return hashlib.sha256(content).hexdigest()


def run(code: str, **environ: str | None) -> str:
    """Runs code in a fresh interpreter; returns what it printed last."""
    env: dict[str, str] = dict(os.environ)
    for name, value in environ.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    return done.stdout.strip().splitlines()[-1]


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


def test_a_repeated_action_is_two_control_steps(make):
    once = make("cheetah-run", obs="state")
    twice = make("cheetah-run", obs="state", action_repeat=2)
    once.reset(seed=0)
    twice.reset(seed=0)
    action = np.full(6, 0.5, np.float32)
    a, b = once.step(action), once.step(action)
    state, reward, *_ = twice.step(action)
    np.testing.assert_array_equal(state, b[0])
    assert reward == a[1] + b[1]
    assert twice.metadata["render_fps"] == pytest.approx(50)
    assert once.metadata["render_fps"] == pytest.approx(100)


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


@pytest.mark.filterwarnings("ignore:.*a Box observation space m.*imum value is -?inf")
@pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend")
@pytest.mark.parametrize("obs", ["pixels", "state", "dict"])
def test_gymnasium_accepts_it(obs):
    env = gym.make("dmc/point_mass-easy", obs=obs, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


# Seeds


@pytest.mark.parametrize("task", ["point_mass-hard", "stacker-stack_2", "lqr-lqr_2_1"])
def test_seed_decides_everything_whatever_came_before(make, task):
    env = make(task, obs="state")
    first = digest(rollout(env, seed=3))
    for seed in (8, 9):
        rollout(env, seed, steps=20)
    assert digest(rollout(env, seed=3)) == first
    assert digest(rollout(make(task, obs="state"), seed=3)) == first
    assert digest(rollout(env, seed=4)) != first


def test_seed_means_the_same_in_another_process(make):
    code = (
        f"from {__name__} import *\n"
        "print(digest(rollout(DmControlEnv('finger-turn_hard'), seed=5)))"
    )
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    other = run(code, PYTHONPATH=path, PYTHONHASHSEED="1")
    assert other == digest(rollout(make("finger-turn_hard"), seed=5))


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


def test_fast_quality_differs_only_in_detail(make):
    fast, _ = make("walker-walk").reset(seed=0)
    full, _ = make("walker-walk", render_quality="full").reset(seed=0)
    assert 0 < np.abs(fast.astype(int) - full).mean() < 16


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


@pytest.fixture
def renders(monkeypatch):
    """Counts pictures drawn."""
    counted = []
    draw = _gl.OffscreenRenderer.render

    def counting(self, *args):
        counted.append(1)
        return draw(self, *args)

    monkeypatch.setattr(_gl.OffscreenRenderer, "render", counting)
    return counted


@pytest.mark.parametrize(
    ("obs", "asked", "drawn"),
    [("pixels", True, 3), ("dict", True, 3), ("state", True, 3), ("state", False, 0)],
)
def test_a_step_is_drawn_at_most_once(make, renders, obs, asked, drawn):
    env = make("walker-walk", obs=obs, render_mode="rgb_array")
    env.reset(seed=0)
    for step in range(3):
        if asked:
            env.render()[:] = 0
            assert env.render().max() > 0
        if step < 2:
            env.step(np.zeros(6, np.float32))
    assert len(renders) == drawn


# Registration, copies, workers


def test_the_tasks_are_those_of_the_installed_package():
    from dm_control import suite

    assert list(TASKS) == sorted(f"{d}-{t}" for d, t in suite.ALL_TASKS)


def test_limits_are_the_suites(make):
    for task in ("walker-walk", "humanoid_CMU-run", "lqr-lqr_6_2", "dog-fetch"):
        limit = upstream(task, 0)._step_limit
        spec = gym.spec(f"dmc/{task}")
        assert (spec.max_episode_steps or float("inf")) == limit


def test_registered_once():
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # gymnasium warns when it overwrites one
        register_environments()
    assert dict(gym.registry) == before
    assert all(f"dmc/{task}" in before for task in TASKS)


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


def test_spec_survives_json():
    env = gym.make(
        "dmc/cheetah-run",
        size=(32, 48),
        camera="back",
        obs="dict",
        render_quality={"samples": 2},
    )
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    first, second = env.reset(seed=0)[0], again.reset(seed=0)[0]
    np.testing.assert_array_equal(first["pixels"], second["pixels"])
    assert again.unwrapped.camera == "back"
    env.close()
    again.close()


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_pickles_with_an_open_renderer(make, pickler):
    env = make("walker-run", size=(32, 48), camera="back")
    expected = digest(rollout(env, seed=2))
    copy = pickler.loads(pickler.dumps(env))
    assert digest(rollout(copy, seed=2)) == expected
    copy.close()


def test_vectors_draw_the_same(make):
    expected = [make("reacher-easy", size=32).reset(seed=s)[0] for s in (3, 4)]
    envs = gym.make_vec("dmc/reacher-easy", num_envs=2, size=32)
    np.testing.assert_array_equal(envs.reset(seed=[3, 4])[0], expected)
    envs.close()
    factory = partial(DmControlEnv, "reacher-easy", size=32)
    envs = gym.vector.AsyncVectorEnv([factory, factory], context="spawn")
    np.testing.assert_array_equal(envs.reset(seed=[3, 4])[0], expected)
    envs.close()


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
        ({"size": 0}, ["size", "0"]),
        ({"obs": "pixel"}, ["'pixel'", "'pixels'", "'state'", "'dict'"]),
        ({"render_quality": "slow"}, ["'slow'", "'fast'", "'full'"]),
        ({"render_mode": "human"}, ["'human'", "'rgb_array'"]),
        ({"action_repeat": 0}, ["action_repeat", "0"]),
    ],
)
def test_bad_arguments_are_quoted_with_what_would_do(kwargs, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        DmControlEnv(**kwargs)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("action", [np.zeros(3), np.full(6, np.nan), [[0] * 6]])
def test_bad_actions_are_refused(make, action):
    env = make("walker-walk", obs="state")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="6 finite numbers"):
        env.step(action)


def test_a_step_before_a_reset_is_refused(make):
    with pytest.raises(RuntimeError, match="reset"):
        make("walker-walk").step(np.zeros(6))


def test_render_without_a_mode_says_so(make):
    env = make("walker-walk")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match='render_mode="rgb_array"'):
        assert env.render() is None


@pytest.mark.parametrize("missing", ["dm_control", "shimmy"])
def test_a_missing_package_names_the_extra(missing):
    code = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from genreward_wrappers.envs.dm_control import DmControlEnv\n"
        "try:\n"
        "    DmControlEnv()\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    assert "genreward-wrappers[dm-control]" in run(code)


def test_importing_loads_no_simulator():
    code = (
        "import sys, genreward_wrappers.envs.families as module\n"
        "module.register_environments()\n"
        "heavy = {'mujoco', 'dm_control', 'shimmy', 'torch', 'triton', 'OpenGL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run(code) == "[]"


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux needs the choice")
def test_rendering_before_torch_does_not_end_the_process():
    """Software GL and triton bring an LLVM each; the wrong order is a crash."""
    pytest.importorskip("torch")
    code = (
        "import os, sys\n"
        "from genreward_wrappers.envs.dm_control import DmControlEnv\n"
        "env = DmControlEnv('walker-walk', obs='state', render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "assert env.render().std() > 1\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "weight = torch.nn.Parameter(torch.zeros(1))\n"
        "weight.grad = torch.ones(1)\n"
        "torch.optim.Adam([weight]).step()\n"
        "print(os.environ['MUJOCO_GL'])"
    )
    assert run(code, **NOTHING_CHOSEN) in ("egl", "osmesa")


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
