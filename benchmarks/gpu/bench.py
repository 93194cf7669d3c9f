"""How the parts of the GPU benchmark measure, and how nothing found is lost."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

#: What one measurement found.
Row = dict[str, Any]
#: A name and what measures it. Making the next one may fail like measuring it.
Rows = Iterator[tuple[str, Callable[[], Row]]]


@dataclass(frozen=True)
class Bench:
    """Where to measure, and how large.

    Attributes:
        device: The device.
        tiny: Whether sizes are those that a CPU takes in a second: the figures mean
            nothing, and everything has run.
    """

    device: torch.device
    tiny: bool

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], Any], repeats: int = 5) -> float:
        """The median time of a call, after two that do not count."""
        repeats, warm = (1, 1) if self.tiny else (repeats, 2)
        for _ in range(warm):
            run()
        taken = []
        for _ in range(repeats):
            self.wait()
            begin = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - begin)
        return statistics.median(taken)

    def measured(self, run: Callable[[], Any], repeats: int = 5) -> tuple[float, Row]:
        """Seconds of a call, and the row's part about its memory."""
        if not self.cuda:
            return self.seconds(run, repeats), {}
        torch.cuda.reset_peak_memory_stats(self.device)
        seconds = self.seconds(run, repeats)
        return seconds, {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}

    @contextmanager
    def building(self, dtype: torch.dtype = torch.bfloat16) -> Iterator[None]:
        """Models made in here are on the device, in a precision, with random weights.

        They cost what trained ones do.
        """
        before = torch.get_default_dtype()
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                yield
        finally:
            torch.set_default_dtype(before)


def record(part: str, rows: Rows, out: Path, deadline: float) -> list[Row]:
    """Measures a part, and appends each row to a file as soon as it is there.

    A measurement that fails becomes a row with the error in it, and so does what comes
    after the deadline; the next one is taken in either case.

    Args:
        part: Its name.
        rows: What it measures.
        out: A file of JSON lines.
        deadline: When to begin nothing more, as `time.time` counts.
    """
    found: list[Row] = []

    def write(name: str, row: Row) -> None:
        found.append({"part": part, "name": name, **row})
        with out.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")

    while True:
        try:
            name, run = next(rows)
        except StopIteration:
            return found
        except Exception as error:
            write("(the rest of this part)", _failed(error))
            return found
        if time.time() > deadline:
            write(name, {"left_out": "the time was over"})
            continue
        begin = time.time()
        try:
            row = run()
        except Exception as error:
            row = _failed(error)
        write(name, {**row, "took_s": round(time.time() - begin, 2)})
        # What failed for want of memory must not fail the next one.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _failed(error: Exception) -> Row:
    return {"error": f"{type(error).__name__}: {error}"[:500]}
