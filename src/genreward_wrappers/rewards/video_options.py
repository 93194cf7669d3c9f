"""The options of the video-level reward, and named sets of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genreward_wrappers.checks import check_names, number, whole
from genreward_wrappers.rewards.options import Options, option
from genreward_wrappers.rewards.similarity import SIMILARITIES

#: Scores that compare directions, which have no sharpness to set.
DIRECTIONS = ("motion", "last_change", "cosine", "centred")
SHARPENED = tuple(name for name in SIMILARITIES if name not in DIRECTIONS)


@dataclass(frozen=True)
class VideoOptions(Options):
    """How an episode is read, compared with the goal, and paid."""

    reading: str = option(
        "frames",
        "How frames become latents; see `rewards.clip_readers`.",
        choices=("frames", "stream", "window"),
    )
    length: int | None = option(
        None,
        "Frames of the clip that a reading takes. None is every step for "
        '"frames", the longest up to 129 that episode and goal have for "stream", and '
        '16 for "window".',
        check=whole,
    )
    window: int | None = option(
        None,
        "Steps of a window; None is 128.",
        only=("reading", ("window",)),
        check=whole,
    )
    stride: int | None = option(
        None,
        "Steps between the starts of two windows; None is 1.",
        only=("reading", ("window",)),
        check=whole,
    )
    score: str = option(
        "tracking",
        "What counts as alike; see `rewards.similarity`.",
        choices=SIMILARITIES,
    )
    contrast: float | None = option(
        None,
        "An agent that stands still earns, on average, exp(-contrast) of what "
        "following exactly earns; None is 1.",
        only=("score", SHARPENED),
        check=number,
    )
    payment: str = option(
        "level",
        '"level" pays a score when there is a new one, "hold" pays the newest at every '
        'step, "difference" pays discount * new - old.',
        choices=("level", "hold", "difference"),
    )
    discount: float | None = option(
        None,
        "The discount of the difference, the agent's own; None is 0.99.",
        only=("payment", ("difference",)),
        check=number,
    )
    goals: str = option(
        "nearest",
        'With several goal videos, "nearest" follows the one whose first frame is most '
        'like the episode\'s; "mean" and "max" compare with all of them.',
        choices=("nearest", "mean", "max"),
    )

    @classmethod
    def of_preset(
        cls, preset: str, given: Mapping[str, Any], owner: str
    ) -> VideoOptions:
        """A preset's options with some of them changed.

        What a change leaves without effect is dropped from the preset.
        """
        check_names(given, cls.names(), owner)
        kept = dict(PRESETS[preset])
        for name in PRESETS[preset]:
            needed = cls.__dataclass_fields__[name].metadata["only"]
            if needed and {**kept, **given}.get(needed[0]) not in needed[1]:
                del kept[name]
        return cls(**{**kept, **given})


#: Named sets of options; explicit options override them.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The released configuration: windows of 128 steps, 16 frames each, one global
    # cosine with the whole goal clip.
    "paper": {
        "reading": "window",
        "window": 128,
        "length": 16,
        "stride": 128,
        "score": "cosine",
        "payment": "level",
        "goals": "nearest",
    },
}
