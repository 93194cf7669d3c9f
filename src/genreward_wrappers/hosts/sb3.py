"""The host for stable-baselines3: a `VecEnvWrapper` over a session of N rows.

Its vector environments reset a row within its last step, whose true observation is in
``terminal_observation``.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

try:
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
except ImportError as error:
    raise ImportError(
        "genreward_wrappers.sb3 needs stable-baselines3: "
        'pip install "genreward-wrappers[sb3]"'
    ) from error

from genreward_wrappers.core import Bool, UInt8
from genreward_wrappers.data.episodes import succeeded
from genreward_wrappers.data.frames import TAP, spoiled
from genreward_wrappers.hosts.host import MARK, Host, Inside


class SB3Host(Host, VecEnvWrapper):  # type: ignore[misc]
    """Scores every step of a stable-baselines3 vector environment."""

    _kind = (VecEnv, "stable_baselines3 VecEnv")

    def _inside(self, env: VecEnv) -> Inside:
        metadata = dict(env.get_attr("metadata")[0])
        around: Any = env
        while isinstance(around, VecEnvWrapper):
            if isinstance(around, SB3Host):
                metadata[MARK] = type(around).__name__
            around = around.venv
        self._processes = tuple(getattr(around, "processes", ()))
        if any(getattr(p, "_start_method", "") == "fork" for p in self._processes):
            warnings.warn(
                'SubprocVecEnv(start_method="fork") waits for ever when a worker dies, '
                'and its workers cannot draw: use start_method="forkserver"',
                UserWarning,
                stacklevel=4,
            )
        return Inside(
            next(iter(getattr(around, "envs", ())), None),
            env.get_attr("spec")[0],
            metadata,
            env.observation_space,
            env.action_space,
            env.render_mode,
            env.num_envs,
        )

    def _check(self, inside: Inside) -> None:
        if self._frames.source.kind == "render":
            cause = spoiled(inside.observation_space)
            raise ValueError(
                (
                    f"{cause}. Put {type(self).__name__} below VecFrameStack, "
                    "VecTransposeImage and VecNormalize, and those around it: "
                    if cause
                    else ""
                )
                + "frames from render() cannot be used in stable-baselines3's vector "
                "environments: after the last step of an episode render() shows the "
                "next one. Use pixel observations, or TapFrames in each environment"
            )

    def _wrap(self, env: VecEnv, space: spaces.Space[Any] | None) -> None:
        VecEnvWrapper.__init__(self, env, observation_space=space)
        self._actions: NDArray[Any] | None = None

    def reset(self) -> Any:
        """Resets all environments and begins new episodes of the reward."""
        # Used up by the reset, and the reward's noise follows them.
        seeds = list(self.venv.unwrapped._seeds)
        observations = self.venv.reset()
        everyone = np.ones(self.num_envs, np.bool_)
        frames = self._look(observations, self._reset_infos(), everyone)
        self._head.begin(frames, seed=seeds, states=self._states(observations))
        self._write_notes(everyone)
        return self._observed(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Remembers the actions, which the reward may ask about."""
        self.session.check_running()
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(
        self,
    ) -> tuple[Any, NDArray[np.float32], Bool, list[dict[str, Any]]]:
        """Pays."""
        wanted = self.session.wanted
        observations, env_rewards, dones, infos = self.venv.step_wait()
        infos = list(infos)
        ended = np.asarray(dones, np.bool_)
        cut = np.array([bool(info.get("TimeLimit.truncated")) for info in infos])
        # In a row that ended, info belongs to the last step: its frame is the true
        # last one, and that of the new episode is in reset_infos.
        frames = self._look(observations, infos, wanted)
        next_frames, source = frames, self._frames.source
        if ended.any() and source.kind == "obs":
            next_frames = np.array(frames)
            for row in np.flatnonzero(ended).tolist():
                last = source.of_observation(infos[row]["terminal_observation"])
                next_frames[row] = self._frames.checked(last)
        assert self._actions is not None
        paid = self._head.pay(
            self._actions,
            next_frames,
            env_rewards,
            ended & ~cut,
            ended & cut,
            next_states=self._states(observations),
            looked=bool(wanted[0]),
            success=succeeded(infos[0]),
        )
        if ended.any():
            for row in np.flatnonzero(ended).tolist():
                infos[row]["terminal_observation"] = self._observed(
                    infos[row]["terminal_observation"], slice(row, row + 1), axes=0
                )
            begun = self._look(observations, self._reset_infos(), ended, only=ended)
            self._head.begin(begun, ended, states=self._states(observations))
            self._write_notes(ended)
        for row, info in enumerate(infos):
            info.update({key: value[row].item() for key, value in paid.infos.items()})
        rewards = paid.rewards.astype(np.float32)
        return self._observed(observations), rewards, dones, infos

    def close(self) -> None:
        """Closes the environments; workers do not wait for one that has died."""
        if any(not process.is_alive() for process in self._processes):
            for process in self._processes:
                process.terminate()
            self.venv.unwrapped.closed = True
        super().close()

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> Any:
        """Calls a method of the environments, or one of this wrapper's own."""
        if method_name == "compute_reward":
            self.compute_reward()
        if method_name == "set_weights":
            self.set_weights(*args, **kwargs)
            return [None] * self.num_envs
        return self.venv.env_method(method_name, *args, indices=indices, **kwargs)

    def _look(
        self,
        observations: Any,
        infos: list[dict[str, Any]],
        wanted: Bool,
        only: Bool | None = None,
    ) -> UInt8:
        """(N, H, W, 3); rows without a frame, or not in ``only``, keep the one before.

        The infos of a reset stay around for the whole episode, hence ``only``.
        """
        source = self._frames.source
        if source.kind == "obs":
            return self._frames.batch(source.of_observation(observations))
        found: list[Any] = [
            info.get(str(source.key)) if only is None or only[row] else None
            for row, info in enumerate(infos)
        ]
        if source.key == TAP:
            for info in infos:
                info.pop(TAP, None)
        return self._frames.rows(found, wanted, self.session.steps)

    def _write_notes(self, begun: Bool) -> None:
        """Adds what the models note of the episodes that begin to their reset_infos."""
        notes = self.session.notes()
        for row in np.flatnonzero(begun).tolist():
            own = {key: values[row].item() for key, values in notes.items()}
            self._reset_infos()[row].update(own)

    def _reset_infos(self) -> list[dict[str, Any]]:
        infos: Any = self.venv.unwrapped.reset_infos
        return list(infos)

    def _play_randomly(self) -> None:
        # What a user has seeded is used up by the first reset.
        seeds = list(self.venv.unwrapped._seeds)
        super()._play_randomly()
        self.venv.unwrapped._seeds = seeds

    def _play(self, actions: spaces.Space[Any] | None) -> None:
        if actions is None:
            self.venv.seed(0)
            self.reset()
        else:
            self.step(np.stack([actions.sample() for _ in range(self.num_envs)]))
