"""The host for single environments: `gymnasium.Wrapper` over a session of one row."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, UInt8
from genreward_wrappers.data.episodes import succeeded
from genreward_wrappers.data.frames import TAP
from genreward_wrappers.hosts.attach import Inside
from genreward_wrappers.hosts.host import Host


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
            num_envs=1,
        )

    def _wrap(self, env: gym.Env[Any, Any], space: spaces.Space[Any] | None) -> None:
        gym.Wrapper.__init__(self, env)
        self.metadata = self._marked(env.metadata)
        if space is not None:
            self.observation_space = space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environment and begins a new episode of the reward."""
        observation, info = self.env.reset(seed=seed, options=options)
        frames = self._look(observation, info, np.ones(1, np.bool_))
        self._head.begin(frames, seed=seed, states=self._states(observation, 0))
        # The keys of a step, with nothing paid yet.
        info = self._told(info, self._head.opening())
        return self._progress.add(observation, self.session.steps[0]), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment, and pays."""
        self.session.check_running()
        observation, env_reward, terminated, truncated, info = self.env.step(action)
        paid = self._head.pay(
            np.asarray(action)[None],
            self._look(observation, info, self.session.wanted),
            np.array([env_reward], np.float64),
            np.array([terminated], np.bool_),
            np.array([truncated], np.bool_),
            next_states=self._states(observation, 0),
            success=succeeded(info),
        )
        info = self._told(info, paid.infos)
        observation = self._progress.add(observation, self.session.steps[0])
        return observation, float(paid.rewards[0]), terminated, truncated, info

    def _look(self, observation: Any, info: dict[str, Any], wanted: Bool) -> UInt8:
        """The frame of this step as a batch of one."""
        return self._frames.take(
            observation,
            wanted,
            self.session.steps,
            infos=lambda key: [info.get(key)],
            render=lambda: [self.env.render()],
            axes=0,
        )

    def _told(
        self, info: dict[str, Any], logged: dict[str, NDArray[Any]]
    ) -> dict[str, Any]:
        """The info with what the reward says, and without frames tapped for it."""
        told = {**info, **{key: _only(values) for key, values in logged.items()}}
        if self._frames.source.key == TAP:
            told.pop(TAP, None)
        return told

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
