"""The learning benchmark: its plan, its stop rules, and what its lines add up to."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy.stats import trim_mean

from benchmarks import learning
from benchmarks.learning_report import (
    at,
    decisions_to,
    interquartile_mean,
    key_of,
    plot,
    read,
    stratified_interval,
    table,
)
from genreward_wrappers.evaluate.learn.learner import Learner
from genreward_wrappers.evaluate.learn.runs import HORIZON, WINDOW, Progress


def line(task="reach", reward="video", seed=0, success=(0.1, 0.5, 0.9, 1.0), **more):
    return {
        "task": task,
        "reward": reward,
        "seed": seed,
        "goal": "none" if reward == "env" else "embedded",
        "goal_digest": "0" * 12,
        "learner": Learner().as_dict(),
        "decisions": 1_280 * len(success),
        "outcome": "teaches",
        "every": 1_280,
        "success": list(success),
        "return": [1.0] * len(success),
        "cpu_seconds": 50.0,
        **more,
    }


# Statistics


@pytest.mark.parametrize("count", range(1, 14))
def test_the_interquartile_mean_is_scipys(count):
    scores = np.random.default_rng(count).random((3, count))
    expected = trim_mean(scores, 0.25, axis=-1)
    np.testing.assert_allclose(interquartile_mean(scores), expected)


def test_the_interval_draws_seeds_within_their_task():
    """Against a loop that draws one seed after another."""
    tasks = [np.array([0.1, 0.3, 0.2]), np.array([0.9, 0.6, 1.0, 0.7])]
    rng = np.random.default_rng(5)
    means = []
    for _ in range(4_000):
        drawn = [rng.choice(scores) for scores in tasks for _ in scores]
        means.append(trim_mean(drawn, 0.25))
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(stratified_interval(tasks), expected, atol=0.02)


def test_runs_without_spread_have_no_width():
    assert stratified_interval([np.ones(3), np.zeros(3)]) == (0.5, 0.5)


# Curves


def test_decisions_to_a_rate():
    assert decisions_to(line(), 0.8) == 3 * 1_280
    assert decisions_to(line(), 0.95) == 4 * 1_280
    assert decisions_to(line(success=(0.1, 0.2)), 0.8) == float("inf")
    # The last point of a curve may come sooner than the others.
    assert decisions_to(line(decisions=5_000), 0.95) == 5_000


def test_curves_keep_the_rates_of_their_ends():
    marks = np.array([0, 1_280, 1_920, 5_120, 100_000], np.float64)
    np.testing.assert_allclose(at(line(), marks), [0.1, 0.1, 0.3, 1.0, 1.0])


def test_the_table_and_the_picture_come_from_lines_alone(tmp_path):
    path = tmp_path / "learning.jsonl"
    lines = [line(seed=seed) for seed in range(3)]
    lines += [line("door-open", success=(0.0, 0.0), outcome="farmed")]
    lines += [line(reward="env", success=(0.0, 0.2))]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    told = table(read(path))
    assert "| reach | 3 | 1.00, 1.00, 1.00 | 3,840 | 5,120 | 0 of 3 | 102 |" in told
    assert "| door-open | 1 | 0.00 | never | 2,560 | 1 of 1 | 51 |" in told
    assert "over 4 runs of 2 tasks; learned (>= 0.8): 1 of 2; farmed: 25%" in told
    assert "`env`, goals: none" in told
    pytest.importorskip("matplotlib")
    picture = tmp_path / "learning.png"
    plot(read(path), ("reach", "door-open"), "video", "env", picture)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert read(tmp_path / "nothing.jsonl") == []
    # A run that was resumed after all counts once, as it ended.
    with path.open("a") as file:
        file.write(json.dumps({**lines[3], "decisions": 9}))
    assert len(read(path)) == len(lines)
    assert read(path)[3]["decisions"] == 9


# The plan


def test_the_plan_has_every_run_once():
    runs = list(learning.plan())
    assert len(set(runs)) == len(runs)
    count = Counter((run.env_id, run.reward) for run in runs)
    for task in learning.TASKS:
        assert count[f"metaworld/{task}", "video"] == 5
        assert count[f"metaworld/{task}", "env"] == 3
    # Every task has a first run before any task has all.
    last_first = max(i for i, run in enumerate(runs[:50]) if run.seed == 0)
    early = Counter(run.env_id for run in runs[:last_first])
    assert max(early.values()) <= 5
    assert len(early) == 9


def episodes(*parts):
    success = tuple(bool(s) for rate, n in parts for s in [rate] * n)
    return Progress(success, (0.0,) * len(success))


def test_when_a_run_is_over():
    hopeless = -(-learning.HOPELESS // HORIZON)
    assert learning.over(episodes((0, 5))) == ""
    assert learning.over(episodes((1, WINDOW))) == ""
    assert learning.over(episodes((0, 9), (1, 2 * WINDOW))) == "solved"
    # One failure in a window is within 0.95, three are not.
    nearly = episodes((1, WINDOW), (0, 3), (1, WINDOW - 3))
    assert learning.over(nearly) == ""
    assert learning.over(episodes((0, hopeless))) == "no success"
    assert learning.over(episodes((0, hopeless)), patient=True) == ""
    assert learning.over(episodes((1, 1), (0, hopeless))) == ""
    full = episodes((0, -(-learning.BUDGET // HORIZON)))
    assert learning.over(full) == "budget"


@pytest.mark.parametrize(
    ("over", "decisions", "seed", "patient", "expected"),
    [
        ("solved", 12_800, 0, False, True),
        ("budget", 30_080, 0, False, False),
        ("budget", 100_096, 0, True, True),
        ("no success", 51_200, 0, False, True),
        ("no success", 51_200, 0, True, False),
        ("no success", 51_200, 2, True, True),
    ],
)
def test_what_is_left_to_resume(over, decisions, seed, patient, expected):
    one = line(seed=seed, over=over, decisions=decisions)
    assert learning.is_finished(one, learning.BUDGET, patient) is expected


def test_a_finished_run_is_known_by_its_line(monkeypatch, tmp_path):
    run = next(learning.plan())
    monkeypatch.setattr(learning, "learn", lambda *args: episodes((1, 2 * WINDOW)))
    made = learning.make(run, tmp_path)
    assert key_of(json.loads(json.dumps(made))) == learning.planned_key(run)
    assert (made["over"], made["outcome"]) == ("solved", "teaches")
    assert made["decisions"] == 2 * WINDOW * HORIZON
    assert made["success"][-1] == 1
