"""The figures of a reward against loops and hand-made cases.

Nothing here asks the code what it gives: every expectation is counted pair by pair,
worked out by hand, or follows from how the episodes were made.
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

pytest.importorskip("scipy")
from scipy import stats

from genreward_wrappers.evaluate.judge.bootstrap import (
    Estimate,
    average_precision,
    kendall_tau,
    roc_auc,
)
from genreward_wrappers.evaluate.judge.curves import Curve
from genreward_wrappers.evaluate.judge.metrics import METRICS, confusion, measure
from tests.evaluate.curves import ENVIRONMENT, curve, flat_episodes, label, point

# Single figures ----------------------------------------------------------------------


def auc_by_loop(scores, positive):
    won = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, p in zip(scores, positive, strict=True)
        for b, q in zip(scores, positive, strict=True)
        if p and not q
    ]
    return sum(won) / len(won)


def precision_by_loop(scores, positive):
    """The area under the steps of precision over recall, threshold by threshold."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [p for s, p in zip(scores, positive, strict=True) if s >= threshold]
        now = sum(found) / sum(positive)
        area += (now - recall) * sum(found) / len(found)
        recall = now
    return area


def tau_by_loop(x, y, variant):
    pairs = list(itertools.combinations(range(len(x)), 2))
    sign = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs]
    if variant == "a":
        return sum(sign) / len(pairs)
    told = sum(x[i] != x[j] for i, j in pairs), sum(y[i] != y[j] for i, j in pairs)
    return sum(sign) / math.sqrt(told[0] * told[1])


@pytest.mark.parametrize("seed", range(5))
def test_rank_figures_agree_with_loops_over_pairs_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 25).astype(float)
    positive = rng.random(25) < 0.4
    levels = rng.integers(0, 3, 25)

    assert point(roc_auc(scores, positive), 25) == pytest.approx(
        auc_by_loop(scores, positive), abs=1e-12
    )
    assert point(average_precision(scores, positive), 25) == pytest.approx(
        precision_by_loop(scores, positive), abs=1e-12
    )
    for variant in "ab":
        assert point(kendall_tau(scores, levels, variant), 25) == pytest.approx(
            tau_by_loop(scores, levels, variant), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(3))
def test_weights_mean_the_same_as_episodes_written_out_again(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 5, 12).astype(float), np.arange(12) % 3 == 0
    levels = rng.integers(0, 3, 12)
    times = rng.integers(0, 4, 12)
    again = np.repeat(np.arange(12), times)
    for make, by_loop, truth in (
        (roc_auc, auc_by_loop, positive),
        (average_precision, precision_by_loop, positive),
        (
            lambda s, t: kendall_tau(s, t, "a"),
            lambda s, t: tau_by_loop(s, t, "a"),
            levels,
        ),
        (
            lambda s, t: kendall_tau(s, t, "b"),
            lambda s, t: tau_by_loop(s, t, "b"),
            levels,
        ),
    ):
        got = make(scores, truth)(times[None].astype(float))[0]
        assert got == pytest.approx(by_loop(scores[again], truth[again]), abs=1e-12)


def test_scipy_knows_the_same_tau_b_and_auc():
    rng = np.random.default_rng(3)
    scores, levels = rng.integers(0, 9, 40).astype(float), rng.integers(0, 3, 40)
    positive = levels == 2
    tau = stats.kendalltau(scores, levels, variant="b").statistic
    assert point(kendall_tau(scores, levels, "b"), 40) == pytest.approx(tau, abs=1e-12)
    u = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    area = u / positive.sum() / (~positive).sum()
    assert point(roc_auc(scores, positive), 40) == pytest.approx(area, abs=1e-12)


def test_means_of_equal_numbers_are_ties_however_many_there_are():
    # The mean of 0.1 n times over is not always 0.1: an order of rounding errors.
    curves = [curve([0.1] * n) for n in range(1, 40)]
    assert len({c.values.mean() for c in curves}) > 1
    labels = [label("success" if i % 2 else "random", i) for i in range(39)]
    found = measure(curves, labels)
    assert found["auc_mean"].value == 0.5
    assert found["rank_tau_a"].value == 0
    assert "constant" in found["auc_mean"].flag


