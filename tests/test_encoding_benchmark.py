"""The ways through the small encoders give the same numbers."""

from __future__ import annotations

import pytest
import torch

from benchmarks import encoding


@pytest.mark.parametrize("name", list(encoding.ENCODERS))
def test_every_way_gives_the_default_way_s_numbers(name, monkeypatch, one_thread):
    needed = {"video-vae-64": "diffusers", "clip-64": "open_clip"}
    pytest.importorskip(needed[name])
    # Compiling takes up to a minute each.
    monkeypatch.setattr(encoding, "compiled", lambda network, **options: network)
    found = encoding.measure(encoding.ENCODERS[name](), 1, rounds=1)
    for way, (seconds, _, difference) in found.items():
        assert seconds > 0
        assert difference < (0.03 if "bfloat16" in way else 1e-5)
    assert found[encoding.DEFAULT][2] == 0


def test_a_machine_without_a_compiler_says_so(monkeypatch, one_thread):
    def ways():
        names = (encoding.DEFAULT, "`torch.compile`", "half")
        return dict.fromkeys(names, (torch.tanh, torch.float32))

    monkeypatch.setitem(encoding.ENCODERS, "clip-64", ways)
    monkeypatch.setattr(encoding.shutil, "which", lambda name: None)
    text = encoding.encoding_table(1, (1,), ("clip-64",))
    assert "| clip-64 | half | 1" in text or "| clip-64 | half | 0" in text
    assert "| clip-64 | `torch.compile` needs a C++ compiler |" in text
    assert "| clip-64 | `torch.compile` | " not in text
