"""What can be made again, kept in files: one helper for every cache of this package.

An entry is found by a name that is a hash of all that it depends on. It is checked when
it is read, and made again if anything is wrong with it. Entries are written whole or
not at all, so that several processes may use one cache; reading one marks it as used,
and those that were not used for longest go first when the cache is trimmed.

The cache is ``GENREWARD_CACHE``, or ``genreward`` below ``XDG_CACHE_HOME`` or
``~/.cache``. If ``GENREWARD_CACHE_LIMIT`` is set, to ``20GB`` for example, it is
trimmed to that size after something was added.
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

from genreward_wrappers.data.atomic import remove_stale
from genreward_wrappers.data.files import (
    FileError,
    Layout,
    load_tensors,
    save_tensors,
)
from genreward_wrappers.data.schema import Record

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]

#: What is cached, and what it is for.
KINDS: Mapping[str, str] = {
    "rollouts": "test episodes of `genreward evaluate`",
    "features": "encoded frames of `genreward train-fb`",
    "latents": "encoded clips and prompts of `genreward finetune`",
    "generated": "goals of episodes' own first frames",
}

#: Entries that were used in so many last seconds are never trimmed: whoever uses them
#: may read them again.
IN_USE = 60 * 60.0

#: Seconds between two looks at the size of the cache, which may have many entries.
_PAUSE = 60.0

#: Marks a folder as a cache, for backups and for `remove`; see bford.info/cachedir.
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
    """Where everything is cached."""
    own = os.environ.get("GENREWARD_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "genreward"


def cache_folder(kind: str) -> Path:
    """Where things of one of the `KINDS` are cached."""
    return cache_root() / kind


@dataclass(frozen=True)
class Cache(Generic[T]):
    """A folder of entries.

    Attributes:
        folder: Where they are.
        read: Gives an entry's content; raises `FileError` if it is missing or wrong.
        write: Writes an entry, whole or not at all.
    """

    folder: Path
    read: Callable[[Path], T]
    write: Callable[[Path, T], None]

    def path(self, name: str) -> Path:
        """The file of an entry."""
        return self.folder / f"{name}.safetensors"

    def get(self, name: str) -> T | None:
        """An entry; None if there is none, or anything is wrong with it."""
        path = self.path(name)
        try:
            found = self.read(path)
        except FileError:
            return None
        with suppress(OSError):
            # When it was written stays, and says whether it was made again.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return found

    def put(self, name: str, value: T) -> None:
        """Adds an entry, or replaces it."""
        path = self.path(name)
        self.write(path, value)
        root = cache_root()
        if path.is_relative_to(root):
            _tag(root)
            _trim_to_limit()


def array_cache(folder: Path, fault: Callable[[Arrays], str]) -> Cache[Arrays]:
    """A cache of arrays by name.

    Args:
        folder: Where it is.
        fault: What is wrong with an entry, in its names, shapes or types; empty if
            nothing is. That floats are finite is looked at here.
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
    """What is wrong with arrays; empty if nothing is.

    Args:
        arrays: By name.
        wanted: The type and shape of each; None for a side of any length.
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
    """All entries of some kinds; links are not followed."""
    for kind in kinds:
        for folder, _, names in os.walk(cache_folder(kind)):
            for name in names:
                path = Path(folder, name)
                # What is being written has another ending.
                if name.startswith(".") or path.suffix != ".safetensors":
                    continue
                # Another process may remove it now.
                with suppress(OSError):
                    about = path.lstat()
                    used = max(about.st_atime, about.st_mtime)
                    yield Entry(kind, path, about.st_size, used)


def remove(kinds: Iterable[str] = KINDS) -> list[Entry]:
    """Removes all entries of some kinds, and what killed processes left there.

    Raises:
        ValueError: ``GENREWARD_CACHE`` is a folder that nothing was cached in.
    """
    _check_tag()
    gone = [entry for entry in entries(kinds) if _unlink(entry)]
    for kind in kinds:
        for folder, _, _ in os.walk(cache_folder(kind), topdown=False):
            remove_stale(Path(folder))
            with suppress(OSError):
                # Empty ones alone.
                Path(folder).rmdir()
    return gone


def trim(limit: int, kinds: Iterable[str] = KINDS) -> list[Entry]:
    """Removes those entries that were not used for longest, until the others fit.

    Args:
        limit: Bytes that entries may take together.
        kinds: Which are counted, and removed. Those in use stay in any case.

    Returns:
        What was removed.

    Raises:
        ValueError: ``GENREWARD_CACHE`` is a folder that nothing was cached in.
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
    """Bytes of a size such as ``20GB``, ``512 MiB`` or ``1000``.

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
        # Another process was faster, or holds it open where that matters.
        return False
    return True


def _tag(root: Path) -> None:
    tag = root / TAG
    with suppress(OSError):
        if not tag.exists():
            tag.write_text(_SIGNATURE + "# A cache of genreward-wrappers.\n")


def _check_tag() -> None:
    """Raises if the user's own folder may hold other things than this cache."""
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
