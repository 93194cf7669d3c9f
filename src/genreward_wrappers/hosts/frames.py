"""The frames of every step, one a row, wherever a host finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genreward_wrappers.core import Bool, Int64, UInt8
from genreward_wrappers.data.frames import FrameSource


class Frames:
    """(N, H, W, 3) of each step. Rows without a frame keep the one before.

    No model looks at those: a host asks the session first which rows it wants.

    Attributes:
        source: Where the frames are.
        last: The newest frames.
    """

    def __init__(self, source: FrameSource, num_envs: int) -> None:
        self.source = source
        self.last: UInt8 = np.zeros((num_envs, 0, 0, 3), np.uint8)

    def take(
        self,
        observations: Any,
        wanted: Bool,
        steps: Int64,
        infos: Callable[[str], Sequence[Any]],
        render: Callable[[], Any],
        axes: int = 1,
    ) -> UInt8:
        """Takes the frames of a step.

        Args:
            observations: Those of all rows, or of a single environment (``axes=0``).
            wanted: (N,) the rows that must have a frame, unless it is in the
                observation, which always holds one.
            steps: (N,) the steps of each row's episode so far, for the message.
            infos: Returns what each row's info holds under a key, or None.
            render: Draws every row.
            axes: The number of axes before those of a single observation.

        Raises:
            KeyError: A wanted frame is not in the info.
            TypeError: Something else is in the place of a frame.
            ValueError: A frame has another size or type than those before.
        """
        source = self.source
        if source.kind == "obs":
            frames = source.of_observation(observations)
            batched = axes and isinstance(frames, np.ndarray) and frames.ndim
            first = self.checked(frames[0] if batched else frames)
            self.last = frames if batched else first[None]
        elif source.kind == "info":
            found = infos(str(source.key))
            self._check_found(found, wanted, steps)
            self._put(found, wanted)
        elif np.count_nonzero(wanted):
            self._put(render(), wanted)
        return self.last

    def put_last(self, ended: Bool, last: Callable[[int], Any]) -> UInt8:
        """The newest frames, but in rows that ended the last one of their episode.

        Args:
            ended: (N,) the rows that show the first frame of the next episode.
            last: Returns the true last frame of a row.
        """
        if not np.count_nonzero(ended):
            return self.last
        frames = np.array(self.last)
        for row in np.flatnonzero(ended).tolist():
            frames[row] = self.checked(last(row))
        return frames

    def checked(self, frame: Any) -> UInt8:
        """The frame, if it is like those before."""
        if not isinstance(frame, np.ndarray):
            raise TypeError(
                "expected one uint8 frame of shape (height, width, 3), got "
                f"{type(frame).__name__}"
            )
        like = self.last
        if like.size and (frame.shape, frame.dtype) != (like.shape[1:], like.dtype):
            raise ValueError(
                f"frames changed: those before were {like.dtype} {like.shape[1:]}, "
                f"this one is {frame.dtype} {frame.shape}"
            )
        return frame

    def _check_found(self, found: Sequence[Any], wanted: Bool, steps: Int64) -> None:
        missing = [
            row for row, frame in enumerate(found) if frame is None and wanted[row]
        ]
        if missing:
            raise KeyError(
                f"the reward wants the frame of step {steps[missing[0]] + 1} (in "
                f"environments {missing}) and info[{self.source.key!r}] does not hold "
                "it: tap with the length= of the reward"
            )

    def _put(self, found: Sequence[Any], wanted: Bool) -> None:
        """Takes the frames that are there, and those that have to be."""
        taken = {
            row: frame
            for row, frame in enumerate(found)
            if frame is not None or wanted[row]
        }
        if not taken:
            return
        first, before = self.checked(next(iter(taken.values()))), self.last
        # A new array and not an assignment in place: snapshots share the old one.
        if before.size and len(taken) < len(before):
            last = np.array(before)
        else:
            last = np.zeros((len(before), *first.shape), first.dtype)
        if not before.size:
            self.last = last
        for row, frame in taken.items():
            last[row] = self.checked(frame)
        self.last = last
