"""The README as its readers run it: each snippet, with what it prints."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from genreward_wrappers.cli.main import make_parser
from genreward_wrappers.data.video_files import write_video
from tests import ROOT

README = (ROOT / "README.md").read_text()

#: Of snippets that train: what they say, and what a test has time for.
STEPS = {"10_000": "105"}


def test_snippets_run_and_print_what_stands_there(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "my.mp4", rng.integers(0, 256, (40, 96, 96, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.S)
    assert len(blocks) == 3
    for code, printed in blocks:
        for shown, short in STEPS.items():
            code = code.replace(shown, short)
        capsys.readouterr()
        before = scope.get("env")
        exec(code, scope)
        assert capsys.readouterr().out == printed
        if before is not None and before is not scope["env"]:
            before.close()
    scope["env"].close()


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_accepted(page):
    """Every ``genreward`` command in a shell block has options that exist."""
    parser = make_parser()
    for command in commands_of(page.read_text()):
        print("genreward", shlex.join(command))  # shown where it is not accepted
        parser.parse_args(command)


def commands_of(text: str) -> list[list[str]]:
    """The words after each ``genreward`` at the beginning of a command."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)
    shown = "\n".join(body for kind, body in blocks if kind in ("", "bash", "shell"))
    lines = re.split(r"\n|&&|;", shown.replace("\\\n", " "))
    split = [
        shlex.split(line, comments=True)
        for line in lines
        if line.strip().startswith("genreward ") and "..." not in line
    ]
    return [words[1:] for words in split]


def test_the_pages_have_commands():
    assert len(commands_of(README)) == 3
    assert sum(len(commands_of(page.read_text())) for page in PAGES) > 40
