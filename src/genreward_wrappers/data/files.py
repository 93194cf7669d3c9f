"""How this package keeps arrays in files: safetensors, one key of canonical JSON.

Goal bundles and recorded episodes share it. Videos are packed without loss, equal
content gives equal bytes, and a save that is killed leaves the old file whole. Nothing
here unpickles, and nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Container, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8

#: How each video is packed: differences in time (mod 256), then zlib. Lossless, and
#: small, since little moves between two frames.
CODEC = "time-delta+zlib"


class FileError(ValueError):
    """A file that cannot be read, and what was expected in its place."""


def pack_video(video: UInt8) -> UInt8:
    """The bytes of a (T, H, W, 3) video, packed by `CODEC`."""
    first = np.zeros_like(video[:1])
    deltas = np.diff(video, axis=0, prepend=first)
    return np.frombuffer(zlib.compress(deltas.tobytes(), 9), np.uint8)


def unpack_video(packed: NDArray[Any], shape: tuple[int, ...]) -> UInt8:
    """The video that `pack_video` packed."""
    deltas = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8).reshape(shape)
    video: UInt8 = np.cumsum(deltas, axis=0, dtype=np.uint8)
    return video


def canonical(value: Any) -> str:
    """JSON with one spelling for each value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def save_tensors(
    path: Path, tensors: dict[str, NDArray[Any]], key: str, header: dict[str, Any]
) -> None:
    """Writes tensors and their header, all or nothing.

    One key holds the whole header: with several the bytes differ from save to save.
    """
    from safetensors.numpy import save

    write_atomic(path, save(tensors, metadata={key: canonical(header)}))


def load_tensors(
    path: Path,
    key: str,
    kind: str,
    maker: str,
    schema: int,
    only: Container[str] | None = None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Reads tensors and their header.

    Args:
        path: The file.
        key: The metadata key of its header.
        kind: What the file is, for messages: "goal bundle".
        maker: What writes such files, for messages.
        schema: The version of its layout.
        only: The names of the tensors to read; None reads all.

    Raises:
        FileError: It is missing, of another kind or schema, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileError(f"there is no {kind} at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if only is None or name in only]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError, TypeError) as error:
        with path.open("rb") as handle:
            head = handle.read(4)
        # What torch.save and pickle.dump begin with.
        pickled = head[:2] == b"PK" or head[:1] == b"\x80"
        raise FileError(
            f"{path} is "
            + ("a pickle, which is never read" if pickled else "no safetensors file")
            + f" ({error}). The {kind} is a safetensors file written by {maker}"
        ) from error
    text = metadata.get(key)
    if text is None:
        raise FileError(
            f"{path} is a safetensors file but no {kind}: its metadata has no "
            f"{key!r} key, only {sorted(metadata)}"
        )
    try:
        header = json.loads(text)
        found = header["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path}: its metadata is damaged ({error!r})") from error
    if found != schema:
        raise FileError(
            f"{path} has schema {found!r}, this version of genreward-wrappers reads "
            f"schema {schema}"
        )
    return tensors, header


def hash_file(path: Path) -> str:
    """The sha256 of a file, which need not fit into memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def cache_folder(kind: str) -> Path:
    """Where things of a kind are kept: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "genreward" / kind


#: Models that lie inside another: a pipeline has to have its VAE where it is.
INSIDE = {"video-vae-64": "goal-generator-64/vae"}


def embedded_folders(markers: Sequence[str]) -> dict[str, Path]:
    """The models that come with this package, by name.

    Args:
        markers: The files that tell their kind, such as "model_index.json"; one of
            them has to be there.
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
        spec: What the user wrote.
        markers: As for `embedded_folders`.
        kind: What such a model is, for messages: "encoder".

    Raises:
        ValueError: There is none of that name, and which there are.
    """
    name, there = spec.removeprefix("embedded:"), embedded_folders(markers)
    if name not in there:
        raise ValueError(f"there is no embedded {kind} {name!r}; there are {[*there]}")
    return there[name]


def write_atomic(path: Path, payload: bytes) -> None:
    """Writes beside the target and renames, so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; these are as public as any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        # A full disk does not say which file it had no room for.
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
