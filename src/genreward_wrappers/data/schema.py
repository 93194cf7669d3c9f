"""The schema of file headers, as one table for each kind of file.

A header is JSON that anybody may have written. It is parsed within bounds, compared
with a table of types, and rejected with one error that names the file and the field, so
that the code that uses it can rely on its types.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

#: Maximum nesting of a header. Those written by this package are about six deep.
DEPTH = 32

#: Integers must be smaller. The state of numpy's generator takes 128 bits.
LARGEST = 1 << 128

#: Maximum side of an image, and maximum number of frames of a video.
SIDE, FRAMES = 1 << 14, 1 << 20


class FileError(ValueError):
    """A file cannot be read; the message says what was expected."""


@dataclass(frozen=True)
class Whole:
    """An integer within bounds; booleans are not integers."""

    low: int = 0
    high: int = (1 << 63) - 1


@dataclass(frozen=True)
class Maybe:
    """A value or null."""

    spec: Any


@dataclass(frozen=True)
class Each:
    """An object with any keys, whose values all have one type."""

    spec: Any


@dataclass(frozen=True)
class Record:
    """An object.

    Attributes:
        needed: The required fields and their types.
        optional: The optional fields and their types.
        open: Whether other fields are allowed, with any values.
    """

    needed: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)
    open: bool = False


#: ``str``, ``bool``, ``float`` (any finite number), ``dict`` (any object), a `Whole`,
#: `Maybe`, `Each` or `Record`, ``[spec]`` for a list, ``(spec, spec)`` for one of that
#: length.
Spec = Any

SHAPE = (Whole(1, FRAMES), Whole(1, SIDE), Whole(1, SIDE), Whole(3, 3))

#: What `encoders.base.encoder_card` writes.
ENCODER = Record(
    optional={
        "source": str,
        "fingerprint": Record(
            optional={
                "kind": str,
                "sha256": Maybe(str),
                "config": dict,
                "grammar": (Whole(1, FRAMES),) * 4,
                "size": (Whole(1, SIDE),) * 2,
                "dtype": str,
            },
            open=True,
        ),
    },
    open=True,
)


def record_of(config: type[Any], **most: int) -> Record:
    """The schema of a dataclass of numbers, texts and tuples of numbers.

    Args:
        config: The dataclass.
        most: The largest values of whole numbers by name; otherwise a million, so that
            no net is built that no machine can hold.

    >>> @dataclass
    ... class Widths:
    ...     width: int
    ...     layers: int = 3
    >>> fault({"width": 8, "layers": 99}, record_of(Widths, layers=64))
    "its 'layers' is 99, expected a whole number from 0 to 64"
    """
    needed: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for each in fields(config):
        kind = each.type if isinstance(each.type, str) else each.type.__name__
        whole = Whole(0, most.get(each.name, 1 << 20))
        specs = {
            "int": whole,
            "float": float,
            "bool": bool,
            "str": str,
            "tuple[int, int]": (whole, whole),
            "tuple[float, float]": (float, float),
            "tuple[int, ...]": [whole],
            "int | None": Maybe(whole),
            "float | None": Maybe(float),
            "str | None": Maybe(str),
        }
        bare = each.default is MISSING and each.default_factory is MISSING
        (needed if bare else optional)[each.name] = specs[kind]
    return Record(needed, optional)


def parse_json(text: str) -> Any:
    """Parses JSON with finite numbers, valid Unicode and bounded nesting.

    Raises:
        ValueError: It is not such JSON.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH} deep") from error
    _check_plain(value, DEPTH)
    return value


def fault(value: Any, spec: Spec, name: str = "header") -> str:
    """Why a value does not match its specification, or an empty text.

    >>> fault({"steps": 1.5}, Record({"steps": Whole(0, 9)}))
    "its 'steps' is 1.5, expected a whole number from 0 to 9"
    """
    if isinstance(spec, Maybe):
        return "" if value is None else fault(value, spec.spec, name)
    if isinstance(spec, Each):
        spec = (
            Record(optional=dict.fromkeys(value, spec.spec))
            if isinstance(value, dict)
            else Record()
        )
    if isinstance(spec, Record):
        return _record_fault(value, spec, name)
    if isinstance(spec, (list, tuple)):
        if not isinstance(value, list):
            return _expected(name, value, "a list")
        if isinstance(spec, tuple) and len(value) != len(spec):
            return _expected(name, value, f"a list of {len(spec)}")
        parts = spec if isinstance(spec, tuple) else spec * len(value)
        found = (
            fault(item, part, f"{name}[{i}]")
            for i, (item, part) in enumerate(zip(value, parts, strict=True))
        )
        return next(filter(None, found), "")
    if isinstance(spec, Whole):
        fits = isinstance(value, int) and not isinstance(value, bool)
        if fits and spec.low <= value <= spec.high:
            return ""
        return _expected(name, value, f"a whole number from {spec.low} to {spec.high}")
    if spec is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        return "" if fits else _expected(name, value, "a number")
    words = {str: "a text", bool: "true or false", dict: "an object"}
    return "" if isinstance(value, spec) else _expected(name, value, words[spec])


def _record_fault(value: Any, spec: Record, name: str) -> str:
    if not isinstance(value, dict):
        return _expected(name, value, "an object")
    inside = "" if name == "header" else f"{name}."
    for key, part in spec.needed.items():
        if key not in value:
            return f"it has no {inside + key!r}"
        said = fault(value[key], part, inside + key)
        if said:
            return said
    for key, item in value.items():
        if key in spec.optional:
            said = fault(item, spec.optional[key], inside + key)
            if said:
                return said
        elif key not in spec.needed and not spec.open:
            return f"it has an unknown {inside + key!r}"
    return ""


def _expected(name: str, value: Any, what: str) -> str:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"its {name!r} is {shown}, expected {what}"


def _check_plain(value: Any, depth: int) -> None:
    if depth < 0:
        raise ValueError(f"it is nested more than {DEPTH} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, depth - 1)
            _check_plain(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth - 1)
    elif isinstance(value, str):
        # A lone surrogate is not valid text, and fails when it is printed.
        value.encode()
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number in it is not finite")
    elif isinstance(value, int) and abs(value) >= LARGEST:
        raise ValueError("a number in it has more than 128 bits")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")
