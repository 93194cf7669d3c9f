"""Warns once of probable mistakes: a part that drowns the others, short episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, Int64, warn_caller
from genreward_wrappers.rewards.spec import ENV

#: The number of episodes over which the parts are compared.
EPISODES = 3
#: A part with a larger share than this leaves the others nothing to say.
NEARLY_ALL = 0.9
#: An episode shorter than this share of the horizon is a short one.
SHORT = 0.9


class Watch:
    """Watches what is paid, and how long episodes are."""

    def __init__(self, num_envs: int, horizon: int | None) -> None:
        self.horizon = horizon
        self._amounts: dict[str, float] = {}
        self._episodes = 0
        self._abandoned = np.zeros(num_envs, np.int64)
        self._said: set[str] = set()

    def once(self, topic: str, message: str) -> None:
        """Warns, unless there was a warning about this already."""
        if topic not in self._said:
            self._said.add(topic)
            warn_caller(message)

    def begin(self, mask: Bool, running: Bool, steps: Int64) -> None:
        """Episodes begin in some rows, of which some had not ended after their steps.

        A time limit above a reward wrapper is not seen from below; two episodes in a
        row that are cut at the same step are.
        """
        cut = mask & running & (steps > 0)
        self._episodes += int(cut.sum())
        again = cut & (self._abandoned == steps)
        if again.any():
            self._short(int(steps[again][0]), "was reset")
        self._abandoned = np.where(mask, cut * steps, self._abandoned)

    def step(
        self,
        weights: Mapping[str, float],
        values: Mapping[str, NDArray[Any]],
        terminated: Bool,
        truncated: Bool,
        steps: Int64,
    ) -> None:
        """Parts of the reward were paid, and some episodes ended."""
        if np.count_nonzero(truncated):
            self._short(int(steps[truncated].max()), "was truncated")
        if "shares" in self._said or sum(map(bool, weights.values())) < 2:
            return
        for name, weight in weights.items():
            if weight:
                amount = abs(weight) * float(np.abs(values[name]).sum())
                self._amounts[name] = self._amounts.get(name, 0.0) + amount
        self._episodes += int(np.count_nonzero(terminated | truncated))
        everything = sum(self._amounts.values())
        if self._episodes < EPISODES or everything <= 0:
            return
        most = max(self._amounts, key=self._amounts.__getitem__)
        share = self._amounts[most] / everything
        if share > NEARLY_ALL:
            balance = ', or give env_weight="balanced"' if ENV in self._amounts else ""
            self.once(
                "shares",
                f"reward_{most} is {share:.0%} of what was paid over the first "
                f"{self._episodes} episodes, so the other parts hardly count: change "
                f"that with set_weights(){balance}",
            )
        self._said.add("shares")

    def _short(self, steps: int, how: str) -> None:
        if self.horizon is not None and steps < SHORT * self.horizon:
            self.once(
                "short",
                f"an episode {how} after {steps} steps, but the goal video is spread "
                f"over {self.horizon}, so the agent is compared only with the video's "
                f"beginning. If episodes are that short, give horizon={steps}",
            )
