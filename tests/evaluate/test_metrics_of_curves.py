"""What a reward does within an episode, and beside the environment's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from genreward_wrappers.evaluate.judge.bootstrap import Estimate
from genreward_wrappers.evaluate.judge.metrics import measure
from tests.evaluate.curves import ENVIRONMENT, curve, flat_episodes, label

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
