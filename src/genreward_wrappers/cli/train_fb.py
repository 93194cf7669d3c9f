"""``genreward train-fb``: the nets of the frame-level reward."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_encoders,
    check_goal,
    check_places,
    check_writable,
    given,
)

#: The figures of an update that the bar shows.
SHOWN = ("loss_measure", "mass", "spread", "directions")

#: What of `FBConfig` and `FBTraining` the command line can set.
CONFIG = {
    "discount": (float, "The discount factor."),
    "z": (int, "The width of a goal's representation."),
    "hidden": (int, "The width of F's hidden layers."),
    "backward_hidden": (int, "The width of B's hidden layers."),
}
TRAINING = {
    "batch": (int, "Transitions per update."),
    "learning_rate": (float, "The learning rate of both nets."),
    "target_rate": (float, "The rate at which target nets follow."),
    "q_weight": (float, "The weight of the loss of the rewards."),
    "seed": (int, "The seed of all random numbers."),
}


def add_train_fb(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "train-fb",
        run_train_fb,
        "train the nets of the frame-level reward",
        "Trains forward-backward nets on recorded episodes, judges them on episodes "
        "that were held out, and writes the goal with the nets in it. An interrupted "
        "run resumes.",
        "--goal goal.safetensors --data episodes\n--output trained.safetensors",
    )
    add_shared(command, "--goal", required=True)
    command.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="A folder of episodes from `genreward collect`, or minari:<dataset>.",
    )
    add_shared(command, "--output", help="The goal bundle to write.")
    nets = command.add_argument_group("the nets")
    add_shared(nets, "--features")
    add_count(nets, "--stack", "How many frames the nets see at once.", default=1)
    nets.add_argument(
        "--variant",
        choices=("standard", "one-step"),
        default="standard",
        help="Whose values are learned: those of the best policy for each goal "
        "(standard), or of the policy in the data (one-step).",
    )
    training = command.add_argument_group("the training")
    for group, options in ((nets, CONFIG), (training, TRAINING)):
        for name, (kind, said) in options.items():
            group.add_argument(
                f"--{name.replace('_', '-')}",
                type=kind,
                metavar="N" if kind is int else "X",
                help=f"{said[:-1]}; that of the small model by default.",
            )
    add_shared(training, "--updates")
    training.add_argument(
        "--anneal-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="The share of the updates, at the end, that are made with a fifth of the "
        "learning rate.",
    )
    for flag in ("--checkpoint", "--tensorboard", "--cache", "--device"):
        add_shared(training, flag)


def run_train_fb(args: argparse.Namespace) -> int:
    """Trains, prints what the nets are worth, and writes the bundle."""
    check_goal(args.goal)
    check_encoders(None if args.features == "state" else args.features)
    check_places([args.data])
    check_writable(args.output.parent)
    from genreward_wrappers.data.goals import load_goal
    from genreward_wrappers.progress import progress_bar, tensorboard
    from genreward_wrappers.training.forward_backward.features import (
        Features,
        default_cache,
    )
    from genreward_wrappers.training.forward_backward.fit import (
        SMALL_TRAINING,
        Plan,
        train_fb,
    )
    from genreward_wrappers.training.forward_backward.settings import FBTraining
    from genreward_wrappers.training.forward_backward.sources import load_trajectories

    bundle = load_goal(args.goal)
    features = Features.for_goal(bundle, args.features, args.stack, device=args.device)
    training = FBTraining(**{**SMALL_TRAINING, **given(args, *TRAINING)})
    checkpoint = args.checkpoint or args.output.with_name(
        f"{args.output.name}.checkpoint"
    )
    with progress_bar("frames to features", quiet=args.quiet) as on_progress:
        recorded = load_trajectories(
            args.data,
            features,
            cache=args.cache or default_cache(),
            on_progress=on_progress,
        )
    with (
        tensorboard(args.tensorboard) as write,
        progress_bar("updates", SHOWN, args.quiet) as on_progress,
    ):

        def on_update(step: int, figures: Mapping[str, float]) -> None:
            on_progress(step, args.updates, figures)
            write(step, figures)

        made = train_fb(
            bundle,
            recorded,
            features,
            config={"conditioned": args.variant == "standard", **given(args, *CONFIG)},
            training=training,
            plan=Plan(
                args.updates,
                checkpoint,
                anneal_share=args.anneal_share,
                on_progress=on_update,
            ),
            device=args.device,
        )
    made.save(args.output)
    # Nothing resumes from here: with other data or settings it would be in the way.
    checkpoint.unlink(missing_ok=True)
    for name, value in made.nets_config["statistics"].items():
        print(f"{name:18} {value:.4g}")
    print(f"{args.output}: {made!r}")
    return 0
