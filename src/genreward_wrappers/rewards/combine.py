"""Reward models made of reward models: sums, transforms, rhythms, and a success bonus.

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
    Float32,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.rewards.exploration import RND, Disagreement

__all__ = [
    "RND",
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

    Attributes:
        parts: Models and weights; a sum among them is taken apart.
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
            if not np.isfinite(weight):
                raise ValueError(f"the weight of {model.name!r} is {weight}")
            inside = getattr(model, "parts", ((model, 1.0),))
            flat += [(part, float(weight) * own) for part, own in inside]
        names = [model.name for model, _ in flat]
        if not flat or len(set(names)) != len(names):
            raise ValueError(
                f"a sum needs parts with names of their own, got {names}; Transformed "
                "and the bonuses take name="
            )
        self.parts = tuple(flat)
        self.name = name

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
            total += np.where(score.due, weight * score.value.astype(np.float64), 0)
            due |= score.due
        return Score(total.astype(np.float32), due), tuple(memories)

    def wants(self, steps: Int64) -> Bool:
        """What one of the parts wants."""
        wanted = np.zeros(len(steps), np.bool_)
        for model, _ in self.parts:
            wanted |= model.wants(steps)
        return wanted


class _Around(RewardModel[Any]):
    """A model around another one; alone it changes nothing."""

    def __init__(self, model: RewardModel[Any], name: str | None) -> None:
        self.model = model
        self.name = model.name if name is None else name

    def reset(self, memory: Any, frames: UInt8, mask: Bool, seeds: UInt64) -> Any:
        """Resets the model inside."""
        return self.model.reset(memory, frames, mask, seeds)

    def wants(self, steps: Int64) -> Bool:
        """What the model inside wants."""
        return self.model.wants(steps)


class Transformed(_Around):
    """Pays a function of what a model pays: `symlog`, `Clip`, `Standardise`, any other.

    The function takes the scores of the rows that are due, (n,) float32, and gives as
    many; it remembers nothing.

    Example:
        >>> from genreward_wrappers.testing import Brightness
        >>> Transformed(Brightness(), symlog, name="dim").name
        'dim'
    """

    def __init__(
        self,
        model: RewardModel[Any],
        function: Callable[[Float32], NDArray[Any]],
        name: str | None = None,
    ) -> None:
        """Wraps a model.

        Args:
            model: The model.
            function: Of its scores.
            name: None is the model's own.
        """
        super().__init__(model, name)
        self.function = function

    def step(self, memory: Any, transition: Transition) -> tuple[Score, Any]:
        """Transforms what is due."""
        (value, due), memory = self.model.step(memory, transition)
        changed = np.zeros_like(value)
        changed[due] = self.function(value[due])
        return Score(changed, due), memory


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
                `evaluate.score.score_episodes` gives them.
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


@dataclass(frozen=True, slots=True)
class RunningMemory:
    """The model's own memory, and the scores of all rows so far in three numbers."""

    own: Any
    count: int
    mean: float
    squares: float


