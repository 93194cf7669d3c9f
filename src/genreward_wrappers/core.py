"""A reward is a fold over transitions; everything else is a host for that fold.

Three names carry the whole package. A `Transition` is what happened in N environments
at once. A `RewardModel` turns transitions into scores and keeps its memory outside
itself, so it can be shared, batched, snapshotted and run over recorded data. A
`Session` owns that memory for one set of environments and knows nothing about where
they come from: the Gymnasium, vector and stable-baselines3 hosts are thin layers over
it, and so is the relabelling of a replay buffer.

Only numpy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]

Seed = int | Sequence[int | None] | None

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of N environments; every field has the leading axis N.

    Attributes:
        frames: (N, H, W, 3) what the agent saw *before* it acted.
        actions: (N, ...) what it did.
        next_frames: (N, H, W, 3) what came of it; never the first frame of the next
            episode.
        terminated: (N,) the episode ended in itself.
        truncated: (N,) the episode was cut, by a time limit for example.
        active: (N,) False marks a row in which nothing happened (an autoreset row):
            its score is 0 and its memory stays as it was.
        steps: (N,) which transition of its episode this is, counted from 1.
        states: (N, S) what the environment said of itself in numbers before the agent
            acted; None where no model asks for it (`RewardModel.sees_states`).
    """

    frames: UInt8
    actions: NDArray[Any]
    next_frames: UInt8
    terminated: Bool
    truncated: Bool
    active: Bool
    steps: Int64
    states: Float32 | None = None


class Score(NamedTuple):
    """What a model pays at one step, and whether it pays at this step at all.

    Attributes:
        value: (N,) the scores; 0 wherever nothing is due.
        due: (N,) False where the model has nothing to say yet (a chunk of video is not
            full, say), which is different from a score that happens to be 0.
    """

    value: Float32
    due: Bool


class RewardModel(Protocol[M]):
    """Scores transitions, with its goal bound at construction. Immutable.

    The memory ``M`` is a frozen structure of arrays with the leading axis N. Both
    methods return a new one and leave the old one intact, which is what makes snapshots
    free.
    """

    #: ``info["reward_<name>"]`` carries this model's score.
    name: str

    #: Whether it looks at `Transition.states`, which hosts give on request only.
    sees_states: bool = False

    def reset(self, memory: M | None, frames: UInt8, mask: Bool, seeds: UInt64) -> M:
        """Starts the episodes of the rows in ``mask``.

        Args:
            memory: The memory so far; None at the very first reset.
            frames: (N, H, W, 3) first frames; only rows in ``mask`` are meaningful.
            mask: (N,) rows whose episode begins.
            seeds: (N,) one fresh seed a row and episode, for models that draw noise. A
                model that needs it stores it in its memory.
        """
        ...

    def step(self, memory: M, transition: Transition) -> tuple[Score, M]:
        """Scores one transition of every row."""
        ...

    def wants(self, steps: Int64) -> Bool:
        """Which rows' ``next_frames`` this model will look at, given their steps.

        Hosts that have to render ask this first: a frame that nobody wants is not
        rendered. The rows of unwanted frames hold whatever was there before.
        """
        return np.ones(len(steps), np.bool_)

    def notes(self, memory: M) -> dict[str, NDArray[Any]]:
        """(N,) numbers by name about the running episodes, for the info of a reset."""
        return {}


