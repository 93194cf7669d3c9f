"""The Meta-World environment: seeds, pictures, observation kinds, and not crashing."""

from __future__ import annotations

import functools
import gc
import hashlib
import os
import pickle
import subprocess
import sys
import warnings
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from genreward_wrappers.envs import _gl
from genreward_wrappers.envs.families import register_environments
from genreward_wrappers.envs.metaworld import (
    CAMERAS,
    TASKS,
    MetaWorldEnv,
    scripted_policy,
)
from tests import ROOT

pytest.importorskip("metaworld")

UP = np.array([0.0, 0.0, 1.0, 0.0], np.float32)


@pytest.fixture
def make(request):
    """Makes environments that are closed when the test is over."""

    def make(*args: Any, **kwargs: Any) -> MetaWorldEnv:
        env = MetaWorldEnv(*args, **kwargs)
        request.addfinalizer(env.close)
        return env

    return make


def rollout(env: MetaWorldEnv, seed: int, steps: int = 4) -> list[Any]:
    """Observations and rewards of an episode with actions that the seed decides."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 4))
    seen = [env.reset(seed=seed)[0]]
    for action in actions:
        observation, reward, *_ = env.step(action)
        seen += [observation, reward]
    return seen


def digest(seen: list[Any]) -> str:
    """A fingerprint of a rollout of arrays and numbers."""
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


# Seeds


@pytest.mark.parametrize("task", ["pick-place", "window-open", "door-lock"])
def test_seed_decides_everything_whatever_came_before(make, task):
    env = make(task, obs="pixels")
    first = digest(rollout(env, seed=3))
    for seed in (8, 9):
        rollout(env, seed, steps=20)
    assert digest(rollout(env, seed=3)) == first
    assert digest(rollout(make(task, obs="pixels"), seed=3)) == first
    assert digest(rollout(env, seed=4)) != first


def test_seed_means_the_same_in_another_process(make):
    code = (
        f"from {__name__} import *\n"
        "print(digest(rollout(MetaWorldEnv('reach'), seed=5)))"
    )
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    other = run(code, PYTHONPATH=path, PYTHONHASHSEED="1")
    assert other == digest(rollout(make("reach"), seed=5))


def test_positions_are_new_in_every_episode_and_follow_the_first_seed(make):
    def goals(seed: int) -> np.ndarray:
        env = make("pick-place", obs="state")
        first = env.reset(seed=seed)[0]
        return np.stack([first, *(env.reset()[0] for _ in range(4))])[:, -3:]

    assert len(np.unique(goals(0), axis=0)) == 5
    np.testing.assert_array_equal(goals(0), goals(0))
    assert not np.isin(goals(0), goals(1)).any()


# Pictures


def project(env: MetaWorldEnv, point: np.ndarray) -> np.ndarray:
    """(row, column) of a point of the world, for a camera hanging as upstream's."""
    data, camera = env._sim.data, env._camera_id
    height, width = env.size
    axes = data.cam_xmat[camera].reshape(3, 3)
    right, up, back = axes.T @ (point - data.cam_xpos[camera])
    focal = height / 2 / np.tan(np.deg2rad(env._sim.model.cam_fovy[camera]) / 2)
    row = height / 2 - focal * up / -back
    column = width / 2 + focal * right / -back
    return np.array([row, column])


def goal_mark(frame: np.ndarray) -> np.ndarray:
    """(row, column) of the middle of pick-place's blue dot."""
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    rows, columns = np.nonzero((blue > 60) & (blue > red + 50) & (blue > green + 50))
    assert len(rows) > 3, "the goal's mark is not in the picture"
    return np.array([rows.mean(), columns.mean()]) + 0.5


@pytest.mark.parametrize("camera", ["corner", "corner2", "corner3", "corner4"])
@pytest.mark.parametrize("size", [(128, 160)])
def test_corner_cameras_are_turned_and_not_mirrored(make, camera, size):
    env = make("pick-place", size=size, camera=camera)
    frame, _ = env.reset(seed=0)
    goal = env._sim._target_pos
    # Half a circle about the middle of the picture: both coordinates change sign.
    expected = np.array(size) - project(env, goal)
    np.testing.assert_allclose(goal_mark(frame), expected, atol=2)
    # Up in the world is up in the picture.
    row, _ = np.array(size) - project(env, goal + 0.1 * UP[[0, 1, 2]])
    assert row < expected[0] - 3


