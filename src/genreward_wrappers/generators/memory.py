"""Errors that say what to do if a generator does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from genreward_wrappers.encoders.memory import memory_limit
from genreward_wrappers.generators.settings import Model


@contextmanager
def memory_told(model: Model) -> Iterator[None]:
    """Says what would help a generator if memory runs out."""

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