class Snapshot(NamedTuple):
    """Everything a `Session` knows; arrays are never written to after they are here."""

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
    happened in all of them, and gets the scores by model name.

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

    def __init__(self, models: Sequence[RewardModel[Any]], num_envs: int) -> None:
        """Binds models to a number of environments.

        Args:
            models: The models to run side by side; their names must differ.
            num_envs: N, the leading axis of everything that follows.
        """
        names = [model.name for model in models]
        if len(set(names)) != len(names):
            raise ValueError(f"every reward model needs a name of its own, got {names}")
        self.models = tuple(models)
        self.num_envs = num_envs
        self._memories: tuple[Any, ...] = (None,) * len(self.models)
        self._frames: UInt8 | None = None
        self._states: Float32 | None = None
        self._running = np.zeros(num_envs, np.bool_)
        self._steps = np.zeros(num_envs, np.int64)
        # Rows draw their seeds alone, so that an environment earns the same noise
        # whatever runs beside it.
        entropy = np.random.SeedSequence().generate_state(num_envs, np.uint64)
        self._base_seeds: UInt64 = np.asarray(entropy, np.uint64)
        self._episodes = np.zeros(num_envs, np.uint64)
        self._everyone = np.ones(num_envs, np.bool_)
        self._last: Transition | None = None

    @property
    def last(self) -> Transition | None:
        """What was scored last; None before the first step."""
        return self._last

    @property
    def steps(self) -> Int64:
        """(N,) transitions scored in the current episode of each row."""
        return self._steps

    @property
    def sees_states(self) -> bool:
        """Whether a model asks for the environments' numbers."""
        return any(model.sees_states for model in self.models)

    @property
    def wanted(self) -> Bool:
        """(N,) rows whose next frame at least one model will look at."""
        coming = self._steps + 1
        wanted = np.zeros(self.num_envs, np.bool_)
        for model in self.models:
            wanted |= model.wants(coming)
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
                seed s + i, a sequence one seed a row, and None goes on from the seed
                before.
            states: (N, S) the numbers beside the first frames, if a model sees them.
        """
        mask = self._everyone if mask is None else mask
        check_frames(frames, self.num_envs)
        if self._frames is None:
            if not mask.all():
                raise RuntimeError(
                    f"the first begin() must start every row, got mask={mask.tolist()}"
                )
            self._frames = np.array(frames)
        else:
            self._check_shape(frames)
            # A new array and not an assignment in place: snapshots share the old one.
            self._frames = np.where(mask[:, None, None, None], frames, self._frames)
        if states is not None:
            old = states if self._states is None else self._states
            self._states = np.where(mask[:, None], states, old)
        self._reseed(mask, seed)
        seeds = _mix(self._base_seeds, self._episodes)
        self._episodes = self._episodes + mask.astype(np.uint64)
        self._running = self._running | mask
        self._steps = np.where(mask, 0, self._steps)
        self._memories = tuple(
            model.reset(memory, self._frames, mask, seeds)
            for model, memory in zip(self.models, self._memories, strict=True)
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
        assert self._frames is not None
        self._check_shape(next_frames)
        self._steps = self._steps + active
        # Environments reuse their buffers; this frame must still be itself next step.
        next_frames = np.array(next_frames)
        transition = Transition(
            frames=self._frames,
            actions=actions,
            next_frames=next_frames,
            terminated=terminated,
            truncated=truncated,
            active=active,
            steps=self._steps,
            states=self._states,
        )
        scores: dict[str, Score] = {}
        memories = []
        for model, memory in zip(self.models, self._memories, strict=True):
            score, memory = model.step(memory, transition)
            memories.append(memory)
            scores[model.name] = self._checked(model.name, score, active)
        self._memories = tuple(memories)
        self._frames, self._last = next_frames, transition
        if next_states is not None:
            self._states = np.array(next_states, np.float32)
        self._running = self._running & ~(active & (terminated | truncated))
        return scores

    def put(self, model: RewardModel[Any]) -> None:
        """Puts a model in the place of the one with its name, or beside the others.

        It begins with this step's frames, as if all episodes began here.
        """
        names = [other.name for other in self.models]
        memory = None
        if self._frames is not None:
            seeds = _mix(self._base_seeds, self._episodes)
            memory = model.reset(None, self._frames, self._everyone, seeds)
        at = names.index(model.name) if model.name in names else len(names)
        self.models = (*self.models[:at], model, *self.models[at + 1 :])
        self._memories = (*self._memories[:at], memory, *self._memories[at + 1 :])

    def notes(self) -> dict[str, NDArray[Any]]:
        """(N,) numbers by name that the models note of the running episodes."""
        found: dict[str, NDArray[Any]] = {}
        if self._frames is None:
            return found
        for model, memory in zip(self.models, self._memories, strict=True):
            found.update(model.notes(memory))
        return found

    def check_running(self, active: Bool | None = None) -> None:
        """Raises unless the rows in ``active`` are in the middle of an episode.

        Hosts ask before they step their environment, which may not mind.
        """
        if self._frames is None:
            raise RuntimeError("step() came before reset(): call reset() first")
        running = self._running if active is None else self._running | ~active
        if not running.all():
            rows = np.flatnonzero(~running).tolist()
            raise RuntimeError(
                "step() came after the end of an episode"
                + (f" in environments {rows}" if self.num_envs > 1 else "")
                + ": call reset() first"
            )

    def snapshot(self) -> Snapshot:
        """Everything needed to come back to this point. Costs nothing."""
        if self._frames is None:
            raise RuntimeError("there is nothing to snapshot before the first begin()")
        return Snapshot(
            self._memories,
            self._frames,
            self._running,
            self._steps,
            self._base_seeds,
            self._episodes,
            self._states,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot of this session, or of one like it."""
        if len(snapshot.running) != self.num_envs:
            raise ValueError(
                f"a snapshot of {len(snapshot.running)} environments does not fit a "
                f"session of {self.num_envs}"
            )
        (
            self._memories,
            self._frames,
            self._running,
            self._steps,
            self._base_seeds,
            self._episodes,
            self._states,
        ) = snapshot

    def _reseed(self, mask: Bool, seed: Seed) -> None:
        if seed is None:
            return
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
        self._base_seeds = np.where(given, new, self._base_seeds)
        self._episodes = np.where(given, np.uint64(0), self._episodes)

    def _check_shape(self, frames: UInt8) -> None:
        assert self._frames is not None
        if frames.shape != self._frames.shape or frames.dtype != np.uint8:
            raise ValueError(
                "frames changed in the middle of a session: the first were uint8 "
                f"{self._frames.shape}, these are {frames.dtype} {frames.shape}"
            )

    def _checked(self, name: str, score: Score, active: Bool) -> Score:
        value, due = score
        if not active.all():
            value = np.where(active, value, np.float32(0))
            due = due & active
        # A silent NaN would poison the agent, a silent zero would starve it.
        if not np.isfinite(value).all():
            raise FloatingPointError(
                f"reward model {name!r} returned {value.tolist()}; every score must be "
                "finite"
            )
        return Score(value, due)