@pytest.mark.parametrize("camera", ["topview", "behindGripper"])
def test_other_cameras_are_left_as_they_are(make, camera):
    env = make("pick-place", size=128, camera=camera)
    frame, _ = env.reset(seed=0)
    mark = goal_mark(frame)
    np.testing.assert_allclose(mark, project(env, env._sim._target_pos), atol=2)


def test_a_rising_arm_rises_in_the_picture(make):
    env = make("reach", size=(64, 64))
    before, _ = env.reset(seed=0)
    for _ in range(25):
        after, *_ = env.step(UP)

    def height_of_the_fingers(frame: np.ndarray) -> float:
        # The left finger is the only cyan thing in the scene.
        cyan = (frame[..., 1] > 100) & (frame[..., 2] > 100) & (frame[..., 0] < 60)
        return float(np.nonzero(cyan)[0].mean())

    assert height_of_the_fingers(after) < height_of_the_fingers(before) - 3


def test_corner2_is_at_the_documented_place(make):
    env = make("pick-place", camera="corner2")
    position = env._sim.model.cam_pos[env._camera_id]
    np.testing.assert_allclose(position, [0.75, 0.075, 0.7])


def test_two_tasks_by_turns_do_not_disturb_each_other(make):
    def interleave() -> str:
        env = make("pick-place")
        # Not from the fixture: this one is dropped half-way without being closed.
        other = MetaWorldEnv("window-open", size=48, render_quality="full")
        seen = [env.reset(seed=1)[0]]
        other.reset(seed=2)
        for step in range(6):
            if step == 3:
                del other
                gc.collect()
            elif step < 3:
                other.step(UP)
            seen.append(env.step(UP)[0])
        return digest(seen)

    env = make("pick-place")
    alone = [env.reset(seed=1)[0], *(env.step(UP)[0] for _ in range(6))]
    assert interleave() == digest(alone)


def test_full_quality_differs_only_in_detail(make):
    fast, _ = make("reach", render_quality="fast").reset(seed=0)
    full, _ = make("reach", render_quality="full").reset(seed=0)
    difference = np.abs(fast.astype(int) - full).mean()
    assert 0 < difference < 16


def test_quality_by_name(make):
    def frame(render_quality: Any) -> np.ndarray:
        env = make("reach", render_quality=render_quality)
        vis = env._sim.model.vis
        before = vis.global_.offwidth, vis.quality.offsamples, vis.quality.shadowsize
        picture, _ = env.reset(seed=0)
        after = vis.global_.offwidth, vis.quality.offsamples, vis.quality.shadowsize
        assert before == after, "others draw this model, too"
        return picture

    everything = {
        "shadows": True,
        "reflections": True,
        "samples": None,
        "whole_meshes": True,
    }
    np.testing.assert_array_equal(frame(everything), frame("full"))
    np.testing.assert_array_equal(frame({}), frame("fast"))
    nothing = frame("fast").astype(int)
    darker = nothing - frame({"shadows": True}) > 10
    assert darker.mean() > 0.01, "there is no shadow"
    smoothed = frame({"samples": 4})
    colours = len(np.unique(smoothed.reshape(-1, 3), axis=0))
    assert colours > len(np.unique(nothing.reshape(-1, 3), axis=0)), "edges are hard"


def test_size_is_height_and_width(make):
    env = make("reach", size=[40, 96], render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    assert env.size == (40, 96)
    assert frame.shape == env.render().shape == (40, 96, 3)
    assert frame.dtype == np.uint8


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
    [
        ("pixels", True, 3),
        ("dict", True, 3),
        ("state", True, 3),
        ("pixels", False, 3),
        ("state", False, 0),
    ],
)
def test_a_step_is_drawn_at_most_once(make, renders, obs, asked, drawn):
    env = make("reach", obs=obs, render_mode="rgb_array")
    env.reset(seed=0)
    for step in range(3):
        if asked:
            env.render()[:] = 0
            np.testing.assert_array_less(0, env.render().max())
        if step < 2:
            env.step(UP)
    assert len(renders) == drawn


def test_a_frame_in_hand_does_not_change_later(make):
    env = make("reach", render_mode="rgb_array")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    first_render = env.render()
    env.step(UP)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first_render, kept)


# Observations and rewards


