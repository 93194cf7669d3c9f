"""What the tests of the figures share: curves and labels in a line each."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from genreward_wrappers.evaluate.judge.curves import ORDINARY, Curve, Labelled
from genreward_wrappers.evaluate.judge.metrics import measure

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
