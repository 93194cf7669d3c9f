"""A camera that is off by some pixels: the shift that is found, and what it undoes."""

from __future__ import annotations

import numpy as np
import pytest

from genreward_wrappers import (
    RewardSpec,
    VideoLevelReward,
    load_goal,
    load_reward,
    make,
)
from genreward_wrappers.core import Session
from genreward_wrappers.rewards.align import EXPLAINED, Aligned, find_shift
from genreward_wrappers.testing import Brightness

GOAL = "metaworld/drawer-close"


def moved(frames, down, right):
    """Frames as a camera sees them that stands elsewhere; edges are drawn out."""
    wide = np.pad(frames, ((0, 0), (8, 8), (8, 8), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    return wide[:, 8 - down : 8 - down + height, 8 - right : 8 - right + width]


def pay(model, episodes):
    """(T, N) what a model pays for clips of one length, side by side."""
    frames = np.stack(episodes, 1)
    session = Session([model], frames.shape[1])
    session.begin(frames[0], seed=0)
    actions = np.zeros((frames.shape[1], 4), np.float32)
    no = np.zeros(frames.shape[1], np.bool_)
    scores = [session.score(actions, frame, no, no) for frame in frames[1:]]
    return np.stack([score[model.name].value for score in scores])


@pytest.fixture(scope="module")
def goal():
    return load_goal(GOAL)


def reward(goal, **options):
    options = {"encoder": "pixels", "horizon": 16, "device": "cpu", **options}
    return load_reward("video", goal=goal, **options)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -2), (-4, 4), (0, 1)])
def test_the_shift_against_plain_loops(goal, down, right):
    firsts = goal.videos[:, 0]
    noise = np.random.default_rng(0).integers(-9, 10, firsts[5].shape)
    noisy = np.clip(firsts[5] + noise, 0, 255).astype(np.uint8)
    frame = moved(noisy[None], down, right)
    errors = {}
    for y in range(-4, 5):
        for x in range(-4, 5):
            seen = frame[0, 4 + y : 60 + y, 4 + x : 60 + x].astype(int).sum(-1)
            wanted = firsts[:, 4:60, 4:60].astype(int).sum(-1)
            errors[y, x] = min(((seen - one) ** 2).sum() for one in wanted)
    best = min(errors, key=errors.get)
    assert best == (down, right)
    assert errors[best] <= (1 - EXPLAINED) * errors[0, 0] or best == (0, 0)
    assert tuple(find_shift(frame[0], firsts, 4)) == best


def test_a_shift_that_explains_little_is_none(goal):
    frame = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    assert tuple(find_shift(frame, goal.videos[:, 0], 4)) == (0, 0)


def test_a_plain_picture_is_nowhere_else():
    black = np.zeros((64, 64, 3), np.uint8)
    assert tuple(find_shift(black, black[None], 4)) == (0, 0)


def test_a_moved_camera_earns_what_the_goals_own_earns(goal):
    clips = [goal.videos[index] for index in (0, 3)]
    shifted = [moved(clips[0], 3, -2), moved(clips[1], -1, 4)]
    own = pay(reward(goal), clips)
    aligned = pay(reward(goal, align=4), shifted)
    plain = pay(reward(goal), shifted)
    # What left the picture at an edge does not come back.
    assert np.abs(aligned - own).mean() < 0.25 * np.abs(plain - own).mean()


def test_where_nothing_is_off_no_bit_changes(goal):
    clips = [goal.videos[index] for index in (1, 2)]
    np.testing.assert_array_equal(
        pay(reward(goal, align=4), clips), pay(reward(goal), clips)
    )


def test_rows_have_cameras_of_their_own(goal):
    model = reward(goal, align=4)
    clips = [moved(goal.videos[0], 2, 2), goal.videos[1]]
    together = pay(model, clips)
    for row, clip in enumerate(clips):
        np.testing.assert_array_equal(pay(model, [clip])[:, 0], together[:, row])
    session = Session([model], 2)
    session.begin(np.stack([clip[0] for clip in clips]), seed=0)
    assert session.notes()["camera_down"].tolist() == [2, 0]
    before = session.snapshot()
    # The second row begins anew, and the first keeps its camera.
    again = np.stack([clips[1][0], moved(goal.videos[1], -3, 0)[0]])
    session.begin(again, seed=0, mask=np.array([False, True]))
    assert session.notes()["camera_down"].tolist() == [2, -3]
    assert session.notes()["camera_right"].tolist() == [2, 0]
    assert "goal_index" in session.notes(), "the model's own notes stay"
    session.restore(before)
    assert session.notes()["camera_down"].tolist() == [2, 0]


class Looking(Brightness):
    """Keeps what it sees."""

    def step(self, memory, t):
        self.seen = t
        return super().step(memory, t)


def test_both_frames_of_a_step_are_moved_back(goal):
    model = Looking()
    model.goal = goal
    frame = goal.videos[0, 0]
    seen = moved(frame[None], 3, -2)
    pay(Aligned(model, 4), [np.stack([seen[0], seen[0]])])
    for found in (model.seen.frames[0], model.seen.next_frames[0]):
        np.testing.assert_array_equal(found[:-3, 2:], frame[:-3, 2:])
        # What was lost at an edge is drawn out.
        np.testing.assert_array_equal(found[-3:], found[[-4] * 3])
        np.testing.assert_array_equal(found[:, :2], found[:, [2] * 2])


def test_in_a_wrapper_and_a_spec():
    env = VideoLevelReward(make(GOAL), encoder="pixels", align=4)
    _, info = env.reset(seed=0)
    assert info["camera_down"] == info["camera_right"] == 0
    env.close()
    assert RewardSpec.parse("genreward:align=3").options["align"] == 3
    assert "align 2" in reward(GOAL, align=2).identity


@pytest.mark.parametrize("reach", [0, -1, 2.5, True, "4"])
def test_a_reach_that_is_none(goal, reach):
    with pytest.raises(
        ValueError, match=r"align=.*expected a whole number, at least 1"
    ):
        reward(goal, align=reach)


def test_what_cannot_be_aligned(goal):
    with pytest.raises(ValueError, match="'brightness' has no goal video"):
        Aligned(Brightness(), 4)
    with pytest.raises(TypeError, match="'viper'.*no option 'align'"):
        load_reward("viper", align=4)
    with pytest.raises(ValueError, match="align=16 is too far for pictures of 64x64"):
        pay(reward(goal, align=16), [goal.videos[0]])
