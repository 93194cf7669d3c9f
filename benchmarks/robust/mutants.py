"""Mutants of files: damage that nobody signed, and lies that somebody did."""

from __future__ import annotations

import copy
import json
import resource
import signal
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robust.files import Kind, joined, signed, split
from benchmarks.robust.kinds import KINDS

Rng = np.random.Generator

#: Seconds that reading a small file may take at most.
PATIENCE = 20

#: What a lie puts in the place of a value.
LIES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, 1 << 31, 1 << 63, 1 << 64, 10**30,
    "", "x", "pixels:9999999", "a" * 5000, "\x00", "../../etc/passwd", [], {}, [[]],
    [0], [-1], [1 << 40], [1, 1, 1, 1, 3], [2, 5, 8, 8, 3], {"a": 1}, ["x", None],
]  # fmt: skip


class Hang(BaseException):
    """Reading a file has taken too long."""


# Damage


def _flip(data: bytes, rng: Rng) -> bytes:
    bad = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 8]))):
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
    return bytes(bad)


def _flip_header(data: bytes, rng: Rng) -> bytes:
    """The header is a small part of a file, and the one that is parsed."""
    size = int.from_bytes(data[:8], "little") + 8
    bad = bytearray(data)
    bad[rng.integers(size)] ^= 1 << int(rng.integers(8))
    return bytes(bad)


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: rng.integers(len(data))]


def _grow(data: bytes, rng: Rng) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 64)))


