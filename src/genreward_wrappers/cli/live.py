"""``genreward live``: a training run's episodes in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from genreward_wrappers.cli.arguments import Commands, add_command


def add_live(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "live",
        run_live,
        "watch the episodes that a training run records",
        "Shows the episodes of a folder that a wrapper writes to (record=) in a "
        "browser on this machine, and adds new ones as they come.",
        "episodes",
    )
    command.add_argument(
        "folder", type=Path, metavar="FOLDER", help="The folder that record= names."
    )
    command.add_argument(
        "--port",
        type=int,
        default=8000,
        help="The port to serve the page on; 0 takes any that is free.",
    )


def run_live(args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C."""
    from genreward_wrappers.evaluate.page.live import serve

    server = serve(args.folder, port=args.port)
    print(f"{args.folder}: {server.url} (stop with Ctrl-C)", flush=True)
    try:
        server.serve_forever()
    finally:
        server.close()
    return 0
