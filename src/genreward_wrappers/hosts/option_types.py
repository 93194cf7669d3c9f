"""The options of wrappers as editors complete and type checkers see them.

What they mean stands where they are checked: `HostOptions`, `VideoOptions` and
`FrameOptions`. A test holds these names to those.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Literal, TypedDict

Payment = Literal["level", "hold", "difference"]
Score = Literal["tracking", "motion", "last_change", "cosine", "centred"]


class HostKwargs(TypedDict, total=False):
    """Fields of `HostOptions`."""

    frames: str | Mapping[str, str]
    view_weights: Mapping[str, float] | None
    observe: Literal["progress"] | None
    horizon: int | None
    record: str | PathLike[str] | None
    device: str
    dtype: Literal["float32", "bfloat16", "float16"] | None
    nonfinite: Literal["raise", "hold"]
    other_task: bool


class VideoKwargs(HostKwargs, total=False):
    """Fields of `VideoOptions`, and ``every``."""

    reading: Literal["frames", "stream", "window"]
    length: int | None
    window: int | None
    stride: int | None
    score: Score
    contrast: float | None
    payment: Payment
    discount: float | None
    goals: Literal["nearest", "mean", "max"]
    every: int


class FrameFields(TypedDict, total=False):
    """Fields of `FrameOptions`."""

    form: Literal["value", "normalised", "difference"]
    heads: Literal["min", "mean"]
    discount: float | None
    length: int | None
    every: int


class FrameKwargs(HostKwargs, FrameFields, total=False):
    """Those of the host and of the frame-level reward."""
