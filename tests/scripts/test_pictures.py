"""Scripts that draw the documentation's pictures run from any folder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT

pytest.importorskip("PIL")


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
