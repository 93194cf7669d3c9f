"""What recorded test episodes say about a reward: pure arithmetic, no environment.

`measure` takes the scores of one reward and what is known about the episodes, and gives
every figure of `METRICS` with an interval. It never raises on odd scores and never
fills in: a figure that is not defined is None, and its flag says why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from genreward_wrappers.core import Bool, Int64
from genreward_wrappers.evaluate.judge import bootstrap
from genreward_wrappers.evaluate.judge.bootstrap import (
    Estimate,
    Float64,
    Statistic,
    join,
    ratio,
    undefined,
)

__all__ = [
    "BETTER",
    "DERIVED",
    "KINDS",
    "METRICS",
    "ORDINARY",
    "Confusion",
    "Curve",
    "Estimate",
    "Labelled",
    "confusion",
    "measure",
]

#: Episodes as they were rolled out, and what was made of them afterwards.
ORDINARY = (
    "failure",
    "success",
    "near-miss",
    "half-way",
    "noisy",
    "random",
    "static",
    "other-task",
)
DERIVED = ("reversed", "shifted", "brightness")
KINDS = ORDINARY + DERIVED

#: Scores that differ by less than this share of their size are one score: rewards are
#: float32, and an encoder's batch size alone moves the last digits.
FLAT = 1e-6
#: With two points every correlation is 1 or -1.
MIN_POINTS = 3
#: Drawing again from fewer sources than this repeats them more than it varies them.
FEW = 5

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
    "static_share": "What standing still earns a step as a share of what a success "
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

Direction = Literal["higher", "lower", "neither"]

#: Which way each figure is better.
BETTER: dict[str, Direction] = {
    name: "higher"
    if name.startswith(("au", "near_auc", "voc", "rank", "env"))
    or name.endswith("_auc")
    else "lower"
    for name in METRICS
} | {
    "voc_reversed": "lower",
    "base_rate": "neither",
    "scale": "neither",
    "spread": "neither",
}


@dataclass(frozen=True, eq=False)
class Curve:
    """The scores of one reward in one episode, where it had something to say.

    Attributes:
        steps: (n,) the steps, counted from 1 and rising.
        values: (n,) the scores.
    """

    steps: Int64
    values: Float64

    def __post_init__(self) -> None:
        steps, values = self.steps, self.values
        if steps.ndim != 1 or steps.shape != values.shape:
            raise ValueError(
                f"a curve has one score for each step, got steps {steps.shape} and "
                f"scores {values.shape}"
            )
        if (np.diff(steps) <= 0).any():
            raise ValueError(f"a curve's steps must rise, got {steps.tolist()}")


@dataclass(frozen=True)
class Labelled:
    """What is known about a test episode.

    Attributes:
        kind: One of `KINDS`.
        group: The source it comes from; episodes made from it share its name.
        success: Whether the task was done.
        level: 0 failure, 1 partial, 2 success.
        length: Its steps.
    """

    kind: str
    group: str
    success: bool
    level: int
    length: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"unknown kind of episode {self.kind!r}; there are {', '.join(KINDS)}"
            )


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
        curves: Its scores, one curve an episode.
        labels: What is known about the same episodes.
        env_curves: The environment's own reward in the same episodes. Without it the
            figures that compare with it are left out.
        seed: Makes the intervals repeatable.
        resamples: How many times the episodes are drawn again for the intervals.
    """
    _check(curves, labels)
    table = _Table(curves, labels, seed, resamples)
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
    found["voc_spearman"] = table.rise(success, "success", _spearman)
    found["voc_pearson"] = table.rise(success, "success", _pearson)
    found["voc_reversed"] = table.rise(backwards, "reversed", _spearman)
    found["rank_tau_a"] = table.rank(ordinary, "a")
    found["rank_tau_b"] = table.rank(ordinary, "b")
    if env_curves is not None:
        _check(env_curves, labels)
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

    Both are judged on the same drawn episodes, so the interval is that of the
    difference: two AUCs whose intervals overlap may well differ surely, and the other
    way round.

    Args:
        curves: The scores of one reward, one curve an episode.
        others: The scores of the other in the same episodes.
        labels: What is known about the episodes.
        seed: Makes the intervals repeatable.
        resamples: How many times the episodes are drawn again.
    """
    _check(curves, labels)
    _check(others, labels)
    mine = _Table(curves, labels, seed, resamples)
    theirs = _Table(others, labels, seed, resamples)
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
    """How well tasks are told apart; both None where a score is not finite.

    Attributes:
        diagonal_minus_off: How much more a task's own goal gives than the others do.
        argmax_accuracy: The share of tasks whose own goal gives most; a tie for the
            most is not a hit.
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
            "a confusion matrix has one row a task and one column for each of the "
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


class _Table:
    """One row an episode: what is known about it, and its curve in single numbers."""

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
        # What is broken is never read (`_lacking`); it must only not warn here.
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
        """How well a score tells one lot of episodes from another."""
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

    def ahead(self, other: _Table, positive: Bool, negative: Bool) -> Estimate:
        """How much better the mean score separates than another reward's does."""
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

        A constant curve has none. It counts as 0, for that is what it teaches.
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
                f"successes earn {earned:.3g} a step, which is not more than the "
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

        missing = "successes earn no more a step than random failures do"
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
        """How the scores go with the environment's own reward."""
        names = ("env_correlation_step", "env_correlation_episode", "scale")
        env = [Curve(c.steps, c.values.astype(np.float64)) for c in env_curves]
        # Recordings may lack it, altered ones always do. What is missing is not 0.
        known = np.array([len(c.steps) > 0 for c in env], np.bool_)
        if which.any() and not (which & known).any():
            flag = "the environment's reward is not known"
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

        Leaving out the episodes that cannot be scored would be a choice of episodes by
        their score.
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


def _spearman(curve: Curve) -> float:
    from scipy import stats

    return float(stats.spearmanr(curve.steps, curve.values).statistic)


def _pearson(curve: Curve) -> float:
    from scipy import stats

    return float(stats.pearsonr(curve.steps, curve.values).statistic)


def _check(curves: Sequence[Curve], labels: Collection[Labelled]) -> None:
    if len(curves) != len(labels):
        raise ValueError(
            f"expected one curve for each of {len(labels)} episodes, got {len(curves)}"
        )
    for i, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        if len(curve.steps) and curve.steps[-1] > label.length:
            raise ValueError(
                f"episode {i} has {label.length} steps, but its curve goes on to step "
                f"{curve.steps[-1]}"
            )
