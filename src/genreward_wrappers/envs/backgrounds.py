"""Videos for the sky: procedural ones, which need nothing, and folders of the user's.

A video is a `Video`: a length and a function from a frame's number to a square picture.
Nothing is read or computed before it is asked for, beyond what is needed to say at once
that a folder is empty or cannot be read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.extras import require

NEEDS = "backgrounds from files need {}"
UInt8 = NDArray[np.uint8]

SPLITS: dict[str, tuple[str, ...]] = {
    "train": (
        "bear", "bmx-bumps", "boat", "boxing-fisheye", "breakdance-flare",
        "bus", "car-turn", "cat-girl", "classic-car", "color-run", "crossing",
        "dance-jump", "dancing", "disc-jockey", "dog-agility", "dog-gooses",
        "dogs-scale", "drift-turn", "drone", "elephant", "flamingo", "hike",
        "hockey", "horsejump-low", "kid-football", "kite-walk", "koala",
        "lady-running", "lindy-hop", "longboard", "lucia", "mallard-fly",
        "mallard-water", "miami-surf", "motocross-bumps", "motorbike",
        "night-race", "paragliding", "planes-water", "rallye", "rhino",
        "rollerblade", "schoolgirls", "scooter-board", "scooter-gray", "sheep",
        "skate-park", "snowboard", "soccerball", "stroller", "stunt", "surf",
        "swing", "tennis", "tractor-sand", "train", "tuk-tuk", "upside-down",
        "varanus-cage", "walking",
    ),
    "validation": (
        "bike-packing", "blackswan", "bmx-trees", "breakdance", "camel",
        "car-roundabout", "car-shadow", "cows", "dance-twirl", "dog",
        "dogs-jump", "drift-chicane", "drift-straight", "goat", "gold-fish",
        "horsejump-high", "india", "judo", "kite-surf", "lab-coat", "libby",
        "loading", "mbike-trick", "motocross-jump", "paragliding-launch",
        "parkour", "pigs", "scooter-black", "shooting", "soapbox",
    ),
}  # fmt: skip
"""The videos of DAVIS 2017 that the suite trains and tests with, in their order."""

PROCEDURAL = ("noise", "gradients")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".webm", ".mkv", ".gif")

# Frames of a procedural video, about as many as DAVIS's have.
_LENGTH = 70
# Pixels of frames that are kept once they are read: 48 MB in colour.
_KEPT_PIXELS = 16_000_000
# Decoded videos that are kept.
_KEPT_VIDEOS = 4


@dataclass(frozen=True)
class Video:
    """A background video.

    Attributes:
        name: For messages.
        count: Counts the frames, which may mean to decode them.
        frame: From a frame's number to a (side, side, 3) picture, top row first.
    """

    name: str
    count: Callable[[], int]
    frame: Callable[[int], UInt8]

    @property
    def length(self) -> int:
        """How many frames there are."""
        return self.count()


def find_videos(
    background: str | Sequence[str], split: str, side: int, at_most: int | None = None
) -> list[Video]:
    """The videos of a background.

    Args:
        background: "noise", "gradients", a folder, or a list of paths. A folder may be
            DAVIS's (with JPEGImages/480p in it), or have subfolders of images, videos
            and single images in it; a list has such paths.
        split: "train" or "validation".
        side: Of the square pictures. What is read from files is stretched to it.
        at_most: How many, the first in their order; None for all.
    """
    if split not in SPLITS:
        raise ValueError(
            f"background_split must be 'train' or 'validation', got {split!r}"
        )
    if background in PROCEDURAL:
        make = _noise if background == "noise" else _gradients
        first = 0 if split == "train" else len(SPLITS["train"])
        count = len(SPLITS[split][:at_most])
        return [make(first + number, side) for number in range(count)]
    paths = _paths(background, split)[:at_most]
    read = functools.lru_cache(max(1, _KEPT_PIXELS // side**2))(
        functools.partial(_read, side=side)
    )
    decode = functools.lru_cache(_KEPT_VIDEOS)(functools.partial(_decode, side=side))
    return [_opened(path, read, decode) for path in paths]


# Procedural ones


def _noise(number: int, side: int) -> Video:
    """Soft patches of all colours that melt into one another."""
    rng = np.random.default_rng([number, 0])
    cells, keys = 8, 7
    # Patches at a few moments; the frames between are mixtures of two.
    patches = rng.uniform(0, 255, (keys, cells, cells, 3))
    spread = _spread(cells, side)

    def frame(index: int) -> UInt8:
        before, rest = divmod(index * (keys - 1) / _LENGTH, 1)
        pair = patches[int(before)], patches[int(before) + 1]
        mixed = pair[0] * (1 - rest) + pair[1] * rest
        return (spread @ np.tensordot(spread, mixed, 1)).astype(np.uint8)

    return Video(f"noise {number}", lambda: _LENGTH, frame)


def _spread(cells: int, side: int) -> NDArray[np.float64]:
    """(side, cells) weights of linear interpolation; the rows add up to 1."""
    place = np.linspace(0, cells - 1, side)[:, None]
    weights: NDArray[np.float64] = np.maximum(0.0, 1 - np.abs(place - np.arange(cells)))
    return weights


def _gradients(number: int, side: int) -> Video:
    """Two colours that run into each other, in a direction that turns."""
    rng = np.random.default_rng([number, 1])
    colors = rng.uniform(0, 255, (2, 3))
    start, turn = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1]) * rng.uniform(1, 3)
    line = np.linspace(-0.5, 0.5, side)

    def frame(index: int) -> UInt8:
        angle = start + turn * index / _LENGTH
        along = np.add.outer(np.sin(angle) * line, np.cos(angle) * line)
        share = np.clip(along / np.sqrt(2) + 0.5, 0, 1)[..., None]
        mixed: UInt8 = (colors[0] + (colors[1] - colors[0]) * share).astype(np.uint8)
        return mixed

    return Video(f"gradients {number}", lambda: _LENGTH, frame)


# Files


def _paths(background: str | Sequence[str], split: str) -> list[Path]:
    """Files and folders of images, a video each, in their order."""
    if not isinstance(background, (str, os.PathLike)):
        if not background:
            raise ValueError("background is an empty list; give paths of videos")
        paths = [Path(path) for path in background]
        for path in paths:
            if not path.exists():
                raise ValueError(f"background: there is no {path}")
        _need_no_split(split, "a list")
        return paths
    folder = Path(background)
    if not folder.is_dir():
        raise ValueError(
            f"background must be one of {list(PROCEDURAL)}, a folder or a list of "
            f"paths, got {background!r}, and there is no such folder"
        )
    davis = folder / "JPEGImages" / "480p"
    folder = davis if davis.is_dir() else folder
    try:
        found = sorted(path for path in folder.iterdir() if _usable(path))
    except OSError as error:
        raise ValueError(f"background: {folder} cannot be read: {error}") from error
    published = {name for names in SPLITS.values() for name in names}
    if any(path.name in published for path in found):
        names = {path.name: path for path in found}
        found = [names[name] for name in SPLITS[split] if name in names]
    else:
        _need_no_split(split, f"{folder}")
    if not found:
        raise ValueError(
            f"background: {folder} has no videos of the {split} split: subfolders of "
            f"images, videos ({', '.join(VIDEOS)}) or images ({', '.join(IMAGES)})"
        )
    return found


def _need_no_split(split: str, what: str) -> None:
    if split != "train":
        raise ValueError(
            f"background_split={split!r}, but {what} has none of DAVIS's videos, and "
            "so no published split: keep the test videos in a folder of their own"
        )


def _usable(path: Path) -> bool:
    if path.is_dir():
        return bool(_images(path))
    return path.suffix.lower() in IMAGES + VIDEOS


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)


def _opened(
    path: Path, read: Callable[[Path], UInt8], decode: Callable[[Path], UInt8]
) -> Video:
    """A path as a video; its first image is looked at, the rest when it is shown."""
    if path.suffix.lower() in VIDEOS:
        return Video(
            str(path), lambda: len(decode(path)), lambda index: decode(path)[index]
        )
    images = _images(path) if path.is_dir() else [path]
    if not images:
        raise ValueError(f"background: the folder {path} has no images in it")
    read(images[0])
    return Video(str(path), lambda: len(images), lambda index: read(images[index]))


def _read(path: Path, side: int) -> UInt8:
    pillow = require("PIL.Image", "dm-control", NEEDS.format("pillow"))
    try:
        with pillow.open(path) as image:
            image.draft("RGB", (side, side))
            pixels = image.convert("RGB").resize((side, side), pillow.Resampling.BOX)
            return np.asarray(pixels)
    except OSError as error:
        raise ValueError(f"background: {path} is no image: {error}") from error


def _decode(path: Path, side: int) -> UInt8:
    imageio = require("imageio.v3", "video", NEEDS.format("imageio"))
    pillow = require("PIL.Image", "dm-control", NEEDS.format("pillow"))
    try:
        # FFmpeg takes several small pictures of a gif for one.
        plugin = "pillow" if path.suffix.lower() == ".gif" else "pyav"
        size = (side, side)
        small = [
            np.asarray(
                pillow.fromarray(frame)
                .convert("RGB")
                .resize(size, pillow.Resampling.BOX)
            )
            for frame in imageio.imiter(path, plugin=plugin)
        ]
    except Exception as error:  # PyAV's errors have no common base that is public
        raise ValueError(f"background: {path} cannot be decoded: {error}") from error
    if not small:
        raise ValueError(f"background: {path} has no frames in it")
    return np.stack(small)
