"""Writes rewards into a copy of a LeRobotDataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.lerobot import INFO
from genreward_wrappers.extras import require

#: The feature that holds LeRobot's own rewards.
REWARD = "next.reward"
FEATURE = {"dtype": "float32", "shape": [1], "names": None}
#: Where the reward and its goal are described.
ABOUT = Path("meta", "genreward.json")
#: What LeRobot's RA-BC looks for in a dataset, and the column that it reads there.
WEIGHTS, PROGRESS = "sarm_progress.parquet", "progress_sparse"

Rewards = Mapping[int, NDArray[np.float64]]


def check_lerobot(folder: Path, column: str | None) -> None:
    """Raises `ValueError` if a dataset has no place for such rewards."""
    features = json.loads((folder / INFO).read_text(encoding="utf-8"))["features"]
    if column in features:
        raise ValueError(
            f"{folder} has a feature {column!r} already: give the new reward another "
            "name"
        )
    there = features.get(REWARD, FEATURE)["shape"]
    if column is None and [*there] != FEATURE["shape"]:
        raise ValueError(
            f"{folder}: its feature {REWARD!r} has the shape {there}: give the new "
            "reward a name with column="
        )
    if not any((folder / "data").rglob("*.parquet")):
        raise ValueError(f"{folder} has no tables of data")


def write_lerobot(
    folder: Path,
    rewards: Rewards,
    column: str | None,
    about: Mapping[str, Any],
    weights: bool,
) -> None:
    """Replaces the rewards of a dataset, or adds them as a feature.

    Args:
        folder: Of the copy.
        rewards: (T,) by the number of the episode: one for each of its frames.
        column: The name of the feature; None is LeRobot's own, ``next.reward``.
        about: What goes to ``meta/genreward.json``.
        weights: Whether to write the scores as RA-BC reads them.

    Raises:
        ValueError: The tables do not have these episodes.
    """
    name = column or REWARD
    info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    there = info["features"].get(name)
    feature = {**(there or FEATURE), "dtype": FEATURE["dtype"]}
    if there != feature:
        info["features"][name] = feature
        _write_json(folder / INFO, info)
    _write_json(folder / ABOUT, about)
    paths = sorted((folder / "data").rglob("*.parquet"))
    progress = [_write_data(path, name, rewards) for path in paths]
    _write_stats(folder, name, rewards)
    if weights:
        pyarrow, parquet = _arrow()
        parquet.write_table(pyarrow.concat_tables(progress), folder / WEIGHTS)


def _write_data(path: Path, name: str, rewards: Rewards) -> Any:
    """Writes the column of one table of data; the table for RA-BC."""
    pyarrow, parquet = _arrow()
    with parquet.ParquetFile(path) as file:
        table, groups = file.read(), file.metadata
        size = groups.row_group(0).num_rows if groups.num_row_groups else None
    episode = table.column("episode_index").to_numpy()
    frame = table.column("frame_index").to_numpy()
    values = np.full(len(table), np.nan)
    scores = np.full(len(table), np.nan)
    for number in np.unique(episode).tolist():
        rows = np.flatnonzero(episode == number)
        own = rewards.get(number)
        if own is None or frame[rows].max() >= len(own):
            raise ValueError(f"{path} has frames of episode {number} without a reward")
        values[rows] = own[frame[rows]]
        # A frame has the score of the step that led to it.
        scores[rows] = np.concatenate([[np.nan], own])[frame[rows]]
    column = pyarrow.array(values.astype(np.float32))
    field = pyarrow.field(name, pyarrow.float32())
    if name in table.column_names:
        table = table.set_column(table.column_names.index(name), field, column)
    else:
        table = table.append_column(field, column)
    metadata = _described(table.schema.metadata, name)
    parquet.write_table(
        table.replace_schema_metadata(metadata), path, row_group_size=size
    )
    index = table.column("index") if "index" in table.column_names else None
    return pyarrow.table(
        {
            "index": np.arange(len(table)) if index is None else index,
            "episode_index": episode,
            "frame_index": frame,
            PROGRESS: pyarrow.array(scores.astype(np.float32), from_pandas=True),
        }
    )


def _described(metadata: Mapping[bytes, bytes] | None, name: str) -> dict[bytes, bytes]:
    """The schema's metadata; the library ``datasets`` keeps its own list of columns."""
    found = dict(metadata or {})
    key = b"huggingface"
    if key in found:
        card = json.loads(found[key])
        features = card.get("info", {}).get("features", {})
        features[name] = {"dtype": FEATURE["dtype"], "_type": "Value"}
        found[key] = json.dumps(card).encode()
    return found


def _write_stats(folder: Path, name: str, rewards: Rewards) -> None:
    """Brings the statistics of a reward that was there up to date."""
    whole = np.concatenate([*rewards.values()])
    path = folder / "meta" / "stats.json"
    if path.is_file():
        stats = json.loads(path.read_text(encoding="utf-8"))
        if name in stats:
            stats[name] = _stats(whole, stats[name])
            _write_json(path, stats)
    lines = folder / "meta" / "episodes_stats.jsonl"
    if lines.is_file():
        rows = [json.loads(line) for line in lines.read_text().splitlines() if line]
        if any(name in row["stats"] for row in rows):
            for row in rows:
                if name in row["stats"]:
                    own = rewards[int(row["episode_index"])]
                    row["stats"][name] = _stats(own, row["stats"][name])
            lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for table in sorted((folder / "meta" / "episodes").rglob("*.parquet")):
        _write_episodes(table, f"stats/{name}/", rewards)


def _write_episodes(path: Path, prefix: str, rewards: Rewards) -> None:
    """The statistics of each episode in a table of the episodes."""
    pyarrow, parquet = _arrow()
    table = parquet.read_table(path)
    there = [column for column in table.column_names if column.startswith(prefix)]
    if not there:
        return
    numbers = table.column("episode_index").to_pylist()
    old = table.select(there).to_pylist()
    new = [
        _stats(rewards[number], {c.removeprefix(prefix): v for c, v in row.items()})
        for number, row in zip(numbers, old, strict=True)
    ]
    for column in there:
        kind = table.schema.field(column)
        values = pyarrow.array(
            [row[column.removeprefix(prefix)] for row in new], kind.type
        )
        table = table.set_column(table.column_names.index(column), kind, values)
    parquet.write_table(table, path)


def _stats(values: NDArray[np.float64], old: Mapping[str, Any]) -> dict[str, Any]:
    """The statistics that there were before, of these values."""
    numbers = values.astype(np.float32).astype(np.float64)
    known = {
        "min": numbers.min(),
        "max": numbers.max(),
        "mean": numbers.mean(),
        "std": numbers.std(),
        "count": len(numbers),
        **{f"q{q:02}": np.quantile(numbers, q / 100) for q in range(1, 100)},
    }
    # All are lists of one entry; what is not known here stays as it was.
    return {
        key: [value if isinstance(value, int) else float(value)]
        if (value := known.get(key)) is not None
        else before
        for key, before in old.items()
    }


def _write_json(path: Path, content: Any) -> None:
    """As LeRobot writes its own."""
    text = json.dumps(content, indent=4, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def _arrow() -> tuple[Any, Any]:
    what = "tables of a LeRobot dataset need pyarrow"
    return (
        require("pyarrow", "parquet", what),
        require("pyarrow.parquet", "parquet", what),
    )
