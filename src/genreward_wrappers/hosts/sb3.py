"""The host for stable-baselines3: a `VecEnvWrapper` over a session of N rows.

Its vector environments reset a row within its last step, whose true observation is in
``terminal_observation``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from genreward_wrappers.core import Bool, Float32, UInt8
from genreward_wrappers.data.episodes import succeeded
from genreward_wrappers.hosts import sb3_infos
from genreward_wrappers.hosts.attach import Inside
from genreward_wrappers.hosts.host import Host


class SB3Host(Host, VecEnvWrapper):  # type: ignore[misc]
    """Scores every step of a stable-baselines3 vector environment."""

    _kind = (VecEnv, "stable_baselines3 VecEnv")

    def _inside(self, env: VecEnv) -> Inside:
        self._processes, inside = sb3_infos.look_inside(env, type(self).__name__)
        return inside

    def _wrap(self, env: VecEnv, space: spaces.Space[Any] | None) -> None:
        VecEnvWrapper.__init__(self, env, observation_space=space)

    def reset(self) -> Any:
        """Resets all environments and begins new episodes of the reward."""
        # Used up by the reset, and the reward's noise follows them.
        seeds = list(self.venv.unwrapped._seeds)
        observations = self.venv.reset()
        self._begin(observations, self._everyone, seeds)
        return self._progress.add(observations, self.session.steps)

    def step_async(self, actions: Any) -> None:
        """Remembers the actions, which the reward may ask about."""
        self.session.check_running()
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, Float32, Bool, list[dict[str, Any]]]:
        """Pays."""
        observations, env_rewards, dones, infos = self.venv.step_wait()
        infos, ended = list(infos), np.asarray(dones, np.bool_)
        cut = np.array([bool(info.get("TimeLimit.truncated")) for info in infos])
        # In a row that ended, info belongs to the last step: its frame is the true
        # last one, and that of the new episode is in reset_infos.
        frames = self._look(observations, infos, self.session.wanted)
        if self._frames.source.kind == "obs":
            last_frame = sb3_infos.last_frame(infos, self._frames)
            frames = self._frames.put_last(ended, last_frame)
        paid = self._head.pay(
            self._actions,
            frames,
            env_rewards,
            ended & ~cut,
            ended & cut,
            next_states=self._states(observations),
            success=succeeded(infos[0]),
        )
        for row in np.flatnonzero(ended).tolist():
            info, steps = infos[row], self.session.steps[row]
            self._progress.add_in(info, "terminal_observation", steps)
        if np.count_nonzero(ended):
            self._begin(observations, ended)
        sb3_infos.add(infos, paid.infos, self._everyone)
        observations = self._progress.add(observations, self.session.steps)
        return observations, paid.rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Closes the environments; workers do not wait for one that has died."""
        sb3_infos.let_go_of_dead(self._processes, self.venv)
        super().close()

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> Any:
        """Calls a method of the environments, or one of this wrapper's own."""
        if self._answers(method_name, args, kwargs):
            return [None] * self.num_envs
        return self.venv.env_method(method_name, *args, indices=indices, **kwargs)

    def _begin(self, observations: Any, rows: Bool, seeds: Any = None) -> None:
        """Begins episodes in some rows, whose infos get the models' notes."""
        infos = self.venv.unwrapped.reset_infos
        # Those of other rows are of an episode that has gone on since.
        new = [info if row else {} for info, row in zip(infos, rows, strict=True)]
        frames = self._look(observations, new, rows)
        self._head.begin(frames, rows, seeds, self._states(observations))
        sb3_infos.add(infos, self.session.notes(), rows)

    def _look(self, observations: Any, infos: Any, wanted: Bool) -> UInt8:
        """(N, H, W, 3) the frames beside the observations."""
        return self._frames.take(
            observations,
            wanted,
            self.session.steps,
            infos=lambda key: sb3_infos.rows(infos, key),
            render=self.venv.render,
        )

    def _play(self, actions: spaces.Space[Any] | None) -> None:
        if actions is not None:
            self.step(np.stack([actions.sample() for _ in range(self.num_envs)]))
            return
        # What a user has seeded is used up by the first reset.
        seeds = list(self.venv.unwrapped._seeds)
        self.venv.seed(0)
        self.reset()
        self.venv.unwrapped._seeds = seeds
