"""The options of a reward model: one frozen dataclass, from which all else is read.

Which names a model accepts, which values, what an option does and when it does nothing
at all stand in one place. Wrappers, `load_reward`, the command line and the table in
the documentation read it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from genreward_wrappers.checks import check_names, one_of

T = TypeVar("T", bound="Options")


def option(
    default: Any,
    about: str,
    *,
    choices: Iterable[str] = (),
    only: tuple[str, Iterable[str]] | None = None,
    check: Callable[[str, Any], Any] | None = None,
) -> Any:
    """A field of a model's options.

    Args:
        default: Its value where nobody says anything.
        about: What it does, for the documentation.
        choices: The values it may have; none is any.
        only: The option on which this one depends, and the values of it that give this
            one something to do. Its default is None then.
        check: Takes its name and its value, and raises `ValueError` for a bad one; None
            is never bad.
    """
    told = {"about": about, "choices": tuple(choices), "only": only, "check": check}
    return field(default=default, metadata=told)


@dataclass(frozen=True)
class Options:
    """The base of a model's options, which checks their values."""

    @classmethod
    def of(cls: type[T], given: Mapping[str, Any], owner: str) -> T:
        """The options of these names.

        Raises:
            TypeError: There is no such option; the message names the closest one.
            ValueError: An option has a value that it cannot have, or does nothing.
        """
        check_names(given, cls.names(), owner)
        return cls(**given)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """What they are called."""
        return tuple(one.name for one in fields(cls))

    def given(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if getattr(self, one.name) != one.default
        }

    @classmethod
    def table(cls) -> list[tuple[str, str, str]]:
        """Name, default and what it does, of each."""
        return [
            (one.name, repr(one.default), one.metadata["about"]) for one in fields(cls)
        ]

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.metadata["choices"]:
                one_of(one.metadata["choices"], **{one.name: value})
            if value is None:
                continue
            if one.metadata["check"]:
                one.metadata["check"](one.name, value)
            if not self._works(one.name):
                other, accepted = one.metadata["only"]
                raise ValueError(
                    f"{one.name}={value!r} does nothing with "
                    f"{other}={getattr(self, other)!r}: it needs {other} to be "
                    f"{' or '.join(map(repr, accepted))}"
                )

    def _works(self, name: str) -> bool:
        only = next(one.metadata["only"] for one in fields(self) if one.name == name)
        return only is None or getattr(self, only[0]) in tuple(only[1])
