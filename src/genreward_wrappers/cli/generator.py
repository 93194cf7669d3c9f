"""The options of a video generator, which two commands share.

Which generator it is they name themselves.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from genreward_wrappers.cli.arguments import (
    add_count,
    add_shared,
    read_pairs,
    read_size,
)

if TYPE_CHECKING:
    from genreward_wrappers.generators.settings import Model


def add_memory(command: argparse.ArgumentParser, doing: str) -> argparse._ArgumentGroup:
    """Adds where a pipeline computes, in which type, and how its VAE saves memory.

    Args:
        command: The command.
        doing: What the VAE does in it: "decode" or "encode".
    """
    memory = command.add_argument_group("memory")
    add_shared(memory, "--device")
    add_shared(
        memory,
        "--dtype",
        help="The type that the models compute in; bfloat16 on a GPU and float32 on a "
        "CPU by default.",
    )
    memory.add_argument(
        "--tiling",
        action="store_true",
        help=f"Let the VAE {doing} videos tile by tile.",
    )
    memory.add_argument(
        "--slicing",
        action="store_true",
        help=f"Let the VAE {doing} one video at a time.",
    )
    return memory


def add_generator(command: argparse.ArgumentParser, size: str = "--size") -> None:
    """Adds what is asked of a generator, and how it is held in memory.

    Args:
        command: The command.
        size: What the size of the generated video is called there.
    """
    group = command.add_argument_group("the generator")
    add_shared(group, "--revision")
    group.add_argument(
        "--pipeline",
        default="",
        metavar="CLASS",
        help="The class of diffusers to load it with; the one it was saved as by "
        "default.",
    )
    group.add_argument(
        "--negative",
        default="",
        metavar="TEXT",
        help="What the videos should not show, in words.",
    )
    add_count(
        group,
        "--steps",
        "How many denoising steps to take; the pipeline's own number by default.",
    )
    group.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help="The scale of classifier-free guidance; the pipeline's own by default.",
    )
    add_count(
        group,
        "--frames",
        "How many frames a video has; the pipeline's own number by default.",
    )
    group.add_argument(
        size,
        dest="video_size",
        type=int,
        nargs="+",
        metavar="N",
        help="The height and width of the generated video; the pipeline's own by "
        "default.",
    )
    group.add_argument(
        "--pipeline-arg",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="A further argument of the pipeline's call, for example "
        "use_dynamic_cfg=True. May be given several times.",
    )
    group.add_argument(
        "--lora",
        default="",
        metavar="LORA",
        help="LoRA weights to add: a file, a folder or a Hub id.",
    )
    group.add_argument(
        "--lora-scale",
        type=float,
        default=1.0,
        metavar="SCALE",
        help="The weight of the LoRA.",
    )
    memory = add_memory(command, "decode")
    memory.add_argument(
        "--offload",
        choices=("none", "model", "sequential"),
        default="none",
        help="Keep only one part (model) or one layer (sequential) at a time on the "
        "GPU.",
    )
    memory.add_argument(
        "--quantise",
        choices=("none", "int8", "nf4"),
        default="none",
        help="Keep the large parts in 8 bits, or in 4 bits on a GPU.",
    )


def read_model(args: argparse.Namespace, source: str) -> Model:
    """The model that the arguments describe."""
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
    """The arguments of `generators.pipeline.Sampling`, except for the prompt."""
    return {
        "negative": args.negative,
        "steps": args.steps,
        "guidance": args.guidance,
        "frames": args.frames,
        "size": None if args.video_size is None else read_size(args.video_size),
        "more": read_pairs(args.pipeline_arg, "--pipeline-arg", "use_dynamic_cfg=True"),
    }
