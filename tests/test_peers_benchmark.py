"""The other side of the benchmark against peers computes what it says."""

from __future__ import annotations

import pytest

from benchmarks import peers
from tests.beside import needs_models


@needs_models
@pytest.mark.parametrize("name", list(peers.PAIRS))
def test_both_sides_run_and_give_the_same_number(name, one_thread):
    needed = {"vlm-rm": "torchvision", "torchrl": "torchrl", "windows": "diffusers"}
    pytest.importorskip(needed.get(name, "torch"))
    ((count, theirs, ours),) = peers.measure(name, (2,), rounds=1)
    assert count == 2
    assert theirs > 0
    assert ours > 0


def test_what_is_not_installed_is_a_row(monkeypatch, capsys):
    def missing():
        raise ImportError("no module", name="torchrl")

    monkeypatch.setitem(peers.PAIRS, "torchrl", missing)
    assert "torchrl is not installed" in peers.peers_table(["torchrl"], 1)
