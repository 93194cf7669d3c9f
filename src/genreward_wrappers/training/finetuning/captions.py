"""The captions of videos.

A caption is looked for in a text file beside the video, then in a table of the folder,
and last in what was given for all videos.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Tables of captions that a folder may have, and what their columns are called.
JSON_TABLES = ("captions.json", "prompts.json")
LINES_TABLE = "metadata.jsonl"
FILE_COLUMNS = ("file_name", "video")
TEXT_COLUMNS = ("text", "prompt", "caption")


def read_captions(folder: Path) -> dict[str, str]:
    """All captions in the tables of a folder, by the name of the file or environment.

    Raises:
        ValueError: A table has another form than expected.
    """
    found: dict[str, str] = {}
    for name in JSON_TABLES:
        if (folder / name).is_file():
            found |= _read_json(folder / name)
    if (folder / LINES_TABLE).is_file():
        found |= _read_lines(folder / LINES_TABLE)
    return found


def caption_of(path: Path, folder: Path, known: Mapping[str, str]) -> str:
    """A video's own caption; empty if it has none.

    Args:
        path: The video's file.
        folder: The data folder, whose tables were read.
        known: The captions in these tables.
    """
    beside = path.with_suffix(".txt")
    if beside.is_file():
        return " ".join(beside.read_text(encoding="utf-8").split())
    inside = path.relative_to(folder)
    for name in (inside.as_posix(), path.name, path.stem):
        if name in known:
            return known[name].strip()
    return ""


def _read_json(path: Path) -> dict[str, str]:
    found = _parsed(path, path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not all(
        isinstance(text, str) for text in found.values()
    ):
        raise ValueError(
            f'{path}: expected {{"<name>": "<prompt>", ...}}, got '
            f"{json.dumps(found)[:80]}"
        )
    return found


def _read_lines(path: Path) -> dict[str, str]:
    found = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = _parsed(path, line)
        names = _entries(entry, FILE_COLUMNS)
        texts = _entries(entry, TEXT_COLUMNS)
        if not (names and texts):
            raise ValueError(
                f"{path}, line {number}: expected an object with one of "
                f"{', '.join(FILE_COLUMNS)} and one of {', '.join(TEXT_COLUMNS)}, got "
                f"{line[:80]}"
            )
        found[names[0]] = texts[0]
    return found


def _entries(entry: Any, columns: tuple[str, ...]) -> list[str]:
    if not isinstance(entry, dict):
        return []
    return [str(entry[name]) for name in columns if name in entry]


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
