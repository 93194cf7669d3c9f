"""``genreward push``: a goal bundle to the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_shared,
    check_goal,
)


def add_push(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "push",
        run_push,
        "upload a goal bundle to the Hugging Face Hub",
        "Uploads a bundle with a card and a contact sheet. The repository and the "
        "branch are created if they do not exist.",
        "goal.safetensors me/my-goals",
    )
    command.add_argument("goal", type=Path, metavar="FILE", help="The goal bundle.")
    command.add_argument("repo", metavar="OWNER/REPO", help="The repository.")
    add_shared(
        command,
        "--revision",
        metavar="BRANCH",
        help="The branch to upload to; the main one by default.",
    )
    command.add_argument(
        "--private",
        action="store_true",
        help="Create the repository as a private one.",
    )


def run_push(args: argparse.Namespace) -> int:
    """Uploads the bundle and prints its address."""
    check_goal(str(args.goal))
    from genreward_wrappers.data.goals import GoalBundle
    from genreward_wrappers.goal_pipeline.card import forbidding
    from genreward_wrappers.goal_pipeline.hub import push

    address = push(args.goal, args.repo, revision=args.revision, private=args.private)
    for licence in forbidding(GoalBundle.load(args.goal)):
        print(f"not for commercial use, and its card says so: {licence}")
    print(f"{args.goal}: {address}")
    return 0
