"""A verdict in plain words from the figures of `metrics.measure`.

The numbers below are rules of thumb, not statistics: they say where to look before
spending hours on a learning run, and every finding quotes its figure so that a reader
can disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from genreward_wrappers.evaluate.judge.bootstrap import Estimate

Level = Literal["good", "weak", "misleading", "dead"]

#: What tossing a coin gets.
CHANCE = 0.5
#: One failure in five above a success is more than a learner's noise. Every reward that
#: taught was above it, and so were some that did not: it is a sieve.
LOW_AUC = 0.8
#: An interval wider than this holds both a useful reward and a poor one.
WIDE = 0.2
#: The mean correlation with time of random walks, over some dozens of episodes.
FLAT_VOC = 0.1
#: A score that rises backwards at least half as steadily as forwards follows the clock.
CLOCK = 0.5
#: An optimiser settles for easy pay if that is nine tenths of all the pay there is.
HOVER = 0.9
#: ... and the figure must not be chance: its interval has to stay above half of the
#: pay.
HOVER_LOW = 0.5
#: Easy pay above this is worth a remark: it slows learning down before it stops it.
EASY = 0.5
#: A control this close to 1 leaves no room to be better.
MARGIN = 0.02
#: With fewer successes or failures than this an AUC of 1 is no surprise.
FEW = 5

#: The figures by which a reward and its controls are compared, and their names.
COMPARED: dict[str, str] = {
    "auc_mean": "AUC",
    "near_auc_mean": "AUC against near-misses",
    "shifted_auc": "AUC with the camera shifted",
    "brightness_auc": "AUC with the brightness changed",
}

#: Pay for not doing the task: the figure, who earns it, and what to do about it.
EASY_PAY: dict[str, tuple[str, str]] = {
    "static_place": (
        "standing still",
        "Score the change since the first frame, which is nothing where nothing moves",
    ),
    "hover_share": (
        "stopping half-way",
        "Pay on until the task is done: align the score in time with the goal video",
    ),
    "near_share": (
        "near-misses",
        "The object hardly counts: bring the camera closer, or use an encoder that "
        "sees it",
    ),
}

SIEVE = (
    "AUC is a sieve and not a proof: an optimiser may still farm a reward that "
    "separates recorded episodes. Let one try: genreward evaluate --learn"
)


@dataclass(frozen=True)
class Verdict:
    """What to think of a reward before training on it.

    Attributes:
        level: ``dead`` says nothing, ``misleading`` pays for the wrong thing, ``weak``
            says little that a control does not, ``good`` passed the sieve.
        headline: The reason, in one sentence.
        findings: One or two sentences each: figures, and what to do about them.
    """

    level: Level
    headline: str
    findings: list[str]


def verdict(
    metrics: Mapping[str, Estimate],
    controls: Mapping[str, Mapping[str, Estimate]] | None = None,
    base: Mapping[str, Estimate] | None = None,
) -> Verdict:
    """Judges a reward by its figures and by what simpler rewards get.

    Rules of thumb, in this order. ``dead``: the score is constant, or chance cannot be
    ruled out (AUC) and it does not rise along a success either. ``misleading``: it
    prefers failures, or pays nearly in full for standing still, for stopping half-way
    or for near-misses. ``weak``: AUC low, uncertain or unknown, or no better than a
    control. ``good`` otherwise.

    Args:
        metrics: The figures of the reward, from `metrics.measure`.
        controls: How much higher the reward's AUCs are than those of simpler rewards
            (pooled pixels, a random encoder) on the same episodes, by their names; from
            `metrics.differences`.
        base: How much higher they are than those of the environment's own reward, where
            that is a part of the sum. A sum is judged for what it adds: equal is not
            enough.
    """
    compared = [
        _compare(metrics, name, control) for name, control in (controls or {}).items()
    ]
    reasons = [c.weak for c in compared if c.weak]
    if base is not None:
        compared.append(_compare(metrics, "the environment's own reward", base))
        if not compared[-1].beats:
            reasons.append(
                "nothing shows that it adds to the environment's own reward, which is "
                "a part of it"
            )
    level, headline = _judge(metrics, reasons)
    dead = _get(metrics, "spread")
    told: list[str] = []
    if dead.value == 0:
        # Everything else follows from this.
        told.append(
            f"Every score is the same (spread {dead}, {dead.n} episodes). "
            "Check that the frames reach the reward and change, and that the goal "
            "is the right one."
        )
    else:
        told += [*_separation(metrics), *_slope(metrics), *_robustness(metrics)]
    findings = [
        *told,
        *_easy_pay(metrics),
        *(c.finding for c in compared),
        *_environment(metrics),
        *_undefined(metrics),
        SIEVE,
    ]
    return Verdict(level, headline, findings)


def _judge(metrics: Mapping[str, Estimate], beaten: list[str]) -> tuple[Level, str]:
    spread, auc = _get(metrics, "spread"), _get(metrics, "auc_mean")
    if spread.value == 0:
        return "dead", "the score is the same everywhere: it says nothing"
    if auc.value is None:
        return "weak", f"it cannot be judged: AUC is undefined ({auc.flag})"
    low, high = _ends(auc)
    if low <= CHANCE <= high and _no_slope(metrics):
        return "dead", (
            f"noise: AUC {auc} cannot be told from chance, and the score does "
            f"not rise along a success (VOC {_get(metrics, 'voc_spearman')})"
        )
    if high < CHANCE:
        return "misleading", f"it pays failures more than successes: AUC {auc}"
    farmed = [
        f"{who} earn{'' if who.endswith('es') else 's'} {metrics[name].value:.0%}"
        for name, (who, _) in EASY_PAY.items()
        if _hovers(_get(metrics, name))
    ]
    if farmed:
        return "misleading", (
            f"it pays for not doing the task: {', '.join(farmed)} of what successes "
            "earn beyond random failures"
        )
    reasons = list(_weaknesses(metrics, auc)) + beaten
    if reasons:
        return "weak", "; ".join(reasons)
    return "good", f"it passed the sieve: AUC {auc}"


def _weaknesses(metrics: Mapping[str, Estimate], auc: Estimate) -> Iterator[str]:
    assert auc.value is not None
    if auc.value < LOW_AUC:
        yield f"AUC {auc} is low"
    elif auc.low is None or auc.high is None:
        yield f"AUC {auc} has no interval"
    elif auc.high - auc.low > WIDE:
        yield f"AUC {auc} is uncertain: record more episodes"
    rate = _get(metrics, "base_rate")
    if rate.value is not None:
        done = round(rate.value * rate.n)
        rarer, what = min((done, "successes"), (rate.n - done, "failures"))
        if rarer < FEW:
            yield f"only {rarer} {what} to judge by: record more episodes"


@dataclass(frozen=True)
class _Comparison:
    finding: str
    weak: str = ""
    beats: bool = False


def _compare(
    metrics: Mapping[str, Estimate], name: str, ahead: Mapping[str, Estimate]
) -> _Comparison:
    """Wins where the interval of the difference is above 0, and losses below."""
    pairs = [
        (words, mine.value, difference)
        for key, words in COMPARED.items()
        if (mine := _get(metrics, key)).value is not None
        and (difference := _get(ahead, key)).value is not None
    ]
    if not pairs:
        return _Comparison(f"Not compared with {name}: no AUC that both have.")
    figures = ", ".join(
        f"{words} {mine:.2f}, ahead by {difference}"
        for words, mine, difference in pairs
    )
    wins = sum((d.low or 0) > 0 for _, _, d in pairs)
    losses = sum((d.high or 0) < 0 for _, _, d in pairs)
    if wins and not losses:
        return _Comparison(f"Beats {name}: {figures}.", beats=True)
    if losses == 0 and all(a - (d.value or 0) >= 1 - MARGIN for _, a, d in pairs):
        return _Comparison(
            f"As good as {name}, which leaves no room on these episodes: {figures}. "
            "Only harder episodes can tell them apart."
        )
    return _Comparison(
        f"Does not beat {name}: {figures}. "
        + (
            "It wins in some and loses in others."
            if wins
            else "The simpler reward does as well; what this one adds has to show "
            "somewhere else."
        ),
        f"it does not beat {name}",
    )


def _separation(metrics: Mapping[str, Estimate]) -> Iterator[str]:
    auc = _get(metrics, "auc_mean")
    if auc.value is not None:
        low, high = _ends(auc)
        if high < CHANCE:
            said = "failures score higher than successes. Look for a flipped sign"
        elif low <= CHANCE:
            said = "chance cannot be ruled out. Try another similarity or goal"
        elif auc.value < LOW_AUC:
            said = "many failures score above successes. Try more goals"
        else:
            said = "successes score higher than failures"
        yield f"AUC {auc}, {auc.n} episodes: {said}.{_note(auc)}"
    near = _get(metrics, "near_auc_mean")
    if near.value is not None:
        said = (
            "cannot be relied on to tell a near-miss from a success; a policy that "
            "does everything but the task may look fine"
            if near.value < LOW_AUC
            else "tells near-misses from successes"
        )
        yield f"AUC against near-misses {near}: {said}.{_note(near)}"
    backwards = _get(metrics, "reversed_auc")
    # Progress has the same mean both ways; a score that falls backwards sees the order.
    falls = (_get(metrics, "voc_reversed").value or 0) < -FLAT_VOC
    if backwards.value is not None and backwards.value < LOW_AUC and not falls:
        yield (
            f"AUC against successes played backwards {backwards}: the order "
            f"of events hardly counts. Use a similarity that knows time."
            f"{_note(backwards)}"
        )


def _slope(metrics: Mapping[str, Estimate]) -> Iterator[str]:
    voc, backwards = _get(metrics, "voc_spearman"), _get(metrics, "voc_reversed")
    if voc.value is None:
        return
    low = _get(metrics, "auc_mean").low
    if voc.value <= -FLAT_VOC and low is not None and low > CHANCE:
        said = (
            "the score falls along a success, and successes score higher all the same: "
            "it pays for keeping up with a goal and is at its best where the two set "
            "out together. It is no measure of progress"
        )
    elif voc.value <= -FLAT_VOC:
        said = "the score falls along a success. Look for a flipped sign"
    elif _no_slope(metrics):
        said = (
            "no slope along a success. Fine for a reward that pays for keeping up with "
            "a goal at every step; a reward that pays for progress needs one"
        )
    else:
        said = "the score rises along a success"
    yield f"VOC {voc}: {said}.{_note(voc)}"
    if (
        backwards.value is not None
        and not _no_slope(metrics)
        and voc.value > 0
        and backwards.value >= CLOCK * voc.value
    ):
        yield (
            f"VOC on successes played backwards {backwards}: it rises there, "
            "too, and so may follow the clock and not the task. Compare with an agent "
            "that stands still."
        )


def _easy_pay(metrics: Mapping[str, Estimate]) -> Iterator[str]:
    share = _get(metrics, "static_share")
    for name, (who, cure) in EASY_PAY.items():
        place = _get(metrics, name)
        also = ""
        if name == "static_place" and share.value is not None:
            also = f"; in absolute terms {share.value:.0%} of a success's pay"
        if place.value is None:
            # The place is listed among the undefined figures; what standing still earns
            # is said in any case.
            if also:
                yield f"Pay for standing still: {share.value:.0%} of a success's."
            continue
        advice = f" {cure}." if place.value >= EASY else ""
        yield (
            f"Pay for {who}: {place} on a scale from random failures (0) to "
            f"successes (1){also}.{advice}{_note(place)}"
        )


def _robustness(metrics: Mapping[str, Estimate]) -> Iterator[str]:
    for name in ("shifted_auc", "brightness_auc"):
        auc = _get(metrics, name)
        if auc.value is None:
            continue
        said = (
            "does not survive the change. Train and evaluate with goals of the same "
            "look, or use an encoder that forgives it"
            if auc.value < LOW_AUC
            else "survives the change"
        )
        yield f"{COMPARED[name]} {auc}: {said}.{_note(auc)}"


def _environment(metrics: Mapping[str, Estimate]) -> Iterator[str]:
    step, scale = _get(metrics, "env_correlation_step"), _get(metrics, "scale")
    if step.value is not None:
        yield f"Correlation with the environment's own reward {step} per step."
    if scale.value:
        yield (
            f"Varies {scale.value:.3g} times as much as the environment's own reward: "
            f"a weight of {1 / scale.value:.3g} brings it to the same scale."
        )


def _undefined(metrics: Mapping[str, Estimate]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for name, estimate in metrics.items():
        if estimate.value is None:
            reasons.setdefault(estimate.flag, []).append(name)
    for reason, names in reasons.items():
        yield f"Undefined: {', '.join(names)} ({reason})."


def _no_slope(metrics: Mapping[str, Estimate]) -> bool:
    """Whether there is a correlation with time, and it is flat."""
    voc = _get(metrics, "voc_spearman")
    if voc.value is None:
        return False
    low, high = _ends(voc)
    return abs(voc.value) < FLAT_VOC or low <= 0 <= high


def _hovers(place: Estimate) -> bool:
    return (
        place.value is not None and place.value >= HOVER and _ends(place)[0] > HOVER_LOW
    )


def _get(metrics: Mapping[str, Estimate], name: str) -> Estimate:
    return metrics.get(name, Estimate(None, None, None, 0, "not measured"))


def _ends(estimate: Estimate) -> tuple[float, float]:
    """The ends of the interval; the value itself where there is no interval."""
    assert estimate.value is not None
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    return low, high


def _note(estimate: Estimate) -> str:
    return f" Note: {estimate.flag}." if estimate.flag else ""
