"""How far something is: on the terminal, and in TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Figures = Mapping[str, float]


@contextmanager
def told(what: str, shown: Sequence[str] = ()) -> Iterator[Callable[..., None]]:
    """A progress bar, where rich is there; else nothing is shown.

    Args:
        what: What is being counted.
        shown: The names of figures to show beside it.

    Yields:
        A function of (done, total) and perhaps figures by name.
    """
    try:
        from rich.progress import Progress, TextColumn
    except ImportError:
        yield lambda done, total, figures=None: None
        return
    column = TextColumn("[dim]{task.fields[figures]}")
    with Progress(*Progress.get_default_columns(), column) as bar:
        task: Any = None

        def tick(done: int, total: int, figures: Figures | None = None) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(what, total=total, figures="")
            known = figures or {}
            text = "  ".join(f"{n} {known[n]:.3g}" for n in shown if n in known)
            bar.update(task, completed=done, total=total, figures=text)

        yield tick


@contextmanager
def board(folder: Path | None) -> Iterator[Callable[[int, Figures], None]]:
    """Scalars for TensorBoard; without a folder nothing is written.

    Raises:
        ImportError: A folder is given, and tensorboard is not there.
    """
    if folder is None:
        yield lambda step, figures: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            'TensorBoard files need it: pip install "genreward-wrappers[train]"'
        ) from error
    writer = SummaryWriter(str(folder))
    try:

        def write(step: int, figures: Figures) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)

        yield write
    finally:
        writer.close()
