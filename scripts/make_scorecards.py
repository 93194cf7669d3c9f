"""Writes docs/scorecards.md: what `genreward evaluate` says of the embedded goals.

    python -m benchmarks.compare --work runs/compare
    python scripts/make_scorecards.py runs/compare

It renders reports that are there, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from genreward_wrappers.data.goals import embedded_goals

PAGE = Path(__file__).parents[1] / "docs/scorecards.md"
#: Of all that was compared: what a goal bundle pays, and what it is compared with.
COLUMNS = ("video", "frame", "env", "pixels", "random")
JUDGED = ("video", "frame")
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
intervals. How the published rewards do on the same episodes: [the
comparison](comparison.md).
"""


def short(text: str) -> str:
    """A text with its hashes cut off after twelve digits."""
    return re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]+", r"\1", text)


def cell(figure: dict | None) -> str:
    """A figure with its interval."""
    if figure is None or figure["value"] is None:
        return "-"
    low, high = figure["low"], figure["high"]
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    return f"{figure['value']:.2f}{interval}"


def card(report: dict) -> str:
    """One goal's part of the page."""
    names = [name for name in COLUMNS if name in report["metrics"]]
    lines = [
        f"\n## {report['facts']['environment']}\n",
        f"{report['facts']['goal']}, {short(report['facts']['goal made by'])}.\n",
    ]
    for verdict in report["verdicts"]:
        if verdict["reward"] in JUDGED:
            lines.append(
                f"**{verdict['reward']}: {verdict['level']}**, {verdict['headline']}.\n"
            )
            # The verdict is the line above; what led to it is there to be opened.
            lines += ["<details>", "<summary>What led to it</summary>", ""]
            lines += [f"- {finding}" for finding in verdict["findings"]]
            lines += ["", "</details>", ""]
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
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reads the report of every embedded goal, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reports", type=Path, help="a folder with one a task")
    args = parser.parse_args()
    parts = [HEAD]
    for env_id in embedded_goals():
        # Nobody plays test episodes of known worth in the others.
        if env_id.startswith("metaworld/"):
            path = args.reports / env_id.replace("/", "--") / "report.json"
            parts.append(card(json.loads(path.read_text())))
    PAGE.write_text("".join(parts))


if __name__ == "__main__":
    main()
