"""Pictures are right: upright by a marker, the same everywhere, and as they were.

    python -m tests.envs.test_pictures

draws the reference pictures in tests/envs/references anew; look at them before they are
committed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers.data.frames import area_resize
from genreward_wrappers.envs.metaworld import TASKS, MetaWorldEnv
from tests import ROOT

pytest.importorskip("metaworld")

REFERENCES = Path(__file__).parent / "references"
UP = np.array([0.0, 0.0, 1.0, 0.0], np.float32)

#: What the reference pictures show. The first frame after reset(seed=0), at 64x64.
PICTURED = {
    "pick-place": ("metaworld/pick-place", {}),
    "door-open": ("metaworld/door-open", {}),
    "window-close": ("metaworld/window-close", {"camera": "corner3"}),
    "drawer-open": ("metaworld/drawer-open", {"camera": "corner"}),
    "soccer": ("metaworld/soccer", {"camera": "topview"}),
    "hammer": ("metaworld/hammer", {"render_quality": "full"}),
}

#: How far off a picture may be: the mean difference of 16x16 averaged patches, of 255.
#: The mildest of the mistakes below makes 15, and multisampling, which stands for
#: another driver's idea of edges, less than 2; the tests leave a factor of two.
TOLERANCE = 5.0


def first_frame(name, **changes):
    """The picture that a reference shows, or should show."""
    env_id, options = PICTURED[name]
    env = gym.make(env_id, **{**options, **changes})
    frame, _ = env.reset(seed=0)
    env.close()
    return frame


def distance(one, two):
    """How different two 64x64 pictures look, blind to single pixels."""
    one, two = (area_resize(frame, (16, 16)).astype(float) for frame in (one, two))
    return float(np.abs(one - two).mean())


def reference(name):
    image = pytest.importorskip("PIL.Image")
    with image.open(REFERENCES / f"{name}.png") as picture:
        return np.array(picture.convert("RGB"))


@pytest.mark.parametrize("name", PICTURED)
def test_pictures_are_as_they_were(name):
    assert distance(first_frame(name), reference(name)) < TOLERANCE


@pytest.mark.parametrize("name", PICTURED)
@pytest.mark.parametrize(
    "mistake",
    [
        lambda frame: frame[::-1],
        lambda frame: frame[:, ::-1],
        lambda frame: frame[::-1, ::-1],
        lambda frame: frame[..., ::-1],
        lambda frame: frame.transpose(1, 0, 2),
        np.zeros_like,
    ],
    ids=["upside down", "mirrored", "turned", "BGR", "rows for columns", "black"],
)
def test_mistakes_are_far_from_the_reference(name, mistake):
    expected = reference(name)
    assert distance(mistake(expected), expected) > 2 * TOLERANCE


@pytest.mark.parametrize("name", PICTURED)
def test_another_camera_is_far_and_smoother_edges_are_near(name):
    expected = reference(name)
    camera = "corner4" if "camera" in PICTURED[name][1] else "corner"
    assert distance(first_frame(name, camera=camera), expected) > 2 * TOLERANCE
    quality = {"samples": 4}
    if name == "hammer":
        quality = {"shadows": True, "reflections": True, "samples": 0}
    smooth = first_frame(name, render_quality=quality)
    assert 0 < distance(smooth, expected) < TOLERANCE / 2


# Upright, by a marker


def projected(model, data, camera, point, size):
    """(row, column) at which a camera sees a point, with +z up in the picture."""
    axes = data.cam_xmat[camera].reshape(3, 3).T.copy()
    if axes[1, 2] < 0:
        # It hangs upside down, and its picture is to be turned by half a circle.
        axes[:2] *= -1
    right, up, back = axes @ (point - data.cam_xpos[camera])
    focus = size[0] / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    return np.array(size) / 2 + focus * np.array([-up, right]) / -back


def simulated(env):
    """The model and the data behind an environment."""
    if isinstance(env, MetaWorldEnv):
        return env._sim.model, env._sim.data
    return env._model, env._sim.physics.data.ptr


def painted(env, bodies):
    """The middle of what changes if bodies are painted: (row, column), and in space."""
    model, data = simulated(env)
    ids = [model.body(name).id for name in bodies]
    geoms = np.isin(model.geom_bodyid, ids) & (model.geom_rgba[:, 3] > 0)
    before = model.geom_rgba[geoms].copy()
    seen = []
    for colour in ((1, 0, 1, 1), (0, 1, 0, 1)):
        model.geom_rgba[geoms] = colour
        env._frame = None
        seen.append(env.render().astype(int))
    model.geom_rgba[geoms] = before
    env._frame = None
    places = np.argwhere(np.abs(seen[0] - seen[1]).sum(-1) > 60)
    assert len(places) >= 3, f"{bodies} are not in the picture"
    return places.mean(0) + 0.5, data.geom_xpos[geoms].mean(0)


FOREARM = ("right_l4",)
FINGERS = ("hand", "rightclaw", "leftclaw", "rightpad", "leftpad")


def check_place(env, bodies, telling=False):
    """Bodies are drawn where the camera's geometry has them.

    With ``telling``, their place tells a picture turned over or mirrored from a right
    one.
    """
    size = np.array(env.size)
    # What one sees of a body has its middle near the body's.
    near = 1 + 0.03 * size[0]
    drawn, middle = painted(env, bodies)
    due = projected(*simulated(env), env._camera_id, middle, env.size)
    assert np.abs(drawn - due).max() < near, f"{env.task}: {drawn}, due at {due}"
    if telling:
        assert (np.abs(size - drawn - due) > 3 * near).all(), (drawn, due)


def check_upright(env):
    """The forearm and the fingers are where they should be."""
    check_place(env, FOREARM, telling=True)
    check_place(env, FINGERS)


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("walker-walk", "right_foot"),
        ("cheetah-run", "bfoot"),
        ("reacher-easy", "finger"),
    ],
)
@pytest.mark.parametrize("size", [(96, 128), (480, 480)], ids=str)
def test_dm_control_is_upright(task, body, size):
    pytest.importorskip("shimmy")
    from genreward_wrappers.envs.dm_control import DmControlEnv

    env = DmControlEnv(task, obs="state", size=size, render_mode="rgb_array")
    env.reset(seed=0)
    check_place(env, [body], telling=True)
    env.close()


SIZES = [(64, 64), (480, 480), (64, 480), (480, 200), (97, 131), (240, 320)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_is_upright(size):
    env = MetaWorldEnv("pick-place", obs="state", size=size, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (*size, 3)
    check_upright(env)
    env.close()


def test_sizes_show_the_same():
    """Odd widths too, whose rows GL would fill up to four bytes."""

    def shrunk(size):
        env = MetaWorldEnv("door-open", size=size)
        frame, _ = env.reset(seed=0)
        env.close()
        return area_resize(frame, (24, 32)).astype(float)

    expected = shrunk((360, 480))
    for size in ((66, 88), (99, 132), (123, 164), (240, 320)):
        off = np.abs(shrunk(size) - expected)
        assert off.mean() < 2.5, (size, off.mean())
    assert np.abs(np.roll(expected, 1, 1) - expected).mean() > 5


# As upstream's own


@pytest.mark.parametrize(
    ("task", "camera", "size"),
    [
        ("pick-place", "corner", (96, 128)),
        ("door-open", "topview", (64, 64)),
        ("window-open", "corner2", (128, 128)),
        ("hammer", "gripperPOV", (64, 100)),
    ],
)
def test_full_quality_is_pixel_for_pixel_upstreams(task, camera, size):
    """Drawn by Gymnasium's renderer, which is what upstream draws with."""
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    env = MetaWorldEnv(task, size=size, camera=camera, render_quality="full")
    frame, _ = env.reset(seed=0)
    env.close()
    height, width = size
    model, data = env._sim.model, env._sim.data
    model.vis.global_.offheight, model.vis.global_.offwidth = size
    upstream = MujocoRenderer(model, data, None, width, height, camera_name=camera)
    expected = upstream.render("rgb_array")
    upstream.close()
    if camera.startswith("corner"):
        # Upside down upstream.
        expected = expected[::-1, ::-1]
    np.testing.assert_array_equal(frame, expected)


