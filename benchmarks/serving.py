"""A served reward against a model in each worker: steps a second, and memory.

    python -m benchmarks.serving --reward video --goal metaworld/coffee-button

Workers play an environment that costs next to nothing under the reward. They are
measured by turns, with a model of their own and with the served one, in one run, so
that the ratio holds on a busy machine too. Memory is what each process has for itself
(unique set size). Needs the extra ray.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from typing import Any

import numpy as np
import psutil
import ray

from genreward_wrappers import load_goal
from genreward_wrappers.rewards.facts import Facts
from genreward_wrappers.rewards.served.deployment import deploy, withdraw
from genreward_wrappers.rewards.spec import RewardSpec
from genreward_wrappers.testing import PointMass

HORIZON = 128


@ray.remote(num_cpus=0)
class Worker:
    """Plays environments under a reward."""

    def __init__(self, reward: str, goal: str, envs: int) -> None:
        """Makes them.

        Args:
            reward: What pays.
            goal: The goal of a local model; empty where it is served.
            envs: How many environments it steps together.
        """
        from gymnasium.vector import SyncVectorEnv

        from genreward_wrappers import vector

        spec = RewardSpec.parse(reward).as_mapping()
        if goal:
            spec["goal"] = goal
        self.envs = vector.RewardModelWrapper(
            SyncVectorEnv([lambda: PointMass(horizon=HORIZON)] * envs),
            spec,
            horizon=HORIZON,
            other_task=True,
        )
        self.envs.reset(seed=0)

    def play(self, steps: int) -> float:
        """Seconds of so many steps."""
        actions = np.zeros(self.envs.action_space.shape, np.float32)
        begun = time.perf_counter()
        for _ in range(steps):
            self.envs.step(actions)
        return time.perf_counter() - begun

    def pid(self) -> int:
        """Of its process."""
        import os

        return os.getpid()


def own(pid: int) -> float:
    """MB that a process has for itself."""
    return float(psutil.Process(pid).memory_full_info().uss) / 2**20


def replicas() -> list[int]:
    """The processes of the served reward."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "ServeReplica" in " ".join(process.info["cmdline"] or ())
    ]


def measure(args: argparse.Namespace, workers: int, envs: int) -> None:
    """Prints a row of the table."""
    kinds: dict[str, list[Any]] = {
        "a model each": [
            Worker.remote(args.reward, args.goal, envs) for _ in range(workers)
        ],
        "served": [Worker.remote("ray:bench", "", envs) for _ in range(workers)],
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(args.turns + 1):
        for kind, members in kinds.items():
            begun = time.perf_counter()
            ray.get([member.play.remote(args.steps) for member in members])
            seconds = time.perf_counter() - begun
            if turn:  # the first one warms up
                rates[kind].append(workers * envs * args.steps / seconds)
    memory = {
        kind: [own(pid) for pid in ray.get([m.pid.remote() for m in members])]
        for kind, members in kinds.items()
    }
    served, local = (float(np.median(rates[k])) for k in ("served", "a model each"))
    print(
        f"| {workers} | {envs} | {local:.0f} | {served:.0f} | {served / local:.2f} | "
        f"{np.mean(memory['a model each']):.0f} | {np.mean(memory['served']):.0f} | "
        f"{sum(map(own, replicas())):.0f} |",
        flush=True,
    )
    for members in kinds.values():
        for member in members:
            ray.kill(member)


def main() -> None:
    """Measures, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reward", default="video")
    parser.add_argument("--goal", default="metaworld/coffee-button")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args()
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="error",
    )
    facts = Facts(horizon=HORIZON, goal=load_goal(args.goal))
    spec = RewardSpec.parse(args.reward)
    deploy(spec, facts, "bench", batch=args.batch, cpus=1)
    print(
        "| workers | environments each | steps/s, a model each | served | ratio | "
        "MB a worker, a model each | served | MB of the replica |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for workers, envs in product(args.workers, args.envs):
        measure(args, workers, envs)
    withdraw("bench")
    ray.shutdown()


if __name__ == "__main__":
    main()
