"""Scripts that draw the documentation's pictures run from any folder."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch

import pytest

from tests import ROOT

pytest.importorskip("PIL")


def test_every_picture_has_what_makes_it():
    page = (ROOT / "scripts" / "README.md").read_text()
    named = re.findall(r"^\| `([\w*.-]+\.(?:png|webp))`.* \| .*`", page, re.M)
    pictures = [path.name for path in (ROOT / "docs" / "images").iterdir()]
    for picture in pictures:
        assert any(fnmatch(picture, name) for name in named), picture
    for script in re.findall(r"`((?:models/)?\w+\.py)`", page):
        assert (ROOT / "scripts" / script).is_file(), script


def test_the_pictures_of_the_concepts_are_drawn_from_anywhere(tmp_path):
    script = ROOT / "scripts" / "make_concepts.py"
    code = f"import runpy; print(runpy.run_path({str(script)!r})['PICTURE'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == str(ROOT / "docs" / "images" / "four-rooms.webp")
