"""What a replica does: scores the requests of many clients in as few passes as it can.

It knows nothing of Ray. It remembers nothing either: what a model remembers of an
episode travels with each request and comes back with the reply, so that any replica can
answer, and a client can ask again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from genreward_wrappers.core import Bool, Int64, Score, Transition, UInt8, UInt64
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.rewards.facts import Facts, Part
from genreward_wrappers.rewards.served.rows import cut, join
from genreward_wrappers.rewards.spec import RewardSpec


@dataclass(frozen=True, slots=True)
class PartCard:
    """What clients have to know of a part of the reward.

    Attributes:
        name: The model's name.
        identity: The model's identity, which every request names.
        about: The model's description of itself.
        weight: In the reward that is served.
        sees_states: Whether it looks at states.
        stretch: Steps of an episode that its goal is stretched over.
    """

    name: str
    identity: str
    about: str
    weight: float
    sees_states: bool
    stretch: int | None


@dataclass(frozen=True, slots=True)
class Card:
    """What clients have to know of a served reward.

    Attributes:
        parts: Its parts.
        horizon: Steps of the episodes that it is for, if it depends on them.
        action_space: Of the environments that it is for; None if nobody said.
    """

    parts: tuple[PartCard, ...]
    horizon: int | None
    action_space: spaces.Space[Any] | None


@dataclass(frozen=True, slots=True)
class Reset:
    """A request to begin the episodes of some rows; see `RewardModel.reset`."""

    identity: str
    memory: Any
    frames: UInt8
    mask: Bool
    seeds: UInt64


@dataclass(frozen=True, slots=True)
class Step:
    """A request to score a transition; see `RewardModel.step`."""

    identity: str
    memory: Any
    transition: Transition


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes of a request.

    Attributes:
        score: Of a step.
        memory: To send with the next request.
        notes: (N,) numbers about the running episodes.
        error: Why there is none of these.
    """

    score: Score | None = None
    memory: Any = None
    notes: Any = None
    error: Exception | None = None


class Scorer:
    """Models built from a spec, and the requests that they answer."""

    def __init__(self, spec: RewardSpec, facts: Facts) -> None:
        """Builds the models.

        Args:
            spec: The reward.
            facts: What is known of the environments that it is for.

        Raises:
            ValueError: It does not fit, or pays the environment's own reward as well.
        """
        built = spec.build(facts)
        if built.env_weight:
            raise ValueError(
                f"the served reward gives the environment's own a weight of "
                f"{built.env_weight}: give env_weight= to the wrapper that uses it"
            )
        self._parts: dict[str, Part] = {
            part.model.identity: part for part in built.parts
        }
        self._device = str(resolve_device(facts.device))
        self._facts = facts

    def card(self) -> Card:
        """What clients have to know."""
        parts = tuple(
            PartCard(
                name=model.name,
                identity=model.identity,
                about=model.about,
                weight=weight,
                sees_states=model.sees_states,
                stretch=model.stretch,
            )
            for model, weight in self._parts.values()
        )
        stretched = any(part.stretch is not None for part in parts)
        horizon = self._facts.horizon if stretched else None
        return Card(parts, horizon, self._facts.action_space)

    def wants(self, identity: str, steps: Int64) -> Bool:
        """Which steps' frames a part will look at."""
        return self._part(identity).model.wants(steps)

    def reset(self, request: Reset) -> Reply:
        """Begins episodes."""
        try:
            model = self._part(request.identity).model
            memory = join([request.memory], [len(request.mask)], self._device)
            memory = model.reset(memory, request.frames, request.mask, request.seeds)
            return Reply(memory=cut(memory, None), notes=model.notes(memory))
        except Exception as error:
            return Reply(error=error)

    def steps(self, requests: Sequence[Step]) -> list[Reply]:
        """Scores transitions, those of one part side by side where that can be."""
        replies: dict[int, Reply] = {}
        places: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(request.identity, []).append(place)
        for group in places.values():
            asked = [requests[place] for place in group]
            try:
                answers = self._together(asked)
            except Exception:
                # They are unlike, or one of them is wrong: each for itself.
                answers = [self._alone(request) for request in asked]
            replies.update(zip(group, answers, strict=True))
        return [replies[place] for place in range(len(requests))]

    def _alone(self, request: Step) -> Reply:
        try:
            return self._together([request])[0]
        except Exception as error:
            return Reply(error=error)

    def _together(self, requests: Sequence[Step]) -> list[Reply]:
        model = self._part(requests[0].identity).model
        counts = [len(request.transition.active) for request in requests]
        memory = join([r.memory for r in requests], counts, self._device)
        transition = join([r.transition for r in requests], counts)
        score, memory = model.step(memory, transition)
        notes = model.notes(memory)
        if len(requests) == 1:
            return [Reply(score, cut(memory, None), notes)]
        ends = np.cumsum(counts)
        rows = [slice(end - n, end) for end, n in zip(ends, counts, strict=True)]
        return [Reply(*(cut(one, some) for one in (score, memory, notes)))
                for some in rows]  # fmt: skip

    def _part(self, identity: str) -> Part:
        try:
            return self._parts[identity]
        except KeyError:
            raise ValueError(
                f"the client began with the reward {identity!r}, and what is served "
                f"under this name now is {[*self._parts]}: make the environment anew, "
                "or serve the old reward again"
            ) from None
