"""What makes the goals of an episode from its first frame.

The interface alone: rewards ask for it, and `generators.episode_goals` implements it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from genreward_wrappers.core import UInt8


class Made(NamedTuple):
    """The goal videos of one episode.

    Attributes:
        videos: (K, T, H, W, 3) uint8 RGB.
        seconds: What they cost; those that were made together share it evenly.
        cached: Whether they all were there already.
    """

    videos: UInt8
    seconds: float
    cached: bool


class GoalMaker(ABC):
    """Makes the goals of episodes from the frames with which they begin.

    Attributes:
        frames: T, the frames of each video.
        frame_size: (height, width) of the videos.
        encoder: The card of the encoder they are used with, as in a goal bundle; empty
            where the user has to say.
    """

    frames: int
    frame_size: tuple[int, int]
    encoder: Mapping[str, Any]

    @abstractmethod
    def __call__(self, frames: UInt8) -> list[Made]:
        """The goals of n episodes, (n, H, W, 3) being their first frames.

        What an episode gets depends on its own frame alone, to rounding.
        """
