"""``genreward finetune``: a video generator, trained on your own videos."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_places,
    given,
    read_size,
)
from genreward_wrappers.cli.generator import add_memory
from genreward_wrappers.data.video_files import FITS
from genreward_wrappers.training.finetuning.settings import METHODS
from genreward_wrappers.training.finetuning.sources import SOURCES

#: The figures of a step that the bar shows.
SHOWN = ("loss", "loss_held_out", "gradient")
STEPS = 1_000
#: What of `Finetuning` and of `Plan` the command line can set; the defaults are theirs.
TRAINING = {
    "learning_rate": (
        float,
        "The highest learning rate; by default 1e-5 for the method full, else 1e-4.",
    ),
    "warm_up": (int, "Steps over which the learning rate rises. Default: 100."),
    "batch": (int, "Videos at once on each device. Default: 1."),
    "accumulate": (int, "Batches per step. Default: 1."),
    "rank": (int, "The rank of LoRA's matrices. Default: 128."),
    "weight_decay": (float, "AdamW's weight decay. Default: 1e-4."),
    "clip": (float, "What the gradient's norm is clipped to. Default: 1."),
    "prompt_dropout": (float, "How often the prompt is left out. Default: 0."),
    "image_dropout": (float, "How often the first frame is left out. Default: 0.05."),
    "noised": (
        int,
        "Noised versions of each first frame; 0 uses it as it is. Default: 1.",
    ),
    "ema": (
        float,
        "Write an average of the weights with this decay, for example 0.999; 0 "
        "writes the weights themselves. Default: 0.",
    ),
    "held_out": (
        int,
        "Hold out one clip in N, only to judge by; 0 holds out none. Default: 8.",
    ),
    "seed": (int, "The seed of all random numbers. Default: 0."),
}
PLAN = {
    "every": (int, "Steps between two checkpoints. Default: 500."),
    "report": (int, "Steps between two reports of the loss. Default: 10."),
    "validate": (int, "Steps between two validations; only at the end by default."),
    "videos": (
        int,
        "Videos of held-out first frames to generate at each validation. Default: 0.",
    ),
    "sampling_steps": (int, "Denoising steps in a validation. Default: 50."),
    "guidance": (float, "The guidance scale in a validation. Default: 6."),
}


def add_finetune(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "finetune",
        run_finetune,
        "train a video generator on your own videos",
        "Fine-tunes a CogVideoX image-to-video pipeline on videos with captions or on "
        "recorded episodes: with LoRA, as a whole, or only its VAE. An interrupted run "
        "resumes. For several GPUs:\n"
        "  accelerate launch -m genreward_wrappers finetune ...",
        "--model THUDM/CogVideoX-5b-I2V --data episodes\n--output lora",
    )
    command.add_argument(
        "--model", required=True, help="The pipeline: a folder or a Hub id."
    )
    add_shared(command, "--revision")
    add_shared(command, "--output", metavar="FOLDER", help="The folder to write.")
    data = command.add_argument_group("the data")
    data.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="A folder of videos with captions, of episodes from `genreward collect`, "
        "or of a LeRobotDataset; or minari:<dataset>.",
    )
    data.add_argument(
        "--source",
        choices=(*SOURCES,),
        help="What the data are: BridgeData V2 or RT-1 as a LeRobotDataset, or "
        "demonstrations of RLBench; detected by default.",
    )
    add_shared(data, "--camera")
    add_shared(data, "--prompt", help="The prompt of clips that have none.")
    data.add_argument("--all", action="store_true", help="Also take failed episodes.")
    add_count(data, "--frames", "Frames per clip; the model's own number by default.")
    add_shared(
        data,
        "--size",
        help="The height and width of clips; the model's own by default.",
    )
    data.add_argument(
        "--fit",
        choices=FITS,
        help="What is done to videos of another shape than the clips': cut off their "
        "sides, or add black bars. Also enlarges them; by default they are refused.",
    )
    add_shared(data, "--cache")
    training = command.add_argument_group("the training")
    training.add_argument(
        "--method", choices=METHODS, default="lora", help="What is trained."
    )
    add_count(
        training,
        "--steps",
        f"Steps to train for. {STEPS} by default, unless --minutes is given.",
    )
    training.add_argument(
        "--minutes",
        type=float,
        metavar="X",
        help="Minutes to train for, instead of --steps or as well; none by default.",
    )
    training.add_argument(
        "--mode",
        action="store_true",
        help="Use the mode of the VAE's posterior instead of samples from it.",
    )
    validation = command.add_argument_group("checkpoints and validation")
    for group, options in ((training, TRAINING), (validation, PLAN)):
        for name, (kind, said) in options.items():
            metavar = "N" if kind is int else "X"
            group.add_argument(_flag(name), type=kind, metavar=metavar, help=said)
    add_shared(validation, "--checkpoint")
    add_shared(validation, "--tensorboard")
    add_memory(command, "encode").add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        help="Compute activations twice to save memory; on a GPU by default.",
    )


def run_finetune(args: argparse.Namespace) -> int:
    """Fine-tunes, reports progress, and writes the result."""
    from genreward_wrappers.generators.settings import Model, check_source

    check_source(args.model)
    check_places([args.data])
    from genreward_wrappers.progress import progress_bars, tensorboard
    from genreward_wrappers.training.finetuning.finetune import finetune
    from genreward_wrappers.training.finetuning.place import is_first
    from genreward_wrappers.training.finetuning.settings import Finetuning, Plan

    steps = STEPS if args.steps is None and args.minutes is None else args.steps
    training = Finetuning(
        method=args.method,
        sample=not args.mode,
        checkpointing=args.checkpointing,
        **given(args, *TRAINING),
    )
    # Several processes would write over one another.
    first = is_first()
    latest: dict[str, float] = {}
    with (
        tensorboard(args.tensorboard if first else None) as write,
        progress_bars(SHOWN, quiet=args.quiet or not first) as on_progress,
    ):

        def on_step(step: int, figures: Mapping[str, float]) -> None:
            latest.update(figures)
            if steps is None:
                on_progress("minutes", latest["minutes"], args.minutes, latest)
            else:
                on_progress("steps", step, steps, latest)
            write(step, figures)

        plan = Plan(
            steps=steps,
            minutes=args.minutes,
            checkpoint=args.checkpoint,
            on_progress=on_step,
            **given(args, *PLAN),
        )
        finetune(
            Model(
                args.model,
                revision=args.revision,
                device=args.device,
                dtype=args.dtype,
                tiling=args.tiling,
                slicing=args.slicing,
            ),
            args.data,
            args.output,
            training=training,
            plan=plan,
            prompt=args.prompt,
            failures=args.all,
            camera=args.camera,
            source=args.source or "",
            fit=args.fit or "",
            frames=args.frames,
            size=None if args.size is None else read_size(args.size),
            cache=args.cache,
            on_progress=lambda done, total: on_progress("clips", done, total),
        )
    if first:
        for name, value in latest.items():
            print(f"{name:18} {value:.4g}")
        flag = "--lora" if args.method == "lora" else "--model"
        print(f"{args.output}: genreward generate {flag} {args.output} makes videos")
    return 0


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
