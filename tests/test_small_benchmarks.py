"""Benchmarks of how rewards are used: each runs, as small as it can be."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import pytest

from benchmarks import clients, relabelling


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
