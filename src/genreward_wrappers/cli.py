"""The command line: ``genreward demo | pack | inspect | goals``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from genreward_wrappers import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    # What a user can put right comes as one line, not as a traceback.
    except (ValueError, TypeError, ImportError, OSError) as error:
        if args.traceback:
            raise
        print(f"genreward {args.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genreward",
        description="Gymnasium wrappers that turn generated goal videos into rewards.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error comes from"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")

    demo = commands.add_parser(
        "demo",
        help="three policies under the reward of an embedded goal",
        description="Runs a scripted, a noisy and a random policy on a Meta-World task "
        "with an embedded goal; prints what each earns, and draws it.",
    )
    demo.add_argument("--env", default="metaworld/pick-place")
    demo.add_argument("--goal", help="a goal bundle instead of the embedded one")
    demo.add_argument("--output", type=Path, default=Path("genreward_demo"))
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--device", default="auto")
    demo.set_defaults(run=_demo)

    pack = commands.add_parser(
        "pack",
        help="make a goal bundle of videos of your own",
        description="Brings videos (mp4, gif, npy) to one size and length and packs "
        "them into a goal bundle.",
    )
    pack.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    pack.add_argument("--env", default="", help="the id of the environment")
    pack.add_argument("--camera", default="", help="the environment's camera")
    pack.add_argument("--prompt", default="", help="the task in words")
    pack.add_argument(
        "--size", type=int, nargs="+", default=[64], metavar="N", help="height [width]"
    )
    pack.add_argument("--length", type=int, default=129, help="frames a video")
    pack.add_argument("--encoder", default="embedded:video-vae-64")
    pack.add_argument("--license", default="")
    pack.add_argument("--output", type=Path, required=True)
    pack.set_defaults(run=_pack)

    inspect = commands.add_parser("inspect", help="say what a goal bundle holds")
    inspect.add_argument("goal", help="a path, hf:// address or environment id")
    inspect.set_defaults(run=_inspect)

    goals = commands.add_parser("goals", help="list the embedded goals")
    goals.set_defaults(run=_goals)
    return parser


def _demo(args: argparse.Namespace) -> int:
    from genreward_wrappers.demo import run_demo

    run_demo(args.env, args.goal, args.output, args.seed, args.device)
    return 0


def _pack(args: argparse.Namespace) -> int:
    from genreward_wrappers.goal_pipeline.pack import pack

    if len(args.size) > 2:
        raise ValueError(f"--size takes one or two numbers, got {args.size}")
    size = args.size[0] if len(args.size) == 1 else (args.size[0], args.size[1])
    goal = pack(
        args.videos,
        env_id=args.env,
        camera=args.camera,
        prompt=args.prompt,
        size=size,
        length=args.length,
        encoder=args.encoder,
        license=args.license,
    )
    goal.save(args.output)
    print(f"{args.output}: {goal!r}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from genreward_wrappers.goals import load_goal

    goal = load_goal(args.goal)
    print(repr(goal))
    card = {
        "environment": goal.env_id,
        "camera": goal.camera,
        "prompt": goal.prompt,
        "key frames": list(goal.key_frames),
        "generator": goal.generator,
        "licence": goal.license,
        "sha256": goal.digest,
        "encoder": goal.encoder,
        "nets": goal.nets_config,
        "provenance": list(goal.provenance),
    }
    print(json.dumps(card, indent=2))
    return 0


def _goals(args: argparse.Namespace) -> int:
    from genreward_wrappers.goals import embedded_goals

    print("\n".join(embedded_goals()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
