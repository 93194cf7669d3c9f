"""Distractions for any environment with pixels: what moves and does not matter.

Ordinary Gymnasium wrappers, which change pictures and nothing else. The same change is
made to the picture in the observation and to that of `render()`, so that an agent and
the reward wrappers around it see one world.

Each is a function of the episode's seed and the step: `reset(seed=)` decides all the
episodes that follow, whatever the environment or other distractions draw, and asking
twice for a picture of one step gives it twice.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType
from gymnasium.envs.registration import load_env_creator
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from genreward_wrappers.checks import share
from genreward_wrappers.data.frames import find_source
from genreward_wrappers.envs.backgrounds import Video, find_videos
from genreward_wrappers.envs.walks import VideoWalk

Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Distraction(gym.Wrapper[Any, ActType, Any, ActType], RecordConstructorArgs):
    """What all distractions share: where the pictures are, seeds, and steps.

    A distraction of your own has two or three methods: `begin` draws what an episode
    needs, `advance` moves on by a step (most need none), `distract` changes a picture.
    """

    def __init__(
        self, env: gym.Env[Any, ActType], frames: str = "auto", **arguments: Any
    ) -> None:
        """Wraps an environment.

        Args:
            env: The environment, with pixels in its observations or in `render()`.
            frames: Which picture of the observation is distracted: "auto" (the only
                RGB image), "obs", "obs:<key>", or "render" for none. Pictures of
                `render()` always are.
            **arguments: The subclass's own, recorded in the environment's spec.
        """
        RecordConstructorArgs.__init__(
            self, _disable_deepcopy=True, frames=frames, **arguments
        )
        gym.Wrapper.__init__(self, env)
        self._source = find_source(frames, env)
        if self._source.kind == "info":
            raise ValueError(
                "pictures in info are not distracted: wrap the environment inside "
                f"TapFrames, {type(self).__name__} first"
            )
        self._base = 0
        self._episode = -1
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; without a seed, the next one of the last seed's series."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._base, self._episode = int(seed), -1
        elif self._episode < 0:
            self._base = int(np.random.SeedSequence().generate_state(1)[0])
        self._episode += 1
        self._step = 0
        # With its name, so that two distractions of one seed do not move together.
        name = zlib.crc32(type(self).__name__.encode())
        self.begin(np.random.default_rng([name, self._base, self._episode]))
        return self._observation(observation, info), info

    def step(self, action: ActType) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment, and the distraction with it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        self.advance()
        observation = self._observation(observation, info)
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """The environment's picture, distracted."""
        frame = self.env.render()
        if frame is None:
            return None
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
            raise TypeError(
                "expected one uint8 picture of shape (height, width, 3) from render(), "
                f"got {type(frame).__name__}"
            )
        if self._episode < 0:
            raise RuntimeError("render() came before reset(): call reset() first")
        return self.distract(frame)

    def begin(self, rng: np.random.Generator) -> None:
        """Draws what this episode needs; the generator may be kept for `advance`."""
        raise NotImplementedError

    def advance(self) -> None:
        """Moves on by one step."""

    def distract(self, frame: Frame) -> Frame:
        """A changed copy of a picture of the current step."""
        raise NotImplementedError

    def look(self, info: dict[str, Any]) -> None:
        """Takes from a step's info what `distract` needs; most need nothing."""

    def _observation(self, observation: Any, info: dict[str, Any]) -> Any:
        self.look(info)
        if self._source.kind != "obs":
            return observation
        if self._source.key is None:
            return self.distract(observation)
        picture = self.distract(observation[self._source.key])
        return {**observation, self._source.key: picture}

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew, like the environments here: what an episode drew stays behind.
        return _rebuild, (type(self), self.env, self._saved_kwargs)


def _rebuild(
    cls: type[Distraction[Any]], env: gym.Env[Any, Any], arguments: dict[str, Any]
) -> Distraction[Any]:
    make: Any = cls
    wrapper: Distraction[Any] = make(env, **arguments)
    return wrapper


