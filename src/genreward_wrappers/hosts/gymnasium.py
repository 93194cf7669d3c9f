"""The host for single environments: `gymnasium.Wrapper` over a `Session` of one row."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from genreward_wrappers.core import UInt8, weigh
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


class GymnasiumHost(
    gym.Wrapper[Any, Any, Any, Any],
    RecordConstructorArgs,
    Host,
):
    """Scores every step of one environment."""

    def _attach(
        self,
        env: gym.Env[Any, Any],
        build: Build,
        arguments: dict[str, Any],
    ) -> None:
        self._check_kind(env, gym.Env, "gymnasium.Env")
        # Goals and models are immutable and may be large: recorded, not copied.
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **arguments)
        gym.Wrapper.__init__(self, env)
        facts = facts_of(env, arguments["horizon"])
        self._horizon = facts.horizon
        self._observe = observe = arguments["observe"]
        check_observe(observe, self._horizon)
        self._source = find_source(
            arguments["frames"],
            env.observation_space,
            render_mode=env.render_mode,
            metadata=env.metadata,
        )
        if observe:
            self.observation_space = extend_space(env.observation_space)
        self._bind(build(facts), arguments, 1, facts)
        self._last = np.zeros((1, 0, 0, 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environment and begins a new episode of the reward."""
        observation, info = self.env.reset(seed=seed, options=options)
        frame, info = self._frame(observation, info, wanted=True)
        self.session.begin(frame, seed=seed, states=self._states(observation, 0))
        self._note_begin(frame[0])
        notes = {key: values[0].item() for key, values in self.session.notes().items()}
        return self._observation(observation), {**info, **notes}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment and adds the scores to its reward."""
        self.session.check_running()
        observation, env_reward, terminated, truncated, info = self.env.step(action)
        wanted = bool(self.session.wanted)
        frame, info = self._frame(observation, info, wanted)
        scores = self.session.score(
            np.asarray(action)[None],
            frame,
            np.array([terminated]),
            np.array([truncated]),
            next_states=self._states(observation, 0),
        )
        self._note(
            scores,
            action,
            frame[0] if wanted else None,
            float(env_reward),
            succeeded(info),
            terminated,
            truncated,
        )
        reward = weigh(env_reward, self._env_weight, scores, self._weights)
        info = {**info, "reward_env": float(env_reward)}
        for name, score in scores.items():
            info[f"reward_{name}"] = float(score.value[0])
            info[f"reward_{name}_due"] = bool(score.due[0])
        observation = self._observation(observation)
        return observation, float(reward[0]), terminated, truncated, info

    def _frame(
        self, observation: Any, info: dict[str, Any], wanted: bool
    ) -> tuple[UInt8, dict[str, Any]]:
        """The frame of this step as a batch of one, and info without tapped frames."""
        frame: Any
        if self._source.kind == "info":
            key = self._source.key
            assert key is not None
            frame = info.get(key)
            if key == TAP and frame is not None:
                info = {name: value for name, value in info.items() if name != TAP}
            if frame is None and wanted:
                raise KeyError(
                    f"the reward wants the frame of step {self.session.steps[0] + 1} "
                    f"and info[{key!r}] is not there, only {sorted(info)}: tap with "
                    "the length= of the reward"
                )
        elif self._source.kind == "obs":
            frame = self._source.of_observation(observation)
        else:
            frame = self.env.render() if wanted else None
        if frame is None:
            return self._last, info
        if not isinstance(frame, np.ndarray):
            raise TypeError(
                "expected one uint8 frame of shape (height, width, 3), got "
                f"{type(frame).__name__}"
            )
        self._last = frame[None]
        return self._last, info

    def _observation(self, observation: Any) -> Any:
        if not self._observe:
            return observation
        assert self._horizon is not None
        progress = position_in_clip(self.session.steps, self._horizon)
        return extend(self.env.observation_space, observation, progress)

    def __reduce__(self) -> tuple[Any, ...]:
        # Models are made anew where the pickle is opened, on the device that is there:
        # worker processes get names of weights, not weights.
        return _rebuild, (type(self), self.env, self._saved_kwargs)


def _rebuild(
    cls: type[GymnasiumHost], env: gym.Env[Any, Any], arguments: dict[str, Any]
) -> GymnasiumHost:
    make: Any = cls
    wrapper: GymnasiumHost = make(env, **arguments)
    return wrapper


def facts_of(env: gym.Env[Any, Any], horizon: int | None) -> EnvFacts:
    """What is to be known about one environment."""
    spec = env.spec
    return EnvFacts(
        env_id=spec.id if spec else None,
        horizon=known_horizon(horizon, spec),
        camera=env.metadata.get("camera"),
        action_space=env.action_space,
    )


class RewardModelWrapper(RewardModelRecipe, GymnasiumHost):
    """Rewards an agent by any `RewardModel`.

    Example:
        >>> import gymnasium as gym
        >>> from genreward_wrappers import RewardModelWrapper
        >>> from genreward_wrappers.testing import Brightness, PointMass
        >>> env = RewardModelWrapper(PointMass(), Brightness())
        >>> _ = env.reset(seed=0)
        >>> *_, info = env.step(env.action_space.sample())
        >>> sorted(key for key in info if key.startswith("reward"))
        ['reward_brightness', 'reward_brightness_due', 'reward_env']
    """


class VideoLevelReward(VideoLevelRecipe, GymnasiumHost):
    """Rewards an agent for following a goal video.

    Example:
        >>> from genreward_wrappers import VideoLevelReward, make
        >>> env = VideoLevelReward(make("metaworld/pick-place"), encoder="pixels")
        >>> _ = env.reset(seed=0)
        >>> _, reward, _, _, info = env.step(env.action_space.sample())
        >>> bool(reward == info["reward_video"]), info["reward_video_due"]
        (True, True)
        >>> env.close()
    """


class FrameLevelReward(FrameLevelRecipe, GymnasiumHost):
    """Rewards an agent for actions that lead to a goal video's key frame."""


class GenRewardWrapper(GenRewardRecipe, GymnasiumHost):
    """Both rewards of GenReward and the environment's own, weighted.

    Example:
        >>> from genreward_wrappers import GenRewardWrapper, make
        >>> env = GenRewardWrapper(make("metaworld/pick-place"), frame_weight=0)
        >>> _ = env.reset(seed=0)
        >>> _, reward, _, _, info = env.step(env.action_space.sample())
        >>> bool(reward == info["reward_env"] + info["reward_video"])
        True
        >>> env.close()
    """
