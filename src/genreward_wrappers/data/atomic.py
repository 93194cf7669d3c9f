"""Atomic writes: a file or folder is complete or absent, whenever the process dies.

Data is written under a hidden name next to the target, which it replaces when it is
complete. The hidden name contains the machine and the process, so that leftovers of
killed processes are recognised and removed by the next process that writes there.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_NAME = re.compile(
    r"\..+\.genreward-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(\.\w+)?"
)

#: Seconds for which scratch files are kept if their process cannot be looked up, for
#: example because it runs on another machine.
PATIENCE = 24 * 60 * 60.0

#: Folders that this process has already tidied.
_tidied: set[tuple[int, Path]] = set()


def write_atomic(path: Path, payload: bytes) -> None:
    """Writes next to the target and renames: readers see all of the file or nothing."""
    with replacing(path) as scratch:
        scratch.write_bytes(payload)


@contextmanager
def replacing(path: Path, ending: str = "") -> Iterator[Path]:
    """A scratch file that replaces another file if the block succeeds.

    Args:
        path: The file to replace.
        ending: The suffix of the scratch file, for libraries that choose the format by
            it. Without a suffix, listings by suffix do not find the scratch file.

    Yields:
        An empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch_beside(path, ending)
    try:
        # The system applies the umask, which cannot be read without changing it.
        os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        mode = scratch.stat().st_mode & 0o777
        yield scratch
        # A library that recreates the file may make it private.
        scratch.chmod(mode)
        with scratch.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        # The error of a full disk does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a folder. One of the two exists at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch_beside(path)
    scratch.mkdir()
    try:
        yield scratch
        # Files that libraries made private become as public as the folder.
        mode = scratch.stat().st_mode & 0o777
        for inside in scratch.rglob("*"):
            inside.chmod(mode if inside.is_dir() else mode & 0o666)
        _take_place(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def recover_folder(path: Path) -> None:
    """Restores a folder that was moved aside for a replacement that never came.

    On systems that cannot swap two folders atomically there is a moment without either,
    and the process may die in it.
    """
    kept = _kept(path)
    if kept.is_dir() and not path.exists():
        os.replace(kept, path)
    elif kept.is_dir():
        shutil.rmtree(kept, ignore_errors=True)


def _scratch_beside(path: Path, ending: str = "") -> Path:
    """A unique hidden name next to a path."""
    remove_stale(path.parent)
    mark = f"genreward-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{mark}{ending}")


def remove_stale(folder: Path) -> None:
    """Removes what killed processes left in a folder, once per process."""
    key = (os.getpid(), folder.absolute())
    if key in _tidied:
        return
    _tidied.add(key)
    with suppress(OSError), os.scandir(folder) as items:
        stale = [Path(item.path) for item in items if _is_stale(item)]
        for path in stale:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_stale(item: os.DirEntry[str]) -> bool:
    match = _NAME.fullmatch(item.name)
    if match is None:
        return False
    with suppress(OSError):
        if time.time() - item.stat(follow_symlinks=False).st_mtime > PATIENCE:
            return True
    # On Windows, os.kill would end the process.
    if match["host"] != _host() or os.name != "posix":
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        # It exists and belongs to somebody else.
        return False
    return False


@cache
def _host() -> str:
    """Identifies where process ids are valid: a machine, or a container on it."""
    name = socket.gethostname()
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _kept(path: Path) -> Path:
    return path.with_name(f".{path.name}.before")


def _take_place(made: Path, path: Path) -> None:
    """Replaces a folder by another, atomically where the system can."""
    if not path.exists():
        os.replace(made, path)
    elif _exchange(made, path):
        shutil.rmtree(made, ignore_errors=True)
    else:
        kept = _kept(path)
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(path, kept)
        os.replace(made, path)
        shutil.rmtree(kept, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names atomically; False if the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    done = rename(here, os.fsencode(one), here, os.fsencode(other), exchange)
    return bool(done == 0)
