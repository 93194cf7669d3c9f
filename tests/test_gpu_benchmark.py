"""The GPU benchmark on a CPU: every part runs, and what fails loses nothing else."""

from __future__ import annotations

import json
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import agreement, generation, vaes
from benchmarks.gpu.bench import Bench, record

NEEDS = {
    "agreement": ("diffusers", "open_clip", "stable_baselines3"),
    "vaes": ("diffusers",),
    "pictures": ("open_clip", "transformers"),
    "generation": ("diffusers", "peft"),
    "drawing": ("mujoco",),
}


@pytest.mark.parametrize("part", list(command.PARTS))
def test_every_part_runs_at_tiny_size(part, tmp_path, one_thread):
    for package in NEEDS[part]:
        pytest.importorskip(package)
    command.run_part(part, tmp_path, "cpu", True, time.time() + 600)
    rows = command.read(tmp_path / f"{part}.jsonl")
    assert rows
    assert not [row for row in rows if "error" in row or row.get("ok") is False]


def test_what_fails_or_comes_too_late_is_a_row_like_any_other(tmp_path):
    def rows():
        yield "fails", lambda: 1 / 0
        yield "works", lambda: {"ok": True}
        raise MemoryError("no room for the next model")

    out = tmp_path / "part.jsonl"
    found = record("part", rows(), out, time.time() + 60)
    assert [row["name"] for row in found][:2] == ["fails", "works"]
    assert found[0]["error"] == "ZeroDivisionError: division by zero"
    assert found[1]["ok"]
    assert found[-1]["error"] == "MemoryError: no room for the next model"
    assert command.read(out) == found
    late = record("part", iter([("late", lambda: {})]), out, time.time() - 1)
    assert late[0]["left_out"] == "the time was over"


def test_a_part_that_dies_or_hangs_loses_its_own_last_row_alone(tmp_path, monkeypatch):
    told = []

    def run(given, timeout, check):
        part = given[given.index("--part") + 1]
        told.append((timeout, "--tiny" in given, given[given.index("--device") + 1]))
        line = json.dumps({"part": part, "name": "before", "ok": True})
        with (tmp_path / f"{part}.jsonl").open("a") as file:
            file.write(f'{line}\n{{"part": "half a li')
        if part == "vaes":
            raise subprocess.TimeoutExpired(given, timeout)
        return subprocess.CompletedProcess(given, -9 if part == "agreement" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(command, "time", SimpleNamespace(time=lambda: 1000.0))
    parts = ["agreement", "vaes", "drawing"]
    (tmp_path / "drawing.jsonl").write_text('{"part": "drawing", "name": "old"}\n')
    rows = command.run_all(parts, tmp_path, "cpu", True, minutes=1)
    assert [row["part"] for row in rows if row["name"] == "before"] == parts
    assert "old" not in {row["name"] for row in rows}
    assert [more for _, *more in told] == [[True, "cpu"]] * 3
    # What one leaves of its time the others have; and each may end a little late.
    shares = [60 * 0.15 / 0.6, 60 * 0.33 / 0.45, 60]
    expected = [command.PATIENCE * share + 30 for share in shares]
    assert [timeout for timeout, *_ in told] == pytest.approx(expected)
    errors = [row["error"] for row in rows if "error" in row]
    assert errors == [
        "the process ended with -9",
        "the process was stopped: its time was over",
    ]
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["rows"] == rows
    assert kept["about"]["tiny"]
    assert "| before | ok True |" in command.table(rows)
    assert command.main(["--out", str(tmp_path), "--table"]) == 0


def test_bad_arguments(tmp_path, capsys):
    for given, told in (
        (["--minutes", "0"], "expected more than 0"),
        (["--device", "mps"], "device must be"),
        ([], "--tiny runs every part on a CPU"),
    ):
        if not given and torch.cuda.is_available():
            continue
        with pytest.raises(SystemExit):
            command.main(["--out", str(tmp_path), *given])
        assert told in capsys.readouterr().err


def test_the_status_tells_what_is_wrong(tmp_path, monkeypatch, capsys):
    good = {"part": "vaes", "name": "a", "ok": True}
    for rows, status in (
        ([good], 0),
        ([good, {**good, "ok": False}], 1),
        ([good, {"part": "vaes", "name": "b", "error": "MemoryError"}], 1),
    ):
        monkeypatch.setattr(command, "run_all", lambda *_, rows=rows: rows)
        assert command.main(["--out", str(tmp_path), "--tiny"]) == status
        assert f"{len(rows)} rows, {len(rows) - 1} of them" in capsys.readouterr().out


def test_memory_is_measured_on_a_gpu_alone():
    bench = Bench(torch.device("cpu"), tiny=True)
    seconds, memory = bench.measured(lambda: None)
    assert seconds >= 0
    assert memory == {}
    with bench.building():
        assert torch.zeros(1).dtype == torch.bfloat16
    assert torch.zeros(1).dtype == torch.float32


def test_the_device_is_held_against_the_cpu(monkeypatch):
    """On a CPU both sides are one: here the other one is a half off."""

    def scores(bench, device):
        return np.array([1.0, -2.0 if device == "cpu" else -2.5])

    def play(make, actions, device, **options):
        return [[3.0 if device == "cpu" else 3.03]]

    monkeypatch.setattr(
        agreement, "_model", lambda bench, text, device, *_: str(device)
    )
    monkeypatch.setattr(agreement, "_scores", scores)
    monkeypatch.setitem(agreement.HOSTS, "vector", play)
    bench = Bench(torch.device("cuda"), tiny=True)
    found = agreement._exact(bench, "video")
    assert (found["difference"], found["ok"]) == (0.25, False)
    found = agreement._host(bench, "vector")
    assert found["difference"] == pytest.approx(0.01)
    assert not found["ok"]
    near = agreement._compared(np.array([0.1]), np.array([0.1005]), "float32")
    assert (near["ok"], near["tolerance"]) == (True, 1e-3)


def test_figures():
    bench = SimpleNamespace(
        tiny=True, device="cpu", measured=lambda run, repeats: (run(), {"peak_gib": 1})
    )
    found = vaes._figures(bench, lambda: 2.0, 4, 6e12, lambda: 10.0)
    assert found == {
        "ms_a_frame": 500, "tflops": 3, "share_of_peak": pytest.approx(0.3),
        "peak_gib": 1,
    }  # fmt: skip
    # What a video costs beside its denoising steps drops out.
    taken = iter([10.0, 16.0])
    bench.measured = lambda run, repeats: (next(taken), {})
    found = generation._denoising(bench, lambda: None)
    assert found == {"s_a_step": 6, "s_beside": 4, "offload": "none"}
