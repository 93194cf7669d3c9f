"""The distractions: published ranges, pictures alone, seeds, backgrounds, bad input."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from genreward_wrappers.envs import _gl, backgrounds
from genreward_wrappers.envs.backgrounds import SPLITS, find_videos
from genreward_wrappers.envs.distracting import DISTRACTIONS, DistractingEnv, moved
from genreward_wrappers.envs.dm_control import DmControlEnv
from genreward_wrappers.envs.walks import CameraRange, CameraWalk, ColorWalk, VideoWalk
from tests import ROOT

needs_dm_control = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("dm_control", "shimmy")),
    reason="no dm_control",
)

INTENSITIES = {"easy": 0.1, "medium": 0.2, "hard": 0.3}


@pytest.fixture
def make(request):
    """Makes environments that are closed when the test is over."""

    def make(*args: Any, **kwargs: Any) -> DistractingEnv:
        env = DistractingEnv(*args, **{"size": 48, **kwargs})
        request.addfinalizer(env.close)
        return env

    return make


def episode(env: gym.Env, seed: int, steps: int = 3) -> list[np.ndarray]:
    """Frames of an episode with actions that the seed decides."""
    frames = [env.reset(seed=seed)[0]]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        frames.append(env.step(action)[0])
    return frames


def digest(frames: list[np.ndarray]) -> str:
    return hashlib.sha256(np.stack(frames).tobytes()).hexdigest()


# The walks, without a renderer: published bounds and speeds over 1,000 episodes


@pytest.mark.parametrize("difficulty", INTENSITIES)
def test_the_camera_keeps_to_the_published_range(difficulty):
    scale = INTENSITIES[difficulty]
    limits = CameraRange.at(scale)
    distance, downwards = 3.0, 0.05
    seen, speeds, rolls, steps = [], [], [], []
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        walk = CameraWalk(rng, limits, distance, downwards)
        poses = [walk.at(0)]
        for step in range(1, 21):
            poses.append(walk.at(step))
            speeds.append(np.linalg.norm(walk.velocity[:3]))
            rolls.append(abs(walk.velocity[3]))
        seen.append(poses)
        steps.append(np.abs(np.diff(poses, axis=0)))
    poses = np.array(seen)
    quarter = scale * np.pi / 2
    low = [-quarter, -downwards, distance * (1 - scale / 2), -quarter]
    high = [quarter, quarter, distance * (1 + 1.5 * scale), quarter]
    assert (poses >= np.array(low) - 1e-12).all()
    assert (poses <= np.array(high) + 1e-12).all()
    # All of the range is used, from the first step on.
    first = poses[:, 0]
    width = np.subtract(high, low)
    np.testing.assert_allclose(first.min(0), low, atol=0.02 * width.max())
    np.testing.assert_allclose(first.max(0), high, atol=0.02 * width.max())
    middle = np.add(low, high) / 2
    np.testing.assert_allclose(first.mean(0), middle, atol=0.05 * width.max())
    # Speeds: 0.4 times the intensity in metres, pi/50 times it in radians of roll.
    assert max(speeds) <= 0.4 * scale + 1e-12
    assert max(rolls) <= np.pi / 50 * scale + 1e-12
    assert max(speeds) > 0.39 * scale
    assert max(rolls) > 0.95 * np.pi / 50 * scale
    moved_by = np.array(steps)
    assert moved_by[..., 2].max() <= 0.4 * scale + 1e-12
    nearest = distance * (1 - scale / 2)
    assert moved_by[..., :2].max() <= 0.4 * scale / nearest + 1e-12
    assert moved_by[..., 3].max() <= np.pi / 50 * scale + 1e-12
    assert (moved_by.max(axis=(0, 1)) > 0).all()


def test_the_cameras_velocity_is_a_walk_with_the_published_noise():
    limits = CameraRange.at(0.2)
    changes, rolls = [], []
    for seed in range(1000):
        walk = CameraWalk(np.random.default_rng(seed), limits, 100.0)
        # Far from every bound, and slow, so that nothing is clipped.
        walk._pose = np.array([0.0, 0.0, 110.0, 0.0])
        walk._velocity, walk._roll_velocity = np.zeros(3), 0.0
        walk.at(1)
        inside = np.linalg.norm(walk.velocity[:3]) < limits.speed - 1e-9
        if inside:
            changes.append(walk.velocity[:3])
        rolls.append(walk.velocity[3])
    # 0.1 times the intensity; the speed limit at four times that cuts very little.
    assert len(changes) > 980
    np.testing.assert_allclose(np.std(changes, axis=0), 0.02, rtol=0.1)
    np.testing.assert_allclose(np.std(rolls), np.pi / 300 * 0.2, rtol=0.1)


def test_the_camera_turns_back_at_its_bounds():
    limits = CameraRange.at(0.3)
    for part in range(4):
        for bound, sign in (("low", -1), ("high", 1)):
            walk = CameraWalk(np.random.default_rng(part), limits, 3.0)
            walk._pose = (walk.low + walk.high) / 2
            walk._pose[part] = getattr(walk, bound)[part]
            speeds = np.zeros(4)
            speeds[part] = sign
            walk._velocity = speeds[:3] * limits.speed
            walk._roll_velocity = speeds[3] * limits.roll_speed
            walk.at(1)
            assert np.sign(walk.velocity[part]) == -sign
            assert walk.at(1)[part] == getattr(walk, bound)[part]
            assert walk.at(2)[part] != getattr(walk, bound)[part]


@pytest.mark.parametrize("difficulty", INTENSITIES)
def test_colours_keep_to_the_published_range(difficulty):
    scale = INTENSITIES[difficulty]
    original = np.array([[0.7, 0.5, 0.3], [1.0, 0.05, 0.0]])
    low, high = np.clip(original - scale, 0, 1), np.clip(original + scale, 0, 1)
    firsts, changes = [], []
    for seed in range(1000):
        walk = ColorWalk(np.random.default_rng(seed), original, scale)
        colors = np.array([walk.at(step).copy() for step in range(11)])
        assert (colors >= low).all()
        assert (colors <= high).all()
        firsts.append(colors[0])
        inside = (colors > low) & (colors < high)
        changes.append(np.diff(colors, axis=0)[inside[1:] & inside[:-1]])
    np.testing.assert_allclose(np.min(firsts, 0), low, atol=0.01)
    np.testing.assert_allclose(np.max(firsts, 0), high, atol=0.01)
    # Steps that were cut at a bound are left out, which takes a little off.
    np.testing.assert_allclose(np.std(np.concatenate(changes)), 0.03 * scale, rtol=0.05)


def test_videos_go_to_and_fro():
    videos = find_videos("noise", "train", 8, at_most=4)
    drawn, starts, directions = set(), set(), set()
    for seed in range(1000):
        walk = VideoWalk(np.random.default_rng(seed), videos)
        frames = np.array([walk.at(step) for step in range(150)])
        assert frames.min() == 0
        assert frames.max() == videos[0].length - 1
        assert (np.abs(np.diff(frames)) == 1).all()
        drawn.add(walk.video)
        starts.add(int(frames[0]))
        directions.add(int(frames[1] - frames[0]))
    assert drawn == set(range(4))
    assert len(starts) == videos[0].length
    assert directions == {-1, 1}


@pytest.mark.parametrize("kind", ["camera", "color", "background"])
def test_walks_depend_on_the_step_and_not_on_who_looked(kind):
    def walk(moving: bool = True) -> Any:
        rng = np.random.default_rng(3)
        if kind == "camera":
            return CameraWalk(rng, CameraRange.at(0.3), 2.0, moving=moving)
        if kind == "color":
            return ColorWalk(rng, np.full((2, 3), 0.5), 0.3, moving)
        return VideoWalk(rng, find_videos("noise", "train", 8, 4), moving)

    every = walk()
    for step in range(41):
        last = every.at(step)
    np.testing.assert_array_equal(walk().at(40), last)
    assert np.any(np.asarray(walk().at(0)) != last)
    np.testing.assert_array_equal(walk(False).at(40), walk().at(0))


# How the camera is moved


def test_the_camera_turns_around_what_it_looks_at():
    rng = np.random.default_rng(0)
    place = np.array([0.0, -2.0, 1.0])
    # Looks along +y, right is +x, up is +z.
    axes = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    point = place + 2.0 * np.array([0, 1.0, 0])
    same, unturned = moved(place, axes, 2.0, 0, 0, 2.0, 0)
    np.testing.assert_allclose(same, place)
    np.testing.assert_allclose(unturned, axes)
    for _ in range(100):
        h, v, roll = rng.uniform(-1, 1, 3)
        distance = rng.uniform(0.5, 5)
        there, turned = moved(place, axes, 2.0, h, v, distance, roll)
        np.testing.assert_allclose(turned.T @ turned, np.eye(3), atol=1e-12)
        assert np.linalg.det(turned) == pytest.approx(1)
        # The point is still straight ahead, at the distance.
        np.testing.assert_allclose(there - distance * turned[:, 2], point)
        # Height and bearing, by elementary geometry.
        offset = (there - point) / distance
        assert np.arcsin(offset[2]) == pytest.approx(v)
        assert np.arctan2(offset[0], -offset[1]) == pytest.approx(h)
        # Without roll, its right axis stays level; roll tilts it by that angle.
        level = np.array([np.cos(h), np.sin(h), 0])
        assert turned[:, 0] @ level == pytest.approx(np.cos(roll))


# Pictures


@pytest.fixture
def dressed(monkeypatch):
    """What the model looked like whenever a picture was drawn."""
    seen = []
    draw = _gl.OffscreenRenderer.render

    def recording(self, data, camera):
        model = self._model
        sky = np.flatnonzero(model.tex_type == 2)[0]
        size = model.tex_width[sky] * model.tex_height[sky] * 3
        start = model.tex_adr[sky]
        seen.append(
            {
                "camera": np.append(data.cam_xpos[camera], data.cam_xmat[camera]),
                "color": model.mat_rgba[:, :3].copy(),
                "ground": float(model.mat_rgba[model.material("grid").id, 3]),
                "background": model.tex_data[start : start + size].copy(),
                "state": np.append(data.qpos, data.qvel),
            }
        )
        return draw(self, data, camera)

    monkeypatch.setattr(_gl.OffscreenRenderer, "render", recording)
    return seen


@needs_dm_control
@pytest.mark.parametrize("task", ["walker-walk", "cartpole-swingup"])
@pytest.mark.parametrize("only", DISTRACTIONS)
def test_each_distraction_moves_its_own_and_nothing_else(make, dressed, task, only):
    def drawn(distractions: Any) -> list[dict[str, Any]]:
        dressed.clear()
        episode(make(task, distractions=distractions, difficulty="hard"), seed=3)
        return list(dressed)

    plain, alone, together = drawn(()), drawn(only), drawn(DISTRACTIONS)
    for step in range(4):
        for kind in DISTRACTIONS:
            same = np.array_equal(plain[step][kind], alone[step][kind])
            assert same is (kind != only), kind
        np.testing.assert_array_equal(alone[step][only], together[step][only])
        np.testing.assert_array_equal(plain[step]["state"], together[step]["state"])
        # The ground is thinned for the sky behind it alone, and not for the walker.
        thin = only == "background" and task == "cartpole-swingup"
        assert alone[step]["ground"] == pytest.approx(0.3 if thin else 1.0)
    assert any(
        not np.array_equal(alone[0][only], later[only]) for later in alone[1:]
    ), "it does not move"


@needs_dm_control
@pytest.mark.parametrize("task", ["walker-walk", "point_mass-hard", "finger-turn_easy"])
def test_states_and_rewards_are_those_of_the_undistracted_task(make, task):
    plain = DmControlEnv(task, obs="state", action_repeat=2)
    distracted = make(task, obs="dict", action_repeat=2, difficulty="hard")
    for seed in (5, None):
        a, b = plain.reset(seed=seed)[0], distracted.reset(seed=seed)[0]
        np.testing.assert_array_equal(a, b["state"])
        rng = np.random.default_rng(0)
        for _ in range(10):
            action = rng.uniform(-1, 1, plain.action_space.shape)
            a, b = plain.step(action), distracted.step(action)
            np.testing.assert_array_equal(a[0], b[0]["state"])
            assert a[1:4] == b[1:4]


@needs_dm_control
def test_everything_is_as_it_was_when_nobody_looks(make):
    env = make("walker-walk", difficulty="hard")
    model, data = env._model, env._sim.physics.data.ptr
    colors = model.mat_rgba.copy()
    episode(env, seed=0)
    np.testing.assert_array_equal(model.mat_rgba, colors)
    plain = DmControlEnv("walker-walk", obs="state")
    episode(plain, seed=0)
    theirs = plain._sim.physics.data.ptr
    np.testing.assert_array_equal(data.cam_xpos, theirs.cam_xpos)
    np.testing.assert_array_equal(data.cam_xmat, theirs.cam_xmat)


@needs_dm_control
def test_nothing_is_drawn_or_computed_where_nobody_looks(make, dressed, monkeypatch):
    env = make("walker-walk", obs="state", render_mode="rgb_array", difficulty="hard")
    expected = episode(make("walker-walk", difficulty="hard"), seed=2, steps=30)[-1]
    dressed.clear()
    episode(env, seed=2, steps=30)
    assert not dressed
    assert env._camera._steps == env._colors._steps == 0
    # And the picture of a late step is what it would have been.
    np.testing.assert_array_equal(env.render(), expected)


@needs_dm_control
def test_a_closed_environment_can_be_used_again(make):
    env = make("walker-walk", difficulty="hard")
    expected = episode(make("walker-walk", difficulty="hard"), seed=2)
    first = episode(env, seed=2, steps=0)[0]
    env.close()
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(env._pixels(), expected[0])
    env.close()
    np.testing.assert_array_equal(episode(env, seed=2), expected)


@needs_dm_control
def test_seeds(make):
    env = make("walker-walk", difficulty="medium")
    first = digest(episode(env, seed=1))
    episode(env, seed=2, steps=10)
    assert digest(episode(env, seed=1)) == first
    follow, colors, places = [], set(), set()
    for _ in range(3):
        follow.append(env.reset()[0])
        colors.add(env._colors.at(0).tobytes())
        places.add(env._camera.at(0))
    assert len(colors) == len(places) == 3
    other = make("walker-walk", difficulty="medium")
    assert digest(episode(other, seed=1)) == first
    for frame in follow:
        np.testing.assert_array_equal(other.reset()[0], frame)
    assert len({digest([frame]) for frame in follow}) == 3
    assert digest(episode(env, seed=4)) != first
    still = make("walker-walk", difficulty="medium", dynamic=False)
    np.testing.assert_array_equal(episode(still, seed=1)[0], episode(env, seed=1)[0])


@needs_dm_control
def test_frames_are_the_same_in_another_process(make):
    code = (
        f"from {__name__} import *\n"
        "env = DistractingEnv('cheetah-run', size=48, background='gradients')\n"
        "print(digest(episode(env, seed=5)))"
    )
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = digest(episode(make("cheetah-run", background="gradients"), seed=5))
    assert done.stdout.split()[-1] == expected


@needs_dm_control
def test_specs_and_pickles():
    env = gym.make(
        "distracting/reacher-easy",
        difficulty="hard",
        distractions=["background", "camera"],
        size=(32, 48),
        render_quality={"reflections": True},
    )
    expected = digest(episode(env, seed=0))
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    copy = pickle.loads(pickle.dumps(env.unwrapped))
    for other in (again, copy):
        assert digest(episode(other, seed=0)) == expected
        other.close()
    assert env.spec.max_episode_steps == 1000
    env.close()
    envs = gym.make_vec("distracting/reacher-easy", num_envs=2, size=32)
    assert envs.reset(seed=0)[0].shape == (2, 32, 32, 3)
    envs.close()


# Backgrounds


@pytest.fixture
def quarters(tmp_path):
    """An image of four colours: red and green above, blue and yellow below."""
    image = pytest.importorskip("PIL.Image")
    corners = np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]])
    picture = corners.repeat(50, 0).repeat(50, 1).astype(np.uint8)
    image.fromarray(picture).save(tmp_path / "quarters.png")
    return tmp_path / "quarters.png"


@needs_dm_control
@pytest.mark.parametrize("task", ["cheetah-run", "reacher-easy"])
def test_backgrounds_are_upright_and_not_mirrored(make, quarters, task):
    """Behind the cheetah and, the ground being gone, below the reacher."""
    env = make(task, distractions="background", background=[str(quarters)])
    frame = env.reset(seed=0)[0].astype(int)
    # The middle of the cheetah's sky is a little below the picture's.
    left, right = frame[12:18, 12], frame[12:18, 36]
    assert (left[:, 0] > 150).all(), "red is above on the left"
    assert (left[:, 1:] < 60).all()
    assert (right[:, 1] > 150).all(), "green is above on the right"
    assert (right[:, ::2] < 60).all()


@needs_dm_control
def test_the_original_sky_shines_through(make, quarters):
    options = {"distractions": "background", "background": [str(quarters)]}
    frames = [
        make("cheetah-run", background_alpha=alpha, **options).reset(seed=0)[0]
        for alpha in (0.0, 0.5, 1.0)
    ]
    none, half, all_of_it = (frame[4:16].astype(float) for frame in frames)
    np.testing.assert_allclose(half, (none + all_of_it) / 2, atol=2)
    plain = make("cheetah-run", distractions=()).reset(seed=0)[0][4:16]
    # The same sky from a coarser texture: the stars are elsewhere.
    assert np.abs(none.mean((0, 1)) - plain.mean((0, 1))).max() < 6


@needs_dm_control
def test_the_ground_can_be_given(make):
    frames = [
        make("cartpole-swingup", distractions="background", ground_alpha=alpha).reset(
            seed=0
        )[0]
        for alpha in (None, 0.3, 1.0)
    ]
    np.testing.assert_array_equal(frames[0], frames[1])
    assert (frames[0] != frames[2]).any()


@pytest.mark.parametrize("kind", ["noise", "gradients"])
def test_procedural_videos(kind):
    train = find_videos(kind, "train", 32)
    validation = find_videos(kind, "validation", 32)
    assert (len(train), len(validation)) == (60, 30)
    assert len(find_videos(kind, "train", 32, 4)) == 4
    firsts = [video.frame(0) for video in train + validation]
    assert len({digest([first]) for first in firsts}) == 90
    frames = np.stack([train[0].frame(i) for i in range(train[0].length)]).astype(int)
    assert frames.shape[1:] == (32, 32, 3)
    changes = np.abs(np.diff(frames, axis=0))
    assert (changes.mean(axis=(1, 2, 3)) > 0.05).all(), "it moves at every step"
    assert changes.max() < 30, "and smoothly"
    again = find_videos(kind, "train", 32)[0]
    np.testing.assert_array_equal(again.frame(7), train[0].frame(7))


def save(path: Path, value: int) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(np.full((48, 85, 3), value, np.uint8)).save(path)


def test_davis_is_found_with_its_splits(tmp_path):
    names = ["walking", "bear", "boat", "camel", "blackswan", "not-davis"]
    for value, name in enumerate(names):
        for index in range(3):
            path = tmp_path / "JPEGImages" / "480p" / name / f"{index:05}.jpg"
            save(path, 40 * value + index * 10)
    train = find_videos(str(tmp_path), "train", 16)
    assert [Path(video.name).name for video in train] == ["bear", "boat", "walking"]
    assert [video.length for video in train] == [3, 3, 3]
    assert train[0].frame(2).shape == (16, 16, 3)
    assert train[0].frame(2).mean() == pytest.approx(60, abs=2)
    test = find_videos(str(tmp_path), "validation", 16)
    assert [Path(video.name).name for video in test] == ["blackswan", "camel"]
    assert len(find_videos(str(tmp_path), "train", 16, 2)) == 2
    inside = tmp_path / "JPEGImages" / "480p"
    assert find_videos(str(inside), "train", 16)[0].length == 3


def test_the_published_splits():
    train, validation = SPLITS["train"], SPLITS["validation"]
    assert (len(set(train)), len(set(validation))) == (60, 30)
    assert not set(train) & set(validation)
    assert list(train) == sorted(train)


def test_other_folders_and_lists(tmp_path):
    save(tmp_path / "b" / "0.png", 10)
    save(tmp_path / "b" / "1.png", 20)
    save(tmp_path / "a.png", 30)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "empty").mkdir()
    videos = find_videos(str(tmp_path), "train", 8)
    assert [video.length for video in videos] == [1, 2]
    assert videos[1].frame(1).mean() == 20
    videos = find_videos([str(tmp_path / "b"), str(tmp_path / "a.png")], "train", 8)
    assert [video.length for video in videos] == [2, 1]


def test_video_files(tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("av")
    frames = np.zeros((6, 32, 32, 3), np.uint8)
    frames += (40 * np.arange(6, dtype=np.uint8))[:, None, None, None]
    imageio.imwrite(tmp_path / "grey.mp4", frames, plugin="pyav", codec="libx264")
    (video,) = find_videos(str(tmp_path), "train", 8)
    assert video.length == 6
    assert video.frame(5).shape == (8, 8, 3)
    assert video.frame(5).mean() == pytest.approx(200, abs=12)


# What goes wrong


@pytest.mark.parametrize(
    ("background", "words"),
    [
        ("no/such/folder", ["'no/such/folder'", "noise", "gradients"]),
        ([], ["empty list"]),
        (["no.png"], ["no.png"]),
    ],
)
def test_backgrounds_that_are_not_there(background, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        find_videos(background, "train", 8)
    for word in words:
        assert word in str(caught.value)


def test_folders_that_are_no_use(tmp_path):
    with pytest.raises(ValueError, match="has no videos of the train split"):
        find_videos(str(tmp_path), "train", 8)
    (tmp_path / "bear").mkdir()
    with pytest.raises(ValueError, match="bear has no images"):
        find_videos([str(tmp_path / "bear")], "train", 8)
    save(tmp_path / "bear" / "0.jpg", 9)
    with pytest.raises(ValueError, match="no videos of the validation split"):
        find_videos(str(tmp_path), "validation", 8)
    with pytest.raises(ValueError, match="got 'test'"):
        find_videos(str(tmp_path), "test", 8)
    (tmp_path / "bear" / "0.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="0.jpg is no image"):
        find_videos(str(tmp_path), "train", 8)
    other = tmp_path / "other"
    save(other / "a.png", 9)
    with pytest.raises(ValueError, match="no published split"):
        find_videos(str(other), "validation", 8)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ValueError, match="cannot be read.*Permission denied"):
        find_videos(str(tmp_path), "train", 8)


def test_a_corrupt_video_is_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    (video,) = find_videos(str(tmp_path), "train", 8)
    with pytest.raises(ValueError, match="bad.mp4 cannot be decoded"):
        _ = video.length


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    save(tmp_path / "a.png", 9)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"genreward-wrappers\[dm-control\]"):
        backgrounds.find_videos(str(tmp_path), "train", 8)


@needs_dm_control
@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"difficulty": "brutal"}, ["'brutal'", "'easy'", "'medium'", "'hard'"]),
        ({"distractions": ["colour"]}, ["'colour'", "'color'", "'camera'"]),
        ({"distractions": "sound"}, ["'sound'", "'background'"]),
        ({"background": "nose"}, ["'nose'", "noise"]),
        ({"background_split": "test"}, ["'test'", "'train'", "'validation'"]),
        ({"background_alpha": 1.5}, ["background_alpha", "1.5"]),
        ({"ground_alpha": -1}, ["ground_alpha", "-1"]),
        ({"camera": -1}, ["-1", "free camera"]),
        ({"camera": "sid"}, ["'sid'", "'side'"]),
        ({"task": "walker-wolk"}, ["'walker-wolk'", "'walker-walk'"]),
    ],
)
def test_bad_arguments_are_quoted_with_what_would_do(kwargs, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        DistractingEnv(**kwargs)
    for word in words:
        assert word in str(caught.value)


# Reference images


REFERENCES = Path(__file__).parent / "references"

REFERENCED: dict[str, dict[str, Any]] = {
    "walker": {"task": "walker-walk", "distractions": ()},
    "reacher": {"task": "reacher-easy", "distractions": ()},
    "walker-distracted": {"task": "walker-walk", "difficulty": "medium"},
    "reacher-distracted": {"task": "reacher-easy", "difficulty": "hard"},
    "cheetah-gradients": {"task": "cheetah-run", "background": "gradients"},
}


@needs_dm_control
@pytest.mark.parametrize("name", REFERENCED)
def test_pictures_look_as_they_did(make, name):
    """Against pictures that were looked at; drivers differ at edges, not in areas.

    Running this file as a script draws them anew.
    """
    image = pytest.importorskip("PIL.Image")
    reference = np.asarray(image.open(REFERENCES / f"{name}.png")).astype(int)
    frame = episode(make(**REFERENCED[name]), seed=0)[-1].astype(int)
    difference = np.abs(frame - reference).max(axis=-1)
    assert (difference > 16).mean() < 0.03
    # The tolerance tells pictures from those that are turned or mirrored.
    for wrong in (frame[::-1], frame[:, ::-1]):
        assert (np.abs(wrong - reference).max(axis=-1) > 16).mean() > 0.06


# Training


@needs_dm_control
def test_an_agent_trains_on_a_goal_video_under_distraction():
    """The video-level reward over distracted pictures, from a goal recorded here."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import PPO

    from genreward_wrappers import GoalBundle, VideoLevelReward, make

    env_id = "distracting/walker-walk"
    env = make(env_id, difficulty="medium")
    video = np.stack(episode(env, seed=1_000_000, steps=8))
    goal = GoalBundle(video[None], env_id=env_id, camera=env.unwrapped.camera)
    env = VideoLevelReward(env, goal, encoder="pixels", length=9, horizon=16)
    agent = PPO("CnnPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0)
    agent.learn(128)
    assert agent.num_timesteps == 128
    env.reset(seed=0)
    paid = []
    for _ in range(16):
        _, reward, _, _, info = env.step(env.action_space.sample())
        assert reward == info["reward_video"]
        paid.append(info["reward_video_due"] and reward > 0)
    assert any(paid)
    env.close()


if __name__ == "__main__":
    from PIL import Image

    REFERENCES.mkdir(exist_ok=True)
    for name, kwargs in REFERENCED.items():
        frame = episode(DistractingEnv(size=48, **kwargs), seed=0)[-1]
        Image.fromarray(frame).save(REFERENCES / f"{name}.png")
