"""Writes docs/scorecards.md: what `genreward evaluate` says of the embedded goals.

    python scripts/make_scorecards.py --learn

The reports are made in a folder of their own and kept, so that learning runs go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from genreward_wrappers.goals import embedded_goals

PAGE = Path(__file__).parents[1] / "docs/scorecards.md"
ROWS = {
    "auc_mean": "AUC, mean score",
    "auc_final": "AUC, final score",
    "near_auc_mean": "AUC against near-misses",
    "shifted_auc": "AUC, camera shifted",
    "brightness_auc": "AUC, brightness changed",
    "voc_spearman": "VOC (Spearman)",
    "rank_tau_b": "Kendall's tau-b",
    "static_place": "pay for standing still",
    "hover_share": "pay for stopping half-way",
    "near_share": "pay for near-misses",
}
HEAD = """\
# Scorecards

What [`genreward evaluate`](evaluate.md) says of the goals that come with the package,
made by `scripts/make_scorecards.py`. Pay for standing still, stopping half-way and
near-misses is on a scale from random failures (0) to successes (1). In brackets: 95 %
intervals.
"""


def cell(figure: dict | None) -> str:
    """A figure with its interval."""
    if figure is None or figure["value"] is None:
        return "-"
    low, high = figure["low"], figure["high"]
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    return f"{figure['value']:.2f}{interval}"


def card(report: dict) -> str:
    """One goal's part of the page."""
    names = [reward["name"] for reward in report["rewards"]]
    lines = [
        f"\n## {report['facts']['environment']}\n",
        f"{report['facts']['goal']}, {report['facts']['goal made by']}.\n",
    ]
    for verdict in report["verdicts"]:
        lines.append(
            f"**{verdict['reward']}: {verdict['level']}**, {verdict['headline']}.\n"
        )
        if verdict["reward"] == "video":
            lines += [f"- {finding}" for finding in verdict["findings"]]
            lines.append("")
    lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for key, title in ROWS.items():
        cells = [cell(report["metrics"][name].get(key)) for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for name, found in report["confusion"].items():
        if name == "video":
            lines.append(
                f"\nAgainst {len(found['tasks']) - 1} other tasks' goals: each task's "
                f"own goal gives most in {found['argmax_accuracy']:.0%} of the tasks, "
                f"{found['diagonal_minus_off']:+.2f} over the others on average."
            )
    if report["learning"]:
        lines.append("\nTraining an agent on one reward alone:\n")
        lines += [
            f"- {run['reward']}, seed {run['seed']}: {run['verdict']}"
            for run in report["learning"]
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Evaluates every embedded goal, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("runs/scorecards"))
    parser.add_argument("--learn", action="store_true", help="20000 steps, one seed")
    args = parser.parse_args()
    parts = [HEAD]
    for env_id in embedded_goals():
        if not env_id.startswith("metaworld/"):
            # Nobody plays test episodes of known worth in the others.
            continue
        folder = args.reports / env_id.replace("/", "--")
        command = [sys.executable, "-m", "genreward_wrappers", "evaluate"]
        command += ["--env", env_id, "--reward", "genreward", "--reward", "env"]
        command += ["--output", str(folder)]
        if args.learn:
            command += ["--learn", "--seeds", "1"]
        subprocess.run(command, check=True)
        parts.append(card(json.loads((folder / "report.json").read_text())))
    PAGE.write_text("".join(parts))


if __name__ == "__main__":
    main()
