"""``genreward score``: what rewards pay for videos and recorded episodes."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_goal_or_video,
    check_least,
)
from genreward_wrappers.extras import require
from genreward_wrappers.rewards.spec import RewardSpec

if TYPE_CHECKING:
    from genreward_wrappers.relabel import Recording, Scorer
    from genreward_wrappers.relabel.table import Row


def add_score(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "score",
        run_score,
        "score videos and recorded episodes",
        "Scores every frame of videos, recorded episodes and datasets with one or more "
        "rewards, prints a table, and writes a parquet file with a row for each frame.",
        "try-1.mp4 try-2.mp4 --goal goal.safetensors\n--overlay scores.mp4",
    )
    command.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="A video (mp4, gif, npy), a folder of videos or of one video's pictures, "
        "recorded episodes, a LeRobotDataset, or minari:<dataset>.",
    )
    recordings, _ = add_scoring(command, "video", several=True)
    recordings.add_argument(
        "--fps",
        type=float,
        metavar="N",
        help="The frame rate of the videos; by default what the files say.",
    )
    result = command.add_argument_group("the result")
    add_shared(
        result,
        "--output",
        required=False,
        default=Path("scores.parquet"),
        help="The parquet file to write.",
    )
    result.add_argument(
        "--overwrite", action="store_true", help="Replace existing files."
    )
    result.add_argument(
        "--overlay",
        type=Path,
        metavar="FILE",
        help="An mp4 to write, of the episodes with the curves of their rewards beside "
        "them; none by default.",
    )
    add_shared(result, "--json")


def add_scoring(
    command: argparse.ArgumentParser, reward: str, several: bool
) -> tuple[argparse._ArgumentGroup, argparse._ArgumentGroup]:
    """Adds how recordings are scored; returns the recordings' and the models' group."""
    command.add_argument(
        "--reward",
        action="append",
        metavar="NAME[:KEY=VALUE,...]",
        help="The reward, as `genreward evaluate` takes it"
        f"{'. May be given several times' if several else ''}; {reward} by default.",
    )
    add_shared(
        command,
        "--goal",
        help="What the rewards compare with: a goal bundle (a path or an hf:// "
        "address), a video, or an environment's id; by default the goal that is "
        "embedded for the recorded environment.",
    )
    recordings = command.add_argument_group("the recordings")
    add_shared(
        recordings,
        "--env",
        help="The id of the environment that was recorded, for its goal and its time "
        "limit; what the recordings say by default.",
    )
    recordings.add_argument(
        "--horizon",
        type=int,
        metavar="STEPS",
        help="How many steps an episode has, over which the goal is spread; by "
        "default the environment's time limit, or else the length of each recording.",
    )
    add_shared(
        recordings,
        "--camera",
        help="The camera of a dataset; needed where it has several.",
    )
    models = command.add_argument_group("the models")
    add_count(
        models,
        "--batch",
        "How many episodes are scored at once; by default as many as leave every "
        "bit of their scores unchanged.",
    )
    add_shared(models, "--device")
    add_shared(models, "--dtype")
    return recordings, models


def make_scorer(args: argparse.Namespace, rewards: list[str]) -> Scorer:
    """What scores recordings, as the arguments say."""
    from genreward_wrappers.relabel import Scorer

    return Scorer(
        rewards,
        goal=args.goal,
        env_id=args.env,
        horizon=args.horizon,
        device=args.device,
        dtype=args.dtype,
        batch=args.batch,
    )


def check_scoring(args: argparse.Namespace, rewards: list[str]) -> None:
    """Raises for what is wrong before anything large is imported."""
    check_least(args, horizon=1, batch=1)
    specs = [RewardSpec.parse(reward) for reward in rewards]
    if args.goal is not None:
        check_goal_or_video(args.goal, args.env, specs)
    require("pyarrow", "parquet", "tables of scores need pyarrow")


def run_score(args: argparse.Namespace) -> int:
    """Scores, shows and writes."""
    rewards = args.reward or ["video"]
    check_scoring(args, rewards)
    if len({*rewards}) < len(rewards):
        raise ValueError(f"--reward was given twice with the same text: {rewards}")
    if args.fps is not None and not args.fps > 0:
        raise ValueError(f"--fps {args.fps}: expected a number above 0")
    for path in (args.output, args.overlay):
        if path is not None and path.exists() and not args.overwrite:
            raise ValueError(f"{path} is there already: --overwrite replaces it")
    if args.overlay is not None:
        for package in ("matplotlib", "av"):
            require(package, "demo,video", "--overlay needs matplotlib and av")
    from genreward_wrappers.progress import progress_bars
    from genreward_wrappers.relabel import find_recordings
    from genreward_wrappers.relabel.table import Row, lines, write_table

    found = [
        one for source in args.sources for one in find_recordings(source, args.camera)
    ]
    scorer = make_scorer(args, rewards)
    with progress_bars(quiet=args.quiet) as on_progress:
        scored = dict(
            scorer.run(found, lambda done, total: on_progress("episodes", done, total))
        )
    several = len(args.sources) > 1
    rows = [
        Row(one.name, i if several else one.number, args.fps or one.fps, scored[i])
        for i, one in enumerate(found)
    ]
    about = scorer.provenance()
    write_table(args.output, rows, rewards, about)
    if args.overlay is not None:
        _draw(args.overlay, found, rows, rewards)
    if args.json:
        print(json.dumps(_report(rows, rewards, args.output, about)))
    else:
        width = shutil.get_terminal_size().columns
        print("\n".join(lines(rows, rewards, width)))
        print("", *(p for p in (args.output, args.overlay) if p), sep="\n")
    return 0


def _draw(
    path: Path, found: list[Recording], rows: list[Row], rewards: list[str]
) -> None:
    from genreward_wrappers.relabel.overlay import write_overlay
    from genreward_wrappers.relabel.table import of_frames

    curves = [[of_frames(scored)[""] for scored in row.scored] for row in rows]
    write_overlay(
        path,
        (one.read() for one in found),
        curves,
        rewards,
        [Path(row.name).name for row in rows],
        rows[0].fps or 20,
    )


def _report(
    rows: list[Row], rewards: list[str], path: Path, about: Any
) -> dict[str, Any]:
    from genreward_wrappers.relabel.table import figures

    episodes = [
        {
            "name": row.name,
            "episode_index": row.number,
            "frames": row.frames,
            "rewards": {
                reward: figures(scored)
                for reward, scored in zip(rewards, row.scored, strict=True)
            },
        }
        for row in rows
    ]
    return {"file": str(path), **about, "episodes": episodes}