def test_final_mean_and_sum_are_three_readings_of_a_curve():
    # The success ends highest, is lowest on average and gets least in total.
    curves = [curve([0, 0, 3]), curve([2, 2, 2]), curve([2.5, 2.5, 1])]
    found = measure(
        curves, [label("success", 0), label("random", 1), label("noisy", 2)]
    )
    assert found["auc_final"].value == 1
    assert found["auc_mean"].value == found["auc_sum"].value == 0
    assert found["auprc_final"].value == 1
    assert found["auprc_mean"].value == pytest.approx(1 / 3)
    assert found["base_rate"].value == pytest.approx(1 / 3)
    assert found["base_rate"].n == 3

    # Twice as long and so twice the total, at the same mean.
    found = measure(
        [curve([1] * 4), curve([1] * 2)], [label("success", 0), label("random", 1)]
    )
    assert found["auc_sum"].value == 1
    assert found["auc_mean"].value == 0.5


def test_labels_come_from_success_and_not_from_the_kind():
    found = flat_episodes([3, 2, 1], ["success", "random", "random"])
    assert found["auc_mean"].value == 1
    curves = [curve([s, s]) for s in (1, 2, 3)]
    labels = [label("success", 0), label("noisy", 1, True), label("noisy", 2, False)]
    assert measure(curves, labels)["auc_mean"].value == 0
    assert measure(curves, labels)["base_rate"].value == pytest.approx(2 / 3)


def test_derived_episodes_have_figures_of_their_own():
    kinds = ["success", "random", "static", "shifted", "brightness", "reversed"]
    found = flat_episodes([5, 1, 2, 1.5, 0, 9], kinds)
    assert found["auc_mean"].value == 1  # nothing derived is in it
    assert found["auc_mean"].n == 3
    assert found["shifted_auc"].value == 0.5  # above random, below static
    assert found["brightness_auc"].value == 0
    assert found["reversed_auc"].value == 0


def test_figures_as_text():
    assert str(Estimate(0.978, 0.925, 1.0, 60)) == "0.98 (0.93 to 1.00)"
    assert str(Estimate(-0.001, -0.124, -0.004, 24)) == "0.00 (-0.12 to 0.00)"
    assert str(Estimate(0.5, None, None, 2)) == "0.50"
    assert str(Estimate(None, None, None, 0, "no successes")) == "undefined"


def test_near_auc_leaves_the_easy_failures_out():
    kinds = ["success", "near-miss", "half-way", "random", "static", "other-task"]
    found = flat_episodes([3, 4, 2, 0, 0, 0], kinds)
    assert found["near_auc_mean"].value == 0.5
    assert found["near_auc_mean"].n == 3
    assert found["auc_mean"].value == 4 / 5


# What is not defined ------------------------------------------------------------------


def test_nothing_at_all_is_flagged_and_not_an_error():
    found = measure([], [])
    assert set(found) == set(METRICS) - ENVIRONMENT
    for name, figure in found.items():
        assert figure.value is figure.low is figure.high is None, name
        assert figure.flag, name
        assert figure.n == 0, name
    found = measure([], [], env_curves=[])
    assert set(found) == set(METRICS)


