"""What rewards from a video prior share: the prior, its pace, and windows of codes."""

from __future__ import annotations

from os import PathLike
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from genreward_wrappers.core import Bool, Int64, RewardModel, Transition, UInt8
from genreward_wrappers.training.priors.store import Prior

M = TypeVar("M")


class OfCodes(RewardModel[M]):
    """A reward model that reads frames as the codes of a prior's codec.

    Attributes:
        prior: The codec and the prior.
    """

    #: The `Prior.kind` that it takes.
    kind: ClassVar[str]

    def __init__(
        self, prior: Prior | str | PathLike[str], every: int, device: str
    ) -> None:
        """Takes a trained prior, or reads it.

        Raises:
            FileError: There is no such file, or it is another kind of prior.
            ValueError: It is another kind of prior.
        """
        if not isinstance(prior, Prior):
            prior = Prior.load(prior, self.kind, device)
        if prior.kind != self.kind:
            raise ValueError(
                f"expected a prior of {self.kind!r}, got one of {prior.kind!r}: make "
                f"one with genreward train-{self.kind}"
            )
        self.prior, self._every = prior, every

    def wants(self, steps: Int64) -> Bool:
        """The frames at the pace of the videos."""
        wanted: Bool = steps % self._every == 0
        return wanted

    def begun(
        self, codes: Tensor | None, length: int, frames: UInt8, mask: Bool
    ) -> Tensor:
        """Windows (N, length, positions) where some rows begin with their first frame.

        Args:
            codes: The windows so far; None before the first episode.
            length: The number of frames of a window.
            frames: (N, H, W, 3).
            mask: The rows whose episodes begin.
        """
        shape = (len(mask), length, self.prior.net.config.positions)
        old = torch.zeros(shape, dtype=torch.int64) if codes is None else codes
        changed = old.clone()
        first = self.prior.codec.encode(frames[mask])
        changed[torch.from_numpy(mask)] = first[:, None].cpu()
        return changed

    def moved(self, codes: Tensor, transition: Transition) -> tuple[Tensor, Bool]:
        """The windows after a step, and the rows whose frame was encoded."""
        active = transition.active & self.wants(transition.steps)
        new = self.prior.codec.encode(transition.next_frames[active])
        rows = torch.from_numpy(active)
        changed = codes.clone()
        changed[rows] = torch.cat([codes[rows, 1:], new[:, None].cpu()], 1)
        return changed, active
