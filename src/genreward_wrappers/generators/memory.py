"""Errors that say what to do if a generator does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from genreward_wrappers.generators.settings import Model


@contextmanager
def memory_told(model: Model) -> Iterator[None]:
    """Says what would help a generator if the memory does not suffice."""

    def ways(on_cpu: bool) -> list[str]:
        found = []
        if model.offload != "sequential" and not on_cpu:
            stronger = "model" if model.offload == "none" else "sequential"
            found.append(f"--offload {stronger}")
        if model.dtype not in ("bfloat16", "float16"):
            found.append("--dtype bfloat16")
        if model.quantise == "none":
            found.append("--quantise int8")
        if not model.tiling:
            found.append("--tiling")
        smaller = "a smaller --size or fewer --frames, where the model allows them"
        return [*found, smaller]

    with memory_limit(model.source, ways):
        yield


@contextmanager
def memory_limit(source: str, ways: Callable[[bool], list[str]]) -> Iterator[None]:
    """Says what would help if the memory does not suffice.

    Args:
        source: What is being computed with.
        ways: A function that returns what would help, given whether it is the CPU's
            memory.

    Raises:
        ValueError: The memory does not suffice.
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
            f"the memory does not suffice for {source} ({first}). What helps: "
            + "; ".join(ways(on_cpu))
        ) from error
