"""The memory that a step of ours and of the others' rewards takes.

    python -m benchmarks.peers_memory
    python -m benchmarks.peers_memory --only vlm-rm --counts 1 8

Each side of each of the pairs of `benchmarks.peers` runs in a process of its own, once
for every N, on Linux. In it

- the models are built, one step of two environments is scored, so that libraries and
  kernels are in memory, and what that freed goes back to the system;
- the system's mark of the highest resident size is put back to the present size;
- two steps of N environments are scored, ours with the beginning of their episodes.

What the mark has risen by then is the working memory: what a side allocates in passing,
and what it remembers from step to step. Not in it are the models, which are the same
for both, and the frames, which are given; theirs has to keep a window of them.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.overhead import table
from benchmarks.peers import COUNTS, PAIRS, film_of

SIDES = ("theirs", "ours")
MODULE = "benchmarks.peers_memory"
#: The exit status of a process that lacks a package, whose name it prints.
NOT_INSTALLED = 3
#: A process that has imported torch and nothing else.
BARE = """import torch
for line in open("/proc/self/status"):
    if line.startswith("VmRSS"):
        print(int(line.split()[1]) / 1024)"""


def status(field: str) -> float:
    """MiB of a field of this process's status, such as the resident size, VmRSS."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise ValueError(f"the status of a process has no field {field!r}")


def settle() -> float:
    """Gives back what is free, and lowers the peak to the resident size: that, MiB."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def working(name: str, side: str, count: int) -> tuple[float, float]:
    """MiB resident before the steps of this process, and what they add at most."""
    import torch

    torch.set_num_threads(1)
    run = getattr(PAIRS[name](), side)
    run(film_of(2))
    film = film_of(count)
    before = settle()
    for _ in range(2):
        run(film)
    return before, status("VmHWM") - before


def apart(*arguments: str) -> list[float]:
    """The numbers that a Python process with these arguments prints.

    Raises:
        ImportError: A package is not installed there.
        RuntimeError: The process failed, with what it wrote.
    """
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    if done.returncode == NOT_INSTALLED:
        raise ImportError(done.stderr, name=done.stdout.strip())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return [float(number) for number in done.stdout.split()]


def memory_table(names: list[str], counts: Sequence[int] = COUNTS) -> str:
    """The table; what is not installed says so."""
    (bare,) = apart("-c", BARE)
    rows = []
    for name in names:
        for count in counts:
            try:
                theirs, ours = (
                    apart("-m", MODULE, "--side", name, side, str(count))
                    for side in SIDES
                )
            except ImportError as error:
                rows.append([name, "", f"{error.name} is not installed", "", "", ""])
                break
            models = f"{max(theirs[0], ours[0]) - bare:.0f}"
            cells = [f"{theirs[1]:.1f}", f"{ours[1]:.1f}"]
            ratio = f"{theirs[1] / max(ours[1], 0.1):.1f}x"
            rows.append([name, str(count), models, *cells, ratio])
    head = ["peer", "N", "models and libraries", "theirs, a step", "ours", "ratio"]
    title = "Peers, memory in MiB: what both hold, and what a step adds at most"
    return table(title, head, rows)


def main() -> None:
    """Prints the table, or what one process of it is to find out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        name, side, count = args.side
        try:
            print(*working(name, side, int(count)))
        except ImportError as error:
            print(error.name)
            raise SystemExit(NOT_INSTALLED) from error
    else:
        memory_table(args.only, args.counts)


if __name__ == "__main__":
    main()
