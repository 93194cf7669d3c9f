"""``genreward finetune``: the terminal's side of fine-tuning a generator."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from genreward_wrappers.cli.arguments import add_memory
from genreward_wrappers.training.finetuning.settings import METHODS

#: What the bar shows of a step.
SHOWN = ("loss", "loss_held_out", "gradient")
STEPS = 1_000
#: What of `Finetuning` and of `Plan` the command line can set.
TRAINING = {
    "learning_rate": (float, "the highest, 1e-5 for full, 1e-4 else"),
    "warm_up": (int, "steps over which the learning rate rises, 100"),
    "batch": (int, "videos at once on each device, 1"),
    "accumulate": (int, "batches to a step, 1"),
    "rank": (int, "of LoRA's matrices, 128"),
    "weight_decay": (float, "1e-4"),
    "clip": (float, "what the gradient's norm is cut to, 1"),
    "prompt_dropout": (float, "how often the prompt is left out, 0"),
    "image_dropout": (float, "how often the first frame is left out, 0.05"),
    "noised": (int, "noised versions of each first frame, 1; 0: as it is"),
    "ema": (float, "write an average of the weights, as 0.999; 0 for none"),
    "held_out": (int, "every so-manieth clip is only judged by, 8; 0: none"),
    "seed": (int, "of all that is drawn, 0"),
}
PLAN = {
    "every": (int, "steps between two checkpoints, 500"),
    "report": (int, "steps between two reports of the loss, 10"),
    "validate": (int, "steps between two validations; only at the end by default"),
    "videos": (int, "held-out first frames that a validation continues, 0"),
    "sampling_steps": (int, "of the denoising in a validation, 50"),
    "guidance": (float, "in a validation, 6"),
}


def add_finetune(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Adds the command to the parser; nothing large is imported for it."""
    parser = commands.add_parser(
        "finetune",
        help="train a video generator on videos of your own",
        description="Fine-tunes a CogVideoX image-to-video pipeline on videos with "
        "captions or on recorded episodes: with LoRA, as a whole, or its VAE alone. "
        "Goes on where it was stopped. On several GPUs: accelerate launch -m "
        "genreward_wrappers finetune ...",
    )
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a folder or hub id"
    )
    parser.add_argument("--revision", help="of the hub's repository")
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="a folder of videos with captions, of episodes from `genreward collect`, "
        "of a LeRobotDataset, or minari:<dataset>",
    )
    parser.add_argument(
        "--camera", default="", metavar="NAME", help="of a LeRobotDataset with several"
    )
    parser.add_argument("--prompt", default="", help="of clips without one")
    parser.add_argument(
        "--all", action="store_true", help="take episodes that failed, too"
    )
    parser.add_argument("--frames", type=int, help="of a clip; the model's own")
    parser.add_argument(
        "--size", type=int, nargs="+", metavar="N", help="height [width], likewise"
    )
    parser.add_argument("--method", choices=METHODS, default="lora")
    parser.add_argument("--steps", type=int, help=f"{STEPS} if no minutes are given")
    parser.add_argument("--minutes", type=float, help="of training, or beside steps")
    for name, (kind, said) in {**TRAINING, **PLAN}.items():
        parser.add_argument(_flag(name), type=kind, help=said)
    parser.add_argument(
        "--mode", action="store_true", help="the posterior's mode, not draws from it"
    )
    parser.add_argument("--checkpoint", type=Path, help="beside the output by default")
    parser.add_argument("--tensorboard", type=Path, metavar="FOLDER")
    parser.add_argument("--cache", type=Path, help="a folder for latents")
    add_memory(parser, "encode").add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        help="compute activations twice to save memory; on a GPU by default",
    )
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.set_defaults(run=run_finetune)


def run_finetune(args: argparse.Namespace) -> int:
    """Fine-tunes, says how it goes, and writes the result."""
    from genreward_wrappers.data.frames import image_size
    from genreward_wrappers.generators.settings import Model
    from genreward_wrappers.progress import board, told
    from genreward_wrappers.training.finetuning.finetune import finetune
    from genreward_wrappers.training.finetuning.place import is_first
    from genreward_wrappers.training.finetuning.settings import Finetuning, Plan

    def given(names: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: getattr(args, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    steps = STEPS if args.steps is None and args.minutes is None else args.steps
    training = Finetuning(
        method=args.method,
        sample=not args.mode,
        checkpointing=args.checkpointing,
        **given(TRAINING),
    )
    size = None
    if args.size is not None:
        size = image_size(args.size[0] if len(args.size) == 1 else tuple(args.size))
    # Several processes would write over one another.
    folder = args.tensorboard if is_first() else None
    with ExitStack() as bars, board(folder) as write:
        latest: dict[str, float] = {}
        shown: dict[str, Callable[..., None]] = {}

        def bar(what: str) -> Callable[..., None]:
            # A terminal shows one at a time.
            if what not in shown:
                bars.close()
                shown[what] = bars.enter_context(told(what, SHOWN))
            return shown[what]

        def encoded(done: int, total: int) -> None:
            if is_first():
                bar("clips")(done, total)

        def tell(step: int, figures: Mapping[str, float]) -> None:
            latest.update(figures)
            if steps is None:
                bar("minutes")(latest["minutes"], args.minutes, latest)
            else:
                bar("steps")(step, steps, latest)
            write(step, figures)

        plan = Plan(
            steps=steps,
            minutes=args.minutes,
            checkpoint=args.checkpoint,
            tell=tell,
            **given(PLAN),
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
            frames=args.frames,
            size=size,
            cache=args.cache,
            tick=encoded,
        )
    if is_first():
        for name, value in latest.items():
            print(f"{name:18} {value:.4g}")
        flag = "--lora" if args.method == "lora" else "--model"
        print(f"{args.output}: genreward generate {flag} {args.output} makes videos")
    return 0


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
