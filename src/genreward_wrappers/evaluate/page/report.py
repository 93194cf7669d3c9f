"""The reward inspector: one HTML file that shows a dead reward in minutes.

An episode plays beside the goal video with its reward curves below, and tables hold
what was measured. The file contains everything it shows and does not use the network.
``report.html`` is the skeleton; ``report.css``, ``figures.js`` (charts), ``tables.js``,
``player.js`` (an episode in time) and ``report.js`` (the rest) are inserted here.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, UInt8
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import write_atomic
from genreward_wrappers.extras import require

#: Nothing is fetched, and no markup in a user's file could fetch anything, either.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
#: The live page also asks the server it came from.
LIVE_POLICY = (
    POLICY.replace("img-src data:", "img-src data: 'self'") + "; connect-src 'self'"
)

SCRIPTS = ("figures.js", "tables.js", "player.js", "report.js")
MATRIX_SIDE = 65
# The maximum side of a sheet. Longer or larger videos are shrunk: a browser holds four
# bytes per pixel, and the episodes that rewards are trained on are small or short.
SHEET_PIXELS = 2**24
# WebP codes blocks of this many pixels; a tile of whole blocks keeps its colours to
# itself.
BLOCK = 16


@dataclass(frozen=True)
class RewardInfo:
    """A column of the report.

    Attributes:
        name: Its key in episodes and metrics.
        label: Its name for people.
        role: "reward", "control", "reference" or "sum".
        about: What it measures, in a sentence.
    """

    name: str
    label: str
    role: str = "reward"
    about: str = ""


@dataclass(frozen=True, eq=False)
class Shown:
    """An episode in the picker.

    Attributes:
        episode: What happened.
        id: Its unique name.
        kind: The kind of policy, for example "scripted"; the picker filters by it.
        label: Its name for people.
        goal: The index of its goal video; -1 if there is none.
        matrix: Latent similarities by reward, (agent time, goal time).
        checkpoint: The point in training that it is from, for example "seed 0 at 10k".
    """

    episode: Episode
    id: str
    kind: str
    label: str
    goal: int = -1
    matrix: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    checkpoint: str = ""


@dataclass(frozen=True, eq=False)
class GoalVideo:
    """A goal video, (T, H, W, 3), and the index of its key frame."""

    frames: UInt8
    key_frame: int


@dataclass(frozen=True, eq=False)
class Report:
    """Everything the page shows.

    Attributes:
        title: Its heading.
        facts: What was evaluated and with what, by name.
        prompt: The task in words.
        goals: The goal videos.
        rewards: The columns, in their order.
        episodes: The picker, in its order.
        metrics: By reward, then by metric: ``value``, ``low``, ``high``, ``n``,
            ``flag``.
        metric_notes: A sentence on each metric.
        metric_groups: By the title of a group: its metrics, and each in words.
        verdicts: ``reward``, ``level`` (good, weak, misleading, dead), ``headline``
            and ``findings``, best read first.
        confusion: By reward: ``tasks``, ``goals``, ``matrix``, ``diagonal_minus_off``,
            ``argmax_accuracy``.
        learning: Runs: ``reward``, ``seed``, ``steps``, ``success``, ``return``,
            ``verdict``.
        notes: Plain caveats.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    goals: Sequence[GoalVideo] = ()
    rewards: Sequence[RewardInfo] = ()
    episodes: Sequence[Shown] = ()
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    metric_notes: Mapping[str, str] = field(default_factory=dict)
    metric_groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    verdicts: Sequence[Mapping[str, Any]] = ()
    confusion: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    learning: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()


def page(report: Report) -> str:
    """The whole page, as HTML."""
    figures = report_json(report)
    pictures = {
        "goals": [sheet(goal.frames) for goal in report.goals],
        "episodes": [sheet(shown.episode.frames) for shown in report.episodes],
    }
    return render(figures, pictures, POLICY)


def write_page(path: str | PathLike[str], report: Report) -> None:
    """Writes the page atomically."""
    write_atomic(Path(path), page(report).encode())


def report_json(report: Report) -> dict[str, Any]:
    """The figures of the report without its pictures, safe as JSON.

    Raises:
        ValueError: There is nothing to show, or an episode names a goal that does not
            exist.
    """
    if not report.episodes:
        raise ValueError("a report needs at least one episode to show, got none")
    if not report.rewards:
        raise ValueError("a report needs at least one reward to show, got none")
    for shown in report.episodes:
        if not -1 <= shown.goal < len(report.goals):
            raise ValueError(
                f"episode {shown.id!r} is compared with goal {shown.goal}, the report "
                f"has {len(report.goals)} goal videos"
            )
    episodes = [{**summary(shown), **detail(shown)} for shown in report.episodes]
    return {**around(report), "episodes": episodes}


def around(report: Report) -> dict[str, Any]:
    """The JSON of everything but the episodes."""
    rest: dict[str, Any] = _plain(
        {
            "title": report.title,
            "facts": report.facts,
            "prompt": report.prompt,
            "goals": [
                {"frames": len(goal.frames), "key_frame": goal.key_frame}
                for goal in report.goals
            ],
            "rewards": [vars(reward) for reward in report.rewards],
            "metrics": report.metrics,
            "metric_notes": report.metric_notes,
            "metric_groups": report.metric_groups,
            "verdicts": report.verdicts,
            "confusion": report.confusion,
            "learning": report.learning,
            "notes": report.notes,
        }
    )
    return rest