# One process, many tasks


def test_two_tasks_by_turns_are_each_as_alone():
    """200 pictures by turns, of two tasks of different sizes."""
    made = (("pick-place", 64), ("window-open", (48, 80)))

    def turns(*envs):
        seen = [[env.reset(seed=i)[0]] for i, env in enumerate(envs)]
        for _ in range(99):
            for env, frames in zip(envs, seen, strict=True):
                frames.append(env.step(UP)[0])
        for env in envs:
            env.close()
        return [np.stack(frames) for frames in seen]

    together = turns(*(MetaWorldEnv(task, size=size) for task, size in made))
    assert sum(map(len, together)) == 200
    for i, (task, size) in enumerate(made):
        env = MetaWorldEnv(task, size=size)
        alone = [env.reset(seed=i)[0], *(env.step(UP)[0] for _ in range(99))]
        env.close()
        np.testing.assert_array_equal(together[i], np.stack(alone))


def digest(env, seed):
    """A fingerprint of the first two frames of an episode."""
    frames = [env.reset(seed=seed)[0], env.step(UP)[0]]
    return hashlib.sha256(np.stack(frames).tobytes()).hexdigest()


def digests_alone():
    """Those of every task, each drawn when no other is there."""
    found = []
    for seed, task in enumerate(TASKS):
        env = MetaWorldEnv(task, size=96, render_mode="rgb_array")
        found.append(digest(env, seed))
        env.close()
    return found


