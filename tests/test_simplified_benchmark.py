"""What simplified meshes change in rewards is counted as the table says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import simplified

NAN = np.nan


def test_differences_are_of_steps_and_of_episodes(monkeypatch):
    # Two scripted episodes and two random ones of three steps; one pays at two of them.
    whole = [[0.5, 0.7, 0.9], [0.4, NAN, 0.6], [0.1, 0.1, 0.1], [0.2, 0.3, 0.4]]
    simple = [[0.5, 0.7, 0.8], [0.4, NAN, 0.6], [0.1, 0.3, 0.1], [0.2, 0.3, 0.4]]
    monkeypatch.setattr(simplified, "score_episodes", lambda model, films: films)
    found = simplified.differences(None, whole, simple)
    low, high, mean, most, of_means, gap = found
    assert (low, high) == (0.1, 0.9)
    assert mean == pytest.approx((0.1 + 0.2) / 11)
    assert most == pytest.approx(0.2)
    assert of_means == pytest.approx(0.2 / 3)
    assert gap == pytest.approx((0.7 + 0.5) / 2 - (0.1 + 0.3) / 2)


def test_both_ways_are_different_environments():
    one, other = simplified._Quality(whole_meshes=True), simplified._Quality()
    assert len({one: 1, other: 2, simplified._Quality(whole_meshes=True): 3}) == 2
