"""The steps of fine-tuning, on a task whose gradients are known."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from genreward_wrappers.data.files import FileError
from genreward_wrappers.training.finetuning.place import Place
from genreward_wrappers.training.finetuning.settings import Finetuning, Plan
from genreward_wrappers.training.finetuning.tuner import Tuner, split
from genreward_wrappers.training.finetuning.weights import Weights
from tests import ROOT

CPU = torch.device("cpu")
SETTINGS = Finetuning(
    method="full", batch=3, held_out=0, clip=1e9, learning_rate=0.1, warm_up=0
)


class Model(torch.nn.Module):
    """Three numbers that are pulled towards the clips'."""

    dtype = torch.float32

    def __init__(self, dropout=0.0):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(3))
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, targets):
        return self.dropout(self.value - targets)


class Pull:
    """Clip number i pulls towards (i, i, i); notes who was asked for."""

    def __init__(self, module, noise=0.0):
        self.module, self.noise, self.asked, self.drawn = module, noise, [], []

    def losses(self, model, rows, rng):
        self.asked.append(rows.tolist())
        with torch.random.fork_rng(devices=[]):
            self.drawn.append((copy.deepcopy(rng).random(), float(torch.rand(()))))
        noise = self.noise * rng.standard_normal((len(rows), 1))
        targets = (rows[:, None] + torch.from_numpy(noise)).float().expand(-1, 3)
        return 0.5 * model(targets).square().sum(1)

    def judge(self, row, rng):
        assert not self.module.training
        return float(row + self.module.value[0])


def make_tuner(training=SETTINGS, clips=7, place=None, noise=0.0, dropout=0.0):
    module = Model(dropout)
    weights = Weights(module, training, torch.float32)
    place = place or Place(CPU)
    return Tuner(weights, Pull(module, noise), clips, training, place)


def value(tuner):
    return tuner.weights.module.value.detach().numpy().copy()


