"""The frames of every step, one a row, wherever a host finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genreward_wrappers.core import Bool, Int64, UInt8
from genreward_wrappers.data.frames import FrameSource


class Frames:
    """(N, H, W, 3) of each step. Rows that have none keep the one before.

    Nobody will look at those: a host asks the session first which rows it wants.
    """

    def __init__(self, source: FrameSource, num_envs: int) -> None:
        self.source = source
        self.last: UInt8 = np.zeros((num_envs, 0, 0, 3), np.uint8)

    def batch(self, frames: Any) -> UInt8:
        """Takes a frame of every row."""
        self.last = frames
        return self.last

    def rows(self, found: Sequence[Any], wanted: Bool, steps: Int64) -> UInt8:
        """Takes the frames that are there.

        Args:
            found: One of each row, or None.
            wanted: (N,) the rows that have to have one.
            steps: (N,) of each row's episode, for the message.

        Raises:
            KeyError: A wanted frame is not there.
        """
        there = [row for row, frame in enumerate(found) if frame is not None]
        missing = [row for row in np.flatnonzero(wanted).tolist() if found[row] is None]
        if missing:
            raise KeyError(
                f"the reward wants the frame of step {steps[missing[0]] + 1} (in "
                f"environments {missing}) and "
                f"info[{self.source.key!r}] does not hold it: tap with the length= of "
                "the reward"
            )
        for row in there:
            if not isinstance(found[row], np.ndarray):
                raise TypeError(
                    "expected one uint8 frame of shape (height, width, 3), got "
                    f"{type(found[row]).__name__}"
                )
        if there:
            first = found[there[0]]
            like = self.last.shape[1:] == first.shape and self.last.dtype == first.dtype
            shape = (len(found), *first.shape)
            last = np.array(self.last) if like else np.zeros(shape, first.dtype)
            for row in there:
                last[row] = found[row]
            self.last = last
        return self.last
