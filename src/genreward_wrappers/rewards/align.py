"""A camera that stands a little elsewhere than the goal's: found once, undone always.

A goal video is compared place by place, so a picture that is moved by a few pixels is
another picture. The camera of an environment does not move within an episode: how far
it is off shows in the first frame, beside the goals' first frames, and every frame
after it is moved back by as much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from genreward_wrappers.checks import whole
from genreward_wrappers.core import (
    Bool,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.data.frames import area_resize
from genreward_wrappers.rewards.decorators import Around

#: A shift has to explain this share of what differs without one. Two episodes differ
#: in where things lie, which no shift explains: those stay as they are.
EXPLAINED = 0.25


@dataclass(frozen=True, slots=True)
class AlignedMemory:
    """The model's own memory, and by how much each row's picture is off.

    Attributes:
        own: What the model inside remembers.
        shifts: (N, 2) pixels down and to the right.
    """

    own: Any
    shifts: Int64


class Aligned(Around):
    """Moves an episode's pictures back to where the goal's camera stood.

    Turning and zooming are not undone, and what the picture lost at an edge is filled
    with the pixels beside it.
    """

    wraps_memory = True

    def __init__(
        self, model: RewardModel[Any], reach: int, name: str | None = None
    ) -> None:
        """Wraps a model.

        Args:
            model: One that compares with a goal bundle.
            reach: The most pixels that a picture is moved in each direction, in pixels
                of the environment's frames.
            name: None is the model's own.

        Raises:
            ValueError: There is no goal to align with, or the reach is no number of
                pixels.
        """
        super().__init__(model, name)
        if self.goal is None:
            raise ValueError(
                f"align={reach}: the reward {model.name!r} has no goal video to align "
                "the camera with"
            )
        self._reach = whole("align", reach)

    @property
    def identity(self) -> str:
        """Of the model and the reach."""
        return f"{super().identity} align {self._reach}"

    def reset(
        self, memory: AlignedMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> AlignedMemory:
        """Finds how far the cameras of some rows are off, and resets the model."""
        if memory is None:
            memory = AlignedMemory(None, np.zeros((len(mask), 2), np.int64))
        shifts = memory.shifts.copy()
        size = frames.shape[1], frames.shape[2]
        firsts = self.goal.videos[:, 0]
        goals = np.stack([area_resize(first, size) for first in firsts])
        for row in np.flatnonzero(mask):
            shifts[row] = find_shift(frames[row], goals, self._reach)
        own = self.model.reset(memory.own, _moved_back(frames, shifts), mask, seeds)
        return AlignedMemory(own, shifts)

    def step(
        self, memory: AlignedMemory, transition: Transition
    ) -> tuple[Score, AlignedMemory]:
        """Scores the pictures as the goal's camera would have taken them."""
        aligned = replace(
            transition,
            frames=_moved_back(transition.frames, memory.shifts),
            next_frames=_moved_back(transition.next_frames, memory.shifts),
        )
        score, own = self.model.step(memory.own, aligned)
        return score, replace(memory, own=own)

    def notes(self, memory: AlignedMemory) -> dict[str, NDArray[Any]]:
        """What the model inside notes, and how far each row's camera is off."""
        down, right = memory.shifts.T
        return {**super().notes(memory), "camera_down": down, "camera_right": right}


def find_shift(frame: UInt8, goals: UInt8, reach: int) -> Int64:
    """(2,) how many pixels down and right a frame lies of the goal that fits it best.

    The shift with the least mean squared difference over the pixels that all shifts
    leave in the picture; none, unless it explains a good part of the difference.

    Args:
        frame: (H, W, 3).
        goals: (K, H, W, 3) the goals' first frames.
        reach: The most pixels to look in each direction.

    Raises:
        ValueError: The picture is too small for it.
    """
    height, width = frame.shape[:2]
    if min(height, width) <= 4 * reach:
        raise ValueError(
            f"align={reach} is too far for pictures of {height}x{width}: expected less "
            f"than a quarter of a side"
        )
    sides = height - 2 * reach, width - 2 * reach
    # Sums of whole numbers: float64 is exact.
    grey = goals[:, reach : height - reach, reach : width - reach].sum(-1)
    wanted = grey.reshape(len(goals), -1).astype(np.float64)
    windows = sliding_window_view(frame.sum(-1, dtype=np.float64), sides)
    errors = np.empty(windows.shape[:2])
    # All shifts at once would take gigabytes for a large picture.
    for down, row in enumerate(windows):
        moved = row.reshape(len(row), -1)
        squares = np.square(moved).sum(1)[:, None] + np.square(wanted).sum(1)
        errors[down] = (squares - 2 * moved @ wanted.T).min(1)
    best = np.unravel_index(errors.argmin(), errors.shape)
    # Of a plain picture every shift is as good as none.
    if errors[best] >= (1 - EXPLAINED) * errors[reach, reach]:
        return np.zeros(2, np.int64)
    return np.array(best, np.int64) - reach


def _moved_back(frames: UInt8, shifts: Int64) -> UInt8:
    """Frames without their shifts; the very same array where there are none."""
    if not shifts.any():
        return frames
    moved = np.array(frames)
    height, width = frames.shape[1:3]
    for row in np.flatnonzero(shifts.any(1)):
        down, right = shifts[row]
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        moved[row] = frames[row][rows][:, columns]
    return moved
