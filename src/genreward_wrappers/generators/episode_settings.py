"""How goals of an episode's own first frame are generated; nothing here loads torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from genreward_wrappers.checks import did_you_mean, whole
from genreward_wrappers.generators.settings import Model

if TYPE_CHECKING:
    from genreward_wrappers.generators.episode_goals import OwnGoals

#: The generator that comes with this package, and how many denoising steps it takes. In
#: one step it gives the mean of all videos that may follow from a first frame, and not
#: one of them: agents learn more of reach and door-open from it (docs/rewards.md).
EMBEDDED, STEPS = "embedded:goal-generator-64", 1


@dataclass(frozen=True)
class GeneratedGoals:
    """How the goals of episodes are generated from their first frames.

    A wrapper takes it as its ``goal=``, or a mapping with the same names;
    ``goal="generated"`` is ``GeneratedGoals()``.

    Attributes:
        generator: A local folder, a hub id or ``embedded:<name>``: a pipeline of
            diffusers that continues a picture.
        prompt: The task in words; empty takes that of the environment's embedded goal.
        videos: The number of videos of each first frame.
        steps: The number of denoising steps; None is 1 for the embedded generator, and
            otherwise the pipeline's default.
        guidance: The scale of classifier-free guidance; None is the pipeline's default.
            1 switches it off, which halves the time.
        frames: The number of frames of a video, which spans the whole episode; None is
            the pipeline's default.
        size: (height, width) of a video; None is the pipeline's default.
        negative: What the videos should not show.
        more: Further arguments of the pipeline by name.
        seed: Another seed gives other videos for the same frames.
        batch: The largest number of videos to make at once.
        cache: The folder that keeps the videos; None is the user's cache, and an empty
            string keeps none.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The precision of the pipeline; None is bfloat16 on a GPU, otherwise
            float32.
        model: Further fields of `generators.Model` by name, such as ``lora``.

    Example:
        >>> GeneratedGoals(prompt="reach the red target", steps=4).as_mapping()
        {'prompt': 'reach the red target', 'steps': 4}
    """

    generator: str = EMBEDDED
    prompt: str = ""
    videos: int = 1
    steps: int | None = None
    guidance: float | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    negative: str = ""
    more: Mapping[str, Any] | None = None
    seed: int = 0
    batch: int = 16
    cache: str | os.PathLike[str] | None = None
    device: str = "auto"
    dtype: str | None = None
    model: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        whole("videos", self.videos)
        whole("batch", self.batch)
        whole("seed", self.seed, 0)
        if not isinstance(self.prompt, str) or not isinstance(self.generator, str):
            raise TypeError(
                "expected a folder or id as generator= and words as prompt=, got "
                f"generator={self.generator!r} and prompt={self.prompt!r}"
            )
        ours = {"source", "device", "dtype"}
        _check_names("model=", self.model or {}, _names(Model) - ours)

    @classmethod
    def of(cls, goal: GeneratedGoals | Mapping[str, Any] | str) -> GeneratedGoals:
        """The goals that a wrapper's ``goal=`` stands for.

        Raises:
            ValueError: A name is not a field.
        """
        if isinstance(goal, GeneratedGoals):
            return goal
        given = {} if isinstance(goal, str) else goal
        _check_names("goal=", given, _names(cls))
        size = given.get("size")
        return cls(**{**given, "size": None if size is None else tuple(size)})

    def denoising(self) -> int | None:
        """The number of denoising steps; None leaves it to the pipeline."""
        if self.steps is None and self.generator == EMBEDDED:
            return STEPS
        return self.steps

    def as_mapping(self) -> dict[str, Any]:
        """The fields that differ from the defaults, for JSON."""
        default = asdict(type(self)())
        given = {k: v for k, v in asdict(self).items() if v != default[k]}
        if "cache" in given:
            given["cache"] = os.fspath(given["cache"])
        if "size" in given:
            # As JSON restores it.
            given["size"] = list(given["size"])
        return given

    def maker(self, env_id: str | None = None) -> OwnGoals:
        """The maker for an environment's id; it loads nothing yet."""
        from genreward_wrappers.generators.episode_goals import OwnGoals

        return OwnGoals(self, env_id)


def _names(cls: Any) -> set[str]:
    return {field.name for field in fields(cls)}


def _check_names(what: str, given: Mapping[str, Any], accepted: set[str]) -> None:
    for name in given:
        if name not in accepted:
            raise ValueError(
                f"{what} has no {name!r}{did_you_mean(name, accepted)}; it takes "
                f"{', '.join(sorted(accepted))}"
            )
