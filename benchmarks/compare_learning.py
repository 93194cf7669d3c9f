"""Which of the compared rewards teaches? Each is paid to an agent, and nothing else is.

    python -m benchmarks.compare_learning
    python -m benchmarks.compare_learning --task coffee-button --reward vlm-rm --seed 1
    python -m benchmarks.compare_learning --table

The rewards, their small models and their sentences are those of `benchmarks.compare`;
the tasks, the agent and the budget are those on which the default reward learns (see
`benchmarks.learning`). Rewards come on scales of their own, VIPER's in hundreds, and
the agent's settings suit the default's: so each, the default too, is brought to zero
mean and the default's spread by what random episodes are paid. A finished run is a line
of ``results/compare_learning.jsonl`` and is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.compare import results, specs
from benchmarks.learning import EVERY, over
from benchmarks.learning_report import decisions_to, final
from genreward_wrappers.evaluate.learn.episodes import Episodes, make_env
from genreward_wrappers.evaluate.learn.runs import HORIZON, Run, outcome

RESULTS = Path(__file__).parent / "results/compare_learning.jsonl"
#: Where the default reward learns on every seed, after 7,680 decisions (the median).
TASKS = ("coffee-button", "handle-press", "drawer-close")
BUDGET = 15_360
#: Random episodes that a reward's scale is measured on, and the default's own spread.
RANDOM, SPREAD = 10, 0.2


def rewards(task: str) -> dict[str, str]:
    """The rewards under test, as learning runs take them."""
    # Those of one frame are paid at every decision, as the video-level reward is.
    known = specs(f"metaworld/{task}", HORIZON, every_frame=("vlm-rm", "liv"))
    left_out = ("generated", "tadpole")
    told = {name: spec for name, spec in known.items() if name not in left_out}
    return {**told, "video + frame": "genreward"}


class Scaled(gym.RewardWrapper):
    """Pays zero on average, with the default's spread, for acting at random."""

    def __init__(self, env: Episodes) -> None:
        super().__init__(env)
        paid = []
        env.action_space.seed(0)
        for index in range(RANDOM):
            # Not the episodes that the agent learns from.
            env.env.reset(seed=index)
            paid += [
                float(env.env.step(env.action_space.sample())[1])
                for _ in range(HORIZON)
            ]
        self.mean, self.scale = float(np.mean(paid)), SPREAD / float(np.std(paid))

    def reward(self, reward: float) -> float:
        """The reward, shifted and scaled."""
        return self.scale * (float(reward) - self.mean)


def train(run: Run, name: str, steps: int) -> dict[str, Any]:
    """One run, until it is solved or has made so many decisions: its line."""
    episodes = Episodes(make_env(run), run.seed)
    try:
        env = Scaled(episodes)
        agent = run.learner.make(env, run.seed, steps)
        # What came before was no part of the run.
        begun = episodes.progress.seconds
        while agent.num_timesteps < steps and not over(episodes.progress):
            stretch = min(EVERY, steps - agent.num_timesteps)
            agent.learn(stretch, reset_num_timesteps=False)
        progress = episodes.progress
    finally:
        episodes.close()
    curve = progress.curve(EVERY)
    return {
        "task": run.env_id.rpartition("/")[2],
        "reward": name,
        "seed": run.seed,
        "decisions": progress.steps,
        "every": EVERY,
        "mean": env.mean,
        "scale": env.scale,
        "success": [round(rate, 4) for rate, _ in curve.values()],
        "return": [round(paid, 4) for _, paid in curve.values()],
        "outcome": outcome(progress)[0],
        "cpu_seconds": round(progress.seconds - begun, 1),
    }


def table() -> str:
    """Success at the end, when it was .8, and what the return did."""
    lines = [
        "| task | reward | seed | success | decisions to .8 | return, first and last |"
        " outcome | decisions a CPU second |",
        "|---" * 8 + "|",
    ]
    order = list(rewards(TASKS[0]))
    for line in sorted(
        results(RESULTS),
        key=lambda line: (
            TASKS.index(line["task"]),
            order.index(line["reward"]),
            line["seed"],
        ),
    ):
        solved = decisions_to(line, 0.8)
        when = f"{solved:,.0f}" if solved < float("inf") else "never"
        first, last = line["return"][0], line["return"][-1]
        pace = line["decisions"] / line["cpu_seconds"]
        lines.append(
            f"| {line['task']} | {line['reward']} | {line['seed']} | {final(line):.2f} "
            f"| {when} | {first:.3g}, {last:.3g} | {line['outcome']} | {pace:.0f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--reward", action="append", choices=list(rewards(TASKS[0])))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=BUDGET)
    parser.add_argument("--table", action="store_true", help="print what is finished")
    args = parser.parse_args(argv)
    if args.table:
        print(table())
        return
    done = {(line["task"], line["reward"], line["seed"]) for line in results(RESULTS)}
    for task in args.task or TASKS:
        known = rewards(task)
        for name in args.reward or known:
            if (task, name, args.seed) in done:
                continue
            run = Run(f"metaworld/{task}", known[name], args.seed)
            line = train(run, name, args.steps)
            print(f"{task} {name} seed {args.seed}: {final(line):.2f}", flush=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
