"""``genreward pack``: a goal bundle from your own videos."""

from __future__ import annotations

import argparse
from pathlib import Path

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_encoders,
    read_size,
)


def add_pack(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "pack",
        run_pack,
        "make a goal bundle from your own videos",
        "Brings videos (mp4, gif, npy), or a folder of candidates from `genreward "
        "generate`, to one size and length and packs them into a goal bundle.",
        "stacked.mp4 --env MyEnv-v0 --output goal.safetensors\n"
        '--prompt "stack the cubes"',
    )
    command.add_argument(
        "videos",
        nargs="+",
        type=Path,
        metavar="VIDEO",
        help="Videos, or candidates and folders of them. With CAMERA=VIDEO for each of "
        "several cameras, the goal has a video for each.",
    )
    add_shared(
        command,
        "--env",
        default="",
        help="The id of the environment that the goal is for; none by default.",
    )
    add_shared(
        command,
        "--camera",
        help="The environment's camera that the videos show; checked when the goal is "
        "used.",
    )
    add_shared(command, "--prompt")
    add_shared(command, "--size", default=[64])
    add_count(
        command,
        "--length",
        "How many frames each packed video has, spread evenly over it; by default "
        "as many as the first one has, up to 129.",
    )
    add_shared(command, "--encoder", default="embedded:video-vae-64")
    add_shared(command, "--license")
    add_shared(command, "--output")


def run_pack(args: argparse.Namespace) -> int:
    """Packs the videos."""
    check_encoders(args.encoder)
    from genreward_wrappers.goal_pipeline.pack import pack, pack_candidates, pack_views

    views = _views(args.videos)
    if views and args.camera:
        raise ValueError(
            f"--camera {args.camera}: the cameras are named already, {sorted(views)}"
        )
    made = [path.is_dir() or path.suffix == ".safetensors" for path in args.videos]
    if any(made) and not all(made):
        raise ValueError(
            "videos and candidates of `genreward generate` are packed apart, got both"
        )
    options = {
        "env_id": args.env,
        "prompt": args.prompt,
        "size": read_size(args.size),
        "length": args.length,
        "encoder": args.encoder,
        "license": args.license,
    }
    if views:
        goal = pack_views(views, **options)
    else:
        make = pack_candidates if all(made) else pack
        goal = make(args.videos, camera=args.camera, **options)
    goal.save(args.output)
    print(f"{args.output}: {goal!r}")
    return 0


def _views(paths: list[Path]) -> dict[str, list[Path]]:
    """The videos by the names of their cameras; none if they have no names."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        view, named, file = str(path).partition("=")
        if named and not path.exists():
            found.setdefault(view, []).append(Path(file))
    if found and sum(map(len, found.values())) < len(paths):
        raise ValueError(
            "expected CAMERA=VIDEO for every video or for none, got "
            f"{[str(path) for path in paths]}"
        )
    return found
