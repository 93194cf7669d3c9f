"""Where the pixels come from: the observation, one of its keys, `render()`, or info.

Every host asks the same question once, at construction, and gets a `FrameSource`.
`TapFrames` serves agents that act on states: it renders where the environment lives, in
the worker process, and only the frames that a reward will look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from genreward_wrappers.checks import whole
from genreward_wrappers.core import Float32, Int64, UInt8

#: The info key under which `TapFrames` hands its frames to the host.
TAP = "tapped_frame"

#: Smaller observations of this shape are more likely symbols, such as the 7x7 cells of
#: MiniGrid, than pictures: they are used only if they are asked for by name.
SMALLEST = 8

FRAMES = '"auto", "obs", "obs:<key>", "render" or "info:<key>"'

#: What ``frames=`` takes: a source, or sources by the names of several views.
FramesLike = str | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FrameSource:
    """Where one host takes its frames from.

    Attributes:
        kind: "obs", "render" or "info".
        key: The key of the Dict observation or of the info, if there is one.
        views: The keys of several views in a Dict observation, which become one
            picture.
    """

    kind: Literal["obs", "render", "info"]
    key: str | None = None
    views: tuple[str, ...] = ()

    def of_observation(self, observation: Any) -> Any:
        """The frame (or batch of frames) inside an observation."""
        if self.views:
            return side_by_side([np.asarray(observation[key]) for key in self.views])
        return observation if self.key is None else observation[self.key]


def find_source(frames: FramesLike, env: Any) -> FrameSource:
    """Turns the ``frames=`` argument of a wrapper into a `FrameSource`.

    Args:
        frames: What the user asked for; "auto" takes the observation if it is an RGB
            image, else the only RGB image in a Dict, else frames tapped by `TapFrames`,
            else `render()`. Several views are given by name, each "obs:<key>".
        env: A single environment, or what has its ``observation_space``, its
            ``render_mode`` and its ``metadata``, where `TapFrames` announces itself.

    Raises:
        ValueError: There are no pixels where the user said, or none anywhere.
    """
    if not isinstance(frames, str):
        return _views(frames, env.observation_space)
    kind, _, key = frames.partition(":")
    if kind == "auto" and not key:
        return _search(env)
    if kind == "render" and not key:
        _check_render_mode(env.render_mode)
        return FrameSource("render")
    if kind == "info" and key:
        return FrameSource("info", key)
    if kind == "obs":
        _check_part(env.observation_space, key, frames)
        return FrameSource("obs", key or None)
    raise ValueError(f"frames={frames!r}: expected {FRAMES}")


def _check_part(space: spaces.Space[Any], key: str, frames: str) -> None:
    """Raises unless a part of an observation, or all of it, is a picture."""
    if key:
        if not isinstance(space, spaces.Dict) or key not in space.spaces:
            raise ValueError(
                f"frames={frames!r}: there is no {key!r} in the observation space "
                f"{space}"
            )
        space = space[key]
    fault = _fault(space)
    if fault:
        raise ValueError(f"frames={frames!r}: {fault}")


def _views(frames: Mapping[str, str], space: spaces.Space[Any]) -> FrameSource:
    """Several pictures of one size in a Dict observation, in the order of names."""
    keys, shapes = [], {}
    for view in sorted(frames):
        said = frames[view]
        if not said.startswith("obs:"):
            raise ValueError(
                f'frames={dict(frames)}: expected "obs:<key>" for each view, got '
                f"{said!r} for {view!r}. Only an observation shows several cameras at "
                "the same moment"
            )
        keys.append(said.removeprefix("obs:"))
        _check_part(space, keys[-1], said)
        assert isinstance(space, spaces.Dict)
        shapes[view] = space[keys[-1]].shape
    if len({*shapes.values()}) > 1:
        raise ValueError(
            f"frames={dict(frames)}: views lie side by side and have one size, these "
            f"are {shapes}. Bring them to one size in a wrapper below"
        )
    return FrameSource("obs", views=tuple(keys))


def _search(env: Any) -> FrameSource:
    space = env.observation_space
    if not _fault(space, SMALLEST):
        return FrameSource("obs")
    if isinstance(space, spaces.Dict):
        images = [k for k, part in space.spaces.items() if not _fault(part, SMALLEST)]
        if len(images) == 1:
            return FrameSource("obs", images[0])
        if len(images) > 1:
            raise ValueError(
                f"the observation holds {len(images)} images, {images}: name the one "
                f'that the reward looks at, for example frames="obs:{images[0]}"'
            )
    if env.metadata.get(TAP):
        return FrameSource("info", TAP)
    if env.render_mode == "rgb_array":
        return FrameSource("render")
    raise ValueError(
        f"no pixels anywhere: {spoiled(space) or _fault(space)}, and render_mode is "
        f"{env.render_mode!r}. Make the environment with pixel observations, or with "
        'render_mode="rgb_array"'
    )


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode != "rgb_array":
        raise ValueError(
            'frames="render" needs an environment made with render_mode="rgb_array", '
            f"got render_mode={render_mode!r}"
        )


def spoiled(space: spaces.Space[Any]) -> str:
    """Why a space that looks like images holds no frames; empty otherwise."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    shown = (p for p in parts if isinstance(p, spaces.Box) and len(p.shape) > 1)
    return next(filter(None, (_fault(part, SMALLEST) for part in shown)), "")


