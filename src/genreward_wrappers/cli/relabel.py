"""``genreward relabel``: datasets with another reward."""

from __future__ import annotations

import argparse
import json

import numpy as np

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_least,
)
from genreward_wrappers.cli.score import add_scoring, check_scoring


def add_relabel(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "relabel",
        run_relabel,
        "write a dataset with another reward",
        "Copies a Minari dataset or a LeRobotDataset with its reward replaced, or with "
        "another one beside it, and everything else as it was. An interrupted run "
        "resumes.",
        "minari:my/pushing-v0 --goal goal.safetensors\n"
        "--output minari:my/pushing-rewarded-v0",
    )
    command.add_argument(
        "dataset",
        metavar="DATASET",
        help="The dataset: minari:<dataset>, or the folder of a Minari dataset or a "
        "LeRobotDataset.",
    )
    _, models = add_scoring(command, "genreward", several=False)
    result = command.add_argument_group("the result")
    add_shared(
        result,
        "--output",
        type=str,
        metavar="DATASET",
        help="The folder to write, or minari:<dataset>. It must not exist yet.",
    )
    result.add_argument(
        "--column",
        metavar="NAME",
        help="Keep the dataset's own reward, and add the new one under this name; by "
        "default it is replaced.",
    )
    result.add_argument(
        "--weights",
        action="store_true",
        help="Also write the scores of all frames as sarm_progress.parquet, which "
        "LeRobot's RA-BC weighs samples by.",
    )
    result.add_argument(
        "--best",
        type=float,
        metavar="SHARE",
        help="Also print the numbers of this share of the episodes (0.5 is half), "
        "those with the highest mean rewards, as `lerobot-train --dataset.episodes` "
        "takes them; none by default.",
    )
    add_count(
        models,
        "--ray",
        "Score with N workers of the Ray cluster on this machine, which is "
        "started if there is none; by default in this process.",
        default=0,
    )
    add_shared(result, "--json")


def run_relabel(args: argparse.Namespace) -> int:
    """Scores and writes."""
    rewards = args.reward or ["genreward"]
    if len(rewards) > 1:
        raise ValueError(f"a dataset has one reward, got --reward {rewards}")
    check_scoring(args, rewards)
    check_least(args, ray=0)
    if args.best is not None and not 0 < args.best <= 1:
        raise ValueError(f"--best {args.best}: expected a number above 0, at most 1")
    from genreward_wrappers.progress import progress_bars
    from genreward_wrappers.relabel import relabel_dataset

    with progress_bars(quiet=args.quiet) as on_progress:
        made = relabel_dataset(
            args.dataset,
            rewards[0],
            args.output,
            column=args.column,
            camera=args.camera,
            weights=args.weights,
            workers=args.ray,
            on_progress=lambda done, total: on_progress("episodes", done, total),
            goal=args.goal,
            env_id=args.env,
            horizon=args.horizon,
            batch=args.batch,
            device=args.device,
            dtype=args.dtype,
        )
    every = np.concatenate([*made.rewards.values()])
    found = {
        "folder": str(made.folder),
        "episodes": len(made.rewards),
        "resumed": made.resumed,
        "steps": len(every),
        "mean": float(every.mean()),
        "min": float(every.min()),
        "max": float(every.max()),
    }
    best = None if args.best is None else made.best(args.best)
    if args.json:
        print(json.dumps(found if best is None else {**found, "best": best}))
    else:
        print(
            f"{made.folder}: {len(made.rewards)} episodes, {len(every)} rewards from "
            f"{every.min():.4g} to {every.max():.4g}, {every.mean():.4g} on average"
        )
        if best is not None:
            print(f"episodes with the highest mean rewards: {best}")
    return 0
