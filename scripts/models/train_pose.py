r"""Trains `embedded:pose-64`, which reads the Sawyer arm's hand and gripper.

Two kinds of pictures of the ten tasks with embedded goals, each with the pose that it
shows: what is seen while the arm does all sorts of things (the script, with and without
noise, and random motion from some step on), and the goal videos that the embedded
generator makes of first frames, with the poses of the script in those very episodes.
Where a generated video is blurred, the reader learns the mean pose.

    python scripts/models/train_pose.py runs/pose \
        --output src/genreward_wrappers/assets/pose-64

A generator that was fine-tuned on one task has a reader of its own, which begins with
the embedded one:

    python scripts/models/train_pose.py runs/pose-2 --task pick-out-of-hole \
        --generator models/pick-out-of-hole/generator --begin embedded:pose-64 \
        --steps 2500 --output models/pick-out-of-hole/pose

Collecting takes about 15 minutes on one core, training 10. Pictures of finished tasks
are kept in the folder, and both parts resume.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from training import log, write_json

import genreward_wrappers  # noqa: F401  the environments
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.encoders.pose import CARD, PoseConfig, PoseReader
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.envs.policies import make_policy
from genreward_wrappers.generators.episode_settings import EMBEDDED, GeneratedGoals
from genreward_wrappers.training.pose import PoseTrainer, PoseTraining, train_pose
from genreward_wrappers.training.pose_data import Poses

TASKS = (
    "pick-out-of-hole",
    "reach",
    "door-open",
    "drawer-close",
    "coffee-button",
    "handle-press",
    "pick-place",
    "bin-picking",
    "shelf-place",
    "disassemble",
)
#: Episodes of a task that are seen, and first frames that videos are made of. The task
#: in which the gripper's width decides has more.
SEEN = dict.fromkeys(TASKS, 80) | {"pick-out-of-hole": 300}
GENERATED = dict.fromkeys(TASKS, 80) | {"pick-out-of-hole": 160}
#: First seeds; those of learning runs and of test episodes are others.
SEEN_SEED = dict.fromkeys(TASKS, 7_200_000) | {"pick-out-of-hole": 7_100_000}
GENERATED_SEED = dict.fromkeys(TASKS, 7_600_000) | {"pick-out-of-hole": 7_500_000}
#: The hand's place in metres and how far the gripper is open, in Meta-World's states.
COLUMNS = (0, 1, 2, 3)
NOISE = (0.0, 0.3, 0.8, 0.0)
STEPS, KEPT, TOGETHER = 256, 0.2, 20


def seen(task: str) -> Poses:
    """A fifth of the pictures of episodes with all sorts of behaviour."""
    first = SEEN_SEED[task]
    rng = np.random.default_rng(first)
    env_id = f"metaworld/{task}"
    env = gym.make(
        env_id,
        obs="state",
        render_mode="rgb_array",
        size=64,
        action_repeat=2,
        max_episode_steps=STEPS // 2,
    )
    parts = []
    for number in range(SEEN[task]):
        state, _ = env.reset(seed=first + number)
        policy = make_policy("scripted", env, env_id, first + number)
        kind = rng.integers(len(NOISE))
        # From here on the arm moves at random, in one direction for some steps.
        wanders = kind == len(NOISE) - 1 or rng.random() < 0.4
        leaves = rng.integers(10, STEPS // 2) if wanders else STEPS
        heading = np.zeros(4)
        frames, states = [], []
        for step in range(STEPS // 2):
            if step < leaves:
                action = policy(state) + NOISE[kind] * rng.normal(size=4)
            else:
                if step == leaves or rng.random() < 0.08:
                    heading = rng.uniform(-1, 1, 4)
                action = heading + 0.3 * rng.normal(size=4)
            state, *_ = env.step(np.clip(action, -1, 1).astype(np.float32))
            if rng.random() < KEPT:
                frames.append(env.render())
                states.append(state[: len(COLUMNS)].copy())
        parts.append(Poses.of(np.array(frames), np.array(states), number))
    return Poses.joined(parts)


def generated(task: str, generator: str) -> Poses:
    """Goal videos of first frames, with the script's poses in the same episodes."""
    first, env_id = GENERATED_SEED[task], f"metaworld/{task}"
    env = gym.make(
        env_id,
        obs="state",
        render_mode="rgb_array",
        size=64,
        max_episode_steps=STEPS,
    )
    maker = GeneratedGoals(generator=generator, steps=1, cache="").maker(env_id)
    parts = []
    for begin in range(0, GENERATED[task], TOGETHER):
        pictures, paths = [], []
        numbers = range(begin, min(begin + TOGETHER, GENERATED[task]))
        for number in numbers:
            state, _ = env.reset(seed=first + number)
            policy = make_policy("scripted", env, env_id, first + number)
            pictures.append(env.render())
            path = [state[: len(COLUMNS)]]
            for _ in range(STEPS):
                state, *_ = env.step(policy(state))
                path.append(state[: len(COLUMNS)])
            paths.append(np.array(path))
        made = maker(np.array(pictures))
        for number, path, goals in zip(numbers, paths, made, strict=True):
            frames = goals.videos[0]
            states = path[evenly(len(frames), STEPS)]
            parts.append(Poses.of(frames, states, number, generated=True))
    return Poses.joined(parts)


def collected(folder: Path, tasks: Sequence[str], generator: str) -> Poses:
    """The pictures of some tasks; those of finished ones are read from the folder."""
    parts, number = [], 0
    for task in tasks:
        for kind in ("seen", "generated"):
            path = folder / f"{task}-{kind}.npz"
            if not path.exists():
                part = seen(task) if kind == "seen" else generated(task, generator)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, **vars(part))
                log(f"{path}: {len(part.frames)} pictures")
            part = Poses(**np.load(path))
            # Every episode of every task has a number of its own.
            own = part.episodes - part.episodes.min() + number
            number = int(own.max()) + 1
            parts.append(Poses(part.frames, part.states, own, part.generated))
    return Poses.joined(parts)


def main() -> None:
    """Collects, trains, and writes the reader with its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, help="one of the tasks alone")
    parser.add_argument("--generator", default=EMBEDDED)
    parser.add_argument("--begin", help="a trained reader")
    parser.add_argument("--steps", type=int, default=PoseTraining.steps)
    args = parser.parse_args()
    begin = load_encoder(args.begin, device="cpu") if args.begin else None
    assert begin is None or isinstance(begin, PoseReader)
    tasks = [args.task] if args.task else TASKS
    trainer = PoseTrainer(
        collected(args.folder, tasks, args.generator),
        PoseConfig(COLUMNS),
        PoseTraining(steps=args.steps),
        begin=begin,
    )
    train_pose(trainer, args.output, log=log)
    path = args.output / CARD
    card = json.loads(path.read_text())
    seeds = [
        first + number
        for firsts, counts in ((SEEN_SEED, SEEN), (GENERATED_SEED, GENERATED))
        for task in tasks
        for first, number in ((firsts[task], 0), (firsts[task], counts[task] - 1))
    ]
    said = {"seeds": [min(seeds), max(seeds)], "steps": args.steps}
    write_json(path, {**card, **said})
    log(str(card["judged"]))


if __name__ == "__main__":
    main()
