"""A replay buffer for stable-baselines3 that pays by how good the agent already is.

A score of a goal video forgives much, so that there is something to learn from on the
way: an arm that moves as in the video is paid well before it has touched anything. For
an agent that is so far, the same score says little about what is left. This buffer
raises all of its rewards to a power, which grows as the agent's newest steps are paid
better: on average these earn what standing still earned in the beginning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common import buffers
from stable_baselines3.common.type_aliases import ReplayBufferSamples

#: What `tracking` pays for standing still.
STILL = float(np.exp(-1))
#: Scores below it are no worse; a power of 0 would be infinitely steep.
LEAST = 1e-6


class SharpeningReplayBuffer(buffers.NStepReplayBuffer):  # type: ignore[misc]
    """Pays every sample ``reward ** exponent``, which rises with the agent.

    The rewards are scores in [0, 1], such as those of ``score="tracking"`` without an
    environment's own reward beside them. What is stored stays as it was paid; the
    exponent applies to all samples, old and new, and follows from what is stored: a
    buffer that was saved and restored has the same one.

    Args:
        *args: As for `stable_baselines3.common.buffers.NStepReplayBuffer`.
        n_steps: The number of rewards that a sample adds up.
        gamma: The agent's discount.
        newest: The number of steps in each environment that tell how good the agent is.
        aim: What these are paid on average; the exponent is 1 while they earn less.
        most: The highest exponent.
        **kwargs: As for `NStepReplayBuffer`.

    Attributes:
        exponent: The one of the newest sample.

    Example:
        >>> from sbx import SAC  # doctest: +SKIP
        >>> SAC("MlpPolicy", env, replay_buffer_class=SharpeningReplayBuffer,
        ...     replay_buffer_kwargs={"n_steps": 3, "gamma": 0.95},
        ...     gamma=0.95)  # doctest: +SKIP
    """

    def __init__(
        self,
        *args: Any,
        n_steps: int = 1,
        gamma: float = 0.99,
        newest: int = 1_280,
        aim: float = STILL,
        most: float = 8.0,
        **kwargs: Any,
    ) -> None:
        if newest < 1:
            raise ValueError(
                f"newest={newest!r}: expected a number of steps, 1 or more"
            )
        if not 0.0 < aim < 1.0:
            raise ValueError(f"aim={aim!r}: expected a mean reward between 0 and 1")
        if not most >= 1.0:
            raise ValueError(f"most={most!r}: expected an exponent of 1 or more")
        super().__init__(*args, n_steps=n_steps, gamma=gamma, **kwargs)
        self.newest, self.aim, self.most = newest, aim, most
        self.exponent = 1.0

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Stores a step of every environment."""
        outside = reward[~((reward >= 0.0) & (reward <= 1.0))]
        if outside.size:
            raise ValueError(
                f"SharpeningReplayBuffer: a step was paid {outside[0]:g}, but only "
                "scores in [0, 1] can be sharpened: those of VideoLevelReward, or of "
                "GenRewardWrapper with frame_weight=0 and env_weight=0"
            )
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Draws a batch, paid by what the agent has come to."""
        held = self.buffer_size if self.full else self.pos
        last = (self.pos - 1 - np.arange(min(held, self.newest))) % self.buffer_size
        self.exponent = sharpness(self.rewards[last], self.aim, self.most)
        return super().sample(batch_size, env)

    def _normalize_reward(self, reward: NDArray[Any], env: Any = None) -> NDArray[Any]:
        paid: NDArray[Any] = super()._normalize_reward(reward**self.exponent, env)
        return paid


def sharpness(rewards: NDArray[Any], aim: float, most: float) -> float:
    """The exponent with which rewards in [0, 1] are `aim` on average; at least 1.

    Args:
        rewards: Of any shape, one or more.
        aim: The mean to reach.
        most: The highest exponent.
    """
    logs = np.log(np.maximum(rewards, LEAST, dtype=np.float64))
    exponent = 1.0
    # The mean falls ever more slowly as the exponent rises, so that each of Newton's
    # steps from the left ends before the solution.
    while exponent < most:
        paid = np.exp(exponent * logs)
        excess, slope = paid.mean() - aim, (logs * paid).mean()
        if excess < 1e-6 * aim or slope == 0.0:
            break
        exponent -= excess / slope
    return float(min(exponent, most))
