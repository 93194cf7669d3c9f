"""Moving pictures to put behind a scene, drawn from random numbers: numpy alone.

Both kinds are functions of the step, so that any step can be asked for in any order,
and a whole picture costs a few small matrix products, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BackgroundAt = Callable[[int], NDArray[np.uint8]]
"""Gives the (height, width, 3) picture of a step."""


def background(
    kind: str, size: tuple[int, int], rng: np.random.Generator
) -> BackgroundAt:
    """Draws a moving background from random numbers.

    Args:
        kind: "noise" for blurred coloured clouds that drift, "gradients" for two
            colours that run into each other along a turning direction.
        size: (height, width) of the pictures.
        rng: Decides everything; the same state gives the same pictures.

    Returns:
        A function from the step to the picture.

    Example:
        >>> picture_at = background("noise", (48, 64), np.random.default_rng(0))
        >>> picture_at(5).shape
        (48, 64, 3)
    """
    if kind not in _KINDS:
        raise ValueError(
            f"there is no background of the kind {kind!r}; there are "
            + " and ".join(map(repr, _KINDS))
        )
    height, width = size
    return _KINDS[kind](height, width, rng)


# Waves of the noise, and how many of them fit into the picture at most.
_WAVES, _FINEST = 24, 4.0

# How fast things move, in radians a step.
_DRIFT, _TURN = 0.12, 0.03


def _noise(height: int, width: int, rng: np.random.Generator) -> BackgroundAt:
    """A random field: a sum of plane waves, each of which travels."""
    waves = (3, _WAVES)
    # Cycles a picture, down and across; more waves are long than short.
    down, across = rng.uniform(-_FINEST, _FINEST, (2, *waves))
    strength = 1 / (1 + np.hypot(down, across))
    strength *= 60 / np.sqrt(0.5 * (strength**2).sum(1, keepdims=True))
    phase = rng.uniform(0, 2 * np.pi, waves)
    speed = rng.normal(0, _DRIFT, waves)
    mean = rng.uniform(80, 175, 3)
    # cos(a + b) is taken apart, so that rows and columns meet in a matrix product.
    rows = 2 * np.pi * np.arange(height) / height
    columns = 2 * np.pi * np.arange(width) / width
    right = across[:, :, None] * columns
    right = np.concatenate([np.cos(right), -np.sin(right)], 1).astype(np.float32)

    def picture_at(step: int) -> NDArray[np.uint8]:
        left = down[:, None] * rows[:, None] + (phase + speed * step)[:, None]
        left = np.concatenate([np.cos(left), np.sin(left)], 2)
        left *= np.tile(strength, 2)[:, None]
        field = left.astype(np.float32) @ right + mean[:, None, None]
        return _as_picture(field.transpose(1, 2, 0))

    return picture_at


def _gradients(height: int, width: int, rng: np.random.Generator) -> BackgroundAt:
    """Two colours, the line between which turns."""
    first = rng.uniform(0, 255, 3)
    # Far from the first one, or there would be nothing to see.
    second = (first + rng.uniform(96, 160, 3)) % 256
    start = rng.uniform(0, 2 * np.pi)
    turn = rng.choice([-1, 1]) * rng.uniform(0.5, 1.5) * _TURN
    rows = np.linspace(-1, 1, height)[:, None]
    columns = np.linspace(-1, 1, width)

    def picture_at(step: int) -> NDArray[np.uint8]:
        angle = start + turn * step
        along = np.cos(angle) * columns + np.sin(angle) * rows
        share = (along[..., None] / np.sqrt(2) + 1) / 2
        return _as_picture(first + share * (second - first))

    return picture_at


def _as_picture(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


_KINDS: dict[str, Callable[[int, int, np.random.Generator], BackgroundAt]] = {
    "noise": _noise,
    "gradients": _gradients,
}
KINDS: tuple[str, ...] = tuple(_KINDS)
"""The kinds there are."""
