"""Arguments that several commands have: an environment's options, a generator's."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from typing import Any


def add_options(command: argparse._ActionsContainer) -> None:
    """``--option KEY=VALUE``, for the environment."""
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what else to make the environment with, as size=96; may be given "
        "several times",
    )


def read_options(
    given: Sequence[str], name: str = "--option", example: str = "size=96"
) -> dict[str, Any]:
    """The values by their keys; what is no Python literal is a text."""
    options: dict[str, Any] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{name} {item!r}: expected KEY=VALUE, as {example}")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def read_size(given: Sequence[int]) -> tuple[int, int]:
    """(height, width) of one number or two."""
    if len(given) > 2:
        raise ValueError(f"--size takes one or two numbers, got {list(given)}")
    return given[0], given[-1]


def add_memory(command: argparse.ArgumentParser, doing: str) -> argparse._ArgumentGroup:
    """Where a pipeline computes and in what, and its VAE piece by piece.

    Args:
        command: The command.
        doing: What the VAE does in it: "decode" or "encode".
    """
    memory = command.add_argument_group("memory")
    memory.add_argument("--device", default="auto")
    memory.add_argument("--dtype", help="bfloat16 on a GPU, else float32, by default")
    memory.add_argument("--tiling", action="store_true", help=f"{doing} tile by tile")
    memory.add_argument("--slicing", action="store_true", help="and video by video")
    return memory


def add_generator(command: argparse.ArgumentParser, size: str = "--size") -> None:
    """What is asked of a generator, and how it is held in memory; not which one.

    Args:
        command: The command.
        size: What the size of the generated video is called there.
    """
    command.add_argument("--revision", help="of the hub's repository")
    command.add_argument(
        "--pipeline",
        default="",
        metavar="CLASS",
        help="of diffusers, if not the one that the model was saved as",
    )
    command.add_argument("--negative", default="", help="what not to show")
    command.add_argument("--steps", type=int, help="of the denoising")
    command.add_argument("--guidance", type=float)
    command.add_argument("--frames", type=int, help="of a video")
    command.add_argument(
        size,
        dest="video_size",
        type=int,
        nargs="+",
        metavar="N",
        help="height [width] of the generated video",
    )
    command.add_argument(
        "--argument",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further argument of the pipeline's call; may be given several times",
    )
    command.add_argument("--lora", default="", help="a file, folder or hub id")
    command.add_argument("--lora-scale", type=float, default=1.0)
    memory = add_memory(command, "decode")
    memory.add_argument(
        "--offload",
        choices=("none", "model", "sequential"),
        default="none",
        help="keep one part, or one layer, at a time on the GPU",
    )
    memory.add_argument(
        "--quantise",
        choices=("none", "int8", "nf4"),
        default="none",
        help="keep the large parts in 8 bits, or in 4 on a GPU",
    )


def read_model(args: argparse.Namespace, source: str) -> Any:
    """The `goal_pipeline.generators.Model` of what `add_generator` added."""
    from genreward_wrappers.generators.settings import Model

    return Model(
        source,
        revision=args.revision,
        kind=args.pipeline,
        lora=args.lora,
        lora_scale=args.lora_scale,
        device=args.device,
        dtype=args.dtype,
        offload=args.offload,
        tiling=args.tiling,
        slicing=args.slicing,
        quantise=args.quantise,
    )


def read_sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `goal_pipeline.generators.Sampling`, but for the prompt."""
    return {
        "negative": args.negative,
        "steps": args.steps,
        "guidance": args.guidance,
        "frames": args.frames,
        "size": None if args.video_size is None else read_size(args.video_size),
        "more": read_options(args.argument, "--argument", "use_dynamic_cfg=True"),
    }
