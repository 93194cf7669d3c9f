"""Training a transformer: the latents, noise and prompts of each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.training.finetuning.latents import Latents
from genreward_wrappers.training.finetuning.objective import Objective
from genreward_wrappers.training.finetuning.settings import Finetuning

#: How many noise levels a held-out clip is judged at.
LEVELS = 4


class Denoising:
    """What `Tuner` trains a transformer for.

    Attributes:
        module: The transformer.
        latents: The latents of the clips.
        device: Where it is trained.
    """

    def __init__(
        self,
        transformer: Any,
        objective: Objective,
        latents: Latents,
        training: Finetuning,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Brings them together.

        Args:
            transformer: The transformer, on the device.
            objective: Its input and its loss.
            latents: The latents to train on.
            training: How to train.
            device: The device to train on.
            dtype: The precision of the computation.
        """
        self.module = transformer
        self.latents = latents
        self._objective = objective
        self._training = training
        self.device = device
        self._dtype = dtype

    def losses(self, model: Any, rows: Tensor, rng: np.random.Generator) -> Tensor:
        """(B,) the losses of some clips.

        Args:
            model: The transformer as it is called in training.
            rows: The indices of the clips.
            rng: The generator of the noise and its levels.
        """
        training, count = self._training, len(rows)
        drawn = rng.random((3, count))
        return self._losses(
            model,
            rows,
            rng,
            torch.from_numpy(drawn[0]),
            no_image=torch.from_numpy(drawn[1] < training.image_dropout),
            no_prompt=torch.from_numpy(drawn[2] < training.prompt_dropout),
        )

    def judge(self, row: int, rng: np.random.Generator) -> float:
        """The loss of a held-out clip, with its first frame and its prompt."""
        # Levels are spread evenly: for few clips, random ones would be too noisy.
        levels = (torch.arange(LEVELS) + 0.5) / LEVELS
        nowhere = torch.zeros(LEVELS, dtype=torch.bool)
        rows = torch.full((LEVELS,), row)
        found = self._losses(self.module, rows, rng, levels, nowhere, nowhere)
        return float(found.mean())

    def half(self) -> Any:
        """Around calls of the transformer, whose weights may be in full precision."""
        enabled = self._dtype != torch.float32
        return torch.autocast(self.device.type, self._dtype, enabled=enabled)

    def _losses(
        self,
        model: Any,
        rows: Tensor,
        rng: np.random.Generator,
        levels: Tensor,
        no_image: Tensor,
        no_prompt: Tensor,
    ) -> Tensor:
        objective, device = self._objective, self.device
        videos, images = self.latents.moments(rows)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))

        def normal(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(device)

        which = torch.from_numpy(rng.integers(images.shape[1], size=len(rows)))
        image = images[torch.arange(len(rows)), which].to(device)
        video = videos.to(device)
        sample = self._training.sample
        scaled = objective.video(video, normal(video[:, 0]) if sample else None)
        first = objective.image(image, normal(image[:, 0]) if sample else None)
        gone = no_image.to(device)[:, None, None, None, None]
        first = first.masked_fill(gone, 0)
        at = (levels * objective.timesteps).long().to(device)
        prompt = self.latents.prompts(rows, no_prompt).to(device)
        noise = normal(scaled)
        given = objective.inputs(scaled, first, prompt, noise, at)
        with self.half():
            output = model(**given)[0]
        return objective.losses(output, scaled, noise, at)
