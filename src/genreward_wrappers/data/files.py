"""The file format of this package: safetensors with one key of canonical JSON.

Goal bundles, recorded episodes, caches, priors and checkpoints share it. Each kind of
file is a `Layout`, which defines its header and its maximum size. Videos are compressed
losslessly, equal content gives equal bytes, a hash detects any damage, and a save that
is killed leaves the old file intact. Nothing here unpickles or imports torch.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.atomic import write_atomic
from genreward_wrappers.data.schema import FileError, Record, Whole, fault, parse_json

__all__ = ["FileError", "Layout", "load_tensors", "save_tensors", "write_atomic"]

#: How each video is packed: differences between frames (mod 256), then zlib. Lossless,
#: and small because little changes from frame to frame.
CODEC = "time-delta+zlib"

#: Maximum size in bytes of the unpacked frames of one file.
UNPACKED = 1 << 30

#: Maximum size in bytes of a header; those written here take a few thousand.
HEADER = 1 << 22

#: Maximum size in bytes of a file, where its kind sets no other.
LIMIT = 1 << 32

#: Bytes inflated at a time.
_BLOCK = 1 << 20

SHA256 = "sha256"


@dataclass(frozen=True)
class Layout:
    """A kind of file.

    Attributes:
        key: The metadata key of the header.
        kind: The name of the kind in messages, for example "goal bundle".
        maker: What writes such files, for messages.
        schema: The version of the layout.
        header: The fields of the header besides ``schema`` and ``sha256``.
        limit: The maximum file size in bytes; larger files are not read.
        hashed: Whether the hash in the header covers header and tensors as stored;
            False if the writer of the file provides another hash.
    """

    key: str
    kind: str
    maker: str
    schema: int
    header: Record
    limit: int = LIMIT
    hashed: bool = True

    def made_by(self, maker: str) -> Layout:
        """The same layout with another writer in its messages."""
        return replace(self, maker=maker)


def pack_video(video: UInt8) -> UInt8:
    """The bytes of a (T, H, W, 3) video, packed by `CODEC`.

    Raises:
        ValueError: It is too large to be read back.
    """
    check_unpacked(video.nbytes)
    first = np.zeros_like(video[:1])
    deltas = np.diff(video, axis=0, prepend=first)
    return np.frombuffer(zlib.compress(deltas.tobytes(), 9), np.uint8)


def unpack_video(packed: NDArray[Any], shape: tuple[int, ...]) -> UInt8:
    """The video that `pack_video` packed."""
    video: UInt8 = unpack_videos([packed], (1, *shape))[0]
    return video


def unpack_videos(packed: Iterable[NDArray[Any]], shape: tuple[int, ...]) -> UInt8:
    """(K, T, H, W, 3) the videos that were packed.

    Args:
        packed: (n,) uint8 for each video.
        shape: The shape of the result. No more than this is ever inflated.

    Raises:
        ValueError: The videos are larger than `UNPACKED`, or not of this shape.
    """
    # Python integers do not overflow.
    size = 1
    for side in shape:
        size *= side
    check_unpacked(size)
    videos: UInt8 = np.empty(shape, np.uint8)
    for video, stored in zip(videos, packed, strict=True):
        _inflate(stored, video.reshape(-1))
        # In place, without a second copy.
        np.add.accumulate(video, axis=0, out=video)
    return videos


def _inflate(packed: NDArray[Any], into: UInt8) -> None:
    """Fills an array with the inflated bytes, which must fill it exactly."""
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise ValueError(f"a packed video is {packed.dtype} {packed.shape}")
    stream, rest, done = zlib.decompressobj(), packed.tobytes(), 0
    try:
        while not stream.eof:
            block = stream.decompress(rest, _BLOCK)
            rest = stream.unconsumed_tail
            if done + len(block) > len(into):
                raise ValueError(f"a video has more than {len(into)} bytes")
            into[done : done + len(block)] = np.frombuffer(block, np.uint8)
            done += len(block)
            if not block and not rest and not stream.eof:
                break
    except zlib.error as error:
        raise ValueError(f"a video does not inflate ({error})") from error
    if done != len(into) or not stream.eof or stream.unused_data:
        raise ValueError(f"a video has {done} bytes, expected {len(into)}")


def check_unpacked(size: int) -> None:
    """Raises unless a file may hold frames of this many bytes."""
    if size > UNPACKED:
        raise ValueError(
            f"the frames take {size / 2**20:.0f} MiB, more than the "
            f"{UNPACKED / 2**20:.0f} MiB that one file may hold: keep fewer or smaller "
            "frames"
        )


def canonical(value: Any) -> str:
    """JSON with exactly one spelling for each value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON restores it, with lists for tuples."""
    return json.loads(json.dumps(value, allow_nan=False))


def save_tensors(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    layout: Layout,
    header: Mapping[str, Any],
) -> None:
    """Writes tensors and their header atomically.

    One key holds the whole header: with several keys, the bytes would differ from save
    to save.
    """
    from safetensors.numpy import save

    # In native byte order, as they will be read.
    native = {
        n: t.astype(t.dtype.newbyteorder("="), copy=False) for n, t in tensors.items()
    }
    text = header_text(native, layout, header)
    write_atomic(path, save(native, metadata={layout.key: text}))


def header_text(
    tensors: Mapping[str, NDArray[Any]], layout: Layout, header: Mapping[str, Any]
) -> str:
    """A header with its schema and hash, as written to the file."""
    full = {**header, "schema": layout.schema}
    if layout.hashed:
        digest = _begun(full)
        for name in sorted(tensors):
            _hash_tensor(digest, name, tensors[name])
        full[SHA256] = digest.hexdigest()
    text = canonical(full)
    # Do not write what could not be read back.
    said = fault(parse_json(text), _full(layout))
    if said:
        raise ValueError(f"this is no valid {layout.kind}: {said}")
    return text


def load_tensors(
    path: Path, layout: Layout, only: Container[str] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Reads tensors and their header, and checks the whole file.

    Args:
        path: The file.
        layout: What it should be.
        only: The names of the tensors to return; None returns all. All are checked.

    Raises:
        FileError: It is missing, unreadable, too large, of another kind or schema, or
            damaged.
    """
    with opened(path, layout.kind, layout.maker, layout.limit) as file:
        header = _read_header(path, layout, file.metadata() or {})
        # Files from before hashes were added have none.
        claimed = header.pop(SHA256, None) if layout.hashed else None
        digest = _begun(header)
        tensors = {}
        for name in sorted(file.keys()):
            wanted = only is None or name in only
            if not wanted and claimed is None:
                continue
            tensor = file.get_tensor(name)
            if claimed is not None:
                _hash_tensor(digest, name, tensor)
            if wanted:
                tensors[name] = tensor
    if claimed is not None and claimed != digest.hexdigest():
        raise FileError(
            f"{path} is damaged: its content hashes to {digest.hexdigest()}, it says "
            f"{claimed}. Fetch or make it again"
        )
    return tensors, header


