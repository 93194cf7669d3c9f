"""A replay buffer for stable-baselines3 whose samples are paid by the newest reward.

A reward may change while an agent learns: its weights by `set_weights` or a schedule,
its nets by `FBCallback`. An ordinary buffer keeps what was paid when a step was taken,
and mixes the versions. This one keeps the parts of every step's reward, which the
wrapper puts into the infos, and adds them up when a step is sampled, with the weights
of the newest step. A part whose model was replaced is scored again, once a version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common import buffers

from genreward_wrappers.core import Bool, RewardModel, Score, Transition, weigh
from genreward_wrappers.data.minari import pictures_of
from genreward_wrappers.data.replay import rows_of, same_rows, unscaled
from genreward_wrappers.rewards.frame_level import FrameLevel
from genreward_wrappers.rewards.spec import ENV

#: Frames that are scored again at a time.
AT_ONCE = 256


@dataclass
class Part:
    """A part of the reward of every step in the buffer.

    Attributes:
        values: (rows, N) its scores; those of a model are float32.
        versions: (rows, N) of the model that gave them; -1 where none did.
        version: Of the newest step.
        model: Gives the scores of the newest version; None until one is replaced.
    """

    values: NDArray[np.float64]
    versions: NDArray[np.int64]
    version: int = 0
    model: RewardModel[Any] | None = None


@dataclass
class Ledger:
    """What the reward of every step was made of.

    Attributes:
        parts: By their name, the environment's own reward among them.
        weights: Of the newest step.
        steps: (rows, N) which step of its episode each was, counted from 1.
        running: (N,) the step of each running episode.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    steps: Any = None
    running: Any = None


