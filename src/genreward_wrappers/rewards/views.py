"""A reward on several cameras: one model for each view, and the mean of their scores.

The views lie side by side in each frame (`data.views`), so that hosts, sessions and
files know nothing of them: a `View` shows its model one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, RewardModel, Score, Transition, UInt8, UInt64
from genreward_wrappers.data.frames import cut_out
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.data.views import split_views, view_names
from genreward_wrappers.rewards.decorators import Around
from genreward_wrappers.rewards.facts import Built, Facts, Part, is_generated

if TYPE_CHECKING:
    from genreward_wrappers.rewards.spec import RewardSpec


class View(Around):
    """Shows a model one of several views whose pictures lie side by side."""

    def __init__(
        self,
        model: RewardModel[Any],
        view: str,
        views: Iterable[str],
        name: str | None = None,
    ) -> None:
        """Wraps a model.

        Args:
            model: The model.
            view: The name of the view that it looks at.
            views: The names of all views.
            name: None is the model's own and the view's, "video_wrist" for example.

        Raises:
            ValueError: There is no such view.
        """
        super().__init__(model, name or f"{model.name}_{view}")
        self._views = view_names(views)
        if view not in self._views:
            raise ValueError(f"view {view!r}: expected one of {list(self._views)}")
        self.view = view

    @property
    def about(self) -> str:
        """Of the model and its view."""
        return f"{self.model.about} View {self.view!r}."

    @property
    def identity(self) -> str:
        """Of the model and its place in the picture."""
        return f"{super().identity} view {self.view} of {self._views}"

    def reset(self, memory: Any, frames: UInt8, mask: Bool, seeds: UInt64) -> Any:
        """Resets the model with its view of the first frames."""
        return self.model.reset(memory, self._seen(frames), mask, seeds)

    def step(self, memory: Any, transition: Transition) -> tuple[Score, Any]:
        """Scores what the model sees."""
        seen = replace(
            transition,
            frames=self._seen(transition.frames),
            next_frames=self._seen(transition.next_frames),
        )
        return self.model.step(memory, seen)

    def notes(self, memory: Any) -> dict[str, NDArray[Any]]:
        """What the model notes, under names of its view."""
        found = super().notes(memory)
        return {f"{key}_{self.view}": values for key, values in found.items()}

    def _seen(self, frames: UInt8) -> UInt8:
        return cut_out(frames, self._views.index(self.view), len(self._views))


def view_shares(
    views: Iterable[str], weights: Mapping[str, float] | None
) -> dict[str, float]:
    """What each view counts for in the mean; alike if there are no weights.

    >>> view_shares(["wrist", "front"], {"front": 3, "wrist": 1})
    {'front': 0.75, 'wrist': 0.25}
    """
    names = view_names(views)
    given = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
    numbers = np.array([*given.values()], np.float64)
    fine = np.isfinite(numbers).all() and (numbers >= 0).all() and numbers.sum() > 0
    if {*given} != {*names} or not fine:
        raise ValueError(
            f"view_weights={given}: expected a weight for each of {list(names)}, none "
            "below 0 and not all 0"
        )
    return {name: float(given[name] / numbers.sum()) for name in names}


def build_views(spec: RewardSpec, facts: Facts) -> Built:
    """The models of a reward for each view, which share their encoders.

    Raises:
        GoalError: The goal does not have these views.
        ValueError: The reward compares with nothing that could have views.
    """
    if spec.looks_at_goal():
        goals = _find_goals(spec, facts)
        specs = {view: replace(spec, goal=goal) for view, goal in goals.items()}
    elif "prompt" in spec.options:
        specs = dict.fromkeys(facts.views, spec)
    else:
        raise ValueError(
            f"the reward {spec.name!r} compares with no goal that could have the views "
            f"{[*facts.views]}: name one source, as in "
            'frames="obs:<key>", or give RewardModelWrapper the model itself, which '
            "sees the views side by side"
        )
    bind = facts.bind or _bind_once(facts)
    # Whether a goal is of another task was said when it was found.
    alone = replace(facts, views={}, camera=None, bind=bind, other_task=True)
    parts: list[Part] = []
    remarks: list[str] = []
    for view, own in specs.items():
        built = own.build(alone)
        remarks += built.remarks
        for model, weight in built.parts:
            shown = View(model, view, facts.views)
            parts.append(Part(shown, weight * facts.views[view]))
    return Built(tuple(parts), built.env_weight, tuple(dict.fromkeys(remarks)))


def _find_goals(spec: RewardSpec, facts: Facts) -> dict[str, GoalBundle]:
    """The goal of each view."""
    encoder = spec.options.get("encoder")
    given = facts.goal if spec.goal is None else spec.goal
    if isinstance(given, Mapping):
        if {*given} != {*facts.views}:
            raise GoalError(
                f"goals for the views {sorted(given)}, and the frames have the views "
                f"{[*facts.views]}: give one goal for each"
            )
        alone = replace(facts, views={}, camera=None)
        return {view: alone.find_bundle(given[view], encoder) for view in facts.views}
    if is_generated(given):
        raise GoalError(
            f"goal={given!r}: goals that are generated from an episode's first frame "
            f"have one view, and the frames have {[*facts.views]}: name one source, as "
            'in frames="obs:<key>"'
        )
    return split_views(facts.find_bundle(given, encoder))


def _bind_once(facts: Facts) -> Callable[[Any, Any], Any]:
    """Loads an encoder once that several views are compared by."""
    from genreward_wrappers.encoders.binding import bind_encoder

    known: dict[str, Any] = {}

    def bind(goal: GoalBundle, name: Any) -> Any:
        key = f"{name} {dict(goal.encoder)} {goal.frame_size}"
        if key not in known:
            known[key] = bind_encoder(
                goal, name, device=facts.device, dtype=facts.dtype
            )
        return known[key]

    return bind
