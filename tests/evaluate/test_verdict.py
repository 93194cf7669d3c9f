"""What is said of a reward, of rewards whose faults are known."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("scipy")

from genreward_wrappers.evaluate.judge.bootstrap import Estimate
from genreward_wrappers.evaluate.judge.metrics import differences, measure
from genreward_wrappers.evaluate.judge.verdict import SIEVE, verdict
from tests.evaluate.curves import curve, label, rollouts


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
