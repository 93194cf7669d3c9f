"""The command that makes the tables of docs/performance.md."""

from __future__ import annotations

import pytest

from benchmarks import performance


def test_every_table_has_its_place_in_the_page(tmp_path, monkeypatch, capsys):
    page = tmp_path / "performance.md"
    page.write_text(performance.PAGE.read_text())
    for name in performance.TABLES:
        monkeypatch.setitem(performance.TABLES, name, lambda n=name: print(f"| {n} |"))
    performance.main(["--page", str(page)])
    text = page.read_text()
    for name in performance.TABLES:
        assert f"<!-- {name} -->\n| {name} |\n" in text
    performance.main(["--only", "step", "--page", str(page)])
    assert page.read_text() == text


def test_a_page_without_the_place_is_refused():
    with pytest.raises(ValueError, match="one place between <!-- step -->"):
        performance.put("nothing", "step", "text")
