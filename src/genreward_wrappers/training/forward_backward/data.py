"""Transitions to train on, drawn from whole trajectories.

A trajectory knows what came before and after each of its states: stacks of pictures,
    the next action, and the distance to a later state all need that.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.training.forward_backward.features import stack_before


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Transitions (s, a, s'), n of them.

    Attributes:
        state: (n, features) before the action.
        action: (n, actions), or (n,) indices if discrete, as the environment takes it.
        next_state: (n, features) after it; never the first state of another episode.
        terminated: (n,) bool, whether nothing comes after s'. A truncated episode has
            not terminated.
        next_action: The action taken at s', which the one-step variant needs. The last
            transition of a truncated episode has none and is left out; where
            `terminated` is set any action will do.
    """

    state: NDArray[Any]
    action: NDArray[Any]
    next_state: NDArray[Any]
    terminated: NDArray[Any]
    next_action: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.state)

    def take(self, rows: Any) -> Batch:
        """Some of the transitions, by index, slice or mask."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Batch(*(None if v is None else np.asarray(v)[rows] for v in values))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """One episode, in features.

    Attributes:
        states: (T + 1, features) the features of single pictures, not stacked.
        actions: (T, ...) the actions between them.
        terminated: Whether it terminated; otherwise it was truncated.
        success: (T,) whether the environment reported success; None if unknown.
        name: Its source, for messages.
    """

    states: NDArray[Any]
    actions: NDArray[Any]
    terminated: bool
    success: NDArray[Any] | None = None
    name: str = "a trajectory"

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or len(self.states) != len(self.actions) + 1:
            raise ValueError(
                f"{self.name}: {len(self.actions)} actions and states of shape "
                f"{self.states.shape}: expected one state more than actions, since "
                "each action leads to a next state"
            )
        if len(self.actions) == 0:
            raise ValueError(f"{self.name} has no transition: it is one state long")
        for what, values in (("states", self.states), ("actions", self.actions)):
            if not np.isfinite(np.asarray(values, np.float32)).all():
                raise ValueError(f"{self.name}: its {what} hold NaN or infinity")

    def __len__(self) -> int:
        """T, its transitions."""
        return len(self.actions)


class Transitions:
    """All transitions of some trajectories. Each state is stored once.

    Example:
        >>> states = np.arange(8.0).reshape(4, 2)
        >>> walk = Trajectory(states, np.zeros((3, 1)), terminated=False)
        >>> data = Transitions([walk], stack=2)
        >>> len(data), data.features
        (3, 4)
        >>> data.batch(np.array([1])).state
        array([[0., 1., 2., 3.]], dtype=float32)
    """

    def __init__(self, trajectories: Sequence[Trajectory], stack: int = 1) -> None:
        """Joins trajectories.

        Args:
            trajectories: At least one, all of the same features and actions.
            stack: How many successive states are seen together; see `Features`.

        Raises:
            ValueError: They are empty, or do not fit together.
        """
        if not trajectories:
            raise ValueError("there are no trajectories: nothing to train on")
        first = trajectories[0]
        for other in trajectories:
            ours = (first.states.shape[1], first.actions.shape[1:])
            theirs = (other.states.shape[1], other.actions.shape[1:])
            if theirs != ours:
                raise ValueError(
                    f"{other.name} has {theirs[0]} features and actions of shape "
                    f"{theirs[1]}, {first.name} has {ours[0]} and {ours[1]}"
                )
        self.trajectories = tuple(trajectories)
        self.stack = stack
        lengths = np.array([len(t) for t in trajectories])
        begins = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
        self._states = np.concatenate([t.states for t in trajectories])
        self._actions = np.concatenate([t.actions for t in trajectories])
        self._first = np.repeat(begins, lengths)
        steps = np.concatenate([np.arange(n) for n in lengths])
        self._before = self._first + steps
        last = steps == np.repeat(lengths, lengths) - 1
        ends = np.repeat([t.terminated for t in trajectories], lengths)
        self._terminated = last & ends
        #: Which transitions the one-step variant can use.
        self.continued = np.flatnonzero(~last | ends)
        # Where it terminated there is no next action, and none is looked at.
        self._next = np.where(last, np.arange(len(last)), np.arange(len(last)) + 1)

    def __len__(self) -> int:
        return len(self._actions)

    @property
    def features(self) -> int:
        """How many numbers describe a state, over the whole stack."""
        return int(self._states.shape[1]) * self.stack

    @property
    def action_count(self) -> int:
        """How many discrete actions occur, if they are indices."""
        return int(self._actions.max()) + 1

    @property
    def digest(self) -> str:
        """A hash of everything in it."""
        digest = hashlib.sha256(str(self.stack).encode())
        for array in (self._states, self._actions, self._before, self._terminated):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def usable(self, one_step: bool) -> NDArray[Any]:
        """The rows that a variant can be trained on.

        Raises:
            ValueError: There are fewer than two.
        """
        rows = self.continued if one_step else np.arange(len(self))
        if len(rows) < 2:
            raise ValueError(
                f"{len(rows)} transitions to train on"
                + (" that know the action after them" if one_step else "")
                + ": expected at least 2"
            )
        return rows

    def batch(self, rows: NDArray[Any]) -> Batch:
        """Some transitions, by index."""
        return Batch(
            state=self._stacked(self._before[rows], self._first[rows]),
            action=self._actions[rows],
            next_state=self._stacked(self._before[rows] + 1, self._first[rows]),
            terminated=self._terminated[rows],
            next_action=self._actions[self._next[rows]],
        )

    def draw(self, count: int, one_step: bool, seed: tuple[int, int]) -> Batch:
        """A batch at random: the same one for the same seed.

        Args:
            count: How many transitions.
            one_step: Whether every one needs a next action.
            seed: The seed of the run and the number of the update.
        """
        rows = self.usable(one_step)
        return self.batch(
            rows[np.random.default_rng(seed).integers(len(rows), size=count)]
        )

    def spread(self, count: int) -> Batch:
        """At most ``count`` transitions, spread evenly over all of them."""
        return self.batch(
            np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64))
        )

    def split(self, every: int) -> tuple[Transitions, Transitions | None]:
        """All but every n-th trajectory, and those; None if there are too few."""
        held = self.trajectories[every - 1 :: every]
        if not held:
            return self, None
        rest = [t for i, t in enumerate(self.trajectories) if i % every != every - 1]
        return Transitions(rest, self.stack), Transitions(held, self.stack)

    def of(self, trajectory: int) -> Batch:
        """The transitions of one trajectory, in their order."""
        lengths = [len(t) for t in self.trajectories]
        begin = sum(lengths[:trajectory])
        return self.batch(np.arange(begin, begin + lengths[trajectory]))

    def _stacked(self, rows: NDArray[Any], firsts: NDArray[Any]) -> NDArray[np.float32]:
        stacked = stack_before(self._states, rows, firsts, self.stack)
        return stacked.astype(np.float32)
