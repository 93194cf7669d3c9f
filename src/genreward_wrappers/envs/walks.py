"""How the distractions of the Distracting Control Suite move: random walks in numpy.

The camera and the colours each start an episode at a random place and, where the
distraction is dynamic, move on by small random steps inside bounds. Everything is given
by an intensity, 0.1, 0.2 or 0.3 in the suite, which scales the bounds and the speeds
(Stone et al. 2021, arXiv 2101.02722).

A walk is a function of its random generator and of the number of steps alone: it knows
no simulator, and may be asked for a late step without having been asked for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

QUARTER = np.pi / 2


class Pose(NamedTuple):
    """Where the camera is, relative to where the task has put it.

    Attributes:
        horizontal: Radians around the vertical axis through what it looks at.
        vertical: Radians upwards around the same point.
        distance: Metres to that point.
        roll: Radians around the axis it looks along.
    """

    horizontal: float
    vertical: float
    distance: float
    roll: float


@dataclass(frozen=True)
class CameraRange:
    """Bounds and speeds of the camera at an intensity, as published.

    Attributes:
        angle: Radians to each side, upwards and downwards, and of roll: 90 degrees
            times the intensity.
        closer: By what part of its distance the camera may come closer (0.5 times it).
        farther: By what part it may move away (1.5 times it).
        speed: Metres a step at most (0.4 times it).
        speed_noise: Standard deviation of what is added to each of the three parts of
            the velocity at each step (0.1 times it).
        roll_speed: Radians a step at most (pi/50 times it).
        roll_noise: As `speed_noise`, for the roll (pi/300 times it).
    """

    angle: float
    closer: float
    farther: float
    speed: float
    speed_noise: float
    roll_speed: float
    roll_noise: float

    @classmethod
    def at(cls, intensity: float) -> CameraRange:
        """The published range at an intensity."""
        return cls(
            angle=QUARTER * intensity,
            closer=0.5 * intensity,
            farther=1.5 * intensity,
            speed=0.4 * intensity,
            speed_noise=0.1 * intensity,
            roll_speed=np.pi / 50 * intensity,
            roll_noise=np.pi / 300 * intensity,
        )


class CameraWalk:
    """A camera that wanders around what it looks at."""

    def __init__(
        self,
        rng: np.random.Generator,
        limits: CameraRange,
        distance: float,
        downwards: float = np.inf,
        upwards: float = np.inf,
        moving: bool = True,
    ) -> None:
        """Puts the camera at a random place within its bounds.

        Args:
            rng: This walk's own.
            limits: Bounds and speeds.
            distance: From the camera to what it looks at, in metres.
            downwards: How far it may sink, in radians, where that is less than
                the range (it stays above the ground).
            upwards: How far it may rise, in radians, where that is less.
            moving: Whether it moves on from there.
        """
        self._rng = rng
        self._limits = limits
        self._moving = moving
        angle = limits.angle
        low = (-angle, -min(angle, downwards), distance * (1 - limits.closer), -angle)
        high = (angle, min(angle, upwards), distance * (1 + limits.farther), angle)
        self.low, self.high = np.array(low), np.array(high)
        self._pose = rng.uniform(self.low, self.high)
        direction = rng.normal(size=3)
        speed = rng.uniform(0, limits.speed)
        self._velocity = direction / np.linalg.norm(direction) * speed
        self._roll_velocity = rng.uniform(-limits.roll_speed, limits.roll_speed)
        self._steps = 0

    @property
    def velocity(self) -> Float64:
        """(4,) metres a step sideways, upwards and away, and radians of roll."""
        return np.append(self._velocity, self._roll_velocity)

    def at(self, step: int) -> Pose:
        """The pose at a step, which must not be before the last one asked for."""
        while self._moving and self._steps < step:
            self._steps += 1
            self._move()
        return Pose(*self._pose.tolist())

    def _move(self) -> None:
        limits, noise = self._limits, self._rng.normal(size=4)
        velocity = self._velocity + limits.speed_noise * noise[:3]
        velocity *= min(1.0, limits.speed / max(float(np.linalg.norm(velocity)), 1e-12))
        roll = self._roll_velocity + limits.roll_noise * noise[3]
        roll = float(np.clip(roll, -limits.roll_speed, limits.roll_speed))
        # Sideways and upwards are arcs of the sphere on which the camera stands.
        arcs = velocity / (self._pose[2], self._pose[2], 1.0)
        aim = self._pose + np.append(arcs, roll)
        self._pose = np.clip(aim, self.low, self.high)
        # At a bound it turns back.
        away = np.where(aim == self._pose, 1.0, -1.0)
        self._velocity = velocity * away[:3]
        self._roll_velocity = roll * float(away[3])


class ColorWalk:
    """Colours that wander around the original ones, each channel by itself."""

    def __init__(
        self,
        rng: np.random.Generator,
        original: Float64,
        intensity: float,
        moving: bool = True,
    ) -> None:
        """Starts anywhere within the intensity of the original colours.

        Args:
            rng: This walk's own.
            original: Colours in [0, 1], of any shape.
            intensity: How far each channel may be from its original. A step's standard
                deviation is 0.03 of it.
            moving: Whether they move on from there.
        """
        self._rng = rng
        self._noise = 0.03 * intensity
        self._moving = moving
        self.low = np.clip(original - intensity, 0.0, 1.0)
        self.high = np.clip(original + intensity, 0.0, 1.0)
        self._colors = rng.uniform(self.low, self.high)
        self._steps = 0

    def at(self, step: int) -> Float64:
        """The colours at a step, not before the last one asked for."""
        while self._moving and self._steps < step:
            self._steps += 1
            noise = self._noise * self._rng.normal(size=self._colors.shape)
            self._colors = np.clip(self._colors + noise, self.low, self.high)
        return self._colors


class HasLength(Protocol):
    """What a `VideoWalk` needs to know of a video."""

    @property
    def length(self) -> int:
        """How many frames there are."""
        ...


class VideoWalk:
    """Which frame of which video is behind: back and forth from a random one."""

    def __init__(
        self,
        rng: np.random.Generator,
        videos: Sequence[HasLength],
        moving: bool = True,
    ) -> None:
        """Draws a video, a frame of it and a direction.

        Args:
            rng: This walk's own.
            videos: To choose from; only the chosen one is asked for its length.
            moving: Whether the video is played from there.
        """
        self.video = int(rng.integers(len(videos)))
        self._length = videos[self.video].length
        # A place on the way there and back again is a frame and a direction.
        self._start = int(rng.integers(max(1, 2 * self._length - 2)))
        self._moving = moving

    def at(self, step: int) -> int:
        """The number of the frame at a step."""
        if self._length == 1:
            return 0
        place = self._start + (step if self._moving else 0)
        place %= 2 * self._length - 2
        return min(place, 2 * self._length - 2 - place)
