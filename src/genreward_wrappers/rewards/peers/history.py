"""The frames of each row's episode so far, for rewards that look at all of it.

A row's history is a tuple of frames. Adding one makes a new tuple over the same frames:
old memories are unchanged, and only the newest frame is copied.
"""

from __future__ import annotations

import numpy as np

from genreward_wrappers.core import Bool, UInt8
from genreward_wrappers.data.frames import evenly

History = tuple[UInt8, ...]


def begin(
    histories: tuple[History, ...] | None, frames: UInt8, mask: Bool
) -> tuple[History, ...]:
    """Histories in which the masked rows begin with their first frame."""
    old: tuple[History, ...] = ((),) * len(mask) if histories is None else histories
    return tuple(
        (np.array(frames[row]),) if mask[row] else old[row] for row in range(len(mask))
    )


def add(
    histories: tuple[History, ...], frames: UInt8, mask: Bool
) -> tuple[History, ...]:
    """Histories with one more frame in the masked rows."""
    return tuple(
        (*old, np.array(frames[row])) if mask[row] else old
        for row, old in enumerate(histories)
    )


def sample(history: History, length: int) -> UInt8:
    """(length, H, W, 3) frames spread evenly, first and last included."""
    return np.stack([history[i] for i in evenly(length, len(history) - 1)])
