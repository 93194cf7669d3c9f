"""VIPER: how likely a frame is under a model of the task's videos.

Paper: Escontrela et al., "Video Prediction Models as Rewards for Reinforcement
Learning" (NeurIPS 2023, arXiv 2305.14343).

Formula: r[t+1] = log p(x[t+1] | x[t+1-(k-1)], ..., x[t]) with a window of k = 16 frames
of 64x64, as codes of a VQ codec, in nats and summed over the codes of a frame.
``likelihood="joint"`` scores the whole window, its first frame included.

Weights: a codec and a causal transformer over its codes (`priors`), trained by
``genreward train-viper`` on videos of the task: recorded, or generated ones, which need
no demonstrations.

Paid at every step. Before the window is full, it begins with copies of the episode's
first frame; the prior is trained on such windows too. The paper adds an exploration
bonus: here that is `RND` or `Disagreement` of `rewards.exploration` in addition to this
model.

The likelihood is large where nothing happens: a still picture is easy to predict, and
an agent that stands still can earn more than one that does the task jerkily.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.core import Bool, Score, Transition, UInt8, UInt64
from genreward_wrappers.rewards.peers import values
from genreward_wrappers.rewards.peers.from_prior import OfCodes
from genreward_wrappers.training.priors.store import Prior


@dataclass(frozen=True, slots=True)
class ViperMemory:
    """(N, frames, positions) the codes of each row's window."""

    codes: Tensor


class Viper(OfCodes[ViperMemory]):
    """Pays log p of the newest frame."""

    name = kind = "viper"

    def __init__(
        self,
        prior: Prior | str | PathLike[str],
        *,
        likelihood: str = "last",
        every: int = 1,
        device: str = "auto",
    ) -> None:
        """Takes a trained prior.

        Args:
            prior: A prior by ``genreward train-viper``, or its path.
            likelihood: "last", of the newest frame given the window before it, or
                "joint", of the whole window.
            every: The number of steps between two frames, which should be that of the
                training videos: a prior knows one pace. Other frames are not looked at.
            device: "auto", "cpu", "cuda" or "cuda:<index>", for a prior given by path.

        Raises:
            FileError: There is no such file, or it is another kind of prior.
            ValueError: There is no such likelihood.
        """
        values.viper(prior, likelihood, every)
        super().__init__(prior, every, device)
        self._last = 1 if likelihood == "last" else None

    def reset(
        self, memory: ViperMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> ViperMemory:
        """Fills the windows of the rows that begin with their first frames."""
        old = None if memory is None else memory.codes
        return ViperMemory(self.begun(old, self.prior.net.config.frames, frames, mask))

    @torch.no_grad()
    def step(
        self, memory: ViperMemory, transition: Transition
    ) -> tuple[Score, ViperMemory]:
        """Scores the new frames, all rows in one pass."""
        codes, active = self.moved(memory.codes, transition)
        value = np.zeros(len(active), np.float32)
        if active.any():
            rows = codes[torch.from_numpy(active)].to(self.prior.device)
            each = self.prior.net.log_likelihood(rows, self._last)
            value[active] = each.sum(1).cpu().numpy()
        return Score(value, active), ViperMemory(codes)
