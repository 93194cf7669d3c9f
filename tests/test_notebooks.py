"""The notebooks run, cell by cell, and print what they hold."""

from __future__ import annotations

import ast
import json

import pytest

from tests import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))

#: What a test has less time for than a reader.
SHORTER = {"dict.fromkeys(kinds, 4)": "dict.fromkeys(kinds, 1)"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scope = {"__name__": "__main__"}
    shown = 0
    for cell in cells_of(path):
        source = "".join(cell["source"])
        for long, short in SHORTER.items():
            source = source.replace(long, short)
        capsys.readouterr()
        shown += run(source, scope)
        printed = capsys.readouterr().out
        # Figures depend on the driver that draws, in their last digits.
        stored = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert [line.split(" ")[0] for line in printed.splitlines()] == [
            line.split(" ")[0] for line in stored.splitlines()
        ]
    assert shown >= 1


def test_they_are_stored_with_their_output_and_are_small():
    assert len(NOTEBOOKS) == 2
    for path in NOTEBOOKS:
        cells = cells_of(path)
        assert [cell["execution_count"] for cell in cells] == [
            index + 1 for index in range(len(cells))
        ]
        assert path.stat().st_size < 500_000


def cells_of(path):
    found = json.loads(path.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def run(source, scope):
    """Runs a cell; says whether its last value is a picture, which it then draws."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), scope)
    if last is None:
        return False
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), scope)
    drawn = [
        getattr(value, name)()
        for name in ("_repr_html_", "_repr_png_")
        if hasattr(value, name)
    ]
    return any(drawn)
