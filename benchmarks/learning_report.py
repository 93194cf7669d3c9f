"""What the lines of `benchmarks.learning` add up to: tables, intervals, a picture."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Line = dict[str, Any]
Floats = NDArray[np.float64]

#: A task is learned at this success.
LEARNED = 0.8
#: Resamples of an interval, and the share of them that it holds.
RESAMPLES, LEVEL = 2_000, 0.95


def read(path: Path) -> list[Line]:
    """The finished runs of a file; none if there is no file.

    A run that was given up and resumed has several lines: the last one counts.
    """
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    return list({key_of(line): line for line in lines}.values())


def key_of(line: Line) -> tuple[Any, ...]:
    """What tells a run's lines from those of others."""
    names = ("task", "reward", "seed", "goal", "goal_digest")
    return (*(line[name] for name in names), *sorted(line["learner"].items()))


def interquartile_mean(scores: Floats) -> Floats:
    """The mean of the middle half of the last axis: a quarter is cut at either end.

    As in rliable (Agarwal et al. 2021): what does not divide by four is cut less.
    """
    count = scores.shape[-1]
    cut = count // 4
    middle: Floats = np.sort(scores, axis=-1)[..., cut : count - cut].mean(-1)
    return middle


def stratified_interval(tasks: Sequence[Floats], seed: int = 0) -> tuple[float, float]:
    """A percentile bootstrap interval of the interquartile mean over runs and tasks.

    Seeds are drawn anew within each task, so that every resample has all tasks.

    Args:
        tasks: (seeds,) scores of each task.
        seed: Of the resampling.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))]
        for scores in tasks
    ]
    means = interquartile_mean(np.concatenate(drawn, axis=1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def final(line: Line) -> float:
    """The success that a run ends at: of its last window of episodes."""
    return float(line["success"][-1])


def decisions_to(line: Line, rate: float) -> float:
    """Decisions until a window succeeds this often; infinite if none does."""
    for index, success in enumerate(line["success"]):
        if success >= rate:
            return float(min((index + 1) * line["every"], line["decisions"]))
    return float("inf")


def at(line: Line, marks: Floats) -> Floats:
    """Success at some numbers of decisions; outside of a curve, that of its ends."""
    steps = np.arange(1, len(line["success"]) + 1) * line["every"]
    found: Floats = np.interp(
        marks, np.minimum(steps, line["decisions"]), line["success"]
    )
    return found


def table(lines: Sequence[Line]) -> str:
    """A row for each task and reward, and a row for each reward over its tasks."""
    groups: dict[tuple[str, ...], dict[str, list[Line]]] = defaultdict(dict)
    for line in lines:
        key = (line["reward"], line["goal"], _settings(line))
        groups[key].setdefault(line["task"], []).append(line)
    head = (
        "task", "seeds", "success of each", "decisions to .8 (median)",
        "budget (median)", "farmed", "decisions a CPU second",
    )  # fmt: skip
    out = []
    # What has the most runs first.
    order = sorted(groups, key=lambda key: -len(_all(groups[key])))
    for reward, goal, settings in order:
        tasks = groups[reward, goal, settings]
        what = f"`{reward}`, goals: {goal}" + (f", {settings}" if settings else "")
        out += [what, "", _row(head), "|" + "---|" * len(head)]
        for task, some in tasks.items():
            out.append(_row((task, *_cells(some))))
        scores = [np.array([final(line) for line in some]) for some in tasks.values()]
        mean = float(interquartile_mean(np.concatenate(scores)))
        low, high = stratified_interval(scores)
        learned = sum(float(interquartile_mean(one)) >= LEARNED for one in scores)
        out += [
            "",
            f"Interquartile mean {mean:.2f} [{low:.2f}, {high:.2f}] over "
            f"{sum(map(len, scores))} runs of {len(scores)} tasks; learned (>= "
            f"{LEARNED:g}): {learned} of {len(scores)}; farmed: "
            f"{np.mean([line['outcome'] == 'farmed' for line in _all(tasks)]):.0%}",
            "",
        ]
    return "\n".join(out)


def plot(
    lines: Sequence[Line],
    tasks: Sequence[str],
    reward: str,
    ceiling: str,
    path: Path,
) -> None:
    """Draws each task's curves on the video alone beside those on the dense reward.

    Args:
        lines: Finished runs.
        tasks: In the order of the panels.
        reward: Whose curves are in front.
        ceiling: The reward that they are compared with.
        path: Of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [
        line
        for line in lines
        if line["goal"] in ("embedded", "none") and not _settings(line)
    ]
    looks = (
        (ceiling, "the hand-written dense reward", "#9aa0a6", "--"),
        (reward, "the generated goal video alone", "#0b6e99", "-"),
    )
    curves = {
        (task, name): [
            line for line in shown if (line["task"], line["reward"]) == (task, name)
        ]
        for task in tasks
        for name, *_ in looks
    }
    there = [task for task in tasks if curves[task, reward]]
    columns = min(5, len(there))
    rows = -(-len(there) // columns)
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(2.6 * columns, 2.2 * rows + 0.5),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, task in zip(axes.flat, there, strict=False):
        longest = max(
            line["decisions"] for name, *_ in looks for line in curves[task, name]
        )
        marks = np.linspace(0, 5_000 * np.ceil(longest / 5_000), 79)
        for name, label, colour, style in looks:
            if not curves[task, name]:
                continue
            rates = np.stack([at(line, marks) for line in curves[task, name]])
            middle, low, high = _bands(rates)
            axis.plot(
                marks / 1000, middle, style, color=colour, label=label, linewidth=1.8
            )
            axis.fill_between(
                marks / 1000, low, high, color=colour, alpha=0.2, linewidth=0
            )
        seeds = len(curves[task, reward])
        axis.set_title(f"{task} ({seeds} seed{'s' if seeds > 1 else ''})", fontsize=9)
        axis.set_xlim(0, marks[-1] / 1000)
        axis.set_ylim(-0.02, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in list(axes.flat)[len(there) :]:
        axis.set_visible(False)
    handles, labels = [], []
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.supxlabel("thousand decisions", fontsize=9)
    figure.supylabel("success", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="white")
    pyplot.close(figure)


def _bands(curves: Floats) -> tuple[Floats, Floats, Floats]:
    """The middle of some curves and its interval, seeds drawn as whole curves."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(curves), size=(RESAMPLES, len(curves)))
    means = interquartile_mean(np.moveaxis(curves[drawn], 1, -1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return interquartile_mean(curves.T), low, high


def _cells(some: Sequence[Line]) -> tuple[str, ...]:
    some = sorted(some, key=lambda line: line["seed"])
    needed = float(np.median([decisions_to(line, LEARNED) for line in some]))
    farmed = sum(line["outcome"] == "farmed" for line in some)
    speeds = [line["decisions"] / line["cpu_seconds"] for line in some]
    return (
        str(len(some)),
        ", ".join(f"{final(line):.2f}" for line in some),
        f"{needed:,.0f}" if np.isfinite(needed) else "never",
        f"{np.median([line['decisions'] for line in some]):,.0f}",
        f"{farmed} of {len(some)}",
        f"{np.median(speeds):.0f}",
    )


def _settings(line: Line) -> str:
    """Where a run's learner is not the usual one."""
    from genreward_wrappers.evaluate.learn.learner import Learner

    usual = Learner().as_dict()
    return ", ".join(
        f"{key}={value}"
        for key, value in line["learner"].items()
        if usual.get(key) != value
    )


def _all(tasks: dict[str, list[Line]]) -> list[Line]:
    return [line for some in tasks.values() for line in some]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
