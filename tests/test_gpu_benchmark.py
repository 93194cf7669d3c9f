"""The GPU benchmark on a CPU: every part runs, and what fails loses nothing else."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
import torch

from benchmarks.gpu import __main__ as command
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
    def run(given, timeout, check):
        part = given[given.index("--part") + 1]
        line = json.dumps({"part": part, "name": "before", "ok": True})
        (tmp_path / f"{part}.jsonl").write_text(f'{line}\n{{"part": "half a li')
        if part == "vaes":
            raise subprocess.TimeoutExpired(given, timeout)
        return subprocess.CompletedProcess(given, -9 if part == "agreement" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    parts = ["agreement", "vaes", "drawing"]
    rows = command.run_all(parts, tmp_path, "cpu", True, minutes=1)
    assert [row["part"] for row in rows if row["name"] == "before"] == parts
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


def test_memory_is_measured_on_a_gpu_alone():
    seconds, memory = Bench(torch.device("cpu"), tiny=True).measured(lambda: None)
    assert seconds >= 0
    assert memory == {}