class RunningNormalised(_Around):
    """Divides scores by their standard deviation so far; also centres them if asked.

    The statistics are of all scores of the session, over all environments and
    episodes: **the score of a row depends on what runs beside it**, and the same frame
    earns another score later. An agent that learns from old transitions (a replay
    buffer) learns from old scales, too. `Standardise` has neither fault.
    """

    def __init__(
        self, model: RewardModel[Any], centre: bool = False, name: str | None = None
    ) -> None:
        """Wraps a model.

        Args:
            model: The model.
            centre: Whether to subtract the mean.
            name: None is the model's own.
        """
        super().__init__(model, name)
        self._centre = centre

    def reset(
        self, memory: RunningMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> RunningMemory:
        """Resets the model; the statistics go on."""
        if memory is None:
            return RunningMemory(self.model.reset(None, frames, mask, seeds), 0, 0, 0)
        own = self.model.reset(memory.own, frames, mask, seeds)
        return RunningMemory(own, memory.count, memory.mean, memory.squares)

    def step(
        self, memory: RunningMemory, transition: Transition
    ) -> tuple[Score, RunningMemory]:
        """Counts the new scores, then normalises them."""
        (value, due), own = self.model.step(memory.own, transition)
        count, mean, squares = memory.count, memory.mean, memory.squares
        # An inactive row's score is not one, whatever the model says.
        due = due & transition.active
        for score in value[due].astype(np.float64):
            count += 1
            shift = score - mean
            mean += shift / count
            squares += shift * (score - mean)
        std = np.sqrt(squares / max(count, 1))
        # Of the first score, or of scores all alike, there is no scale.
        scaled = (value - (mean if self._centre else 0)) / (std if std > 1e-8 else 1)
        paid = Score(np.where(due, scaled, 0).astype(np.float32), due)
        return paid, RunningMemory(own, count, float(mean), float(squares))


@dataclass(frozen=True, slots=True)
class DifferenceMemory:
    """The model's own memory, and the score before, where there was one."""

    own: Any
    value: Float32
    valued: Bool


class Difference(_Around):
    """Pays discount * new - old: a potential that does not pay for staying.

    The first score of an episode has no old one, and nothing is due. The potential is
    not set to zero at the end of an episode.
    """

    def __init__(
        self, model: RewardModel[Any], discount: float = 0.99, name: str | None = None
    ) -> None:
        """Wraps a model.

        Args:
            model: Its score is the potential.
            discount: The agent's own.
            name: None is the model's own.
        """
        super().__init__(model, name)
        if not 0 <= discount <= 1:
            raise ValueError(f"discount={discount}: expected from 0 to 1")
        self._discount = np.float32(discount)

    def reset(
        self, memory: DifferenceMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> DifferenceMemory:
        """Forgets the score before, in the rows that begin."""
        if memory is None:
            own = self.model.reset(None, frames, mask, seeds)
            none = np.zeros(len(mask), np.bool_)
            return DifferenceMemory(own, np.zeros(len(mask), np.float32), none)
        own = self.model.reset(memory.own, frames, mask, seeds)
        return DifferenceMemory(own, memory.value, memory.valued & ~mask)

    def step(
        self, memory: DifferenceMemory, transition: Transition
    ) -> tuple[Score, DifferenceMemory]:
        """Pays where there is a new score and an old one."""
        (value, new), own = self.model.step(memory.own, transition)
        new = new & transition.active
        due = new & memory.valued
        paid = np.where(due, self._discount * value - memory.value, np.float32(0))
        return Score(paid.astype(np.float32), due), DifferenceMemory(
            own, np.where(new, value, memory.value), memory.valued | new
        )


@dataclass(frozen=True, slots=True)
class EveryMemory:
    """The model's own memory, and the frames that it looked at last."""

    own: Any
    frames: UInt8


class EveryK(_Around):
    """Asks a model at every k-th step only, for the k steps as if they were one.

    What a model sees is the frame of k steps ago, the newest one, and the last of the
    actions between them; frames between are not rendered. An episode that ends within
    a stretch ends unseen: models that pay on the last step want k = 1.
    """

    def __init__(
        self, model: RewardModel[Any], k: int, name: str | None = None
    ) -> None:
        """Wraps a model.

        Args:
            model: The model.
            k: Steps from one score to the next.
            name: None is the model's own.
        """
        super().__init__(model, name)
        if k < 1:
            raise ValueError(f"k={k}: expected at least 1")
        self._k = k

    def reset(
        self, memory: EveryMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> EveryMemory:
        """Resets the model, and notes the first frames."""
        if memory is None:
            return EveryMemory(
                self.model.reset(None, frames, mask, seeds), np.array(frames)
            )
        own = self.model.reset(memory.own, frames, mask, seeds)
        seen = np.where(mask[:, None, None, None], frames, memory.frames)
        return EveryMemory(own, seen)

    def step(
        self, memory: EveryMemory, transition: Transition
    ) -> tuple[Score, EveryMemory]:
        """Scores the rows whose k-th step this is."""
        now = transition.active & (transition.steps % self._k == 0)
        if not now.any():
            return Score(np.zeros(len(now), np.float32), now), memory
        stretch = Transition(
            frames=memory.frames,
            actions=transition.actions,
            next_frames=transition.next_frames,
            terminated=transition.terminated,
            truncated=transition.truncated,
            active=now,
            steps=transition.steps // self._k,
        )
        (value, due), own = self.model.step(memory.own, stretch)
        due = due & now
        seen = np.where(now[:, None, None, None], stretch.next_frames, memory.frames)
        return Score(np.where(due, value, np.float32(0)), due), EveryMemory(own, seen)

    def wants(self, steps: Int64) -> Bool:
        """What the model wants of the steps at which it is asked."""
        wanted: Bool = self.model.wants(steps // self._k) & (steps % self._k == 0)
        return wanted


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
