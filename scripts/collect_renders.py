"""Collects Meta-World videos to train a video VAE on.

Writes one safetensors file: ``frames`` (episodes, time, height, width, 3) uint8,
``task`` and ``policy`` (episodes,) indices into the lists in the metadata, ``success``
(episodes,) whether the task was ever solved, ``seed`` (episodes,). A third of the
episodes follows the scripted policy, a third the same with noise, a third none at all:
an encoder that has only seen success cannot tell a failure apart.

    python scripts/collect_renders.py renders.safetensors --episodes 12
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from genreward_wrappers.envs.metaworld import MetaWorldEnv, scripted_policy

TASKS = (
    "pick-place",
    "bin-picking",
    "pick-out-of-hole",
    "shelf-place",
    "disassemble",
    "reach",
    "drawer-close",
    "handle-press",
    "door-open",
    "coffee-button",
    "push",
    "button-press-topdown",
    "window-open",
    "drawer-open",
    "plate-slide",
)
POLICIES = ("scripted", "noisy", "random")

# Far from the small numbers that people take for training and testing: an encoder
# should not have seen the very episodes it is judged on.
FIRST_SEED = 1_000_000


class Job(NamedTuple):
    """One episode to record."""

    task: int
    policy: int
    seed: int
    size: int
    length: int
    action_repeat: int


class Episode(NamedTuple):
    """What came of a `Job`."""

    job: Job
    frames: NDArray[np.uint8]
    success: bool


@functools.lru_cache(maxsize=1)
def _env(task: str, size: int, action_repeat: int) -> MetaWorldEnv:
    return MetaWorldEnv(task, obs="dict", size=size, action_repeat=action_repeat)


def record(job: Job) -> Episode:
    """Plays one episode."""
    task = TASKS[job.task]
    env = _env(task, job.size, job.action_repeat)
    expert = scripted_policy(task)
    rng = np.random.default_rng(job.seed)
    # Noise that goes on for a while: independent noise averages out to a twitch.
    noise = np.zeros(4)
    scale = {"scripted": 0.0, "noisy": rng.uniform(0.3, 1.5), "random": 1.5}
    observation, _ = env.reset(seed=job.seed)
    frames, success = [observation["pixels"]], False
    for _ in range(job.length - 1):
        noise = 0.9 * noise + 0.44 * rng.normal(size=4)
        action = scale[POLICIES[job.policy]] * noise
        if POLICIES[job.policy] != "random":
            action += expert(observation["state"])
        observation, _, _, _, info = env.step(action)
        frames.append(observation["pixels"])
        success |= info["is_success"]
    return Episode(job, np.stack(frames), success)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="the safetensors file to write")
    parser.add_argument("--episodes", type=int, default=12, help="a task")
    parser.add_argument("--length", type=int, default=129, help="frames an episode")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--action-repeat", type=int, default=2)
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="the first one")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(argv)

    jobs = [
        Job(
            task=task,
            policy=episode % len(POLICIES),
            seed=args.seed + task * args.episodes + episode,
            size=args.size,
            length=args.length,
            action_repeat=args.action_repeat,
        )
        for task in range(len(TASKS))
        for episode in range(args.episodes)
    ]
    # Not fork: a forked child cannot use its parent's GL display.
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        episodes = []
        started = time.monotonic()
        for episode in pool.imap(record, jobs):
            episodes.append(episode)
            rate = len(episodes) / (time.monotonic() - started)
            sys.stderr.write(
                f"\r{len(episodes)}/{len(jobs)} episodes, {rate:.2f} a second, "
                f"{(len(jobs) - len(episodes)) / rate:.0f} s to go  "
            )
            sys.stderr.flush()
        sys.stderr.write("\n")

    done = [episode.job for episode in episodes]
    tensors = {
        "frames": np.stack([episode.frames for episode in episodes]),
        "task": np.array([job.task for job in done], np.int64),
        "policy": np.array([job.policy for job in done], np.int64),
        "success": np.array([episode.success for episode in episodes]),
        "seed": np.array([job.seed for job in done], np.int64),
    }
    description = {
        "tasks": TASKS,
        "policies": POLICIES,
        "first_seed": args.seed,
        "last_seed": jobs[-1].seed,
        "action_repeat": args.action_repeat,
        "camera": "corner2",
        "render_quality": "fast",
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_suffix(".part")
    save_file(tensors, unfinished, {"renders": json.dumps(description, sort_keys=True)})
    os.replace(unfinished, args.output)
    for task, name in enumerate(TASKS):
        rows = tensors["task"] == task
        rates = [
            f"{policy} {tensors['success'][rows & (tensors['policy'] == p)].mean():.2f}"
            for p, policy in enumerate(POLICIES)
        ]
        sys.stderr.write(f"{name:22s} success: {', '.join(rates)}\n")


if __name__ == "__main__":
    main()
