"""`RewardHead`: the part of a reward wrapper that knows nothing of its environment.

It owns the session and the weights, adds up the parts, and watches what is paid. Every
host has one, and gives it arrays with the leading axis N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import (
    Bool,
    Float32,
    RewardModel,
    Score,
    Session,
    UInt8,
    weigh,
)
from genreward_wrappers.core.session import Seed
from genreward_wrappers.data.episodes import Recorder
from genreward_wrappers.hosts.watch import Watch
from genreward_wrappers.rewards.facts import Built
from genreward_wrappers.rewards.spec import BALANCED, ENV, check_weights

#: A number, or a function of the steps so far that gives one.
Weight = float | Callable[[int], float]


class Paid(NamedTuple):
    """What came of one step.

    Attributes:
        rewards: (N,) the rewards of the agents.
        infos: (N,) each, by its key.
    """

    rewards: NDArray[np.float64]
    infos: dict[str, NDArray[Any]]


class RewardHead:
    """Scores, weighs and adds up.

    Attributes:
        session: The models and their memories.
        recorder: Writes some episodes of the first environment, if asked to.
        steps: The number of steps paid so far; scheduled weights are functions of it.
        held: The last finite values of each part, if they are held.
    """

    def __init__(
        self,
        built: Built,
        num_envs: int,
        *,
        horizon: int | None = None,
        nonfinite: str = "raise",
        recorder: Recorder | None = None,
    ) -> None:
        """Binds models to a number of environments.

        Args:
            built: The models and the weights.
            num_envs: N.
            horizon: The number of steps of an episode, if something depends on it.
            nonfinite: What happens where a part that counts is not finite: "raise", or
                "hold", which pays its last finite value and warns.
            recorder: Writes episodes.
        """
        for part in built.parts:
            check_weights({part.model.name: part.weight}, {part.model.name})
        self._models = [part.model for part in built.parts]
        self.session = Session(self._models, num_envs, check_finite=False)
        own = 0.0 if built.env_weight == BALANCED else float(built.env_weight)
        self._weights: dict[str, Weight] = {ENV: own}
        self._weights |= {part.model.name: part.weight for part in built.parts}
        self._hold = nonfinite == "hold"
        self.held: dict[str, NDArray[Any]] = {}
        self._versions: dict[str, int] = {}
        self._measured: list[NDArray[np.float64]] | None = None
        self._ones = np.ones(num_envs)
        self._watch = Watch(num_envs, horizon)
        self.recorder = recorder
        self.steps = 0

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part at the next step."""
        now = {}
        for name, weight in self._weights.items():
            if not isinstance(weight, float):
                weight = float(weight(self.steps))
                check_weights({name: weight}, self._weights)
            now[name] = weight
        return now

    def set_weights(self, weights: Mapping[str, Weight]) -> None:
        """Changes the weights of some parts, from the next step on."""
        numbers: dict[str, Any] = {
            name: weight for name, weight in weights.items() if not callable(weight)
        }
        check_weights(numbers, self._weights)
        check_weights(dict.fromkeys(weights, 0.0), self._weights)
        if numbers.get(ENV) == BALANCED:
            raise ValueError(
                f"{BALANCED!r} is measured when the wrapper is made: give a number"
            )
        for name, weight in weights.items():
            self._weights[name] = weight if callable(weight) else float(weight)

    def put(self, model: RewardModel[Any], weight: float, version: int) -> None:
        """Puts a model in the place of the one with its name, or beside the others."""
        self.session.put(model)
        self._weights[model.name] = float(weight)
        self._versions[model.name] = version

    def begin(
        self,
        frames: UInt8,
        mask: Bool | None = None,
        seed: Seed = None,
        states: Float32 | None = None,
    ) -> None:
        """Starts the episodes of some rows; see `Session.begin`."""
        session = self.session
        everyone = np.ones(session.num_envs, np.bool_)
        mask = everyone if mask is None else mask
        self._watch.begin(mask, session.running, session.steps)
        session.begin(frames, mask, seed, states)
        if mask[0] and self.recorder is not None:
            notes = session.notes()
            # Which of the bundle's goals; an episode's own ones are in no bundle.
            index = notes.get("goal_index")
            about = {} if index is None else {"goal": int(index[0])}
            self.recorder.begin(frames[0], about)

    def pay(
        self,
        actions: NDArray[Any],
        next_frames: UInt8,
        env_rewards: NDArray[Any],
        terminated: Bool,
        truncated: Bool,
        *,
        active: Bool | None = None,
        next_states: Float32 | None = None,
        success: bool = False,
    ) -> Paid:
        """Scores one step of every row, and adds it up; see `Session.score`.

        Args:
            actions: (N, ...) the actions taken.
            next_frames: (N, H, W, 3) the frames that came of them.
            env_rewards: (N,) what the environments paid.
            terminated: (N,) as the environments reported.
            truncated: (N,) as the environments reported.
            active: (N,) False for rows in which nothing happened, which are paid
                nothing; None means all did.
            next_states: (N, S) the numbers that came of them, if a model sees them.
            success: Whether the first row succeeded, for the recorder.

        Raises:
            FloatingPointError: A part that counts is not finite. The session is as it
                was before the step.
        """
        _check_actions(actions, active)
        session = self.session
        before, looked = session.snapshot(), self.recorder and session.wanted[0]
        scores = session.score(
            actions, next_frames, terminated, truncated, active, next_states
        )
        weights = self.weights
        env_rewards = np.asarray(env_rewards, np.float64)
        if active is not None:
            env_rewards = np.where(active, env_rewards, 0.0)
            terminated, truncated = terminated & active, truncated & active
        try:
            paid, counted = self._finite(env_rewards, scores, weights)
        except FloatingPointError:
            session.restore(before)
            raise
        if self._measured is not None:
            models = weigh(paid, 0.0, counted, weights)
            on = slice(None) if active is None else active
            self._measured.append(np.stack([paid, models])[:, on])
        values: dict[str, NDArray[Any]] = {ENV: paid}
        values |= {name: score.value for name, score in counted.items()}
        self._watch.step(weights, values, terminated, truncated, session.steps)
        if self.recorder is not None:
            self.recorder.step(
                actions[0],
                next_frames[0] if looked else None,
                {ENV: float(paid[0]), **_due_in_first(scores)},
                success,
                bool(terminated[0]),
                bool(truncated[0]),
            )
        self.steps += 1
        total = weigh(paid, weights[ENV], counted, weights)
        return Paid(total, self._infos(env_rewards, scores, weights))

    def opening(self) -> dict[str, NDArray[Any]]:
        """(N,) each, by its key: the infos of a step at which nothing is paid.

        The info of a reset has the keys of a step, since loggers keep both in one
        table.
        """
        nothing = np.zeros(self.session.num_envs, np.float32)
        scores = {
            model.name: Score(nothing, nothing > 0) for model in self.session.models
        }
        return self._infos(nothing.astype(np.float64), scores, self.weights)

    def balance(self, play: Callable[[], None]) -> None:
        """Brings the environment's own reward to the scale of the others.

        Args:
            play: Takes some steps of random actions, which are measured here.

        Raises:
            ValueError: One of the two is the same at every step.
        """
        recorder, self.recorder, self._measured = self.recorder, None, []
        play()
        own, models = np.concatenate(self._measured, axis=1)
        for what, values in (("environment", own), ("goal reward", models)):
            if values.std() <= 1e-9 * max(1.0, float(np.abs(values).max())):
                raise ValueError(
                    f"env_weight={BALANCED!r}: the {what} paid {values[0]:g} at each "
                    f"of {len(values)} steps of random actions, so it has no scale: "
                    "give env_weight as a number"
                )
        self._weights[ENV] = float(models.std() / own.std())
        self.recorder, self._measured = recorder, None
        num_envs, self.steps = self.session.num_envs, 0
        self.session = Session(self._models, num_envs, check_finite=False)
        self._watch = Watch(num_envs, self._watch.horizon)
        self.held = {}

    def _finite(
        self,
        env_rewards: NDArray[np.float64],
        scores: Mapping[str, Score],
        weights: Mapping[str, float],
    ) -> tuple[NDArray[np.float64], dict[str, Score]]:
        """The parts as they are added up, finite where they count."""
        if weights[ENV]:
            env_rewards = self._checked(ENV, "the environment", env_rewards)
        counted = dict(scores)
        for name, score in scores.items():
            if weights[name]:
                who = f"reward model {name!r}"
                counted[name] = Score(self._checked(name, who, score.value), score.due)
        return env_rewards, counted

    def _checked(self, name: str, who: str, values: NDArray[Any]) -> NDArray[Any]:
        fine = np.isfinite(values)
        if np.count_nonzero(fine) == len(fine):
            if self._hold:
                self.held[name] = values
            return values
        told = f"{who} returned {values.tolist()}"
        if not self._hold:
            raise FloatingPointError(
                f"{told}; every part of the reward must be finite. A weight of 0 "
                'leaves it out, nonfinite="hold" pays its last finite value'
            )
        self._watch.once("nonfinite " + name, f"{told}; its last finite value is paid")
        held = self.held.get(name, np.zeros_like(values))
        self.held[name] = np.where(fine, values, held)
        return self.held[name]

    def _infos(
        self,
        env_rewards: NDArray[np.float64],
        scores: Mapping[str, Score],
        weights: Mapping[str, float],
    ) -> dict[str, NDArray[Any]]:
        infos: dict[str, NDArray[Any]] = {"reward_env": env_rewards}
        for name, score in scores.items():
            infos[f"reward_{name}"] = score.value.astype(np.float64)
            infos[f"reward_{name}_due"] = score.due
        for name, weight in weights.items():
            infos[f"weight_{name}"] = self._ones * weight
        for name, version in self._versions.items():
            infos[f"reward_{name}_version"] = np.full(len(env_rewards), version)
        return {**infos, **self.session.notes()}


def _check_actions(actions: NDArray[Any], active: Bool | None) -> None:
    """Raises for actions that are not a number; rows where nothing happened may be."""
    if actions.dtype.kind != "f":
        return
    wrong = np.isnan(actions)
    if wrong.any():
        rows = wrong.reshape(len(wrong), -1).any(1)
        rows = rows if active is None else rows & active
        if rows.any():
            raise FloatingPointError(
                f"the actions of environments {np.flatnonzero(rows).tolist()} hold "
                "NaN: the agent that chose them has diverged"
            )


def _due_in_first(scores: Mapping[str, Score]) -> dict[str, float]:
    """What each model pays in the first row; NaN where nothing is due."""
    return {
        name: float(score.value[0]) if score.due[0] else float("nan")
        for name, score in scores.items()
    }
