"""Optional packages: imported where they are needed, named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str, purpose: str) -> Any:
    """Imports an optional package.

    Args:
        module: The module to import, such as ``"av"`` or ``"pyarrow.parquet"``.
        extra: The extra of this package that installs it, or what else to give to pip,
            quoted: ``'"minari[hdf5]"'``.
        purpose: What needs it, as the start of a sentence: ``"contact sheets need
            pillow"``.

    Raises:
        ImportError: It is not installed; the message says how to install it.

    Example:
        >>> require("json", "video", "this example needs json").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = extra if extra.startswith('"') else f'"genreward-wrappers[{extra}]"'
        raise ImportError(f"{purpose}: pip install {what} ({error})") from error
