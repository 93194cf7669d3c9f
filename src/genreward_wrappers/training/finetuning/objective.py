"""What a CogVideoX image-to-video transformer is trained on: its input and its loss.

The published recipe is diffusers' own for CogVideoX. A video's latents are noised by
the scheduler; the latents of the first frame, with zeros for all later frames, are
joined to them along the channels; the transformer predicts the velocity, and the error
of the video that it implies is weighted with 1 / (1 - alpha). For a velocity that is
the plain squared error, since

    x0(v) - x0 = sqrt(1 - alpha) (v* - v),

which is what is computed here: nothing is divided by what may be 0. A scheduler that
predicts noise gets the plain squared error of the noise, one that predicts the video
itself the weight as published.

Everything else is as the pipeline does it when it generates: the scales of the latents,
the rotary embeddings, the frames that CogVideoX 1.5 puts before a video.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PREDICTIONS = ("v_prediction", "epsilon", "sample")


class Objective:
    """The training task of one pipeline at one shape of videos.

    All latents are (B, F, C, h, w), as the transformer has them.

    Attributes:
        latent_frames: The latent frames of a video, including padding before it.
    """

    def __init__(
        self,
        pipeline: Any,
        frames: int,
        size: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        """Reads what it needs from the pipeline.

        Args:
            pipeline: A `CogVideoXImageToVideoPipeline`; it may lack its text encoder.
            frames: The number of frames of the videos.
            size: (height, width) of the videos.
            device: The device to train on.

        Raises:
            ValueError: Its scheduler cannot be used for training.
        """
        scheduler = pipeline.scheduler
        self.prediction = str(scheduler.config.get("prediction_type"))
        trains = all(hasattr(scheduler, name) for name in ("add_noise", "get_velocity"))
        if self.prediction not in PREDICTIONS or not trains:
            raise ValueError(
                f"the pipeline's scheduler is a {type(scheduler).__name__} with "
                f"prediction_type={self.prediction!r}: expected one that adds noise, "
                f"as CogVideoX's do, with one of {', '.join(PREDICTIONS)}"
            )
        self.scheduler = scheduler
        self.timesteps = int(scheduler.config.num_train_timesteps)
        config = pipeline.transformer.config
        self._scale = float(pipeline.vae.config.scaling_factor)
        inverted = bool(getattr(pipeline.vae.config, "invert_scale_latents", False))
        self._image_scale = 1 / self._scale if inverted else self._scale
        latents = (frames - 1) // pipeline.vae_scale_factor_temporal + 1
        patch = config.patch_size_t
        self._before = 0 if patch is None else -latents % patch
        self.latent_frames = latents + self._before
        self._rotary = None
        if config.use_rotary_positional_embeddings:
            self._rotary = pipeline._prepare_rotary_positional_embeddings(
                *size, self.latent_frames, torch.device(device)
            )
        self._ofs: Tensor | None = None
        if config.ofs_embed_dim is not None:
            self._ofs = torch.full((1,), 2.0, device=device)

    def video(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        """A video's latents as they are noised.

        Args:
            moments: (B, 2, F, C, h, w) mean and spread of the VAE's posterior.
            noise: (B, F, C, h, w) to draw from it; None takes its mode.
        """
        latents = self._scale * _drawn(moments, noise)
        if self._before:
            # Those frames are thrown away in the end; they stand still until then.
            first = latents[:, :1].expand(-1, self._before, -1, -1, -1)
            latents = torch.cat([first, latents], 1)
        return latents

    def image(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        """The first frame's latents with zeros under all others.

        Args:
            moments: (B, 2, 1, C, h, w).
            noise: (B, 1, C, h, w), or None.
        """
        first = self._image_scale * _drawn(moments, noise)
        later = first.new_zeros(len(first), self.latent_frames - 1, *first.shape[2:])
        return torch.cat([first, later], 1)

    def inputs(
        self, video: Tensor, image: Tensor, prompt: Tensor, noise: Tensor, at: Tensor
    ) -> dict[str, Any]:
        """The arguments of the transformer's call.

        Args:
            video: Latents.
            image: The latents of the first frame, padded.
            prompt: (B, tokens, D) text embeddings.
            noise: As the video.
            at: (B,) timesteps.
        """
        noisy = self.scheduler.add_noise(video, noise, at)
        return {
            "hidden_states": torch.cat([noisy, image], 2),
            "encoder_hidden_states": prompt,
            "timestep": at,
            "ofs": self._ofs,
            "image_rotary_emb": self._rotary,
            "return_dict": False,
        }

    def target(self, video: Tensor, noise: Tensor, at: Tensor) -> Tensor:
        """What the transformer should predict."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return video
        velocity: Tensor = self.scheduler.get_velocity(video, noise, at)
        return velocity

    def losses(
        self, output: Tensor, video: Tensor, noise: Tensor, at: Tensor
    ) -> Tensor:
        """(B,) each video's loss."""
        error = (output.float() - self.target(video, noise, at).float()).square()
        each: Tensor = error.flatten(1).mean(1)
        if self.prediction == "sample":
            alphas = self.scheduler.alphas_cumprod.to(each.device)[at]
            each = each / (1 - alphas.to(each.dtype))
        return each


def _drawn(moments: Tensor, noise: Tensor | None) -> Tensor:
    mean, spread = moments.float().unbind(1)
    return mean if noise is None else mean + spread * noise
