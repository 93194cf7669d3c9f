"""The figures of a reward against loops and hand-made cases, and what is made of them.

Nothing here asks the code what it gives: every expectation is counted pair by pair,
worked out by hand, or follows from how the episodes were made.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

pytest.importorskip("scipy")
from scipy import stats

from genreward_wrappers.evaluate.judge import epic
from genreward_wrappers.evaluate.judge.bootstrap import (
    Estimate,
    average_precision,
    cluster_weights,
    estimate,
    kendall_tau,
    mean,
    roc_auc,
)
from genreward_wrappers.evaluate.judge.curves import ORDINARY, Curve, Labelled
from genreward_wrappers.evaluate.judge.epic import canonical
from genreward_wrappers.evaluate.judge.metrics import (
    METRICS,
    confusion,
    differences,
    measure,
)
from genreward_wrappers.evaluate.judge.verdict import SIEVE, verdict

ENVIRONMENT = {"env_correlation_step", "env_correlation_episode", "scale"}


def curve(values, steps=None):
    values = np.asarray(values, np.float64)
    steps = np.arange(1, len(values) + 1) if steps is None else np.asarray(steps)
    return Curve(steps, values)


def label(kind, group, success=None, level=None, length=1000):
    success = (
        kind in ("success", "shifted", "brightness") if success is None else success
    )
    level = 2 * success if level is None else level
    return Labelled(kind, str(group), success, level, length)


def point(statistic, n):
    return statistic(np.ones((1, n)))[0]


def flat_episodes(scores, kinds, **more):
    """Episodes of two equal scores, each a group of its own."""
    curves = [curve([s, s]) for s in scores]
    labels = [label(kind, i) for i, kind in enumerate(kinds)]
    return measure(curves, labels, **more)


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


# Along the way ------------------------------------------------------------------------


def test_spearman_with_average_ranks_by_hand():
    # Times 1 2 3 4 against ranks 1 2.5 2.5 4: covariance 4.5, variances 5 and 4.5.
    found = measure([curve([0, 5, 5, 9])], [label("success", 0)])
    assert found["voc_spearman"].value == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    # Centred values -4.75 0.25 0.25 4.25 against -1.5 -0.5 0.5 1.5: 13.5, 5, 40.75.
    assert found["voc_pearson"].value == pytest.approx(13.5 / math.sqrt(5 * 40.75))


def test_a_constant_curve_rises_nowhere():
    rising, still = curve([1, 2, 3, 4]), curve([0.7] * 4)
    labels = [label("success", i) for i in range(4)]
    found = measure([rising, still, rising, rising], labels)
    assert found["voc_spearman"].value == pytest.approx(0.75)
    assert found["voc_pearson"].value == pytest.approx(0.75)
    assert found["voc_spearman"].flag == "constant in 1 of 4 episodes"
    found = measure([still] * 4, labels)
    assert found["voc_spearman"].value == 0
    assert found["voc_spearman"].flag == "constant in 4 of 4 episodes"
    # What is left of a constant in float32 is one, too.
    last_digits = np.float32(0.7) + np.float32(6e-8) * np.arange(4, dtype=np.float32)
    assert np.ptp(last_digits) > 0
    assert measure([curve(last_digits)], labels[:1])["voc_spearman"].value == 0


def test_two_scores_are_no_slope():
    found = measure([curve([1, 2])], [label("success", 0)])
    assert found["voc_spearman"].value is None
    assert found["voc_spearman"].flag == "fewer than 3 scores in every episode"
    labels = [label("success", 0), label("success", 1)]
    found = measure([curve([1, 2]), curve([1, 2, 3])], labels)
    assert found["voc_spearman"].value == pytest.approx(0.5)
    assert "fewer than 3 scores in 1 of 2" in found["voc_spearman"].flag


def test_slopes_look_at_their_own_kind():
    up, down = curve([1, 2, 3]), curve([3, 2, 1])
    labels = [label("success", 0), label("reversed", 0), label("noisy", 1, True)]
    found = measure([up, down, down], labels)
    assert found["voc_spearman"].value == pytest.approx(1)
    assert found["voc_reversed"].value == pytest.approx(-1)
    failed = measure([down], [label("success", 0, False)])
    assert failed["voc_spearman"].flag == "no success episodes"


# What the easy ways earn --------------------------------------------------------------


def test_places_do_not_care_about_scale_and_constants():
    kinds = [
        "success",
        "success",
        "random",
        "random",
        "static",
        "half-way",
        "near-miss",
    ]
    scores = np.array([9, 11, 1, 3, 4, 6, 10], float)
    one = flat_episodes(scores, kinds)
    assert one["static_place"].value == pytest.approx((4 - 2) / (10 - 2))
    assert one["hover_share"].value == pytest.approx((6 - 2) / (10 - 2))
    assert one["near_share"].value == pytest.approx((10 - 2) / (10 - 2))
    assert one["static_share"].value == pytest.approx(4 / 10)
    other = flat_episodes(3 * scores + 100, kinds)
    for name in ("static_place", "hover_share", "near_share"):
        assert other[name].value == pytest.approx(one[name].value)
    assert other["static_share"].value == pytest.approx(112 / 130)
    assert flat_episodes(scores - 20, kinds)["static_share"].value is None


def test_a_share_of_little_means_nothing():
    found = flat_episodes([1, 0, 1, 0], ["success", "success", "static", "static"])
    # Successes earn 0.5 a step, and all scores vary by 0.5.
    assert found["static_share"].value is None
    assert (
        "0.5 per step, which is not more than the spread of 0.5"
        in found["static_share"].flag
    )
    found = flat_episodes([1, 2, 0], ["success", "random", "static"])
    assert found["static_place"].value is None
    assert "no more per step than random" in found["static_place"].flag
    found = flat_episodes([1, 0], ["success", "static"])
    assert found["static_place"].flag == "no random episodes"
    found = flat_episodes([1, 0], ["success", "random"])
    assert (
        found["static_share"].flag == found["static_place"].flag == "no static episodes"
    )


def test_spread_is_over_all_steps_and_a_dead_reward_has_none():
    rng = np.random.default_rng(0)
    parts = [rng.normal(1000, 1, n) for n in (3, 30, 300)]
    labels = [label("random", i) for i in range(3)]
    found = measure([curve(part) for part in parts], labels)
    assert found["spread"].value == pytest.approx(np.concatenate(parts).std())
    dead = measure([curve([0.3] * 5)] * 3, labels)["spread"]
    assert dead == Estimate(0, 0, 0, 3, "constant")


# Beside the environment's reward ------------------------------------------------------


def test_correlation_with_the_environment_at_the_steps_that_are_due():
    rng = np.random.default_rng(1)
    env = [curve(rng.normal(size=8)) for _ in range(6)]
    labels = [label("random", i) for i in range(6)]
    at = np.array([2, 5, 8])
    mine = [curve(50 - 3 * e.values[at - 1] + rng.normal(size=3), at) for e in env]
    found = measure(mine, labels, env_curves=env)

    x = np.concatenate([c.values for c in mine])
    y = np.concatenate([e.values[at - 1] for e in env])
    assert found["env_correlation_step"].value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found["scale"].value == pytest.approx(x.std() / y.std())
    totals = [c.values.sum() for c in mine], [e.values.sum() for e in env]
    assert found["env_correlation_episode"].value == pytest.approx(
        np.corrcoef(*totals)[0, 1]
    )


def test_derived_episodes_are_not_compared_with_the_environment():
    labels = [label("random", 0), label("reversed", 1)]
    up, down = curve([1, 2, 3]), curve([3, 2, 1])
    found = measure([up, up], labels, env_curves=[up, down])
    assert found["env_correlation_step"].value == pytest.approx(1)


def test_an_unknown_reward_of_the_environment_is_not_nothing():
    rng = np.random.default_rng(4)
    curves = [curve(rng.normal(size=4)) for _ in range(4)]
    labels = [label("random", i) for i in range(4)]
    env = [curve(2 * c.values) for c in curves[:3]] + [curve([])]
    found = measure(curves, labels, env_curves=env)
    assert found["env_correlation_episode"].value == pytest.approx(1)
    assert found["env_correlation_episode"].n == 3
    found = measure(curves, labels, env_curves=[curve([])] * 4)
    assert found["scale"].flag == "the environment's reward is unknown"
    found = measure(curves, labels, env_curves=[curve([np.nan]), *env[1:]])
    assert found["scale"].flag == "the environment's reward is not finite in 1 episodes"


def test_a_constant_has_no_correlation():
    labels = [label("random", 0), label("random", 1)]
    still, up = curve([0.1] * 3), curve([1, 2, 3])
    found = measure([up, up], labels, env_curves=[still, still])
    for name in ENVIRONMENT:
        assert found[name].value is None
        assert "constant" in found[name].flag
    found = measure([still, still], labels, env_curves=[up, up])
    assert found["env_correlation_step"].value is None
    assert found["scale"].value == pytest.approx(0, abs=1e-9)
    assert measure([curve([1], [1])], labels[:1], env_curves=[curve([1], [2])])[
        "scale"
    ].flag == ("no steps in common")


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


# The bootstrap ------------------------------------------------------------------------


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


# EPIC ---------------------------------------------------------------------------------

STATES, ACTIONS, GAMMA = 4, 3, 0.9


class Table:
    """A reward written out for every transition of a finite world."""

    def __init__(self, table):
        self.table = table

    def __call__(self, states, actions, next_states):
        return self.table[states, actions, next_states]


@pytest.fixture
def table():
    return np.random.default_rng(9).normal(size=(STATES, ACTIONS, STATES))


def every_transition():
    grid = np.meshgrid(
        np.arange(STATES), np.arange(ACTIONS), np.arange(STATES), indexing="ij"
    )
    return tuple(part.ravel() for part in grid)


def distance(a, b, coverage=None):
    states = np.arange(STATES) if coverage is None else coverage
    drawn = (states, np.arange(ACTIONS), GAMMA)
    return epic.distance(
        *(canonical(Table(part), *every_transition(), *drawn) for part in (a, b))
    )


def canonical_by_loop(table):
    s_all, a_all = range(STATES), range(ACTIONS)

    def expected(s):
        return sum(table[s, a, t] for a in a_all for t in s_all) / STATES / ACTIONS

    anywhere = sum(expected(s) for s in s_all) / STATES
    return np.array(
        [
            table[s, a, t] + GAMMA * expected(t) - expected(s) - GAMMA * anywhere
            for s in s_all
            for a in a_all
            for t in s_all
        ]
    )


def shaped(table, potential):
    return table + GAMMA * potential[None, None, :] - potential[:, None, None]


def test_epic_does_not_see_shaping_and_scale(table):
    potential = np.array([5.0, -2.0, 0.5, 30.0])
    assert distance(table, table) == 0
    assert distance(table, shaped(table, potential)) == pytest.approx(0, abs=1e-13)
    assert distance(table, 7 * table + 3) == pytest.approx(0, abs=1e-13)
    assert distance(table, shaped(0.2 * table, potential)) == pytest.approx(
        0, abs=1e-12
    )
    # Exactly so on a sample of the states as well.
    part = np.array([0, 2, 2])
    assert distance(table, shaped(table, potential), part) == pytest.approx(
        0, abs=1e-13
    )


def test_epic_of_opposites_is_one(table):
    assert distance(table, -table) == pytest.approx(1, abs=1e-13)
    assert distance(table, shaped(-3 * table, np.arange(4.0))) == pytest.approx(1)


def test_epic_agrees_with_a_loop_over_the_world(table):
    other = np.random.default_rng(10).normal(size=table.shape)
    a, b = canonical_by_loop(table), canonical_by_loop(other)
    got = canonical(
        Table(table),
        *every_transition(),
        np.arange(STATES),
        np.arange(ACTIONS),
        GAMMA,
    )
    np.testing.assert_allclose(got, a, atol=1e-13)
    rho = np.corrcoef(a, b)[0, 1]
    assert distance(table, other) == pytest.approx(math.sqrt((1 - rho) / 2))
    assert 0.1 < distance(table, other) < 0.9


def test_epic_takes_states_of_any_shape():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 30, 2))
    a = rng.normal(size=(30, 1))

    def reach(s, a, t):
        return -np.linalg.norm(t - 1, axis=-1) - 0.1 * a[:, 0] ** 2

    def helped(s, a, t):
        return 2 * reach(s, a, t) + GAMMA * t.sum(-1) - s.sum(-1)

    far = epic.distance(
        *(canonical(reward, s, a, t, s, a, GAMMA) for reward in (reach, helped))
    )
    assert far == pytest.approx(0, abs=1e-12)


def test_shaping_alone_is_canonically_nothing(table):
    drawn = (np.arange(STATES), np.arange(ACTIONS), GAMMA)
    alone = Table(shaped(0 * table, np.arange(4.0)))
    np.testing.assert_allclose(
        canonical(alone, *every_transition(), *drawn), 0, atol=1e-13
    )


# The verdict --------------------------------------------------------------------------

T = 32
#: How far each kind of episode gets, by which share of its time.
PROGRESS = {
    "success": lambda t: t,
    "near-miss": lambda t: np.minimum(t, 0.4),
    "half-way": lambda t: np.minimum(t, 0.5),
    "noisy": lambda t: 0.3 * t,
    "random": lambda t: 0.1 * t,
    "static": lambda t: 0 * t,
    "other-task": lambda t: 0.1 * t,
    "reversed": lambda t: 1 - t,
    "shifted": lambda t: t,
    "brightness": lambda t: t,
}


def rollouts(reward, n=12, seed=0):
    """Episodes of all kinds and what a reward of the progress made pays in them."""
    rng = np.random.default_rng(seed)
    t = np.arange(1, T + 1) / T
    curves, labels = [], []
    for kind, progress in PROGRESS.items():
        for i in range(n):
            # Rollouts are not all alike: each has its own pace.
            made = progress(t) * rng.uniform(0.9, 1.0)
            curves.append(curve(reward(made, kind, rng)))
            source = f"{kind} {i}" if kind in ORDINARY else f"success {i}"
            labels.append(label(kind, source, length=T))
    return curves, labels


def oracle(progress, kind, rng):
    return progress


def constant(progress, kind, rng):
    return np.full(len(progress), 0.25)


def noise(progress, kind, rng):
    return rng.normal(size=len(progress))


def turned(progress, kind, rng):
    return -progress


def hover(progress, kind, rng):
    return np.minimum(progress, 0.4) / 0.4


def blind(progress, kind, rng):
    """Sees the motion of a near-miss, but not that the object stays behind."""
    if kind == "near-miss":
        return np.linspace(0, 0.95, len(progress))
    return progress


def faint(progress, kind, rng):
    """A little better than chance, and it does rise."""
    return progress + rng.normal(0, 1.5)


def judge(reward, controls=None, **more):
    found = measure(*rollouts(reward, **more))
    return found, verdict(found, controls)


def said(verdict_, words):
    return [finding for finding in verdict_.findings if words in finding]


def test_an_oracle_is_good():
    found, judged = judge(oracle)
    assert judged.level == "good", judged
    assert found["auc_mean"].value == 1
    assert said(judged, "AUC 1.00 (1.00 to 1.00), 84 episodes: successes score higher")
    assert said(judged, "Pay for standing still")
    assert judged.findings[-1] == SIEVE
    assert "genreward evaluate --learn" in SIEVE


def test_a_constant_is_dead():
    found, judged = judge(constant)
    assert judged.level == "dead"
    assert "the same everywhere" in judged.headline
    assert found["voc_spearman"].flag == "constant in 12 of 12 episodes"
    assert said(judged, "Every score is the same (spread 0.00")
    assert said(judged, "Undefined: ")
    assert judged.findings[-1] == SIEVE


def test_noise_is_dead():
    levels = [judge(noise, seed=seed)[1].level for seed in range(20)]
    # One interval in twenty misses; it may not pass for a good reward even then.
    assert levels.count("dead") >= 16
    assert "good" not in levels


def test_a_flipped_sign_is_misleading():
    _, judged = judge(turned)
    assert judged.level == "misleading"
    assert "pays failures more than successes: AUC 0.0" in judged.headline
    assert said(judged, "flipped sign")


def test_full_pay_half_way_is_misleading():
    found, judged = judge(hover)
    assert found["hover_share"].value > 0.9
    assert judged.level == "misleading"
    assert "stopping half-way earns" in judged.headline
    assert said(judged, "align the score in time")


def test_a_reward_blind_to_the_object_is_misleading():
    found, judged = judge(blind)
    assert found["auc_mean"].value > 0.8
    assert judged.level == "misleading"
    assert "near-misses earn" in judged.headline


def test_a_faint_reward_is_weak():
    found, judged = judge(faint, n=30)
    assert judged.level == "weak", judged
    assert "is low" in judged.headline
    assert found["voc_spearman"].value > 0.9


def test_seeing_the_order_is_read_from_the_slope_where_the_means_are_alike():
    backwards = {"reversed_auc": 0.5, "voc_reversed": -0.9}
    assert not said(verdict(figures(**backwards)), "the order of events")
    backwards = {"reversed_auc": 0.5, "voc_reversed": 0.0}
    assert said(verdict(figures(**backwards)), "the order of events hardly counts")


def test_a_clock_is_not_good():
    def clock(progress, kind, rng):
        return np.arange(len(progress)) + rng.normal()

    _, judged = judge(clock)
    assert judged.level != "good"
    assert said(judged, "may follow the clock")


def test_too_few_episodes_are_weak_however_well_told_apart():
    found, judged = judge(oracle, n=3)
    assert found["auc_mean"].value == 1
    assert judged.level == "weak"
    assert "only 3 successes" in judged.headline


def test_an_undefined_auc_is_weak_with_its_reason():
    found = measure([curve([1, 2, 3])] * 2, [label("success", 0), label("success", 1)])
    judged = verdict(found)
    assert judged.level == "weak"
    assert "no failures" in judged.headline
    assert said(judged, "auc_mean, auc_sum")
    assert verdict(measure([], [])).level == "weak"
    assert verdict({}).level == "weak"


def figures(**values):
    """Figures of a reward that is good alone."""
    base = {"auc_mean": 0.95, "spread": 1.0, "base_rate": 0.5, "voc_spearman": 0.9}
    return {
        name: Estimate(value, value - 0.03, min(1.0, value + 0.03), 100)
        for name, value in (base | values).items()
    }


def ahead(**values):
    """Differences to a control, each as (value, low, high)."""
    return {name: Estimate(*value, 100) for name, value in values.items()}


def test_controls_have_to_be_beaten():
    mine = figures(auc_mean=0.90, shifted_auc=0.85)
    assert verdict(mine).level == "good"

    sure, unsure = (0.15, 0.05, 0.25), (0.02, -0.03, 0.07)
    better = verdict(mine, {"pixels": ahead(auc_mean=unsure, shifted_auc=sure)})
    assert better.level == "good"
    assert said(
        better,
        "Beats pixels: AUC 0.90, ahead by 0.02 (-0.03 to 0.07), "
        "AUC with the camera shifted 0.85, ahead by 0.15 (0.05 to 0.25)",
    )

    # A difference that may be chance is no win, however large.
    same = verdict(
        mine,
        {"pixels": ahead(auc_mean=(0.2, -0.01, 0.4)), "random": ahead(auc_mean=sure)},
    )
    assert same.level == "weak"
    assert same.headline == "it does not beat pixels"
    assert said(same, "Does not beat pixels: AUC 0.90, ahead by 0.20 (-0.01 to 0.40)")
    assert said(same, "Beats random")

    lost = (-0.1, -0.2, -0.02)
    mixed = verdict(mine, {"pixels": ahead(auc_mean=sure, shifted_auc=lost)})
    assert mixed.level == "weak"
    assert said(mixed, "wins in some and loses in others")


def test_a_control_at_the_ceiling_cannot_be_beaten_and_is_not_held_against_it():
    close = {"pixels": ahead(auc_mean=(0.01, -0.01, 0.02))}
    judged = verdict(figures(auc_mean=1.0), close)
    assert judged.level == "good"
    assert said(judged, "leaves no room")
    assert verdict(figures(auc_mean=0.9), close).level == "weak"
    judged = verdict(figures(), {"pixels": ahead(spread=(1, 1, 1))})
    assert said(judged, "Not compared with pixels")


def test_differences_are_of_the_same_draws():
    """By hand, and against what two intervals by themselves would say."""
    rng = np.random.default_rng(0)
    labels = [label("success", i) for i in range(20)]
    labels += [label("random", i) for i in range(20)]
    base = np.concatenate([rng.normal(1, 1, 20), rng.normal(0, 1, 20)])
    # Always the same, but for one failure that the other takes for the best success.
    worse = base.copy()
    worse[-1] = 10.0
    mine = [curve([v, v]) for v in base]
    theirs = [curve([v, v]) for v in worse]
    found = differences(mine, theirs, labels)["auc_mean"]
    wins = [np.mean(v[:20, None] > v[None, 20:]) for v in (base, worse)]
    assert found.value == pytest.approx(wins[0] - wins[1])
    alone = measure(mine, labels)["auc_mean"]
    assert found.high - found.low < (alone.high - alone.low) / 2
    nothing = differences(mine, mine, labels)["auc_mean"]
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    assert differences(mine, theirs, labels)["shifted_auc"].value is None


def test_a_wide_interval_is_weak():
    mine = figures() | {"auc_mean": Estimate(0.85, 0.70, 0.95, 20)}
    assert verdict(mine).level == "weak"
    assert "uncertain" in verdict(mine).headline
    # Easy pay that may be chance does not make a reward misleading.
    chance = figures() | {"hover_share": Estimate(0.95, 0.2, 1.7, 40)}
    assert verdict(chance).level == "good"
    sure = figures() | {"hover_share": Estimate(0.95, 0.8, 1.1, 40)}
    assert verdict(sure).level == "misleading"


def test_a_verdict_is_plain_json():
    _, judged = judge(constant)
    again = json.loads(json.dumps(asdict(judged), allow_nan=False))
    assert set(again) == {"level", "headline", "findings"}
    assert not any("nan" in finding.lower().split() for finding in again["findings"])
