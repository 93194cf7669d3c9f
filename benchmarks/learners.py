"""Which off-policy agent should judge rewards? Several, with the same settings.

    python -m benchmarks.learners
    python -m benchmarks.learners --agent sbx:CrossQ --task window-open --steps 20000

Two tasks that the learning benchmark does not use, under the hand-written dense reward
and under goals that the embedded generator makes for them (the default score on pooled
pixels). Every agent has the settings of `evaluate.learn.Learner`, as far as it takes
them. Each run is a line of the table; a line of JSON goes to ``--results``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.evaluate.learn.episodes import Episodes, make_env
from genreward_wrappers.evaluate.learn.learner import Learner
from genreward_wrappers.evaluate.learn.runs import Run
from genreward_wrappers.generators.episode_settings import EMBEDDED, GeneratedGoals

RESULTS = Path(__file__).parent / "results/learners.jsonl"
AGENTS = ("sbx:SAC", "sbx:TQC", "sbx:CrossQ", "sb3:SAC")
REWARDS = ("env", "pixels")
#: The tasks, and what the generator calls them.
TASKS = {
    "window-open": "a robot arm slides the window open",
    "button-press-topdown": "a robot arm presses the button down from above",
}
#: Goals of a task, and the seed of the first one's first frame.
GOALS, FIRST = 8, 2_500_000
#: Episodes that a success rate is the mean of.
LAST = 20


def make_goal(task: str, folder: Path) -> Path:
    """A bundle of generated goals, made once."""
    path = folder / f"{task}.safetensors"
    if path.is_file():
        return path
    env_id = f"metaworld/{task}"
    env = gym.make(f"genreward_wrappers:{env_id}", render_mode="rgb_array")
    first = []
    for index in range(GOALS):
        env.reset(seed=FIRST + index)
        first.append(env.render())
    env.close()
    goals = GeneratedGoals(prompt=TASKS[task], cache="").maker(env_id)
    videos = np.concatenate([made.videos for made in goals(np.stack(first))])
    bundle = GoalBundle(videos, env_id=env_id, prompt=TASKS[task], generator=EMBEDDED)
    folder.mkdir(parents=True, exist_ok=True)
    bundle.save(path)
    return path


def make_agent(name: str, env: Any, seed: int, steps: int, learner: Learner) -> Any:
    """An untrained agent; what it does not take of the settings is its default."""
    library, _, kind = name.partition(":")
    if library == "sbx":
        import sbx as agents
    else:
        import stable_baselines3 as agents
    torch.set_num_threads(1)
    options = learner.options(steps)
    if library == "sb3":
        # Its agents have one rate: the critic's, which decides.
        options["learning_rate"] = options.pop("qf_learning_rate")
    return getattr(agents, kind)("MlpPolicy", env, seed=seed, **options)


def rates(success: list[bool], points: int = 4) -> Iterator[float]:
    """The success of the last episodes at some points of a run."""
    for end in np.linspace(0, len(success), points + 1)[1:].astype(int):
        yield float(np.mean(success[max(0, end - LAST) : end]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--agent", choices=AGENTS, action="append")
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--reward", choices=REWARDS, action="append")
    parser.add_argument("--steps", type=int, default=12_800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/learners"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    print("| task | reward | agent | success at four points | decisions a CPU second |")
    print("|---|---|---|---|---|")
    for task in args.task or TASKS:
        goal = str(make_goal(task, args.folder))
        for reward in args.reward or REWARDS:
            for name in args.agent or AGENTS:
                run = Run(f"metaworld/{task}", reward, args.seed, goal)
                env = Episodes(make_env(run), args.seed)
                agent = make_agent(name, env, args.seed, args.steps, run.learner)
                begun = time.process_time()
                agent.learn(args.steps)
                pace = args.steps / (time.process_time() - begun)
                env.close()
                curve = [round(rate, 2) for rate in rates(env.success)]
                line = {
                    "task": task,
                    "reward": reward,
                    "agent": name,
                    "seed": args.seed,
                    "steps": args.steps,
                    "success": curve,
                    "decisions_a_second": round(pace, 1),
                }
                with args.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(
                    f"| {task} | {reward} | {name} | "
                    f"{', '.join(f'{rate:.2f}' for rate in curve)} | {pace:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
