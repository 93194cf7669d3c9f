"""The intervals of figures."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy")

from genreward_wrappers.evaluate.judge.bootstrap import cluster_weights, estimate, mean
from genreward_wrappers.evaluate.judge.metrics import measure
from tests.evaluate.curves import curve, label, rollouts


def width(figure):
    return figure.high - figure.low


def noisy_episodes(n=40):
    rng = np.random.default_rng(5)
    curves = [curve(rng.normal(i % 2, 1, 10)) for i in range(n)]
    labels = [label("success" if i % 2 else "random", i) for i in range(n)]
    return curves, labels


def test_episodes_of_one_source_are_drawn_together():
    groups = ["a", "b", "a", "c", "b"]
    weights = cluster_weights(groups, seed=0, resamples=200)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(1), 3)
    assert len(np.unique(weights[:, 0])) > 2


@pytest.mark.parametrize(
    "name", ["auc_mean", "auprc_mean", "voc_spearman", "rank_tau_b", "spread"]
)
def test_saying_everything_twice_is_not_more_evidence(name):
    curves, labels = noisy_episodes()
    once = measure(curves, labels)[name]
    twice = measure(curves * 2, labels * 2)[name]
    assert width(twice) == pytest.approx(width(once))
    assert twice.value == pytest.approx(once.value)
    # Taken for episodes of their own, the copies would narrow it to 1 / sqrt(2).
    copies = [replace(each, group=f"copy {each.group}") for each in labels]
    assert width(measure(curves * 2, labels + copies)[name]) < 0.85 * width(once)


def test_a_shifted_episode_is_drawn_with_its_source():
    # Ten rollouts, each with its camera shifted; both are failures or both successes
    # only by their source, so no resample can hold one without the other.
    rng = np.random.default_rng(0)
    curves, labels = [], []
    for i in range(10):
        values = rng.normal(i, 0.1, 5)
        curves += [curve(values), curve(values)]
        labels += [label("success", i), label("shifted", i)]
    curves += [curve([i, i]) for i in range(10)]
    labels += [label("random", f"r{i}") for i in range(10)]
    found = measure(curves, labels)
    plain = measure(
        curves, [replace(x, kind="success") for x in labels[:20]] + labels[20:]
    )
    assert found["shifted_auc"].value == pytest.approx(plain["auc_mean"].value)
    assert width(found["shifted_auc"]) == pytest.approx(width(plain["auc_mean"]))


def test_the_interval_of_a_mean_is_the_textbooks():
    values = np.random.default_rng(2).normal(0, 1, 200)
    found = estimate(mean(values), [str(i) for i in range(200)], seed=0, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_same_seed_gives_the_same_intervals():
    curves, labels = noisy_episodes()
    assert measure(curves, labels, seed=3) == measure(curves, labels, seed=3)
    assert measure(curves, labels, seed=3) != measure(curves, labels, seed=4)


def test_eight_rewards_take_seconds():
    curves, labels = rollouts(lambda p, kind, rng: p + rng.normal(0, 0.3, len(p)))
    assert len(curves) >= 100
    begin = time.process_time()
    for _ in range(8):
        measure(curves, labels, env_curves=curves)
    assert time.process_time() - begin < 10
