"""What an optimiser finds: the runs that the defaults were chosen by.

    python -m benchmarks.learning --task drawer-close --reward pixels:contrast=2
    python -m benchmarks.learning --table

A run is one of `genreward evaluate --learn` (`evaluate.learn`): soft actor-critic on
states and the place in the episode, paid by the reward under test and nothing else.
Each appends one line of JSON to the results; ``--table`` prints them as a table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from genreward_wrappers.evaluate.learn.runs import Run, learn

RESULTS = Path(__file__).parent / "results/learning.jsonl"


def run(task: str, reward: str, seed: int, steps: int, goal: str | None) -> dict:
    """Trains, or goes on training, and gives the rates along the way."""
    begin = time.perf_counter()
    progress = learn(
        Run(f"metaworld/{task}", reward, seed, goal), Path("runs/learning"), steps
    )
    curve = progress.curve()
    return {
        "task": task,
        "reward": reward,
        "seed": seed,
        "success": {str(step): rate for step, (rate, _) in curve.items()},
        "return": {str(step): paid for step, (_, paid) in curve.items()},
        "minutes": round((time.perf_counter() - begin) / 60, 1),
    }


def table(path: Path) -> str:
    """All runs of a file, a row for each task and reward.

    Rates are averaged over seeds; the last column has the seeds' own at the end.
    """
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    cells: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for one in runs:
        cells[one["task"], one["reward"]].append(one["success"])
    steps = (5_000, 10_000, 15_000, 20_000)
    head = ["task", "reward", *(f"{s // 1000}k" for s in steps), "each seed at 20k"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (task, reward), curves in sorted(cells.items()):
        rates = [f"{np.mean([c[str(step)] for c in curves]):.2f}" for step in steps]
        each = ", ".join(f"{c['20000']:.2f}" for c in curves)
        lines.append("| " + " | ".join([task, f"`{reward}`", *rates, each]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs once, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", default="drawer-close")
    parser.add_argument("--reward", default="video", help="as for genreward evaluate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--goal", help="a goal bundle; the embedded one if not given")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(args.results))
        return
    result = run(args.task, args.reward, args.seed, args.steps, args.goal)
    with args.results.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
