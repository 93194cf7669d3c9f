"""What all reward wrappers share: how they are attached, and what users call on them.

A host knows how its kind of environment resets and steps. It has a `RewardHead`, to
which it hands arrays with the leading axis N, and this class for the rest.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from gymnasium import spaces

from genreward_wrappers.core import Bool, Float32, RewardModel, Session
from genreward_wrappers.data.episodes import Recorder
from genreward_wrappers.data.frames import flat_state
from genreward_wrappers.hosts.attach import MARK, Inside, attach
from genreward_wrappers.hosts.frames import Frames
from genreward_wrappers.hosts.head import RewardHead, Weight
from genreward_wrappers.hosts.options import HostOptions
from genreward_wrappers.hosts.state import HostSnapshot, read_state, write_state
from genreward_wrappers.hosts.time_feature import TimeFeature
from genreward_wrappers.rewards.facts import Built
from genreward_wrappers.rewards.spec import BALANCED, PRESET_WEIGHTS, RewardSpec

#: Those that have an argument of their own in a constructor.
PRESET_PARTS = tuple(PRESET_WEIGHTS["default"])
#: Steps of random actions that a balanced weight is measured over, in all rows.
BALANCE_STEPS = 512


class Host:
    """What is the same in the reward wrappers of all kinds of environments."""

    #: The class of environments that it wraps, and the name of that class.
    _kind: ClassVar[tuple[type, str]]
    _head: RewardHead
    _frames: Frames
    _progress: TimeFeature
    _everyone: Bool
    _ended: Bool

    @abstractmethod
    def _inside(self, env: Any) -> Inside:
        """What `attach` has to know of the environments."""

    @abstractmethod
    def _wrap(self, env: Any, space: spaces.Space[Any] | None) -> None:
        """Becomes a wrapper, with another observation space if there is one."""

    @abstractmethod
    def _play(self, actions: Any) -> None:
        """Takes a random step, resetting where needed; None resets everything."""

    def _attach(
        self,
        env: Any,
        reward: RewardSpec | Built,
        options: HostOptions,
        recorded: Mapping[str, Any],
    ) -> None:
        """Wraps an environment.

        Args:
            env: The environment.
            reward: The reward to pay.
            options: The options of the host.
            recorded: The arguments that make this wrapper again, beside the options.
        """
        name, (kind, expected) = type(self).__name__, self._kind
        if not isinstance(env, kind):
            raise TypeError(
                f"{name} expected a {expected}, got {type(env).__name__}. Single "
                "environments take genreward_wrappers.GenRewardWrapper and its like, "
                "gymnasium.vector environments those of genreward_wrappers.vector, "
                "stable-baselines3's those of genreward_wrappers.sb3"
            )
        inside = self._inside(env)
        attached = attach(inside, reward, options, name)
        self._head, self._frames, self._progress, built = attached
        self._everyone = np.ones(inside.num_envs, np.bool_)
        self._ended = ~self._everyone
        if "_saved_kwargs" not in vars(self):
            # A subclass may have recorded arguments of its own.
            self._saved_kwargs = {**recorded, **options.given()}
        self._wrap(env, self._progress.space)
        if built.env_weight == BALANCED:
            self._head.balance(self._play_randomly)

    def __repr__(self) -> str:
        inner = vars(self).get("env", vars(self).get("venv"))
        if "_head" not in vars(self):
            return f"<{type(self).__name__}, not attached>"
        said = [f"{name}={weight:.4g}" for name, weight in self.weights.items()]
        goals = [m.goal for m in self.session.models if m.goal is not None]
        if goals:
            said.insert(0, f"goal={goals[0].source or goals[0].env_id!r}")
        return f"<{type(self).__name__}({', '.join(said)}){inner}>"

    # Gymnasium's wrappers print those inside by `str`.
    __str__ = __repr__

    @property
    def session(self) -> Session:
        """The reward models and their memories."""
        return self._head.session

    @property
    def recorder(self) -> Recorder | None:
        """The writer of episodes, if ``record=`` asked for one."""
        return self._head.recorder

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part of the reward at the next step, by its name."""
        return self._head.weights

    def set_weights(self, **weights: Weight) -> None:
        """Changes the weights of some parts of the reward, from the next step on.

        Args:
            **weights: The weights by the name of the part: ``video``, ``frame``,
                ``env``, or the name of a model. A weight is a number, or a function of
                the number of steps that this wrapper has taken.

        Raises:
            ValueError: There is no such part, or a weight is not finite.
        """
        self._head.set_weights(weights)

    def compute_reward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises: hindsight relabelling asks for what no goal video can answer.

        Without this the call would reach the environment's own method, and a replay
        buffer would mix two rewards.
        """
        raise NotImplementedError(
            f"{type(self).__name__} pays for an episode as it was seen, and "
            "compute_reward() asks what a step would have earned for another goal: "
            "HerReplayBuffer and its like need the environment's own reward. Use an "
            "ordinary replay buffer"
        )

    def put_model(self, model: RewardModel[Any], weight: float, version: int) -> None:
        """Puts a model in the place of the one with its name, or beside the others.

        Args:
            model: The model, which pays from the next step on.
            weight: The weight of its score.
            version: The number in every step's info from now on.
        """
        self._head.put(model, weight, version)

    def snapshot(self) -> HostSnapshot:
        """The state of the reward in the middle of its episodes.

        With a snapshot of the environment's own state it is a checkpoint from which the
        same rewards follow. It costs nothing, and holds no weights.
        """
        head = self._head
        state, held = head.session.snapshot(), dict(head.held)
        return HostSnapshot(state, self._frames.last, self._ended, head.steps, held)

    def restore(self, snapshot: HostSnapshot) -> None:
        """Goes back to a snapshot of this wrapper, or of one like it.

        Raises:
            ValueError: It is of another goal, encoder or reward, or of another number
                of environments.
        """
        head = self._head
        head.session.restore(snapshot.session)
        self._frames.last, self._ended = snapshot.frames, snapshot.ended
        head.steps, head.held = snapshot.steps, dict(snapshot.held)
        if head.recorder is not None:
            head.recorder.drop()

    def save_state(self, path: str | PathLike[str], env_state: Any = None) -> None:
        """Saves the reward in the middle of its episodes, as a safetensors file.

        A run that is resumed from it pays the rewards that it would have paid if it had
        not been stopped. The environments' own state is known only to whoever uses
        them: give it as ``env_state``, and `load_state` returns it. Weights changed by
        `set_weights` are not saved.

        Args:
            path: The file to write.
            env_state: Anything else to keep in the file: arrays, tensors, numbers,
                texts and None, in dicts, lists and tuples.

        Raises:
            RuntimeError: There was no reset yet.
            TypeError: Something in the memory of a model or in ``env_state`` cannot be
                stored.
        """
        write_state(Path(path), self.snapshot(), env_state)

    def load_state(self, path: str | PathLike[str]) -> Any:
        """Resumes from what `save_state` saved. Call `reset` before.

        Returns:
            The ``env_state`` that was saved, to restore the environments from.

        Raises:
            RuntimeError: There was no reset yet.
            ValueError: The file is damaged, or it is the state of another goal, encoder
                or reward, or of another number of environments.
        """
        snapshot, env_state = read_state(Path(path), self.snapshot())
        self.restore(snapshot)
        return env_state

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses to set an argument's name, which would change nothing."""
        part = name.removesuffix("_weight")
        if name in ("weight", "weights") or (part != name and part in PRESET_PARTS):
            raise AttributeError(
                f"{name} is no attribute that can be set: call "
                f"set_weights({'video' if part == name else part}={value!r})"
            )
        super().__setattr__(name, value)

    def _play_randomly(self) -> None:
        """Takes some random steps, the same ones every time."""
        session = self._head.session
        space: spaces.Space[Any] = copy.deepcopy(self.action_space)  # type: ignore[attr-defined]
        space.seed(0)
        self._play(None)
        for _ in range(max(1, BALANCE_STEPS // session.num_envs)):
            self._play(space)

    def _states(self, observation: Any, axes: int = 1) -> Float32 | None:
        """(N, S) the numbers in an observation, if a model sees them.

        Args:
            observation: The observation of one environment (``axes=0``) or of all.
            axes: The number of axes before those of a single observation.
        """
        if not self.session.sees_states:
            return None
        states = flat_state(observation, axes)
        if states is None:
            raise ValueError(
                "the reward was trained on the environment's own numbers, and its "
                "observations hold none: make it with states in them (obs=dict)"
            )
        return states if axes else states[None]

    def _answers(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether a call through the environments was for this wrapper."""
        if name == "compute_reward":
            self.compute_reward()
        if name != "set_weights":
            return False
        self.set_weights(*args, **kwargs)
        return True

    def _marked(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata that say which wrapper pays a reward there."""
        return {**metadata, MARK: type(self).__name__}