def weigh(
    env_reward: Any,
    env_weight: float,
    scores: Mapping[str, Score],
    weights: Mapping[str, float],
) -> Any:
    """The reward an agent gets: every part times its weight, added in float64.

    One function for all hosts, so that a wrapper inside a vector environment and the
    vector wrapper outside it agree to the last bit.
    """
    total = np.asarray(env_reward, np.float64) * env_weight
    for name, score in scores.items():
        total = total + np.float64(weights[name]) * score.value
    return total


def check_frames(frames: Any, num_envs: int) -> None:
    """Raises unless frames are a batch of uint8 RGB images, channels last."""
    wanted = f"uint8 frames of shape ({num_envs}, height, width, 3), RGB"
    if not isinstance(frames, np.ndarray):
        raise TypeError(f"expected {wanted}, got {type(frames).__name__}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        hint = ""
        if frames.dtype.kind == "f":
            hint = "; a float image in [0, 1] becomes one by (255 * x).astype('uint8')"
        elif frames.ndim == 4 and frames.shape[1] == 3:
            hint = "; channels come first here: move them last"
        elif frames.ndim == 3 or frames.shape[-1] == 1:
            hint = "; these are grey: give the colour image"
        elif frames.ndim == 5 or frames.shape[-1] % 3 == 0:
            hint = "; these are stacked: wrap before stacking frames"
        raise ValueError(f"expected {wanted}, got {frames.dtype} {frames.shape}{hint}")
    if len(frames) != num_envs:
        raise ValueError(f"expected {wanted}, got {len(frames)} of them")


def _mix(base: UInt64, episodes: UInt64) -> UInt64:
    """A seed for every row and episode (splitmix64: neighbours share nothing)."""
    with np.errstate(over="ignore"):
        z = base + (episodes + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: UInt64 = z ^ (z >> np.uint64(31))
    return mixed
