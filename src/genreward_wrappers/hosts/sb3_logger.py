"""`RewardLogger`: each part of the reward in stable-baselines3's logger."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from genreward_wrappers.checks import at_least

#: The weighted sum of all parts, which is what the agent is paid.
TOTAL = "total"
#: What stable-baselines3 makes its success rate from.
SUCCESS = "is_success"


class RewardLogger(BaseCallback):  # type: ignore[misc]
    """Logs what each part of the reward pays, and whether episodes succeed.

    Mean returns of the last episodes, before their weights, as ``reward/video``,
    ``reward/frame``, ``reward/env`` and so on, and as ``reward/total`` what the agent
    was paid. It does not matter whether the reward wrapper is a vector environment's or
    stands inside each environment.

    An episode counts as a success in ``rollout/success_rate`` if any of its steps was
    one. (stable-baselines3 by itself looks at the last step alone.)

    Example:
        >>> from stable_baselines3 import PPO  # doctest: +SKIP
        >>> PPO("CnnPolicy", venv).learn(50_000, RewardLogger())  # doctest: +SKIP
    """

    def __init__(self, window: int = 100, verbose: int = 0) -> None:
        """Plans the logging.

        Args:
            window: How many of the last episodes the means are over.
            verbose: As in all callbacks of stable-baselines3.
        """
        super().__init__(verbose)
        at_least(1, window=window)
        self._window = window
        self._returns: dict[str, deque[float]] = {}
        self._now: list[dict[str, float]] = []
        self._succeeded: list[bool | None] = []

    def _on_training_start(self) -> None:
        count = self.training_env.num_envs
        if self.num_timesteps == 0 or len(self._now) != count:
            self._returns = {}
            self._now = [{} for _ in range(count)]
            self._succeeded = [None] * count

    def _on_step(self) -> bool:
        for row, (info, done) in enumerate(
            zip(self.locals["infos"], self.locals["dones"], strict=True)
        ):
            paid = _parts(info)
            if not paid:
                raise ValueError(
                    "RewardLogger: no part of a reward is in the infos, which have "
                    f"{sorted(info)}: train in an environment with a reward wrapper"
                )
            sums = self._now[row]
            for name, value in paid.items():
                sums[name] = sums.get(name, 0.0) + value
            success = info.get(SUCCESS, info.get("success"))
            if success is not None:
                self._succeeded[row] = bool(self._succeeded[row]) or bool(success)
            if done:
                self._end(row, info)
        return True

    def _end(self, row: int, info: dict[str, Any]) -> None:
        if self._succeeded[row] is not None:
            # Read by the algorithm after this callback: one name, one meaning.
            info[SUCCESS] = self._succeeded[row]
        for name, value in self._now[row].items():
            new: deque[float] = deque(maxlen=self._window)
            self._returns.setdefault(name, new).append(value)
        self._now[row], self._succeeded[row] = {}, None
        self._record()

    def _on_rollout_end(self) -> None:
        # What was recorded before the logger's last dump is gone from it.
        self._record()

    def _record(self) -> None:
        for name, returns in self._returns.items():
            self.logger.record(f"reward/{name}", float(np.mean(returns)))


def _parts(info: Mapping[str, Any]) -> dict[str, float]:
    """What each part of the reward paid at a step, and their weighted sum."""
    found, total = {}, 0.0
    for key, weight in info.items():
        name = key.removeprefix("weight_")
        if name != key and f"reward_{name}" in info:
            found[name] = float(info[f"reward_{name}"])
            total += float(weight) * found[name] if weight else 0.0
    return {**found, TOTAL: total} if found else {}
