"""What every reward wrapper can be told, whatever the reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import fspath
from typing import Any

from genreward_wrappers.rewards.options import Options, option


@dataclass(frozen=True)
class HostOptions(Options):
    """What all reward wrappers can be told, whatever the reward."""

    frames: str | Mapping[str, str] = option(
        "auto",
        'Where the pixels come from: "auto", "obs", "obs:<key>", "render" or '
        '"info:<key>"; of several cameras a mapping from their names to "obs:<key>".',
    )
    view_weights: Mapping[str, float] | None = option(
        None,
        "What each of several cameras counts for; None is the plain mean of their "
        "scores.",
    )
    observe: str | None = option(
        None,
        '"progress" adds the place in the episode to the observation: a reward that '
        "depends on the time is not Markov without it.",
    )
    horizon: int | None = option(
        None, "Steps of an episode; None takes the environment's time limit."
    )
    record: Any = option(  # noqa: RUF009
        None,
        "A folder for some of the episodes, to look at with ``genreward live``; see "
        "`episodes.Recorder`.",
    )
    device: str = option(
        "auto", '"auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<index>".'
    )
    dtype: str | None = option(
        None, 'What encoders compute in: "float32", "bfloat16" or "float16".'
    )
    nonfinite: str = option(
        "raise",
        'What happens where a part with a weight is not finite: "raise", or "hold", '
        "which pays its last finite value and warns.",
        choices=("raise", "hold"),
    )
    other_task: bool = option(
        False, "True if a goal that was made for another task is meant to be used."
    )

    def given(self) -> dict[str, Any]:
        """Those that differ from their defaults, as JSON can hold them."""
        found = super().given()
        if "record" in found:
            found["record"] = fspath(found["record"])
        return found
