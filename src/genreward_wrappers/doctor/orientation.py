"""Checks that pictures are upright and not mirrored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8
from genreward_wrappers.doctor.finding import (
    EGL,
    Finding,
    Visit,
    make_env,
    save_picture,
)

#: Side of the pictures in which the hand is located.
SIDE = 128

_HAND = ("hand", "rightclaw", "rightpad", "leftclaw", "leftpad")


def check_orientation(visit: Visit) -> Iterator[Finding]:
    """Whether a movement upwards in the world is one upwards in the picture.

    The check relies on no convention: the hand is located in the picture by painting
    it, and its expected position is computed from the camera's pose.
    """
    name = "orientation"
    if not visit.metaworld:
        yield Finding(name, "info", "not checked: only Meta-World's hand is known")
        return
    with contextlib.closing(make_env(visit.env_id, obs="state", size=SIDE)) as env:
        env.reset(seed=0)
        to_the_right = _right_of_camera(env.unwrapped)
        moves = {"start": np.zeros(3), "up": np.eye(3)[2], "right": to_the_right}
        drawn, computed, shots = {}, {}, []
        for move, direction in moves.items():
            env.reset(seed=0)
            speed = direction / max(np.abs(direction).max(), 1e-6)
            for _ in range(12):
                env.step(np.append(speed, 0).astype(np.float32))
            frame = _fresh(env.unwrapped)
            place = _seen_hand(env.unwrapped, frame)
            if place is None:
                says = f"the hand is not in the picture ({move})"
                do = f"look at the picture (--output), and at the camera; {EGL}"
                yield Finding(name, "fail", says, do)
                return
            drawn[move], computed[move] = place, _computed_hand(env.unwrapped)
            shots.append(_marked(frame, computed[move]))
    saved = save_picture(
        visit, "orientation.png", np.concatenate(shots, axis=1), zoom=3
    )
    says = "; ".join(
        f"{move}: drawn at ({drawn[move][0]:.0f}, {drawn[move][1]:.0f}), computed "
        f"({computed[move][0]:.0f}, {computed[move][1]:.0f})"
        for move in moves
    )
    says = f"the hand's row and column of {SIDE}, {says}{saved}"
    verdict = _verdict(drawn, computed)
    if verdict is None:
        yield Finding(name, "info", f"the camera looks along the movement; {says}")
    elif verdict:
        do = (
            "goal videos would not match: update mujoco and the graphics driver, try "
            "another MUJOCO_GL (egl, osmesa, glfw), and report it with the picture"
        )
        yield Finding(name, "fail", f"{verdict}: {says}", do)
    else:
        yield Finding(name, "ok", f"upright, not mirrored: {says}")


def _verdict(
    drawn: dict[str, NDArray[Any]], computed: dict[str, NDArray[Any]]
) -> str | None:
    """What is wrong with the picture; None if these movements do not show it."""
    seen = (drawn["up"] - drawn["start"])[0], (drawn["right"] - drawn["start"])[1]
    due = (
        (computed["up"] - computed["start"])[0],
        (computed["right"] - computed["start"])[1],
    )
    # Rows grow downwards, so "up" is negative. A camera that looks down sees neither.
    if due[0] > -3 or due[1] < 3:
        return None
    faults = []
    if seen[0] > 0:
        faults.append("upside-down")
    if seen[1] < 0:
        faults.append("mirrored")
    off = max(np.abs(drawn[move] - computed[move]).max() for move in drawn)
    # The centre of the visible pixels is close to the centre of the hand.
    if not faults and off > SIDE / 10:
        faults.append(f"the hand is {off:.0f} pixels from its place")
    return " and ".join(faults)


def _camera(env: Any) -> tuple[NDArray[Any], NDArray[Any], float]:
    """The camera's position, its (right, up, back) axes in the picture, and its focus.

    If a camera is mounted upside down in the model, this package rotates its pictures
    by 180 degrees, so that +z is up.
    """
    data, camera = env._sim.data, env._camera_id
    axes = np.array(data.cam_xmat[camera]).reshape(3, 3).T
    if axes[1, 2] < 0:
        axes[:2] *= -1
    focus = 0.5 / np.tan(np.radians(float(env._sim.model.cam_fovy[camera])) / 2)
    return np.array(data.cam_xpos[camera]), axes, float(focus)


def _right_of_camera(env: Any) -> NDArray[Any]:
    right: NDArray[Any] = _camera(env)[1][0]
    return right


def _computed_hand(env: Any) -> NDArray[Any]:
    """The (row, column) at which the camera sees the centre of the hand."""
    position, axes, focus = _camera(env)
    (height, width), data = env.size, env._sim.data
    right, up, back = axes @ (data.geom_xpos[_hand(env)] - position).T
    rows = (height - 1) / 2 - focus * height * up / -back
    columns = (width - 1) / 2 + focus * height * right / -back
    return np.array([rows.mean(), columns.mean()])


def _seen_hand(env: Any, frame: UInt8) -> NDArray[Any] | None:
    """The centre of the pixels that change if the hand is painted; None without any."""
    colours, hand = env._sim.model.geom_rgba, _hand(env)
    before = colours[hand].copy()
    colours[hand] = (1, 0, 1, 1)
    painted = _fresh(env)
    colours[hand] = before
    changed = np.abs(painted.astype(int) - frame).sum(-1) > 30
    if not changed.any():
        return None
    middle: NDArray[Any] = np.argwhere(changed).mean(0)
    return middle


def _hand(env: Any) -> list[int]:
    model = env._sim.model
    bodies = [int(model.body(name).id) for name in _HAND]
    return [geom for geom, body in enumerate(model.geom_bodyid) if body in bodies]


def _fresh(env: Any) -> UInt8:
    """A new picture: environments draw once per step and keep the result."""
    env._frame = None
    frame: UInt8 = env.render()
    return frame


def _marked(frame: UInt8, place: NDArray[Any]) -> UInt8:
    """The frame with a green cross around a (row, column), and a white margin."""
    marked = np.pad(frame, ((0, 0), (0, 2), (0, 0)), constant_values=255)
    row, column = (int(np.clip(round(at), 0, SIDE - 1)) for at in place)
    for near in (*range(-9, -3), *range(4, 10)):
        marked[int(np.clip(row + near, 0, SIDE - 1)), column] = (0, 255, 0)
        marked[row, int(np.clip(column + near, 0, SIDE - 1))] = (0, 255, 0)
    return marked
