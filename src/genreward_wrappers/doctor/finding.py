"""The results of checks, and the state that checks share."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gymnasium as gym

from genreward_wrappers.core import UInt8
from genreward_wrappers.envs.families import FAMILIES

PACKAGE = "genreward-wrappers"


Status: TypeAlias = Literal["ok", "info", "warn", "fail"]

REINSTALL = f"pip install --force-reinstall --no-deps {PACKAGE}"

EGL = (
    "on Linux: apt-get install libegl1 libgl1-mesa-dri (or libosmesa6), with MUJOCO_GL "
    "unset; on a GPU machine the driver's EGL library must be visible, in containers "
    "NVIDIA_DRIVER_CAPABILITIES=all"
)

# The extra and the package of the simulator of this package's own environments, by the
# prefix of their ids.
SIMULATORS = {family.name: (family.extra, family.package) for family in FAMILIES}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: The subject of the check.
        status: "ok", "info" (no action needed), "warn" or "fail".
        says: What was found.
        do: What to do about it; never empty for "warn" and "fail".
    """

    name: str
    status: Status
    says: str
    do: str = ""

    def __post_init__(self) -> None:
        """Rejects a problem without a remedy."""
        if self.status in ("warn", "fail") and not self.do:
            raise ValueError(f"the finding {self.name!r} does not say what to do")


@dataclass
class Visit:
    """The state that the checks share.

    Attributes:
        env_id: The id of the environment to draw.
        output: The folder for pictures; None saves none.
        backend: The value of MUJOCO_GL before this package chose one.
        obstacle: Why nothing can be drawn here; empty if drawing works.
        remedy: What to do about the obstacle.
    """

    env_id: str
    output: Path | None = None
    backend: str = ""
    obstacle: str = ""
    remedy: str = ""

    @property
    def metaworld(self) -> bool:
        """Whether it is one of this package's Meta-World environments."""
        return self.env_id.startswith("metaworld/")


Check: TypeAlias = Callable[[Visit], Iterator[Finding]]


def make_env(env_id: str, **options: Any) -> Any:
    return gym.make(
        env_id, render_mode="rgb_array", disable_env_checker=True, **options
    )


def install_line(extra: str) -> str:
    return f'pip install "{PACKAGE}[{extra}]"'


def fault(attempt: Callable[..., object], *arguments: object) -> str:
    """The error of a call in one line, or an empty text."""
    try:
        attempt(*arguments)
    except Exception as error:
        return brief(error)
    return ""


def brief(error: Exception) -> str:
    """The first line of an error; some messages go on to quote whole configurations."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:400]


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:400] if lines else "it printed nothing"


def save_picture(visit: Visit, name: str, picture: UInt8, zoom: int = 1) -> str:
    """Saves a picture if requested; returns its path as the end of a sentence."""
    if visit.output is None:
        return ""
    picture = picture.repeat(zoom, 0).repeat(zoom, 1)
    height, width, _ = picture.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    # Written by hand, since Pillow comes only with extras that may be missing.
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    visit.output.mkdir(parents=True, exist_ok=True)
    path = visit.output / name
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return f"; {path.resolve()}"
