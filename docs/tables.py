"""Sphinx directives that make the reference's tables from the code, at every build."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import genreward_wrappers
from genreward_wrappers.rewards.options import Options

#: The public wrappers of single environments.
WRAPPERS = (
    "GenRewardWrapper",
    "VideoLevelReward",
    "FrameLevelReward",
    "RewardModelWrapper",
    "TapFrames",
)

#: Options of every command, which the page describes once.
EVERYWHERE = ("quiet", "traceback")


class WrapperTable(SphinxDirective):
    """A row for each public wrapper: its name, with its module, and what it does."""

    def run(self) -> list[nodes.Node]:
        """Reads the first paragraph of each class's docstring."""
        from genreward_wrappers import sb3, vector

        rows = []
        for module, before, names in (
            (genreward_wrappers, "", WRAPPERS),
            (vector, "vector.", vector.__all__),
            (sb3, "sb3.", sb3.__all__),
        ):
            for name in names:
                about = inspect.getdoc(getattr(module, name)) or ""
                rows.append((before + name, about.split("\n\n")[0]))
        return [table(("wrapper", "what it does"), rows, (35, 65), code=1)]


class OptionsTable(SphinxDirective):
    """A row for each argument of a class's constructor, from its own docstring.

    The argument of the directive is ``module:Class``.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Reads the signature for the defaults, the docstring for the rest."""
        module, _, name = self.arguments[0].partition(":")
        rows = list(options_of(getattr(import_module(module), name)))
        return [
            table(("argument", "default", "what it is"), rows, (20, 15, 65), code=2)
        ]


class CommandReference(SphinxDirective):
    """A section for each group of commands, with one for each, from its parser."""

    def run(self) -> list[nodes.Node]:
        """Reads the parser and those of its commands."""
        from genreward_wrappers.cli.main import COMMANDS, make_parser

        each = commands(make_parser())
        return [
            self._section(
                nodes.Text(group.capitalize()),
                group,
                [self._of(*next(each)) for _ in adders],
            )
            for group, adders in COMMANDS.items()
        ]

    def _section(
        self, title: nodes.Node, name: str, content: list[nodes.Node]
    ) -> nodes.section:
        section = nodes.section("", ids=[nodes.make_id(name)])
        section += [nodes.title("", "", title), *content]
        self.state.document.note_explicit_target(section)
        return section

    def _of(self, name: str, parser: argparse.ArgumentParser) -> nodes.Node:
        about = parser.description or ""
        content: list[nodes.Node] = [nodes.paragraph("", "", *_inline(about))]
        rows = []
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction) or action.dest in EVERYWHERE:
                continue
            # As `--help` prints it, with the default.
            said = parser._get_formatter()._get_help_string(action) or ""
            said = said.replace("%(default)s", str(action.default)).replace("%%", "%")
            required = action.required and action.nargs != "*"
            rows.append((_spelled(action), said + " Required." * required))
        if rows:
            content.append(table(("argument", "what it is"), rows, (35, 65), code=1))
        title = f"genreward {name}"
        return self._section(nodes.literal("", title), title, content)


def options_of(cls: type) -> Iterator[tuple[str, str, str]]:
    """Name, default and description of each argument of a class's constructor."""
    if issubclass(cls, Options):
        yield from cls.table()
        return
    signature = inspect.signature(cls.__init__)
    said = "\n\n".join(inspect.getdoc(each) or "" for each in (cls, cls.__init__))
    described = dict(arguments_of(said))
    told = getattr(cls, "Options", None)
    for name, parameter in signature.parameters.items():
        if name == "self" or (told and parameter.kind is parameter.VAR_KEYWORD):
            continue
        star = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        empty = parameter.default is parameter.empty
        default = "" if empty else repr(parameter.default)
        yield f"{star}{name}", default, described.get(name, "")
    # What a class takes as options is one dataclass, which describes itself.
    yield from told.table() if told else ()


def arguments_of(docstring: str) -> Iterator[tuple[str, str]]:
    """The entries of the sections that describe arguments or fields."""
    for block in re.findall(
        r"^(?:Args|Attributes):\n((?:(?: .*)?\n?)*)", docstring, re.M
    ):
        for entry in re.split(r"\n(?= {4}\S)", block.rstrip("\n")):
            name, _, about = entry.strip().partition(":")
            yield name.lstrip("*"), " ".join(about.split())


def commands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command's name and parser, in the order of the help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def table(
    head: tuple[str, ...],
    rows: list[tuple[str, ...]],
    widths: tuple[int, ...],
    code: int = 0,
) -> nodes.table:
    """A table whose first ``code`` columns are literals."""
    group = nodes.tgroup(cols=len(head))
    for width in widths:
        group += nodes.colspec(colwidth=width)
    group += nodes.thead("", _row(head))
    group += nodes.tbody("", *(_row(row, code) for row in rows))
    return nodes.table("", group)


def _row(cells: tuple[str, ...], code: int = 0) -> nodes.row:
    row = nodes.row()
    for index, cell in enumerate(cells):
        literal = index < code and cell
        content = [nodes.literal("", cell)] if literal else _inline(cell)
        row += nodes.entry("", nodes.paragraph("", "", *content))
    return row


def _inline(text: str) -> list[nodes.Node]:
    """Text with its ``code`` and `code` as literals."""
    parts = re.split(r"(``.+?``|`.+?`)", " ".join(text.split()))
    return [
        nodes.literal("", part.strip("`")) if part.startswith("`") else nodes.Text(part)
        for part in parts
        if part
    ]


def _spelled(action: argparse.Action) -> str:
    shown: Any = action.metavar or action.dest.upper()
    if action.choices is not None and action.metavar is None:
        shown = "{" + ",".join(map(str, action.choices)) + "}"
    if isinstance(shown, tuple):
        shown = " ".join(shown)
    if not action.option_strings:
        return str(shown)
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {shown}"


def setup(app: Any) -> dict[str, Any]:
    """Registers the directives."""
    app.add_directive("wrapper-table", WrapperTable)
    app.add_directive("options-table", OptionsTable)
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True}
