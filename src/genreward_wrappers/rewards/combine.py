"""Sums of reward models, functions for `Transformed`, and a success bonus.

They nest: ``WeightedSum([(Transformed(Viper(...), Clip(-5, 5)), 1.0), (RND(), 0.1)])``
is a reward model like any other. In the wrappers a sum is taken apart: each of its
parts is a component of its own, ``info["reward_<name>"]``.

`RunningNormalised` and the bonuses of `exploration` share what they learn between the
rows of a session, so there the score of a row depends on what runs beside it. With all
others it does not, provided that it does not with the models inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import (
    Bool,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
    check_model,
)
from genreward_wrappers.rewards.decorators import (
    Around,
    Difference,
    EveryK,
    RunningNormalised,
    Transformed,
)
from genreward_wrappers.rewards.exploration import RND, Disagreement

__all__ = [
    "RND",
    "Around",
    "Clip",
    "Difference",
    "Disagreement",
    "EveryK",
    "RunningNormalised",
    "Standardise",
    "SuccessBonus",
    "Transformed",
    "WeightedSum",
    "symlog",
    "terminated",
]


class WeightedSum(RewardModel[tuple[Any, ...]]):
    """Pays the weighted sum of what its parts pay; it is due where one of them is.

    A sum among its parts is taken apart, and a part of weight 0 adds nothing, not even
    its NaN.
    """

    def __init__(
        self, parts: Sequence[tuple[RewardModel[Any], float]], name: str = "sum"
    ) -> None:
        """Adds models up.

        Args:
            parts: Models, whose names must differ, and their weights.
            name: The name of the sum.
        """
        flat: list[tuple[RewardModel[Any], float]] = []
        for model, weight in parts:
            check_model(model)
            if not np.isfinite(weight):
                raise ValueError(f"the weight of {model.name!r} is {weight}")
            flat += [(part, float(weight) * own) for part, own in model.parts]
        names = [model.name for model, _ in flat]
        if not flat or len(set(names)) != len(names):
            raise ValueError(
                f"a sum needs parts with names of their own, got {names}; Transformed "
                "and the bonuses take name="
            )
        self._parts, self.name = tuple(flat), name
        models = [model for model, _ in flat]
        self.sees_states = any(model.sees_states for model in models)
        self.goal = next((m.goal for m in models if m.goal is not None), None)
        self.stretch = next((m.stretch for m in models if m.stretch is not None), None)

    @property
    def parts(self) -> Sequence[tuple[RewardModel[Any], float]]:
        """The models and their weights."""
        return self._parts

    @property
    def identity(self) -> str:
        """Those of the parts."""
        return f"sum of {[model.identity for model, _ in self.parts]}"

    def reset(
        self, memory: tuple[Any, ...] | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> tuple[Any, ...]:
        """Resets every part."""
        old = memory or (None,) * len(self.parts)
        return tuple(
            model.reset(own, frames, mask, seeds)
            for (model, _), own in zip(self.parts, old, strict=True)
        )

    def step(
        self, memory: tuple[Any, ...], transition: Transition
    ) -> tuple[Score, tuple[Any, ...]]:
        """Scores with every part."""
        total = np.zeros(len(transition.active), np.float64)
        due = np.zeros(len(transition.active), np.bool_)
        memories = []
        for (model, weight), own in zip(self.parts, memory, strict=True):
            score, new = model.step(own, transition)
            memories.append(new)
            if weight:
                paid = weight * score.value.astype(np.float64)
                total += np.where(score.due, paid, 0)
            due |= score.due
        return Score(total.astype(np.float32), due), tuple(memories)

    def wants(self, steps: Int64) -> Bool:
        """What one of the parts wants."""
        wanted = np.zeros(len(steps), np.bool_)
        for model, _ in self.parts:
            wanted |= model.wants(steps)
        return wanted

    def notes(self, memory: tuple[Any, ...]) -> dict[str, NDArray[Any]]:
        """What the parts note."""
        found: dict[str, NDArray[Any]] = {}
        for (model, _), own in zip(self.parts, memory, strict=True):
            found.update(model.notes(own))
        return found


def symlog(values: NDArray[Any]) -> NDArray[Any]:
    """sign(x) log(1 + abs(x)): as x near 0, and flat far from it.

    >>> symlog(np.array([-1.0, 0.0, 1.0])).round(2).tolist()
    [-0.69, 0.0, 0.69]
    """
    flattened: NDArray[Any] = np.sign(values) * np.log1p(np.abs(values))
    return flattened


@dataclass(frozen=True)
class Clip:
    """Cuts scores off at two bounds."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"cannot clip from {self.low} to {self.high}")

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """The scores, cut off."""
        cut: NDArray[Any] = np.clip(values, self.low, self.high)
        return cut


@dataclass(frozen=True)
class Standardise:
    """Subtracts a mean and divides by a standard deviation, both known beforehand."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"cannot standardise by mean {self.mean} and standard deviation "
                f"{self.std}: the reference scores are all alike, or not finite"
            )

    @classmethod
    def of(cls, scores: Sequence[NDArray[Any]]) -> Standardise:
        """By a reference set: what a model pays in some episodes.

        Args:
            scores: (T,) of each episode, NaN where nothing was due, as
                `relabel.fold.score_episodes` gives them.
        """
        every = np.concatenate([np.asarray(s, np.float64) for s in scores])
        due = every[~np.isnan(every)]
        if len(due) < 2:
            raise ValueError(f"a reference set needs at least 2 scores, got {len(due)}")
        return cls(float(due.mean()), float(due.std()))

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """The scores, standardised."""
        scaled: NDArray[Any] = (values - self.mean) / self.std
        return scaled


def terminated(transition: Transition) -> Bool:
    """(N,) the rows whose episode ended in itself."""
    return transition.terminated


class SuccessBonus(RewardModel[None]):
    """Pays an amount at steps that are a success, and 0 at all others.

    A reward model sees frames, actions and ends, and no info: whether a step is a
    success is a function of these. `terminated` is right where an environment ends its
    episodes on success **and on nothing else**; where success stands in the info alone,
    take the environment's own sparse reward instead (``env_weight`` of the wrappers).
    """

    def __init__(
        self,
        amount: float,
        when: Callable[[Transition], Bool] = terminated,
        name: str = "success",
    ) -> None:
        """Makes a bonus.

        Args:
            amount: What a success is worth.
            when: (N,) which rows succeed at a step.
            name: Its name in info.
        """
        self.name = name
        self._amount, self._when = np.float32(amount), when

    def reset(self, memory: None, frames: UInt8, mask: Bool, seeds: UInt64) -> None:
        """Nothing to remember."""
        return None

    def step(self, memory: None, transition: Transition) -> tuple[Score, None]:
        """Pays the successes."""
        won = np.asarray(self._when(transition), np.bool_) & transition.active
        return Score(
            np.where(won, self._amount, np.float32(0)), transition.active
        ), None
