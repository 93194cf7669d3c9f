"""A served reward against a model in each worker: steps a second, and memory.

    python -m benchmarks.serving --reward video --goal metaworld/coffee-button
    python -m benchmarks.serving --rllib --steps 64 --turns 3

Workers play an environment that costs next to nothing under the reward. They are
measured by turns, with a model of their own and with the served one, in one run, so
that the ratio holds on a busy machine too. With ``--rllib`` they are the env runners of
RLlib's PPO with an environment each, and its updates are in the time. Memory is what
each process has for itself (unique set size). Needs the extra ray.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import ray

from benchmarks.ray_cluster import small_cluster
from genreward_wrappers import RewardModelWrapper, load_goal
from genreward_wrappers.rewards.facts import Facts
from genreward_wrappers.rewards.served.deployment import deploy, withdraw
from genreward_wrappers.rewards.spec import RewardSpec
from genreward_wrappers.testing import PointMass

HORIZON = 128
SERVED = "ray:bench"


@ray.remote(num_cpus=0)
class Worker:
    """Plays environments under a reward."""

    def __init__(self, reward: Any, envs: int) -> None:
        """Makes them.

        Args:
            reward: What pays.
            envs: How many environments it steps together.
        """
        from gymnasium.vector import SyncVectorEnv

        from genreward_wrappers import vector

        self.envs = vector.RewardModelWrapper(
            SyncVectorEnv([lambda: PointMass(horizon=HORIZON)] * envs),
            reward,
            horizon=HORIZON,
            other_task=True,
        )
        self.envs.reset(seed=0)

    def play(self, steps: int) -> None:
        """Steps all of them so often."""
        actions = np.zeros(self.envs.action_space.shape, np.float32)
        for _ in range(steps):
            self.envs.step(actions)

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()


class Workers:
    """Several workers that play at the same time."""

    def __init__(self, reward: Any, workers: int, envs: int) -> None:
        self._all = [Worker.remote(reward, envs) for _ in range(workers)]

    def play(self, steps: int) -> None:
        """Steps the environments of each so often."""
        ray.get([one.play.remote(steps) for one in self._all])

    def pids(self) -> list[int]:
        """Of their processes."""
        found: list[int] = ray.get([one.pid.remote() for one in self._all])
        return found

    def stop(self) -> None:
        """Ends their processes."""
        for one in self._all:
            ray.kill(one)


def states(reward: Any, _: Any) -> gym.Env[Any, Any]:
    """The same environment on states, as an env runner makes it."""
    return RewardModelWrapper(
        PointMass(obs="state", horizon=HORIZON, render_mode="rgb_array"),
        reward,
        frames="render",
        horizon=HORIZON,
        other_task=True,
    )


class Runners:
    """PPO of RLlib, whose env runners play at the same time."""

    def __init__(self, reward: Any, runners: int, envs: int, steps: int) -> None:
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.tune.registry import register_env

        name = f"paid by {reward}"
        register_env(name, partial(states, reward))
        batch = runners * envs * steps
        self._algorithm = (
            PPOConfig()
            .environment(name, disable_env_checking=True)
            .env_runners(
                num_env_runners=runners,
                num_envs_per_env_runner=envs,
                num_cpus_per_env_runner=0,
            )
            .learners(num_learners=0)
            .training(
                train_batch_size_per_learner=batch,
                minibatch_size=min(64, batch),
                num_epochs=2,
            )
            .debugging(log_level="ERROR")
            .build_algo()
        )

    def play(self, _: int) -> None:
        """Collects a batch of so many steps an environment, and learns from it."""
        self._algorithm.train()

    def pids(self) -> list[int]:
        """Of the runners' processes."""
        group = self._algorithm.env_runner_group
        found: list[int] = group.foreach_env_runner(
            lambda _: os.getpid(), local_env_runner=False
        )
        return found

    def stop(self) -> None:
        """Ends their processes."""
        self._algorithm.stop()


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
    made: Any = partial(Runners, steps=args.steps) if args.rllib else Workers
    alone = {**RewardSpec.parse(args.reward).as_mapping(), "goal": args.goal}
    kinds = {"local": made(alone, workers, envs), SERVED: made(SERVED, workers, envs)}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(args.turns + 1):
        for kind, members in kinds.items():
            begun = time.perf_counter()
            members.play(args.steps)
            seconds = time.perf_counter() - begun
            if turn:  # the first one warms up
                rates[kind].append(workers * envs * args.steps / seconds)
    local, served = (float(np.median(found)) for found in rates.values())
    memory = [float(np.mean([*map(own, one.pids())])) for one in kinds.values()]
    print(
        f"| {workers} | {envs} | {local:.1f} | {served:.1f} | {served / local:.2f} | "
        f"{memory[0]:.0f} | {memory[1]:.0f} | {sum(map(own, replicas())):.0f} |",
        flush=True,
    )
    for members in kinds.values():
        members.stop()


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reward", default="video")
    parser.add_argument("--goal", default="metaworld/coffee-button")
    parser.add_argument("--rllib", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args(argv)
    facts = Facts(horizon=HORIZON, goal=load_goal(args.goal))
    print(
        "| workers | environments each | steps/s, a model each | served | ratio | "
        "MB a worker, a model each | served | MB of the replica |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    with small_cluster():
        spec = RewardSpec.parse(args.reward)
        deploy(spec, facts, "bench", batch=args.batch, cpus=1)
        for workers, envs in product(args.workers, args.envs):
            measure(args, workers, envs)
        withdraw("bench")


if __name__ == "__main__":
    main()
