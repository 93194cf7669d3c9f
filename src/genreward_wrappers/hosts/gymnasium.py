"""The host for single environments: `gymnasium.Wrapper` over a session of one row."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.episodes import succeeded
from genreward_wrappers.data.frames import TAP
from genreward_wrappers.hosts.host import Host, Inside, marked


class GymnasiumHost(Host, gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Scores every step of one environment."""

    _kind = (gym.Env, "gymnasium.Env")

    def _inside(self, env: gym.Env[Any, Any]) -> Inside:
        return Inside(
            env,
            env.spec,
            env.metadata,
            env.observation_space,
            env.action_space,
            env.render_mode,
            1,
        )

    def _wrap(self, env: gym.Env[Any, Any], space: spaces.Space[Any] | None) -> None:
        gym.Wrapper.__init__(self, env)
        self.metadata = marked(env.metadata, self)
        if space is not None:
            self.observation_space = space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environment and begins a new episode of the reward."""
        observation, info = self.env.reset(seed=seed, options=options)
        frames, info = self._look(observation, info, wanted=True)
        self._head.begin(frames, seed=seed, states=self._states(observation, 0))
        # The keys of a step, with nothing paid yet.
        opening = {key: _only(values) for key, values in self._head.opening().items()}
        return self._observed(observation, axes=0), {**info, **opening}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment, and pays."""
        self.session.check_running()
        observation, env_reward, terminated, truncated, info = self.env.step(action)
        wanted = bool(self.session.wanted)
        frames, info = self._look(observation, info, wanted)
        paid = self._head.pay(
            np.asarray(action)[None],
            frames,
            np.array([env_reward], np.float64),
            np.array([terminated], np.bool_),
            np.array([truncated], np.bool_),
            next_states=self._states(observation, 0),
            looked=wanted,
            success=succeeded(info),
        )
        info = {**info, **{key: _only(values) for key, values in paid.infos.items()}}
        observation = self._observed(observation, axes=0)
        return observation, float(paid.rewards[0]), terminated, truncated, info

    def _look(
        self, observation: Any, info: dict[str, Any], wanted: bool
    ) -> tuple[UInt8, dict[str, Any]]:
        """The frame of this step as a batch of one, and info without tapped frames."""
        source = self._frames.source
        frame: Any = None
        if source.kind == "obs":
            frame = source.of_observation(observation)
        elif source.kind == "info":
            frame = info.get(str(source.key))
            if source.key == TAP:
                info = {name: value for name, value in info.items() if name != TAP}
        elif wanted:
            frame = self.env.render()
        found = self._frames.rows([frame], np.array([wanted]), self.session.steps)
        return found, info

    def _play(self, actions: spaces.Space[Any] | None) -> None:
        if actions is None or not self.session.running.all():
            self.reset(seed=0 if actions is None else None)
        if actions is not None:
            self.step(actions.sample())

    def __reduce__(self) -> tuple[Any, ...]:
        # Models are made anew where the pickle is opened, on the device that is there:
        # worker processes get names of weights, not weights.
        return _rebuild, (type(self), self.env, self._saved_kwargs)


def _only(values: NDArray[Any]) -> Any:
    """The value of a batch of one, with numpy's type and shape, as TorchRL needs it.

    A bool stays an array, of no axes: Gymnasium's vector environments would keep
    numpy's own bools as objects.
    """
    return values[0, ...] if values.dtype == np.bool_ else values[0]


def _rebuild(
    cls: type[GymnasiumHost], env: gym.Env[Any, Any], arguments: dict[str, Any]
) -> GymnasiumHost:
    make: Any = cls
    wrapper: GymnasiumHost = make(env, **arguments)
    return wrapper
