"""The options of the frame-level reward."""

from __future__ import annotations

from dataclasses import dataclass

from genreward_wrappers.checks import number, whole
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.rewards.options import Options, option


@dataclass(frozen=True)
class FrameOptions(Options):
    """How the frame-level score is formed."""

    form: str = option(
        "normalised",
        '"value" is F^T B; "normalised" takes the mean and divides by the standard '
        'deviation stored with the nets; "difference" is discount * value - the value '
        "one step before.",
        choices=("value", "normalised", "difference"),
    )
    heads: str = option(
        "min", "What is taken of F's two heads.", choices=("min", "mean")
    )
    discount: float | None = option(
        None,
        "Of the difference; None is the nets' own.",
        only=("form", ("difference",)),
        check=number,
    )
    length: int | None = option(
        None,
        "Only the steps of a clip of so many frames are paid, and only they and the "
        "frames before them are rendered. None pays every step.",
        only=("form", ("value", "normalised")),
        check=whole,
    )
    every: int = option(1, "Only every k-th step is paid.", check=whole)


def check_nets(goal: GoalBundle) -> None:
    """Raises `GoalError` unless a bundle has what the frame-level reward asks."""
    if not goal.nets:
        raise GoalError(
            f"{goal!r} has no frame-level part: its bundle holds no forward-backward "
            "nets. VideoLevelReward works with it, or GenRewardWrapper, which leaves "
            "the frame-level part out"
        )
