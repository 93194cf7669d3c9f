"""EPIC, against a loop over a small world."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from genreward_wrappers.evaluate.judge import epic
from genreward_wrappers.evaluate.judge.epic import canonical

STATES, ACTIONS, GAMMA = 4, 3, 0.9


class Table:
    """A reward written out for every transition of a finite world."""

    def __init__(self, table):
        self.table = table

    def __call__(self, states, actions, next_states):
        return self.table[states, actions, next_states]


@pytest.fixture
def table():
    return np.random.default_rng(9).normal(size=(STATES, ACTIONS, STATES))


def every_transition():
    grid = np.meshgrid(
        np.arange(STATES), np.arange(ACTIONS), np.arange(STATES), indexing="ij"
    )
    return tuple(part.ravel() for part in grid)


def distance(a, b, coverage=None):
    states = np.arange(STATES) if coverage is None else coverage
    drawn = (states, np.arange(ACTIONS), GAMMA)
    return epic.distance(
        *(canonical(Table(part), *every_transition(), *drawn) for part in (a, b))
    )


def canonical_by_loop(table):
    s_all, a_all = range(STATES), range(ACTIONS)

    def expected(s):
        return sum(table[s, a, t] for a in a_all for t in s_all) / STATES / ACTIONS

    anywhere = sum(expected(s) for s in s_all) / STATES
    return np.array(
        [
            table[s, a, t] + GAMMA * expected(t) - expected(s) - GAMMA * anywhere
            for s in s_all
            for a in a_all
            for t in s_all
        ]
    )


def shaped(table, potential):
    return table + GAMMA * potential[None, None, :] - potential[:, None, None]


def test_epic_does_not_see_shaping_and_scale(table):
    potential = np.array([5.0, -2.0, 0.5, 30.0])
    assert distance(table, table) == 0
    assert distance(table, shaped(table, potential)) == pytest.approx(0, abs=1e-13)
    assert distance(table, 7 * table + 3) == pytest.approx(0, abs=1e-13)
    assert distance(table, shaped(0.2 * table, potential)) == pytest.approx(
        0, abs=1e-12
    )
    # Exactly so on a sample of the states as well.
    part = np.array([0, 2, 2])
    assert distance(table, shaped(table, potential), part) == pytest.approx(
        0, abs=1e-13
    )


def test_epic_of_opposites_is_one(table):
    assert distance(table, -table) == pytest.approx(1, abs=1e-13)
    assert distance(table, shaped(-3 * table, np.arange(4.0))) == pytest.approx(1)


def test_epic_agrees_with_a_loop_over_the_world(table):
    other = np.random.default_rng(10).normal(size=table.shape)
    a, b = canonical_by_loop(table), canonical_by_loop(other)
    got = canonical(
        Table(table),
        *every_transition(),
        np.arange(STATES),
        np.arange(ACTIONS),
        GAMMA,
    )
    np.testing.assert_allclose(got, a, atol=1e-13)
    rho = np.corrcoef(a, b)[0, 1]
    assert distance(table, other) == pytest.approx(math.sqrt((1 - rho) / 2))
    assert 0.1 < distance(table, other) < 0.9


def test_epic_takes_states_of_any_shape():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 30, 2))
    a = rng.normal(size=(30, 1))

    def reach(s, a, t):
        return -np.linalg.norm(t - 1, axis=-1) - 0.1 * a[:, 0] ** 2

    def helped(s, a, t):
        return 2 * reach(s, a, t) + GAMMA * t.sum(-1) - s.sum(-1)

    far = epic.distance(
        *(canonical(reward, s, a, t, s, a, GAMMA) for reward in (reach, helped))
    )
    assert far == pytest.approx(0, abs=1e-12)


def test_shaping_alone_is_canonically_nothing(table):
    drawn = (np.arange(STATES), np.arange(ACTIONS), GAMMA)
    alone = Table(shaped(0 * table, np.arange(4.0)))
    np.testing.assert_allclose(
        canonical(alone, *every_transition(), *drawn), 0, atol=1e-13
    )
