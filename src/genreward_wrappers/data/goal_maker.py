"""What makes the goals of an episode from its first frame.

This is only the interface: rewards use it, and `generators.episode_goals` implements
it.
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
        seconds: The time that they took; videos made together share it evenly.
        cached: Whether all of them were in the cache.
    """

    videos: UInt8
    seconds: float
    cached: bool


class GoalMaker(ABC):
    """Makes the goals of episodes from the frames with which they begin.

    Attributes:
        frames: T, the number of frames of each video.
        frame_size: (height, width) of the videos.
        encoder: The card of the encoder that they are used with, as in a goal bundle;
            empty if the user has to name one.
    """

    frames: int
    frame_size: tuple[int, int]
    encoder: Mapping[str, Any]

    @abstractmethod
    def __call__(self, frames: UInt8) -> list[Made]:
        """The goals of n episodes with the first frames (n, H, W, 3).

        What an episode gets depends only on its own frame, up to rounding.
        """
