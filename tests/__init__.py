"""The tests, in the tree of the source that they test."""

from pathlib import Path

#: The repository's root.
ROOT = Path(__file__).parents[1]
