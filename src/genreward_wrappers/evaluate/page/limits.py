"""Limits that figures must reach, for an exit status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from genreward_wrappers.evaluate.judge.metrics import METRICS

if TYPE_CHECKING:
    from genreward_wrappers.evaluate.judge.run import Evaluation


def check_limits(limits: Mapping[str, float]) -> None:
    """Raises unless there is a figure of each name."""
    for name in limits:
        if name != "auc" and name not in METRICS:
            raise ValueError(
                f"--fail-below {name}: there is no such figure; there are auc (short "
                f"for auc_mean), {', '.join(METRICS)}"
            )


def below(evaluation: Evaluation, limits: Mapping[str, float]) -> list[str]:
    """The limits that rewards under test miss."""
    missed = []
    for name, limit in limits.items():
        metric = "auc_mean" if name == "auc" else name
        for one in evaluation.scored:
            if one.contestant.role != "reward":
                continue
            found = one.metrics.get(metric)
            value = None if found is None else found.value
            if value is None or not value >= limit:
                said = "undefined" if value is None else f"{np.round(value, 3)}"
                missed.append(
                    f"{one.contestant.name}: {metric} is {said}, wanted {limit:g}"
                )
    return missed