def test_all_clips_come_before_any_comes_again():
    tuner = make_tuner()
    for _ in range(7):
        tuner.update(0.0)
    drawn = [row for rows in tuner._task.asked for row in rows]
    epochs = [drawn[i : i + 7] for i in range(0, 21, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = make_tuner(replace(SETTINGS, seed=1))
    other.update(0.0)
    assert other._task.asked[0] != tuner._task.asked[0]


def test_held_out_clips_are_not_trained_on():
    trained, held = split(20, 8)
    assert held.tolist() == [4, 12]
    assert sorted([*trained, *held]) == list(range(20))
    tuner = make_tuner(replace(SETTINGS, held_out=3))
    for _ in range(5):
        tuner.update(0.0)
    assert {row for rows in tuner._task.asked for row in rows} == {0, 2, 3, 5, 6}
    assert tuner.judge() == {"loss_held_out": (1 + 4) / 2}
    assert tuner.weights.module.training
    assert make_tuner().judge() == {}


def test_accumulated_batches_are_one():
    """AdamW's first step is the same for 6 clips at once, and 2 times 3 of them."""
    at_once = make_tuner(replace(SETTINGS, batch=6))
    by_parts = make_tuner(replace(SETTINGS, batch=3, accumulate=2))
    found = [at_once.update(0.1), by_parts.update(0.1)]
    assert by_parts._task.asked[0] + by_parts._task.asked[1] == at_once._task.asked[0]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"])
    assert found[0]["gradient"] == pytest.approx(found[1]["gradient"])
    np.testing.assert_allclose(value(at_once), value(by_parts), rtol=1e-6)


def test_steps_are_adamws():
    """Against AdamW written out in numpy, with its gradient cut and weights decayed."""
    training = replace(
        SETTINGS, batch=7, clip=2.0, weight_decay=0.5, betas=(0.8, 0.9), ema=0.95
    )
    tuner = make_tuner(training)
    w, m, v, slow = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    for t in range(1, 6):
        rate = 0.1 / t
        told = tuner.update(rate)
        gradient = w - 3.0
        norm = np.linalg.norm(gradient)
        assert told["gradient"] == pytest.approx(norm, rel=1e-5)
        gradient *= min(1, 2.0 / (norm + 1e-6))
        w *= 1 - rate * 0.5
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        w -= rate * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
        keep = min(0.95, t / (t - 1 + 10))
        slow = keep * slow + (1 - keep) * w
        np.testing.assert_allclose(value(tuner), w, rtol=1e-4)
        np.testing.assert_allclose(tuner.weights.average["value"], slow, rtol=1e-4)
    with tuner.weights.averaged():
        np.testing.assert_allclose(value(tuner), slow, rtol=1e-4)
    np.testing.assert_allclose(value(tuner), w, rtol=1e-4)


def test_each_part_of_each_step_draws_anew():
    drawn = set()
    for seed, rank in ((0, 0), (1, 0), (0, 1)):
        place = Place(CPU)
        place.rank, place.count = rank, 2
        tuner = make_tuner(replace(SETTINGS, accumulate=2, seed=seed), place=place)
        for _ in range(3):
            tuner.update(0.0)
        drawn |= {number for pair in tuner._task.drawn for number in pair}
    assert len(drawn) == 3 * 3 * 2 * 2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_step_depends_on_its_number_alone(tmp_path, dropout):
    def make():
        return make_tuner(replace(SETTINGS, ema=0.9), noise=1.0, dropout=dropout)

    whole = make()
    for step in range(6):
        torch.rand(step)  # what others draw does not matter
        whole.update(0.1)
    first = make()
    for _ in range(3):
        first.update(0.1)
    first.elapsed = 12.5
    first.save(tmp_path / "c", {"a": 1})
    torch.manual_seed(5)
    second = make()
    second.restore(tmp_path / "c", {"a": 1})
    assert (second.step, second.elapsed) == (3, 12.5)
    for _ in range(3):
        second.update(0.1)
    assert np.array_equal(value(whole), value(second))
    for name, slow in whole.weights.average.items():
        assert torch.equal(slow, second.weights.average[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_checkpoints_that_do_not_fit(tmp_path):
    tuner = make_tuner()
    tuner.update(0.1)
    tuner.save(tmp_path / "c", {"model": "a", "batch": 3})
    fresh = make_tuner()
    with pytest.raises(FileError, match="model was 'a' and is 'b'"):
        fresh.restore(tmp_path / "c", {"model": "b", "batch": 3})
    with pytest.raises(FileError, match="(?s)no valid checkpoint.*missing: .*average"):
        make_tuner(replace(SETTINGS, ema=0.9)).restore(
            tmp_path / "c", {"model": "a", "batch": 3}
        )
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:50])
    with pytest.raises(FileError, match="no safetensors file"):
        fresh.restore(tmp_path / "c", {"model": "a", "batch": 3})
    assert fresh.step == 0


def test_a_loss_that_is_not_finite_leaves_the_weights():
    tuner = make_tuner(noise=math.inf)
    with pytest.raises(FloatingPointError, match="step 1 is inf"):
        tuner.update(0.1)
    assert not value(tuner).any()
    assert tuner.step == 0


def test_rates_rise_and_fall():
    training = Finetuning(learning_rate=2.0, warm_up=3)
    plan = Plan(steps=100)
    rates = [training.rate_at(s, plan.done(s, 0.0)) for s in range(100)]
    cosine = [1 + math.cos(math.pi * s / 100) for s in range(100)]
    for s, part in enumerate((0.25, 0.5, 0.75, 1.0)):
        assert rates[s] == pytest.approx(part * cosine[s])
    np.testing.assert_allclose(rates[3:], cosine[3:])
    assert training.rate_at(99, 1.7) == 0
    assert [Finetuning(method=m).rate for m in ("lora", "full", "vae")] == [
        1e-4,
        1e-5,
        1e-4,
    ]


def test_a_plan_ends_with_what_is_over_first():
    assert Plan(steps=10).done(5, 1e9) == 0.5
    assert Plan(minutes=2).done(10**9, 30.0) == 0.25
    both = Plan(steps=10, minutes=1)
    assert both.done(9, 30.0) == 0.9
    assert both.done(1, 60.0) == 1.0
    with pytest.raises(ValueError, match="give steps or minutes"):
        Plan()
    for wrong in ({"steps": 0}, {"minutes": math.nan}, {"steps": 1, "every": 0}):
        with pytest.raises(ValueError, match=f"{list(wrong)[-1]}="):
            Plan(**wrong)


TOGETHER = """
import atexit, json, os, sys
from dataclasses import replace
import torch.distributed
def left():
    path = os.path.join(sys.argv[1], f"left-{place.rank}.json")
    open(path, "w").write(json.dumps(torch.distributed.is_initialized()))
# Called after what is registered later.
atexit.register(left)
from genreward_wrappers.training.finetuning.place import find_place, is_first
from tests.training.finetuning.test_tuner import CPU, SETTINGS, make_tuner, value
place = find_place(CPU)
tuner = make_tuner(replace(SETTINGS, batch=2, accumulate=2), clips=8, place=place)
told = [tuner.update(0.1) for _ in range(3)]
told = {"loss": [t["loss"] for t in told], "value": value(tuner).tolist()}
told["asked"], told["count"] = tuner._task.asked, place.count
told["means"], told["first"] = place.means([place.rank, 2.5]), is_first()
place.wait()
with place.first():
    open(os.path.join(sys.argv[1], f"{place.rank}.json"), "w").write(json.dumps(told))
"""


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(tmp_path):
    """Each has its share of the clips; loss, gradient and weights are those of all."""
    pytest.importorskip("accelerate")
    (tmp_path / "run.py").write_text(TOGETHER)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc_per_node", "2", str(tmp_path / "run.py"), str(tmp_path),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = make_tuner(replace(SETTINGS, batch=8), clips=8)
    told = [alone.update(0.1) for _ in range(3)]
    for rank, found in enumerate(both):
        assert found["count"] == 2
        assert found["means"] == [0.5, 2.5]
        assert found["first"] == (rank == 0)
        assert found["loss"] == pytest.approx([t["loss"] for t in told])
        np.testing.assert_allclose(found["value"], value(alone), rtol=1e-5)
    # Processes that are still connected when the interpreter ends may abort.
    left = [json.loads((tmp_path / f"left-{rank}.json").read_text()) for rank in (0, 1)]
    assert left == [False, False]
    for step in range(3):
        rows = [r for f in both for part in f["asked"][2 * step :][:2] for r in part]
        assert sorted(rows) == list(range(8))
