"""Warnings that point at the line outside this package that caused them."""

from __future__ import annotations

import sys
import warnings


def warn_caller(message: str) -> None:
    """Warns, whatever lies between here and the user's own code."""
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _inside(frame, package):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _inside(frame: object, package: str) -> bool:
    module: str = frame.f_globals.get("__name__", "")  # type: ignore[attr-defined]
    return module.partition(".")[0] == package
