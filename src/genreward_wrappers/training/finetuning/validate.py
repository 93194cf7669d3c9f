"""Videos that a generator makes from first frames it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.contact_sheet import contact_sheet, save_picture
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.data.video_files import write_video
from genreward_wrappers.generators.pictures import to_frames
from genreward_wrappers.training.finetuning.denoising import Denoising
from genreward_wrappers.training.finetuning.settings import Plan
from genreward_wrappers.training.finetuning.weights import Weights

#: The seed of the noise, the same at every validation.
SEED = 0


class Samples:
    """Videos of held-out first frames, beside the true ones."""

    def __init__(
        self,
        pipeline: Any,
        task: Denoising,
        rows: Sequence[int],
        shape: tuple[int, tuple[int, int]],
        plan: Plan,
        folder: Path,
    ) -> None:
        """Chooses the clips.

        Args:
            pipeline: The pipeline, without its text encoder.
            task: The task with the transformer.
            rows: The held-out clips.
            shape: The number of frames, and (height, width).
            plan: How many videos, and how they are sampled.
            folder: The folder to write them to.
        """
        self._pipeline = pipeline
        self._task = task
        self._plan = plan
        self._folder = folder
        self._frames, self._size = shape
        self._rows = list(rows)[: plan.videos]
        self._true: list[UInt8] = []

    def make(self, step: int, weights: Weights) -> dict[str, float]:
        """Writes the videos and a contact sheet, each below the true frames.

        Returns:
            The mean absolute error in grey levels, and that of a still picture.
        """
        if not self._rows:
            return {}
        if not self._true:
            clips = [self._task.latents.clips[row] for row in self._rows]
            self._true = [clip.frames(self._frames, self._size) for clip in clips]
        made = self._sample(weights)
        self._folder.mkdir(parents=True, exist_ok=True)
        for row, video in zip(self._rows, made, strict=True):
            write_video(self._folder / f"step-{step:06d}-clip-{row}.mp4", video, 8)
        pairs = [v for both in zip(self._true, made, strict=True) for v in both]
        sheet = contact_sheet(GoalBundle(np.stack(pairs)))
        save_picture(self._folder / f"step-{step:06d}.png", sheet)
        true = np.stack(self._true).astype(np.float32)
        still = true[:, :1].repeat(true.shape[1], 1)
        return {
            "pixels": float(np.abs(np.stack(made) - true).mean()),
            "pixels_still": float(np.abs(still - true).mean()),
        }

    @torch.no_grad()
    def _sample(self, weights: Weights) -> list[UInt8]:
        from PIL import Image

        pipeline, task = self._pipeline, self._task
        device, latents = task.device, task.latents
        pipeline.set_progress_bar_config(disable=True)
        pipeline.transformer.eval()
        pipeline.vae.to(device)
        made = []
        steps, guidance = self._plan.sampling_steps, self._plan.guidance
        try:
            with weights.averaged(), task.half():
                for row, true in zip(self._rows, self._true, strict=True):
                    one = torch.tensor([row])
                    video = pipeline(
                        Image.fromarray(true[0]),
                        prompt_embeds=latents.prompts(one).to(device),
                        negative_prompt_embeds=latents.prompts(
                            one, torch.tensor([True])
                        ).to(device),
                        height=self._size[0],
                        width=self._size[1],
                        num_frames=self._frames,
                        num_inference_steps=steps,
                        guidance_scale=guidance,
                        generator=torch.Generator().manual_seed(SEED),
                        output_type="np",
                    )
                    made.append(to_frames(video.frames[0]))
        finally:
            pipeline.vae.to("cpu")
        return made
