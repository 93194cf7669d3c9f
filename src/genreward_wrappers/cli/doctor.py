"""``genreward doctor``: whether this machine renders correctly and fast."""

from __future__ import annotations

import argparse
from pathlib import Path

from genreward_wrappers.cli.arguments import Commands, add_command, add_shared


def add_doctor(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "doctor",
        run_doctor,
        "check that this machine renders correctly and fast",
        "Checks versions, devices, rendering and the embedded files; each finding says "
        "what to do about it. With --full it also trains after drawing in a process of "
        "its own, draws two tasks by turns, and measures the speed.",
        "--full",
    )
    add_shared(command, "--env", default="metaworld/pick-place")
    add_shared(
        command,
        "--output",
        required=False,
        metavar="FOLDER",
        help="A folder to save the pictures that were checked to; none by default.",
    )
    command.add_argument(
        "--full",
        action="store_true",
        help="Also run the checks that take a minute.",
    )
    add_shared(command, "--json")


def run_doctor(args: argparse.Namespace) -> int:
    """Runs the checks; the exit status is 1 if one failed."""
    from genreward_wrappers.doctor import run_doctor

    output: Path | None = args.output
    return run_doctor(args.env, output, full=args.full, as_json=args.json)
