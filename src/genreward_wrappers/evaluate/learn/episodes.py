"""The episodes of a learning run: states and the time, paid by one reward alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from genreward_wrappers.data.goals import load_goal
from genreward_wrappers.evaluate.judge.judged_rewards import (
    REWARDS,
    needs_goal,
    own_goals,
    parse,
)
from genreward_wrappers.evaluate.learn.runs import HORIZON, REPEAT, Progress, Run
from genreward_wrappers.rewards.video_level import PRESETS

#: Of the learning runs' episodes; the test episodes have others.
FIRST_SEED = 3_000_000


def make_env(run: Run, record: Path | None = None) -> gym.Env[Any, Any]:
    """The environment of a run: states and the time, paid by the reward alone."""
    from genreward_wrappers.hosts.gymnasium import (
        FrameLevelReward,
        GenRewardWrapper,
        RewardModelWrapper,
        VideoLevelReward,
    )

    if not run.env_id.startswith("metaworld/"):
        raise ValueError(
            f"env {run.env_id!r}: learning runs need an environment that offers its "
            'state, so that the reward is all they test: give one of "metaworld/<task>"'
        )
    name, options = parse(run.reward)
    look: dict[str, Any] = {"render_mode": "rgb_array"}
    bundle = None
    if name != "env" and (run.goal is not None or needs_goal(run.reward)):
        bundle = load_goal(run.goal, run.env_id)
        height, width = bundle.frame_size
        look["size"] = height if height == width else (height, width)
        if bundle.camera:
            look["camera"] = bundle.camera
    env = gym.make(
        run.env_id,
        obs="state",
        action_repeat=REPEAT,
        max_episode_steps=HORIZON,
        **({} if name == "env" else look),
    )
    if name == "env":
        # The same observation for all, so that only the reward differs.
        return gym.wrappers.TimeAwareObservation(env, normalize_time=True)
    common: dict[str, Any] = {"observe": "progress", "record": record}
    if name not in REWARDS:
        if needs_goal(run.reward):
            options["goal"] = bundle
        return RewardModelWrapper(env, name, options=options, **common)
    assert bundle is not None
    if name == "genreward":
        alone = {"env_weight": 0.0, "frame_weight": None if bundle.nets else 0.0}
        return GenRewardWrapper(env, bundle, **common, **{**alone, **options})
    if name == "frame":
        return FrameLevelReward(env, bundle, **common, **options)
    if name in ("pixels", "random"):
        options["encoder"] = name
    if name == "paper":
        # Scores of half an episode of 128 decisions; the weight only scales them.
        halves: Mapping[str, Any] = {"window": HORIZON // 2, "every": HORIZON // 2}
        options = {**PRESETS["paper"], **halves, **options}
    goal = own_goals(bundle, options) if name == "generated" else bundle
    return VideoLevelReward(env, goal, **common, **options)


class Episodes(gym.Wrapper[Any, Any, Any, Any]):
    """Seeds every episode by its number, and keeps the score."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._first = FIRST_SEED + 10_000 * seed
        #: Processor seconds before this process.
        self.seconds = 0.0
        self._begun = time.process_time()
        self.success: list[bool] = []
        self.returns: list[float] = []
        self._now, self._earned = False, 0.0

    @property
    def progress(self) -> Progress:
        spent = self.seconds + time.process_time() - self._begun
        return Progress(tuple(self.success), tuple(self.returns), spent)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._now, self._earned = False, 0.0
        # Whatever the agent asks for: a run that resumes meets the same episodes.
        return self.env.reset(seed=self._first + len(self.success), options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._now |= bool(info["is_success"])
        self._earned += float(reward)
        if terminated or truncated:
            self.success.append(self._now)
            self.returns.append(self._earned)
        return observation, reward, terminated, truncated, info
