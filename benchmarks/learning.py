"""What an optimiser finds: short training runs on one reward alone.

    python -m benchmarks.learning --task drawer-close --reward tracking --seed 0
    python -m benchmarks.learning --table runs/learning.jsonl

A score that separates recorded episodes can still be farmed, so defaults are settled by
runs like these: soft actor-critic on state observations and the place in the clip,
rewarded by the reward under test and nothing else. Each run appends one line of JSON
with its success rate along the way; ``--table`` prints all lines of a file as a table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

#: The rewards that can be tried, as arguments of `VideoLevelReward`; None: the
#: environment's own, which is the ceiling (dense) or the floor (sparse).
REWARDS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "sparse": None,
    "tracking": {},
    "tracking-pixels": {"encoder": "pixels"},
    "tracking-c0.5": {"contrast": 0.5},
    "tracking-c2": {"contrast": 2.0},
    "tracking-c4": {"contrast": 4.0},
    "tracking-pixels-c0.5": {"encoder": "pixels", "contrast": 0.5},
    "tracking-pixels-c2": {"encoder": "pixels", "contrast": 2.0},
    "tracking-pixels-c4": {"encoder": "pixels", "contrast": 4.0},
    "tracking-difference": {"payment": "difference"},
    "tracking-pixels-difference": {"encoder": "pixels", "payment": "difference"},
    "tracking-mean": {"goals": "mean"},
    "tracking-max": {"goals": "max"},
    "tracking-17": {"length": 17, "payment": "hold"},
    "stream": {"reading": "stream", "payment": "hold"},
    "stream-c2": {"reading": "stream", "payment": "hold", "contrast": 2.0},
    "stream-level": {"reading": "stream"},
    "motion": {"score": "motion"},
    "motion-pixels": {"score": "motion", "encoder": "pixels"},
    "last-change": {"score": "last_change"},
    "cosine": {"score": "cosine"},
    "centred": {"score": "centred"},
    "paper": {"preset": "paper", "window": 64, "every": 64, "weight": 1.0},
}
EVERY = 5_000
EPISODES = 40


def make_env(task: str, reward: str, goal: str | None) -> Any:
    """The environment under one reward; action repeat 2, 128 steps an episode."""
    import gymnasium as gym

    from genreward_wrappers import VideoLevelReward

    options = REWARDS[reward]
    env = gym.make(
        f"metaworld/{task}",
        obs="state",
        action_repeat=2,
        max_episode_steps=128,
        reward="sparse" if reward == "sparse" else "dense",
        render_mode=None if options is None else "rgb_array",
    )
    if options is not None:
        return VideoLevelReward(env, goal, observe="progress", **options)
    # The same observation for all, so that only the reward differs.
    return gym.wrappers.TimeAwareObservation(env, normalize_time=True)


def run(task: str, reward: str, seed: int, steps: int, goal: str | None) -> dict:
    """Trains once and gives the success rates along the way."""
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)

    class Log(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.success, self.returns = [], []
            self.now, self.earned = False, 0.0
            self.curve: dict[int, tuple[float, float]] = {}

        def _on_step(self) -> bool:
            self.now |= bool(self.locals["infos"][0]["is_success"])
            self.earned += float(self.locals["rewards"][0])
            if self.locals["dones"][0]:
                self.success.append(self.now)
                self.returns.append(self.earned)
                self.now, self.earned = False, 0.0
            if self.num_timesteps % EVERY == 0:
                last = slice(-EPISODES, None)
                self.curve[self.num_timesteps] = (
                    float(np.mean(self.success[last])),
                    float(np.mean(self.returns[last])),
                )
            return True

    env = make_env(task, reward, goal)
    log, begin = Log(), time.perf_counter()
    SAC("MlpPolicy", env, seed=seed, device="cpu", learning_starts=1_000).learn(
        steps, callback=log
    )
    env.close()
    return {
        "task": task,
        "reward": reward,
        "seed": seed,
        "success": {step: rate for step, (rate, _) in log.curve.items()},
        "return": {step: total for step, (_, total) in log.curve.items()},
        "minutes": round((time.perf_counter() - begin) / 60, 1),
    }


def table(path: Path) -> str:
    """All runs of a file, a row for each task and reward, averaged over seeds."""
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    cells: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for one in runs:
        cells[one["task"], one["reward"]].append(one["success"])
    steps = sorted({int(s) for one in runs for s in one["success"]})
    head = ["task", "reward", "seeds", *(f"{s // 1000}k" for s in steps)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (task, reward), curves in sorted(cells.items()):
        rates = []
        for step in steps:
            known = [c[str(step)] for c in curves if str(step) in c]
            rates.append(f"{np.mean(known):.2f}" if known else "")
        lines.append("| " + " | ".join([task, reward, str(len(curves)), *rates]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs once, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", default="drawer-close")
    parser.add_argument("--reward", choices=sorted(REWARDS), default="tracking")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25_000)
    parser.add_argument("--goal", help="a goal bundle; the embedded one if not given")
    parser.add_argument("--output", type=Path, default=Path("runs/learning.jsonl"))
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    result = run(args.task, args.reward, args.seed, args.steps, args.goal)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
