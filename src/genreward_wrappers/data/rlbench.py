"""The demonstrations that RLBench's generator writes, read without its pickles.

Episodes lie at any depth in a folder, each with a folder of numbered PNG files for
every camera: ``<task>/variation0/episodes/episode0/front_rgb/0.png``. RLBench pickles
their descriptions into ``variation_descriptions.pkl``, which is not opened: the same
lines are read from ``variation_descriptions.txt``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.video_files import read_pictures

DESCRIPTIONS = "variation_descriptions.txt"
COLOUR = "_rgb"


@dataclass(frozen=True)
class RLBenchEpisode:
    """An episode as seen by one camera.

    Attributes:
        name: Its place, for messages.
        task: Its task in words; empty if there is no description.
        digest: The hash of its pictures.
        read: Returns its frames, (T, H, W, 3) uint8 RGB.
    """

    name: str
    task: str
    digest: str
    read: Callable[[], UInt8]


def read_rlbench(
    folder: Path, camera: str = "front", known: Mapping[str, str] | None = None
) -> list[RLBenchEpisode]:
    """The episodes in a folder; no picture is decoded yet.

    Args:
        folder: The folder of one task, of several, or any folder above them.
        camera: "front", "overhead", "wrist", "left_shoulder" or "right_shoulder".
        known: Tasks in words, by the path of an episode, a variation or a task within
            the folder. They take precedence over the text files.

    Raises:
        ValueError: There are none, or one lacks pictures.
    """
    named = camera.removesuffix(COLOUR) + COLOUR
    places = sorted(folder.rglob(named), key=_in_order)
    if not places:
        seen = {p.name.removesuffix(COLOUR) for p in folder.rglob(f"*{COLOUR}")}
        there = (
            f"cameras: {', '.join(sorted(seen))}" if seen else "no camera's pictures"
        )
        raise ValueError(
            f"{folder} has no folder {named} of pictures, as RLBench's generator "
            f"writes for each episode; it has {there}"
        )
    return [_episode(place, folder, known or {}) for place in places]


def _episode(place: Path, folder: Path, known: Mapping[str, str]) -> RLBenchEpisode:
    paths = sorted(place.glob("*.png"), key=_in_order)
    if [path.stem for path in paths] != [
        str(i) for i in range(len(paths))
    ] or not paths:
        raise ValueError(
            f"{place}: expected pictures 0.png, 1.png and so on without a gap, got "
            f"{', '.join(path.name for path in paths[:5]) or 'none'}"
        )
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return RLBenchEpisode(
        str(place),
        _task(place.parent, folder, known),
        digest.hexdigest(),
        partial(read_pictures, paths),
    )


def _task(episode: Path, folder: Path, known: Mapping[str, str]) -> str:
    """The description of an episode, or of the closest folder above it."""
    above = [episode, *episode.parents]
    inside = above[: above.index(folder) + 1]
    for place in inside:
        said = known.get(place.relative_to(folder).as_posix(), "").strip()
        if said:
            return said
    for place in inside:
        if (place / DESCRIPTIONS).is_file():
            text = (place / DESCRIPTIONS).read_text(encoding="utf-8")
            # The lines are one description in several wordings.
            return next(
                (line.strip() for line in text.splitlines() if line.strip()), ""
            )
    return ""


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Sorts episode10 after episode9, and 10.png after 9.png."""
    parts = []
    for part in path.parts:
        name = part.removesuffix(".png")
        digits = name[len(name.rstrip("0123456789")) :]
        parts.append((int(digits or -1), name))
    return parts
