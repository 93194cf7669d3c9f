"""Checks of the arguments that all environments here take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises unless an argument is one of its choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {either(choices)}, got {value!r}")


def either(choices: Sequence[str]) -> str:
    """Choices as the end of a sentence."""
    return " or ".join(", ".join(map(repr, choices)).rsplit(", ", 1))


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """A picture's size, given as such or as one number for both."""
    try:
        pair = (size, size) if isinstance(size, (int, np.integer)) else size
        height, width = (positive_int("size", side) for side in pair)
    except (TypeError, ValueError):
        raise ValueError(
            f"size must be a positive number of pixels or (height, width), got {size!r}"
        ) from None
    return height, width


def positive_int(name: str, value: object) -> int:
    """An argument that counts something, or raises."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return int(value)


def share(name: str, value: object) -> float:
    """An argument that is a part of something, or raises."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)  # type: ignore[arg-type]
