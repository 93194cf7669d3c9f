r"""Holds GenReward and six published rewards against each other, on ten tasks.

    python -m benchmarks.compare --work runs/compare
    python -m benchmarks.compare --work runs/recorded --goals runs/goals \
        --named recorded --rewards video frame
    python -m benchmarks.compare --cost
    python -m benchmarks.compare --table

Each task is one call of `genreward evaluate`: the same test episodes for all rewards.
All of them are on small models: what comes with the package, and what lies in the
repository's folder ``models``. Lines go to ``results/compare.jsonl``; what is there is
not run again. ``--cost`` times them over the same frames, one after the other.
``generated``, goals of each episode's own first frame, takes as long as all the others
and is left out unless asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.goals import embedded_goals, load_goal
from genreward_wrappers.envs.stages import sentences
from genreward_wrappers.evaluate.judge.judged_rewards import Maker
from genreward_wrappers.relabel.fold import score_episodes

RESULTS = Path(__file__).parent / "results/compare.jsonl"
MODELS = Path(__file__).parents[1] / "models"
CLIP = "encoder='embedded:clip-64'"
FIGURES = (
    *("auc_mean", "auc_final", "near_auc_mean", "voc_spearman", "rank_tau_b"),
    *("static_place", "hover_share", "near_share"),
)
TASKS = [env_id for env_id in embedded_goals() if env_id.startswith("metaworld/")]
HORIZON, FRAMES = 256, 65


def specs(
    env_id: str, horizon: int = HORIZON, every_frame: Collection[str] = ()
) -> dict[str, str]:
    """The rewards by short names, as the command line takes them.

    They look at 65 frames of an episode, as the video-level reward does in an
    evaluation. The priors look at 17, which is the pace of the videos that they know,
    and RoboCLIP at 32. TADPoLe stands there twice, the second time without the term
    that is paid whatever the frame shows.

    Args:
        env_id: The environment's id.
        horizon: The number of steps in an episode.
        every_frame: The names of rewards that look at every frame instead.
    """
    begins, *_, ends = sentences(env_id)
    # How many frames after the first, and the reward without its pace.
    paced = {
        "vlm-rm": (64, f"vlm-rm:{CLIP},prompt='{ends}',baseline='{begins}'"),
        "liv": (64, f"liv:{CLIP},prompt='{ends}'"),
        "viper": (16, f"viper:prior='{MODELS}/viper-64.safetensors'"),
        "diffusion-reward": (
            16,
            f"diffusion-reward:prior='{MODELS}/diffusion-reward-64.safetensors'",
        ),
        "tadpole": (
            64,
            f"tadpole:pipeline='{MODELS}/text-to-image-64',prompt='{ends}'",
        ),
    }
    known = {
        name: spec if name in every_frame else f"{spec},every={horizon // frames}"
        for name, (frames, spec) in paced.items()
    }
    return {
        "video": "video",
        "frame": "frame",
        "generated": "generated",
        "roboclip": f"roboclip:weights='{MODELS}/s3d-64.safetensors',prompt='{ends}'",
        **known,
        "tadpole-w1=0": f"{known['tadpole']},w1=0",
        "env": "env",
    }


#: Those that look at a bundle's videos.
OF_GOALS = ("video", "frame", "pixels", "random")
#: The tables: all rewards on the embedded goals, and recorded goals beside those.
ALL = (
    *("video, embedded", "frame, embedded", "roboclip", "vlm-rm", "liv", "viper"),
    *("diffusion-reward", "tadpole", "tadpole-w1=0", "env"),
    *("pixels, embedded", "random, embedded"),
)
GOALS = [f"{name}, {of}" for name in OF_GOALS for of in ("embedded", "recorded")]


def evaluate(env_id: str, names: Sequence[str], goal: Path | None, work: Path) -> dict:
    """The report of one task."""
    folder = work / env_id.replace("/", "--")
    command = [sys.executable, "-m", "genreward_wrappers", "evaluate"]
    command += ["--env", env_id, "--output", str(folder)]
    known = specs(env_id)
    for name in names:
        command += ["--reward", known[name]]
    if goal is not None:
        command += ["--goal", str(goal)]
    subprocess.run(command, check=True)
    return dict(json.loads((folder / "report.json").read_text()))


def rows(report: dict, names: Sequence[str], env_id: str, named: str) -> list[dict]:
    """One line a reward and control."""
    known = {spec: name for name, spec in specs(env_id).items() if name in names}
    found = []
    for name, metrics in report["metrics"].items():
        figures = {key: (metrics.get(key) or {}).get("value") for key in FIGURES}
        short = known.get(name, name)
        found.append({"task": env_id, "goals": named, "reward": short, **figures})
    return found


def results(path: Path = RESULTS) -> list[dict[str, Any]]:
    """All that has been run: the lines of a file, none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(figure: str, columns: Sequence[str]) -> str:
    """A figure for every task and reward, and its mean."""
    cells: dict[tuple[str, str], float | None] = {}
    for row in results():
        name = row["reward"]
        if name in OF_GOALS:
            name = f"{name}, {row['goals']}"
        cells[row["task"], name] = row[figure]
    lines = [
        "| task | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for task in TASKS:
        shown = [cells.get((task, name)) for name in columns]
        parts = ["-" if v is None else f"{v:.2f}" for v in shown]
        lines.append(f"| {task.partition('/')[2]} | " + " | ".join(parts) + " |")
    means = []
    for name in columns:
        of = [v for task in TASKS if (v := cells.get((task, name))) is not None]
        means.append(f"{np.mean(of):.2f}" if len(of) == len(TASKS) else "-")
    return "\n".join([*lines, "| **mean** | " + " | ".join(means) + " |"])


def film(seed: int) -> Episode:
    """An episode with a frame at every step; what it shows costs nothing."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (HORIZON + 1, 64, 64, 3), np.uint8)
    return Episode(
        frames=frames,
        frame_steps=np.arange(HORIZON + 1),
        actions=np.zeros((HORIZON, 4), np.float32),
        success=np.zeros(HORIZON, np.bool_),
    )


def cost(env_id: str) -> str:
    """What a step of an environment costs with each reward, and each scored frame."""
    goal = load_goal(None, env_id)
    maker = Maker(goal, HORIZON, FRAMES)
    lines = ["| reward | frames per episode | ms per step | of 16 | ms per frame |"]
    lines.append("|---" * 5 + "|")
    for name, spec in specs(env_id).items():
        if name in ("env", "generated"):
            # What a generated goal costs is paid at the reset, and in `goal_seconds`.
            continue
        (contestant,) = maker.make(spec)
        ((model, _),) = contestant.parts
        seen = int(model.wants(np.arange(1, HORIZON + 1)).sum())
        score_episodes(model, [film(0)])
        spent = []
        for first, count in ((1, 1), (2, 16)):
            # No frame that was seen before, or a memo would remember it.
            episodes = [film(first + i) for i in range(count)]
            begin = time.perf_counter()
            score_episodes(model, episodes)
            spent.append(1e3 * (time.perf_counter() - begin) / count)
        one, many = spent
        lines.append(
            f"| {name} | {seen} | {one / HORIZON:.2f} | {many / HORIZON:.2f} | "
            f"{many / seen:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Evaluates what is missing, or prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--goals", type=Path, help="a folder; the embedded otherwise")
    parser.add_argument("--named", default="embedded", help="what the goals are")
    known = [name for name in specs(TASKS[0]) if name != "generated"]
    parser.add_argument("--rewards", nargs="+", default=known)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    if args.table:
        for figure in FIGURES:
            for columns in (ALL, GOALS):
                print(f"\n{figure}\n\n{table(figure, columns)}")
        return
    if args.cost:
        print(cost("metaworld/drawer-close"))
        return
    for env_id in args.tasks:
        there = {
            row["reward"]
            for row in results()
            if (row["task"], row["goals"]) == (env_id, args.named)
        }
        missing = [name for name in args.rewards if name not in there]
        if not missing:
            continue
        goal = args.goals and args.goals / f"{env_id.replace('/', '--')}.safetensors"
        report = evaluate(env_id, missing, goal, args.work)
        with RESULTS.open("a") as file:
            for row in rows(report, missing, env_id, args.named):
                if row["reward"] not in there:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
