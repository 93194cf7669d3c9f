"""``genreward select``: key frames by the task's words."""

from __future__ import annotations

import argparse

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_encoders,
    check_goal,
)


def add_select(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "select",
        run_select,
        "choose each video's key frame by the task's words",
        "Scores every frame of every video against the task's words with a model of "
        "images and texts, makes the best frame the key frame, ranks the videos, and "
        "writes a new bundle and a picture of the scores.",
        "candidates.safetensors --output goal.safetensors\n"
        '--prompt "the drawer is open" --keep 4',
    )
    command.add_argument(
        "goal",
        metavar="GOAL",
        help="A path, an hf:// address, or an environment's id.",
    )
    add_shared(
        command,
        "--encoder",
        metavar="MODEL",
        help="The model that compares images and texts: "
        "open_clip:<model>/<pretrained tag> or open_clip:<folder>. A small CLIP by "
        "default.",
    )
    add_shared(
        command,
        "--prompt",
        action="append",
        default=None,
        help="What the scene looks like when the task is done, in words; the bundle's "
        "own prompt by default. May be given several times.",
    )
    add_shared(command, "--baseline")
    add_shared(command, "--prior")
    add_count(command, "--keep", "Keep only the N best videos; all by default.")
    add_shared(command, "--device")
    add_shared(command, "--dtype")
    add_shared(
        command,
        "--picture",
        help="Where to draw the scores; next to the output by default.",
    )
    add_shared(command, "--output")


def run_select(args: argparse.Namespace) -> int:
    """Chooses the key frames and draws the scores."""
    picture = args.picture or args.output.with_suffix(".png")
    if picture == args.output:
        raise ValueError(f"--picture and --output are both {picture}")
    check_goal(args.goal)
    check_encoders(args.encoder)
    from genreward_wrappers.data.goals import load_goal
    from genreward_wrappers.goal_pipeline.card import curve_summary
    from genreward_wrappers.goal_pipeline.select import (
        ENCODER,
        draw,
        import_figure,
        select,
    )
    from genreward_wrappers.progress import progress_bar

    # A missing package is found out before the frames are scored.
    import_figure()
    candidates = load_goal(args.goal)
    with progress_bar("videos", quiet=args.quiet) as on_progress:
        goal, selection = select(
            candidates,
            args.encoder or ENCODER,
            prompts=args.prompt,
            baseline=args.baseline,
            prior=args.prior,
            keep=args.keep,
            device=args.device,
            dtype=args.dtype,
            on_progress=on_progress,
        )
    goal.save(args.output)
    draw(picture, candidates, selection)
    print("\n".join(curve_summary(goal)))
    print(f"{args.output}: {goal!r}; the scores: {picture}")
    return 0
