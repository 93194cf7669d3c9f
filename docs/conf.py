"""Sphinx configuration. The wrapper table is made from the code, at every build."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import genreward_wrappers

project = "genreward-wrappers"
author = "The genreward-wrappers developers"
copyright = "2026, " + author
release = genreward_wrappers.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"genreward-wrappers {release}"

myst_heading_anchors = 3

# A class is documented by what its constructor takes.
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
# Named tuples document their fields twice otherwise.
napoleon_use_ivar = True
default_role = "code"
# The README links to its own pages and files, which live elsewhere in the built docs.
suppress_warnings = ["myst.xref_missing"]
nitpicky = False


class WrapperTable(SphinxDirective):
    """A row for every public wrapper: its name, its host, and what it does."""

    def run(self) -> list[nodes.Node]:
        """Reads the classes' own first lines."""
        from genreward_wrappers import sb3, vector

        homes = [
            (
                "genreward_wrappers",
                genreward_wrappers,
                [
                    "GenRewardWrapper",
                    "VideoLevelReward",
                    "FrameLevelReward",
                    "RewardModelWrapper",
                    "TapFrames",
                ],
            ),
            ("genreward_wrappers.vector", vector, vector.__all__),
            ("genreward_wrappers.sb3", sb3, sb3.__all__),
        ]
        rows = []
        for module, home, names in homes:
            for name in names:
                about = inspect.getdoc(getattr(home, name)) or ""
                rows.append((name, module, about.split("\n\n")[0].replace("\n", " ")))
        return [_table(("wrapper", "in", "what it does"), rows)]


class OptionsTable(SphinxDirective):
    """A row for every option of a reward, from its dataclass."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Reads the fields."""
        from genreward_wrappers.rewards.registry import find_reward

        make, _ = find_reward(self.arguments[0])
        rows = [(name, default, about) for name, default, about in make.Options.table()]
        return [_table(("option", "default", "what it does"), rows)]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> nodes.table:
    group = nodes.tgroup(cols=len(head))
    for width in (25, 25, 50):
        group += nodes.colspec(colwidth=width)
    group += nodes.thead("", _row(head))
    group += nodes.tbody("", *(_row(row, code=2) for row in rows))
    return nodes.table("", group)


def _row(cells: tuple[str, ...], code: int = 0) -> nodes.row:
    row = nodes.row()
    for index, cell in enumerate(cells):
        text = nodes.literal if index < code else nodes.inline
        row += nodes.entry(
            "", nodes.paragraph("", "", text(cell, cell.replace("`", "")))
        )
    return row


def setup(app: object) -> None:
    """Registers the directive."""
    app.add_directive("wrapper-table", WrapperTable)  # type: ignore[attr-defined]
    app.add_directive("options-table", OptionsTable)  # type: ignore[attr-defined]
