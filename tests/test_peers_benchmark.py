"""The other side of the benchmark against peers computes what it says."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks import peers, peers_memory
from tests.beside import needs_models

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


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


@needs_linux
def test_memory_is_what_the_steps_of_one_side_add(monkeypatch, one_thread):
    def large(film):
        assert np.ones((48, 2**20), np.uint8).all()

    monkeypatch.setitem(peers.PAIRS, "vlm-rm", lambda: peers.Pair(large, len))
    before, added = peers_memory.working("vlm-rm", "theirs", 1)
    assert before > 0
    assert added == pytest.approx(48, abs=8)
    # A peak of earlier does not count.
    _, added = peers_memory.working("vlm-rm", "ours", 1)
    assert added < 8


@needs_linux
def test_memory_is_measured_in_a_process():
    pytest.importorskip("torchvision")
    side = ("-m", peers_memory.MODULE, "--side", "vlm-rm", "ours", "1")
    before, added = peers_memory.apart(*side)
    assert before > 100
    assert 0 <= added < 100


def test_the_row_has_the_models_the_steps_and_their_ratio(monkeypatch):
    found = {"-c": [300.0], "theirs": [420.0, 30.0], "ours": [421.0, 10.0]}
    monkeypatch.setattr(
        peers_memory,
        "apart",
        lambda *given: found["-c" if given[0] == "-c" else given[-2]],
    )
    text = peers_memory.memory_table(["viper"], (8,))
    assert "| viper | 8 | 121 | 30.0 | 10.0 | 3.0x |" in text


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no reward here"):
        peers_memory.apart("-c", "raise ValueError('no reward here')")


def test_a_process_without_a_package_is_a_row(monkeypatch):
    code = f"print('torchrl'); raise SystemExit({peers_memory.NOT_INSTALLED})"
    run = peers_memory.apart

    def lacking(flag, *arguments):
        return [1.0] if flag == "-c" else run("-c", code)

    monkeypatch.setattr(peers_memory, "apart", lacking)
    assert "torchrl is not installed" in peers_memory.memory_table(["torchrl"], (1, 8))
