"""``genreward evaluate``: rewards judged before anything is trained on them."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genreward_wrappers.cli.arguments import (
    GOAL_OR_VIDEO,
    Commands,
    add_command,
    add_count,
    add_shared,
    check_env,
    check_goal_or_video,
    check_least,
    check_writable,
)
from genreward_wrappers.extras import require
from genreward_wrappers.rewards.spec import OURS, RewardSpec
from genreward_wrappers.rewards.spec_text import REWARDS

if TYPE_CHECKING:
    from genreward_wrappers.evaluate.judge.run import Evaluation
    from genreward_wrappers.evaluate.page.output import Learned


def add_evaluate(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "evaluate",
        run_evaluate,
        "judge rewards before you train on them",
        "Scores test episodes of known quality with one or more rewards and their "
        "controls, prints figures and verdicts, and writes report.json and a page.",
        "--env metaworld/pick-place --reward video --reward paper",
    )
    add_shared(command, "--env", required=True)
    command.add_argument(
        "--reward",
        action="append",
        metavar="NAME[:KEY=VALUE,...]",
        help=f"The reward to judge: {', '.join(REWARDS)}, or a name that load_reward "
        "knows, for example \"vlm-rm:prompt='a red, round disc',alpha=0\". May be "
        "given several times; genreward by default.",
    )
    add_shared(command, "--goal", help=GOAL_OR_VIDEO)
    episodes = command.add_argument_group("the test episodes")
    episodes.add_argument(
        "--rollouts",
        metavar="SOURCE",
        help="Your own test episodes, a folder or minari:<dataset>; episodes are "
        "played by default.",
    )
    add_shared(
        episodes,
        "--camera",
        default=None,
        help="The environment's camera, if it is not the default one.",
    )
    add_count(
        episodes, "--frames", "How many frames of an episode are scored.", default=65
    )
    add_shared(
        episodes,
        "--cache",
        help="Where played episodes are kept; the user's cache folder by default.",
    )
    add_shared(episodes, "--processes")
    learning = command.add_argument_group("learning runs")
    learning.add_argument(
        "--learn",
        type=int,
        nargs="?",
        const=20_000,
        metavar="STEPS",
        help="Also train agents on each reward alone, for 20000 steps if no number is "
        "given (about ten minutes per run on one core). Interrupted runs resume. Not "
        "done by default.",
    )
    add_count(
        learning, "--seeds", "How many agents are trained on each reward.", default=2
    )
    add_shared(command, "--device")
    add_shared(command, "--dtype")
    result = command.add_argument_group("the result")
    add_shared(
        result,
        "--output",
        required=False,
        default=Path("genreward_report"),
        metavar="FOLDER",
        help="The folder to write the report to.",
    )
    result.add_argument(
        "--fail-below",
        action="append",
        default=[],
        metavar="FIGURE=VALUE",
        help="Exit with status 1 if this figure of a reward is lower, for example "
        "auc=0.8. May be given several times.",
    )
    add_shared(result, "--json")


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluates, shows and writes; the exit status is 1 if a limit was missed."""
    # What can be wrong is found out before anything large is imported.
    limits = _limits(args.fail_below)
    check_least(args, frames=2, seeds=1, processes=1, learn=1)
    rewards = args.reward or ["genreward"]
    _check_names(args, rewards)
    check_writable(args.output)
    evaluation, learned, paths = _evaluate(args, rewards)
    from genreward_wrappers.evaluate.page.limits import below
    from genreward_wrappers.evaluate.page.text import lines

    missed = below(evaluation, limits)
    if args.json:
        report = json.loads(paths[0].read_text())
        del report["episodes"]
        print(json.dumps({**report, "files": [*map(str, paths)], "below": missed}))
    else:
        width = shutil.get_terminal_size().columns
        print("\n".join(lines(evaluation, learned, width)))
        print("", *(path.resolve() for path in paths), sep="\n")
        for line in missed:
            print(f"below the limit: {line}")
    return 1 if missed else 0


def _evaluate(
    args: argparse.Namespace, rewards: Sequence[str]
) -> tuple[Evaluation, Learned, list[Path]]:
    """The evaluation, the learning runs, and the files they were written to."""
    for package in ("scipy", "PIL"):
        require(package, "evaluate", "evaluate needs scipy and pillow")
    from genreward_wrappers.evaluate.judge.run import evaluate
    from genreward_wrappers.evaluate.learn.runs import Run
    from genreward_wrappers.evaluate.learn.train import learn_all
    from genreward_wrappers.evaluate.page.output import write
    from genreward_wrappers.progress import progress_bars

    _leave_room()
    with progress_bars(quiet=args.quiet) as on_progress:
        evaluation = evaluate(
            args.env,
            rewards,
            args.goal,
            rollouts=args.rollouts,
            frames=args.frames,
            cache=args.cache,
            processes=args.processes,
            camera=args.camera,
            device=args.device,
            dtype=args.dtype,
            on_progress=on_progress,
        )
        learned: Learned = {}
        runs = args.output / "learning"
        if args.learn is not None:
            plan = [
                Run(args.env, reward, seed, args.goal)
                for reward in rewards
                for seed in range(args.seeds)
            ]
            learned = learn_all(
                plan,
                runs,
                args.learn,
                min(args.processes, len(plan)),
                lambda done, total: on_progress("learning runs", done, total),
                args.device,
            )
        paths = write(
            evaluation,
            args.output,
            learned,
            runs,
            args.said,
            partial(on_progress, "page"),
        )
    return evaluation, learned, paths


def _check_names(args: argparse.Namespace, rewards: Sequence[str]) -> None:
    """Raises for an environment, a reward or a goal that does not exist."""
    from genreward_wrappers.evaluate.episodes.user_episodes import check_rollouts

    specs = [RewardSpec.parse(reward) for reward in rewards]
    # Your own episodes may be of an environment that is not installed here.
    if args.rollouts is None:
        check_env(args.env)
    else:
        check_rollouts(args.rollouts)
    if args.goal is not None or any(spec.name in OURS for spec in specs):
        check_goal_or_video(args.goal, args.env, specs)


def _limits(items: Sequence[str]) -> Mapping[str, float]:
    from genreward_wrappers.evaluate.page.limits import check_limits

    limits = {}
    for item in items:
        name, _, value = item.partition("=")
        try:
            limits[name] = float(value)
        except ValueError as error:
            raise ValueError(
                f"--fail-below {item!r}: expected FIGURE=VALUE, for example auc=0.8"
            ) from error
    check_limits(limits)
    return limits


def _leave_room() -> None:
    """Takes only the cores that are free.

    On more threads than that the encoder waits for itself many times longer than it
    works.
    """
    import torch

    if hasattr(os, "getloadavg"):
        free = max(1, (os.cpu_count() or 1) - round(os.getloadavg()[0]))
        torch.set_num_threads(min(torch.get_num_threads(), free))