def _fault(space: spaces.Space[Any], smallest: int = 1) -> str:
    """Why a space holds no frames; empty if it does."""
    wanted = "frames are uint8 RGB images of shape (height, width, 3)"
    if not isinstance(space, spaces.Box):
        return f"{wanted}, the observation space is {space}"
    what = f"the observation is {space.dtype} {space.shape}"
    if len(space.shape) < 2:
        return f"{wanted}, {what}"
    if len(space.shape) == 3 and space.shape[-1] == 3:
        if space.dtype != np.uint8:
            return f"{wanted}, {what}: give the image before it is scaled to float"
        if space.high.max() <= 1:
            return f"{wanted}, {what} from 0 to 1: give the image before it is rescaled"
        if min(space.shape[:2]) < smallest:
            return (
                f"{wanted}, {what}, too small for a picture: if it is one, say so with "
                'frames="obs" or "obs:<key>"'
            )
        return ""
    if len(space.shape) == 3 and space.shape[0] == 3:
        return f"{wanted}, {what}: channels come first; wrap before they are moved"
    if len(space.shape) == 2 or space.shape[-1] == 1:
        return f"{wanted}, {what}: it is grey; wrap before the colours are dropped"
    return f"{wanted}, {what}: it is stacked; wrap before frames are stacked"


