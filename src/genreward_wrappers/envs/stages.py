"""What is going on in a frame, in words, from the simulator's own numbers.

A few plain sentences a task: the arm is away from the puck, at it, moves it, holds it
up, has done what the task asks for. Pictures with such captions are what a small CLIP
is trained on, and held-out ones are what it is judged by.

Meta-World's state says where the hand, the object and the goal are; done is what the
environment calls a success now: a handle that has sprung back is not pressed any more.
Of dm_control three tasks can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Of Meta-World's tasks: what is moved, and how it is when the task is done.
OBJECTS = {
    "bin-picking": ("cube", "in the other bin"),
    "button-press": ("button", "pushed in"),
    "button-press-topdown": ("button", "pressed down"),
    "coffee-button": ("button", "pushed in"),
    "disassemble": ("ring", "off the peg"),
    "door-open": ("door", "open"),
    "drawer-close": ("drawer", "shut"),
    "drawer-open": ("drawer", "open"),
    "faucet-open": ("faucet", "open"),
    "handle-press": ("handle", "pressed down"),
    "pick-out-of-hole": ("puck", "at the goal"),
    "pick-place": ("puck", "at the goal"),
    "plate-slide": ("plate", "in the net"),
    "push": ("puck", "at the goal"),
    "shelf-place": ("block", "on the shelf"),
    "window-open": ("window", "open"),
}

# Where Meta-World's 39 numbers have what, in metres.
HAND, OBJECT, GOAL = slice(0, 3), slice(4, 7), slice(36, 39)
NEAR, MOVED, LIFTED = 0.08, 0.02, 0.04


def captions(
    env_id: str, states: Floats, success: NDArray[np.bool_]
) -> list[str] | None:
    """A sentence for every state of an episode.

    Args:
        env_id: The environment's registered id.
        states: (T + 1, S) what it says of itself, before every step and at the end.
        success: (T,) what it called a success, step by step.

    Returns:
        T + 1 sentences; None if nothing can be told of this environment.
    """
    family, _, task = env_id.partition("/")
    done = np.concatenate([[False], success])
    if family == "metaworld" and task == "reach":
        return [_reaching(*row) for row in zip(states, done, strict=True)]
    if family == "metaworld" and task in OBJECTS:
        return [
            _manipulating(task, state, states[0], is_done)
            for state, is_done in zip(states, done, strict=True)
        ]
    if family in ("dmc", "distracting") and task in CONTROLLED:
        return [CONTROLLED[task](state) for state in states]
    return None


def sentences(env_id: str) -> list[str]:
    """All that `captions` can say of an environment, the end of the task last."""
    family, _, task = env_id.partition("/")
    if task == "reach":
        return [text.format("") for text in _REACH]
    if family == "metaworld" and task in OBJECTS:
        noun, how = OBJECTS[task]
        return [text.format(noun, how) for text in _OBJECT]
    return list(_SAID.get(task, ()))


def runs(texts: Sequence[str]) -> list[tuple[int, str]]:
    """Texts with the number of the first state that they hold for."""
    found, begin = [], 0
    for text, same in groupby(texts):
        found.append((begin, text))
        begin += len(list(same))
    return found


_REACH = (
    "the robot arm is away from the goal",
    "the robot arm is near the goal",
    "the robot arm is at the goal",
)
_OBJECT = (
    "the robot arm is away from the {0}",
    "the robot arm is at the {0}",
    "the robot arm moves the {0}",
    "the robot arm holds up the {0}",
    "the {0} is {1}",
)


def _reaching(state: Floats, done: bool) -> str:
    distance = np.linalg.norm(state[HAND] - state[GOAL])
    return _REACH[2 if done else 1 if distance < 2 * NEAR else 0]


def _manipulating(task: str, state: Floats, start: Floats, done: bool) -> str:
    noun, how = OBJECTS[task]
    moved = state[OBJECT] - start[OBJECT]
    if done:
        stage = 4
    elif moved[2] > LIFTED:
        stage = 3
    elif np.linalg.norm(moved) > MOVED:
        stage = 2
    else:
        stage = int(np.linalg.norm(state[HAND] - state[OBJECT]) < NEAR)
    return _OBJECT[stage].format(noun, how)


_SAID = {
    "cartpole-swingup": (
        "the pole hangs down",
        "the pole swings",
        "the pole is upright",
    ),
    "reacher-easy": (
        "the tip is away from the target",
        "the tip is near the target",
        "the tip is on the target",
    ),
    "walker-walk": ("the walker lies", "the walker bends", "the walker is upright"),
}


def _pole(state: Floats) -> str:
    # Position of the cart, cosine and sine of the pole's angle, and their speeds.
    return _SAID["cartpole-swingup"][int(state[1] > -0.8) + int(state[1] > 0.9)]


def _tip(state: Floats) -> str:
    # Two angles, the way from the tip to the target, two speeds; the target's radius
    # is 0.05.
    way = np.linalg.norm(state[2:4])
    return _SAID["reacher-easy"][int(way < 0.15) + int(way < 0.05)]


def _walker(state: Floats) -> str:
    # Fourteen numbers of orientation, then the height of the torso.
    return _SAID["walker-walk"][int(state[14] > 0.6) + int(state[14] > 1.1)]


CONTROLLED: dict[str, Callable[[Floats], str]] = {
    "cartpole-swingup": _pole,
    "reacher-easy": _tip,
    "walker-walk": _walker,
}
