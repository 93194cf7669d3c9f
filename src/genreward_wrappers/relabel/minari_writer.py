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


def check_minari(folder: Path, column: str | None) -> None:
    """Raises `ValueError` if a dataset has no place for such rewards."""
    kind = json.loads((folder / METADATA).read_text()).get("data_format", "hdf5")
    if kind != "hdf5":
        raise ValueError(
            f"{folder}: Minari datasets are relabelled in its format 'hdf5', this one "
            f"is {kind!r}"
        )
    if column is None:
        return
    with _opened(folder, "r") as file:
        if any(column in episode.get("infos", ()) for episode in file.values()):
            raise ValueError(
                f"{folder} has an info {column!r} already: give the new reward another "
                "name"
            )


def write_minari(
    folder: Path,
    rewards: Mapping[int, NDArray[np.float64]],
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
    card = folder / METADATA
    metadata = {**json.loads(card.read_text()), ABOUT: about}
    if dataset_id is not None:
        metadata["dataset_id"] = dataset_id
    card.write_text(json.dumps(metadata))


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