@pytest.mark.parametrize("obs", ["pixels", "state", "dict"])
@pytest.mark.filterwarnings("ignore:.*a Box observation space maximum value is inf")
@pytest.mark.filterwarnings("ignore:.*a Box observation space minimum value is -inf")
def test_gymnasium_accepts_it(obs):
    env = gym.make("metaworld/reach", obs=obs, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize(
    "task", ["reach", "window-open", "drawer-open", "dial-turn", "basketball", "hammer"]
)
def test_state_is_up_to_date_and_shows_the_goal(make, task):
    import mujoco

    env = make(task, obs="state")
    state, _ = env.reset(seed=0)
    assert state in env.observation_space
    np.testing.assert_allclose(state[-3:], env._sim._target_pos)
    assert np.any(state[-3:] != 0)
    mujoco.mj_forward(env._sim.model, env._sim.data)
    current = env._sim._get_curr_obs_combined_no_goal()
    np.testing.assert_allclose(state[:18], current, atol=1e-9)
    np.testing.assert_allclose(state[18:36], current, atol=1e-9)
    assert env.step(UP)[0] in env.observation_space


def test_dict_is_both(make):
    both = rollout(make("push", obs="dict"), seed=0)[0]
    assert sorted(both) == ["pixels", "state"]
    pixels = rollout(make("push", obs="pixels"), seed=0)[0]
    state = rollout(make("push", obs="state"), seed=0)[0]
    np.testing.assert_array_equal(both["pixels"], pixels)
    np.testing.assert_array_equal(both["state"], state)


def test_rewards_and_success(make):
    policy = scripted_policy("drawer-close")
    returns = {}
    for reward in ("dense", "sparse"):
        env = make("drawer-close", obs="state", reward=reward, action_repeat=2)
        state, info = env.reset(seed=0)
        assert not info["is_success"]
        rewards = []
        for _ in range(60):
            action = policy(state)
            assert action in env.action_space
            state, paid, terminated, truncated, info = env.step(action)
            assert not terminated
            assert not truncated
            rewards.append(paid)
            if reward == "sparse":
                assert paid == info["success"] == float(info["is_success"])
        assert info["is_success"]
        returns[reward] = rewards
    assert set(returns["sparse"]) == {0.0, 1.0}
    # A solved task pays 10 a control step, and each step here is two.
    assert returns["dense"][-1] == pytest.approx(20)
    assert max(returns["dense"][:3]) < 10


def test_a_repeated_action_is_two_steps(make):
    once = make("push", obs="state")
    twice = make("push", obs="state", action_repeat=2)
    once.reset(seed=0)
    twice.reset(seed=0)
    a, b = once.step(UP), once.step(UP)
    state, reward, *_ = twice.step(UP)
    np.testing.assert_array_equal(state, b[0])
    assert reward == pytest.approx(a[1] + b[1])


def test_episodes_may_be_longer_than_upstream_allows(make):
    env = make("reach", obs="state", action_repeat=2)
    env.reset(seed=0)
    for _ in range(300):
        *_, truncated, _ = env.step(UP)
        assert not truncated


# Registration, copies, workers


def test_the_tasks_are_those_of_the_installed_package():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    assert sorted(TASKS) == sorted(ALL_V3_ENVIRONMENTS) == sorted(ENV_POLICY_MAP)
    assert len(set(TASKS)) == 50


def test_registered_with_a_time_limit_and_only_once():
    register_environments()
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # gymnasium warns when it overwrites one
        register_environments()
    assert dict(gym.registry) == before
    for task in TASKS:
        spec = gym.spec(f"metaworld/{task.removesuffix('-v3')}")
        assert spec.max_episode_steps == 256
        assert spec.kwargs == {"task": task}


def test_spec_survives_json():
    env = gym.make(
        "metaworld/reach",
        size=(32, 48),
        camera="corner",
        obs="dict",
        render_quality={"shadows": True, "samples": 2},
    )
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    first, second = env.reset(seed=0)[0], again.reset(seed=0)[0]
    np.testing.assert_array_equal(first["pixels"], second["pixels"])
    assert again.unwrapped.size == (32, 48)
    assert again.unwrapped.camera == "corner"
    env.close()
    again.close()


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_pickles_with_an_open_renderer(make, pickler):
    env = make("push", size=(32, 48), camera="corner3")
    expected = digest(rollout(env, seed=2))
    copy = pickler.loads(pickler.dumps(env))
    assert digest(rollout(copy, seed=2)) == expected
    copy.close()


def test_spawned_workers_draw_the_same(make):
    factory = functools.partial(MetaWorldEnv, "reach", size=32)
    envs = gym.vector.AsyncVectorEnv([factory, factory], context="spawn")
    frames, _ = envs.reset(seed=[3, 4])
    envs.close()
    for frame, seed in zip(frames, (3, 4), strict=True):
        expected, _ = make("reach", size=32).reset(seed=seed)
        np.testing.assert_array_equal(frame, expected)


def test_close_may_be_called_twice_and_leaves_others_alone(make):
    env, other = make("reach"), make("reach")
    expected, _ = other.reset(seed=0)
    env.reset(seed=0)
    env.close()
    env.close()
    np.testing.assert_array_equal(other.reset(seed=0)[0], expected)


# What goes wrong


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"task": "pick-plaice"}, ["'pick-plaice'", "'pick-place-v3'", "50"]),
        ({"task": "zzz"}, ["'zzz'", "50"]),
        ({"camera": "corner9"}, ["'corner9'", *CAMERAS]),
        ({"size": 0}, ["size", "0"]),
        ({"size": "64"}, ["size", "'64'"]),
        ({"size": 64.0}, ["size", "64.0"]),
        ({"size": (64, 64, 3)}, ["size", "(64, 64, 3)"]),
        ({"obs": "pixel"}, ["'pixel'", "'pixels'", "'state'", "'dict'"]),
        ({"reward": "shaped"}, ["'shaped'", "'dense'", "'sparse'"]),
        ({"render_quality": "slow"}, ["'slow'", "'fast'", "'full'"]),
        ({"render_quality": {"shadow": True}}, ["{'shadow': True}", "'shadows'"]),
        ({"render_quality": {"shadows": 1}}, ["{'shadows': 1}", "True or False"]),
        ({"render_quality": {"samples": -1}}, ["{'samples': -1}", "a whole number"]),
        ({"render_quality": {"samples": True}}, ["{'samples': True}", "whole number"]),
        ({"render_quality": {"whole_meshes": 0}}, ["'whole_meshes'", "True or False"]),
        ({"render_mode": "human"}, ["'human'", "'rgb_array'"]),
        ({"action_repeat": 0}, ["action_repeat", "0"]),
        ({"action_repeat": 1.5}, ["action_repeat", "1.5"]),
    ],
)
def test_bad_arguments_are_quoted_with_what_would_do(kwargs, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        MetaWorldEnv(**kwargs)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("action", [np.zeros(3), np.full(4, np.nan), [[0, 0, 0, 0]]])
def test_bad_actions_are_refused(make, action):
    env = make("reach", obs="state")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="4 finite numbers"):
        env.step(action)


