"""Writes rewards into a copy of a Minari dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.minari import METADATA
from genreward_wrappers.extras import require

#: What is kept of the reward in the dataset's metadata.
ABOUT = "genreward"

#: Minari's formats that keep an episode as a table, and the column of its infos.
TABLES = ("arrow", "parquet")
INFOS = "infos"

Rewards = Mapping[int, NDArray[np.float64]]


def check_minari(folder: Path, column: str | None) -> None:
    """Raises `ValueError` if a dataset has no place for such rewards."""
    kind = _kind(folder)
    if kind not in ("hdf5", *TABLES):
        raise ValueError(
            f"{folder}: its data are in the format {kind!r}: expected 'hdf5', 'arrow' "
            "or 'parquet'"
        )
    if column is not None and column in _infos(folder, kind):
        raise ValueError(
            f"{folder} has an info {column!r} already: give the new reward another name"
        )


def write_minari(
    folder: Path,
    rewards: Rewards,
    column: str | None,
    about: Mapping[str, Any],
    dataset_id: str | None,
) -> None:
    """Replaces the rewards of a dataset, or adds them as an info.

    Args:
        folder: Of the copy.
        rewards: (T,) by the number of the episode.
        column: The name of the info; None replaces the rewards.
        about: What goes to the metadata.
        dataset_id: The dataset's id from now on; None keeps it.

    Raises:
        ValueError: It does not have these episodes.
    """
    kind = _kind(folder)
    if kind == "hdf5":
        _write_hdf5(folder, rewards, column)
    else:
        for number, values in rewards.items():
            _write_table(_table(folder, number, kind), kind, values, column)
    card = folder / METADATA
    metadata = {**json.loads(card.read_text()), ABOUT: about}
    if dataset_id is not None:
        metadata["dataset_id"] = dataset_id
    card.write_text(json.dumps(metadata))


def _kind(folder: Path) -> str:
    """The format of a dataset's data."""
    return str(json.loads((folder / METADATA).read_text()).get("data_format", "hdf5"))


def _infos(folder: Path, kind: str) -> set[str]:
    """The names of all infos."""
    found: set[str] = set()
    if kind == "hdf5":
        with _opened(folder, "r") as file:
            return found.union(*(episode.get("infos", ()) for episode in file.values()))
    for path in (folder / "data").glob(f"*/*.{kind}"):
        schema = _arrow("pyarrow.dataset").dataset(path, format=kind).schema
        if INFOS in schema.names:
            found |= {field.name for field in schema.field(INFOS).type}
    return found


# HDF5: one file, in which each episode is a group.


def _write_hdf5(folder: Path, rewards: Rewards, column: str | None) -> None:
    with _opened(folder, "r+") as file:
        for number, values in rewards.items():
            episode = file[f"episode_{number}"]
            if episode["rewards"].shape != values.shape:
                raise ValueError(
                    f"episode {number} has {episode['rewards'].shape[0]} rewards, and "
                    f"{len(values)} were computed"
                )
            if column is None:
                _put(episode, "rewards", values)
                continue
            infos = episode.require_group("infos")
            lengths = {len(one) for one in infos.values() if hasattr(one, "shape")}
            # Those of the reset come first, unless the collector left them out.
            if lengths != {len(values)}:
                values = np.concatenate([[np.nan], values])
            _put(infos, column, values)


def _opened(folder: Path, mode: str) -> Any:
    h5py = require("h5py", '"minari[hdf5]"', "Minari datasets need h5py")
    return h5py.File(folder / "data" / "main_data.hdf5", mode)


def _put(group: Any, name: str, values: NDArray[np.float64]) -> None:
    """Writes numbers in place where they fit, so that nothing around them moves."""
    there = group.get(name)
    if there is not None and there.shape == values.shape and there.dtype == np.float64:
        there[...] = values
        return
    if there is not None:
        del group[name]
    group.create_dataset(name, data=values, chunks=True, maxshape=(None,))


# Arrow and Parquet: a table for each episode, in a folder of its number.


def _table(folder: Path, number: int, kind: str) -> Path:
    paths = sorted((folder / "data" / str(number)).glob(f"*.{kind}"))
    if len(paths) != 1:
        raise ValueError(f"episode {number} has {len(paths)} {kind} files, expected 1")
    return paths[0]


def _write_table(
    path: Path, kind: str, values: NDArray[np.float64], column: str | None
) -> None:
    pyarrow = _arrow("pyarrow")
    table = _arrow("pyarrow.dataset").dataset(path, format=kind).to_table()
    # There is a row for each observation, and so one more than there are steps.
    if table.num_rows != len(values) + 1:
        raise ValueError(
            f"{path} has {table.num_rows - 1} rewards, and {len(values)} were computed"
        )
    if column is None:
        name, new = "rewards", pyarrow.array(np.append(values, 0.0))
    else:
        name, fields, arrays = INFOS, [], []
        if INFOS in table.column_names:
            fields = list(table.schema.field(INFOS).type)
            arrays = table[INFOS].combine_chunks().flatten()
        fields.append(pyarrow.field(column, pyarrow.float64()))
        arrays.append(pyarrow.array(np.append(np.nan, values)))
        new = pyarrow.StructArray.from_arrays(arrays, fields=fields)
    if name in table.column_names:
        table = table.set_column(table.column_names.index(name), name, new)
    else:
        table = table.append_column(name, new)
    # Minari takes every batch of rows for an episode.
    table = table.combine_chunks()
    if kind == "parquet":
        _arrow("pyarrow.parquet").write_table(table, path)
        return
    with _arrow("pyarrow.ipc").new_file(path, table.schema) as file:
        file.write_table(table)


def _arrow(module: str) -> Any:
    return require(module, "parquet", "tables of a Minari dataset need pyarrow")
