"""``genreward demo``: what four policies earn, from a scripted one to none at all.

It is the wrapper that an agent would train with, and anyone can see which policy solves
the task. A reward that does not pay that one most is not worth training on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.cli.arguments import (
    GOAL_OR_VIDEO,
    Commands,
    add_command,
    add_shared,
    check_env,
)
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.envs.families import find_family
from genreward_wrappers.envs.policies import Act, make_policy
from genreward_wrappers.extras import require
from genreward_wrappers.generators.own_videos import load_or_pack
from genreward_wrappers.progress import (
    OnProgress,
    OnStage,
    no_progress,
    progress_bars,
)

#: Best first: what a reward should make of them.
POLICIES = ("scripted", "noisy", "random", "still")


@dataclass
class Episode:
    """One policy's episode.

    Attributes:
        name: The policy's.
        frames: Its frames, the first one included.
        rewards: The components of its reward, step by step.
        solved: The first step that the environment called a success; None without one.
        goal: The goal video that it was compared with.
    """

    name: str
    frames: list[UInt8] = field(default_factory=list)
    rewards: dict[str, list[float]] = field(default_factory=dict)
    solved: int | None = None
    goal: UInt8 = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))


def add_demo(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "demo",
        run_demo,
        "compare four policies under an embedded goal's reward",
        "Runs a scripted, a noisy, a random and a motionless policy on a Meta-World "
        "task with an embedded goal, prints what each earns, and draws a picture and a "
        "video.",
        "--env metaworld/coffee-button",
    )
    add_shared(command, "--env", default="metaworld/door-open")
    add_shared(command, "--goal", help=GOAL_OR_VIDEO)
    add_shared(
        command,
        "--output",
        required=False,
        default=Path("genreward_demo"),
        metavar="FOLDER",
        help="The folder to write the picture and the video to.",
    )
    add_shared(command, "--seed")
    add_shared(command, "--device")


def run_demo(args: argparse.Namespace) -> int:
    """Plays the episodes, prints the table, and draws the picture and video."""
    family = find_family(args.env)
    if family is None or family.script is None:
        raise ValueError(
            f"env {args.env!r}: the demo needs a scripted policy, which Meta-World "
            'has: give an id like "metaworld/pick-place"'
        )
    check_env(args.env)
    bundle = load_or_pack(args.goal, args.env)
    require("matplotlib", "all", "the demo needs matplotlib")
    picture, video = args.output / "rewards.png", args.output / "policies.mp4"
    with progress_bars(quiet=args.quiet) as on_progress:
        on_progress("environment and goal", 0, 1)
        env = make_env(args.env, bundle, args.device)
        on_progress("environment and goal", 1, 1)
        args.output.mkdir(parents=True, exist_ok=True)
        episodes = play_policies(env, args.env, args.seed, on_progress)
        on_progress("picture and video", 0, 2)
        _draw(picture, args.env, episodes)
        on_progress("picture and video", 1, 2)
        _film(video, episodes)
        on_progress("picture and video", 2, 2)
    print("\n".join(_table(args.env, episodes)))
    parts = (
        " and a quarter of the frame-level one"
        if bundle.nets
        else " (this goal has no frame-level part)"
    )
    print(
        f"reward_total is what the agent is given: the video-level score{parts},\n"
        "without the environment's own reward, reward_env.\n"
        f"picture: {picture.resolve()}\nvideo:   {video.resolve()}"
    )
    return 0


def make_env(env_id: str, goal: GoalBundle, device: str) -> Any:
    """The environment with the reward that an agent would train with."""
    import torch

    from genreward_wrappers import GenRewardWrapper, make

    # One frame at a time is too little for two threads, and where another program holds
    # a core they wait for each other fifty times as long as they work.
    torch.set_num_threads(1)
    return GenRewardWrapper(
        make(env_id, obs="dict"),
        goal=goal,
        device=device,
        frame_weight=None if goal.nets else 0,
    )


def play_policies(
    env: Any, env_id: str, seed: int = 0, on_progress: OnStage = no_progress
) -> list[Episode]:
    """One episode of each policy, the scripted one first.

    Args:
        env: What `make_env` made.
        env_id: Its id.
        seed: The seed of the episodes' positions and of the policies' noise.
        on_progress: Called with each policy, its steps so far, and all of them.
    """
    horizon = env.spec.max_episode_steps
    try:
        return [
            _play(
                env,
                name,
                make_policy(name, env, env_id, seed),
                seed,
                partial(on_progress, name),
                horizon,
            )
            for name in POLICIES
        ]
    finally:
        env.close()


def _play(
    env: Any, name: str, act: Act, seed: int, on_progress: OnProgress, steps: int
) -> Episode:
    # Goals are of seeds above a million; these are others.
    observation, _ = env.reset(seed=seed)
    model = env.session.models[0]
    followed = int(model.chosen(env.session.snapshot().memories[0])[0])
    episode = Episode(name, [observation["pixels"]], goal=model.goal.videos[followed])
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(act(observation))
        episode.frames.append(observation["pixels"])
        parts = {
            key: value
            for key, value in info.items()
            if key.startswith("reward_") and not key.endswith("_due")
        }
        for key, value in {**parts, "reward_total": reward}.items():
            episode.rewards.setdefault(key, []).append(float(value))
        if info["is_success"] and episode.solved is None:
            episode.solved = len(episode.frames) - 1
        over = terminated or truncated
        on_progress(len(episode.frames) - 1, steps)
    return episode


def _table(env_id: str, episodes: list[Episode]) -> Iterator[str]:
    """A line for each policy, in fewer than 80 columns."""
    names = list(episodes[0].rewards)
    yield f"{env_id}: return of one episode, by component"
    yield " ".join(["policy    success", *(f"{name:>14}" for name in names)])
    for episode in episodes:
        sums = [f"{sum(episode.rewards[name]):14.1f}" for name in names]
        solved = "no" if episode.solved is None else "yes"
        yield " ".join([f"{episode.name:10}{solved:>7}", *sums])


def _draw(path: Path, env_id: str, episodes: list[Episode]) -> None:
    """The goal's and the episodes' frames in time; below, what each has been paid."""
    from matplotlib.figure import Figure

    from genreward_wrappers.evaluate.page.drawing import strip

    horizon = len(episodes[0].frames) - 1
    steps = sample_steps(9, horizon)
    # All begin alike, so they follow the same goal.
    rows: list[tuple[str, Any]] = [("goal video", episodes[0].goal)]
    rows += [(e.name, e.frames) for e in episodes]
    figure = Figure(figsize=(10, 10), layout="constrained")
    figure.suptitle(f"{env_id}: what each policy is paid for following the goal video")
    axes = figure.subplots(
        len(rows) + 1, 1, height_ratios=[*[1] * len(rows), 2.6], sharex=True
    )
    for axis, (name, frames) in zip(axes, rows, strict=False):
        chosen = [round(step / horizon * (len(frames) - 1)) for step in steps]
        strip(axis, name, [frames[index] for index in chosen], steps)
    curves = axes[-1]
    # Told apart without colour, too.
    for episode, style in zip(episodes, ("-", "--", ":", "-."), strict=True):
        paid = np.cumsum(episode.rewards["reward_total"])
        (line,) = curves.plot(
            range(1, len(paid) + 1), paid, style, label=episode.name, linewidth=2
        )
        if episode.solved is not None:
            curves.plot(
                episode.solved,
                paid[episode.solved - 1],
                "*",
                color=line.get_color(),
                markersize=16,
                label=f"{episode.name}: solved at step {episode.solved}",
            )
    curves.set_xlabel("environment step")
    curves.set_ylabel("reward so far")
    curves.grid(alpha=0.3)
    curves.legend()
    figure.savefig(path, dpi=110)


def _film(path: Path, episodes: list[Episode]) -> None:
    """Goal and episodes side by side, each with its name and its score as a bar."""
    from genreward_wrappers.evaluate.page.drawing import Column, film

    columns = [Column("goal", episodes[0].goal)]
    columns += [Column(e.name, e.frames, e.rewards["reward_video"]) for e in episodes]
    film(path, columns, steps=len(episodes[0].frames) - 1, every=2)
