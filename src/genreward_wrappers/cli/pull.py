"""``genreward pull``: a goal bundle from the Hugging Face Hub."""

from __future__ import annotations

import argparse
import sys

from genreward_wrappers.cli.arguments import Commands, add_command, add_shared


def add_pull(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "pull",
        run_pull,
        "download a goal bundle from the Hugging Face Hub",
        "Downloads a bundle, checks it, and writes it to a file. Offline "
        "(HF_HUB_OFFLINE=1) it takes what was downloaded before.",
        "hf://me/my-goals/goal.safetensors@<commit>\n--output goal.safetensors",
    )
    command.add_argument(
        "address",
        metavar="hf://OWNER/REPO/FILE[@REVISION]",
        help="The bundle's address. A commit as the revision always gives the same "
        "file.",
    )
    command.add_argument(
        "--sha256", help="The SHA-256 that the file must have; any by default."
    )
    add_shared(command, "--output")


def run_pull(args: argparse.Namespace) -> int:
    """Downloads the bundle and says what may change about it."""
    from genreward_wrappers.data.goals import HubAddress

    HubAddress.parse(args.address)
    from genreward_wrappers.goal_pipeline.card import forbidding
    from genreward_wrappers.goal_pipeline.hub import pull

    pulled = pull(args.address, args.output, sha256=args.sha256)
    for licence in forbidding(pulled.goal):
        print(f"not for commercial use: {licence}")
    if pulled.advice:
        print(pulled.advice, file=sys.stderr)
    print(f"{args.output}: {pulled.goal!r}")
    return 0
