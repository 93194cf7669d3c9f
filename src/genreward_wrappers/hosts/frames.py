"""The frames of every step, one a row, wherever a host finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genreward_wrappers.core import Bool, Int64, UInt8
from genreward_wrappers.data.frames import FrameSource


class Frames:
    """(N, H, W, 3) of each step. Rows without a frame keep the one before.

    Nobody will look at those: a host asks the session first which rows it wants.
    """

    def __init__(self, source: FrameSource, num_envs: int) -> None:
        self.source = source
        self.last: UInt8 = np.zeros((num_envs, 0, 0, 3), np.uint8)

    def batch(self, frames: Any) -> UInt8:
        """Takes a frame of every row."""
        batched = isinstance(frames, np.ndarray) and frames.ndim > 0
        self.checked(frames[0] if batched else frames)
        self.last = frames
        return self.last

    def rows(self, found: Sequence[Any], wanted: Bool, steps: Int64) -> UInt8:
        """Takes the frames that are there.

        Args:
            found: One of each row, or None. An observation always holds one.
            wanted: (N,) the rows that have to have one.
            steps: (N,) of each row's episode, for the message.

        Raises:
            KeyError: A wanted frame is not in the info.
            TypeError: Something else is in the place of a frame.
            ValueError: A frame has another size or type than those before.
        """
        missing = [row for row in np.flatnonzero(wanted).tolist() if found[row] is None]
        if missing and self.source.kind == "info":
            raise KeyError(
                f"the reward wants the frame of step {steps[missing[0]] + 1} (in "
                f"environments {missing}) and "
                f"info[{self.source.key!r}] does not hold it: tap with the length= of "
                "the reward"
            )
        always = self.source.kind == "obs"
        there = [
            row
            for row, frame in enumerate(found)
            if always or wanted[row] or frame is not None
        ]
        if there:
            first = self.checked(found[there[0]])
            last = np.array(self.last)
            if not last.size:
                last = self.last = np.zeros((len(found), *first.shape), first.dtype)
            for row in there:
                last[row] = self.checked(found[row])
            self.last = last
        return self.last

    def checked(self, frame: Any) -> UInt8:
        """The frame, if it is like those before."""
        if not isinstance(frame, np.ndarray):
            raise TypeError(
                "expected one uint8 frame of shape (height, width, 3), got "
                f"{type(frame).__name__}"
            )
        like = self.last[0]
        if like.size and (frame.shape, frame.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"frames changed: those before were {like.dtype} {like.shape}, this "
                f"one is {frame.dtype} {frame.shape}"
            )
        return frame
