"""Progress: a bar in a terminal, lines in a pipe, and scalars in TensorBoard.

All of it goes to the standard error, so that the standard output holds results alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from genreward_wrappers.extras import require

Figures = Mapping[str, float]

#: What long computations call as they go: with what is done and of how much, ...
OnProgress = Callable[[int, int], None]
#: ... with the number of an update and its figures, ...
OnFigures = Callable[[int, Figures], None]
#: ... or with a stage's name, what is done, of how much, and perhaps figures.
OnStage = Callable[..., None]

#: Seconds between two lines about the same stage where there is no terminal.
INTERVAL = 10.0


def no_progress(*_: object) -> None:
    """The default of every ``on_progress``: reports nothing."""


@contextmanager
def progress_bars(shown: Sequence[str] = (), quiet: bool = False) -> Iterator[OnStage]:
    """Shows how far each stage of a computation is.

    Args:
        shown: The names of the figures to show beside it.
        quiet: Whether to show nothing.

    Yields:
        A function of (stage, done, total) and, if there are any, figures by name.
    """

    def text(figures: Figures | None) -> str:
        known = figures or {}
        return "  ".join(f"{n} {known[n]:.3g}" for n in shown if n in known)

    if quiet:
        yield no_progress
        return
    try:
        from rich.console import Console
        from rich.progress import Progress, TextColumn
    except ImportError:
        yield _lines(text)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(text)
        return
    tasks: dict[str, Any] = {}
    column = TextColumn("[dim]{task.fields[figures]}")
    with Progress(*Progress.get_default_columns(), column, console=console) as bar:

        def on_progress(
            stage: str, done: float, total: float, figures: Figures | None = None
        ) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, figures="")
            said = {} if figures is None else {"figures": text(figures)}
            bar.update(tasks[stage], completed=done, total=total, **said)

        yield on_progress


@contextmanager
def progress_bar(
    what: str, shown: Sequence[str] = (), quiet: bool = False
) -> Iterator[Callable[..., None]]:
    """The bar of a single stage: yields a function of (done, total), perhaps figures.

    Args:
        what: What is counted.
        shown: The names of the figures to show beside it.
        quiet: Whether to show nothing.
    """
    with progress_bars(shown, quiet) as on_progress:
        yield partial(on_progress, what)


def _lines(text: Callable[[Figures | None], str]) -> OnStage:
    """Writes a line at a stage's beginning, then now and then, and one at its end."""
    written: dict[str, tuple[float, float]] = {}

    def on_progress(
        stage: str, done: float, total: float, figures: Figures | None = None
    ) -> None:
        now = time.monotonic()
        before, last = written.get(stage, (-1.0, -INTERVAL))
        finished = done >= total > before
        if stage in written and not finished and now - last < INTERVAL:
            return
        written[stage] = (done, now)
        more = text(figures)
        line = f"{stage}: {_count(done)} of {_count(total)}{'  ' if more else ''}{more}"
        print(line, file=sys.stderr, flush=True)

    return on_progress


def _count(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.1f}"


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[OnFigures]:
    """Writes scalars for TensorBoard; without a folder it writes nothing.

    Raises:
        ImportError: A folder is given, and tensorboard is not installed.
    """
    if folder is None:
        yield no_progress
        return
    board = require("torch.utils.tensorboard", "train", "TensorBoard files need it")
    writer = board.SummaryWriter(str(folder))
    try:

        def write(step: int, figures: Figures) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)

        yield write
    finally:
        writer.close()
