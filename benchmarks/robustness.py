"""What damage, lies and kills do to this package.

    python -m benchmarks.robustness --mutants 200000 --seconds 900 --kills 100

Three parts. Mutants: files of every kind are damaged, or changed by somebody who signs
what he changed, and read; a damaged one must be refused or be as before, a signed one
may say something else, and both give no other error than those that are documented.
Kills: long commands are ended with SIGKILL; see `benchmarks.robust.kills`. Soak: each
host takes steps, and its memory must stay flat.

Mutants are read in processes of their own, so that the end of an interpreter is a
count, too. What was found is printed, and mutants that found it are kept. The counts
are also written to results/robustness.json, each part in the place of its last run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

# Nothing is fetched, whatever a file names.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.overhead import table

#: Mutants that a process reads before the next one takes over.
BATCH = 25_000
WRONG = ("changed", "leaked", "hung", "crashed")

RESULTS = Path(__file__).parent / "results" / "robustness.json"


def mutate(
    total: int, folder: Path, seed: int, until: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Reads mutants of every kind.

    Returns:
        The rows of a table, and what was found.
    """
    from benchmarks.robust.kinds import KINDS

    weights = {name: kind.weight for name, kind in KINDS.items()}
    rows, found = [], []
    share = sum(weights.values())
    for name, weight in weights.items():
        count = round(total * weight / share)
        # What one kind leaves of its time the next ones have.
        now = time.time()
        end = now + (until - now) * weight / share
        share -= weight
        total -= count
        ended: Counter[str] = Counter()
        peak, begun = 0.0, now
        for part, done in enumerate(range(0, count, BATCH)):
            size = min(BATCH, count - done)
            try:
                one, said, more = _alone(name, seed + part, size, folder, end)
            except BrokenProcessPool:
                ended["crashed"] += 1
                found.append(f"{name}, seed {seed + part}: the interpreter died")
                continue
            ended += one
            found += said
            peak = max(peak, more)
        read = sum(ended.values())
        wrong = sum(ended[each] for each in WRONG)
        pace = (time.time() - begun) / max(read, 1) * 1000
        told = {each: ended[each] for each in ("refused", "unchanged", "signed")}
        rows.append(
            {"file": name, "mutants": read, **told, "wrong": wrong,
             "peak MiB": round(peak), "ms each": round(pace, 1)}
        )  # fmt: skip
        print(f"{name}: {read} mutants, {wrong} wrong", file=sys.stderr, flush=True)
    return rows, found


def _alone(
    name: str, seed: int, count: int, folder: Path, until: float
) -> tuple[Counter[str], list[str], float]:
    from benchmarks.robust.mutants import attack

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(attack, name, seed, count, folder, until).result()


def main() -> int:
    """Prints three tables; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--soak", type=int, default=20_000, metavar="STEPS")
    parser.add_argument(
        "--seconds", type=float, default=300, help="that mutants may take, and kills"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for files; a temporary one")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="robustness-"))
    wrong: list[str] = []
    if args.mutants:
        until = time.time() + args.seconds
        rows, found = mutate(args.mutants, folder / "mutants", args.seed, until)
        total = sum(row["mutants"] for row in rows)
        _tell(args.results, f"{total} mutants, seed {args.seed}", "mutants", rows)
        wrong += found
    if args.kills:
        from benchmarks.robust.kills import torture

        until = time.time() + args.seconds
        killed, found = torture(args.kills, folder / "kills", args.seed, until)
        rows = [{"command": name, "kills": times} for name, times in killed.items()]
        said = f"{sum(killed.values())} kills, after which {len(found)} were wrong"
        _tell(args.results, said, "kills", rows)
        wrong += found
    if args.soak:
        from benchmarks.robust.soak import soak

        _tell(args.results, "Soak", "soak", list(soak(args.soak)))
    for said in wrong:
        print(said)
    return 1 if wrong else 0


def _tell(path: Path, title: str, part: str, rows: list[dict[str, Any]]) -> None:
    """Prints a table, and keeps it."""
    cells = [[str(value) for value in row.values()] for row in rows]
    table(title, list(rows[0]) if rows else [], cells)
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[part] = {"title": title, "rows": rows}
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