def test_render_without_a_mode_says_so(make):
    env = make("reach")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match='render_mode="rgb_array"'):
        assert env.render() is None


@pytest.mark.parametrize("missing", ["metaworld", "mujoco"])
def test_a_missing_package_names_the_extra(missing):
    code = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from genreward_wrappers.envs.metaworld import MetaWorldEnv, scripted_policy\n"
        "for use in (MetaWorldEnv, lambda: scripted_policy('reach')):\n"
        "    try:\n"
        "        use()\n"
        "    except ImportError as error:\n"
        "        assert 'genreward-wrappers[metaworld]' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError('no error')\n"
        "print('fine')"
    )
    assert run(code) == "fine"


def test_importing_loads_no_simulator():
    code = (
        "import sys, genreward_wrappers.envs.families as module\n"
        "module.register_environments()\n"
        "heavy = {'mujoco', 'metaworld', 'torch', 'triton', 'OpenGL', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run(code) == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux needs the choice")
def test_rendering_before_torch_does_not_end_the_process():
    """Software GL and triton bring an LLVM each; the wrong order is a crash."""
    pytest.importorskip("stable_baselines3")
    code = (
        "import os, sys\n"
        "from genreward_wrappers.envs.metaworld import MetaWorldEnv\n"
        "env = MetaWorldEnv('reach', obs='state', render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "assert env.render().std() > 1\n"
        "assert 'torch' not in sys.modules\n"
        "from stable_baselines3 import PPO\n"
        "agent = PPO('MlpPolicy', env, n_steps=8, batch_size=8, n_epochs=1)\n"
        "agent.learn(8)\n"
        "print(os.environ['MUJOCO_GL'])"
    )
    nothing = {"MUJOCO_GL": None, "DISPLAY": None, "WAYLAND_DISPLAY": None}
    assert run(code, **nothing) in ("egl", "osmesa")


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
def test_a_fork_after_drawing_is_an_error_and_not_a_standstill():
    code = (
        "import multiprocessing\n"
        "from genreward_wrappers.envs.metaworld import MetaWorldEnv\n"
        "def child(env, say):\n"
        "    for draw in (env, MetaWorldEnv('reach')):\n"
        "        try:\n"
        "            draw.reset(seed=0)\n"
        "        except RuntimeError as error:\n"
        "            say.put('spawn' in str(error))\n"
        "        draw.close()\n"
        "    say.put('end')\n"
        "env = MetaWorldEnv('reach')\n"
        "env.reset(seed=0)\n"
        "fork = multiprocessing.get_context('fork')\n"
        "said = fork.Queue()\n"
        "process = fork.Process(target=child, args=(env, said), daemon=True)\n"
        "process.start()\n"
        "print([said.get(timeout=60) for _ in range(3)])\n"
        "env.reset(seed=1)"
    )
    assert run(code) == "[True, True, 'end']"


