"""The worked examples of CONTRIBUTING.md run as they stand there."""

from __future__ import annotations

import re

import pytest

from tests import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", body, re.S)
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
}
EXAMPLES = [title for title in SECTIONS if title.startswith("Add a")]


@pytest.fixture(scope="module")
def scope():
    """What the examples before have defined, as for a reader."""
    return {}


def test_there_are_four():
    assert len(EXAMPLES) == 4
    assert all(SECTIONS[title] for title in EXAMPLES)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_runs(title, scope):
    scope["__name__"] = "example"
    for block in SECTIONS[title]:
        exec(compile(block, f"CONTRIBUTING.md, {title}", "exec"), scope)
