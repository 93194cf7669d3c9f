"""What an argument may be: every fault in one wording, with what was received.

The first three return the value, of the right type. In the three that follow None
stands for a default, and is never at fault.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real


def whole(name: str, value: object, low: int = 1) -> int:
    """The value as an int, if it is a whole number of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ValueError(f"{name}={value!r}: expected a whole number, at least {low}")
    return int(value)


def number(name: str, value: object) -> float:
    """The value as a float, if it is a finite number."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not math.isfinite(value)
    ):
        raise ValueError(f"{name}={value!r}: expected a finite number")
    return float(value)


def share(name: str, value: object) -> float:
    """The value as a float, if it is a number from 0 to 1."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not 0 <= float(value) <= 1
    ):
        raise ValueError(f"{name}={value!r}: expected a number from 0 to 1")
    return float(value)


def at_least(low: int, **numbers: float | None) -> None:
    """Raises `ValueError` for a number below ``low``."""
    for name, value in numbers.items():
        if value is not None and value < low:
            raise ValueError(f"{name}={value}: expected at least {low}")


def positive(**numbers: float | None) -> None:
    """Raises `ValueError` for a number that is not above 0 and finite."""
    for name, value in numbers.items():
        # Written this way round, here and elsewhere, because NaN is in no range.
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: expected a positive number")


def not_negative(**numbers: float | None) -> None:
    """Raises `ValueError` for a number that is below 0 or not finite."""
    for name, value in numbers.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: expected a number from 0")


def one_of(choices: Iterable[str], **values: object) -> None:
    """Raises `ValueError` for a value that is not among the choices."""
    accepted = tuple(choices)
    for name, value in values.items():
        if value not in accepted:
            raise ValueError(
                f"{name}={value!r}: expected one of {', '.join(map(repr, accepted))}"
            )


def check_names(given: Iterable[str], accepted: Iterable[str], owner: str) -> None:
    """Raises `TypeError` if a name is not among those that are accepted."""
    names = tuple(accepted)
    for name in given:
        if name not in names:
            raise TypeError(
                f"{owner}: no option {name!r}{did_you_mean(name, names)}, expected one "
                f"of {', '.join(names) or 'none'}"
            )


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """The known names that are closest to one, for its message; empty if none is."""
    close = difflib.get_close_matches(str(name), known, n=most)
    return f" (did you mean {', '.join(map(repr, close))}?)" if close else ""