def side_by_side(pictures: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(..., H, V * W, 3) the pictures of V views as one; one alone stays itself.

    Raises:
        ValueError: They are not of one size.

    >>> side_by_side([np.zeros((2, 8, 8, 3)), np.ones((2, 8, 8, 3))]).shape
    (2, 8, 16, 3)
    """
    if len(pictures) == 1:
        return pictures[0]
    shapes = [picture.shape for picture in pictures]
    if len({*shapes}) > 1:
        raise ValueError(f"views lie side by side and have one size, got {shapes}")
    return np.concatenate(pictures, axis=-2)


def cut_out(pictures: NDArray[Any], index: int, count: int) -> NDArray[Any]:
    """(..., H, W, 3) one view of several."""
    width, rest = divmod(pictures.shape[-2], count)
    if rest:
        raise ValueError(
            f"a picture of width {pictures.shape[-2]} does not hold {count} views side "
            "by side"
        )
    cut = pictures[..., index * width : (index + 1) * width, :]
    return np.ascontiguousarray(cut)


def flat_state(observation: Any, axes: int = 0) -> Float32 | None:
    """The flat numbers in an observation; those of a Dict are concatenated.

    Args:
        observation: The observation of one environment or, with ``axes=1``, of several.
        axes: The number of axes before those of a single observation.

    Returns:
        (S,) or (N, S); None if there are none.
    """
    parts = observation.values() if isinstance(observation, Mapping) else [observation]
    flat = [
        array
        for array in map(np.asarray, parts)
        if array.ndim == axes + 1 and array.dtype.kind == "f"
    ]
    return np.concatenate(flat, axis=axes).astype(np.float32) if flat else None


def evenly(length: int, last: int) -> Int64:
    """(length,) whole numbers, evenly spread from 0 to ``last``, both included.

    >>> evenly(3, 9)
    array([0, 4, 9])
    """
    return np.rint(np.linspace(0, last, length)).astype(np.int64)


@lru_cache(maxsize=64)
def sample_steps(length: int, horizon: int) -> tuple[int, ...]:
    """The steps of an episode at which a clip takes its frames.

    They are evenly spread and include the first and the last step; step 0 is the frame
    of the reset.

    >>> sample_steps(5, 256)
    (0, 64, 128, 192, 256)
    """
    if not 2 <= length <= horizon + 1:
        raise ValueError(
            f"a clip of {length} frames does not fit an episode of {horizon} steps; "
            f"its length must be between 2 and {horizon + 1}"
        )
    return tuple(evenly(length, horizon).tolist())


@lru_cache(maxsize=64)
def _area_weights(source: int, target: int) -> Float32:
    """(target, source) shares of each source pixel in each target pixel."""
    edges = np.linspace(0, source, target + 1)
    low = np.maximum(edges[:-1, None], np.arange(source)[None])
    high = np.minimum(edges[1:, None], np.arange(1, source + 1)[None])
    shares = np.clip(high - low, 0, None)
    weights: Float32 = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
    return weights


def area_resize(frame: UInt8, size: tuple[int, int]) -> UInt8:
    """Shrinks one (H, W, 3) frame by averaging the pixels that fall together."""
    if frame.shape[:2] == size:
        return frame
    rows = _area_weights(frame.shape[0], size[0])
    columns = _area_weights(frame.shape[1], size[1])
    small = np.einsum(
        "yh,hwc,xw->yxc", rows, frame.astype(np.float32), columns, optimize=True
    )
    rounded: UInt8 = np.rint(small).astype(np.uint8)
    return rounded


def image_size(size: int | Sequence[int]) -> tuple[int, int]:
    """The (height, width) that a user's size stands for."""
    pair = (size, size) if isinstance(size, (int, np.integer)) else size
    try:
        height, width = (whole("size", side) for side in pair)
    except (TypeError, ValueError):
        raise ValueError(
            f"size={size!r}: expected a positive int or (height, width) of them"
        ) from None
    return height, width


class TapFrames(gym.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Puts the frames that a reward will look at into info, and renders no others.

    For agents that act on states: the policy sees the observation unchanged, and the
    reward's host outside, which removes the frames from info again, sees the pixels.
    Rendering happens where the environment runs, so worker processes render in parallel
    and send only small images.

    Example:
        >>> import gymnasium as gym
        >>> env = TapFrames(
        ...     gym.make("CartPole-v1", render_mode="rgb_array"), size=(40, 60)
        ... )
        >>> _, info = env.reset(seed=0)
        >>> info["tapped_frame"].shape
        (40, 60, 3)
        >>> env.close()
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        size: int | tuple[int, int] = 64,
        length: int | None = None,
        horizon: int | None = None,
    ) -> None:
        """Wraps an environment made with ``render_mode="rgb_array"``.

        Args:
            env: The environment.
            size: (height, width) of the frames to send, which should be the reward
                model's.
            length: The number of frames of a clip, as in the reward's ``length=``: only
                those steps are rendered. None renders every step.
            horizon: The number of steps of an episode; None takes the environment's
                time limit.
        """
        RecordConstructorArgs.__init__(self, size=size, length=length, horizon=horizon)
        super().__init__(env)
        _check_render_mode(env.render_mode)
        self._size = image_size(size)
        self._sampled: frozenset[int] | None = None
        if length is not None:
            horizon = horizon or (env.spec.max_episode_steps if env.spec else None)
            if horizon is None:
                raise ValueError(
                    f"length={length} needs to know how long an episode is: the "
                    "environment has no time limit, so give horizon="
                )
            self._sampled = frozenset(sample_steps(length, horizon))
        self._step = 0
        self.metadata = {**env.metadata, TAP: True}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Resets, and always taps the first frame."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._step = 0
        return observation, {**info, TAP: self._render()}

    def step(
        self, action: ActType
    ) -> tuple[ObsType, float, bool, bool, dict[str, Any]]:
        """Steps, and taps the frame if it is one of those sampled."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        if self._sampled is None or self._step in self._sampled:
            info = {**info, TAP: self._render()}
        return observation, float(reward), terminated, truncated, info

    def _render(self) -> UInt8:
        frame = self.env.render()
        if not isinstance(frame, np.ndarray):
            raise TypeError(
                f"render() returned {type(frame).__name__}, expected one uint8 array "
                "of shape (height, width, 3)"
            )
        return area_resize(frame, self._size)


def position_in_clip(steps: Int64, horizon: int) -> Float32:
    """(N,) the share of its time that each episode has used, from 0 to 1."""
    progress: Float32 = np.minimum(steps / np.float32(horizon), 1).astype(np.float32)
    return progress
