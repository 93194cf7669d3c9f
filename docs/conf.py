"""Sphinx configuration; `tables` makes the reference's tables from the code."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))

import genreward_wrappers

project = "genreward-wrappers"
author = "The genreward-wrappers developers"
copyright = "2026, " + author
release = genreward_wrappers.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "tables",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_title = f"genreward-wrappers {release}"

myst_enable_extensions = ["deflist"]
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
# Quotes stay straight and hyphens are no dashes: what has them is copied into code.
smartquotes = False
# The README links to its own pages and files, which live elsewhere in the built docs.
suppress_warnings = ["myst.xref_missing"]
nitpicky = False
