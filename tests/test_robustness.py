"""A short run of the robustness benchmark: mutants of every kind, and a few kills."""

from __future__ import annotations

import os
import time

import pytest

from benchmarks.robust.kinds import KINDS
from benchmarks.robust.mutants import attack

#: Mutants of each kind: those whose reading builds a net take longer.
MUTANTS = 150


@pytest.mark.parametrize("name", list(KINDS))
def test_mutants(name, tmp_path):
    count = MUTANTS if KINDS[name].weight == 1 else MUTANTS // 3
    ended, found, peak = attack(name, 20, count, tmp_path, time.time() + 600)
    assert not found
    assert sum(ended.values()) == count
    assert ended["refused"] > 0.8 * count
    assert peak < 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kills(tmp_path):
    from benchmarks.robust.kills import COMMANDS, torture

    some = tuple(c for c in COMMANDS if c.name in ("collect", "train-fb"))
    killed, found = torture(6, tmp_path, 3, time.time() + 600, some)
    assert not found
    assert sum(killed.values()) == 6