@pytest.fixture(scope="module")
def alone():
    """The same from another process, which works while this one does."""
    code = "from tests.envs.test_pictures import *; print(*digests_alone())"
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environ = {"PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "3"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_all_fifty_tasks_are_upright_and_as_alone_in_another_process(alone):
    """Each is drawn while the task before it is open, and draws, too."""
    here, before = [], None
    for seed, task in enumerate(TASKS):
        env = MetaWorldEnv(task, size=96, render_mode="rgb_array")
        if before is not None:
            before.step(UP)
        here.append(digest(env, seed))
        if before is not None:
            before.close()
        before = env
        check_upright(env)
        colours = np.unique(env.render().reshape(-1, 3), axis=0)
        assert len(colours) > 300, f"{task}: hardly any colours"
    before.close()
    assert len(set(here)) == 50
    there = alone.communicate(timeout=240)[0].split()
    assert [
        pair for pair in zip(TASKS, here, strict=True) if pair[1] not in there
    ] == []
    assert there == here


# Vector environments that draw in worker processes


def test_spawned_workers_of_make_vec_draw_the_same():
    def frames(mode, **vector_kwargs):
        envs = gym.make_vec(
            "metaworld/push",
            num_envs=2,
            size=48,
            vectorization_mode=mode,
            vector_kwargs=vector_kwargs,
        )
        seen = [envs.reset(seed=[3, 4])[0].copy()]
        seen += [envs.step(np.stack([UP, -UP]))[0].copy() for _ in range(3)]
        envs.close()
        return np.stack(seen)

    spawned = frames("async", context="spawn")
    np.testing.assert_array_equal(spawned, frames("sync"))


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
@pytest.mark.filterwarnings("ignore")  # what a worker's error has to say, twice
def test_forked_workers_after_drawing_say_spawn():
    first_frame("pick-place")
    envs = gym.make_vec(
        "metaworld/push",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "fork"},
    )
    with pytest.raises(RuntimeError, match="context='spawn'"):
        envs.reset(seed=0)
    envs.close(terminate=True)


def main() -> None:
    """Draws the references."""
    from PIL import Image

    REFERENCES.mkdir(exist_ok=True)
    for name in PICTURED:
        path = REFERENCES / f"{name}.png"
        Image.fromarray(first_frame(name)).save(path, optimize=True)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
