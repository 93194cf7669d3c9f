"""The contract: what a transition is, what a score is, what a reward model does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]

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
        due: (N,) False where the model has nothing to say yet, for example because a
            chunk of video is not full. That is not the same as a score of 0.
    """

    value: Float32
    due: Bool


class RewardModel(ABC, Generic[M]):
    """Scores transitions. Its goal is bound at construction, and it never changes.

    The memory ``M`` is a frozen structure of arrays with the leading axis N. `reset`
    and `step` return a new one and leave the old one intact, which is what makes
    snapshots free.

    A model has a name and implements `reset` and `step`; everything else has a default.
    """

    #: ``info["reward_<name>"]`` carries this model's score.
    name: str

    #: Whether it looks at `Transition.states`, which hosts pass on request only.
    sees_states: bool = False

    #: The goal bundle that all episodes share; None where there is no such bundle.
    goal: Any = None

    #: Steps of an episode that the goal is stretched over; None where time is free.
    stretch: int | None = None

    @abstractmethod
    def reset(self, memory: M | None, frames: UInt8, mask: Bool, seeds: UInt64) -> M:
        """Starts the episodes of the rows in ``mask``.

        Args:
            memory: The memory so far; None at the very first reset.
            frames: (N, H, W, 3) first frames; only rows in ``mask`` are meaningful.
            mask: (N,) rows whose episode begins.
            seeds: (N,) one fresh seed a row and episode, for models that draw noise. A
                model that needs it stores it in its memory.
        """

    @abstractmethod
    def step(self, memory: M, transition: Transition) -> tuple[Score, M]:
        """Scores one transition of every row."""

    def wants(self, steps: Int64) -> Bool:
        """Which rows' ``next_frames`` this model will look at, given their steps.

        Hosts that have to render ask this first: a frame that nobody wants is not
        rendered. The rows of unwanted frames hold whatever was there before.
        """
        return np.ones(len(steps), np.bool_)

    def notes(self, memory: M) -> dict[str, NDArray[Any]]:
        """(N,) numbers by name about the running episodes, for their infos."""
        return {}

    @property
    def about(self) -> str:
        """What it pays for, in one line."""
        return (type(self).__doc__ or type(self).__name__).strip().partition("\n")[0]

    @property
    def parts(self) -> Sequence[tuple[RewardModel[Any], float]]:
        """Models and weights that hosts log one by one; a sum has several."""
        return ((self, 1.0),)

    @property
    def identity(self) -> str:
        """Text that differs between models whose memories must not be exchanged."""
        goal = "" if self.goal is None else self.goal.digest
        return f"{type(self).__module__}.{type(self).__qualname__} {self.name} {goal}"


def check_model(model: object) -> None:
    """Raises `TypeError` unless this is a `RewardModel`, and says what is missing."""
    if isinstance(model, type):
        raise TypeError(
            f"expected a RewardModel, got the class {model.__name__}: make an instance "
            "of it"
        )
    lacks = [name for name in ("name", "reset", "step") if not hasattr(model, name)]
    if isinstance(model, RewardModel) and not lacks:
        return
    kind = type(model).__name__
    raise TypeError(
        f"{kind} is no RewardModel: "
        + (f"it has no {', no '.join(lacks)}; " if lacks else "")
        + f"a reward model inherits from genreward_wrappers.RewardModel, as in "
        f'"class {kind}(RewardModel)", has a name, and implements reset and step'
    )


def weigh(
    env_reward: Any,
    env_weight: float,
    scores: Mapping[str, Score],
    weights: Mapping[str, float],
) -> Any:
    """The reward an agent gets: every part times its weight, added in float64.

    One function for all hosts, so that a wrapper inside a vector environment and the
    vector wrapper outside it agree to the last bit. A part of weight 0 is left out,
    whatever it holds: 0 times NaN is no part of anything.
    """
    own = np.asarray(env_reward, np.float64)
    total = own * env_weight if env_weight else np.zeros(own.shape)
    for name, score in scores.items():
        if weights[name]:
            total = total + np.asarray(score.value, np.float64) * weights[name]
    return total


def check_frames(frames: Any, num_envs: int) -> None:
    """Raises unless frames are a batch of uint8 RGB images, channels last."""
    wanted = f"uint8 frames of shape ({num_envs}, height, width, 3), RGB"
    if not isinstance(frames, np.ndarray):
        raise TypeError(f"expected {wanted}, got {type(frames).__name__}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        hint = ""
        if frames.ndim == 0:
            hint = "; it is one number"
        elif frames.dtype.kind == "f":
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
