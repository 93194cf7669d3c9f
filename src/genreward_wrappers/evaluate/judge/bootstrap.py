"""Estimates with intervals, from statistics that are resampled all at once.

A resample is a row of weights: how often each episode was drawn. A `Statistic` takes
many such rows at once and gives one number for each, so that a thousand resamples are
a matrix product; the estimate itself is the statistic of a row of ones. No rank is
computed twice, and the estimate and its interval cannot disagree about ties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, Int64

Float64 = NDArray[np.float64]

#: (resamples, n) weights to (resamples,) numbers; NaN where it is undefined.
Statistic = Callable[[Float64], Float64]

#: The share of the resamples that an interval holds.
LEVEL = 0.95
#: A larger share of undefined resamples is worth a flag: what is left is a selection.
UNDEFINED = 0.1
#: Digits that count when scores are compared. The mean of equal numbers varies by some
#: 1e-16 with their number, and an order of such differences would look like a result.
DIGITS = 12


@dataclass(frozen=True)
class Estimate:
    """A figure, its interval, and why it is missing or questionable.

    Attributes:
        value: The figure; None if it is undefined, in which case `flag` says why.
        low: The lower end of the 95 % interval; None if there is none.
        high: The upper end.
        n: The number of episodes behind it.
        flag: What a reader has to know before believing the value.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    flag: str = ""

    def __str__(self) -> str:
        """To two digits, with the interval if there is one."""
        if self.value is None:
            return "undefined"
        # What is rounded to zero has no sign.
        value, *ends = (
            f"{round(end, 2) + 0.0:.2f}"
            for end in (self.value, self.low, self.high)
            if end is not None
        )
        return f"{value} ({' to '.join(ends)})" if len(ends) == 2 else value

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; undefined is null and never NaN."""
        return asdict(self)


def undefined(n: int, flag: str) -> Estimate:
    """An estimate without a value."""
    return Estimate(None, None, None, n, flag)


def estimate(
    statistic: Statistic,
    groups: Sequence[str],
    *,
    seed: int,
    resamples: int,
    missing: str = "undefined",
    flag: str = "",
) -> Estimate:
    """The statistic of all episodes, with a percentile interval over their groups.

    Args:
        statistic: What to estimate.
        groups: (n,) the source of each episode. Episodes made from the same source are
            not independent, so they are drawn together.
        seed: The seed of the resamples.
        resamples: The number of resamples.
        missing: The flag if the statistic of all episodes is not defined.
        flag: A flag for the estimate in any case.
    """
    n = len(groups)
    value = float(statistic(np.ones((1, n)))[0])
    if not np.isfinite(value):
        return undefined(n, missing)
    weights = cluster_weights(groups, seed=seed, resamples=resamples)
    if weights is None:
        what = "episode" if n == 1 else "source episode"
        return Estimate(value, None, None, n, join(flag, f"one {what}: no interval"))
    drawn = statistic(weights)
    defined = np.isfinite(drawn)
    lost = 1 - defined.mean()
    if lost > UNDEFINED:
        flag = join(flag, f"undefined in {lost:.0%} of the resamples")
    if not defined.any():
        return Estimate(value, None, None, n, flag)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn[defined], [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n, flag)


def cluster_weights(
    groups: Sequence[str], *, seed: int, resamples: int
) -> Float64 | None:
    """(resamples, n) how often each episode is drawn; None if all share one group."""
    index = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    count = int(index.max()) + 1
    if count == 1:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    weights: Float64 = drawn[:, index].astype(np.float64)
    return weights


def join(*flags: str) -> str:
    """Joins flags into one line."""
    return "; ".join(flag for flag in flags if flag)


def comparable(scores: Float64) -> Float64:
    """Scores rounded so that equal ones compare equal, in some unit."""
    scale = float(np.abs(scores).max(initial=0.0)) or 1.0
    rounded: Float64 = np.round(scores / scale, DIGITS)
    return rounded


def roc_auc(scores: Float64, positive: Bool) -> Statistic:
    """How often a positive scores above a negative; a tie is half."""
    p, q = np.flatnonzero(positive), np.flatnonzero(~positive)
    scores = comparable(scores)
    ahead = scores[p, None] - scores[q]
    wins = (np.sign(ahead) + 1) / 2

    def statistic(weights: Float64) -> Float64:
        a, b = weights[:, p], weights[:, q]
        return ratio(((a @ wins) * b).sum(1), a.sum(1) * b.sum(1))

    return statistic


def average_precision(scores: Float64, positive: Bool) -> Statistic:
    """The precision at each positive's own score, averaged over the positives."""
    p = np.flatnonzero(positive)
    scores = comparable(scores)
    # (n, positives) which are retrieved when the threshold is a positive's score.
    retrieved = (scores[:, None] >= scores[p]).astype(np.float64)

    def statistic(weights: Float64) -> Float64:
        precision = ratio(weights[:, p] @ retrieved[p], weights @ retrieved)
        # If a resample left a positive out, its precision may be 0/0, which counts as
        # 0.
        hits = weights[:, p] * np.nan_to_num(precision)
        return ratio(hits.sum(1), weights[:, p].sum(1))

    return statistic


def kendall_tau(scores: Float64, levels: Int64, variant: str) -> Statistic:
    """Kendall's tau, variant ``a`` (all pairs count) or ``b`` (ties taken out).

    Equal scores rank nothing and give 0; equal levels leave nothing to rank and give
    NaN.
    """
    scores = comparable(scores)
    above = np.sign(scores[:, None] - scores)
    better = np.sign(levels[:, None] - levels).astype(np.float64)
    concordant = above * better

    def statistic(weights: Float64) -> Float64:
        def pairs(matrix: Float64) -> Float64:
            total: Float64 = ((weights @ matrix) * weights).sum(1)
            return total

        n = weights.sum(1)
        ranked = pairs(np.abs(better))
        if variant == "a":
            tau = ratio(pairs(concordant), n * (n - 1))
        else:
            told = pairs(np.abs(above))
            tau = np.nan_to_num(ratio(pairs(concordant), np.sqrt(ranked * told)))
        return np.where(ranked > 0, tau, np.nan)

    return statistic


def mean(values: Float64) -> Statistic:
    """The weighted mean."""
    return lambda weights: ratio(weights @ values, weights.sum(1))


def moments(x: Sequence[Float64], y: Sequence[Float64]) -> Callable[[Float64], Float64]:
    """(resamples, 3) variance of x and of y, and covariance, pooled over episodes.

    Args:
        x: Some numbers of each episode.
        y: As many others.
    """
    # Means are subtracted first: a difference of large squares would be rounding.
    x0, y0 = np.concatenate(x).mean(), np.concatenate(y).mean()
    sums = np.array(
        [
            [len(u), u.sum(), v.sum(), (u * u).sum(), (v * v).sum(), (u * v).sum()]
            for u, v in ((a - x0, b - y0) for a, b in zip(x, y, strict=True))
        ]
    )

    def statistic(weights: Float64) -> Float64:
        total = weights @ sums
        u, v, uu, vv, uv = ratio(total[:, 1:], total[:, :1]).T
        return np.stack(
            [np.maximum(uu - u * u, 0), np.maximum(vv - v * v, 0), uv - u * v], 1
        )

    return statistic


def ratio(top: Float64, bottom: Float64) -> Float64:
    """Top divided by bottom; NaN where the bottom is not positive."""
    out: Float64 = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out
