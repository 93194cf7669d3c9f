"""Reward models around reward models: transforms, running scales, rhythms.

They nest, and what a decorator does not change it passes on: what the model inside
wants, notes and sees, its goal and its horizon.

`RunningNormalised` shares what it learns between the rows of a session, so there the
score of a row depends on what runs beside it. With all others it does not, provided
that it does not with the models inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import at_least, share
from genreward_wrappers.core import (
    Bool,
    Float32,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
    check_model,
)


class Around(RewardModel[Any]):
    """A model around another one, which passes on all that it does not change.

    A subclass whose memory holds more than that of the model inside keeps the latter in
    a field ``own``, and says so with ``wraps_memory``.
    """

    wraps_memory = False

    def __init__(self, model: RewardModel[Any], name: str | None) -> None:
        check_model(model)
        self.model = model
        self.name = model.name if name is None else name
        self.sees_states, self.goal = model.sees_states, model.goal
        self.stretch = model.stretch

    @property
    def about(self) -> str:
        """Of both."""
        return f"{type(self).__name__} of {self.model.about}"

    @property
    def identity(self) -> str:
        """Of both."""
        return f"{type(self).__qualname__} {self.name} of {self.model.identity}"

    def reset(self, memory: Any, frames: UInt8, mask: Bool, seeds: UInt64) -> Any:
        """Resets the model inside."""
        return self.model.reset(memory, frames, mask, seeds)

    def step(self, memory: Any, transition: Transition) -> tuple[Score, Any]:
        """Scores with the model inside."""
        return self.model.step(memory, transition)

    def wants(self, steps: Int64) -> Bool:
        """What the model inside wants."""
        return self.model.wants(steps)

    def notes(self, memory: Any) -> dict[str, NDArray[Any]]:
        """What the model inside notes."""
        return self.model.notes(memory.own if self.wraps_memory else memory)


class Transformed(Around):
    """Pays a function of what a model pays: `symlog`, `Clip`, `Standardise`, any other.

    The function takes the scores of the rows that are due, (n,) float32, and gives as
    many; it remembers nothing.

    Example:
        >>> from genreward_wrappers.rewards.combine import symlog
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
            function: A function of its scores.
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


@dataclass(frozen=True, slots=True)
class RunningMemory:
    """The model's own memory, and the scores of all rows so far in three numbers."""

    own: Any
    count: int
    mean: float
    squares: float


class RunningNormalised(Around):
    """Divides scores by their standard deviation so far; also centres them if asked.

    The statistics are of all scores of the session, over all environments and
    episodes: **the score of a row depends on what runs beside it**, and the same frame
    earns another score later. An agent that learns from old transitions (a replay
    buffer) learns from old scales, too. `Standardise` has neither fault.
    """

    wraps_memory = True

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


class Difference(Around):
    """Pays discount * new - old: a potential that does not pay for staying.

    The first score of an episode has no old one, and nothing is due. The potential is
    not set to zero at the end of an episode.
    """

    wraps_memory = True

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
        share("discount", discount)
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
    """The model's own memory, and what it looked at last."""

    own: Any
    frames: UInt8
    states: Float32 | None


class EveryK(Around):
    """Asks a model at every k-th step only, for the k steps as if they were one.

    What a model sees is the frame of k steps ago, the newest one, and the last of the
    actions between them; frames between are not rendered. An episode that ends within
    a stretch ends unseen: models that pay on the last step want k = 1.
    """

    wraps_memory = True

    def __init__(
        self, model: RewardModel[Any], k: int, name: str | None = None
    ) -> None:
        """Wraps a model.

        Args:
            model: The model. One that stretches its goal over the episode has to be
                made with a k-th of the episode's steps as its horizon.
            k: Steps from one score to the next.
            name: None is the model's own.
        """
        super().__init__(model, name)
        at_least(1, k=k)
        self._k = k
        if model.stretch is not None:
            self.stretch = model.stretch * k

    @property
    def identity(self) -> str:
        """Of the model and its rhythm."""
        return f"{super().identity} every {self._k}"

    def reset(
        self, memory: EveryMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> EveryMemory:
        """Resets the model, and notes the first frames."""
        if memory is None:
            own = self.model.reset(None, frames, mask, seeds)
            return EveryMemory(own, np.array(frames), None)
        own = self.model.reset(memory.own, frames, mask, seeds)
        seen = np.where(mask[:, None, None, None], frames, memory.frames)
        return EveryMemory(own, seen, memory.states)

    def step(
        self, memory: EveryMemory, transition: Transition
    ) -> tuple[Score, EveryMemory]:
        """Scores the rows whose k-th step this is."""
        states = memory.states
        if transition.states is not None:
            # Those before the first action of a stretch stay until its last one.
            first = transition.active & ((transition.steps - 1) % self._k == 0)
            before = transition.states if states is None else states
            states = np.where(first[:, None], transition.states, before)
        now = transition.active & (transition.steps % self._k == 0)
        if not now.any():
            silent = Score(np.zeros(len(now), np.float32), now)
            return silent, replace(memory, states=states)
        stretch = replace(
            transition,
            frames=memory.frames,
            active=now,
            steps=transition.steps // self._k,
            states=states,
        )
        (value, due), own = self.model.step(memory.own, stretch)
        due = due & now
        seen = np.where(now[:, None, None, None], stretch.next_frames, memory.frames)
        paid = Score(np.where(due, value, np.float32(0)), due)
        return paid, EveryMemory(own, seen, states)

    def wants(self, steps: Int64) -> Bool:
        """What the model wants of the steps at which it is asked."""
        wanted: Bool = self.model.wants(steps // self._k) & (steps % self._k == 0)
        return wanted
