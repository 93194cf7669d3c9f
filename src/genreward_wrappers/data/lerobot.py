"""The episodes of a LeRobotDataset in a local folder, of format 3.0 or 2.1.

Format 3.0 keeps many episodes in one mp4 and says in parquet tables where each begins;
2.1 has one mp4 per episode and tables of JSON. Cameras without videos are stored as
pictures in the tables of the data. LeRobot itself is not needed; pyarrow reads the
tables.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.files import hash_file
from genreward_wrappers.data.video_files import read_part
from genreward_wrappers.extras import require

INFO = Path("meta", "info.json")
#: Other signs of such a dataset, in case one of its files is missing.
OTHERS = ("meta/episodes", "meta/tasks.parquet", "meta/episodes.jsonl")
VERSIONS = ("v2.1", "v3.0")
TABLES = "tables of a LeRobot dataset need pyarrow"
SUCCESS = "next.success"
#: The columns that describe an episode.
EPISODE = ("episode_index", "tasks", "length")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class LeRobotEpisode:
    """An episode as seen by one camera.

    Attributes:
        name: Its place, for messages.
        key: Its name in a table of captions.
        tasks: Its tasks in words, in no particular order.
        success: Whether it succeeded; True if the dataset does not say.
        hashed: Returns its digest.
        read: Returns its frames, (T, H, W, 3) uint8 RGB.
        number: Its index in the dataset.
        length: The number of its frames.
        fps: Its frame rate.
        table: The file with its data, which may hold other episodes, too.
    """

    name: str
    key: str
    tasks: tuple[str, ...]
    success: bool
    hashed: Callable[[], str]
    read: Callable[[], UInt8]
    number: int
    length: int
    fps: float
    table: Path

    @property
    def digest(self) -> str:
        """The hash of what it is read from, for which all of that is read."""
        return self.hashed()


def is_lerobot(folder: Path) -> bool:
    """Whether a folder is a LeRobotDataset, possibly an incomplete one."""
    return any((folder / name).exists() for name in (INFO, *OTHERS))


def read_lerobot(folder: Path, camera: str = "") -> list[LeRobotEpisode]:
    """The episodes of a dataset; no frame is decoded yet.

    Args:
        folder: The folder of the dataset.
        camera: The name of a feature, or its last part, such as "top" for
            "observation.images.top"; empty if there is only one camera.

    Raises:
        ValueError: The dataset is incomplete, of another version, or has no such
            camera.
        ImportError: A package is missing.
    """
    info = _info(folder)
    key = _camera(folder, info["features"], camera)
    video = info["features"][key]["dtype"] == "video"
    rows = list(_rows(folder, info, key if video else ""))
    won = _won(folder, info, rows)
    hashes = _Hashes()
    episodes = []
    for row in rows:
        number, length = int(row["episode_index"]), int(row["length"])
        name = f"{folder}, episode {number}"
        path = _path(folder, info, row, key if video else "")
        if not path.is_file():
            raise ValueError(f"{name}: there is no {path}")
        read: Callable[[], UInt8]
        if video:
            start = float(row.get(f"videos/{key}/from_timestamp", 0.0))
            read = partial(read_part, path, start, length, float(info["fps"]), name)
        else:
            start = 0.0
            read = partial(_pictures, path, key, number, length, name)
        what = (key, number, start, length, info["fps"])
        episodes.append(
            LeRobotEpisode(
                name,
                f"episode_{number:06d}",
                tuple(task.strip() for task in row["tasks"] if task.strip()),
                won is None or number in won,
                partial(_digest, hashes, path, what),
                read,
                number,
                length,
                float(info["fps"]),
                _path(folder, info, row, ""),
            )
        )
    if not episodes:
        raise ValueError(f"{folder} is a LeRobot dataset without episodes")
    return episodes


class _Hashes(dict[Path, str]):
    """The hashes of files, each made when it is first asked for.

    Not `functools.cache`: recordings are sent to other processes.
    """

    def __missing__(self, path: Path) -> str:
        self[path] = hash_file(path)
        return self[path]


def _digest(hashes: _Hashes, path: Path, what: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([hashes[path], *what]).encode()).hexdigest()


def read_columns(episode: LeRobotEpisode, *columns: str) -> dict[str, NDArray[Any]]:
    """Those of some columns that an episode's data has, (T, ...) each.

    Raises:
        ValueError: The data is missing, for all or for some frames.
    """
    if not episode.table.is_file():
        return {}
    there = [name for name in columns if name in table_columns(episode.table)]
    order = ["episode_index", "frame_index"]
    rows = _table(episode.table, [*order, *there], episode.number)
    rows.sort(key=lambda row: int(row["frame_index"]))
    if len(rows) != episode.length:
        raise ValueError(
            f"{episode.name}: {episode.table} has data of {len(rows)} of its "
            f"{episode.length} frames"
        )
    return {name: np.array([row[name] for row in rows]) for name in there}


def table_columns(path: Path) -> list[str]:
    """The names of the columns of a parquet file."""
    return list(_parquet(path).names)


def _info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    if not path.is_file():
        raise ValueError(
            f"{folder} looks like a LeRobot dataset, but has no {INFO.as_posix()}: it "
            "was not downloaded completely"
        )
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = info.get("codebase_version")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no JSON object ({error})") from error
    if version not in VERSIONS:
        raise ValueError(
            f"{folder} is a LeRobot dataset of version {version!r}; supported are "
            f"{' and '.join(VERSIONS)}. LeRobot has scripts that convert older ones"
        )
    lacking = {"features", "fps", "data_path", "video_path"} - info.keys()
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(sorted(lacking))}")
    return info


def _camera(folder: Path, features: Mapping[str, Any], camera: str) -> str:
    """The full name of a camera."""
    cameras = [
        name
        for name, feature in features.items()
        if feature.get("dtype") in ("video", "image") and not _is_depth(feature)
    ]
    fitting = [
        name for name in cameras if camera in ("", name, name.rpartition(".")[2])
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not cameras:
        raise ValueError(f"{folder} is a LeRobot dataset without a camera")
    said = "several cameras" if fitting else f"no camera {camera!r}"
    raise ValueError(f"{folder} has {said}: give one of {', '.join(cameras)}")


def _is_depth(feature: Mapping[str, Any]) -> bool:
    about = feature.get("info") or {}
    return any(about.get(name) for name in ("is_depth_map", "video.is_depth_map"))


def _rows(folder: Path, info: Row, camera: str) -> Iterator[Row]:
    """What the dataset says about each episode."""
    if info["codebase_version"] == "v2.1":
        path = folder / "meta" / "episodes.jsonl"
        if not path.is_file():
            raise ValueError(f"{folder}: there is no {path}")
        for line in path.read_text(encoding="utf-8").splitlines():
            yield _row(path, line)
        return
    columns = [*EPISODE, "data/chunk_index", "data/file_index"]
    if camera:
        places = ("chunk_index", "file_index", "from_timestamp")
        columns += [f"videos/{camera}/{name}" for name in places]
    paths = sorted((folder / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise ValueError(f"{folder}: there is no parquet file in meta/episodes")
    for path in paths:
        yield from _table(path, columns)


def _row(path: Path, line: str) -> Row:
    try:
        row = json.loads(line)
        return {name: row[name] for name in EPISODE}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected an object with {', '.join(EPISODE)} per line, got "
            f"{line[:80]}"
        ) from error


def _path(folder: Path, info: Row, row: Row, camera: str) -> Path:
    """The path of an episode's video, or, without a camera, of its data."""
    template = str(info["video_path" if camera else "data_path"])
    place = f"videos/{camera}" if camera else "data"
    number = int(row["episode_index"])
    try:
        said = template.format(
            video_key=camera,
            chunk_index=row.get(f"{place}/chunk_index"),
            file_index=row.get(f"{place}/file_index"),
            episode_index=number,
            episode_chunk=number // int(info.get("chunks_size", 1000)),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"{folder / INFO}: {template!r} is no path") from error
    return folder / said


def _won(folder: Path, info: Row, rows: Sequence[Row]) -> set[int] | None:
    """The episodes that succeeded; None if the dataset does not say."""
    if SUCCESS not in info["features"]:
        return None
    paths = {_path(folder, info, row, "") for row in rows}
    return {
        int(row["episode_index"])
        for path in sorted(paths)
        for row in _table(path, ["episode_index", SUCCESS])
        if np.any(row[SUCCESS])
    }


def _pictures(path: Path, camera: str, number: int, length: int, name: str) -> UInt8:
    """An episode's frames from a table of the data."""
    from PIL import Image

    rows = _table(path, [camera, "frame_index", "episode_index"], number)
    frames = []
    for row in sorted(rows, key=lambda row: int(row["frame_index"])):
        data = (row[camera] or {}).get("bytes")
        if data is None:
            raise ValueError(f"{name}: {path} names pictures but does not hold them")
        with Image.open(io.BytesIO(data)) as picture:
            frames.append(np.asarray(picture.convert("RGB")))
    if len(frames) != length:
        raise ValueError(f"{name}: {path} has {len(frames)} of its {length} frames")
    return np.stack(frames)


def _table(
    path: Path, columns: Sequence[str], episode: int | None = None
) -> list[dict[str, Any]]:
    """Some columns of a parquet file, of all rows or those of one episode."""
    lacking = set(columns) - set(table_columns(path))
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(sorted(lacking))}")
    chosen = None if episode is None else [("episode_index", "=", episode)]
    with _named(path):
        table = _arrow().read_table(path, columns=list(columns), filters=chosen)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _parquet(path: Path) -> Any:
    """The schema of a parquet file."""
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    with _named(path):
        return _arrow().read_schema(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors in the block name the file that is no parquet file."""
    pyarrow = require("pyarrow", "parquet", TABLES)
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no parquet file ({error})") from error


def _arrow() -> Any:
    return require("pyarrow.parquet", "parquet", TABLES)
