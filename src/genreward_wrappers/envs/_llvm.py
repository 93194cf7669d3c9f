"""Keeps two copies of LLVM in one process from ending it.

Mesa's software GL driver and triton each carry an LLVM. Once Mesa's is loaded, be it
only by opening a display, the first import of triton ends the process in a segmentation
fault; the other way round both work. torch imports triton when an optimizer is made,
and diffusers when it is imported. So triton comes first where that is still possible,
and not at all where it is not: without it, torch compiles no GPU kernels of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_DRAWING = frozenset(
    ("mujoco", "dm_control", "OpenGL", "glfw", "moderngl", "pybullet", "pyglet")
)
"""Packages that load a GL driver, if only on use."""


class _TritonFirst(MetaPathFinder):
    """Finds nothing; imports triton when a drawing package is about to be imported."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname in _DRAWING:
            before_drawing()
        return None


def watch() -> None:
    """Sees to it that triton is imported before anything draws, whoever draws.

    Called when this package is imported. Triton itself, which takes a tenth of a second
    to import, is left until a package that draws is imported.
    """
    if _undecided():
        if _DRAWING & set(sys.modules):
            before_drawing()
        elif not any(isinstance(finder, _TritonFirst) for finder in sys.meta_path):
            sys.meta_path.insert(0, _TritonFirst())


def before_drawing() -> None:
    """Imports triton, as a GL driver may be loaded next; or `before_torch`."""
    before_torch()
    if _undecided():
        # A triton that cannot be imported now cannot do so later, either.
        with contextlib.suppress(ImportError):
            importlib.import_module("triton")


def before_torch() -> None:
    """Keeps triton out of this process if Mesa's LLVM is in it already; says so."""
    if not _undecided() or not _mesas_llvm_loaded():
        return
    # What Python looks up first: None means that the import fails.
    sys.modules["triton"] = None  # type: ignore[assignment]
    warnings.warn(
        "a software GL driver was loaded before triton, and to import triton now would "
        "crash this process, so it has been disabled here: torch works without it, "
        "except for torch.compile on GPUs. To have both, import genreward_wrappers "
        '(or "import triton") before the first import of a package that draws',
        RuntimeWarning,
        stacklevel=3,
    )


def _undecided() -> bool:
    """Whether triton is installed, and neither imported nor disabled."""
    return (
        "triton" not in sys.modules and importlib.util.find_spec("triton") is not None
    )


def _mesas_llvm_loaded() -> bool:
    """Whether it is too late for triton, as far as Linux tells."""
    try:
        with open("/proc/self/maps") as maps:
            return any("libLLVM" in line for line in maps)
    except OSError:
        return False
