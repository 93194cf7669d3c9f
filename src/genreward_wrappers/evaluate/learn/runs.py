"""What a learning run is, how far it has come, and what it says about its reward."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from genreward_wrappers.data.files import canonical
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.evaluate.learn.learner import Learner
from genreward_wrappers.generators.own_videos import load_or_pack
from genreward_wrappers.rewards.facts import is_generated, own_goals
from genreward_wrappers.rewards.spec import ENV, RewardSpec, encoder_of_videos

#: Decisions in an episode, each of two steps of the environment.
HORIZON, REPEAT = 128, 2
#: The number of episodes that a rate is taken over.
WINDOW = 40

#: Fewer than two windows of this many episodes say nothing.
LEAST = 10
#: A rise in the success rate that counts as one.
RISE = 0.2
#: A rise in the return that counts as one, in standard deviations of the first
#: episodes' returns.
GAIN = 1.0
#: A rate that was this high from the beginning cannot rise by much.
SOLVED = 0.8
#: Standard errors that a rise must differ by: an interval of 95 %.
SURE = 1.96

Outcome = Literal["teaches", "farmed", "nothing"]


@dataclass(frozen=True)
class Run:
    """One learning run.

    Attributes:
        env_id: The id of a Meta-World environment.
        reward: The reward's name and options; see `judged_rewards.REWARDS`.
        seed: The seed of the agent and the episodes.
        goal: The goal bundle's path or address, or a video's path; None is the
            embedded one.
        learner: The settings of the agent.
    """

    env_id: str
    reward: str
    seed: int
    goal: str | None = None
    learner: Learner = field(default_factory=Learner)

    @cached_property
    def name(self) -> str:
        """The name of its files, which no other run in the folder has."""
        key = canonical({**self.as_dict(), "goal": self.goal_digest})
        task = self.env_id.rpartition("/")[2]
        readable = re.sub(r"[^\w.-]", "-", self.reward)
        tail = hashlib.sha256(key.encode()).hexdigest()[:8]
        return f"{task}-{readable[:60]}-seed-{self.seed}-{tail}"

    @cached_property
    def goal_digest(self) -> str:
        """The digest of the goal: another goal under the same name is another run."""
        spec = RewardSpec.parse(self.reward)
        if spec.name == ENV:
            return ""
        goal = self.find_goal()
        if is_generated(spec.goal):
            return own_goals(goal, spec.goal).digest
        return goal.digest

    def find_goal(self) -> GoalBundle:
        """The goal bundle; a video is packed for the reward's encoder."""
        encoder = encoder_of_videos([RewardSpec.parse(self.reward)])
        return load_or_pack(self.goal, self.env_id, encoder)

    def as_dict(self) -> dict[str, Any]:
        """The run as JSON, for files."""
        return {
            "env_id": self.env_id,
            "reward": self.reward,
            "seed": self.seed,
            "goal": self.goal,
            "learner": self.learner.as_dict(),
        }


@dataclass(frozen=True)
class Progress:
    """How far a run has come: the outcome of every episode so far.

    Attributes:
        success: Whether each episode succeeded at any of its steps.
        returns: The sum that the reward under test paid in each.
        seconds: The CPU time that they took.
    """

    success: Sequence[bool]
    returns: Sequence[float]
    seconds: float = field(default=0.0, compare=False)

    @property
    def steps(self) -> int:
        """Decisions so far."""
        return HORIZON * len(self.success)

    def curve(self, every: int = 5_000) -> dict[int, tuple[float, float]]:
        """Success rate and mean return of the last episodes, by steps."""
        marks = list(range(every, self.steps + 1, every))
        if self.steps and (not marks or marks[-1] != self.steps):
            marks.append(self.steps)
        points = {}
        for mark in marks:
            last = slice(max(0, mark // HORIZON - WINDOW), mark // HORIZON)
            if len(self.success[last]):
                points[mark] = (
                    float(np.mean(self.success[last])),
                    float(np.mean(self.returns[last])),
                )
        return points


def outcome(progress: Progress) -> tuple[Outcome, str]:
    """What a run says about its reward, in a word and in a sentence.

    It compares the last episodes with the first. Both words need evidence:

    - "teaches": the success rate rose by `RISE` or more, and its interval does not
      reach 0; or it was high at both ends;
    - "farmed": the return rose by `GAIN` or more, its interval does not reach 0, and
      that of the success rate does not reach `RISE`. In a few episodes it does, even
      if none of them was a success.
    """
    count = min(WINDOW, len(progress.success) // 2)
    if count < LEAST:
        return (
            "nothing",
            f"{len(progress.success)} episodes are too few to say anything",
        )
    success = np.asarray(progress.success, np.float64)
    returns = np.asarray(progress.returns, np.float64)
    first, last = slice(0, count), slice(-count, None)
    before, after = float(success[first].mean()), float(success[last].mean())
    rise, paid = after - before, float(returns[last].mean() - returns[first].mean())
    # One more success and failure in each window: rates of 0 and 1 are not certain.
    rates = [(count * rate + 1) / (count + 2) for rate in (before, after)]
    unsure = SURE * sum(rate * (1 - rate) / (count + 2) for rate in rates) ** 0.5
    spread = SURE * float((returns[first].var() + returns[last].var()) / count) ** 0.5
    gain = paid / max(float(returns[first].std()), 1e-9)
    told = (
        f"success {before:.2f} to {after:.2f}, return {returns[first].mean():.1f} to "
        f"{returns[last].mean():.1f} ({gain:+.1f} standard deviations)"
    )
    if (rise >= RISE and rise > unsure) or min(before, after) >= SOLVED:
        return "teaches", f"teaches: {told}"
    if gain >= GAIN and paid > spread and rise + unsure < RISE:
        return "farmed", (
            f"farmed: {told}. The agent is paid more and more without solving the "
            "task: it has found something else that this reward pays for"
        )
    return "nothing", (
        f"taught nothing in {progress.steps} steps: {told}. If the environment's own "
        "reward (--reward env) does not either, the task takes longer than this"
    )