class _Wandering(Distraction[ActType]):
    """Numbers that start anywhere in [-intensity, intensity] and wander in there."""

    count: int

    def __init__(
        self,
        env: gym.Env[Any, ActType],
        intensity: float = 0.1,
        speed: float = 0.03,
        frames: str = "auto",
    ) -> None:
        """Wraps an environment.

        Args:
            env: The environment, with pixels in its observations or in `render()`.
            intensity: How far it goes, from 0 to 1; the Distracting Control Suite's
                easy, medium and hard are 0.1, 0.2 and 0.3.
            speed: The standard deviation of a step, as a share of the intensity, from 0
                (constant within an episode) to 1; 0.03 is the suite's, for colours.
            frames: Which picture of the observation is distracted: "auto" (the only
                RGB image), "obs", "obs:<key>", or "render" for none.
        """
        super().__init__(
            env,
            frames,
            intensity=share("intensity", intensity),
            speed=share("speed", speed),
        )
        self._intensity, self._speed = float(intensity), float(speed)

    def begin(self, rng: np.random.Generator) -> None:
        """Starts anywhere within the range."""
        self._rng = rng
        self._walk = self._intensity * rng.uniform(-1, 1, self.count)

    def advance(self) -> None:
        """Goes a step; at the ends of the range it stays until it turns back."""
        stride = self._rng.normal(0, self._speed * self._intensity, self.count)
        self._walk = np.clip(self._walk + stride, -self._intensity, self._intensity)


class ColourDistraction(_Wandering[ActType]):
    """Multiplies red, green and blue by factors that wander about 1, each alone.

    Example:
        >>> from genreward_wrappers.testing import PointMass
        >>> env = ColourDistraction(PointMass(), intensity=0.3)
        >>> frame, _ = env.reset(seed=0)
        >>> frame.shape
        (64, 64, 3)
    """

    count = 3

    def distract(self, frame: Frame) -> Frame:
        """The picture with its channels louder and quieter."""
        # One look-up a pixel is cheaper than arithmetic on floats.
        levels = np.arange(256)[:, None] * (1 + self._walk)
        table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return np.stack([table[:, c][frame[..., c]] for c in range(3)], -1)


class BrightnessDistraction(_Wandering[ActType]):
    """Adds a wandering share of full white to every pixel, or takes it away.

    Example:
        >>> from genreward_wrappers.testing import PointMass
        >>> env = BrightnessDistraction(PointMass(), intensity=0.3)
        >>> frame, _ = env.reset(seed=0)
        >>> frame.dtype
        dtype('uint8')
    """

    count = 1

    def distract(self, frame: Frame) -> Frame:
        """The picture, lighter or darker."""
        levels = np.arange(256) + 255 * self._walk[0]
        table: Frame = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return table[frame]


class ShiftDistraction(_Wandering[ActType]):
    """Moves the picture up and down and to the sides, by whole pixels.

    The intensity is a share of the picture's height and width. What comes in from
    outside repeats the picture's edge.

    Example:
        >>> from genreward_wrappers.testing import PointMass
        >>> env = ShiftDistraction(PointMass(), intensity=0.1)
        >>> frame, _ = env.reset(seed=0)
        >>> frame.shape
        (64, 64, 3)
    """

    count = 2

    def distract(self, frame: Frame) -> Frame:
        """The picture, elsewhere."""
        height, width = frame.shape[:2]
        down, right = np.rint(self._walk * (height, width)).astype(int)
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        moved: Frame = frame[rows[:, None], columns]
        return moved


