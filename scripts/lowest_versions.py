"""Prints the lowest versions that pyproject.toml allows, as constraints for pip.

    python scripts/lowest_versions.py sb3 video > lowest.txt
    pip install -c lowest.txt ".[sb3,video]"

The package's own requirements always count, and those of the extras that are named,
with the extras that they include.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def lowest(extras: list[str]) -> dict[str, str]:
    """The lower bound of every requirement that has one, by the package's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    found: dict[str, str] = {}
    left, seen = [*project["dependencies"]], set(extras)
    for extra in extras:
        left += optional[extra]
    while left:
        requirement = left.pop()
        name, more, bound = re.match(
            r"([\w.-]+)(?:\[([\w,-]+)\])?(?:>=([\w.]+))?", requirement
        ).groups()
        if name == project["name"]:
            new = set(more.split(",")) - seen
            seen |= new
            left += [each for extra in new for each in optional[extra]]
        elif bound:
            found[name] = bound
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("extras", nargs="*", help="extras whose bounds count as well")
    for name, bound in sorted(lowest(parser.parse_args().extras).items()):
        print(f"{name}=={bound}")
