"""The reward model ``ray:<name>``: asks the reward that `genreward serve` serves.

It holds no weights. What a model remembers of an episode stays here, in the session of
whoever uses it, and travels with each request, so that replicas are interchangeable and
a request can be asked twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from genreward_wrappers.core import (
    Bool,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.rewards.combine import WeightedSum
from genreward_wrappers.rewards.served.connection import Connection
from genreward_wrappers.rewards.served.scorer import (
    Card,
    PartCard,
    Reply,
    Reset,
    Step,
)

#: Steps whose wanted frames are asked for at a time.
AHEAD = 1024


@dataclass(frozen=True, slots=True)
class ServedMemory:
    """What a served model remembers of N rows, and what it notes of their episodes."""

    own: Any
    notes: dict[str, NDArray[Any]]


class ServedModel(RewardModel[ServedMemory]):
    """One part of a served reward."""

    def __init__(self, connection: Connection, card: PartCard) -> None:
        """Binds the part.

        Args:
            connection: Where it is asked.
            card: What it is.
        """
        self.name, self.stretch = card.name, card.stretch
        self.sees_states = card.sees_states
        self._connection, self._identity = connection, card.identity
        self._about = card.about
        self._wanted = np.zeros(0, np.bool_)

    @property
    def about(self) -> str:
        """What the model that is asked says of itself."""
        return self._about

    @property
    def identity(self) -> str:
        """That of the model that is asked."""
        return f"served {self._identity}"

    def wants(self, steps: Int64) -> Bool:
        """What the model wants, asked for many steps at a time."""
        last = int(steps.max(initial=0))
        if last >= len(self._wanted):
            coming = np.arange(last + AHEAD)
            self._wanted = self._connection.ask("wants", self._identity, coming)
        wanted: Bool = self._wanted[steps]
        return wanted

    def reset(
        self, memory: ServedMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> ServedMemory:
        """Begins the episodes of the rows in ``mask``."""
        own = None if memory is None else memory.own
        request = Reset(self._identity, own, frames, mask, seeds)
        return _replied(self._connection.ask("reset", request))[1]

    def step(
        self, memory: ServedMemory, transition: Transition
    ) -> tuple[Score, ServedMemory]:
        """Has one transition of every row scored."""
        request = Step(self._identity, memory.own, transition)
        score, memory = _replied(self._connection.ask("step", request))
        assert score is not None
        return score, memory

    def notes(self, memory: ServedMemory) -> dict[str, NDArray[Any]]:
        """What came with the last reply."""
        return memory.notes


def served(
    variant: str,
    *,
    address: str = "auto",
    timeout: float = 60.0,
    horizon: int | None = None,
    action_space: spaces.Space[Any] | None = None,
    every: int = 1,
) -> RewardModel[Any]:
    """The reward that is served under a name, in place of a local one.

    Args:
        variant: The name, as ``genreward serve --name`` says it.
        address: Of the Ray cluster, for a process that is in none; "auto" finds the one
            that runs on this machine.
        timeout: Seconds to wait for an answer.
        horizon: Steps of an episode; what is served has to be for as many.
        action_space: The environment's; what is served has to be for such actions.
        every: An option of the reward that is served, and none of this one.

    Raises:
        ConnectionError: There is no such cluster, or nothing is served by this name.
        TimeoutError: It did not answer in time.
        ValueError: What is served does not fit the environment.
    """
    if every != 1:
        raise ValueError(
            f"every={every}: it is said where the reward is served, as in "
            f"--reward video:every={every}"
        )
    connection = Connection(variant, address, timeout)
    card: Card = connection.ask("card")
    _check(variant, card, horizon, action_space)
    parts = [(ServedModel(connection, part), part.weight) for part in card.parts]
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    return WeightedSum(parts)


def _check(
    name: str,
    card: Card,
    horizon: int | None,
    action_space: spaces.Space[Any] | None,
) -> None:
    """Raises `ValueError` if a served reward is for other environments."""
    if None not in (card.horizon, horizon) and card.horizon != horizon:
        raise ValueError(
            f"the served reward {name!r} is for episodes of {card.horizon} steps, and "
            f"these have {horizon}: serve one for them, with --env or --horizon"
        )
    theirs = card.action_space
    if theirs is None or action_space is None:
        return
    if (type(theirs), theirs.shape) != (type(action_space), action_space.shape):
        raise ValueError(
            f"the served reward {name!r} is for actions in {theirs}, and these are in "
            f"{action_space}"
        )


def _replied(reply: Reply) -> tuple[Score | None, ServedMemory]:
    if reply.error is not None:
        raise reply.error
    return reply.score, ServedMemory(reply.memory, dict(reply.notes))
