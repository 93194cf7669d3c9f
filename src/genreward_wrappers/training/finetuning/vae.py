"""Training a video VAE: L1 with moving pixels weighted up, and a little KL.

LoRA and the transformer's own training leave the VAE unchanged. A VAE that blurs what
moves blurs every generated video. It is trained first and alone, since the transformer
has to learn its latents from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genreward_wrappers.core import UInt8

#: A pixel moves where it differs by this much (of 255) from what is usual there.
MOVING = 16
#: Plain L1 is dominated by the table; the arm and the objects are few pixels.
MOVING_WEIGHT = 8.0
KL_WEIGHT = 1e-4


def moving_pixels(clips: UInt8, usual: UInt8) -> Tensor:
    """(B, 1, T, H, W) 1 where clips move, 0 elsewhere.

    Args:
        clips: (B, T, H, W, 3).
        usual: (B, H, W, 3) the median frame.
    """
    change = np.abs(clips.astype(np.int16) - usual[:, None]).max(-1, keepdims=True)
    moving = torch.from_numpy((change > MOVING).astype(np.float32))
    return moving.permute(0, 4, 1, 2, 3)


def reconstruction_losses(
    vae: Any, video: Tensor, moving: Tensor, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A VAE's loss on a batch of clips.

    Args:
        vae: An `AutoencoderKLCogVideoX`.
        video: (B, 3, T, H, W) in [-1, 1].
        moving: (B, 1, T, H, W) where it moves.
        noise: The noise that latents are drawn with.

    Returns:
        The loss, and the plain mean of the absolute error.
    """
    posterior = vae.encode(video).latent_dist
    decoded = vae.decode(posterior.sample(noise)).sample
    error = (decoded.float() - video).abs()
    weight = 1 + MOVING_WEIGHT * moving
    weighted = (error * weight).mean() / weight.mean()
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return weighted + KL_WEIGHT * kl.mean(), error.mean().detach()


class Reconstruction:
    """What `Tuner` trains a VAE for.

    Attributes:
        module: The VAE, as something that can be called.
    """

    def __init__(
        self,
        vae: nn.Module,
        videos: Sequence[UInt8],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Finds out what moves.

        Args:
            vae: The VAE, on the device.
            videos: (T, H, W, 3) each, of one shape.
            device: The device to train on.
            dtype: The precision of the computation.
        """
        self.module = _Losses(vae)
        self._videos = np.stack(videos)
        self._usual = np.stack([np.median(v, 0).astype(np.uint8) for v in videos])
        self._device = device
        self._dtype = dtype

    def losses(self, model: Any, rows: Tensor, rng: np.random.Generator) -> Tensor:
        """(1,) the loss of some clips.

        Args:
            model: The module as it is called in training.
            rows: The indices of the clips.
            rng: The generator of every random draw.
        """
        return self._both(model, rows, rng)[0][None]

    def judge(self, row: int, rng: np.random.Generator) -> float:
        """The plain L1 of a held-out clip, of a range from -1 to 1."""
        return float(self._both(self.module, torch.tensor([row]), rng)[1])

    def _both(
        self, model: Any, rows: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        clips = self._videos[rows.numpy()]
        moving = moving_pixels(clips, self._usual[rows.numpy()])
        video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        half = self._dtype != torch.float32
        with torch.autocast(self._device.type, self._dtype, enabled=half):
            loss, error = model(video.to(self._device), moving.to(self._device), noise)
        return loss, error


class _Losses(nn.Module):
    # Gradients are exchanged between processes around the call of a module.
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, video: Tensor, moving: Tensor, noise: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return reconstruction_losses(self.vae, video, moving, noise)
