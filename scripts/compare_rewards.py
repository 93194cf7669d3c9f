r"""Holds rewards against each other on the embedded Meta-World tasks.

    python scripts/compare_rewards.py --work runs/compare
    python scripts/compare_rewards.py --work runs/recorded --goals runs/goals \
        --named recorded --rewards video frame
    python scripts/compare_rewards.py --table

Each task is one call of `genreward evaluate`; the same test episodes for all rewards.
VLM-RM and LIV read the task's sentence by the small CLIP that comes with the package.
Lines go to benchmarks/results/compare.jsonl; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.envs.stages import sentences
from genreward_wrappers.goals import embedded_goals

RESULTS = Path(__file__).parents[1] / "benchmarks/results/compare.jsonl"
CLIP = "encoder='embedded:clip-64'"
FIGURES = ("auc_mean", "auc_final", "near_auc_mean", "voc_spearman", "rank_tau_b")
TASKS = [env_id for env_id in embedded_goals() if env_id.startswith("metaworld/")]


def specs(env_id: str) -> dict[str, str]:
    """The rewards by short names, as the command line takes them."""
    begins, *_, ends = sentences(env_id)
    return {
        "video": "video",
        "frame": "frame",
        "generated": "generated",
        "vlm-rm": f"vlm-rm:{CLIP},prompt='{ends}',baseline='{begins}'",
        "liv": f"liv:{CLIP},prompt='{ends}'",
        "env": "env",
    }


def evaluate(env_id: str, names: list[str], goal: Path | None, work: Path) -> dict:
    """The report of one task."""
    folder = work / env_id.replace("/", "--")
    command = [sys.executable, "-m", "genreward_wrappers", "evaluate"]
    command += ["--env", env_id, "--output", str(folder)]
    known = specs(env_id)
    for name in names:
        command += ["--reward", known[name]]
    if goal is not None:
        command += ["--goal", str(goal)]
    subprocess.run(command, check=True)
    return dict(json.loads((folder / "report.json").read_text()))


def rows(report: dict, names: list[str], env_id: str, named: str) -> list[dict]:
    """One line a reward and control."""
    known = {spec: name for name, spec in specs(env_id).items() if name in names}
    found = []
    for name, metrics in report["metrics"].items():
        figures = {key: (metrics.get(key) or {}).get("value") for key in FIGURES}
        short = known.get(name, name)
        found.append({"task": env_id, "goals": named, "reward": short, **figures})
    return found


def results() -> list[dict[str, Any]]:
    """All that has been run."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def table(figure: str) -> str:
    """A figure for every task and reward, and its mean."""
    cells: dict[str, dict[str, float | None]] = defaultdict(dict)
    columns: dict[str, None] = {}
    for row in results():
        name = f"{row['reward']}, {row['goals']}"
        if row["reward"] in ("env", "vlm-rm", "liv", "generated"):
            # Those look at no bundle's videos.
            name = row["reward"]
        columns[name] = None
        cells[row["task"]][name] = row[figure]
    lines = [
        "| task | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for task in TASKS:
        shown = [cells[task].get(name) for name in columns]
        parts = ["-" if v is None else f"{v:.2f}" for v in shown]
        lines.append(f"| {task.partition('/')[2]} | " + " | ".join(parts) + " |")
    means = []
    for name in columns:
        of = [v for t in TASKS if (v := cells[t].get(name)) is not None]
        means.append(f"{np.mean(of):.2f}" if len(of) == len(TASKS) else "-")
    return "\n".join([*lines, "| **mean** | " + " | ".join(means) + " |"])


def main() -> None:
    """Evaluates what is missing, or prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--goals", type=Path, help="a folder; the embedded otherwise")
    parser.add_argument("--named", default="generated", help="what the goals are")
    parser.add_argument("--rewards", nargs="+", default=[*specs(TASKS[0])])
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        for figure in FIGURES[:4]:
            print(f"\n{figure}\n\n{table(figure)}")
        return
    for env_id in args.tasks:
        there = [(row["task"], row["goals"]) for row in results()]
        if (env_id, args.named) in there:
            continue
        goal = args.goals and args.goals / f"{env_id.replace('/', '--')}.safetensors"
        report = evaluate(env_id, args.rewards, goal, args.work)
        with RESULTS.open("a") as file:
            for row in rows(report, args.rewards, env_id, args.named):
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
