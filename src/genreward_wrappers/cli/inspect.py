"""``genreward inspect``: what a goal bundle holds."""

from __future__ import annotations

import argparse
import json

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_shared,
    check_goal,
)


def add_inspect(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "inspect",
        run_inspect,
        "show what a goal bundle holds",
        "Prints a goal bundle's environment, prompt, encoder, nets, licence and "
        "history, how its key frames were chosen, and what a check on held-out "
        "episodes said.",
        "metaworld/pick-place --picture goal.png",
    )
    command.add_argument(
        "goal",
        metavar="GOAL",
        help="A path, an hf:// address, or an environment's id.",
    )
    add_shared(command, "--picture")
    add_shared(command, "--json")


def run_inspect(args: argparse.Namespace) -> int:
    """Prints the description."""
    from genreward_wrappers.data.contact_sheet import contact_sheet, save_picture
    from genreward_wrappers.data.goals import load_goal

    found = check_goal(args.goal)
    goal = load_goal(args.goal) if found is None else found
    from genreward_wrappers.goal_pipeline.card import (
        check_summary,
        curve_summary,
        describe,
    )

    if args.picture is not None:
        save_picture(args.picture, contact_sheet(goal))
    about, chosen, checked = describe(goal), curve_summary(goal), check_summary(goal)
    if args.json:
        print(json.dumps({**about, "choice": chosen, "check": checked}, indent=2))
        return 0
    print(repr(goal))
    print(json.dumps(about, indent=2))
    for line in (*chosen, *checked):
        print(line)
    return 0
