"""Episodes as pictures and films: their frames beside the goal's, and their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import at_least
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.episodes import GOAL_FILE, Episode
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.data.goals import GoalBundle, load_goal
from genreward_wrappers.extras import require

figure = require("matplotlib.figure", "demo", "pictures need matplotlib")


class EpisodeFigure(figure.Figure):  # type: ignore[misc, name-defined]
    """A figure that notebooks show, whether or not pyplot is imported."""

    def _repr_png_(self) -> bytes:
        from io import BytesIO

        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def plot_episode(
    episode: Episode | str | PathLike[str],
    goal: GoalBundle | str | PathLike[str] | None = None,
    *,
    shots: int = 9,
) -> EpisodeFigure:
    """One episode's frames over time, the goal's above them, the rewards below.

    Args:
        episode: A recorded episode, or the file of one, such as ``record=`` writes.
        goal: What `load_goal` takes. None looks for the ``goal.safetensors`` that
            ``record=`` writes beside its episodes; without one there is no goal row.
        shots: The number of frames to show.

    Returns:
        A matplotlib figure, which notebooks show; ``.savefig(path)`` writes it.

    Example:
        >>> plot_episode("runs/first/episode-00000027-9f3b.safetensors").savefig(
        ...     "episode.png"
        ... )  # doctest: +SKIP
    """
    at_least(2, shots=shots)
    if not isinstance(episode, Episode):
        beside = Path(episode).with_name(GOAL_FILE)
        if goal is None and beside.is_file():
            goal = beside
        episode = Episode.load(episode)
    steps = evenly(shots, len(episode)).tolist()
    seen = np.searchsorted(episode.frame_steps, steps, side="right") - 1
    rows = [("episode", episode.frames[seen])]
    if goal is not None:
        bundle = load_goal(goal)
        index = max(0, int(episode.info.get("goal", 0)))
        if index >= len(bundle.videos):
            raise ValueError(
                f"the episode followed goal video {index}, and {bundle!r} has "
                f"{len(bundle.videos)}: give the bundle that it was recorded with"
            )
        video = bundle.videos[index]
        rows.insert(0, ("goal video", video[evenly(shots, len(video) - 1)]))
    height = 1.1 * len(rows) + 1.5 * len(episode.rewards) + 0.6
    figure = EpisodeFigure(figsize=(10, height), layout="constrained")
    axes = figure.subplots(
        len(rows) + len(episode.rewards),
        height_ratios=[1.1] * len(rows) + [1.5] * len(episode.rewards),
        sharex=True,
        squeeze=False,
    )[:, 0]
    said = "success" if episode.succeeded else "no success"
    task = episode.info.get("env_id") or "episode"
    figure.suptitle(f"{task}: {len(episode)} steps, {said}")
    for axis, (name, frames) in zip(axes, rows, strict=False):
        strip(axis, name, frames, steps)
    for axis, (name, paid) in zip(
        axes[len(rows) :], episode.rewards.items(), strict=True
    ):
        due = np.flatnonzero(np.isfinite(paid))
        # A line through a few points would hide that nothing is paid between them.
        axis.plot(due + 1, paid[due], "-" if 2 * len(due) > len(paid) else "o")
        if episode.succeeded:
            axis.axvline(int(episode.success.argmax()) + 1, color="gray", ls=":")
        axis.set_ylabel(f"reward_{name}")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    return figure


def strip(axis: Any, name: str, frames: Sequence[UInt8] | UInt8, at: Any) -> None:
    """A row of frames, each centred on its time."""
    # By the smallest distance: steps are whole, so distances differ by one.
    width = 0.94 * min(np.diff(at))
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.set_yticks([])
    axis.tick_params(bottom=False)
    axis.spines[:].set_visible(False)
    for step, frame in zip(at, frames, strict=True):
        place = (step - width / 2, step + width / 2, 0, 1)
        axis.imshow(frame, extent=place, aspect="auto")
    axis.set_xlim(at[0] - width / 2, at[-1] + width / 2)
    axis.set_ylim(0, 1)


@dataclass(frozen=True)
class Column:
    """One column of a film.

    Attributes:
        name: The text above it.
        frames: Its frames, spread over the whole film.
        paid: The reward of each step, drawn as a bar below; empty for none.
    """

    name: str
    frames: Sequence[UInt8] | UInt8
    paid: Sequence[float] | NDArray[Any] = ()


def film(
    path: str | PathLike[str], columns: Sequence[Column], steps: int, every: int = 1
) -> None:
    """Columns side by side, each with its name and its reward as a bar, as an mp4.

    Args:
        path: The file to write.
        columns: The columns.
        steps: The number of steps of the episodes.
        every: The number of steps between two pictures.
    """
    from genreward_wrappers.data.video_files import write_video

    width = columns[0].frames[0].shape[1]
    zoom, bar, gap = max(1, 192 // width), 12, 6
    names = _captions([column.name for column in columns], zoom * width)
    most = max((float(np.nanmax(c.paid)) for c in columns if len(c.paid)), default=0.0)
    shown = []
    for step in range(0, steps + 1, every):
        tiles = []
        for name, column in zip(names, columns, strict=True):
            frames = column.frames
            large = frames[round(step / steps * (len(frames) - 1))]
            large = large.repeat(zoom, 0).repeat(zoom, 1)
            paid = column.paid[step - 1] if step and len(column.paid) else 0.0
            share = float(np.clip(np.nan_to_num(paid) / max(most, 1e-8), 0, 1))
            under = np.full((bar, large.shape[1], 3), 40, np.uint8)
            under[2:-2, : int(share * large.shape[1])] = (90, 190, 250)
            tile = np.concatenate([name, large, under])
            tiles += [tile, np.full((len(tile), gap, 3), 255, np.uint8)]
        shown.append(np.concatenate(tiles[:-1], axis=1))
    write_video(path, np.stack(shown), fps=20)


def _captions(names: Sequence[str], width: int) -> list[UInt8]:
    # Pillow is there wherever matplotlib is.
    from PIL import Image, ImageDraw

    strips = []
    for name in names:
        image = Image.new("RGB", (width, 18), "white")
        ImageDraw.Draw(image).text((4, 3), name, fill="black")
        strips.append(np.asarray(image))
    return strips
