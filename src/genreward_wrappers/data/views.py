"""Several cameras as one picture: their frames side by side, in the order of names.

Between the environment and the reward there is one picture a step, so several cameras
need nothing but a place in it. A goal of several cameras lies in its bundle the same
way, and its camera is called "front+wrist".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from genreward_wrappers.data.frames import cut_out, side_by_side
from genreward_wrappers.data.goals import GoalBundle, GoalError

#: Between the names of cameras whose pictures lie side by side.
BETWEEN = "+"


def view_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names of views in the order in which their pictures lie.

    Raises:
        ValueError: There are fewer than two, or a name is not one word.
    """
    found = tuple(sorted(names))
    if len(found) < 2 or not all(re.fullmatch(r"[\w-]+", name) for name in found):
        raise ValueError(
            f"views {list(found)}: expected two or more names of letters, digits, "
            "_ and -"
        )
    return found


def names_in(camera: str) -> tuple[str, ...]:
    """The names of the views in "front+wrist"; none if it names one camera."""
    return view_names(camera.split(BETWEEN)) if BETWEEN in camera else ()


def views_of(goal: GoalBundle) -> tuple[str, ...]:
    """The names of the views in a goal; none if it shows one camera."""
    return names_in(goal.camera)


def split_views(goal: GoalBundle) -> dict[str, GoalBundle]:
    """The goal of each view in a goal of several, as `join_views` was given it."""
    names = views_of(goal)
    steps: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names}
    for step in goal.provenance:
        own = {key: value for key, value in step.items() if key != "view"}
        for name in names:
            if step.get("view", name) == name:
                steps[name].append(own)
    return {
        name: goal.with_(
            camera=name,
            videos=cut_out(goal.videos, i, len(names)),
            provenance=tuple(steps[name]),
        )
        for i, name in enumerate(names)
    }


def join_views(goals: Mapping[str, GoalBundle]) -> GoalBundle:
    """One goal of several views, which `split_views` takes apart again.

    Raises:
        GoalError: They differ in the number or the size of their videos, in their key
            frames or encoders, or have forward-backward nets.
    """
    names = view_names(goals)
    first = goals[names[0]]
    for name in names[1:]:
        own = goals[name]
        if own.videos.shape != first.videos.shape:
            raise GoalError(
                "the goals of all views have as many videos, of one length and size: "
                f"{names[0]!r} is {_said(first)}, {name!r} is {_said(own)}. `genreward "
                "pack` brings videos to one with --length and --size"
            )
        for what in ("encoder", "key_frames"):
            theirs, ours = getattr(own, what), getattr(first, what)
            if theirs != ours:
                raise GoalError(
                    f"the goals of all views have one {what}: that of {names[0]!r} is "
                    f"{ours}, that of {name!r} {theirs}"
                )
    if any(own.nets for own in goals.values()):
        raise GoalError(
            "a goal of several views holds no forward-backward nets: give the wrapper "
            "a goal for each view, goal={'" + names[0] + "': ..., ...}"
        )
    steps = [
        {**step, "view": name} for name in names for step in goals[name].provenance
    ]
    return first.with_(
        camera=BETWEEN.join(names),
        videos=side_by_side([goals[name].videos for name in names]),
        provenance=tuple(steps),
    )


def _said(goal: GoalBundle) -> str:
    count, frames, height, width, _ = goal.videos.shape
    return f"{count} of {frames} frames of {height}x{width}"