class RelabelReplayBuffer(buffers.ReplayBuffer):  # type: ignore[misc]
    """Pays samples by the newest reward, in agents that learn off-policy.

    The agent's environment has to be one of `genreward_wrappers.sb3`, and nothing
    around that may change its rewards; `VecNormalize` may, since it is applied to
    samples. Dict observations and n-step returns are handled, and so is
    ``optimize_memory_usage``.

    Example:
        >>> from stable_baselines3 import SAC  # doctest: +SKIP
        >>> SAC("CnnPolicy", venv, replay_buffer_class=RelabelReplayBuffer)
        ... # doctest: +SKIP
    """

    def __new__(cls, *args: Any, n_steps: int = 1, **kwargs: Any) -> Any:
        """The buffer for Dict observations, for n-step returns, or for neither."""
        if cls is not RelabelReplayBuffer:
            return super().__new__(cls)
        space = args[1] if len(args) > 1 else kwargs.get("observation_space")
        of_dicts = isinstance(space, spaces.Dict)
        if of_dicts and kwargs.get("optimize_memory_usage"):
            raise ValueError(
                "optimize_memory_usage=True: stable-baselines3 has no such buffer of "
                "Dict observations"
            )
        if n_steps == 1:
            return super().__new__(_OfDicts if of_dicts else cls)
        if of_dicts:
            raise ValueError(
                f"n_steps={n_steps}: stable-baselines3 has no n-step returns with Dict "
                "observations; flatten them, or use n_steps=1"
            )
        if _NSteps is None:
            raise ValueError(
                f"n_steps={n_steps}: this version of stable-baselines3 has no n-step "
                "returns; update it"
            )
        return super().__new__(_NSteps)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Makes an empty buffer.

        Args:
            *args: As for stable-baselines3's `ReplayBuffer`.
            **kwargs: As for the same class, or, with ``n_steps`` above 1 and ``gamma``,
                for its `NStepReplayBuffer`.
        """
        if kwargs.get("n_steps") == 1:
            kwargs = {k: v for k, v in kwargs.items() if k not in ("n_steps", "gamma")}
        super().__init__(*args, **kwargs)
        shape = (self.buffer_size, self.n_envs)
        self._ledger = Ledger(
            steps=np.zeros(shape, np.int64), running=np.zeros(self.n_envs, np.int64)
        )

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Keeps a step of every environment, and what its reward was made of.

        Raises:
            ValueError: The infos come from no reward wrapper, or the reward is another
                than the wrapper paid.
        """
        row, ledger = self.pos, self._ledger
        self._note(row, np.asarray(reward), infos)
        ledger.running = np.where(self._continues(obs), ledger.running, 0) + 1
        ledger.steps[row] = ledger.running
        ledger.running = np.where(done, 0, ledger.running)
        super().add(obs, next_obs, action, reward, done, infos)

    def _continues(self, obs: Any) -> Bool:
        """(N,) whether these observations are those that the last step led to.

        Another call of `learn` resets the environments in mid-episode, and the buffer
        is not told.
        """
        if self.optimize_memory_usage:
            came = rows_of(self.observations, self.pos)
        else:
            last = (self.pos - 1) % self.buffer_size
            came = rows_of(self.next_observations, last)
        return same_rows(came, obs)

    def put_model(self, model: RewardModel[Any], version: int) -> None:
        """Pays every sample's part of this name by a model, from now on.

        `FBCallback` calls this whenever it replaces the nets in the reward. Whoever
        calls a wrapper's `put_model` calls this as well.

        Args:
            model: The model.
            version: As for the wrapper's `put_model`; versions rise.

        Raises:
            ValueError: The model remembers more of an episode than one step, so that a
                single step cannot be scored again.
        """
        check_single_steps(model)
        part = self._part(model.name)
        part.model, part.version = model, version

    def __getstate__(self) -> dict[str, Any]:
        """Without models, which `put_model` brings again."""
        ledger = self._ledger
        parts = {name: replace(p, model=None) for name, p in ledger.parts.items()}
        return {**self.__dict__, "_ledger": replace(ledger, parts=parts)}

    @property
    def weights(self) -> Mapping[str, float]:
        """What samples are paid by: the weights of the newest step, by part."""
        return dict(self._ledger.weights)

    @property
    def env_rewards(self) -> NDArray[np.float64]:
        """(rows, N) the environment's own reward of every step."""
        return self._part(ENV).values

    def _get_samples(self, batch_inds: NDArray[np.int64], env: Any = None) -> Any:
        ahead = getattr(self, "n_steps", 1)
        rows = (batch_inds[:, None] + np.arange(ahead)) % self.buffer_size
        self._pay(np.unique(rows))
        return super()._get_samples(batch_inds, env)

    def _pay(self, rows: NDArray[np.int64]) -> None:
        """Brings the rewards of some rows up to date."""
        ledger = self._ledger
        for name, part in ledger.parts.items():
            # Weightless parts are not added up.
            if name != ENV and ledger.weights.get(name):
                self._score_again(name, part, rows)
        values = {name: part.values[rows] for name, part in ledger.parts.items()}
        own = values.pop(ENV)
        scores = {
            name: Score(one.astype(np.float32), np.ones(one.shape, np.bool_))
            for name, one in values.items()
        }
        weights = {name: ledger.weights.get(name, 0.0) for name in values}
        total = weigh(own, ledger.weights.get(ENV, 0.0), scores, weights)
        self.rewards[rows] = total

    def _score_again(self, name: str, part: Part, rows: NDArray[np.int64]) -> None:
        """Scores the steps in some rows that an older model scored."""
        stale = part.versions[rows] != part.version
        # A row that was never written holds no step.
        stale &= self._ledger.steps[rows] > 0
        if not stale.any():
            return
        if part.model is None:
            raise RuntimeError(
                f"the reward's part {name!r} is another than when some of the steps in "
                "the replay buffer were taken, and they cannot be scored again: call "
                "the buffer's put_model() with the new model after the wrapper's"
            )
        where = np.stack([rows[np.nonzero(stale)[0]], np.nonzero(stale)[1]])
        for start in range(0, where.shape[1], AT_ONCE):
            some, envs = where[:, start : start + AT_ONCE]
            part.values[some, envs] = self._scores(part.model, some, envs)
            part.versions[some, envs] = part.version

    def _scores(
        self, model: RewardModel[Any], rows: NDArray[np.int64], envs: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """What a model pays for single steps."""
        found = rows_of(self.observations, rows, envs)
        everyone = np.ones(len(rows), np.bool_)
        states = None
        if model.sees_states:
            from genreward_wrappers.data.frames import flat_state

            states = flat_state(found, 1)
            frames = np.zeros((len(rows), 1, 1, 3), np.uint8)
        else:
            frames = pictures_of(found, "the replay buffer")
        memory = model.reset(None, frames, everyone, np.zeros(len(rows), np.uint64))
        score, _ = model.step(
            memory,
            Transition(
                frames=frames,
                actions=unscaled(self.actions[rows, envs], self.action_space),
                next_frames=frames,
                terminated=~everyone,
                truncated=~everyone,
                active=everyone,
                steps=self._ledger.steps[rows, envs],
                states=states,
            ),
        )
        return np.where(score.due, score.value, np.float32(0))

    def _note(
        self, row: int, reward: NDArray[Any], infos: list[dict[str, Any]]
    ) -> None:
        """Keeps the parts of a step's reward, as the infos have them."""
        ledger = self._ledger
        weights = {
            key.removeprefix("weight_"): float(value)
            for key, value in infos[0].items()
            if key.startswith("weight_")
        }
        if ENV not in weights:
            raise ValueError(
                "the steps come from no reward wrapper of genreward_wrappers.sb3: "
                "their infos have no 'weight_env'"
            )
        ledger.weights = weights
        total: Any = 0
        for name, weight in weights.items():
            part = self._part(name)
            own = np.array([info[f"reward_{name}"] for info in infos], np.float64)
            part.values[row] = own
            version = int(infos[0].get(f"reward_{name}_version", 0))
            part.versions[row] = version
            # A model may be replaced after the step and before it is kept.
            part.version = max(part.version, version)
            if weight:
                total = total + weight * own
        # What the wrapper paid went through float32.
        if not np.allclose(reward, total, rtol=1e-4, atol=1e-6):
            raise ValueError(
                f"the reward {np.asarray(reward).tolist()} is not what the wrapper "
                f"paid, {np.asarray(total).tolist()}: put wrappers that change rewards "
                "below it, or use an ordinary replay buffer"
            )

    def _part(self, name: str) -> Part:
        parts = self._ledger.parts
        if name not in parts:
            shape = (self.buffer_size, self.n_envs)
            parts[name] = Part(np.zeros(shape), np.full(shape, -1))
        return parts[name]


class _OfDicts(RelabelReplayBuffer, buffers.DictReplayBuffer):  # type: ignore[misc]
    """For Dict observations."""


_NSteps: type[RelabelReplayBuffer] | None = None
if hasattr(buffers, "NStepReplayBuffer"):

    class _WithNSteps(RelabelReplayBuffer, buffers.NStepReplayBuffer):  # type: ignore[misc]
        """For n-step returns."""

    _NSteps = _WithNSteps


def check_single_steps(model: RewardModel[Any]) -> None:
    """Raises unless a model scores a step by what stands in that step alone.

    Raises:
        ValueError: It does not, or nobody knows.
    """
    if isinstance(model, FrameLevel):
        if model.features.stack == 1 and model.options.form != "difference":
            return
        why = f"sees {model.features.stack} frames at a time"
        if model.options.form == "difference":
            why = "pays the difference to the step before"
    else:
        why = "may remember more than the step"
    raise ValueError(
        f"the samples of a replay buffer are single steps, and {model.name!r} {why}: "
        "RelabelReplayBuffer cannot score them again; use an ordinary replay buffer, "
        'or the frame-level reward of one frame with form="value" or "normalised"'
    )
