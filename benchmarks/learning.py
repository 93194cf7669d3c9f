"""Agents that learn from the goal video alone: the proof, and how it is run.

    python -m benchmarks.learning                 # whatever of the plan is not finished
    python -m benchmarks.learning --table         # what is finished, as tables
    python -m benchmarks.learning --plot          # the curves, as a picture
    python -m benchmarks.learning --task door-open --reward video:score=motion --seed 3

A run is one of `genreward evaluate --learn` (`evaluate.learn`): policies on states and
the place in the episode, paid by the reward under test and nothing else, goals from the
embedded generated bundles unless ``--goal`` says otherwise. Each finished run appends
one line of JSON to the results; an unfinished one resumes from its checkpoint. Tables
and picture are made from those lines alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import learning_report
from genreward_wrappers.evaluate.learn.learner import Learner
from genreward_wrappers.evaluate.learn.runs import WINDOW, Progress, Run, outcome
from genreward_wrappers.evaluate.learn.train import learn
from genreward_wrappers.rewards.facts import is_generated
from genreward_wrappers.rewards.spec import RewardSpec

RESULTS = Path(__file__).parent / "results/learning.jsonl"
PICTURE = Path(__file__).parent.parent / "docs/images/learning.png"

#: The proof's tasks, those that its seeds come to first in front.
TASKS = (
    "coffee-button",
    "handle-press",
    "drawer-close",
    "reach",
    "door-open",
    "pick-place",
    "bin-picking",
    "pick-out-of-hole",
    "shelf-place",
    "disassemble",
)
#: The reward under test, and the ceiling that it is compared with.
DEFAULT, CEILING = "video", "env"
#: Seeds of each.
SEEDS = {DEFAULT: 5, CEILING: 3}

#: Decisions of a run, two steps of the environment each.
BUDGET = 100_000
#: A run without a single success is given up here; ``--patient`` takes the first seeds
#: of a task to the whole budget all the same.
HOPELESS = 50_000
PATIENT = 2
#: A run is over once two windows of episodes in a row succeed this often.
SOLVED = 0.95
#: Decisions between two points of a curve: a quarter of a window of episodes.
EVERY = 1_280


def plan() -> Iterator[Run]:
    """The proof's runs in the order in which they are worth most.

    The default on the first seed of every task, between further seeds of the tasks in
    front, whose runs are short; then its other seeds; then the ceiling's.
    """
    easy, hard = TASKS[:3], TASKS[3:]
    further = range(1, SEEDS[DEFAULT])
    short = [(task, seed) for seed in further for task in easy]
    order = [(task, 0) for task in easy]
    for index, task in enumerate(hard):
        order += [(task, 0), *short[2 * index : 2 * index + 2]]
    for tasks in (hard[:2], hard[2:]):
        order += [(task, seed) for seed in further for task in tasks]
    for task, seed in order:
        yield Run(f"metaworld/{task}", DEFAULT, seed)
    for seed in range(SEEDS[CEILING]):
        for task in TASKS:
            yield Run(f"metaworld/{task}", CEILING, seed)


def over(progress: Progress, patient: bool = False) -> str:
    """Why a run is over; empty while it is not."""
    success = progress.success
    last, before = success[-WINDOW:], success[-2 * WINDOW : -WINDOW]
    if len(before) == WINDOW and min(np.mean(last), np.mean(before)) >= SOLVED:
        return "solved"
    if progress.steps >= BUDGET:
        return "budget"
    if not patient and progress.steps >= HOPELESS and not any(success):
        return "no success"
    return ""


def make(
    run: Run, folder: Path, steps: int = BUDGET, patient: bool = False
) -> dict[str, Any]:
    """Trains, or resumes training, until the run is over: its line in the results."""

    def tell(progress: Progress) -> None:
        rate = np.mean(progress.success[-WINDOW:])
        paid = np.mean(progress.returns[-WINDOW:])
        print(
            f"{run.env_id} {run.reward} seed {run.seed}: {progress.steps} decisions, "
            f"success {rate:.2f}, return {paid:.1f}",
            flush=True,
        )

    progress = learn(
        run, folder, steps, tell, lambda progress: bool(over(progress, patient))
    )
    curve = progress.curve(EVERY)
    return {
        "task": run.env_id.rpartition("/")[2],
        "reward": run.reward,
        "seed": run.seed,
        "goal": _named(run),
        "goal_digest": run.goal_digest[:12],
        "learner": run.learner.as_dict(),
        "decisions": progress.steps,
        "over": over(progress, patient) or "budget",
        "outcome": outcome(progress)[0],
        "every": EVERY,
        "success": [round(rate, 4) for rate, _ in curve.values()],
        "return": [round(paid, 3) for _, paid in curve.values()],
        "cpu_seconds": round(progress.seconds, 1),
    }


def is_finished(line: dict[str, Any], steps: int, patient: bool) -> bool:
    """Whether a line of the results leaves nothing to resume."""
    if line["over"] == "no success":
        return not (patient and line["seed"] < PATIENT)
    return line["over"] == "solved" or line["decisions"] >= steps


def planned_key(run: Run) -> tuple[Any, ...]:
    """The key of the line that a run will have."""
    return learning_report.key_of(
        {
            "task": run.env_id.rpartition("/")[2],
            "reward": run.reward,
            "seed": run.seed,
            "goal": _named(run),
            "goal_digest": run.goal_digest[:12],
            "learner": run.learner.as_dict(),
        }
    )


def main() -> None:
    """Runs what the plan still lacks, or one run, or shows what there is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", help="one run instead of the plan's")
    parser.add_argument("--reward", default=DEFAULT, help="as for genreward evaluate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=BUDGET)
    parser.add_argument("--goal", help="a goal bundle; the embedded one if not given")
    parser.add_argument(
        "--learner",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="other settings of the learner, such as n_steps=1",
    )
    parser.add_argument(
        "--patient",
        action="store_true",
        help="resume the first seeds of what was given up without a success",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--plan", action="store_true", help="list what is unfinished")
    args = parser.parse_args()
    lines = learning_report.read(args.results)
    if args.table:
        print(learning_report.table(lines))
        return
    if args.plot:
        learning_report.plot(lines, TASKS, DEFAULT, CEILING, PICTURE)
        return
    runs = list(plan())
    if args.task:
        pairs = (setting.split("=", 1) for setting in args.learner)
        settings = {key: _value(value) for key, value in pairs}
        env_id = f"metaworld/{args.task}"
        learner = Learner(**settings)
        runs = [Run(env_id, args.reward, args.seed, args.goal, learner)]
    finished = {
        learning_report.key_of(line)
        for line in lines
        if is_finished(line, args.steps, args.patient)
    }
    unfinished = [run for run in runs if planned_key(run) not in finished]
    for run in unfinished:
        if args.plan:
            print(run.env_id, run.reward, run.seed)
            continue
        line = make(run, args.folder, args.steps, args.patient)
        with args.results.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _named(run: Run) -> str:
    if run.goal:
        return Path(run.goal).stem
    if is_generated(RewardSpec.parse(run.reward).goal):
        return "own"
    return "none" if run.reward == CEILING else "embedded"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    main()
