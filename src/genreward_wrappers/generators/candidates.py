"""Generated videos to choose from: files, cards, a contact sheet.

A candidate is a lossless goal bundle of one video, with all of its settings in its
provenance. Beside it are an mp4 to look at and the settings as JSON; both are made from
the candidate, and never read.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.atomic import replacing
from genreward_wrappers.data.files import plain, write_atomic
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.data.video_files import write_video

STEP = "generate"
PREFIX = "candidate"
SHEET = "contact_sheet.png"

#: What differs between the candidates of one folder.
OWN = ("seed", "start_seed", "first_frame")
#: What no video depends on: a model may be moved; its revision identifies it.
IDLE = ("step", "source")

#: Frames of each candidate on the contact sheet, and the height of one in pixels.
COLUMNS, ROW = 8, 96


def save_candidate(path: Path, frames: UInt8, card: Mapping[str, Any]) -> None:
    """Writes a candidate, all or nothing, and the files beside it.

    Args:
        path: Its .safetensors file.
        frames: (T, H, W, 3).
        card: All settings that it was made with, as JSON.
    """
    bundle = as_bundle(frames, card)
    bundle.save(path)
    write_beside(path, bundle)


def as_bundle(frames: UInt8, card: Mapping[str, Any]) -> GoalBundle:
    """A candidate from its frames and its settings."""
    return GoalBundle(
        frames[None],
        env_id=str((card.get("env") or {}).get("id", "")),
        prompt=card["settings"]["prompt"],
        generator=f"{card['source']}@{card['model']['revision']}",
        provenance=({"step": STEP, **card},),
    )


def settings_card(
    identity: Mapping[str, Any],
    settings: Mapping[str, Any],
    env: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What candidates of one setting have in common, as JSON restores it.

    Args:
        identity: The generator's identity.
        settings: The settings of its call.
        env: The environment whose first frames they continue.
    """
    card = {"model": identity, "settings": dict(settings), "env": env}
    try:
        return dict(plain(card))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the settings cannot be written as JSON ({error}): give numbers, texts, "
            "lists and booleans"
        ) from error


def frame_digest(frame: UInt8) -> str:
    """The hash of a first frame."""
    return hashlib.sha256(f"{frame.shape}".encode() + frame.tobytes()).hexdigest()


def write_beside(path: Path, bundle: GoalBundle) -> None:
    """Writes the card and the mp4 of a candidate where they are missing."""
    card = path.with_suffix(".json")
    if not card.is_file():
        text = json.dumps(dict(bundle.provenance[0]), indent=2, sort_keys=True)
        write_atomic(card, (text + "\n").encode())
    video = path.with_suffix(".mp4")
    if not video.is_file():
        # The encoder chooses the format by the name.
        with replacing(video, ending=".mp4") as scratch:
            write_video(scratch, bundle.videos[0])


def load_candidate(path: str | PathLike[str]) -> GoalBundle:
    """Reads a candidate.

    Raises:
        GoalError: It is missing, damaged, or something else.
    """
    bundle = GoalBundle.load(path)
    if len(bundle.provenance) != 1 or bundle.provenance[0].get("step") != STEP:
        raise GoalError(
            f"{path} is a goal bundle, but no candidate: expected what `genreward "
            "generate` writes"
        )
    return bundle


def find_candidates(folder: str | PathLike[str]) -> list[Path]:
    """The candidates' files in a folder, in the order of their names."""
    return sorted(Path(folder).glob(f"{PREFIX}-*.safetensors"))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two cards differ, as "settings.num_frames: 9, not 49"."""
    left, right = _flat(one), _flat(other)
    return [
        f"{name}: {left.get(name)!r}, not {right.get(name)!r}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def shared(card: Mapping[str, Any]) -> dict[str, Any]:
    """What all candidates of a folder have in common."""
    return {key: value for key, value in card.items() if key not in (*OWN, *IDLE)}


def lasting(card: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a card that two candidates of one setting share."""
    return {key: value for key, value in card.items() if key not in IDLE}


def write_sheet(folder: Path, paths: Sequence[Path]) -> Path:
    """Draws some frames of every candidate, one row each, first and last included."""
    from PIL import Image, ImageDraw

    rows: list[Any] = []
    margin = 16
    for path in paths:
        frames = load_candidate(path).videos[0]
        height, width = frames.shape[1:3]
        side = max(1, round(width * ROW / height))
        index = evenly(min(COLUMNS, len(frames)), len(frames) - 1).tolist()
        row = Image.new("RGB", (len(index) * (side + 2) - 2, margin + ROW), "white")
        ImageDraw.Draw(row).text((2, 2), path.stem, fill="black")
        for i, t in enumerate(index):
            small = Image.fromarray(frames[t]).resize((side, ROW))
            row.paste(small, (i * (side + 2), margin))
        rows.append(row)
    size = max(row.width for row in rows), sum(row.height + 4 for row in rows) - 4
    sheet = Image.new("RGB", size, "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + 4
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    path = folder / SHEET
    write_atomic(path, buffer.getvalue())
    return path


def _flat(card: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in card.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
