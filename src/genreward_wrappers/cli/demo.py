"""``genreward demo``: what a scripted, a noisy and a random policy earn.

The same wrapper that an agent would train with, over three policies of which anyone can
see who does the task. If the reward does not pay those more that do, it is not worth
training on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.frames import sample_steps

EXTRA = 'pip install "genreward-wrappers[all]"'
Policy = Callable[[NDArray[np.float64]], NDArray[np.float32]]


@dataclass
class Episode:
    """One policy's episode.

    Attributes:
        name: The policy's.
        frames: Its frames, the first one included.
        rewards: The components of its reward, step by step.
        success: Whether the environment called it one.
        goal: The goal video that it was compared with.
    """

    name: str
    frames: list[UInt8] = field(default_factory=list)
    rewards: dict[str, list[float]] = field(default_factory=dict)
    success: bool = False
    goal: UInt8 = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))


def run_demo(
    env_id: str, goal: str | None, output: Path, seed: int, device: str
) -> list[Episode]:
    """Plays the three episodes, prints the table, and draws the picture and video.

    Args:
        env_id: A Meta-World environment of this package.
        goal: A goal bundle; None is the embedded one.
        output: The folder for the picture and the video; made if need be.
        seed: Of the episodes' positions and the policies' noise.
        device: Where the encoder runs.
    """
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError(f"the demo needs rich and matplotlib: {EXTRA}") from error
    import torch

    from genreward_wrappers import GenRewardWrapper, load_goal, make

    # One frame at a time is too little for two threads, and where another program holds
    # a core they wait for each other fifty times as long as they work.
    torch.set_num_threads(1)
    if not env_id.startswith("metaworld/"):
        raise ValueError(
            f"env {env_id!r}: the demo needs a scripted policy, which Meta-World has: "
            'give an id like "metaworld/pick-place"'
        )
    bundle = load_goal(goal, env_id)
    console = Console()
    env = GenRewardWrapper(
        make(env_id, obs="dict"),
        goal=bundle,
        device=device,
        frame_weight=None if bundle.nets else 0,
    )
    assert env.spec is not None
    horizon = env.spec.max_episode_steps
    assert horizon is not None
    output.mkdir(parents=True, exist_ok=True)
    episodes = []
    with Progress(console=console) as progress:
        for name, policy in _policies(env_id, seed).items():
            task = progress.add_task(f"{name} policy", total=horizon)
            episodes.append(
                _play(env, name, policy, seed, lambda t=task: progress.advance(t))  # type: ignore[misc]
            )
        env.close()
        task = progress.add_task("picture and video", total=2)
        picture = output / "rewards.png"
        _draw(picture, env_id, episodes)
        progress.advance(task)
        video = output / "policies.mp4"
        _film(video, episodes)
        progress.advance(task)
    console.print(_table(env_id, episodes))
    console.print(
        "reward_total is what the agent is given: the video-level score"
        + (
            " and a quarter of the frame-level one."
            if bundle.nets
            else ". This goal has no frame-level part."
        )
    )
    console.print(f"picture: {picture.resolve()}", soft_wrap=True)
    console.print(f"video:   {video.resolve()}", soft_wrap=True)
    return episodes


def _policies(env_id: str, seed: int) -> dict[str, Policy]:
    from genreward_wrappers.envs.metaworld import scripted_policy

    script = scripted_policy(env_id.removeprefix("metaworld/"))
    rng = np.random.default_rng(seed)

    def noisy(state: NDArray[np.float64]) -> NDArray[np.float32]:
        noise = rng.normal(0, 1.0, 4)
        return np.clip(script(state) + noise, -1, 1).astype(np.float32)

    def random(state: NDArray[np.float64]) -> NDArray[np.float32]:
        return rng.uniform(-1, 1, 4).astype(np.float32)

    return {"scripted": script, "noisy": noisy, "random": random}


def _play(
    env: Any, name: str, policy: Policy, seed: int, tick: Callable[[], None]
) -> Episode:
    # Goals are of seeds above a million; these are others.
    observation, _ = env.reset(seed=seed)
    model = env.session.models[0]
    followed = int(model.chosen(env.session.snapshot().memories[0])[0])
    episode = Episode(name, [observation["pixels"]], goal=model.goal.videos[followed])
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(
            policy(observation["state"])
        )
        episode.frames.append(observation["pixels"])
        parts = {
            key: value
            for key, value in info.items()
            if key.startswith("reward_") and not key.endswith("_due")
        }
        for key, value in {**parts, "reward_total": reward}.items():
            episode.rewards.setdefault(key, []).append(float(value))
        episode.success |= info["is_success"]
        over = terminated or truncated
        tick()
    return episode


def _table(env_id: str, episodes: list[Episode]) -> Any:
    from rich.table import Table

    names = list(episodes[0].rewards)
    table = Table(title=f"{env_id}: return of one episode, by component")
    table.add_column("policy")
    table.add_column("success")
    for name in names:
        table.add_column(name, justify="right")
    for episode in episodes:
        sums = [f"{sum(episode.rewards[name]):.1f}" for name in names]
        table.add_row(episode.name, "yes" if episode.success else "no", *sums)
    return table


def _draw(path: Path, env_id: str, episodes: list[Episode]) -> None:
    """The goal's and the episodes' frames in time, and the scores under them."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"the demo needs matplotlib: {EXTRA}") from error

    shots = 9
    horizon = len(episodes[0].frames) - 1
    steps = sample_steps(shots, horizon)
    figure = Figure(figsize=(10, 9), layout="constrained")
    figure.suptitle(f"{env_id}: how closely each policy follows the goal video")
    axes = figure.subplots(5, 1, height_ratios=[1, 1, 1, 1, 2.6], sharex=True)
    # All three begin alike, so they follow the same goal.
    rows: list[tuple[str, Any]] = [("goal video", episodes[0].goal)]
    rows += [(e.name, e.frames) for e in episodes]
    width = horizon / (shots - 1) * 0.94
    for axis, (name, frames) in zip(axes, rows, strict=False):
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set_yticks([])
        axis.tick_params(bottom=False)
        axis.spines[:].set_visible(False)
        for step in steps:
            index = round(step / horizon * (len(frames) - 1))
            axis.imshow(
                frames[index],
                extent=(step - width / 2, step + width / 2, 0, 1),
                aspect="auto",
            )
        axis.set_ylim(0, 1)
    curves = axes[-1]
    # Told apart without colour, too.
    for episode, style in zip(episodes, ("-", "--", ":"), strict=True):
        label = f"{episode.name} ({'success' if episode.success else 'no success'})"
        curves.plot(
            range(1, horizon + 1),
            episode.rewards["reward_video"],
            style,
            label=label,
            linewidth=2,
        )
    curves.set_xlim(-width / 2, horizon + width / 2)
    curves.set_xlabel("environment step")
    curves.set_ylabel("video-level reward")
    curves.grid(alpha=0.3)
    curves.legend()
    figure.savefig(path, dpi=110)


