"""``genreward goals``: the goals that come with the package."""

from __future__ import annotations

import argparse
import json

from genreward_wrappers.cli.arguments import Commands, add_command, add_shared


def add_goals(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "goals",
        run_goals,
        "list the embedded goals",
        "Lists the environments that have a goal in this package, with the task in "
        "words.",
        "",
    )
    add_shared(command, "--json")


def run_goals(args: argparse.Namespace) -> int:
    """Prints a line for each goal."""
    from genreward_wrappers.data.goals import embedded_goals, load_goal

    goals = [load_goal(name) for name in embedded_goals()]
    if args.json:
        rows = [
            {
                "env": goal.env_id,
                "prompt": goal.prompt,
                "videos": list(goal.videos.shape),
                "nets": bool(goal.nets),
                "encoder": goal.encoder.get("source", ""),
                "licence": goal.license,
            }
            for goal in goals
        ]
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(goal.env_id) for goal in goals), default=0) + 2
    for goal in goals:
        print(f"{goal.env_id:{width}}{goal.prompt}")
    return 0
