"""Draws the pictures of docs/concepts.md.

    python scripts/make_concepts.py

Forward-backward nets are trained on independent transitions of the four rooms of
`benchmarks.worlds`, whose true measure is known, as `benchmarks.forward_backward` does.
It takes a few minutes on one core.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# The worlds are a part of the repository, not of the package.
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.worlds import correlation, four_rooms, learn, of_goals  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "four-rooms.webp"
CELL, GAP, WALL = 22, 24, (60, 60, 66)
#: A state of the last room, in its far corner.
GOAL = -1


def rooms() -> list[str]:
    """The map: ``.`` is a state, in the order of `four_rooms`."""
    rows = [list("#...#...#") for _ in range(9)]
    for wall in (0, 4, 8):
        rows[wall] = list("#########")
    rows[2][4] = rows[6][4] = rows[4][2] = rows[4][6] = "."
    return ["".join(row) for row in rows]


def panel(values: NDArray[np.float64]) -> Image.Image:
    """Each state's value as a colour, on a logarithmic scale; the goal is framed."""
    scaled = np.log(np.maximum(values, values.max() * 1e-3))
    scaled = (scaled - scaled.min()) / np.ptp(scaled)
    grid = rooms()
    picture = Image.new("RGB", (9 * CELL, 9 * CELL), WALL)
    pen = ImageDraw.Draw(picture)
    cells = [(y, x) for y in range(9) for x in range(9) if grid[y][x] == "."]
    for (y, x), value in zip(cells, scaled, strict=True):
        dark, light = np.array([30, 40, 90]), np.array([255, 214, 80])
        colour = tuple(int(c) for c in dark + value * (light - dark))
        pen.rectangle(
            (x * CELL, y * CELL, (x + 1) * CELL - 2, (y + 1) * CELL - 2), colour
        )
    y, x = cells[GOAL]
    pen.rectangle(
        (x * CELL, y * CELL, (x + 1) * CELL - 2, (y + 1) * CELL - 2), None, "red", 3
    )
    return picture


def main() -> None:
    """Trains, draws, and prints how well both panels agree."""
    torch.set_num_threads(1)
    world = dataclasses.replace(four_rooms(), discount=0.95)
    data, share = world.transitions(world.uniform(), count=100_000)
    trainer, _ = learn(
        world,
        True,
        data,
        3_000,
        shape={"z": 64, "hidden": 384, "backward_hidden": 128},
        batch=512,
        target_rate=0.1,
        anneal_share=1 / 3,
    )
    goal = world.states + GOAL
    truth = world.best(goal).max(0)
    measured = of_goals(trainer.nets, world, share)[goal].max(0)
    print(f"correlation of the two panels: {correlation(truth, measured):.3f}")
    left, right = panel(truth), panel(measured)
    picture = Image.new("RGBA", (2 * left.width + GAP, left.height))
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + GAP, 0))
    picture.save(PICTURE, quality=90)


if __name__ == "__main__":
    main()
