"""``genreward generate``: candidate goal videos from a diffusion model."""

from __future__ import annotations

import argparse
from pathlib import Path

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_shared,
    check_env,
    check_least,
    read_pairs,
)
from genreward_wrappers.cli.generator import add_generator, read_model, read_sampling


def add_generate(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "generate",
        run_generate,
        "make goal videos with a video diffusion model",
        "Generates candidate videos for a prompt, from a first frame or from words "
        "alone, with any image-to-video or text-to-video pipeline of diffusers, and "
        "draws a contact sheet of them. Candidates that exist are not made again. "
        "`genreward pack FOLDER` makes a goal of them.",
        "--model THUDM/CogVideoX-5b-I2V --env MyEnv-v0\n"
        '--prompt "stack the cubes" --output candidates',
    )
    command.add_argument(
        "--model",
        required=True,
        help="The pipeline: a folder, a Hub id or embedded:<name>.",
    )
    add_shared(command, "--prompt", required=True)
    start = command.add_argument_group("the first frame")
    add_shared(
        start,
        "--env",
        default="",
        help="The id of the environment whose resets give the first frames.",
    )
    add_shared(start, "--env-arg")
    add_shared(start, "--starts")
    start.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="A picture to begin with; the environment's first frames by default.",
    )
    add_shared(command, "--candidates")
    add_shared(
        command,
        "--seed",
        default=1_000_000,
        help="The first seed, of resets and of noise.",
    )
    add_generator(command)
    add_shared(command, "--output", metavar="FOLDER", help="The folder to write to.")


def run_generate(args: argparse.Namespace) -> int:
    """Generates the candidates."""
    check_least(args, starts=1, candidates=1)
    if args.env:
        check_env(args.env)
    from genreward_wrappers.generators.settings import Sampling, check_source

    check_source(args.model)
    from genreward_wrappers.generators.candidates import SHEET
    from genreward_wrappers.goal_pipeline.generate import generate
    from genreward_wrappers.progress import progress_bar

    with progress_bar("denoising steps", quiet=args.quiet) as on_progress:
        paths = generate(
            read_model(args, args.model),
            Sampling(args.prompt, **read_sampling(args)),
            args.output,
            env_id=args.env,
            options=read_pairs(args.env_arg),
            image=args.image,
            starts=args.starts,
            candidates=args.candidates,
            seed=args.seed,
            on_progress=on_progress,
        )
    print(f"{args.output}: {len(paths)} candidates, shown in {SHEET}")
    return 0
