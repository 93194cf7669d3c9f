"""``genreward train``: an agent that learns from the goal video alone."""

from __future__ import annotations

import argparse
import sys
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

if TYPE_CHECKING:
    from genreward_wrappers.evaluate.learn.runs import Progress, Run

#: Episodes between two points of the curve, each of which is a checkpoint.
CHUNK = 5


def add_train(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "train",
        run_train,
        "train an agent on a goal video alone",
        "Trains an agent on the reward of a goal video and nothing else, and shows "
        "how often it succeeds, which it is never told. Writes the success curve, "
        "redrawn while it runs, a video of the agent beside the goal, and the agent. "
        "An interrupted run resumes.",
        "--env metaworld/coffee-button --steps 10_000",
    )
    add_shared(command, "--env", required=True)
    add_count(
        command,
        "--steps",
        "How many decisions to train for, rounded up to whole episodes. A "
        "finished run continues with a larger number.",
        default=15_000,
    )
    add_shared(command, "--goal", help=GOAL_OR_VIDEO)
    command.add_argument(
        "--reward",
        default="pixels",
        metavar="NAME[:KEY=VALUE,...]",
        help="What the agent is paid by, as for evaluate: pixels compares pictures, "
        "which suffices for goals from the same camera; video does so in the latent "
        "space of the goal's encoder.",
    )
    add_shared(
        command,
        "--output",
        required=False,
        default=Path("genreward_train"),
        metavar="FOLDER",
        help="The folder to write to, and to resume from.",
    )
    add_shared(command, "--device")
    add_shared(command, "--tensorboard")
    add_shared(command, "--seed")


def run_train(args: argparse.Namespace) -> int:
    """Trains, shows how the agent does, and says how often it succeeds."""
    check_least(args, steps=1)
    check_env(args.env)
    from genreward_wrappers.evaluate.learn.episodes import check_offers_state
    from genreward_wrappers.rewards.spec import ENV, RewardSpec

    check_offers_state(args.env)
    spec = RewardSpec.parse(args.reward)
    check_goal_or_video(args.goal, args.env, [spec])
    check_writable(args.output)
    if spec.name == ENV:
        raise ValueError(
            "--reward env: the environment's own reward looks at no picture; "
            "`genreward evaluate --learn --reward env` trains on it for comparison"
        )
    from genreward_wrappers.evaluate.learn.runs import WINDOW, Run, outcome

    run = Run(args.env, args.reward, args.seed, args.goal)
    _check_folder(args.output, run)
    for package, extra in (("sbx", "learn"), ("matplotlib", "demo"), ("av", "video")):
        require(package, extra, "train needs it")
    from genreward_wrappers.encoders.base import resolve_device

    resolve_device(args.device)
    progress = _train(run, args)
    episode, video = _show(run, args.output, args.device)
    _, verdict = outcome(progress)
    last = progress.success[-WINDOW:]
    print(
        f"{args.env}: {verdict}\n\n"
        f"curve:   {_picture(args.output).resolve()}\n"
        f"video:   {video.resolve()}\n"
        f"episode: {episode.resolve()}\n\n"
        f"In {sum(last)} of the last {len(last)} episodes the agent succeeded "
        f"({sum(last) / len(last):.0%}), after {progress.steps} decisions."
    )
    return 0


def _train(run: Run, args: argparse.Namespace) -> Progress:
    from genreward_wrappers.evaluate.learn.runs import HORIZON
    from genreward_wrappers.evaluate.learn.train import learn, load_progress
    from genreward_wrappers.progress import progress_bar, tensorboard

    drawn = 0
    with (
        tensorboard(args.tensorboard) as write,
        progress_bar("decisions", ("success", "return"), args.quiet) as bar,
    ):

        def on_progress(progress: Progress) -> None:
            nonlocal drawn
            success, paid = progress.curve()[progress.steps]
            bar(progress.steps, total, {"success": success, "return": paid})
            write(
                progress.steps,
                {"rollout/success_rate": success, "reward/total": paid},
            )
            draw_curve(_picture(args.output), run, progress)
            drawn = progress.steps

        made = load_progress(run, args.output).steps
        total = max(made, -(-args.steps // HORIZON) * HORIZON)
        bar(made, total)
        try:
            progress = learn(
                run,
                args.output,
                args.steps,
                on_progress,
                chunk=CHUNK,
                device=args.device,
            )
        except KeyboardInterrupt:
            made = load_progress(run, args.output).steps
            print(
                f"\n{made} decisions are kept: the same command resumes from there",
                file=sys.stderr,
            )
            raise
    if drawn != progress.steps:
        # A process that was killed after its last checkpoint left an older picture.
        draw_curve(_picture(args.output), run, progress)
    return progress


def draw_curve(path: Path, run: Run, progress: Progress) -> None:
    """Success and return over the last episodes, against the decisions so far."""
    from matplotlib.figure import Figure

    from genreward_wrappers.data.atomic import replacing
    from genreward_wrappers.evaluate.learn.runs import HORIZON, WINDOW

    points = progress.curve(HORIZON)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    figure.suptitle(f"{run.env_id}, trained on {run.reward} alone (seed {run.seed})")
    above, below = figure.subplots(2, 1, sharex=True)
    for axis, which, label in ((above, 0, "success"), (below, 1, "return")):
        axis.plot(list(points), [point[which] for point in points.values()])
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    above.set_ylim(-0.02, 1.02)
    below.set_xlabel(f"decisions; means over the last {WINDOW} episodes")
    # A viewer that has it open never sees half of it.
    with replacing(path, path.suffix) as scratch:
        figure.savefig(scratch, dpi=110)


def _show(run: Run, folder: Path, device: str) -> tuple[Path, Path]:
    """An episode of the agent, as a file and as a film beside the goal video."""
    from genreward_wrappers.evaluate.learn.play import play
    from genreward_wrappers.evaluate.page.drawing import Column, film

    episode = play(run, folder, device)
    episode.save(folder / "agent.safetensors")
    name = next(name for name in episode.rewards if name != "env")
    how = "success" if episode.succeeded else "no success"
    columns = [Column(f"agent ({how})", episode.frames, episode.rewards[name])]
    if "goal" in episode.info:
        videos = run.find_goal().videos
        columns.insert(0, Column("goal", videos[episode.info["goal"]]))
    film(folder / "agent.mp4", columns, len(episode))
    return folder / "agent.safetensors", folder / "agent.mp4"


def _picture(folder: Path) -> Path:
    return folder / "success.png"


def _check_folder(folder: Path, run: Run) -> None:
    """Raises if a folder holds the agent of another run."""
    from genreward_wrappers.evaluate.learn.train import CHECKPOINT, checkpoint_of

    there = set(folder.glob(f"*{CHECKPOINT}"))
    for other in sorted(there - {checkpoint_of(run, folder)}):
        raise ValueError(
            f"--output {folder} holds another run, {other.name[: -len(CHECKPOINT)]}, "
            f"and this one is {run.name}: give another folder"
        )
