"""Minari datasets: finds them by their id, and tells pictures from other numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8
from genreward_wrappers.extras import require

#: The prefix of a dataset's id where something else could be meant.
MINARI = "minari:"

#: The file in its folder in which a dataset describes itself.
METADATA = Path("data/metadata.json")

#: Minari takes arrays with at least this many pixels per side for pictures, and
#: compresses them.
SMALLEST_JPEG = 32


def load_minari(dataset: str | os.PathLike[str]) -> Any:
    """A Minari dataset, by its id or by its folder.

    Raises:
        ImportError: minari is not installed.
    """
    minari = require("minari", '"minari[hdf5]"', "Minari datasets need minari")
    name = os.fspath(dataset).removeprefix(MINARI)
    if is_minari(Path(name)):
        return minari.MinariDataset(Path(name) / "data")
    return minari.load_dataset(name)


def is_minari(folder: Path) -> bool:
    """Whether a folder is a Minari dataset."""
    return (folder / METADATA).is_file()


def minari_root() -> Path:
    """The folder in which Minari finds datasets by their id."""
    said = os.environ.get("MINARI_DATASETS_PATH")
    return Path(said) if said else Path.home() / ".minari" / "datasets"


def is_lossy(dataset: Any, frames: UInt8) -> bool:
    """Whether a dataset keeps its pictures as JPEG, which changes them."""
    if min(frames.shape[1:3]) < SMALLEST_JPEG:
        return False
    return bool(getattr(dataset.storage, "jpeg_encoding", True))


def pictures_of(observations: Any, name: str, camera: str = "") -> UInt8:
    """(n, H, W, 3) the only pictures among a trajectory's observations.

    Args:
        observations: An array, or several arrays by name.
        name: The name of the trajectory, for messages.
        camera: The name of the pictures, if there are several.

    Raises:
        ValueError: There are none, or several.
    """
    fitting = [
        pictures
        for key, part in _parts(observations).items()
        if camera in ("", key) and (pictures := _pictures(part)) is not None
    ]
    if len(fitting) != 1:
        which = f" called {camera!r}" if camera else ""
        raise ValueError(
            f"{name}: expected one entry of uint8 RGB pictures{which}, found "
            f"{len(fitting)} in {shapes_of(observations)}"
        )
    return fitting[0]


def shapes_of(observations: Any) -> str:
    """What a trajectory's observations are, for messages."""
    return ", ".join(
        f"{key or 'the observation'}: {part.dtype} {part.shape[1:]}"
        for key, part in _parts(observations).items()
    )


def _parts(observations: Any) -> dict[str, NDArray[Any]]:
    parts = observations if isinstance(observations, Mapping) else {"": observations}
    return {key: np.asarray(part) for key, part in parts.items()}


def _pictures(values: NDArray[Any]) -> NDArray[np.uint8] | None:
    """(n, H, W, 3), whichever axis the channels are on; None for other arrays."""
    if values.dtype != np.uint8 or values.ndim != 4:
        return None
    if values.shape[-1] == 3:
        return values
    # stable-baselines3 moves channels to the front.
    return np.moveaxis(values, 1, -1) if values.shape[1] == 3 else None
