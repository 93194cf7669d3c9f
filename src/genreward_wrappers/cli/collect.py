"""``genreward collect``: episodes to train on."""

from __future__ import annotations

import argparse

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_env,
    check_least,
    read_pairs,
)


def add_collect(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "collect",
        run_collect,
        "record episodes to train on",
        "Plays an environment and writes one file per episode into a folder: frames, "
        "states, actions, rewards and success. Episodes that exist are not played "
        "again, so an interrupted run resumes.",
        "--env metaworld/pick-place --policy noisy --output episodes",
    )
    add_shared(command, "--env", required=True)
    command.add_argument(
        "--policy",
        default="random",
        metavar="NAME",
        help="Who acts: random; scripted or noisy (Meta-World); planned (dm_control); "
        "or MODULE:FUNCTION, a function of (env, seed) that returns a function from "
        "observations to actions.",
    )
    add_count(command, "--episodes", "How many episodes to record.", default=50)
    add_shared(
        command, "--seed", default=4_000_000, help="The seed of the first episode."
    )
    add_count(
        command,
        "--steps",
        "The step at which an episode is cut at the latest.",
        default=1_000,
    )
    add_count(
        command,
        "--frames",
        "Keep only N frames of an episode, spread evenly over it, as video models "
        "need; 0 keeps all.",
        default=0,
    )
    add_shared(command, "--prompt")
    add_shared(command, "--env-arg")
    add_shared(command, "--processes")
    add_shared(command, "--output", metavar="FOLDER", help="The folder to write to.")


def run_collect(args: argparse.Namespace) -> int:
    """Records the episodes."""
    check_least(args, processes=1)
    check_env(args.env)
    from genreward_wrappers.goal_pipeline.collect import collect
    from genreward_wrappers.progress import progress_bar

    with progress_bar("episodes", quiet=args.quiet) as on_progress:
        paths = collect(
            args.env,
            args.output,
            policy=args.policy,
            episodes=args.episodes,
            seed=args.seed,
            steps=args.steps,
            frames=args.frames,
            prompt=args.prompt,
            options=read_pairs(args.env_arg),
            processes=args.processes,
            on_progress=on_progress,
        )
    print(f"{args.output}: {len(paths)} episodes of the policy {args.policy!r}")
    return 0