def _splice(data: bytes, rng: Rng) -> bytes:
    size = int(rng.integers(1, max(2, len(data) // 4)))
    here, there = rng.integers(0, max(1, len(data) - size), 2)
    bad = bytearray(data)
    bad[there : there + size] = data[here : here + size]
    return bytes(bad)


def _blank(data: bytes, rng: Rng) -> bytes:
    size = int(rng.integers(1, 64))
    at = int(rng.integers(len(data)))
    filling = bytes([int(rng.choice([0, 255]))])
    return data[:at] + filling * len(data[at : at + size]) + data[at + size :]


def _layout(data: bytes, rng: Rng) -> bytes:
    """Another name, type, shape or place of a tensor."""
    header, tensors = split(data)
    names = [name for name in header if name != "__metadata__"]
    name = str(rng.choice(names))
    change = rng.integers(5)
    if change == 0:
        header[str(rng.choice(["x", "", "nets/x", "video/9", "states"]))] = header.pop(
            name
        )
    elif change == 1:
        header[name]["dtype"] = str(
            rng.choice(["F64", "F32", "U8", "I64", "BF16", "X"])
        )
    elif change == 2:
        header[name]["shape"] = LIES[int(rng.integers(len(LIES)))]
    elif change == 3:
        header[name]["data_offsets"] = [int(i) for i in rng.integers(0, 1 << 40, 2)]
    else:
        other = str(rng.choice(names))
        header[name], header[other] = header[other], header[name]
    return joined(header, tensors)


DAMAGE: list[Callable[[bytes, Rng], bytes]] = [
    _flip, _flip, _flip, _flip_header, _flip_header, _cut, _grow, _splice, _blank,
    _layout,
]  # fmt: skip


# Lies


def lie(kind: Kind, data: bytes, rng: Rng) -> bytes:
    """A file whose header says something else, signed by whoever changed it."""
    header, _ = split(data)
    about = json.loads(header["__metadata__"][kind.layout.key])
    for _ in range(int(rng.choice([1, 1, 2]))):
        _change(about, rng)
    return signed(kind.layout, about, data)


def _change(value: Any, rng: Rng) -> None:
    """Puts a lie somewhere into a nested value."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
            value = inner
            continue
        change = rng.integers(12)
        if change == 0:
            value.pop(key)
        elif change == 1 and isinstance(value, dict):
            value["more"] = value[key]
        elif change == 2:
            deep: Any = []
            for _ in range(int(rng.choice([40, 900]))):
                deep = [deep]
            value[key] = deep
        else:
            value[key] = copy.deepcopy(LIES[int(rng.integers(len(LIES)))])
        return


@cache
def _deflated(mib: int) -> bytes:
    """So many MiB of zeros, packed without ever being held."""
    packing = zlib.compressobj(9)
    parts = [packing.compress(bytes(1 << 20)) for _ in range(mib)]
    return b"".join([*parts, packing.flush()])


def bomb(kind: Kind, data: bytes, rng: Rng) -> bytes:
    """A file that inflates to more than it says, or says more than one may."""
    header, tensors = split(data)
    about = json.loads(header["__metadata__"][kind.layout.key])
    where = about.get("videos", about)
    if "shape" in where:
        packed = _deflated(int(rng.choice([1, 30, 400])))
        name = "video/0" if "video/0" in header else "frames"
        begin, end = header[name]["data_offsets"]
        tensors = tensors[:begin] + packed + tensors[end:]
        for each, entry in header.items():
            if each != "__metadata__" and entry["data_offsets"][0] >= end:
                offsets = entry["data_offsets"]
                entry["data_offsets"] = [i + len(packed) - end + begin for i in offsets]
        header[name]["data_offsets"] = [begin, begin + len(packed)]
        header[name]["shape"] = [len(packed)]
        if rng.random() < 0.5:
            where["shape"][-4] = 1 << 19
            where["shape"][-3:-1] = [1 << 13, 1 << 13]
    return signed(kind.layout, about, joined(header, tensors), frames=False)


# Trying


@contextmanager
def _patience() -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak() -> float:
    """The most memory that this process has ever used, in MiB."""
    kilo = 1 if sys.platform != "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / kilo


def attack(
    name: str, seed: int, count: int, folder: Path, until: float
) -> tuple[Counter[str], list[str], float]:
    """Mutates a file, and reads every mutant.

    Args:
        name: The kind of file.
        seed: The seed of the mutants.
        count: How many mutants.
        folder: Where to write them.
        until: When to stop, by `time.time`.

    Returns:
        How they ended: "refused", "unchanged", "signed", and what must not be:
        "changed", "leaked", "hung". What was found; and by how many MiB the peak of
        memory has risen.
    """
    import torch

    torch.set_num_threads(1)
    kind, rng = KINDS[name], np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mutant.safetensors"
    kind.make(path)
    good, wanted = path.read_bytes(), kind.read(path)
    kind.use(path)
    path.write_bytes(good)
    ended: Counter[str] = Counter()
    found: list[str] = []
    before = peak()
    for i in range(count):
        if time.time() > until:
            break
        honest = i % 3 != 2
        if honest:
            how = DAMAGE[int(rng.integers(len(DAMAGE)))]
            bad = how(good, rng)
        else:
            is_bomb = rng.random() < 0.02
            bad = (bomb if is_bomb else lie)(kind, good, rng)
        path.write_bytes(bad)
        result = _try(kind, path, wanted, honest, bad == good)
        ended[result.partition(":")[0]] += 1
        if ":" in result:
            what = how.__name__ if honest else "lie"
            found.append(f"{name}, seed {seed}, mutant {i} ({what}): {result}")
            (folder / f"found-{seed}-{i}.safetensors").write_bytes(bad)
    return ended, found, peak() - before


def _try(kind: Kind, path: Path, wanted: str, honest: bool, same: bool) -> str:
    try:
        with _patience():
            read = kind.read(path)
            if read != wanted and honest:
                return "changed: other content, and no error"
            if not honest:
                kind.use(path)
        return "unchanged" if honest or same else "signed"
    # What the package documents: `FileError` and its kin are ValueErrors.
    except (ValueError, FileNotFoundError) as error:
        known = any(
            each.__module__.startswith("genreward_wrappers")
            for each in type(error).__mro__
        )
        if known or not honest:
            return "refused"
        return f"leaked: {error!r}"
    except Hang:
        return f"hung: for {PATIENCE} s"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"leaked: {error!r:.300} at {last.filename}:{last.lineno}"
