"""``genreward train-viper`` and ``train-diffusion-reward``: rewards from videos."""

from __future__ import annotations

import argparse
from pathlib import Path

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_goal,
    check_places,
    check_writable,
    given,
    read_size,
)


def add_train_viper(commands: Commands) -> None:
    """Adds the command of VIPER."""
    _add_train(commands, "viper", "how likely a frame is")


def add_train_diffusion_reward(commands: Commands) -> None:
    """Adds the command of Diffusion Reward."""
    _add_train(commands, "diffusion-reward", "how certain the future is")


def _add_train(commands: Commands, kind: str, said: str) -> None:
    command = add_command(
        commands,
        f"train-{kind}",
        run_train_prior,
        f"train a reward from videos: {said}",
        "Trains a VQ codec and a prior over its codes on videos of a task, recorded or "
        "generated. An interrupted run resumes.",
        f"--goal metaworld/pick-place\n--output {kind}.safetensors",
    )
    command.add_argument(
        "videos",
        nargs="*",
        type=Path,
        metavar="VIDEO",
        help="Videos (mp4, gif, npy), recorded episodes, folders of them, or "
        "LeRobotDatasets.",
    )
    add_shared(command, "--camera")
    add_shared(
        command,
        "--goal",
        action="append",
        default=[],
        help="A goal bundle, or the id of an environment with an embedded goal, whose "
        "videos to train on. May be given several times.",
    )
    add_shared(command, "--output")
    add_shared(
        command,
        "--size",
        help="The height and width that the frames are brought to; 64, or that of "
        "--codec, by default.",
    )
    command.add_argument(
        "--codec",
        type=Path,
        metavar="FILE",
        help="Another prior, of either kind, whose codec is used unchanged; a codec is "
        "trained by default.",
    )
    for flag, what in (
        ("--codec-steps", "gradient steps to train the codec for"),
        ("--steps", "gradient steps to train the prior for"),
        ("--batch", "windows a gradient step sees"),
    ):
        command.add_argument(
            flag,
            type=int,
            metavar="N",
            help=f"How many {what}; the model's own number by default.",
        )
    add_shared(command, "--seed")
    add_count(
        command, "--every", "How many steps lie between two checkpoints.", default=50
    )
    add_shared(command, "--device")
    command.set_defaults(kind=kind)


def run_train_prior(args: argparse.Namespace) -> int:
    """Trains the prior and prints what it gives its own training videos."""
    for goal in args.goal:
        check_goal(goal)
    check_places([*args.videos, *([args.codec] if args.codec else [])])
    check_writable(args.output.parent)
    from genreward_wrappers.training.priors.settings import BATCH, PriorTraining
    from genreward_wrappers.training.priors.store import Prior
    from genreward_wrappers.training.priors.train import PriorTrainer, train
    from genreward_wrappers.training.priors.vq import VQConfig
    from genreward_wrappers.training.videos import load_videos

    size = read_size(args.size) if args.size else None
    codec = Prior.load(args.codec, device=args.device).codec if args.codec else None
    shape = codec.config if codec else VQConfig(size=size or (64, 64))
    if size not in (None, shape.size):
        raise ValueError(
            f"--size {size}: the codec of {args.codec} sees frames of {shape.size}; "
            "leave --size out"
        )
    asked = given(args, "codec_steps", "steps", "batch", "seed")
    trainer = PriorTrainer(
        args.kind,
        load_videos(args.videos, args.goal, shape.size, args.camera),
        codec or shape,
        PriorTraining(**{"batch": BATCH[args.kind], **asked}),
        device=args.device,
    )
    prior = train(trainer, args.output, every=args.every)
    figures = "  ".join(f"{k} {v:.4g}" for k, v in prior.statistics.items())
    print(f"{args.output}: the reward over the training videos: {figures}")
    return 0
