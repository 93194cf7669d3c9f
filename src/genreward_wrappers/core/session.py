"""The one stateful object: what some models remember of N environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core.contract import (
    Bool,
    Float32,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
    check_frames,
    check_model,
)

Seed = int | Sequence[int | None] | None


class Snapshot(NamedTuple):
    """Everything that changes in a `Session`; its arrays are never written to.

    Attributes:
        identities: Which models the memories belong to.
        memories: One of each model; None before the first episode.
        frames: (N, H, W, 3) the newest ones; of no pixels before the first episode.
        running: (N,) the rows in the middle of an episode.
        steps: (N,) transitions scored in the current episode of each row.
        base_seeds: (N,) what the seeds of the episodes are made from.
        episodes: (N,) how many have begun since the seed was given.
        states: (N, S) the newest ones; None where no model sees them.
    """

    identities: tuple[str, ...]
    memories: tuple[Any, ...]
    frames: UInt8
    running: Bool
    steps: Int64
    base_seeds: UInt64
    episodes: UInt64
    states: Float32 | None = None


class Session:
    """The one stateful object: holds the memories of some models for N environments.

    It speaks masks, not resets and dones: a host says which rows begin and what
    happened in all of them, and gets the scores by model name. If a model raises, the
    session is as it was before the call.

    Attributes:
        models: The models.
        num_envs: N.
        sees_states: Whether a model looks at the environments' numbers.

    Example:
        >>> import numpy as np
        >>> from genreward_wrappers.testing import Brightness
        >>> session = Session([Brightness()], num_envs=2)
        >>> frames = np.zeros((2, 8, 8, 3), np.uint8)
        >>> session.begin(frames, seed=0)
        >>> no = np.zeros(2, bool)
        >>> session.score(np.zeros(2), frames + 255, no, no)["brightness"].value
        array([1., 1.], dtype=float32)
    """

    def __init__(
        self,
        models: Sequence[RewardModel[Any]],
        num_envs: int,
        *,
        check_finite: bool = True,
    ) -> None:
        """Binds models to a number of environments.

        Args:
            models: The models to run side by side; their names must differ.
            num_envs: N, the leading axis of everything that follows.
            check_finite: Whether a score that is not finite raises. Hosts check the
                parts of the sum that they pay instead.
        """
        for model in models:
            check_model(model)
        names = [model.name for model in models]
        if len(set(names)) != len(names):
            raise ValueError(f"every reward model needs a name of its own, got {names}")
        self.models = tuple(models)
        self.sees_states = any(model.sees_states for model in models)
        self.num_envs = num_envs
        self._check_finite = check_finite
        self._everyone = np.ones(num_envs, np.bool_)
        self._last: Transition | None = None
        # Rows draw their seeds alone, so that an environment earns the same noise
        # whatever runs beside it.
        entropy = np.random.SeedSequence().generate_state(num_envs, np.uint64)
        self._state = Snapshot(
            identities=tuple(model.identity for model in models),
            memories=(None,) * len(models),
            frames=np.zeros((num_envs, 0, 0, 3), np.uint8),
            running=~self._everyone,
            steps=np.zeros(num_envs, np.int64),
            base_seeds=np.asarray(entropy, np.uint64),
            episodes=np.zeros(num_envs, np.uint64),
        )

    @property
    def last(self) -> Transition | None:
        """What was scored last; None before the first step."""
        return self._last

    @property
    def steps(self) -> Int64:
        """(N,) transitions scored in the current episode of each row."""
        return self._state.steps

    @property
    def running(self) -> Bool:
        """(N,) the rows in the middle of an episode."""
        return self._state.running

    @property
    def wanted(self) -> Bool:
        """(N,) rows whose next frame at least one model will look at."""
        coming, wanted = self.steps + 1, ~self._everyone
        for model in self.models:
            wanted = wanted | model.wants(coming)
        return wanted

    def begin(
        self,
        frames: UInt8,
        mask: Bool | None = None,
        seed: Seed = None,
        states: Float32 | None = None,
    ) -> None:
        """Starts the episodes of some rows.

        Args:
            frames: (N, H, W, 3) first frames; rows outside the mask are ignored.
            mask: (N,) rows that begin; None means all.
            seed: As in `gymnasium.vector.VectorEnv.reset`: an int s gives row i the
                seed s + i, a sequence one seed a row, and None continues from the seed
                before.
            states: (N, S) the numbers beside the first frames, if a model sees them.
        """
        mask = self._everyone if mask is None else mask
        check_frames(frames, self.num_envs)
        old = self._state
        if not self._begun:
            if not mask.all():
                raise RuntimeError(
                    f"the first begin() must start every row, got mask={mask.tolist()}"
                )
            frames = np.array(frames)
        else:
            self._check_shape(frames)
            # A new array and not an assignment in place: snapshots share the old one.
            frames = np.where(mask[:, None, None, None], frames, old.frames)
        if states is None:
            self._check_states(states)
            states = old.states
        else:
            before = states if old.states is None else old.states
            states = np.where(mask[:, None], states, before)
        base_seeds, episodes = self._reseeded(mask, seed)
        seeds = _mix(base_seeds, episodes)
        self._state = old._replace(
            memories=tuple(
                model.reset(memory, frames, mask, seeds)
                for model, memory in zip(self.models, old.memories, strict=True)
            ),
            frames=frames,
            running=old.running | mask,
            steps=np.where(mask, 0, old.steps),
            base_seeds=base_seeds,
            episodes=episodes + mask.astype(np.uint64),
            states=states,
        )

    def score(
        self,
        actions: NDArray[Any],
        next_frames: UInt8,
        terminated: Bool,
        truncated: Bool,
        active: Bool | None = None,
        next_states: Float32 | None = None,
    ) -> dict[str, Score]:
        """Scores what happened in every row.

        Args:
            actions: (N, ...) the actions taken.
            next_frames: (N, H, W, 3) the frames that came of them. Rows that `wanted`
                said nobody looks at may hold anything.
            terminated: (N,) as the environments reported.
            truncated: (N,) as the environments reported.
            active: (N,) False for rows in which nothing happened; None means all did.
            next_states: (N, S) the numbers that came of them, if a model sees them.

        Returns:
            A `Score` for each model, by its name.
        """
        active = self._everyone if active is None else active
        self.check_running(active)
        self._check_shape(next_frames)
        self._check_states(next_states)
        old = self._state
        transition = Transition(
            frames=old.frames,
            actions=actions,
            # Environments reuse their buffers; it must still be itself next step.
            next_frames=np.array(next_frames),
            terminated=terminated,
            truncated=truncated,
            active=active,
            steps=old.steps + active,
            states=old.states,
        )
        scores: dict[str, Score] = {}
        memories = []
        ended = active & (terminated | truncated)
        for model, memory in zip(self.models, old.memories, strict=True):
            score, memory = model.step(memory, transition)
            memories.append(memory)
            scores[model.name] = self._checked(model.name, score, active)
        self._last = transition
        self._state = old._replace(
            memories=tuple(memories),
            frames=transition.next_frames,
            running=old.running & ~ended if np.count_nonzero(ended) else old.running,
            steps=transition.steps,
            states=old.states
            if next_states is None
            else np.array(next_states, np.float32),
        )
        return scores

    def put(self, model: RewardModel[Any]) -> None:
        """Puts a model in the place of the one with its name, or beside the others.

        It begins with this step's frames, as if all episodes began here.
        """
        check_model(model)
        names = [other.name for other in self.models]
        memory, old = None, self._state
        if self._begun:
            seeds = _mix(old.base_seeds, old.episodes)
            memory = model.reset(None, old.frames, self._everyone, seeds)
        at = names.index(model.name) if model.name in names else len(names)

        def replaced(parts: tuple[Any, ...], part: Any) -> tuple[Any, ...]:
            return (*parts[:at], part, *parts[at + 1 :])

        self.models = replaced(self.models, model)
        self.sees_states = any(model.sees_states for model in self.models)
        self._state = old._replace(
            identities=replaced(old.identities, model.identity),
            memories=replaced(old.memories, memory),
        )

    def notes(self) -> dict[str, NDArray[Any]]:
        """(N,) numbers by name that the models note of the running episodes."""
        found: dict[str, NDArray[Any]] = {}
        if self._begun:
            for model, memory in zip(self.models, self._state.memories, strict=True):
                found.update(model.notes(memory))
        return found

    def check_running(self, active: Bool | None = None) -> None:
        """Raises unless the rows in ``active`` are in the middle of an episode.

        Hosts ask before they step their environment, which may not mind.
        """
        running = self.running if active is None else self.running | ~active
        if self._begun and np.count_nonzero(running) == self.num_envs:
            return
        if not self._begun:
            raise RuntimeError("step() came before reset(): call reset() first")
        rows = np.flatnonzero(~running).tolist()
        raise RuntimeError(
            "step() came after the end of an episode"
            + (f" in environments {rows}" if self.num_envs > 1 else "")
            + ": call reset() first"
        )

    def snapshot(self) -> Snapshot:
        """Everything needed to come back to this point. Costs nothing."""
        if not self._begun:
            raise RuntimeError("no episode has begun yet: call reset() first")
        return self._state

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot of this session, or of one with the same models.

        Raises:
            ValueError: It is of other models, or of another number of environments.
        """
        if len(snapshot.running) != self.num_envs:
            raise ValueError(
                f"a snapshot of {len(snapshot.running)} environments does not fit a "
                f"session of {self.num_envs}"
            )
        if snapshot.identities != self._state.identities:
            raise ValueError(
                f"the snapshot belongs to the models {list(snapshot.identities)}, and "
                f"this session has {list(self._state.identities)}"
            )
        self._state = snapshot

    @property
    def _begun(self) -> bool:
        return self._state.frames.size > 0

    def _reseeded(self, mask: Bool, seed: Seed) -> tuple[UInt64, UInt64]:
        base_seeds, episodes = self._state.base_seeds, self._state.episodes
        if seed is None:
            return base_seeds, episodes
        if isinstance(seed, (int, np.integer)):
            seed = [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(
                f"expected one seed for each of {self.num_envs} environments, got "
                f"{len(seed)}: {list(seed)}"
            )
        for each in seed:
            if each is not None and not 0 <= each < 2**64:
                raise ValueError(f"seed={each}: expected from 0 to 2**64 - 1")
        given = mask & np.array([s is not None for s in seed])
        new = np.array([s or 0 for s in seed]).astype(np.uint64)
        return np.where(given, new, base_seeds), np.where(given, np.uint64(0), episodes)

    def _check_shape(self, frames: UInt8) -> None:
        first = self._state.frames
        if frames.shape != first.shape or frames.dtype != np.uint8:
            raise ValueError(
                "frames changed in the middle of a session: the first were uint8 "
                f"{first.shape}, these are {frames.dtype} {frames.shape}"
            )

    def _check_states(self, states: Float32 | None) -> None:
        if states is None and self.sees_states:
            blind = [model.name for model in self.models if model.sees_states]
            raise ValueError(
                f"the reward models {blind} look at the environments' states, and none "
                "came: pass states= to begin() and next_states= to score()"
            )

    def _checked(self, name: str, score: Score, active: Bool) -> Score:
        value, due = score
        value, due = np.asarray(value), np.asarray(due)
        if value.shape != active.shape or due.shape != active.shape:
            raise ValueError(
                f"reward model {name!r} returned a score of shapes {value.shape} and "
                f"{due.shape}; value and due must both be {active.shape}"
            )
        due = due & active
        # A copy either way: a model may use its array again.
        if np.count_nonzero(due) == len(due):
            value = value.astype(np.promote_types(value.dtype, np.float32))
        else:
            value = np.where(due, value, np.float32(0))
        # A silent NaN would poison the agent, a silent zero would starve it.
        if self._check_finite and not np.isfinite(value).all():
            raise FloatingPointError(
                f"reward model {name!r} returned {value.tolist()}; every score must be "
                "finite"
            )
        return Score(value, due)


def _mix(base: UInt64, episodes: UInt64) -> UInt64:
    """A seed for every row and episode (splitmix64: neighbours share nothing)."""
    with np.errstate(over="ignore"):
        z = base + (episodes + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: UInt64 = z ^ (z >> np.uint64(31))
    return mixed
