"""Average-pooled pixels: the control that every learned encoder has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from genreward_wrappers.encoders.base import (
    Frames,
    Grammar,
    Tree,
    VideoEncoder,
    as_frames,
    resolve_device,
)


class PooledPixels(VideoEncoder):
    """The mean colour of every cell of a grid, in [0, 1].

    It has no weights, encodes every frame on its own, and costs next to nothing. A
    reward that is no better with a video VAE than with this encoder does not use the
    VAE.

    Args:
        size: The height and width that frames are shrunk to first.
        grid: The number of cells along each side; both sides of `size` are multiples of
            it.
        device: "auto", "cpu", "cuda" or "cuda:<index>".

    Example:
        >>> import numpy as np
        >>> encoder = PooledPixels(size=(4, 4), grid=2, device="cpu")
        >>> white = np.full((1, 4, 4, 3), 255, dtype=np.uint8)
        >>> encoder.encode_images(white).shape
        torch.Size([1, 3, 2, 2])
    """

    control = True

    def __init__(
        self,
        size: tuple[int, int] = (64, 64),
        grid: int = 8,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        if grid < 1 or min(size) < 1 or any(side % grid for side in size):
            raise ValueError(
                f"both sides of size must be multiples of grid, got size={size} and "
                f"grid={grid}"
            )
        self.grammar = Grammar()
        self.size = (int(size[0]), int(size[1]))
        self.grid = grid
        self.device = resolve_device(device)
        self.dtype = torch.float32
        self.latent_shape = (3, grid, grid)
        self.source = f"pixels:{grid}"
        self.fingerprint = self.describe("pixels", None, {"grid": grid})

    def encode_chunk(self, frames: Frames, cache: Tree = None) -> tuple[Tensor, Tree]:
        """Encodes a chunk of one frame; there is no cache."""
        return self.encode_clips(frames), None

    def encode_clips(self, frames: Frames) -> Tensor:
        """Pools every frame of the clips: (n, T, H, W, 3) to (n, T, 3, grid, grid)."""
        return self._pool(as_frames(frames, "n, T, H, W, 3"))

    def encode_images(self, frames: Frames) -> Tensor:
        """Pools the frames: (n, H, W, 3) to (n, 3, grid, grid)."""
        return self._pool(as_frames(frames))

    def _pool(self, frames: Tensor) -> Tensor:
        small = self.prepare(frames)
        lead = small.shape[:-3]
        height, width = (side // self.grid for side in self.size)
        cells = small.reshape(*lead, self.grid, height, self.grid, width, 3)
        # One axis at a time: faster, and sums of whole numbers do not round.
        mean = cells.float().sum(-4).sum(-2) / (height * width) / 255
        return mean.movedim(-1, -3).contiguous()
