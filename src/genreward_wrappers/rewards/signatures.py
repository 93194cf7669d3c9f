"""What reward models take, without importing those that would load torch.

A wrong name or option on the command line is reported before seconds are spent on
torch. The constructors of this package's models are therefore read from their source;
their options are dataclasses in modules that do not import it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

from genreward_wrappers.rewards.options import Options

N = TypeVar("N", bound=ast.AST)

#: Annotations that tell the kind of a value: what it is, and how a message says it.
KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "True or False"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text"),
}

#: Stands for a default whose value is not in the source.
UNREAD = object()

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Takes(NamedTuple):
    """What a model takes.

    Attributes:
        parameters: Its constructor's parameters. Annotations are texts, and a default
            that is no literal is `UNREAD`.
        options: The dataclass of its further options, if it has one.
    """

    parameters: Mapping[str, inspect.Parameter]
    options: type[Options] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all of them; the variant comes with the model's name."""
        own = self.options.names() if self.options else ()
        return (*own, *(name for name in self.parameters if name != "variant"))

    @property
    def required(self) -> list[str]:
        """The names of those without a default."""
        each = self.parameters.items()
        return [name for name, one in each if one.default is one.empty]

    def bound(self, given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """The values of these parameters: as given, or their defaults."""
        return {
            name: given[name] if name in given else self.parameters[name].default
            for name in names
        }


def check_kinds(takes: Takes, given: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a value of another kind than its parameter's."""
    for name, value in given.items():
        if name not in takes.parameters:
            continue
        kind, _, more = takes.parameters[name].annotation.partition(" | ")
        if kind not in KINDS or more not in ("", "None") or (more and value is None):
            continue
        types, said = KINDS[kind]
        # To Python, True and False are whole numbers.
        if not isinstance(value, types) or isinstance(value, bool) != (kind == "bool"):
            raise ValueError(f"{name}={value!r}: expected {said}")


def inspected(make: Callable[..., Any]) -> Takes:
    """What a class or function takes."""
    named = {
        each.name: each.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            annotation=""
            if each.annotation is each.empty
            else inspect.formatannotation(each.annotation).strip("'"),
        )
        for each in inspect.signature(make).parameters.values()
        if each.kind in NAMED
    }
    return Takes(named, getattr(make, "Options", None))


@cache
def read(home: str) -> Takes:
    """What "module:name" takes, from the module's source.

    A class has a constructor of its own, and its ``Options`` are imported by name.
    """
    module, _, name = home.partition(":")
    spec = find_spec(module)
    source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
    if source is None:
        # Installed without sources.
        return inspected(getattr(import_module(module), name))
    tree = ast.parse(source)
    made = next(n for n in tree.body if getattr(n, "name", None) == name)
    if isinstance(made, ast.FunctionDef):
        return Takes(_parameters(made))
    assert isinstance(made, ast.ClassDef)
    make = next(n for n in _all(made, ast.FunctionDef) if n.name == "__init__")
    told = [
        ast.unparse(node.value)
        for node in _all(made, ast.Assign)
        if ast.unparse(node.targets[0]) == "Options"
    ]
    return Takes(_parameters(make), _imported(tree, told[0]) if told else None)


def _parameters(make: ast.FunctionDef) -> dict[str, inspect.Parameter]:
    plain, named = make.args.args, make.args.kwonlyargs
    defaults = [
        *[None] * (len(plain) - len(make.args.defaults)),
        *make.args.defaults,
        *make.args.kw_defaults,
    ]
    return {
        each.arg: inspect.Parameter(
            each.arg,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is None else _literal(default),
            annotation=ast.unparse(each.annotation) if each.annotation else "",
        )
        for each, default in zip((*plain, *named), defaults, strict=True)
        if each.arg != "self"
    }


def _literal(default: ast.expr) -> Any:
    try:
        return ast.literal_eval(default)
    except ValueError:
        return UNREAD


def _imported(tree: ast.Module, name: str) -> Any:
    homes = [
        node.module
        for node in _all(tree, ast.ImportFrom)
        if node.module and name in [alias.name for alias in node.names]
    ]
    return getattr(import_module(homes[0]), name)


def _all(node: Any, kind: type[N]) -> list[N]:
    return [each for each in node.body if isinstance(each, kind)]
