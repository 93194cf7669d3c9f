"""The episodes of a learning run: states and the time, and one reward alone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.evaluate.learn.runs import HORIZON, REPEAT, Progress, Run
from genreward_wrappers.rewards.facts import is_generated, own_goals
from genreward_wrappers.rewards.spec import ENV, OURS, RewardSpec

#: The seeds of the learning runs' episodes; the test episodes have others.
FIRST_SEED = 3_000_000


def make_env(
    run: Run, record: Path | None = None, device: str = "auto"
) -> gym.Env[Any, Any]:
    """The environment of a run: states and the time, and its reward alone.

    Args:
        run: The run.
        record: The folder to record some episodes in; None records none.
        device: The device of the reward's models. It is no part of the run, which may
            resume on another one.
    """
    from genreward_wrappers.wrappers import RewardModelWrapper

    check_offers_state(run.env_id)
    spec = RewardSpec.parse(run.reward)
    look: dict[str, Any] = {"render_mode": "rgb_array"}
    bundle = None
    if spec.name != ENV and (run.goal is not None or spec.looks_at_goal()):
        bundle = run.find_goal()
        height, width = bundle.frame_size
        look["size"] = height if height == width else (height, width)
        if bundle.camera:
            look["camera"] = bundle.camera
    env = gym.make(
        run.env_id,
        obs="state",
        action_repeat=REPEAT,
        max_episode_steps=HORIZON,
        **({} if spec.name == ENV else look),
    )
    if spec.name == ENV:
        # The same observation for all rewards, so that only the reward differs.
        return gym.wrappers.TimeAwareObservation(env, normalize_time=True)
    if spec.looks_at_goal():
        assert bundle is not None
        spec = _alone(spec, bundle)
    return RewardModelWrapper(
        env, spec, observe="progress", record=record, device=device
    )


def check_offers_state(env_id: str) -> None:
    """Raises `ValueError` unless an environment offers states to learn from."""
    if not env_id.startswith("metaworld/"):
        raise ValueError(
            f"env {env_id!r}: learning runs need an environment that offers its "
            'state, so that the reward is all they test: give one of "metaworld/<task>"'
        )


def _alone(spec: RewardSpec, bundle: GoalBundle) -> RewardSpec:
    """The reward by itself, for the goal of a run."""
    weights, options = dict(spec.weights), dict(spec.options)
    if is_generated(spec.goal):
        return replace(spec, goal=own_goals(bundle, spec.goal))
    if spec.name not in OURS:
        return replace(spec, options={"goal": bundle, **options})
    if spec.name == "genreward":
        weights = {ENV: 0.0, **({} if bundle.nets else {"frame": 0.0}), **weights}
    elif spec.preset == "paper":
        # Scores of half an episode of 128 decisions; the weight only scales them.
        options = {"window": HORIZON // 2, "stride": HORIZON // 2, **options}
        weights["video"] = 1.0
    return replace(spec, goal=bundle, weights=weights, options=options)


class Episodes(gym.Wrapper[Any, Any, Any, Any]):
    """Seeds every episode by its number, and keeps its outcome."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._first = FIRST_SEED + 10_000 * seed
        #: CPU seconds before this process.
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
        # Whatever seed the agent asks for: a run that resumes meets the same episodes.
        return self.env.reset(seed=self._first + len(self.success), options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._now |= bool(info["is_success"])
        self._earned += float(reward)
        if terminated or truncated:
            self.success.append(self._now)
            self.returns.append(self._earned)
        return observation, reward, terminated, truncated, info
