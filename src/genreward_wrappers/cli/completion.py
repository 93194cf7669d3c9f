"""``genreward completion``: what makes a shell complete commands and options."""

from __future__ import annotations

import argparse

from genreward_wrappers.cli.arguments import Commands, add_command
from genreward_wrappers.extras import require

SHELLS = ("bash", "zsh", "tcsh")


def add_completion(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "completion",
        run_completion,
        "print a script that completes commands in your shell",
        "Prints a script that lets a shell complete commands and options after the "
        "Tab key. In bash, put the line below into ~/.bashrc; in zsh, write the script "
        "to a file named _genreward in a folder of $fpath.",
        'bash  # eval "$(genreward completion bash)"',
    )
    command.add_argument("shell", choices=SHELLS, help="The shell.")


def run_completion(args: argparse.Namespace) -> int:
    """Prints the script."""
    shtab = require("shtab", "completion", "completion needs shtab")
    from genreward_wrappers.cli.main import make_parser

    print(shtab.complete(make_parser(), shell=args.shell))
    return 0