class BackgroundDistraction(Distraction[ActType]):
    """Plays a video in place of what an environment says is background.

    Meta-World's environments say so by themselves (`MetaWorldEnv.background_mask`):
    table, walls, floor and emptiness are background, the robot, the objects and the
    mark of the goal are not.

    Example:
        >>> from genreward_wrappers import make
        >>> env = BackgroundDistraction(make("metaworld/pick-place"), opacity=0.7)
        >>> frame, _ = env.reset(seed=0)
        >>> env.close()
    """

    def __init__(
        self,
        env: gym.Env[Any, ActType],
        background: str | os.PathLike[str] | Sequence[str] = "noise",
        split: str = "train",
        opacity: float = 1.0,
        mask: str | Callable[[Frame], Mask] = "auto",
        frames: str = "auto",
    ) -> None:
        """Wraps an environment.

        Args:
            env: The environment, with pixels in its observations or in `render()`.
            background: "noise" or "gradients", computed here; or a folder, DAVIS's or
                one with subfolders of images, videos and images in it; or a list of
                such paths.
            split: "train" or "validation": which of DAVIS's videos, or of the computed
                ones.
            opacity: How much of the background it hides, from 0 to 1.
            mask: Where the background is, as booleans of the picture's height and
                width: "auto" asks the environment's method ``background_mask()``,
                "info:<key>" takes it from every step's info, and a function works it
                out from the picture. "module:function" names one, in which case the
                environment's spec can be written as JSON.
            frames: Which picture of the observation is distracted: "auto" (the only
                RGB image), "obs", "obs:<key>", or "render" for none.
        """
        if isinstance(background, os.PathLike):
            background = os.fspath(background)
        super().__init__(
            env,
            frames,
            background=background,
            split=split,
            opacity=share("opacity", opacity),
            mask=mask,
        )
        self._opacity = float(opacity)
        self._find = partial(find_videos, background, split)
        # At the size of a stamp: what is wrong with a folder shows at once.
        self._stamps = self._find(8)
        self._videos: dict[int, list[Video]] = {}
        self._key = ""
        self._mask_of = self._find_mask(env, mask)
        self._info_mask: Any = None

    def begin(self, rng: np.random.Generator) -> None:
        """Draws a video, and where in it the episode begins."""
        self._walk = VideoWalk(rng, self._stamps)

    def look(self, info: dict[str, Any]) -> None:
        """Takes the mask out of info, if that is where it comes from."""
        if not self._key:
            return
        if self._key not in info:
            raise KeyError(
                f"mask='info:{self._key}': info holds no {self._key!r}, only "
                f"{sorted(info)}"
            )
        self._info_mask = info[self._key]

    def distract(self, frame: Frame) -> Frame:
        """The picture before another background."""
        mask = np.asarray(self._mask_of(frame))
        size = (frame.shape[0], frame.shape[1])
        if mask.shape != size or mask.dtype != np.bool_:
            raise ValueError(
                f"the mask of the background must be bool {size}, as the picture, got "
                f"{mask.dtype} {mask.shape}"
            )
        behind = self._behind(*size)
        changed: Frame = frame.copy()
        if self._opacity < 1:
            mixed = (1 - self._opacity) * frame[mask] + self._opacity * behind[mask]
            changed[mask] = np.rint(mixed)
        else:
            changed[mask] = behind[mask]
        return changed

    def _behind(self, height: int, width: int) -> Frame:
        """The video's picture of this step, stretched."""
        side = max(height, width)
        if side not in self._videos:
            self._videos[side] = self._find(side)
        square = self._videos[side][self._walk.video].frame(self._walk.at(self._step))
        rows = np.arange(height) * side // height
        columns = np.arange(width) * side // width
        stretched: Frame = square[rows[:, None], columns]
        return stretched

    def _find_mask(
        self, env: gym.Env[Any, ActType], mask: str | Callable[[Frame], Mask]
    ) -> Callable[[Frame], Any]:
        if callable(mask):
            return mask
        if mask == "auto":
            if not env.has_wrapper_attr("background_mask"):
                raise ValueError(
                    f"{env} has no method background_mask() that says where its "
                    "background is: give mask=, a function from the picture to "
                    'booleans of its height and width, or "info:<key>"'
                )
            ask = env.get_wrapper_attr("background_mask")
            return lambda frame: ask()
        kind, _, key = str(mask).partition(":")
        if kind == "info" and key:
            self._key = key
            return lambda frame: self._info_mask
        if kind and key:
            try:
                found: Any = load_env_creator(str(mask))
            except (ImportError, AttributeError) as error:
                raise ValueError(f"mask={mask!r} is not there: {error}") from error
            if callable(found):
                return found  # type: ignore[no-any-return]
        raise ValueError(
            f'mask={mask!r}: expected "auto", "info:<key>", "module:function" or a '
            "function"
        )
