"""Files of weights that are damaged or cut short: found without importing torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class WeightsError(ValueError):
    """The weights are damaged, or do not match the model."""


@contextmanager
def told_if_damaged(where: str | Path) -> Iterator[None]:
    """Names the place of weights that cannot be read."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise WeightsError(
            f"the weights in {where} are damaged or cut short ({error})"
        ) from error


def check_complete(files: Iterable[Path]) -> None:
    """Raises unless safetensors files are as long as their headers say.

    No tensor is read for that.

    Raises:
        WeightsError: One is damaged or truncated.
    """
    from safetensors import safe_open

    for path in sorted(files):
        with told_if_damaged(path), safe_open(path, framework="numpy"):
            pass