@pytest.mark.parametrize(
    ("kind", "lacks"), [("success", "failures"), ("random", "successes")]
)
def test_one_class_only_is_not_one_half(kind, lacks):
    found = flat_episodes([1, 2, 3], [kind] * 3)
    for name in ("auc_final", "auc_mean", "auc_sum", "auprc_final", "auprc_mean"):
        assert found[name].value is None
        assert found[name].flag == f"no {lacks}"
    assert found["rank_tau_a"].value is found["rank_tau_b"].value is None
    assert "one level" in found["rank_tau_b"].flag


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_not_left_out_quietly(odd):
    kinds = ["success", "success", "random", "random", "static"]
    curves = [curve([s, s]) for s in (3, 4, 1, 2, 0)]
    curves[2] = curve([1, odd])
    labels = [label(kind, i) for i, kind in enumerate(kinds)]
    found = measure(curves, labels, env_curves=curves)
    for name in ("auc_final", "auc_mean", "auc_sum", "rank_tau_b", "spread", "scale"):
        assert found[name].value is None
        assert found[name].flag == "not finite in 1 episodes"
    assert "not finite" in found["static_place"].flag
    # The broken episode has no part in what standing still earns.
    assert found["static_share"].value == 0
    json.dumps([figure.to_json() for figure in found.values()], allow_nan=False)


def test_an_episode_in_which_nothing_is_due_has_a_sum_and_no_mean():
    labels = [label("success", 0), label("random", 1)]
    found = measure([curve([1, 2]), curve([])], labels)
    assert found["auc_mean"].value is found["auc_final"].value is None
    assert found["auc_mean"].flag == "nothing due in 1 episodes"
    assert found["auc_sum"].value == 1
    assert found["spread"].value == 0.5


def test_one_episode_has_no_interval():
    found = measure([curve([1, 2, 3])], [label("success", 0)])
    voc = found["voc_spearman"]
    assert voc.value == pytest.approx(1)
    assert (voc.low, voc.high, voc.n) == (None, None, 1)
    assert voc.flag == "one episode: no interval"
    two = measure([curve([1, 2, 3])] * 2, [label("success", 0)] * 2)["voc_spearman"]
    assert (two.low, two.high, two.flag) == (
        None,
        None,
        "one source episode: no interval",
    )


def test_few_sources_are_flagged_even_where_the_interval_is_a_point():
    kinds = ["success"] * 2 + ["random"] * 9
    auc = flat_episodes([5, 6, *range(-9, 0)], kinds)["auc_mean"]
    assert (auc.low, auc.high) == (1, 1)
    assert "successes from only 2 source episodes" in auc.flag
    # One success in eleven is missed by (10/11)^11 = 35 % of the resamples.
    auc = flat_episodes(range(11), ["random"] * 10 + ["success"])["auc_mean"]
    share = int(auc.flag.split("undefined in ")[1].split("%")[0])
    assert share == pytest.approx(35, abs=6)


def test_wrong_input_is_an_error():
    with pytest.raises(ValueError, match="unknown kind of episode 'sucess'"):
        label("sucess", 0)
    with pytest.raises(ValueError, match="one score for each step"):
        Curve(np.arange(3), np.zeros(2))
    with pytest.raises(ValueError, match="must increase"):
        Curve(np.array([2, 1]), np.zeros(2))
    with pytest.raises(ValueError, match="one curve for each of 1 episodes, got 0"):
        measure([], [label("random", 0)])
    with pytest.raises(
        ValueError, match="has 2 steps, but its curve extends to step 3"
    ):
        measure([curve([1, 2, 3])], [label("random", 0, length=2)])


# Confusion ----------------------------------------------------------------------------


def test_confusion_by_hand():
    found = confusion(np.array([[3, 1, 3], [0, 2, 1], [1, 0, 0]], float))
    # Task 0 ties, task 1 hits, task 2 misses.
    assert found.argmax_accuracy == pytest.approx(1 / 3)
    assert found.diagonal_minus_off == pytest.approx(5 / 3 - 6 / 6)
    assert confusion(np.ones((3, 3))) == (0, 0)
    assert confusion(np.eye(3)) == (1, 1)
    assert confusion(np.array([[1, np.nan], [0, 1]])) == (None, None)


@pytest.mark.parametrize(
    ("shape", "match"),
    [((2, 3), r"got \(2, 3\)"), ((4,), r"got \(4,\)"), ((1, 1), "two tasks at least")],
)
def test_confusion_takes_a_square(shape, match):
    with pytest.raises(ValueError, match=match):
        confusion(np.zeros(shape))
