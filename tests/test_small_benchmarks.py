"""Benchmarks of how rewards are used: each runs, as small as it can be."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import clients, compare, compare_learning, relabelling
from genreward_wrappers.evaluate.learn.episodes import FIRST_SEED, Episodes
from genreward_wrappers.evaluate.learn.runs import HORIZON
from genreward_wrappers.testing import PointMass


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_clients(capsys):
    with warnings.catch_warnings():
        clients.main(["--steps", "16", "--only", "Gymnasium"])
    head, _, row = map(cells, capsys.readouterr().out.strip().splitlines())
    assert len(head) == len(row)
    assert row[0] == "Gymnasium, random actions"
    for cell in row[-2:]:
        bare, _, rewarded = cell.removesuffix("x)").partition(" → ")
        assert all(float(number) > 0 for number in (bare, *rewarded.split(" (")))


def test_relabelling(capsys, one_thread):
    """It compares the rewards itself."""
    few = ["--episodes", "2", "--steps", "2", "--turns", "1"]
    relabelling.main([*few, "--reward", "pixels"])
    *_, head, row = capsys.readouterr().out.strip().splitlines()
    assert len(head.split()) == len(row.split())
    assert row.startswith("pixels")


@pytest.mark.skipif(not find_spec("sbx"), reason="needs SBX")
def test_learning_from_the_compared_rewards(capsys, monkeypatch, tmp_path):
    """One run of two episodes, all of them random, and its row."""
    monkeypatch.setattr(compare_learning, "RESULTS", tmp_path / "results.jsonl")
    few = ["--task", "coffee-button", "--reward", "env", "--steps", "256"]
    compare_learning.main(few)
    (line,) = compare.results(compare_learning.RESULTS)
    assert (line["reward"], line["decisions"]) == ("env", 256)
    # What is kept is what the reward itself paid.
    assert 0 < line["return"][0] < 10 * HORIZON
    assert line["return"][0] == pytest.approx(HORIZON * line["mean"], rel=0.7)
    compare_learning.main(few)
    assert compare.results(compare_learning.RESULTS) == [line], (
        "a finished run was made again"
    )
    capsys.readouterr()
    compare_learning.main(["--table"])
    head, _, row = map(cells, capsys.readouterr().out.strip().splitlines())
    assert len(head) == len(row)
    assert row[:3] == ["coffee-button", "env", "0"]


def test_compared_rewards_are_brought_to_one_scale():
    begun = []

    class Paid(PointMass):
        def reset(self, *, seed=None, options=None):
            begun.append(seed)
            return super().reset(seed=seed, options=options)

        def step(self, action):
            *rest, info = super().step(action)
            rest[1] = 300.0 * float(action[0]) - 40.0
            return (*rest, info)

    env = compare_learning.Scaled(Episodes(Paid(size=16, horizon=HORIZON), 0))
    # It was measured on no episode of the agent's.
    assert env.env.success == []
    assert max(begun) < FIRST_SEED
    env.reset(seed=0)
    env.action_space.seed(1)
    paid = [env.step(env.action_space.sample())[1] for _ in range(HORIZON)]
    assert abs(np.mean(paid)) < 0.05
    assert np.std(paid) == pytest.approx(compare_learning.SPREAD, rel=0.15)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not find_spec("ray"), reason="needs Ray")
@pytest.mark.parametrize("kind", [[], ["--rllib"]])
def test_serving(kind, capsys):
    from benchmarks import serving

    few = ["--steps", "4", "--turns", "1", "--workers", "1", "--envs", "1"]
    serving.main([*few, "--reward", "video:encoder=pixels", *kind])
    head, _, row = map(cells, capsys.readouterr().out.strip().splitlines())
    assert len(head) == len(row)
    assert all(float(cell) > 0 for cell in row)
