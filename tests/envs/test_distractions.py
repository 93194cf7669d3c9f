"""Distractions: they change pictures and nothing else, and the seed decides how."""

from __future__ import annotations

import pickle
import re
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from genreward_wrappers import RewardModelWrapper, TapFrames
from genreward_wrappers.envs.backgrounds import find_videos
from genreward_wrappers.envs.distractions import (
    BackgroundDistraction,
    BrightnessDistraction,
    ColourDistraction,
    Distraction,
    ShiftDistraction,
)
from genreward_wrappers.testing import Brightness, PointMass

WALKS = (ColourDistraction, BrightnessDistraction, ShiftDistraction)


def left_half(frame):
    """A mask that a spec can name."""
    mask = np.zeros(frame.shape[:2], bool)
    mask[:, : frame.shape[1] // 2] = True
    return mask


HALF = f"{__name__}:left_half"
ALL = {
    "colour": partial(ColourDistraction, intensity=0.3),
    "brightness": partial(BrightnessDistraction, intensity=0.3),
    "shift": partial(ShiftDistraction, intensity=0.3),
    "background": partial(BackgroundDistraction, mask=HALF),
}
every = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


class Chart(gym.Env):
    """A fixed picture of noise, as observation, in a dict, or from render() alone."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = spaces.Discrete(2)
    frame = np.random.default_rng(7).integers(0, 256, (24, 36, 3)).astype(np.uint8)
    # Handed out as it is, and an error to write into.
    frame.setflags(write=False)
    image = spaces.Box(0, 255, frame.shape, np.uint8)
    state = spaces.Box(0, 99, (1,), np.float32)

    def __init__(self, obs="pixels", render_mode="rgb_array", extra=None):
        self.render_mode, self.obs, self.extra = render_mode, obs, extra or {}
        self.observation_space = {
            "pixels": self.image,
            "state": self.state,
            "dict": spaces.Dict(pixels=self.image, state=self.state),
        }[obs]

    def _observation(self):
        state = np.array([self.t], np.float32)
        both = {"pixels": self.frame, "state": state}
        return both if self.obs == "dict" else both[self.obs]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), dict(self.extra)

    def step(self, action):
        self.t += 1
        return self._observation(), 0.5, self.t > 90, False, dict(self.extra)

    def render(self):
        return self.frame


def play(env, seed, steps=6):
    """The pictures of an episode."""
    frames = [env.reset(seed=seed)[0]]
    frames += [env.step(0)[0] for _ in range(steps)]
    return np.stack([f["pixels"] if isinstance(f, dict) else f for f in frames])


# Seeds


@every
def test_the_seed_decides_every_episode_that_follows(make):
    env = make(Chart())
    first, second = play(env, 3), play(env, None)
    assert (first != second).any(axis=(1, 2, 3)).all(), "another episode"
    assert (np.diff(first.astype(int), axis=0) != 0).any(), "it moves"
    play(env, 8, steps=40)
    again = make(Chart())
    np.testing.assert_array_equal(play(again, 3), first)
    np.testing.assert_array_equal(play(again, None), second)
    # How long the episode before was does not matter.
    play(again, 3, steps=2)
    np.testing.assert_array_equal(play(again, None), second)
    assert (play(env, 4) != first).any()


@every
def test_without_a_seed_two_environments_differ(make):
    assert (play(make(Chart()), None) != play(make(Chart()), None)).any()


@every
def test_looking_twice_is_seeing_the_same(make):
    """render() and the observation are one picture, and drawing moves nothing on."""
    looked, plain = make(Chart()), make(Chart())
    for step in range(5):
        if step == 0:
            (seen, _), (expected, _) = looked.reset(seed=1), plain.reset(seed=1)
        else:
            seen, expected = looked.step(0)[0], plain.step(0)[0]
        for _ in range(2):
            np.testing.assert_array_equal(looked.render(), seen)
        np.testing.assert_array_equal(seen, expected)


def test_two_walks_of_one_seed_do_not_move_together():
    colour, shift = ColourDistraction(Chart()), ShiftDistraction(Chart())
    colour.reset(seed=0)
    shift.reset(seed=0)
    assert not np.isclose(colour._walk[:2], shift._walk).any()


# What they change, and what not


@every
@pytest.mark.parametrize("obs", ["pixels", "dict", "state"])
def test_pictures_change_and_nothing_else(make, obs):
    plain, env = Chart(obs), make(Chart(obs))
    assert env.observation_space == plain.observation_space
    before, _ = plain.reset(seed=0)
    after, info = env.reset(seed=0)
    for _ in range(3):
        assert after in env.observation_space
        assert info == {}
        if obs == "dict":
            assert list(after) == list(before)
            np.testing.assert_array_equal(after["state"], before["state"])
            after, before = after["pixels"], before["pixels"]
        if obs == "state":
            np.testing.assert_array_equal(after, before)
        else:
            assert (after != before).any()
            np.testing.assert_array_equal(after, env.render())
        assert (env.render() != plain.render()).any()
        before, *expected = plain.step(0)
        after, *rest = env.step(0)
        assert rest == expected
        info = rest[-1]


def test_colours_are_multiplied_channel_by_channel():
    env = ColourDistraction(Chart(), intensity=0.3)
    frame = env.reset(seed=2)[0]
    for _ in range(4):
        gains = 1 + env._walk
        assert len(set(gains)) == 3
        expected = np.clip(np.rint(Chart.frame * gains), 0, 255)
        np.testing.assert_array_equal(frame, expected)
        frame = env.step(0)[0]


def test_brightness_is_added():
    env = BrightnessDistraction(Chart(), intensity=0.3)
    frame = env.reset(seed=2)[0]
    for _ in range(4):
        expected = np.clip(np.rint(Chart.frame + 255 * env._walk[0]), 0, 255)
        np.testing.assert_array_equal(frame, expected)
        frame = env.step(0)[0]


def test_a_shift_moves_and_repeats_the_edge():
    env = ShiftDistraction(Chart(), intensity=0.3)
    moved = set()
    for seed in range(12):
        frame = env.reset(seed=seed)[0]
        down, right = np.rint(env._walk * (24, 36)).astype(int)
        moved.add((np.sign(down), np.sign(right)))
        pad = ((12, 12), (12, 12), (0, 0))
        padded = np.pad(Chart.frame, pad, mode="edge")
        expected = padded[12 - down : 36 - down, 12 - right : 48 - right]
        np.testing.assert_array_equal(frame, expected)
    assert {(1, 1), (-1, -1), (1, -1), (-1, 1)} <= moved


@pytest.mark.parametrize("cls", WALKS)
def test_walks_keep_their_bounds_and_speed(cls):
    intensity, speed = 0.2, 0.05
    env = cls(Chart(), intensity=intensity, speed=speed)
    starts, strides = [], []
    for seed in range(300):
        env.reset(seed=seed)
        starts.append(env._walk)
        for _ in range(20):
            before = env._walk
            env.step(0)
            inside = (np.abs(env._walk) < intensity) & (np.abs(before) < intensity)
            strides.append((env._walk - before)[inside])
            assert (np.abs(env._walk) <= intensity).all()
    # Uniform over the range: its standard deviation is 2 intensity / sqrt(12). Of 300
    # numbers an estimate is off by 3%, of thousands by 1% (and clipping takes a
    # little).
    assert np.std(starts) == pytest.approx(2 * intensity / np.sqrt(12), rel=0.15)
    assert np.mean(starts) == pytest.approx(0, abs=0.03)
    assert np.std(np.concatenate(strides)) == pytest.approx(speed * intensity, rel=0.07)


@pytest.mark.parametrize("cls", WALKS)
def test_no_intensity_is_no_change_and_no_speed_stands_still(cls):
    np.testing.assert_array_equal(
        play(cls(Chart(), intensity=0), 0), np.stack([Chart.frame] * 7)
    )
    frames = play(cls(Chart(), intensity=0.3, speed=0), 0)
    assert (frames[0] != Chart.frame).any()
    assert (frames == frames[0]).all()


# Backgrounds


@pytest.mark.parametrize("opacity", [1.0, 0.25])
def test_the_background_is_put_where_the_mask_is(opacity):
    env = BackgroundDistraction(Chart(), "gradients", opacity=opacity, mask=left_half)
    frames = play(env, 0, 2)
    video = find_videos("gradients", "train", 36)[env._walk.video]
    # The square video is stretched to the picture: 36 rows become 24.
    rows = [row * 3 // 2 for row in range(24)]
    for step, frame in enumerate(frames):
        behind = video.frame(env._walk.at(step))[rows]
        np.testing.assert_array_equal(frame[:, 18:], Chart.frame[:, 18:])
        mixed = (1 - opacity) * Chart.frame[:, :18] + opacity * behind[:, :18]
        np.testing.assert_allclose(frame[:, :18], mixed, atol=0.51)


def test_a_folder_of_images_is_played(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for video in ("one", "two"):
        (tmp_path / video).mkdir()
        for number in range(5):
            shade = 40 * number + (10 if video == "two" else 0)
            picture = np.full((20, 30, 3), shade, np.uint8)
            image.fromarray(picture).save(tmp_path / video / f"{number}.png")
    env = BackgroundDistraction(Chart(), tmp_path, mask=left_half)
    seen = set()
    for seed in range(8):
        shades = play(env, seed, 12)[:, 3, 3, 0].astype(int)
        assert set(np.abs(np.diff(shades))) == {40}, "one frame a step, to and fro"
        seen |= set(shades)
    assert seen == {*range(0, 200, 40), *range(10, 200, 40)}
    assert env._saved_kwargs["background"] == str(tmp_path)


def test_masks_from_the_environment_its_info_and_a_function():
    half = left_half(Chart.frame)

    class Knowing(Chart):
        def background_mask(self):
            return half

    info = Chart(extra={"mask": half})
    expected = play(BackgroundDistraction(Chart(), mask=left_half), 0)
    for env in (
        BackgroundDistraction(Knowing()),
        BackgroundDistraction(ColourDistraction(Knowing(), intensity=0)),
        BackgroundDistraction(info, mask="info:mask"),
        BackgroundDistraction(Chart(), mask=HALF),
    ):
        np.testing.assert_array_equal(play(env, 0), expected)
    moved = BackgroundDistraction(info, mask="info:mask")
    moved.reset(seed=0)
    info.extra = {"mask": ~half}
    frame = moved.step(0)[0]
    np.testing.assert_array_equal(frame[half], Chart.frame[half])
    assert (frame[~half] != Chart.frame[~half]).any()


@pytest.mark.parametrize("task", ["pick-place", "door-open", "sweep-into"])
@pytest.mark.parametrize("camera", ["corner2", "topview"])
def test_metaworlds_background(task, camera):
    """Against painting: paint on the robot and the objects shows, and only there."""
    pytest.importorskip("metaworld")
    from genreward_wrappers.envs.metaworld import MetaWorldEnv

    env = MetaWorldEnv(task, size=(96, 128), camera=camera, render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(4):
        frame, *_ = env.step(np.array([0, 1, 1, 0], np.float32))
    mask = env.background_mask()
    assert mask.shape == (96, 128)
    assert 0.3 < mask.mean() < 0.95
    model = env._sim.model
    names = [model.body(int(body)).name for body in model.geom_bodyid]
    scenery = np.isin(names, ["world", "tablelink", "RetainingWall"])
    before = model.geom_rgba.copy()
    # Materials would keep their colour.
    model.geom_matid[~scenery] = -1
    model.geom_rgba[~scenery & (before[:, 3] > 0)] = (1, 0, 1, 1)
    env._frame = None
    painted = env.render()
    model.geom_rgba[~scenery & (before[:, 3] > 0)] = (0, 1, 0, 1)
    env._frame = None
    changes = np.abs(env.render().astype(int) - painted).sum(-1) > 30
    # What the mask holds for background does not change with the paint, and hardly
    # anything else does not: marks of places, and what lies in black shade.
    assert not (changes & mask).any()
    assert (~mask & ~changes).sum() < 0.02 * mask.size
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    mark = (blue > 60) & (blue > red + 50) & (blue > green + 50)
    if task == "pick-place":
        assert mark.sum() > 3
        assert not mask[mark].any(), "the goal's mark is no background"
    env.close()


def test_metaworlds_frame_and_mask_do_not_disturb_each_other():
    pytest.importorskip("metaworld")
    from genreward_wrappers.envs.metaworld import MetaWorldEnv

    def frames(ask):
        env = MetaWorldEnv("door-open", render_mode="rgb_array")
        seen, masks = [env.reset(seed=0)[0]], []
        for _ in range(3):
            if ask:
                masks.append(env.background_mask())
                masks[-1][:] = False
                masks.append(env.background_mask())
            seen.append(env.step(np.array([-1, 1, 0, 0], np.float32))[0])
        env.close()
        return np.stack(seen), masks

    asked, masks = frames(ask=True)
    np.testing.assert_array_equal(asked, frames(ask=False)[0])
    assert masks[1].any(), "a mask in hand is a copy"
    assert (masks[1] != masks[-1]).any(), "it follows the arm"

    env = MetaWorldEnv("door-open")
    env.reset(seed=0)
    before = env.background_mask()
    env.reset(seed=1)
    assert (env.background_mask() != before).any(), "the door is elsewhere"
    env.close()


# Among other wrappers


@every
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
def test_gymnasium_accepts_them(make):
    check_env(make(PointMass(size=32, render_mode="rgb_array")))


@every
@pytest.mark.filterwarnings("ignore:.*share an object")
def test_specs_and_pickles_make_the_same_environment(make):
    gym.register("Chart-v9", Chart, max_episode_steps=9)
    try:
        env = make(gym.make("Chart-v9"))
        expected = play(env, 3)
        spec = env.spec
        # The class of a local environment is no string; everything else is JSON.
        spec.entry_point = f"{__name__}:Chart"
        remade = gym.make(EnvSpec.from_json(spec.to_json()))
        copy = pickle.loads(pickle.dumps(env))
        assert type(remade) is type(copy) is type(env)
        np.testing.assert_array_equal(play(remade, 3), expected)
        np.testing.assert_array_equal(play(copy, 3), expected)
    finally:
        del gym.registry["Chart-v9"]


def test_the_reward_sees_what_the_agent_sees():
    inside = BrightnessDistraction(PointMass(size=32), intensity=0.3, speed=1)
    env = RewardModelWrapper(inside, Brightness())
    plain = RewardModelWrapper(PointMass(size=32), Brightness())
    env.reset(seed=0)
    plain.reset(seed=0)
    for _ in range(5):
        frame, reward, *_ = env.step(np.zeros(2, np.float32))
        assert reward != plain.step(np.zeros(2, np.float32))[1]
        assert reward == pytest.approx(frame.mean() / 255, abs=1e-6)


def test_in_vector_environments_rows_differ_and_repeat():
    def rows():
        envs = gym.make_vec(
            "metaworld/reach",
            num_envs=2,
            size=32,
            wrappers=[partial(ColourDistraction, intensity=0.3)],
        )
        frames, _ = envs.reset(seed=[5, 5])
        frames = frames.copy(), envs.step(np.zeros((2, 4), np.float32))[0].copy()
        envs.close()
        return frames

    pytest.importorskip("metaworld")
    first, second = rows(), rows()
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
        # The same seed is the same distraction, whatever row it stands in.
        np.testing.assert_array_equal(one[0], one[1])


def test_inside_tapped_frames():
    env = TapFrames(ShiftDistraction(Chart("state"), intensity=0.3), size=(24, 36))
    _, info = env.reset(seed=1)
    expected = ShiftDistraction(Chart(), intensity=0.3).reset(seed=1)[0]
    np.testing.assert_array_equal(info["tapped_frame"], expected)


def test_a_distraction_of_ones_own():
    class Negative(Distraction):
        def begin(self, rng):
            self.sign = rng.choice([0, 255])

        def distract(self, frame):
            return frame ^ np.uint8(self.sign)

    env = Negative(Chart())
    signs = {int(play(env, seed, 1)[0, 0, 0, 0]) for seed in range(12)}
    assert signs == {int(Chart.frame[0, 0, 0]), 255 - int(Chart.frame[0, 0, 0])}


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ColourDistraction(Chart(), intensity=1.5),
            "intensity=1.5: expected a number from 0 to 1",
        ),
        (
            lambda: ShiftDistraction(Chart(), intensity=-0.1),
            "intensity=-0.1: expected",
        ),
        (
            lambda: ShiftDistraction(Chart(), intensity="hard"),
            "intensity='hard': expected",
        ),
        (
            lambda: ShiftDistraction(Chart(), intensity=float("nan")),
            "intensity=nan: expected",
        ),
        (
            lambda: BrightnessDistraction(Chart(), speed=True),
            "speed=True: expected",
        ),
        (
            lambda: BackgroundDistraction(Chart(), "davis"),
            "'noise', 'gradients'.*got 'davis'",
        ),
        (lambda: BackgroundDistraction(Chart(), []), "empty list"),
        (lambda: BackgroundDistraction(Chart(), ["no.mp4"]), "there is no no.mp4"),
        (lambda: BackgroundDistraction(Chart(), split="test"), "got 'test'"),
        (lambda: BackgroundDistraction(Chart(), opacity=2), "opacity=2: expected"),
        (lambda: BackgroundDistraction(Chart()), "no method background_mask.*mask="),
        (
            lambda: BackgroundDistraction(Chart(), mask="left"),
            "mask='left': .*info:<key>",
        ),
        (lambda: BackgroundDistraction(Chart(), mask="info:"), "mask='info:': "),
        (
            lambda: BackgroundDistraction(Chart(), mask="no:where"),
            "'no:where' is not there",
        ),
        (
            lambda: BackgroundDistraction(Chart(), mask="math:pi"),
            "mask='math:pi': expected",
        ),
        (lambda: ColourDistraction(Chart("state", None)), "no pixels anywhere"),
        (lambda: ColourDistraction(Chart(), frames="obs:pixels"), "no 'pixels'"),
        (lambda: ColourDistraction(Chart(), frames="info:x"), "inside TapFrames"),
    ],
)
def test_bad_arguments_are_quoted_with_what_would_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            lambda frame: np.ones((3, 3), bool),
            "bool (24, 36), as the picture",
        ),
        (lambda frame: frame[..., 0], "got uint8 (24, 36)"),
        (lambda frame: None, "got object ()"),
    ],
)
def test_masks_that_do_not_fit(mask, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BackgroundDistraction(Chart(), mask=mask).reset()


def test_an_empty_folder_and_one_with_a_broken_image(tmp_path):
    with pytest.raises(ValueError, match="has no videos"):
        BackgroundDistraction(Chart(), tmp_path, mask=left_half)
    (tmp_path / "one.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="one.png is no image"):
        BackgroundDistraction(Chart(), str(tmp_path), mask=left_half)


def test_info_without_the_mask():
    env = BackgroundDistraction(Chart(extra={"other": 1}), mask="info:mask")
    with pytest.raises(KeyError, match="no 'mask', only \\['other'\\]"):
        env.reset()


def test_render_at_the_wrong_time_or_of_the_wrong_kind():
    with pytest.raises(RuntimeError, match="call reset"):
        ColourDistraction(Chart()).render()
    env = ColourDistraction(Chart(render_mode=None))
    env.reset(seed=0)
    env.env.render = lambda: None
    assert env.render() is None
    env.env.render = lambda: [Chart.frame]
    with pytest.raises(TypeError, match="got list"):
        env.render()
