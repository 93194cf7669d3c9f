"""A VQ codec: frames in, codes out.

It is diffusers' `VQModel` (an image autoencoder whose latents are rows of a codebook)
with its own normalisation, x / 127.5 - 1, which callers need not know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genreward_wrappers.encoders.base import Frames, as_frames, resize_frames
from genreward_wrappers.extras import require

#: How many frames go through the codec at once where no gradient is needed.
CHUNK = 64


@dataclass(frozen=True)
class VQConfig:
    """The shape of a codec.

    Attributes:
        size: (height, width) that the model sees.
        codes: The number of rows of the codebook.
        dim: The length of a row.
        channels: The channels of each level; every level but the last halves the
            picture.
        layers: The number of residual blocks on each level.
    """

    size: tuple[int, int] = (64, 64)
    codes: int = 128
    dim: int = 16
    channels: tuple[int, ...] = (8, 16, 32, 64)
    layers: int = 1

    def __post_init__(self) -> None:
        # What comes from JSON is a list.
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        object.__setattr__(self, "channels", tuple(int(c) for c in self.channels))
        stride = 2 ** (len(self.channels) - 1)
        if min(self.codes, self.dim, self.layers, *self.channels) < 1:
            raise ValueError(f"a codec's numbers must be positive, got {self}")
        if len(self.size) != 2 or any(s < stride or s % stride for s in self.size):
            raise ValueError(
                f"size={self.size}: {len(self.channels)} levels of channels need both "
                f"sides to be multiples of {stride}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the codes of a frame."""
        stride = 2 ** (len(self.channels) - 1)
        return self.size[0] // stride, self.size[1] // stride

    @property
    def positions(self) -> int:
        """Codes of a frame."""
        return self.grid[0] * self.grid[1]


class VQLoss(NamedTuple):
    """The training loss and its parts.

    Attributes:
        total: Squared error of the pixels and the commitment of latents and codebook.
        pixels: The squared error alone, pixels being from -1 to 1.
        latents: (n * positions, dim) before they are replaced by rows of the codebook.
        codes: (n * positions,) the rows that they are replaced by.
    """

    total: Tensor
    pixels: Tensor
    latents: Tensor
    codes: Tensor


class VQCodec(nn.Module):
    """Frames to codes and back.

    Example:
        >>> codec = VQCodec(VQConfig(size=(16, 16), channels=(8, 8)))
        >>> codec.encode(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape
        torch.Size([2, 64])
    """

    def __init__(self, config: VQConfig) -> None:
        """Builds an untrained codec."""
        super().__init__()
        self.config = config
        levels = len(config.channels)
        what = "VIPER and Diffusion Reward need diffusers for their codec"
        self.model = require("diffusers", "video", what).VQModel(
            block_out_channels=config.channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=config.layers,
            latent_channels=config.dim,
            vq_embed_dim=config.dim,
            num_vq_embeddings=config.codes,
            norm_num_groups=math.gcd(*config.channels, 8),
            sample_size=max(config.size),
            mid_block_add_attention=False,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.codebook.device

    @property
    def codebook(self) -> Tensor:
        """(codes, dim)."""
        weight: Tensor = self.model.quantize.embedding.weight
        return weight

    def pixels(self, frames: Frames) -> Tensor:
        """Frames (n, H, W, 3) as the model sees them: (n, 3, h, w) from -1 to 1."""
        small = resize_frames(as_frames(frames).to(self.device), self.config.size)
        return small.movedim(-1, 1).to(torch.float32) / 127.5 - 1

    @torch.no_grad()
    def encode(self, frames: Frames) -> Tensor:
        """(n, positions) the codes of frames of the codec's size or larger."""
        given = as_frames(frames)
        parts = [
            self._codes(self._latents(self.pixels(given[first : first + CHUNK])))
            for first in range(0, len(given), CHUNK)
        ]
        flat = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        return flat.reshape(len(given), self.config.positions)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(n, h, w, 3) uint8, the frames that codes (n, positions) stand for."""
        rows = self.codebook[codes].reshape(len(codes), *self.config.grid, -1)
        latents = rows.movedim(-1, 1)
        pictures: Tensor = self.model.decode(latents, force_not_quantize=True).sample
        scaled = ((pictures + 1) * 127.5).round().clamp(0, 255)
        return scaled.to(torch.uint8).movedim(1, -1).contiguous()

    def loss(self, frames: Frames) -> VQLoss:
        """The codec's loss on frames, with gradients."""
        pictures = self.pixels(frames)
        encoded = self.model.encode(pictures).latents
        decoded = self.model.decode(encoded)
        pixels = (decoded.sample - pictures).square().mean()
        commitment: Tensor = decoded.commit_loss
        latents = encoded.movedim(1, -1).flatten(0, 2)
        return VQLoss(
            pixels + commitment.mean(),
            pixels.detach(),
            latents.detach(),
            self._codes(latents.detach()),
        )

    def _latents(self, pictures: Tensor) -> Tensor:
        encoded: Tensor = self.model.encode(pictures).latents
        return encoded.movedim(1, -1).flatten(0, 2)

    def _codes(self, latents: Tensor) -> Tensor:
        """(m,) the nearest row of the codebook for each latent."""
        nearest: Tensor = torch.cdist(latents, self.codebook.detach()).argmin(1)
        return nearest
