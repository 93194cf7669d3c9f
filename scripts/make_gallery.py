"""Draws the pictures of the documentation's gallery.

    python scripts/make_gallery.py [--only metaworld]

Writes sheets of labelled pictures, docs/images/gallery-<name>.webp. Every picture is
what an environment shows after ``reset(seed=0)`` and, where something moves, a few
steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers.envs import dm_control, metaworld
from genreward_wrappers.envs.distractions import (
    BackgroundDistraction,
    BrightnessDistraction,
    ColourDistraction,
    ShiftDistraction,
)

FOLDER = Path(__file__).parents[1] / "docs" / "images"
GAP, LINE = 6, 14
INK, PAPER = (30, 30, 30), (255, 255, 255)
INTENSITIES = {"easy": 0.1, "medium": 0.2, "hard": 0.3}


class Cell(NamedTuple):
    """A picture with what stands under it."""

    label: str
    frame: NDArray[np.uint8]


def picture(
    env_id: str,
    size: int,
    wrap: Callable[[Any], Any] | None = None,
    steps: int = 0,
    **options: Any,
) -> NDArray[np.uint8]:
    """What an environment shows."""
    env = gym.make(env_id, size=size, **options)
    if wrap is not None:
        env = wrap(env)
    frame, _ = env.reset(seed=0)
    still = np.zeros(env.action_space.shape, np.float32)
    for _ in range(steps):
        frame, *_ = env.step(still)
    env.close()
    sys.stderr.write(".")
    sys.stderr.flush()
    return np.asarray(frame)


def sheet(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """A table of pictures of one size, on white."""
    height, width, _ = rows[0][0].frame.shape
    font = ImageFont.load_default(size=11)
    lines = [[folded(cell.label, font, width) for cell in row] for row in rows]
    depths = [LINE * max(map(len, row)) for row in lines]
    columns = max(map(len, rows))
    total = sum(depths) + len(rows) * (height + GAP) + GAP
    whole = Image.new("RGB", (GAP + columns * (width + GAP), total), PAPER)
    draw = ImageDraw.Draw(whole)
    top = GAP
    for row, folds, depth in zip(rows, lines, depths, strict=True):
        for column, (cell, fold) in enumerate(zip(row, folds, strict=True)):
            left = GAP + column * (width + GAP)
            whole.paste(Image.fromarray(cell.frame), (left, top))
            for number, text in enumerate(fold):
                middle = left + (width - draw.textlength(text, font=font)) / 2
                place = middle, top + height + 1 + number * LINE
                draw.text(place, text, fill=INK, font=font)
        top += height + depth + GAP
    return whole


def folded(label: str, font: Any, width: int) -> list[str]:
    """A label in as many lines as it needs, broken after hyphens and spaces."""
    lines = [""]
    for part in label.replace("-", "-\0").replace(" ", " \0").split("\0"):
        if lines[-1] and font.getlength(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.strip() for line in lines]


def in_rows(cells: Sequence[Cell], columns: int) -> list[Sequence[Cell]]:
    """Cells line by line."""
    return [cells[at : at + columns] for at in range(0, len(cells), columns)]


def all_metaworld() -> Image.Image:
    """Every Meta-World task."""
    names = [task.removesuffix("-v3") for task in metaworld.TASKS]
    cells = [Cell(name, picture(f"metaworld/{name}", 96)) for name in names]
    return sheet(in_rows(cells, 10))


def all_dm_control() -> Image.Image:
    """Every task of dm_control's suite."""
    cells = [Cell(task, picture(f"dmc/{task}", 96)) for task in dm_control.TASKS]
    return sheet(in_rows(cells, 10))


def all_distracting() -> Image.Image:
    """The same tasks with all distractions, medium."""
    cells = [
        Cell(task, picture(f"distracting/{task}", 96, difficulty="medium"))
        for task in dm_control.TASKS
    ]
    return sheet(in_rows(cells, 10))


def difficulties() -> Image.Image:
    """Each distraction of the suite at each difficulty."""
    kinds: dict[str, dict[str, Any]] = {
        "camera": {"distractions": "camera"},
        "color": {"distractions": "color"},
        "noise": {"distractions": "background"},
        "gradients": {"distractions": "background", "background": "gradients"},
        "all three": {},
    }
    rows = []
    for task in ("walker-walk", "cheetah-run"):
        plain = Cell(task, picture(f"dmc/{task}", 112, steps=10))
        for kind, options in kinds.items():
            each = [
                Cell(
                    f"{kind}, {difficulty}",
                    picture(
                        f"distracting/{task}",
                        112,
                        steps=10,
                        difficulty=difficulty,
                        **options,
                    ),
                )
                for difficulty in INTENSITIES
            ]
            rows.append([plain, *each])
    half = len(rows) // 2
    return sheet(
        [[*left, *right] for left, right in zip(rows[:half], rows[half:], strict=True)]
    )


def wrappers() -> Image.Image:
    """The distractions for any environment, on Meta-World."""
    draw = partial(picture, "metaworld/drawer-open", 112, steps=5)
    rows = []
    for name, cls in (
        ("colour", ColourDistraction),
        ("brightness", BrightnessDistraction),
        ("shift", ShiftDistraction),
    ):
        each = [
            Cell(f"{name}, {i}", draw(partial(cls, intensity=i, speed=0.3)))
            for i in INTENSITIES.values()
        ]
        rows.append([Cell("undistracted", draw()), *each])
    for kind in ("noise", "gradients"):
        each = [
            Cell(
                f"{kind}, {opacity}",
                draw(partial(BackgroundDistraction, background=kind, opacity=opacity)),
            )
            for opacity in (0.3, 0.6, 1.0)
        ]
        rows.append([Cell("undistracted", draw()), *each])
    return sheet(rows)


def qualities() -> Image.Image:
    """What each option of `render_quality` draws."""
    chosen: dict[str, Any] = {
        "fast": "fast",
        "reflections": {"reflections": True},
        "samples: 4": {"samples": 4},
        "shadows": {"shadows": True},
        "full": "full",
    }
    env_ids = ("metaworld/pick-place", "metaworld/door-open", "dmc/walker-walk")
    return sheet(
        [
            [
                Cell(name, picture(env_id, 176, render_quality=quality))
                for name, quality in chosen.items()
            ]
            for env_id in env_ids
        ]
    )


SHEETS: dict[str, Callable[[], Image.Image]] = {
    "metaworld": all_metaworld,
    "dm-control": all_dm_control,
    "distracting": all_distracting,
    "difficulties": difficulties,
    "wrappers": wrappers,
    "qualities": qualities,
}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SHEETS, default=list(SHEETS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        path = args.folder / f"gallery-{name}.webp"
        SHEETS[name]().save(path, quality=82, method=6)
        sys.stderr.write(f" {path} {path.stat().st_size // 1024} KB\n")


if __name__ == "__main__":
    main()
