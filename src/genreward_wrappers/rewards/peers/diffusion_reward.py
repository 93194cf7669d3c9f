"""Diffusion Reward: how certain a video diffusion is of what comes next.

Paper: Huang et al., "Diffusion Reward: Learning Rewards via Conditional Video
Diffusion" (ECCV 2024, arXiv 2312.14134).

Formula: (1 - alpha) (r - mu) / sigma + alpha r_RND + r_sparse, where r is minus the
conditional entropy of the next frame, given the two newest frames, under a discrete
diffusion of its codes. The entropy is estimated by chains drawn from the model,

    r = mean over chains of E_q[log p(x0..xT | context) / q(x1..xT | x0)],

hop by hop along the chain (`VQDiffusion.bound`), with T = 100 steps strided to 11.
`DiffusionReward` is (r - mu) / sigma; `with_novelty` weighs it and adds RND. r_sparse
is an environment's own sparse reward (``env_weight=1`` in a wrapper), or
`combine.SuccessBonus`.

Weights: a codec and a diffusion over its codes (`priors`), trained by ``genreward
train-diffusion-reward`` on recorded or generated videos. mu and sigma are those of r
over these videos, stored with the weights: with the statistics of another task, the
weights of the two terms would be arbitrary.

Paid at every step from the first: before there are two frames, the first counts twice.
The noise of the chains depends on the row's own episode's seed and the step.

The released code keeps mu and sigma in a table by task name.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genreward_wrappers.checks import share
from genreward_wrappers.core import (
    Bool,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.rewards.combine import RND, WeightedSum
from genreward_wrappers.rewards.peers import values
from genreward_wrappers.rewards.peers.from_prior import OfCodes
from genreward_wrappers.training.priors.store import Prior
from genreward_wrappers.training.priors.vq_diffusion import certainty


@dataclass(frozen=True, slots=True)
class DiffusionMemory:
    """What each row remembers.

    Attributes:
        codes: (N, context, positions) the codes of its newest frames.
        seeds: (N,) the seed of its episode.
    """

    codes: Tensor
    seeds: UInt64


class DiffusionReward(OfCodes[DiffusionMemory]):
    """Pays the certainty about the next frame, in units of the training videos'."""

    name = "diffusion"
    kind = "diffusion-reward"

    def __init__(
        self,
        prior: Prior | str | PathLike[str],
        *,
        standardised: bool = True,
        chains: int = 1,
        every: int = 1,
        device: str = "auto",
    ) -> None:
        """Takes a trained prior.

        Args:
            prior: A prior by ``genreward train-diffusion-reward``, or its path.
            standardised: Whether to subtract the mean over the training videos and
                divide by their standard deviation.
            chains: How many chains estimate the entropy.
            every: The number of steps between two frames, which should be that of the
                training videos: a prior knows one pace. Other frames are not looked at.
            device: "auto", "cpu", "cuda" or "cuda:<index>", for a prior given by path.

        Raises:
            FileError: There is no such file, or it is another kind of prior.
            ValueError: The prior has no statistics.
        """
        values.diffusion_reward(prior, chains, every)
        super().__init__(prior, every, device)
        self._chains = chains
        self._mean, self._std = 0.0, 1.0
        if standardised:
            missing = {"mean", "std"} - self.prior.statistics.keys()
            if missing:
                raise ValueError(
                    f"the prior has no {' and no '.join(sorted(missing))} of the "
                    "reward over its training videos: use standardised=False, or make "
                    "it with genreward train-diffusion-reward"
                )
            self._mean = float(self.prior.statistics["mean"])
            self._std = max(float(self.prior.statistics["std"]), 1e-8)

    def reset(
        self, memory: DiffusionMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> DiffusionMemory:
        """Begins the rows' episodes with their first frames."""
        old = None if memory is None else memory.codes
        kept = seeds if memory is None else np.where(mask, seeds, memory.seeds)
        codes = self.begun(old, self.prior.net.config.context, frames, mask)
        return DiffusionMemory(codes, kept)

    def step(
        self, memory: DiffusionMemory, transition: Transition
    ) -> tuple[Score, DiffusionMemory]:
        """Scores the two newest frames of every row, all in one pass."""
        codes, active = self.moved(memory.codes, transition)
        value = np.zeros(len(active), np.float32)
        if active.any():
            raw = self._certainty(
                codes[torch.from_numpy(active)],
                memory.seeds[active],
                transition.steps[active] // self._every,
            )
            value[active] = (raw - self._mean) / self._std
        return Score(value, active), DiffusionMemory(codes, memory.seeds)

    def _certainty(
        self, context: Tensor, seeds: UInt64, steps: NDArray[Any]
    ) -> NDArray[np.float64]:
        keys = [
            np.random.default_rng([int(seed), int(step)])
            for seed, step in zip(seeds, steps, strict=True)
        ]
        return certainty(self.prior.net, context, keys, self._chains)


def with_novelty(
    model: RewardModel[Any],
    alpha: float = 0.95,
    novelty: RewardModel[Any] | None = None,
) -> WeightedSum:
    """(1 - alpha) of a model and alpha of a novelty bonus, by default `combine.RND`.

    At 0 there is no bonus, and it is not trained; at 1 there is only the bonus.
    """
    share("alpha", alpha)
    parts = [(model, 1 - alpha), (novelty or RND(), alpha)]
    return WeightedSum([part for part in parts if part[1] > 0])
