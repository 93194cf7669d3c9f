"""The film of episodes with their curves."""

from __future__ import annotations

import numpy as np
import pytest

from genreward_wrappers.relabel import as_episode, overlay

pytest.importorskip("matplotlib")
pytest.importorskip("av")


def test_a_film_is_written_as_it_is_drawn(tmp_path, monkeypatch):
    """Drawn episodes are gigabytes; and a film has one size whatever they have."""
    read, seen = [], []

    def episodes():
        for number, (height, width) in enumerate([(32, 48), (32, 32), (30, 90)]):
            read.append(number)
            level = 100 + 50 * number
            yield as_episode(np.full((3, height, width, 3), level, np.uint8))

    def write(path, frames, fps):
        seen.extend((len(read), frame) for frame in frames)

    monkeypatch.setattr(overlay, "write_video", write)
    scores = [[np.array([np.nan, 0.5, 1.0])]] * 3
    overlay.write_overlay(tmp_path / "a.mp4", episodes(), scores, ["one"], "abc")
    assert [count for count, _ in seen] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    wide = 576
    assert {frame.shape for _, frame in seen} == {(384, wide + overlay.WIDTH, 3)}
    first, square, flat = (seen[i][1][:, :wide, 0] for i in (0, 3, 6))
    assert (first == 100).all()
    assert (square[:, 100:-100] == 150).all()
    assert not square[:, :90].any()
    assert (flat[100:-100] == 200).all()
    assert not flat[:90].any()
