"""An `Evaluation` for a terminal or a pipe, at any width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from genreward_wrappers.evaluate.judge.run import Evaluation, Scored
from genreward_wrappers.evaluate.learn.runs import outcome
from genreward_wrappers.evaluate.page.output import Learned

#: The figures that are shown; the page has all of them.
SHORT = (
    "auc_mean",
    "auc_final",
    "near_auc_mean",
    "shifted_auc",
    "brightness_auc",
    "voc_spearman",
    "rank_tau_b",
    "static_place",
    "hover_share",
    "near_share",
)

#: The characters of a column: a figure and its interval, such as "-0.91 (-1.00 to
#: 1.00)".
CELL = 21


def lines(evaluation: Evaluation, learned: Learned, width: int = 80) -> Iterator[str]:
    """The figures that matter most, the verdicts, and what agents learned.

    Args:
        evaluation: The evaluation.
        learned: The learning runs, if there were any.
        width: The width of a line. Figures are never cut: rewards that do not fit side
            by side are shown in several tables.
    """
    yield f"{evaluation.env_id}: {len(evaluation.episodes)} test episodes"
    first = max(map(len, SHORT))
    beside = max(1, (width - first) // (CELL + 2))
    scored = evaluation.scored
    for start in range(0, len(scored), beside):
        yield ""
        yield from _table(scored[start : start + beside], first)
    for one in scored:
        if one.verdict is not None:
            yield ""
            said = f"{one.contestant.name}: {one.verdict.level}, {one.verdict.headline}"
            yield from textwrap.wrap(said, width)
            for finding in one.verdict.findings:
                yield from textwrap.wrap(
                    finding, width, initial_indent="  - ", subsequent_indent="    "
                )
    for run, progress in learned.items():
        yield ""
        said = f"{run.reward}, seed {run.seed}: {outcome(progress)[1]}"
        yield from textwrap.wrap(said, width)


def _table(scored: Sequence[Scored], first: int) -> Iterator[str]:
    heads = []
    for one in scored:
        role = one.contestant.role
        said = one.contestant.name + ("" if role == "reward" else f" ({role})")
        heads.append(textwrap.wrap(said, CELL))
    tall = max(map(len, heads))
    for row in range(tall):
        yield _row("", [h[row] if row < len(h) else "" for h in heads], first)
    for metric in SHORT:
        cells = [str(one.metrics.get(metric, "undefined")) for one in scored]
        yield _row(metric, cells, first)


def _row(name: str, cells: list[str], first: int) -> str:
    return "  ".join(
        [f"{name:{first}}", *(f"{cell:{CELL}}" for cell in cells)]
    ).rstrip()
