"""Altered episodes: reversed, shifted, of another brightness."""

from __future__ import annotations

import numpy as np
import pytest

from genreward_wrappers.evaluate.episodes import altered as others
from genreward_wrappers.evaluate.episodes.altered import altered
from tests.evaluate.shared import HORIZON, STEPS, of_kind

pytest.importorskip("metaworld")
pytest.importorskip("scipy")


def test_altered_kinds_and_groups(recorded):
    before = [episode.frames.copy() for episode in recorded]
    changed = altered(recorded)
    sources = of_kind(recorded, "success")
    assert [e.info["kind"] for e in changed] == [*others.ALTERED] * len(sources)
    for source, three in zip(
        sources, zip(*[iter(changed)] * 3, strict=True), strict=True
    ):
        for episode in three:
            assert episode.info["group"] == source.info["group"]
            assert source.info["kind"] == "success"
            assert episode.frames.shape == source.frames.shape
    assert all(map(np.array_equal, before, (e.frames for e in recorded)))


def test_reversed_is_backwards(recorded):
    sources = of_kind(recorded, "success")
    backwards = of_kind(altered(sources), "reversed")
    for source, episode in zip(sources, backwards, strict=True):
        np.testing.assert_array_equal(episode.frames, source.frames[::-1])
        assert episode.frame_steps.tolist() == [HORIZON - s for s in STEPS[::-1]]
        assert episode.rewards == {}
        assert not episode.succeeded
        assert len(episode) == HORIZON


def test_shifted_moves_every_frame_alike(recorded):
    sources = of_kind(recorded, "success")
    moves = []
    shifted = of_kind(altered(sources), "shifted")
    for source, episode in zip(sources, shifted, strict=True):
        found = [
            (down, right)
            for down in range(-4, 5)
            for right in range(-4, 5)
            if np.array_equal(
                np.roll(source.frames, (down, right), (1, 2))[:, 4:-4, 4:-4],
                episode.frames[:, 4:-4, 4:-4],
            )
        ]
        ((down, right),) = found
        assert (down, right) != (0, 0)
        moves.append((down, right))
        # The edge is drawn out; nothing comes in again from the other side.
        wide = np.pad(source.frames, ((0, 0), (4, 4), (4, 4), (0, 0)), "edge")
        expected = wide[:, 4 - down : 68 - down, 4 - right : 68 - right]
        np.testing.assert_array_equal(episode.frames, expected)
        assert episode.succeeded
        np.testing.assert_array_equal(episode.rewards["env"], source.rewards["env"])
        np.testing.assert_array_equal(episode.frame_steps, source.frame_steps)
    assert len(set(moves)) == len(moves)


def test_shifts_reach_a_sixteenth_and_no_farther():
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    frames[0, 32, 32] = 255
    moves = [
        np.argwhere(others._shift(frames, np.random.default_rng(seed))[0, ..., 0])[0]
        - 32
        for seed in range(300)
    ]
    assert np.min(moves) == -4
    assert np.max(moves) == 4
    assert np.abs(moves).sum(1).min() > 0


def test_brightness_is_one_factor():
    frames = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    factors = []
    for seed in range(40):
        changed = others._brighten(frames, np.random.default_rng(seed))
        unclipped = changed < 255
        factor = changed[unclipped].sum() / frames[unclipped].sum()
        assert np.abs(changed - np.clip(frames * factor, 0, 255)).max() < 2
        factors.append(factor)
    factors = np.array(factors)
    assert (((factors > 0.49) & (factors < 0.8)) | (factors > 1.13)).all()
    assert factors.max() < 1.3
    assert 5 < (factors < 1).sum() < 35
