"""The host for stable-baselines3: a `VecEnvWrapper` over a session of N rows.

Its vector environments reset a row within its last step, whose true observation is in
``terminal_observation``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
except ImportError as error:
    raise ImportError(
        "genreward_wrappers.sb3 needs stable-baselines3: "
        'pip install "genreward-wrappers[sb3]"'
    ) from error

from genreward_wrappers.core import Bool, RewardModel, UInt8, weigh
from genreward_wrappers.data.episodes import succeeded
from genreward_wrappers.data.frames import TAP, find_source, position_in_clip
from genreward_wrappers.hosts.recipes import (
    Build,
    EnvFacts,
    FrameLevelRecipe,
    GenRewardRecipe,
    Host,
    RewardModelRecipe,
    VideoLevelRecipe,
    known_horizon,
)
from genreward_wrappers.hosts.time_feature import check_observe, extend, extend_space

__all__ = [
    "VecFrameLevelReward",
    "VecGenReward",
    "VecRewardModel",
    "VecVideoLevelReward",
]


class SB3Host(VecEnvWrapper, Host):  # type: ignore[misc]
    """Scores every step of a stable-baselines3 vector environment."""

    def _attach(
        self,
        env: VecEnv,
        build: Build,
        arguments: dict[str, Any],
    ) -> None:
        self._check_kind(env, VecEnv, "stable_baselines3 VecEnv")
        facts = facts_of(env, arguments["horizon"])
        observe = arguments["observe"]
        check_observe(observe, facts.horizon)
        source = find_source(
            arguments["frames"],
            env.observation_space,
            render_mode=env.render_mode,
            metadata=env.get_attr("metadata")[0],
        )
        if source.kind == "render":
            raise ValueError(
                "frames from render() cannot be used in stable-baselines3's vector "
                "environments: after the last step of an episode render() shows the "
                "next one. Use pixel observations, or TapFrames in each environment"
            )
        space = extend_space(env.observation_space) if observe else None
        VecEnvWrapper.__init__(self, env, observation_space=space)
        self._horizon, self._observe = facts.horizon, observe
        self._source = source
        self._bind(build(facts), arguments, env.num_envs, facts)
        self._versions: dict[str, int] = {}
        self._actions: NDArray[Any] | None = None
        self._last: UInt8 = np.zeros((env.num_envs, 0, 0, 3), np.uint8)

    def put_model(self, model: RewardModel[Any], weight: float, version: int) -> None:
        """Puts a model in the place of the one with its name, or beside the others.

        Args:
            model: Pays from the next step on.
            weight: Of its score.
            version: What every step's info says of it from now on.
        """
        self.session.put(model)
        self._weights[model.name] = float(weight)
        self._versions[model.name] = version

    def reset(self) -> Any:
        """Resets all environments and begins new episodes of the reward."""
        # Used up by the reset, and the reward's noise follows them.
        seeds = list(self.venv.unwrapped._seeds)
        observations = self.venv.reset()
        everyone = np.ones(self.num_envs, np.bool_)
        frames = self._frames(observations, self._reset_infos(), everyone)
        self.session.begin(frames, seed=seeds, states=self._states(observations))
        self._note_begin(frames[0])
        self._write_notes(everyone)
        return self._observations(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Remembers the actions, which the reward may ask about."""
        self.session.check_running()
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(
        self,
    ) -> tuple[Any, NDArray[np.float32], Bool, list[dict[str, Any]]]:
        """Adds the scores to the rewards."""
        wanted = self.session.wanted
        observations, env_rewards, dones, infos = self.venv.step_wait()
        infos = list(infos)
        ended = np.asarray(dones, np.bool_)
        cut = np.array([bool(info.get("TimeLimit.truncated")) for info in infos])
        # In a row that ended, info belongs to the last step: its frame is the true
        # last one, and that of the new episode is in reset_infos.
        frames = self._frames(observations, infos, wanted)
        next_frames = frames
        if ended.any() and self._source.kind == "obs":
            next_frames = np.array(frames)
            for row in np.flatnonzero(ended).tolist():
                next_frames[row] = self._source.of_observation(
                    infos[row]["terminal_observation"]
                )
        assert self._actions is not None
        scores = self.session.score(
            self._actions,
            next_frames,
            ended & ~cut,
            ended & cut,
            next_states=self._states(observations),
        )
        self._note(
            scores,
            self._actions[0],
            next_frames[0] if wanted[0] else None,
            float(env_rewards[0]),
            succeeded(infos[0]),
            bool(ended[0] and not cut[0]),
            bool(ended[0] and cut[0]),
        )
        if ended.any():
            if self._observe:
                self._extend_terminal(infos, ended)
            begun = self._frames(observations, self._reset_infos(), ended, only=ended)
            self.session.begin(begun, ended, states=self._states(observations))
            if ended[0]:
                self._note_begin(begun[0])
            self._write_notes(ended)
        rewards = weigh(env_rewards, self._env_weight, scores, self._weights)
        for row, info in enumerate(infos):
            info["reward_env"] = float(env_rewards[row])
            for name, score in scores.items():
                info[f"reward_{name}"] = float(score.value[row])
                info[f"reward_{name}_due"] = bool(score.due[row])
            for name, version in self._versions.items():
                info[f"reward_{name}_version"] = version
        return (
            self._observations(observations),
            rewards.astype(np.float32),
            dones,
            infos,
        )

    def _frames(
        self,
        observations: Any,
        infos: list[dict[str, Any]],
        wanted: Bool,
        only: Bool | None = None,
    ) -> UInt8:
        """(N, H, W, 3); rows without a frame, or not in ``only``, keep the one before.

        The infos of a reset stay around for the whole episode, hence ``only``.
        """
        if self._source.kind == "obs":
            frames: UInt8 = self._source.of_observation(observations)
            return frames
        key = self._source.key
        assert key is not None
        found: list[Any] = [
            info.get(key) if only is None or only[row] else None
            for row, info in enumerate(infos)
        ]
        if key == TAP:
            for info in infos:
                info.pop(TAP, None)
        missing = [
            row for row, frame in enumerate(found) if frame is None and wanted[row]
        ]
        if missing:
            raise KeyError(
                f"the reward wants the frames of environments {missing} and "
                f"info[{key!r}] does not hold them: tap with the length= of the reward"
            )
        rows = [row for row, frame in enumerate(found) if frame is not None]
        if not rows:
            return self._last
        if self._last.shape[1:] != np.shape(found[rows[0]]):
            self._last = np.zeros(
                (self.num_envs, *np.shape(found[rows[0]])),
                np.asarray(found[rows[0]]).dtype,
            )
        self._last = np.array(self._last)
        for row in rows:
            self._last[row] = found[row]
        return self._last

    def _write_notes(self, begun: Bool) -> None:
        """Adds what the models note of the episodes that begin to their reset_infos."""
        notes = self.session.notes()
        for row in np.flatnonzero(begun).tolist():
            own = {key: values[row].item() for key, values in notes.items()}
            self._reset_infos()[row].update(own)

    def _reset_infos(self) -> list[dict[str, Any]]:
        infos: Any = self.venv.unwrapped.reset_infos
        return list(infos)

    def _extend_terminal(self, infos: list[dict[str, Any]], ended: Bool) -> None:
        assert self._horizon is not None
        progress = position_in_clip(self.session.steps, self._horizon)
        for row in np.flatnonzero(ended).tolist():
            infos[row]["terminal_observation"] = extend(
                self.venv.observation_space,
                infos[row]["terminal_observation"],
                progress[row : row + 1],
            )

    def _observations(self, observations: Any) -> Any:
        if not self._observe:
            return observations
        assert self._horizon is not None
        progress = position_in_clip(self.session.steps, self._horizon)[:, None]
        return extend(self.venv.observation_space, observations, progress)


def facts_of(venv: VecEnv, horizon: int | None) -> EnvFacts:
    """What is to be known about the environments inside."""
    spec = venv.get_attr("spec")[0]
    metadata = venv.get_attr("metadata")[0]
    return EnvFacts(
        env_id=spec.id if spec else None,
        horizon=known_horizon(horizon, spec),
        camera=metadata.get("camera"),
        action_space=venv.action_space,
    )


class VecRewardModel(RewardModelRecipe, SB3Host):
    """Rewards the agents of a stable-baselines3 `VecEnv` by any `RewardModel`."""


class VecVideoLevelReward(VideoLevelRecipe, SB3Host):
    """Rewards the agents of a `VecEnv` for following a goal video."""


class VecFrameLevelReward(FrameLevelRecipe, SB3Host):
    """Rewards the agents of a `VecEnv` for leading to the key frame."""


class VecGenReward(GenRewardRecipe, SB3Host):
    """Both rewards of GenReward and the environments' own, weighted."""
