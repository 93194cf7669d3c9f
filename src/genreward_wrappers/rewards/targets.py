"""What rows are compared with: the goals of all of them, or each row's own.

A bundle's goals are read once and shared by all rows. A `GoalMaker` makes an episode's
goals from the frame that it begins with; they are a part of the memory, one set a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.core import Bool, Float32, UInt8
from genreward_wrappers.data.goal_maker import GoalMaker
from genreward_wrappers.encoders.base import upload
from genreward_wrappers.rewards.similarity import calibrate


@dataclass(frozen=True, slots=True)
class Targets:
    """Goals as a reading sees them: R sets, one of which is for all rows, or one each.

    Attributes:
        latents: (R, K, T, D) in order of time.
        looks: (R, K, P) coarse pixels of their first frames, on the CPU.
        reference: (R, D) the mean latent of each set.
        sharpness: (R,) how fast `tracking` falls with distance.
    """

    latents: Tensor
    looks: Tensor
    reference: Tensor
    sharpness: Tensor

    @classmethod
    def of(cls, latents: Tensor, looks: Tensor, contrast: float) -> Targets:
        """One set, of K goals (K, T, D) and the coarse pixels (K, P) of each."""
        return cls(
            latents=latents[None],
            looks=looks[None],
            reference=latents.flatten(0, 1).mean(0)[None],
            sharpness=latents.new_tensor([calibrate(latents, contrast)]),
        )

    def at(self, rows: Tensor) -> Tensor:
        """(n,) which set some rows are compared with."""
        own = rows if len(self.latents) > 1 else torch.zeros_like(rows)
        return upload(own, self.latents.device)

    def nearest(self, rows: Tensor, looks: Tensor) -> Tensor:
        """(n,) the goal of each row's set whose first frame is most like (n, P)."""
        known = self.looks[self.at(rows).cpu()]
        return torch.cdist(looks[:, None], known)[:, 0].argmin(1)


@dataclass(frozen=True, slots=True)
class Own:
    """The goals that N rows have of their own, and what it cost to make them.

    Attributes:
        targets: One set a row.
        seconds: (N,) of making the videos and reading them.
        cached: (N,) whether the videos were there already.
    """

    targets: Targets
    seconds: Float32
    cached: Bool


def begin(
    old: Own | None,
    frames: UInt8,
    mask: Bool,
    maker: GoalMaker,
    read: Callable[[UInt8], Targets],
) -> Own:
    """The goals of rows some of which begin an episode; the old ones stay intact.

    Args:
        old: What the rows have so far; None at the very first reset.
        frames: (N, H, W, 3) of which the masked rows are first frames.
        mask: (N,) the rows that begin.
        maker: Makes their videos, all at once.
        read: The targets that some videos (K, T, H, W, 3) make.
    """
    count, rows = len(mask), np.flatnonzero(mask)
    seconds = np.zeros(count, np.float32) if old is None else old.seconds.copy()
    cached = np.zeros(count, np.bool_) if old is None else old.cached.copy()
    sets = []
    for row, made in zip(rows, maker(frames[mask]), strict=True):
        begun = perf_counter()
        # Each row's on its own, as those of a bundle are: what else begins with it
        # does not show in them.
        sets.append(read(made.videos))
        seconds[row] = made.seconds + perf_counter() - begun
        cached[row] = made.cached
    targets = None if old is None else old.targets
    return Own(_put_rows(targets, torch.from_numpy(rows), sets, count), seconds, cached)


def _put_rows(
    old: Targets | None, rows: Tensor, sets: Sequence[Targets], count: int
) -> Targets:
    fields = []
    for name in ("latents", "looks", "reference", "sharpness"):
        new = torch.cat([getattr(one, name) for one in sets])
        base = (
            new.new_zeros(count, *new.shape[1:]) if old is None else getattr(old, name)
        )
        fields.append(base.index_copy(0, upload(rows, new.device), new))
    return Targets(*fields)