def test_the_backend_is_not_chosen_for_users(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    _gl.choose_backend()
    assert os.environ["MUJOCO_GL"] == "glfw"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", ":0")
    _gl.choose_backend()
    assert "MUJOCO_GL" not in os.environ


def test_a_damaged_egl_library_counts_as_none(monkeypatch, tmp_path):
    library = tmp_path / "libEGL.so.1"
    library.touch()
    monkeypatch.setattr("ctypes.util.find_library", lambda name: str(library))
    assert not _gl._egl_works()


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa")
def test_two_backends_in_one_process_are_refused():
    code = (
        "import os\n"
        "from genreward_wrappers.envs.metaworld import MetaWorldEnv\n"
        "env = MetaWorldEnv('reach')\n"
        "env.reset(seed=0)\n"
        "first = os.environ['MUJOCO_GL']\n"
        "os.environ['MUJOCO_GL'] = 'osmesa' if first == 'egl' else 'egl'\n"
        "try:\n"
        "    MetaWorldEnv('reach').reset(seed=0)\n"
        "except RuntimeError as error:\n"
        "    assert repr(first) in str(error), error\n"
        "    assert repr(os.environ['MUJOCO_GL']) in str(error), error\n"
        "    assert 'has drawn with' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no error')\n"
        "env.reset(seed=1)\n"
        "print('still draws')"
    )
    assert run(code, MUJOCO_GL=None, DISPLAY=None) == "still draws"


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa")
def test_another_packages_backend_is_named():
    code = (
        "import os, mujoco\n"
        "os.environ['MUJOCO_GL'] = 'osmesa'\n"
        "from genreward_wrappers.envs.metaworld import MetaWorldEnv\n"
        "try:\n"
        "    MetaWorldEnv('reach').reset(seed=0)\n"
        "except RuntimeError as error:\n"
        "    print(error)"
    )
    says = run(code, MUJOCO_GL="egl", PYOPENGL_PLATFORM="egl")
    assert "'osmesa'" in says
    assert "another package has already chosen 'egl'" in says


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa")
@pytest.mark.parametrize("chosen", [None, "osmesa", "off"])
def test_without_any_gl_it_says_what_to_install(chosen):
    code = (
        "import ctypes.util, os, sys\n"
        "ctypes.util.find_library = lambda name: None\n"
        "import mujoco\n"
        "sys.modules['mujoco.osmesa'] = None\n"
        "from genreward_wrappers.envs.metaworld import MetaWorldEnv\n"
        f"if {chosen!r}:\n"
        f"    os.environ['MUJOCO_GL'] = {chosen!r}\n"
        "env = MetaWorldEnv('reach', obs='state', render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "try:\n"
        "    env.render()\n"
        "except RuntimeError as error:\n"
        "    print(error)"
    )
    nothing = {"MUJOCO_GL": None, "DISPLAY": None, "WAYLAND_DISPLAY": None}
    says = run(code, **nothing, PYOPENGL_PLATFORM=None)
    assert "cannot draw" in says
    assert "apt-get install" in says
    assert "libosmesa6" in says


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa")
@pytest.mark.parametrize("taken", ["egl", "osmesa"])
def test_what_another_package_has_chosen_is_taken_over(monkeypatch, taken):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYOPENGL_PLATFORM", taken)
    # To try EGL would close the display that the other package draws on.
    monkeypatch.setattr(_gl, "_egl_works", lambda: pytest.fail("it was tried"))
    _gl.choose_backend()
    assert os.environ["MUJOCO_GL"] == taken


def test_a_late_choice_still_counts():
    """Somebody imported mujoco before us, when nothing was chosen yet."""
    code = (
        "import mujoco\n"
        "from genreward_wrappers.envs.metaworld import MetaWorldEnv\n"
        "print(MetaWorldEnv('reach').reset(seed=0)[0].std() > 1)"
    )
    nothing = {"MUJOCO_GL": None, "DISPLAY": None, "WAYLAND_DISPLAY": None}
    assert run(code, **nothing) == "True"
