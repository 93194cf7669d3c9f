"""``genreward train-pose``: an encoder that reads a robot's pose from a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_places,
    check_writable,
    given,
    read_pairs,
    read_size,
)


def add_train_pose(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "train-pose",
        run_train_pose,
        "train an encoder that reads a robot's pose",
        "Trains a small network on recorded episodes to read some numbers of the state "
        "from the picture, and judges it on episodes that it has not seen. An "
        "interrupted run resumes.",
        "episodes --columns 0 1 2 3\n--output pose",
    )
    command.add_argument(
        "episodes",
        nargs="+",
        type=Path,
        metavar="EPISODES",
        help="Recorded episodes that hold states, or folders of them.",
    )
    command.add_argument(
        "--columns",
        nargs="+",
        type=int,
        required=True,
        metavar="N",
        help="Which numbers of the state to read, counted from 0: those of the robot's "
        "own pose.",
    )
    add_shared(
        command,
        "--output",
        metavar="FOLDER",
        help="The folder to write the encoder to.",
    )
    command.add_argument(
        "--generator",
        metavar="MODEL[,KEY=VALUE,...]",
        help="Also train on the videos that this pipeline makes of the first frames of "
        "the episodes that succeeded: the one that makes the goals, called as for "
        "them, such as embedded:goal-generator-64 or my-generator,steps=1. None by "
        "default.",
    )
    command.add_argument(
        "--begin",
        type=Path,
        metavar="FOLDER",
        help="A trained reader of the same numbers to begin with; none by default.",
    )
    add_shared(
        command,
        "--size",
        default=[64],
        help="The height and width that the pictures are brought to, multiples of 8.",
    )
    add_count(
        command, "--steps", "How many updates to train for; the model's own by default."
    )
    add_count(
        command,
        "--batch",
        "How many pictures an update sees; the model's own by default.",
    )
    add_shared(command, "--seed")
    add_count(
        command, "--every", "How many updates lie between two checkpoints.", default=500
    )
    add_shared(command, "--device")


def run_train_pose(args: argparse.Namespace) -> int:
    """Trains the reader and prints how well it reads what it has not seen."""
    check_places([*args.episodes, *([args.begin] if args.begin else [])])
    check_writable(args.output.parent)
    from genreward_wrappers.encoders.pose import CARD, PoseConfig, load_pose
    from genreward_wrappers.generators.episode_settings import GeneratedGoals
    from genreward_wrappers.generators.settings import check_source
    from genreward_wrappers.training.pose import PoseTrainer, PoseTraining, train_pose
    from genreward_wrappers.training.pose_data import load_poses

    goals = None
    if args.generator:
        model, *more = args.generator.split(",")
        check_source(model)
        settings = {"cache": "", **read_pairs(more, "--generator", "steps=1")}
        goals = GeneratedGoals.of({"generator": model, **settings})
    config = PoseConfig(tuple(args.columns), read_size(args.size))
    trainer = PoseTrainer(
        load_poses(args.episodes, config.size, goals),
        config,
        PoseTraining(**given(args, "steps", "batch", "seed")),
        begin=args.begin and load_pose(args.begin, device="cpu"),
        device=args.device,
    )
    train_pose(trainer, args.output, every=args.every)
    judged_of = json.loads((args.output / CARD).read_text())["judged"]
    for name, part in (
        ("recorded", "held out"),
        ("generated", "held out, generated"),
    ):
        judged = judged_of[part]
        for row, column in enumerate(config.columns if judged else ()):
            error, spread, share = (
                judged[k][row] for k in ("error", "spread", "explained")
            )
            print(
                f"{name} pictures, number {column}: off by {error:.3g} on average "
                f"where its spread is {spread:.3g}; {share:.0%} of its variance is read"
            )
    return 0
