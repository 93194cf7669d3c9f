"""Draws what an agent does while it learns, beside the goal video that it learns from.

    python scripts/make_agent_picture.py runs/learning/door-open-pixels-seed-0-295441f1

The folder is one that a learning run recorded its episodes in (`benchmarks.learning`,
``genreward train``, or ``record=`` of any wrapper). Each row is an episode, its frames
evenly spread over time; the first row is the goal video that the last episode followed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.data.goals import GoalBundle

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "agent.webp"
COLUMNS, SCALE, GAP, LABEL = 8, 2, 4, 128
INK, PAPER = (30, 30, 30), (255, 255, 255)
DONE, FAILED = (30, 120, 60), (150, 50, 40)


def row(frames: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Frames evenly spread over a video, enlarged without smoothing."""
    index = evenly(COLUMNS, len(frames) - 1)
    return [f.repeat(SCALE, 0).repeat(SCALE, 1) for f in frames[index]]


def number(path: Path) -> int:
    """Which episode of its run a file holds."""
    return int(path.stem.split("-")[1])


def draw(folder: Path, rows: int) -> Image.Image:
    """The goal's row, and one for each of some episodes."""
    paths = sorted(folder.glob("episode-*.safetensors"), key=number)
    if not paths:
        raise SystemExit(f"{folder} holds no recorded episodes (episode-*.safetensors)")
    # The first episode, and the last ones: recorded episodes lie ever farther apart.
    chosen = [paths[0], *paths[1:][-(rows - 1) :]]
    episodes = [(number(path), Episode.load(path)) for path in chosen]
    goal = GoalBundle.load(folder / "goal.safetensors")
    followed = int(episodes[-1][1].info.get("goal", 0))
    lines = [
        ("the goal video,\ngenerated", INK, row(np.asarray(goal.videos[followed])))
    ]
    for at, episode in episodes:
        done = bool(np.asarray(episode.success).any())
        label = f"after {at * len(episode):,}\ndecisions:\n"
        label += "success" if done else "no success"
        lines.append((label, DONE if done else FAILED, row(episode.frames)))
    height, width = lines[0][2][0].shape[:2]
    size = (LABEL + COLUMNS * (width + GAP), len(lines) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for line, (label, colour, frames) in enumerate(lines):
        top = line * (height + GAP)
        pen.multiline_text((4, top + height // 3), label, colour, font=font)
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (LABEL + column * (width + GAP), top))
    return sheet


def main() -> None:
    """Draws one run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=4, help="episodes to show")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    draw(args.folder, args.rows).save(args.output, quality=85, method=6)
    print(args.output)


if __name__ == "__main__":
    main()
