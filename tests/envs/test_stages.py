"""What is said of a state: from numbers that are known to mean it."""

from __future__ import annotations

import numpy as np
import pytest

from genreward_wrappers.envs.stages import (
    GOAL,
    HAND,
    OBJECT,
    OBJECTS,
    captions,
    runs,
    sentences,
)


def states(hand=(), thing=(), goal=(), size=39):
    """States (T + 1, 39) of places that are given one by one."""
    found = np.zeros((max(len(hand), len(thing), len(goal)), size), np.float32)
    for part, places in ((HAND, hand), (OBJECT, thing), (GOAL, goal)):
        for row, place in enumerate(places):
            found[row, part] = place
    return found


def test_a_puck_is_come_to_moved_lifted_and_brought():
    thing = [(0, 0, 0)] * 2 + [(0.03, 0, 0), (0.03, 0, 0.05), (0.1, 0, 0.05)]
    hand = [(0.3, 0, 0), (0.05, 0, 0), *thing[2:]]
    success = np.array([False, False, False, True])
    found = captions("metaworld/pick-place", states(hand, thing), success)
    assert found == sentences("metaworld/pick-place")
    assert found[0] == "the robot arm is away from the puck"
    assert found[-1] == "the puck is at the goal"


@pytest.mark.parametrize(
    ("hand", "thing", "stage"),
    [
        ((0.079, 0, 0), (0, 0, 0), 1),
        ((0.081, 0, 0), (0, 0, 0), 0),
        ((0.3, 0, 0), (0.019, 0, 0), 0),
        ((0.3, 0, 0), (0.021, 0, 0), 2),
        ((0.3, 0, 0), (0, 0, 0.039), 2),
        ((0.3, 0, 0), (0, 0, 0.041), 3),
    ],
)
def test_a_stage_begins_at_so_many_centimetres(hand, thing, stage):
    """Eight to be at it, two to have moved it, four to have lifted it."""
    told = states([(0.3, 0, 0), hand], [(0, 0, 0), thing])
    found = captions("metaworld/push", told, np.array([False]))
    assert found[1] == sentences("metaworld/push")[stage]


def test_what_is_undone_is_not_called_done():
    thing = [(0, 0, 0), (0, 0, -0.08), (0, 0, -0.05)]
    success = np.array([True, False])
    found = captions("metaworld/handle-press", states(thing, thing), success)
    assert found[1:] == ["the handle is pressed down", "the robot arm moves the handle"]


def test_reaching_is_of_the_goal():
    hand = [(0.5, 0, 0), (0.1, 0, 0), (0.01, 0, 0)]
    found = captions(
        "metaworld/reach", states(hand, goal=[(0, 0, 0)] * 3), np.array([False, True])
    )
    assert found == sentences("metaworld/reach")


@pytest.mark.parametrize(
    ("task", "place", "values"),
    [
        # Both sides of each of the two places where a stage ends.
        ("cartpole-swingup", 1, (-1, -0.81, -0.79, 0.89, 0.91)),
        ("reacher-easy", 2, (0.3, 0.151, 0.149, 0.051, 0.049)),
        ("walker-walk", 14, (0.2, 0.59, 0.61, 1.09, 1.11)),
    ],
)
def test_three_tasks_of_dm_control_can_be_told(task, place, values):
    rows = np.zeros((5, 24), np.float32)
    rows[:, place] = values
    first, second, third = sentences(f"dmc/{task}")
    for family in ("dmc", "distracting"):
        found = captions(f"{family}/{task}", rows, np.zeros(4, bool))
        assert found == [first, first, second, second, third]


@pytest.mark.parametrize("task", ["cartpole-swingup", "reacher-easy", "walker-walk"])
def test_dm_controls_numbers_lie_where_they_are_read(task):
    """Against what the simulator itself says, at the start and as it falls."""
    pytest.importorskip("dm_control")
    import gymnasium as gym

    import genreward_wrappers  # noqa: F401

    env = gym.make(f"dmc/{task}", obs="state")
    state, _ = env.reset(seed=3)
    for _ in range(5):
        state, *_ = env.step(env.action_space.sample())
    physics = env.unwrapped._sim.physics
    if task == "cartpole-swingup":
        assert state[1] == pytest.approx(physics.pole_angle_cosine()[0], abs=1e-5)
    elif task == "reacher-easy":
        np.testing.assert_allclose(state[2:4], physics.finger_to_target(), atol=1e-5)
    else:
        assert state[14] == pytest.approx(physics.torso_height(), abs=1e-5)


def test_every_task_has_sentences_that_end_with_it_done():
    for task, (noun, how) in OBJECTS.items():
        assert sentences(f"metaworld/{task}")[-1] == f"the {noun} is {how}"
    assert sentences("metaworld/hammer") == []
    assert captions("metaworld/hammer", np.zeros((2, 39)), np.zeros(1, bool)) is None
    assert captions("CartPole-v1", np.zeros((2, 4)), np.zeros(1, bool)) is None


def test_texts_are_noted_where_they_begin():
    texts = ["a", "a", "b", "a"]
    noted = runs(texts)
    assert noted == [(0, "a"), (2, "b"), (3, "a")]
