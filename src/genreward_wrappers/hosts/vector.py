"""The host for `gymnasium.vector`: N environments, one session, one model.

What differs from a single environment is how episodes follow one another. NEXT_STEP
resets a row in the step after its last one, which is then no transition at all.
SAME_STEP resets it within the last one, whose true frame is in ``final_obs``. DISABLED
leaves it to the user and ``reset_mask``. Whatever the mode, the rewards are those that
the single wrapper would give inside each environment; that is the central test.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from genreward_wrappers.core import Bool, UInt8, weigh
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
    "FrameLevelReward",
    "GenRewardWrapper",
    "RewardModelWrapper",
    "VideoLevelReward",
]


class VectorHost(
    VectorWrapper[Any, Any, Any, Any, Any],
    RecordConstructorArgs,
    Host,
):
    """Scores every step of a vector environment."""

    def _attach(
        self,
        env: VectorEnv[Any, Any, Any],
        build: Build,
        arguments: dict[str, Any],
    ) -> None:
        self._check_kind(env, VectorEnv, "gymnasium.vector.VectorEnv")
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **arguments)
        VectorWrapper.__init__(self, env)
        self._mode = _autoreset_mode(env)
        facts = facts_of(env, arguments["horizon"])
        self._horizon = facts.horizon
        self._observe = observe = arguments["observe"]
        check_observe(observe, self._horizon)
        self._source = find_source(
            arguments["frames"],
            env.single_observation_space,
            render_mode=env.render_mode,
            metadata=env.metadata,
        )
        if self._source.kind == "render" and self._mode == AutoresetMode.SAME_STEP:
            raise ValueError(
                "frames from render() cannot be used under AutoresetMode.SAME_STEP: "
                "after the last step of an episode render() shows the next one. Use "
                "pixel observations, TapFrames in each environment, or "
                "AutoresetMode.NEXT_STEP"
            )
        if observe:
            self.single_observation_space = extend_space(env.single_observation_space)
            self.observation_space = batch_space(
                self.single_observation_space, env.num_envs
            )
        self._bind(build(facts), arguments, env.num_envs, facts)
        self._ended = np.zeros(env.num_envs, np.bool_)
        self._last = np.zeros((env.num_envs, 0, 0, 3), np.uint8)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all environments, or those in ``options["reset_mask"]``."""
        mask: Bool = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            # Read before it is forwarded: the environment takes it out of the options.
            mask = np.array(options["reset_mask"], np.bool_)
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        frames = self._frames(observations, infos, mask)
        self.session.begin(frames, mask, seed, self._states(observations))
        self._ended = self._ended & ~mask
        if mask[0]:
            self._note_begin(frames[0])
        return self._observations(observations), self._with_notes(infos, mask)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all environments and adds the scores to their rewards."""
        # A row that NEXT_STEP is about to reset has no transition in this step.
        resetting = self._ended & (self._mode == AutoresetMode.NEXT_STEP)
        self.session.check_running(~resetting)
        wanted = self.session.wanted | resetting
        observations, env_rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.asarray(terminated | truncated)
        frames = self._frames(observations, infos, wanted, ended)
        next_frames = frames
        if self._mode == AutoresetMode.SAME_STEP and ended.any():
            next_frames = self._final_frames(frames, infos, ended & wanted)
        scores = self.session.score(
            np.asarray(actions),
            next_frames,
            np.asarray(terminated),
            np.asarray(truncated),
            active=~resetting,
            # Where a row ended it is the next episode that these belong to, which
            # begins below.
            next_states=self._states(observations),
        )
        # What is noted of an autoreset row is dropped by the episode that begins.
        self._note(
            scores,
            np.asarray(actions)[0],
            next_frames[0] if wanted[0] else None,
            float(env_rewards[0]),
            _success(
                infos.get("final_info", {})
                if ended[0] and self._mode == AutoresetMode.SAME_STEP
                else infos
            ),
            bool(terminated[0]),
            bool(truncated[0]),
        )
        if self._mode == AutoresetMode.SAME_STEP:
            resetting = ended
            if self._observe and ended.any():
                self._extend_final(infos, ended)
        if resetting.any():
            self.session.begin(frames, resetting, states=self._states(observations))
            if resetting[0]:
                self._note_begin(frames[0])
        self._ended = ended
        rewards = weigh(env_rewards, self._env_weight, scores, self._weights)
        # As in `VectorEnv._add_info`: each key beside a mask of the rows that have it.
        # An autoreset row has no scores, as the single wrapper's reset has none.
        has = (
            ~resetting if self._mode == AutoresetMode.NEXT_STEP else np.ones_like(ended)
        )
        logged = {"reward_env": np.where(has, env_rewards, 0.0)}
        for name, score in scores.items():
            logged[f"reward_{name}"] = score.value.astype(np.float64)
            logged[f"reward_{name}_due"] = score.due
        infos = {**infos, **logged, **{f"_{key}": has for key in logged}}
        if resetting.any():
            infos = self._with_notes(infos, resetting)
        return self._observations(observations), rewards, terminated, truncated, infos

    def _frames(
        self,
        observations: Any,
        infos: dict[str, Any],
        wanted: Bool,
        ended: Bool | None = None,
    ) -> UInt8:
        """(N, H, W, 3) the frames beside the observations.

        Rows that have none keep the one before; nobody will look at them.
        """
        frames: Any
        if self._source.kind == "obs":
            frames = self._source.of_observation(observations)
        elif self._source.kind == "render":
            if not wanted.any():
                return self._last
            frames = np.stack(self.env.render())  # type: ignore[arg-type]
        else:
            key = self._source.key
            assert key is not None
            frames = infos.get(key)
            there = infos.get(f"_{key}", np.zeros(self.num_envs, np.bool_))
            if key == TAP:
                infos.pop(key, None)
                infos.pop(f"_{key}", None)
            missing = wanted & ~there
            if ended is not None and self._mode == AutoresetMode.SAME_STEP:
                # Their frames are in final_info.
                missing = missing & ~ended
            if missing.any():
                raise KeyError(
                    f"the reward wants the frames of environments "
                    f"{np.flatnonzero(missing).tolist()} and info[{key!r}] does not "
                    "hold them: tap with the length= of the reward"
                )
            if frames is None:
                return self._last
            if self._last.shape == frames.shape:
                frames = np.where(there[:, None, None, None], frames, self._last)
        self._last = frames
        return self._last

    def _final_frames(self, frames: UInt8, infos: dict[str, Any], rows: Bool) -> UInt8:
        """The frames with those of the rows that ended put back to their true last."""
        final = np.array(frames)
        for row in np.flatnonzero(rows):
            if self._source.kind == "obs":
                last = self._source.of_observation(infos["final_obs"][row])
            else:
                key = self._source.key
                last = infos["final_info"][key][row]
            final[row] = last
        if self._source.key == TAP:
            infos.get("final_info", {}).pop(TAP, None)
            infos.get("final_info", {}).pop(f"_{TAP}", None)
        return final

    def _with_notes(self, infos: dict[str, Any], begun: Bool) -> dict[str, Any]:
        """The infos with what the models note of the episodes that begin."""
        noted = {}
        for key, values in self.session.notes().items():
            noted[key] = np.where(begun, values, np.zeros_like(values))
            noted[f"_{key}"] = begun
        return {**infos, **noted}

    def _extend_final(self, infos: dict[str, Any], ended: Bool) -> None:
        assert self._horizon is not None
        progress = position_in_clip(self.session.steps, self._horizon)
        for row in np.flatnonzero(ended):
            infos["final_obs"][row] = extend(
                self.env.single_observation_space,
                infos["final_obs"][row],
                progress[row : row + 1],
            )

    def _observations(self, observations: Any) -> Any:
        if not self._observe:
            return observations
        assert self._horizon is not None
        progress = position_in_clip(self.session.steps, self._horizon)[:, None]
        return extend(self.env.single_observation_space, observations, progress)


def _success(infos: dict[str, Any]) -> bool:
    """Whether the first environment calls this step a success."""
    for key in ("is_success", "success"):
        if key in infos:
            return bool(infos[key][0])
    return False


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        raise ValueError(
            f"{env} does not say how it resets: its metadata needs an "
            '"autoreset_mode", one of '
            f"{[f'AutoresetMode.{m.name}' for m in AutoresetMode]}"
        )
    return AutoresetMode(mode)


def facts_of(env: VectorEnv[Any, Any, Any], horizon: int | None) -> EnvFacts:
    """What is to be known about the environments inside."""
    spec = env.spec
    if spec is None and hasattr(env.unwrapped, "get_attr"):
        spec = env.unwrapped.get_attr("spec")[0]
    return EnvFacts(
        env_id=spec.id if isinstance(spec, gym.envs.registration.EnvSpec) else None,
        horizon=known_horizon(horizon, spec),
        camera=env.metadata.get("camera"),
        action_space=env.single_action_space,
    )


class RewardModelWrapper(RewardModelRecipe, VectorHost):
    """Rewards the agents of a vector environment by any `RewardModel`."""


class VideoLevelReward(VideoLevelRecipe, VectorHost):
    """Rewards the agents of a vector environment for following a goal video."""


class FrameLevelReward(FrameLevelRecipe, VectorHost):
    """Rewards the agents of a vector environment for leading to the key frame."""


class GenRewardWrapper(GenRewardRecipe, VectorHost):
    """Both rewards of GenReward and the environments' own, weighted."""