@contextmanager
def opened(path: Path, kind: str, maker: str, limit: int = LIMIT) -> Iterator[Any]:
    """A safetensors file, open for numpy; opening checks that it is complete.

    Args:
        path: The file.
        kind: What it should be, for messages, for example "goal bundle".
        maker: What writes such files, for messages.
        limit: The maximum file size in bytes.

    Raises:
        FileError: It is missing, too large, no such file or cut short, or what is read
            from it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    _check_file(path, kind, limit)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileError:
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise FileError(
            f"{path} is {_what_else(path)} ({error}). The {kind} is a "
            f"safetensors file written by {maker}"
        ) from error
    except BaseException as error:
        # What the reader, which is written in Rust, raises when memory runs out.
        if type(error).__name__ not in ("PanicException", "MemoryError"):
            raise
        raise FileError(f"{path} does not fit into memory ({error})") from error


def _check_file(path: Path, kind: str, limit: int) -> None:
    """Raises unless the file exists and is small enough to be read."""
    try:
        if path.is_dir():
            raise FileError(f"{path} is a folder, expected a {kind}")
        # Reading a pipe would block until somebody writes to it.
        if not path.is_file():
            raise FileError(f"there is no {kind} at {path}")
        with path.open("rb") as file:
            size = path.stat().st_size
            said = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror or error})") from error
    if size > limit:
        raise FileError(
            f"{path} has {size} bytes, more than the {limit} that a {kind} may have"
        )
    if HEADER < said <= size:
        raise FileError(
            f"{path} has a header of {said} bytes, more than the {HEADER} that are read"
        )


def _read_header(
    path: Path, layout: Layout, metadata: Mapping[str, str]
) -> dict[str, Any]:
    text = metadata.get(layout.key)
    if text is None:
        raise FileError(
            f"{path} is a safetensors file but no {layout.kind}: its metadata has no "
            f"{layout.key!r} key, only {sorted(metadata)}"
        )
    try:
        header = parse_json(text)
    except ValueError as error:
        raise FileError(f"{path}: its metadata is damaged ({error})") from error
    if not isinstance(header, dict) or "schema" not in header:
        raise FileError(f"{path}: its metadata is damaged (it has no 'schema')")
    found = header["schema"]
    if found != layout.schema or not isinstance(found, int):
        raise FileError(
            f"{path} has schema {found!r}, this version of genreward-wrappers reads "
            f"schema {layout.schema}"
        )
    said = fault(header, _full(layout))
    if said:
        raise FileError(f"{path} is no valid {layout.kind}: {said}")
    return header


def _full(layout: Layout) -> Record:
    """All fields of a header."""
    needed, optional = layout.header.needed, layout.header.optional
    return Record({**needed, "schema": Whole()}, {**optional, SHA256: str})


def _what_else(path: Path) -> str:
    with path.open("rb") as handle:
        head = handle.read(4)
    # The first bytes of torch.save and pickle.dump.
    pickled = head[:2] == b"PK" or head[:1] == b"\x80"
    return "a pickle, which is never read" if pickled else "no safetensors file"


def _begun(header: Mapping[str, Any]) -> hashlib._Hash:
    return hashlib.sha256(canonical(header).encode())


def _hash_tensor(digest: hashlib._Hash, name: str, tensor: NDArray[Any]) -> None:
    digest.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode())
    digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, which need not fit into memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


#: Models inside another model's folder: a pipeline needs its VAE in place.
INSIDE = {"video-vae-64": "goal-generator-64/vae"}


def embedded_folders(markers: Sequence[str]) -> dict[str, Path]:
    """The models that come with this package, by name.

    Args:
        markers: File names that identify the kind of model, such as
            "model_index.json"; at least one must exist in the folder.
    """
    assets = Path(str(resources.files("genreward_wrappers"))) / "assets"
    names = {path.name: path.name for path in assets.glob("*")} | INSIDE
    return {
        name: assets / place
        for name, place in sorted(names.items())
        if any((assets / place / marker).is_file() for marker in markers)
    }


def embedded_folder(spec: str, markers: Sequence[str], kind: str) -> Path:
    """The folder that ``embedded:<name>`` stands for.

    Args:
        spec: The text that the user wrote.
        markers: As for `embedded_folders`.
        kind: The kind of model, for messages: "encoder".

    Raises:
        ValueError: There is none of that name; the message lists those available.
    """
    name, there = spec.removeprefix("embedded:"), embedded_folders(markers)
    if name not in there:
        raise ValueError(f"there is no embedded {kind} {name!r}; there are {[*there]}")
    return there[name]
