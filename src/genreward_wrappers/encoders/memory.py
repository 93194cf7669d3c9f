"""Errors that say what to do if a model or a batch does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch


@contextmanager
def memory_limit(source: str, ways: Callable[[bool], list[str]]) -> Iterator[None]:
    """Says what would help if memory runs out.

    Args:
        source: What is being computed with.
        ways: A function that returns what would help, given whether it is the CPU's
            memory.

    Raises:
        ValueError: There is not enough memory.
    """
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # torch's error on the CPU has no class of its own.
        on_cpu = "can't allocate memory" in str(error)
        if not (
            on_cpu or isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
        ):
            raise
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"there is not enough memory for {source} ({first}). What helps: "
            + "; ".join(ways(on_cpu))
        ) from error


class Batched(Protocol):
    """An encoder that bounds its batches."""

    source: str
    size: tuple[int, int]
    pixel_budget: int


@contextmanager
def batch_limit(encoder: Batched) -> Iterator[None]:
    """Names an encoder's batch, and what halves it, if memory runs out.

    Raises:
        ValueError: There is not enough memory.
    """

    def ways(on_cpu: bool) -> list[str]:
        budget = encoder.pixel_budget
        half = f"encoder.pixel_budget = {budget // 2}, which halves the batch"
        return [*([half] if most > 1 else []), 'dtype="bfloat16"']

    height, width = encoder.size
    most = max(1, encoder.pixel_budget // (height * width))
    batch = f"batches of up to {most} frames of {height}x{width}"
    with memory_limit(f"{encoder.source} with {batch}", ways):
        yield
