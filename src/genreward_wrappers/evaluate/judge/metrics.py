"""What recorded test episodes say about a reward: pure arithmetic, no environment.

`measure` takes the scores of one reward and what is known about the episodes, and
returns every figure of `METRICS` with an interval. Odd scores never raise and nothing
is filled in: an undefined figure is None, and its flag says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genreward_wrappers.evaluate.judge import bootstrap
from genreward_wrappers.evaluate.judge.bootstrap import (
    Estimate,
    Float64,
)
from genreward_wrappers.evaluate.judge.curves import (
    ORDINARY,
    Curve,
    Labelled,
    check_labels,
)
from genreward_wrappers.evaluate.judge.table import Table, pearson, spearman

#: What each figure is, as a report shows it.
METRICS: dict[str, str] = {
    "base_rate": "The share of successes among the ordinary episodes; what AUPRC is to "
    "be compared with.",
    "auc_final": "How often a success ends with a higher score than a failure does "
    "(ROC-AUC); 0.5 is chance.",
    "auc_mean": "How often a success scores higher than a failure on average over its "
    "steps (ROC-AUC); 0.5 is chance.",
    "auc_sum": "How often a success earns more in total than a failure (ROC-AUC); 0.5 "
    "is chance.",
    "auprc_final": "The precision of the final score in finding successes (average "
    "precision); the base rate is chance.",
    "auprc_mean": "The precision of the mean score in finding successes (average "
    "precision); the base rate is chance.",
    "auprc_sum": "The precision of the total in finding successes (average precision); "
    "the base rate is chance.",
    "near_auc_final": "The AUC of the final score with only near-misses and half-way "
    "episodes as failures.",
    "near_auc_mean": "The AUC of the mean score with only near-misses and half-way "
    "episodes as failures.",
    "shifted_auc": "The AUC of the mean score with the camera shifted in the "
    "successes and not in the failures.",
    "brightness_auc": "The AUC of the mean score with the brightness changed in the "
    "successes and not in the failures.",
    "reversed_auc": "How often a success scores higher on average than a success "
    "played backwards; 0.5 is chance.",
    "voc_spearman": "How steadily the score rises along a success (rank correlation "
    "with time): 1 always, 0 not at all.",
    "voc_pearson": "How straight the score rises along a success (correlation with "
    "time): 1 in a line, 0 not at all.",
    "voc_reversed": "How steadily the score rises along a success played backwards; "
    "a reward that sees the task falls.",
    "rank_tau_a": "Kendall's tau-a of the mean score with failure < partial < success; "
    "pairs of one level count, so 1 is out of reach.",
    "rank_tau_b": "Kendall's tau-b of the mean score with failure < partial < success; "
    "0 is chance.",
    "env_correlation_step": "The correlation with the environment's own reward at the "
    "same steps.",
    "env_correlation_episode": "The correlation of what an episode earns with what "
    "the environment pays for all of it.",
    "scale": "The standard deviation per step in units of the environment's own "
    "reward's.",
    "static_share": "What standing still earns per step as a share of what a success "
    "earns; moves when a constant is added to the reward.",
    "static_place": "Where standing still lies between random failures (0) and "
    "successes (1); does not care about scale or constants.",
    "hover_share": "Where stopping half-way lies between random failures (0) and "
    "successes (1), per step.",
    "near_share": "Where near-misses lie between random failures (0) and successes "
    "(1), per step.",
    "spread": "The standard deviation of the score over all steps and episodes; 0 is a "
    "dead reward.",
}


def measure(
    curves: Sequence[Curve],
    labels: Sequence[Labelled],
    *,
    env_curves: Sequence[Curve] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Estimate]:
    """Every figure of `METRICS` for one reward.

    Args:
        curves: The scores of the reward, one curve an episode.
        labels: What is known about the same episodes.
        env_curves: The environment's own reward in the same episodes. Without it,
            figures that compare with it are left out.
        seed: The seed of the intervals.
        resamples: The number of bootstrap resamples.
    """
    check_labels(curves, labels)
    table = Table(curves, labels, seed, resamples)
    ordinary = table.of(*ORDINARY)
    done = table.success
    failed = ordinary & ~done
    success = table.of("success") & done
    near = table.of("success", "near-miss", "half-way")
    backwards = table.of("reversed")

    found = {"base_rate": table.base_rate(ordinary)}
    for name in ("final", "mean", "sum"):
        found[f"auc_{name}"] = table.separate(name, ordinary & done, failed)
    for name in ("final", "mean", "sum"):
        found[f"auprc_{name}"] = table.separate(
            name, ordinary & done, failed, bootstrap.average_precision
        )
    for name in ("final", "mean"):
        found[f"near_auc_{name}"] = table.separate(name, near & done, near & ~done)
    for kind in ("shifted", "brightness"):
        changed = table.of(kind) & done
        found[f"{kind}_auc"] = table.separate(
            "mean", changed, failed, names=(f"{kind} successes", "failures")
        )
    found["reversed_auc"] = table.separate(
        "mean", success, backwards, names=("successes", "reversed episodes")
    )
    found["voc_spearman"] = table.rise(success, "success", spearman)
    found["voc_pearson"] = table.rise(success, "success", pearson)
    found["voc_reversed"] = table.rise(backwards, "reversed", spearman)
    found["rank_tau_a"] = table.rank(ordinary, "a")
    found["rank_tau_b"] = table.rank(ordinary, "b")
    if env_curves is not None:
        check_labels(env_curves, labels)
        found |= table.beside(env_curves, ordinary)

    random = table.of("random") & ~done
    found["static_share"] = table.share(table.of("static"), success)
    for name, kind in (
        ("static_place", "static"),
        ("hover_share", "half-way"),
        ("near_share", "near-miss"),
    ):
        found[name] = table.place(table.of(kind) & ~done, kind, random, success)
    found["spread"] = table.spread()
    return found


def differences(
    curves: Sequence[Curve],
    others: Sequence[Curve],
    labels: Sequence[Labelled],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Estimate]:
    """How much higher the AUCs of one reward are than those of another.

    Both are judged on the same resampled episodes, so the interval is that of the
    difference. Two AUCs whose intervals overlap may still differ for certain.

    Args:
        curves: The scores of one reward, one curve an episode.
        others: The scores of the other in the same episodes.
        labels: What is known about the episodes.
        seed: The seed of the intervals.
        resamples: The number of bootstrap resamples.
    """
    check_labels(curves, labels)
    check_labels(others, labels)
    mine = Table(curves, labels, seed, resamples)
    theirs = Table(others, labels, seed, resamples)
    ordinary, done = mine.of(*ORDINARY), mine.success
    near = mine.of("success", "near-miss", "half-way")
    failed = ordinary & ~done
    lots = {
        "auc_mean": (ordinary & done, failed),
        "near_auc_mean": (near & done, near & ~done),
        "shifted_auc": (mine.of("shifted") & done, failed),
        "brightness_auc": (mine.of("brightness") & done, failed),
    }
    return {name: mine.ahead(theirs, *lot) for name, lot in lots.items()}


class Confusion(NamedTuple):
    """How well a reward tells tasks apart; both are None where a score is not finite.

    Attributes:
        diagonal_minus_off: How much higher the score is under a task's own goal than
            under the others.
        argmax_accuracy: The share of tasks that score highest under their own goal; a
            tie is not a hit.
    """

    diagonal_minus_off: float | None
    argmax_accuracy: float | None


def confusion(matrix: Float64) -> Confusion:
    """Whether each task's successes score highest against their own goal.

    Args:
        matrix: (tasks, tasks) the mean score of task i's successes against goal j.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            "a confusion matrix has one row per task and one column for each of the "
            f"same tasks' goals, got {matrix.shape}"
        )
    n = len(matrix)
    if n < 2:
        raise ValueError(f"telling tasks apart takes two tasks at least, got {n}")
    if not np.isfinite(matrix).all():
        return Confusion(None, None)
    own = np.eye(n, dtype=bool)
    apart = matrix[own].mean() - matrix[~own].mean()
    rivals = np.where(own, -np.inf, matrix).max(1)
    hits = (matrix[own] > rivals).mean()
    return Confusion(float(apart), float(hits))
