"""The command line; ``genreward --help`` lists its commands."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence

from genreward_wrappers import __version__
from genreward_wrappers.cli.arguments import Commands, Help, add_verbosity
from genreward_wrappers.cli.cache import add_cache
from genreward_wrappers.cli.collect import add_collect
from genreward_wrappers.cli.completion import add_completion
from genreward_wrappers.cli.convert import add_convert
from genreward_wrappers.cli.demo import add_demo
from genreward_wrappers.cli.doctor import add_doctor
from genreward_wrappers.cli.evaluate import add_evaluate
from genreward_wrappers.cli.finetune import add_finetune
from genreward_wrappers.cli.generate import add_generate
from genreward_wrappers.cli.goals import add_goals
from genreward_wrappers.cli.inspect import add_inspect
from genreward_wrappers.cli.live import add_live
from genreward_wrappers.cli.make_goal import add_make_goal
from genreward_wrappers.cli.pack import add_pack
from genreward_wrappers.cli.pull import add_pull
from genreward_wrappers.cli.push import add_push
from genreward_wrappers.cli.relabel import add_relabel
from genreward_wrappers.cli.score import add_score
from genreward_wrappers.cli.select import add_select
from genreward_wrappers.cli.serve import add_serve
from genreward_wrappers.cli.train import add_train
from genreward_wrappers.cli.train_fb import add_train_fb
from genreward_wrappers.cli.train_pose import add_train_pose
from genreward_wrappers.cli.train_prior import (
    add_train_diffusion_reward,
    add_train_viper,
)

#: Every command, in the groups and the order in which help lists them.
COMMANDS: Mapping[str, Sequence[Callable[[Commands], None]]] = {
    "try": (add_demo, add_goals),
    "make a goal": (add_make_goal, add_generate, add_pack, add_select),
    "judge": (add_inspect, add_evaluate, add_live),
    "score": (add_score, add_relabel),
    "train": (
        add_train,
        add_serve,
        add_collect,
        add_train_fb,
        add_train_pose,
        add_train_viper,
        add_train_diffusion_reward,
        add_finetune,
    ),
    "share": (add_push, add_pull, add_convert),
    "check": (add_doctor, add_cache, add_completion),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    args.said = shlex.join(["genreward", *(sys.argv[1:] if argv is None else argv)])
    if args.command is None:
        parser.print_help()
        return 2
    shown, warnings.formatwarning = warnings.formatwarning, _one_line  # type: ignore[assignment]
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Somebody has read enough, as in `genreward goals | head`.
        sys.stderr.close()
        return 0
    # What a user can put right comes as one line, not as a traceback.
    except (ValueError, TypeError, ImportError, OSError) as error:
        if args.traceback:
            raise
        print(f"genreward {args.command}: {error}", file=sys.stderr)
        return 1
    finally:
        warnings.formatwarning = shown


def _one_line(message: Warning | str, *_: object) -> str:
    """A warning without the line of source that it came from."""
    return f"warning: {message}\n"


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="genreward",
        description="Gymnasium wrappers that turn generated goal videos into rewards.",
        formatter_class=Help,
    )
    parser.add_argument("-V", "--version", action="version", version=__version__)
    add_verbosity(parser)
    commands = parser.add_subparsers(
        dest="command", metavar="<command>", prog="genreward"
    )
    lines = []
    for group, adders in COMMANDS.items():
        before = len(commands._choices_actions)
        for add in adders:
            add(commands)
        lines.append(f"{group}:")
        lines += [
            f"  {choice.dest:24}{choice.help}"
            for choice in commands._choices_actions[before:]
        ]
    lines += ["", "`genreward <command> --help` describes a command."]
    parser.epilog = "\n".join(lines)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