def summary(shown: Shown) -> dict[str, Any]:
    """What the picker says about an episode, and the ranges of its curves."""
    episode = shown.episode
    rewards = {}
    for name, curve in episode.rewards.items():
        due = curve[np.isfinite(curve)].astype(np.float64)
        # There is no range of nothing.
        rewards[name] = {
            "due": len(due),
            "sum": _figure(due.sum()),
            "low": _figure(due.min()) if len(due) else None,
            "high": _figure(due.max()) if len(due) else None,
        }
    return {
        "id": shown.id,
        "kind": shown.kind,
        "label": shown.label,
        "checkpoint": shown.checkpoint,
        "goal": shown.goal,
        "steps": len(episode),
        "success": episode.succeeded,
        "terminated": episode.terminated,
        "rewards": rewards,
    }


def detail(shown: Shown) -> dict[str, Any]:
    """What the player needs about an episode besides its pictures."""
    episode = shown.episode
    return {
        "frame_steps": episode.frame_steps.tolist(),
        "success_steps": _runs(episode.success),
        "curves": {
            # The result of step t (from 0) is seen after t + 1 steps.
            name: [
                [int(step) + 1, _figure(curve[step])]
                for step in np.flatnonzero(np.isfinite(curve))
            ]
            for name, curve in episode.rewards.items()
        },
        "matrix": {
            name: packed
            for name, matrix in shown.matrix.items()
            if (packed := _pack_matrix(matrix)) is not None
        },
    }


def sheet(frames: UInt8) -> dict[str, Any]:
    """All frames of a video in one WebP picture, and the place of each.

    A canvas draws it frame by frame: frames are exact, and there is nothing to seek.
    """
    Image = require("PIL.Image", "evaluate", "the report needs Pillow for its pictures")
    count, height, width, _ = frames.shape
    shrink = min(1.0, math.sqrt(SHEET_PIXELS / (count * height * width)))
    size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
    tile = tuple(-(-side // BLOCK) * BLOCK for side in size)
    columns = max(1, round(math.sqrt(count * tile[1] / tile[0])))
    rows = -(-count // columns)
    whole = np.zeros((rows * tile[1], columns * tile[0], 3), np.uint8)
    margins = ((0, tile[1] - size[1]), (0, tile[0] - size[0]), (0, 0))
    for index, frame in enumerate(frames):
        if shrink < 1:
            frame = np.asarray(
                Image.fromarray(frame).resize(size, Image.Resampling.BOX)
            )
        top, left = index // columns * tile[1], index % columns * tile[0]
        whole[top : top + tile[1], left : left + tile[0]] = np.pad(
            frame, margins, mode="edge"
        )
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "WEBP", quality=70, method=6)
    return {
        "src": "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode(),
        "columns": columns,
        "tile": tile,
        "size": size,
        "count": count,
    }


def render(figures: Mapping[str, Any], pictures: Mapping[str, Any], policy: str) -> str:
    """The skeleton with style, scripts and data inserted."""
    folder = resources.files(__package__)

    def part(name: str) -> str:
        return (folder / name).read_text("utf-8")

    parts = {
        "policy": policy,
        "title": html.escape(str(figures["title"])),
        "style": part("report.css"),
        "script": "\n".join(part(name) for name in SCRIPTS),
        "report": _json(figures),
        "pictures": _json(pictures),
    }
    # In one pass: a prompt may well hold something like {{style}}.
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], part("report.html"))


def _json(value: Any) -> str:
    # Inside <script> only "<" can end the data early.
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    """A value in JSON's own types; None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _figure(value: Any) -> float:
    """Five digits: more than anyone reads off a curve."""
    return float(f"{float(value):.5g}")


def _runs(marks: Bool) -> list[list[int]]:
    """The first and last step of each unbroken run of marks, counted from 1."""
    edges = np.flatnonzero(np.diff(marks.astype(np.int8), prepend=0, append=0))
    return [[int(a) + 1, int(b)] for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _pack_matrix(matrix: NDArray[Any]) -> dict[str, Any] | None:
    """A matrix in bytes: 0 to 254 from its least to its greatest, 255 where NaN."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).any():
        return None
    picks = [
        np.linspace(0, side - 1, min(side, MATRIX_SIDE)).round().astype(int)
        for side in matrix.shape
    ]
    # Picked, not averaged: every cell shown was measured.
    matrix = matrix[np.ix_(*picks)]
    seen = np.isfinite(matrix)
    if not seen.any():
        return None
    low, high = matrix[seen].min(), matrix[seen].max()
    scaled = (matrix - low) / (high - low if high > low else 1.0) * 254
    cells = np.where(seen, scaled, 255).round().astype(np.uint8)
    return {
        "shape": list(cells.shape),
        "low": _figure(low),
        "high": _figure(high),
        "cells": base64.b64encode(cells.tobytes()).decode(),
    }
