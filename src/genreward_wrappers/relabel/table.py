"""Scores as a table: one parquet file, and lines that fit a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.atomic import replacing
from genreward_wrappers.extras import require
from genreward_wrappers.relabel.scoring import Scored

#: In the metadata of the file: what its scores are of.
ABOUT = "genreward"

#: Episodes that are listed in a terminal; the file has all of them.
LISTED = 12

#: Characters of a number: the widest, with three digits, and a space.
CELL = 10


@dataclass(frozen=True)
class Row:
    """The scores of one recording.

    Attributes:
        name: Where it is from.
        number: Its index in its dataset, or in the list of files.
        fps: Frames a second; None where nobody says.
        scored: What each reward pays, in their order.
    """

    name: str
    number: int
    fps: float | None
    scored: Sequence[Scored]

    @property
    def frames(self) -> int:
        """How many frames it has."""
        return len(self.scored[0].rewards) + 1


def of_frames(scored: Scored) -> dict[str, NDArray[np.float64]]:
    """(T + 1,) the score of every frame: the sum under "", and its parts by name.

    A frame has the reward of the step that led to it, NaN where none was due; the first
    frame has none.
    """
    shown = {"": np.where(scored.due, scored.rewards, np.nan)}
    if len(scored.parts) > 1:
        shown |= {f".{name}": part for name, part in scored.parts.items()}
    return {
        name: np.concatenate([[np.nan], values]).astype(np.float64)
        for name, values in shown.items()
    }


def write_table(
    path: Path, rows: Sequence[Row], rewards: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Writes a row for each frame of each recording, all or nothing.

    The columns of LeRobot's tables have LeRobot's names: ``index``, ``episode_index``,
    ``frame_index`` and ``timestamp``; beside them stand ``source`` and a column for
    each reward. Where a reward has several parts, each is a column of its own.

    Args:
        path: The file.
        rows: What is known of each recording.
        rewards: The names of the columns.
        about: What is kept in the file's metadata.
    """
    pyarrow = require("pyarrow", "parquet", "tables of scores need pyarrow")
    parquet = require("pyarrow.parquet", "parquet", "tables of scores need pyarrow")
    counts = [row.frames for row in rows]
    frame = np.concatenate([np.arange(count) for count in counts])
    rate = np.repeat([row.fps or np.nan for row in rows], counts)
    columns: dict[str, Any] = {
        "index": np.arange(len(frame)),
        "episode_index": np.repeat([row.number for row in rows], counts),
        "frame_index": frame,
        "timestamp": frame / rate,
        "source": np.repeat([row.name for row in rows], counts),
    }
    for i, reward in enumerate(rewards):
        shown = [of_frames(row.scored[i]) for row in rows]
        for part in shown[0]:
            columns[reward + part] = np.concatenate([one[part] for one in shown])
    table = pyarrow.table(
        {
            name: pyarrow.array(values, from_pandas=True)
            for name, values in columns.items()
        }
    )
    table = table.replace_schema_metadata({ABOUT: json.dumps(about)})
    with replacing(path, ".parquet") as scratch:
        parquet.write_table(table, scratch)


def figures(scored: Scored) -> dict[str, float | None]:
    """What is told of a reward's scores in one episode; None where none was due."""
    paid = scored.rewards[scored.due]
    if not len(paid):
        return dict.fromkeys(("mean", "min", "max", "last"))
    return {
        "mean": float(paid.mean()),
        "min": float(paid.min()),
        "max": float(paid.max()),
        "last": float(paid[-1]),
    }


def lines(
    rows: Sequence[Row], rewards: Sequence[str], width: int = 80
) -> Iterator[str]:
    """The scores of each recording, and of all: no line is wider than ``width``."""
    heads = ("mean", "min", "max", "last")
    numbers = CELL * len(heads)
    room = max(10, width - numbers - 7)
    for i, reward in enumerate(rewards):
        if i:
            yield ""
        yield f"{_short(reward, room):{room}} frames" + "".join(
            f"{h:>{CELL}}" for h in heads
        )
        for row in rows[:LISTED]:
            found = figures(row.scored[i])
            yield f"{_short(row.name, room):{room}}{row.frames:7}" + _cells(found)
        if len(rows) > LISTED:
            yield f"... and {len(rows) - LISTED} more"
        if len(rows) > 1:
            each = [figures(row.scored[i]) for row in rows]
            total = sum(row.frames for row in rows)
            mean = {
                head: float(np.mean(known)) if (known := _known(each, head)) else None
                for head in heads
            }
            yield f"{'mean of all':{room}}{total:7}" + _cells(mean)


def _known(each: Sequence[Mapping[str, float | None]], head: str) -> list[float]:
    return [value for one in each if (value := one[head]) is not None]


def _cells(found: Mapping[str, float | None]) -> str:
    return "".join(
        f"{'-' if v is None else format(v, '.3g'):>{CELL}}" for v in found.values()
    )


def _short(text: str, room: int) -> str:
    """A text without its beginning, if it is too long: paths differ at their ends."""
    return text if len(text) <= room else "..." + text[3 - room :]
