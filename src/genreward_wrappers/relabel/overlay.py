"""A film of episodes with the curves of their rewards beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.atomic import replacing
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.video_files import write_video
from genreward_wrappers.extras import require

#: The height of the film, and the width of the curves, in pixels.
HEIGHT, WIDTH = 384, 512
#: What is to come is paler by so much.
PALE = 0.75
MARK = (200, 60, 40)


def write_overlay(
    path: Path,
    episodes: Iterable[Episode],
    scores: Sequence[Sequence[NDArray[np.float64]]],
    names: Sequence[str],
    titles: Sequence[str],
    fps: float = 20,
) -> None:
    """Writes episodes, one after the other, as an mp4 that every player shows.

    Left is the episode, right the score of each frame: what has been is drawn in full
    colour, what is to come is pale. Every reward has axes of its own, since their
    scales differ, which are the same in all episodes.

    Args:
        path: The file.
        episodes: What to show. Each is drawn before the next is asked for.
        scores: (T + 1,) of each episode and reward: the score of each frame.
        names: Of the rewards.
        titles: Of the episodes.
        fps: Frames a second.
    """
    limits = [_limits([own[i] for own in scores]) for i in range(len(names))]

    def film() -> Iterator[UInt8]:
        wide = 0
        for episode, own, title in zip(episodes, scores, titles, strict=True):
            # All pictures of a film have one size, which is the first episode's.
            wide = wide or _width(episode.frames)
            yield from _frames(episode, own, names, limits, title, wide)

    with replacing(path, ".mp4") as scratch:
        write_video(scratch, film(), fps)


def _frames(
    episode: Episode,
    scores: Sequence[NDArray[np.float64]],
    names: Sequence[str],
    limits: Sequence[tuple[float, float]],
    title: str,
    wide: int,
) -> Iterator[UInt8]:
    panel, places, boxes = _panel(scores, names, limits, title)
    # An episode may lack frames that no reward looked at.
    newest = np.searchsorted(episode.frame_steps, np.arange(len(places)), "right") - 1
    for place, index in zip(places, newest, strict=True):
        beside = panel.copy()
        for top, bottom in boxes:
            coming = 255 - panel[top:bottom, place:].astype(np.float32)
            beside[top:bottom, place:] = 255 - coming * (1 - PALE)
            beside[top:bottom, place : place + 2] = MARK
        frame = _enlarged(episode.frames[index], wide)
        yield np.concatenate([frame, beside], axis=1)


def _panel(
    scores: Sequence[NDArray[np.float64]],
    names: Sequence[str],
    limits: Sequence[tuple[float, float]],
    title: str,
) -> tuple[UInt8, list[int], list[tuple[int, int]]]:
    """The curves as a picture, the column of each frame, and the rows of the axes."""
    require("matplotlib", "demo", "overlays need matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=8, color="gray", x=0.99, ha="right")
    steps = np.arange(len(scores[0]))
    for axis, values, name, limit in zip(axes, scores, names, limits, strict=True):
        known = np.isfinite(values)
        # Where a reward is due now and then, its scores are dots on the line.
        sparse = known.sum() < len(known) / 2
        axis.plot(steps[known], values[known], color="#1f5f9f", lw=1.8,
                  marker="o" if sparse else None, ms=3)  # fmt: skip
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_ylim(*limit)
        axis.set_xlim(0, max(1, len(steps) - 1))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("frame", fontsize=8)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    at = axes[-1].transData.transform(np.stack([steps, np.zeros(len(steps))], axis=1))
    places = np.clip(np.rint(at[:, 0]), 0, picture.shape[1] - 2).astype(int)
    inside = [axis.get_window_extent() for axis in axes]
    boxes = [(HEIGHT - round(box.y1), HEIGHT - round(box.y0)) for box in inside]
    return picture, places.tolist(), boxes


def _limits(curves: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The axis that all curves of a reward fit."""
    known = np.concatenate(curves)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    margin = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _width(frames: UInt8) -> int:
    """Of frames at the film's height."""
    height, width = map(int, frames.shape[1:3])
    return max(2, round(width * HEIGHT / height))


def _enlarged(frame: UInt8, wide: int) -> UInt8:
    """A frame at the film's size, between black bars if its shape is another."""
    from PIL import Image, ImageOps

    # Few large pixels stay sharp, many small ones are averaged.
    how = Image.Resampling.NEAREST if frame.shape[0] < HEIGHT else Image.Resampling.BOX
    return np.asarray(ImageOps.pad(Image.fromarray(frame), (wide, HEIGHT), how))