def _film(path: Path, episodes: list[Episode]) -> None:
    """Goal and episodes side by side, each with its name and its score as a bar."""
    from genreward_wrappers.data.video_files import write_video

    zoom, bar, gap = 3, 12, 6
    goal = episodes[0].goal
    horizon = len(episodes[0].frames) - 1
    names = _captions(["goal", *(e.name for e in episodes)], zoom * goal.shape[2])
    top = max(max(e.rewards["reward_video"]) for e in episodes)
    film = []
    for step in range(0, horizon + 1, 2):
        tiles = [(goal[round(step / horizon * (len(goal) - 1))], 0.0)]
        for episode in episodes:
            paid = episode.rewards["reward_video"][step - 1] if step else 0.0
            tiles.append((episode.frames[step], paid / max(top, 1e-8)))
        columns = []
        for name, (frame, share) in zip(names, tiles, strict=True):
            large = frame.repeat(zoom, 0).repeat(zoom, 1)
            under = np.full((bar, large.shape[1], 3), 40, np.uint8)
            under[2:-2, : int(np.clip(share, 0, 1) * large.shape[1])] = (90, 190, 250)
            column = np.concatenate([name, large, under])
            columns += [column, np.full((len(column), gap, 3), 255, np.uint8)]
        film.append(np.concatenate(columns[:-1], axis=1))
    write_video(path, np.stack(film), fps=20)


def _captions(names: list[str], width: int) -> list[UInt8]:
    # Pillow is there wherever matplotlib is.
    from PIL import Image, ImageDraw

    strips = []
    for name in names:
        strip = Image.new("RGB", (width, 18), "white")
        ImageDraw.Draw(strip).text((4, 3), name, fill="black")
        strips.append(np.asarray(strip))
    return strips
