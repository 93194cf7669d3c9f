"""The cache: files that can be computed again.

The name of an entry is a hash of everything that it depends on. An entry is checked
when it is read, and computed again if anything is wrong with it. Writes are atomic, so
several processes can share a cache; reading an entry marks it as used, and trimming
removes the least recently used entries first.

The cache is ``GENREWARD_CACHE``, or ``genreward`` below ``XDG_CACHE_HOME`` or
``~/.cache``. If ``GENREWARD_CACHE_LIMIT`` is set, for example to ``20GB``, the cache is
trimmed to that size when entries are added.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.atomic import remove_stale, replacing
from genreward_wrappers.data.files import (
    FileError,
    Layout,
    load_tensors,
    save_tensors,
)
from genreward_wrappers.data.schema import Record

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]

#: The kinds of entries, and what they are for.
KINDS: Mapping[str, str] = {
    "rollouts": "test episodes of `genreward evaluate`",
    "features": "encoded frames of `genreward train-fb`",
    "latents": "encoded clips and prompts of `genreward finetune`",
    "generated": "goals of episodes' own first frames",
}

#: Entries used within this many seconds are never trimmed, as they may be read again.
IN_USE = 60 * 60.0

#: Seconds between two checks of the size of the cache, which may have many entries.
_PAUSE = 60.0

#: Marks a folder as a cache for backups and `remove`; see bford.info/cachedir.
TAG = "CACHEDIR.TAG"
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n"

ENTRY = Layout(
    "genreward_cache",
    "cache entry",
    "genreward",
    1,
    Record({"name": str}),
)

_last_look = 0.0


def cache_root() -> Path:
    """The folder of the cache."""
    own = os.environ.get("GENREWARD_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "genreward"


def cache_folder(kind: str) -> Path:
    """The folder of one of the `KINDS`."""
    return cache_root() / kind


@dataclass(frozen=True)
class Cache(Generic[T]):
    """A folder of entries.

    Attributes:
        folder: The folder.
        read: Returns the content of an entry; raises `FileError` if it is missing or
            invalid.
        write: Writes an entry atomically.
    """

    folder: Path
    read: Callable[[Path], T]
    write: Callable[[Path, T], None]

    def path(self, name: str) -> Path:
        """The file of an entry."""
        return self.folder / f"{name}.safetensors"

    def get(self, name: str) -> T | None:
        """The content of an entry; None if it is missing or invalid."""
        path = self.path(name)
        try:
            found = self.read(path)
        except FileError:
            return None
        with suppress(OSError):
            # The time of writing is kept, to tell whether an entry was made again.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return found

    def put(self, name: str, value: T) -> None:
        """Adds an entry, or replaces it."""
        path, root = self.path(name), cache_root()
        ours = path.is_relative_to(root)
        if ours:
            # Before the entry: a process that is killed in between leaves no folder
            # with entries and without a tag, which nobody would remove.
            _tag(root)
        self.write(path, value)
        if ours:
            _trim_to_limit()


def array_cache(folder: Path, fault: Callable[[Arrays], str]) -> Cache[Arrays]:
    """A cache of named arrays.

    Args:
        folder: The folder.
        fault: Returns what is wrong with the names, shapes or types of an entry, or an
            empty text. Floats are always checked to be finite.
    """

    def checked(path: Path, arrays: Arrays) -> Arrays:
        said = fault(arrays) or next(filter(None, map(_not_finite, arrays.items())), "")
        if said:
            raise FileError(f"{path} is no valid cache entry: {said}")
        return arrays

    def read(path: Path) -> Arrays:
        arrays, header = load_tensors(path, ENTRY)
        if header["name"] != path.stem:
            raise FileError(f"{path} is the cache entry {header['name']!r}")
        return checked(path, arrays)

    def write(path: Path, arrays: Arrays) -> None:
        save_tensors(path, checked(path, arrays), ENTRY, {"name": path.stem})

    return Cache(folder, read, write)


def expected(arrays: Arrays, wanted: Mapping[str, tuple[Any, tuple[Any, ...]]]) -> str:
    """What is wrong with some arrays, or an empty text.

    Args:
        arrays: The arrays by name.
        wanted: The type and shape of each; None stands for any length.
    """
    if arrays.keys() != wanted.keys():
        return f"it has {sorted(arrays)}, expected {sorted(wanted)}"
    for name, (dtype, shape) in wanted.items():
        array = arrays[name]
        fits = len(shape) == array.ndim and all(
            side in (None, own) for side, own in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            return (
                f"{name!r} is {array.dtype} {array.shape}, expected "
                f"{np.dtype(dtype)} {shape}"
            )
    return ""


class Entry(NamedTuple):
    """A file in the cache."""

    kind: str
    path: Path
    size: int
    used: float


def entries(kinds: Iterable[str] = KINDS) -> Iterator[Entry]:
    """All entries of some kinds. Links are not followed."""
    for kind in kinds:
        for folder, _, names in os.walk(cache_folder(kind)):
            for name in names:
                path = Path(folder, name)
                # Files still being written have another suffix.
                if name.startswith(".") or path.suffix != ".safetensors":
                    continue
                # Another process may just have removed it.
                with suppress(OSError):
                    about = path.lstat()
                    used = max(about.st_atime, about.st_mtime)
                    yield Entry(kind, path, about.st_size, used)


def remove(kinds: Iterable[str] = KINDS) -> list[Entry]:
    """Removes all entries of some kinds, and leftovers of killed processes.

    Raises:
        ValueError: ``GENREWARD_CACHE`` is a folder that is no cache.
    """
    _check_tag()
    gone = [entry for entry in entries(kinds) if _unlink(entry)]
    for kind in kinds:
        for folder, _, _ in os.walk(cache_folder(kind), topdown=False):
            remove_stale(Path(folder))
            with suppress(OSError):
                # Only empty folders.
                Path(folder).rmdir()
    return gone


def trim(limit: int, kinds: Iterable[str] = KINDS) -> list[Entry]:
    """Removes the least recently used entries until the rest fits.

    Args:
        limit: The maximum total size in bytes.
        kinds: The kinds to count and remove. Entries in use are always kept.

    Returns:
        The entries that were removed.

    Raises:
        ValueError: ``GENREWARD_CACHE`` is a folder that is no cache.
    """
    _check_tag()
    there = sorted(entries(kinds), key=lambda entry: entry.used)
    size = sum(entry.size for entry in there)
    gone = []
    for entry in there:
        if size <= limit or time.time() - entry.used < IN_USE:
            break
        if _unlink(entry):
            gone.append(entry)
            size -= entry.size
    return gone


def parse_size(text: str) -> int:
    """The number of bytes of a size such as ``20GB``, ``512 MiB`` or ``1000``.

    >>> parse_size("1.5 GB"), parse_size("2MiB"), parse_size("10")
    (1500000000, 2097152, 10)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kKMGT]?)(i?)B?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is no size: expected for example 20GB or 512MiB")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def _trim_to_limit() -> None:
    global _last_look
    limit = os.environ.get("GENREWARD_CACHE_LIMIT")
    if limit and time.monotonic() - _last_look > _PAUSE:
        _last_look = time.monotonic()
        trim(parse_size(limit))


def _unlink(entry: Entry) -> bool:
    try:
        entry.path.unlink()
    except OSError:
        # Another process removed it, or (on Windows) holds it open.
        return False
    return True


def _tag(root: Path) -> None:
    tag = root / TAG
    with suppress(OSError):
        if not tag.exists():
            with replacing(tag) as scratch:
                scratch.write_text(_SIGNATURE + "# A cache of genreward-wrappers.\n")


def _check_tag() -> None:
    """Raises if a folder chosen by the user may hold anything but this cache."""
    root = cache_root()
    if not os.environ.get("GENREWARD_CACHE") or not root.exists():
        return
    tag = root / TAG
    if not tag.is_file() or not tag.read_text("utf-8", "replace").startswith(
        _SIGNATURE
    ):
        raise ValueError(
            f"GENREWARD_CACHE={root} has no {TAG}, so nothing of this package was "
            "cached there: nothing is removed"
        )


def _not_finite(item: tuple[str, NDArray[Any]]) -> str:
    name, array = item
    floats = array.dtype.kind in "fc"
    return (
        f"{name!r} holds NaN or infinity"
        if floats and not np.isfinite(array).all()
        else ""
    )
