"""Files that are mutated: what a kind of file is, and how a liar signs one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.files import Layout, canonical


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: What it is called in the table.
        layout: Its layout.
        make: Writes a good one.
        read: Reads one, and gives a hash of all that was read.
        use: What is done with one that a liar has signed.
        weight: How often it is taken; reading some takes longer.
    """

    name: str
    layout: Layout
    make: Callable[[Path], None]
    read: Callable[[Path], str]
    use: Callable[[Path], Any]
    weight: float = 1.0


def digest(*parts: Any) -> str:
    """A hash of arrays and of what JSON can say."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode())
            found.update(np.ascontiguousarray(part).tobytes())
        else:
            found.update(canonical(part).encode())
    return found.hexdigest()


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and its tensors."""
    (size,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    return header, data[8 + size :]


def joined(header: dict[str, Any], tensors: bytes) -> bytes:
    """The file of a header and tensors."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + tensors


def signed(
    layout: Layout, about: dict[str, Any], data: bytes, frames: bool = True
) -> bytes:
    """A file with another header, and the hash that goes with it.

    Args:
        layout: Of the file.
        about: The other header.
        data: The file.
        frames: Whether a hash that is over frames is found, which unpacks them.
    """
    header, tensors = split(data)
    about = {key: value for key, value in about.items() if key != "sha256"}
    arrays = {
        name: _array(each, tensors)
        for name, each in header.items()
        if name != "__metadata__"
    }
    if layout.hashed or frames:
        # Some lies cannot be signed, and are tried as they are.
        with contextlib.suppress(Exception):
            about["sha256"] = _sign(layout, about, arrays)
    header["__metadata__"][layout.key] = json.dumps(about)
    return joined(header, tensors)


def _array(each: dict[str, Any], tensors: bytes) -> NDArray[Any]:
    kinds = {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4",
        "U64": "<u8", "U32": "<u4", "U8": "u1", "BOOL": "?",
    }  # fmt: skip
    begin, end = each["data_offsets"]
    return np.frombuffer(tensors[begin:end], kinds[each["dtype"]]).reshape(
        each["shape"]
    )


def _sign(
    layout: Layout, about: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> str:
    found = hashlib.sha256(canonical(about).encode())
    if layout.hashed:
        for name, array in sorted(arrays.items()):
            found.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
            found.update(array.tobytes())
        return found.hexdigest()
    # A bundle's is over the frames themselves.
    import zlib

    shape = tuple(about["videos"]["shape"])
    deltas = b"".join(zlib.decompress(arrays[f"video/{i}"]) for i in range(shape[0]))
    videos = np.frombuffer(deltas, np.uint8).reshape(shape)
    videos = np.cumsum(videos, axis=1, dtype=np.uint8)
    nets = {k.removeprefix("nets/"): v for k, v in arrays.items() if "nets/" in k}
    for name, array in [("videos", videos), *sorted(nets.items())]:
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()
