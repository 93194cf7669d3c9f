"""The Meta-World environment: seeds, pictures, observation kinds, and not crashing."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers.envs import _gl
from genreward_wrappers.envs.metaworld import (
    CAMERAS,
    TASKS,
    MetaWorldEnv,
    scripted_policy,
)
from tests.envs.playing import NOTHING_CHOSEN, digest, making, refused, rollout, run

pytest.importorskip("metaworld")

UP = np.array([0.0, 0.0, 1.0, 0.0], np.float32)

make = making(MetaWorldEnv)


# Seeds


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


def test_a_frame_in_hand_does_not_change_later(make):
    env = make("reach", render_mode="rgb_array")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    first_render = env.render()
    env.step(UP)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first_render, kept)


# Observations and rewards


def test_gymnasium_has_nothing_to_say_at_the_start(recwarn):
    env = gym.make("metaworld/box-close", obs="state")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    assert not recwarn.list


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


def test_registered_with_a_time_limit():
    for task in TASKS:
        spec = gym.spec(f"metaworld/{task.removesuffix('-v3')}")
        assert spec.max_episode_steps == 256
        assert spec.kwargs == {"task": task}


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
        ({"reward": "shaped"}, ["'shaped'", "'dense'", "'sparse'"]),
    ],
)
def test_bad_arguments_are_quoted_with_what_would_do(kwargs, words):
    refused(MetaWorldEnv, kwargs, words)


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
    says = run(code, **NOTHING_CHOSEN, PYOPENGL_PLATFORM=None)
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
    assert run(code, **NOTHING_CHOSEN) == "True"
