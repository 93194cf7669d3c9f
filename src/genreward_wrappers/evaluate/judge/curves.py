"""What figures are made from: the scores of an episode, and what is known about it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from genreward_wrappers.core import Int64
from genreward_wrappers.evaluate.episodes.altered import ALTERED
from genreward_wrappers.evaluate.judge.bootstrap import Float64

#: Episodes as they were rolled out; `ALTERED` ones are made from some of these.
ORDINARY = (
    "failure",
    "success",
    "near-miss",
    "half-way",
    "noisy",
    "random",
    "static",
    "other-task",
)
KINDS = ORDINARY + ALTERED


@dataclass(frozen=True, eq=False)
class Curve:
    """The scores of one reward in one episode, at the steps where it was due.

    Attributes:
        steps: (n,) the steps, counted from 1 and increasing.
        values: (n,) the scores.
    """

    steps: Int64
    values: Float64

    def __post_init__(self) -> None:
        steps, values = self.steps, self.values
        if steps.ndim != 1 or steps.shape != values.shape:
            raise ValueError(
                f"a curve has one score for each step, got steps {steps.shape} and "
                f"scores {values.shape}"
            )
        if (np.diff(steps) <= 0).any():
            raise ValueError(f"a curve's steps must increase, got {steps.tolist()}")


@dataclass(frozen=True)
class Labelled:
    """What is known about a test episode.

    Attributes:
        kind: One of `KINDS`.
        group: The source it comes from; episodes made from it share its name.
        success: Whether the task was done.
        level: 0 failure, 1 partial, 2 success.
        length: The number of its steps.
    """

    kind: str
    group: str
    success: bool
    level: int
    length: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"unknown kind of episode {self.kind!r}; there are {', '.join(KINDS)}"
            )


def check_labels(curves: Sequence[Curve], labels: Collection[Labelled]) -> None:
    if len(curves) != len(labels):
        raise ValueError(
            f"expected one curve for each of {len(labels)} episodes, got {len(curves)}"
        )
    for i, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        if len(curve.steps) and curve.steps[-1] > label.length:
            raise ValueError(
                f"episode {i} has {label.length} steps, but its curve extends to step "
                f"{curve.steps[-1]}"
            )
