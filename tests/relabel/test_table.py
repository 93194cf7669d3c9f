"""Scores as a table: in a file, and in a terminal."""

from __future__ import annotations

import numpy as np
import pytest

from genreward_wrappers.relabel import Scored
from genreward_wrappers.relabel.table import LISTED, Row, lines, of_frames, write_table


def scored(*values, **parts):
    own = {name: np.array(part, np.float32) for name, part in parts.items()}
    return Scored(np.array(values), own)


def test_the_parts_of_a_sum_are_columns_of_their_own(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    both = scored(0.5, 2.5, 0.0, video=[0.5, 1, np.nan], frame=[np.nan, 3, np.nan])
    write_table(tmp_path / "t.parquet", [Row("a", 7, 10, [both])], ["genreward"], {})
    data = parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert data["episode_index"] == [7] * 4
    assert data["timestamp"] == [0, 0.1, 0.2, 0.3]
    # Due is a step where any part is.
    assert data["genreward"] == [None, 0.5, 2.5, None]
    assert data["genreward.video"] == [None, 0.5, 1, None]
    assert data["genreward.frame"] == [None, None, 3, None]
    assert [*of_frames(scored(1.0, video=[1]))] == [""]


def test_what_a_terminal_shows():
    rows = [Row("a/" * 40 + f"{i}", i, None, [scored(i, 2 * i, video=[i, 2 * i])])
            for i in range(LISTED + 3)]  # fmt: skip
    rows[1] = Row("nothing due", 1, None, [scored(0, 0, video=[np.nan, np.nan])])
    found = [*lines(rows, ["video"])]
    assert max(map(len, found)) <= 80
    assert len(found) == LISTED + 3
    head, first, none, third, *_, more, mean = (line.split() for line in found)
    assert head == ["video", "frames", "mean", "min", "max", "last"]
    assert first[0].startswith("...")
    assert first[0].endswith("a/0")
    assert none == ["nothing", "due", "3", "-", "-", "-", "-"]
    assert third[1:] == ["3", "3", "2", "4", "4"]
    assert more == ["...", "and", "3", "more"]
    known = np.delete(np.arange(LISTED + 3), 1)
    assert mean[:4] == ["mean", "of", "all", f"{3 * (LISTED + 3)}"]
    assert float(mean[4]) == pytest.approx(1.5 * known.mean(), rel=0.01)
