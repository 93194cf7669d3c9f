"""The scores of many episodes in one table, and the figures read from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from genreward_wrappers.core import Bool
from genreward_wrappers.evaluate.judge import bootstrap
from genreward_wrappers.evaluate.judge.bootstrap import (
    Estimate,
    Float64,
    Statistic,
    join,
    ratio,
    undefined,
)
from genreward_wrappers.evaluate.judge.curves import Curve, Labelled

#: Scores that differ by less than this share of their size count as equal: rewards are
#: float32, and an encoder's batch size alone changes the last digits.
FLAT = 1e-6
#: With two points every correlation is 1 or -1.
MIN_POINTS = 3
#: Resampling fewer sources than this repeats them more than it varies them.
FEW = 5


class Table:
    """One row per episode: what is known about it, and its curve in a few numbers."""

    def __init__(
        self,
        curves: Sequence[Curve],
        labels: Sequence[Labelled],
        seed: int,
        resamples: int,
    ) -> None:
        self.curves = [
            Curve(curve.steps, curve.values.astype(np.float64)) for curve in curves
        ]
        self.kinds = np.array([label.kind for label in labels], object)
        self.groups = np.array([label.group for label in labels], object)
        self.success = np.array([label.success for label in labels], np.bool_)
        self.levels = np.array([label.level for label in labels], np.int64)
        self.seed, self.resamples = seed, resamples
        values = [curve.values for curve in self.curves]
        self.empty = np.array([len(v) == 0 for v in values], np.bool_)
        self.broken = np.array([not np.isfinite(v).all() for v in values], np.bool_)
        # Broken scores are never read (`_lacking`), but must not warn here.
        fine = [
            v if ok else np.zeros(1)
            for v, ok in zip(values, ~(self.empty | self.broken), strict=True)
        ]
        self.scores: dict[str, Float64] = {
            "final": np.array([v[-1] for v in fine]),
            "mean": np.array([v.mean() for v in fine]),
            "sum": np.array([v.sum() for v in fine]),
        }
        size = max((float(np.abs(v).max()) for v in fine), default=0.0)
        #: Differences below this are rounding.
        self.flat = FLAT * size
        every = np.concatenate(fine) if fine else np.zeros(0)
        self.constant = len(every) > 0 and bool(np.ptp(every) <= self.flat)

    def of(self, *kinds: str) -> Bool:
        """The episodes of some kinds."""
        return np.isin(self.kinds, kinds)

    def base_rate(self, which: Bool) -> Estimate:
        done = self.success[which].astype(np.float64)
        if len(done) == 0:
            return undefined(0, "no episodes")
        return self._estimate(bootstrap.mean(done), which)

    def separate(
        self,
        score: str,
        positive: Bool,
        negative: Bool,
        statistic: Callable[[Float64, Bool], Statistic] = bootstrap.roc_auc,
        names: tuple[str, str] = ("successes", "failures"),
    ) -> Estimate:
        """How well a score tells one group of episodes from another."""
        which = positive | negative
        lacking = self._lacking(which, silence_counts=score == "sum")
        if not lacking:
            lots = zip(names, (positive, negative), strict=True)
            lacking = join(*(f"no {name}" for name, lot in lots if not lot.any()))
        if lacking:
            return undefined(int(which.sum()), lacking)
        scores = self.scores[score][which]
        flag = join(
            self._tied(scores),
            *(
                self._few(lot, name)
                for name, lot in zip(names, (positive, negative), strict=True)
            ),
        )
        return self._estimate(statistic(scores, positive[which]), which, flag=flag)

    def ahead(self, other: Table, positive: Bool, negative: Bool) -> Estimate:
        """How much better the mean score separates them than another reward's."""
        which = positive | negative
        lacking = join(self._lacking(which), other._lacking(which))
        if not positive.any() or not negative.any():
            lacking = "one class only"
        if lacking:
            return undefined(int(which.sum()), lacking)
        mine, theirs = (
            bootstrap.roc_auc(table.scores["mean"][which], positive[which])
            for table in (self, other)
        )
        return self._estimate(lambda weights: mine(weights) - theirs(weights), which)

    def rise(
        self, which: Bool, kind: str, correlation: Callable[[Curve], float]
    ) -> Estimate:
        """The mean correlation of the score with time.

        A constant curve has no correlation and counts as 0, since it teaches nothing.
        """
        n = int(which.sum())
        if lacking := self._lacking(which, f"{kind} episodes"):
            return undefined(n, lacking)
        curves = [self.curves[i] for i in np.flatnonzero(which)]
        short = [len(curve.values) < MIN_POINTS for curve in curves]
        if all(short):
            return undefined(n, f"fewer than {MIN_POINTS} scores in every episode")
        level = [
            not few and bool(np.ptp(curve.values) <= self.flat)
            for curve, few in zip(curves, short, strict=True)
        ]
        values = np.array(
            [
                0.0 if few or flat else correlation(curve)
                for curve, few, flat in zip(curves, short, level, strict=True)
            ]
        )
        flag = join(
            f"constant in {sum(level)} of {n} episodes" if any(level) else "",
            f"fewer than {MIN_POINTS} scores in {sum(short)} of {n} episodes"
            if any(short)
            else "",
        )
        return self._estimate(bootstrap.mean(values), which, flag=flag)

    def rank(self, which: Bool, variant: str) -> Estimate:
        """Kendall's tau of the mean score with the level of success."""
        if lacking := self._lacking(which):
            return undefined(int(which.sum()), lacking)
        scores = self.scores["mean"][which]
        tau = bootstrap.kendall_tau(scores, self.levels[which], variant)
        missing = "all episodes are of one level"
        return self._estimate(tau, which, missing, self._tied(scores))

    def share(self, of: Bool, whole: Bool) -> Estimate:
        """The mean score of some episodes as a share of that of others."""
        which = of | whole
        n = int(which.sum())
        if lacking := self._lacking_any(static=of, success=whole):
            return undefined(n, lacking)
        x = self.scores["mean"][which]
        part, full = of[which].astype(float), whole[which].astype(float)
        floor = self._deviation()
        if (earned := x[full > 0].mean()) <= max(floor, self.flat):
            return undefined(
                n,
                f"successes earn {earned:.3g} per step, which is not more than the "
                f"spread of {floor:.3g}: a share of that means nothing",
            )

        def statistic(weights: Float64) -> Float64:
            top = ratio(weights @ (part * x), weights @ part)
            return ratio(top, ratio(weights @ (full * x), weights @ full))

        return self._estimate(statistic, which)

    def place(self, of: Bool, name: str, zero: Bool, one: Bool) -> Estimate:
        """Where the mean score of some episodes lies between that of two others."""
        which = of | zero | one
        n = int(which.sum())
        lots = {name: of, "random": zero, "success": one}
        if lacking := self._lacking_any(**lots):
            return undefined(n, lacking)
        x = self.scores["mean"][which]
        masks = [lot[which].astype(float) for lot in lots.values()]

        def statistic(weights: Float64) -> Float64:
            at, low, high = (
                ratio(weights @ (mask * x), weights @ mask) for mask in masks
            )
            span = high - low
            return ratio(at - low, np.where(span > self.flat, span, 0.0))

        missing = "successes earn no more per step than random failures do"
        return self._estimate(statistic, which, missing)

    def spread(self) -> Estimate:
        which = np.ones(len(self.curves), np.bool_)
        if lacking := self._lacking(which, silence_counts=True):
            return undefined(len(which), lacking)
        heard = ~self.empty
        if not heard.any():
            return undefined(len(which), f"nothing due in {len(which)} episodes")
        values = [self.curves[i].values for i in np.flatnonzero(heard)]
        if self.constant:
            return Estimate(0.0, 0.0, 0.0, len(values), "constant")
        variances = bootstrap.moments(values, values)
        return self._estimate(lambda w: np.sqrt(variances(w)[:, 0]), heard)

    def beside(self, env_curves: Sequence[Curve], which: Bool) -> dict[str, Estimate]:
        """How the scores correlate with the environment's own reward."""
        names = ("env_correlation_step", "env_correlation_episode", "scale")
        env = [Curve(c.steps, c.values.astype(np.float64)) for c in env_curves]
        # Recordings may lack it, and altered ones always do. What is missing is not 0.
        known = np.array([len(c.steps) > 0 for c in env], np.bool_)
        if which.any() and not (which & known).any():
            flag = "the environment's reward is unknown"
            return {name: undefined(0, flag) for name in names}
        which = which & known
        rows = np.flatnonzero(which)
        lacking = self._lacking(which)
        bad = sum(not np.isfinite(env[i].values).all() for i in rows)
        if bad and not lacking:
            lacking = f"the environment's reward is not finite in {bad} episodes"
        if lacking:
            return {name: undefined(len(rows), lacking) for name in names}
        mine, theirs = [], []
        for i in rows:
            _, here, there = np.intersect1d(
                self.curves[i].steps, env[i].steps, return_indices=True
            )
            mine.append(self.curves[i].values[here])
            theirs.append(env[i].values[there])
        if not sum(map(len, mine)):
            flag = "no steps in common"
            return {name: undefined(len(rows), flag) for name in names}
        steps = bootstrap.moments(mine, theirs)
        # Against the whole return: a reward may pay at two steps for what the
        # environment pays for at all of them.
        episodes = bootstrap.moments(
            list(self.scores["sum"][which, None]),
            [env[i].values.sum(keepdims=True) for i in rows],
        )
        tiny = FLAT * max(float(np.abs(v).max(initial=0.0)) for v in theirs)

        def correlation(moments: Callable[[Float64], Float64]) -> Statistic:
            def statistic(weights: Float64) -> Float64:
                x, y, xy = moments(weights).T
                some = (x > self.flat**2) & (y > tiny**2)
                return ratio(xy, np.where(some, np.sqrt(x * y), 0.0))

            return statistic

        def scale(weights: Float64) -> Float64:
            x, y, _ = steps(weights).T
            return ratio(np.sqrt(x), np.where(y > tiny**2, np.sqrt(y), 0.0))

        either = "constant, or the environment's reward is"
        theirs_only = "the environment's reward is constant"
        return {
            names[0]: self._estimate(correlation(steps), which, either),
            names[1]: self._estimate(correlation(episodes), which, either),
            names[2]: self._estimate(scale, which, theirs_only),
        }

    def _estimate(
        self, statistic: Statistic, which: Bool, missing: str = "", flag: str = ""
    ) -> Estimate:
        return bootstrap.estimate(
            statistic,
            [str(group) for group in self.groups[which]],
            seed=self.seed,
            resamples=self.resamples,
            missing=missing or "undefined",
            flag=flag,
        )

    def _lacking(
        self, which: Bool, what: str = "episodes", *, silence_counts: bool = False
    ) -> str:
        """Why these episodes give no figure; empty if they do.

        Leaving out episodes that cannot be scored would select episodes by their
        score.
        """
        if not which.any():
            return f"no {what}"
        if bad := int((which & self.broken).sum()):
            return f"not finite in {bad} episodes"
        if not silence_counts and (bad := int((which & self.empty).sum())):
            return f"nothing due in {bad} episodes"
        return ""

    def _lacking_any(self, **lots: Bool) -> str:
        reasons = [self._lacking(lot, f"{name} episodes") for name, lot in lots.items()]
        return join(*dict.fromkeys(reasons))

    def _few(self, which: Bool, name: str) -> str:
        sources = len(set(self.groups[which]))
        return (
            f"{name} from only {sources} source episodes: the interval is too narrow"
            if sources < FEW
            else ""
        )

    def _tied(self, scores: Float64) -> str:
        return "constant: every score is the same" * bool(np.ptp(scores) <= self.flat)

    def _deviation(self) -> float:
        heard = [c.values for c in self.curves if np.isfinite(c.values).all()]
        return float(np.concatenate(heard).std())


def spearman(curve: Curve) -> float:
    from scipy import stats

    return float(stats.spearmanr(curve.steps, curve.values).statistic)


def pearson(curve: Curve) -> float:
    from scipy import stats

    return float(stats.pearsonr(curve.steps, curve.values).statistic)
