"""The learner that every reward is tried on: SBX's soft actor-critic.

Three settings differ from the published ones: 3-step returns, a discount of 0.95 and a
faster critic. They decide whether pixels teach at all; the documentation's page on
rewards has the table. With a poor learner, a verdict on the reward would be one on the
learner.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from genreward_wrappers.extras import require


@dataclass(frozen=True)
class Learner:
    """How an agent learns.

    Attributes:
        n_steps: The number of rewards that a target sums before it asks the critic.
        discount: The discount of a decision; 0.95 looks about 20 decisions ahead.
        rate: The actor's learning rate.
        critic_rate: The critic's learning rate.
        entropy: The initial weight of the policy's entropy, which is then learned.
            SAC's 1.0 drowns rewards below 1 until it has fallen, which takes thousands
            of decisions.
        batch: The number of transitions in an update.
        warm_up: The number of random decisions before the first update.
        every: The number of decisions between two calls of the optimiser, which then
            makes as many updates: fewer calls are cheaper.
    """

    n_steps: int = 3
    discount: float = 0.95
    rate: float = 3e-4
    critic_rate: float = 1e-3
    entropy: float = 0.1
    batch: int = 128
    warm_up: int = 1_000
    every: int = 4

    def make(self, env: Any, seed: int, memory: int) -> Any:
        """Makes an untrained agent.

        Args:
            env: A Gymnasium environment with flat observations.
            seed: The seed of its weights, actions and batches.
            memory: The number of decisions that its replay buffer holds.

        Raises:
            ImportError: SBX is not installed; the message names the extra.
        """
        sac = require("sbx", "learn", "learning runs need SBX (sbx-rl)").SAC
        import torch

        # The reward's encoder shares a core with the agent; on more threads than one
        # the small networks of both wait for one another.
        torch.set_num_threads(1)
        return sac("MlpPolicy", env, seed=seed, **self.options(memory))

    def options(self, memory: int) -> dict[str, Any]:
        """The settings as off-policy agents of SBX take them.

        Args:
            memory: The number of decisions that the replay buffer holds.
        """
        return {
            "n_steps": self.n_steps,
            "gamma": self.discount,
            "learning_rate": self.rate,
            "qf_learning_rate": self.critic_rate,
            "ent_coef": f"auto_{self.entropy}",
            "batch_size": self.batch,
            "learning_starts": self.warm_up,
            "train_freq": self.every,
            "gradient_steps": self.every,
            "buffer_size": memory,
        }

    def as_dict(self) -> dict[str, Any]:
        """The settings, for names and files."""
        return asdict(self)
