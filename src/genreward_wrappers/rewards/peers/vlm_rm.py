"""VLM-RM: how well a picture fits a text, with what is true anyway projected out.

Paper: Rocamonde et al., "Vision-Language Models are Zero-Shot Reward Models for
Reinforcement Learning" (ICLR 2024, arXiv 2310.12921).

Weights: any CLIP model of open_clip; the paper's largest is ViT-bigG-14 with the tag
laion2b_s39b_b160k.

Formula: with x, g and b the unit embeddings of the picture, of the goal and of a
baseline that describes the scene without the goal, and d = g - b::

    r = 1 - 1/2 |P (x - g)|^2,    P = alpha d d^T / |d|^2 + (1 - alpha) I

alpha = 0 is the plain cosine x.g. Several texts are averaged, and the mean is brought
back to unit length.

Paid: at every step, for the frame that the action led to.

Needs: a goal text, and a baseline text unless alpha is 0.

Pictures that are not square are squashed, as by the released code; ``resize="model"``
cuts their sides off instead, as most CLIP models were trained.

Where the released code differs: it leaves the mean of several texts shorter than one,
so that alpha = 0 is the cosine plus a constant; it prepares pictures and texts for
OpenAI's models, whichever model it loads; it does not round resized pictures to uint8,
as Pillow does; and it keeps the frames of a whole rollout and scores them at its end,
inside its own learner. By the paper's own figures, large
models work better and small ones hardly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.core import (
    Bool,
    Float32,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.encoders.base import VideoEncoder
from genreward_wrappers.encoders.images import ImageEncoder, Pictures
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.texts import as_texts, mean_text, text_tower
from genreward_wrappers.rewards.peers import values

DEFAULT_ENCODER = "open_clip:ViT-bigG-14/laion2b_s39b_b160k"


class VLMRM(RewardModel[None]):
    """Pays for pictures that a text describes. Remembers nothing."""

    name = "vlm-rm"

    def __init__(
        self,
        prompt: str | Sequence[str],
        baseline: str | Sequence[str] | None = None,
        *,
        alpha: float = 0.5,
        resize: str = "squash",
        encoder: VideoEncoder | str = DEFAULT_ENCODER,
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        """Binds the goal: its texts are encoded here, once.

        Args:
            prompt: The goal in words, or several wordings of it.
            baseline: The scene without the goal, in one or several wordings.
            alpha: From 0 to 1, how much of each embedding is projected out that is not
                on the line from the baseline to the goal.
            resize: What becomes of frames that are not square: "squash" brings all of
                them to the model's size, "model" does what the model's own preparation
                does, which usually cuts the longer sides off.
            encoder: A model of pictures and texts, or its name for `load_encoder`.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: The precision of the encoder; None is float32.

        Raises:
            ValueError: A text is missing or empty, or the encoder reads no texts.
        """
        values.vlm_rm(prompt, baseline, alpha, resize)
        texts = as_texts(prompt)
        others = None if baseline is None else as_texts(baseline)
        if isinstance(encoder, str):
            encoder = load_encoder(encoder, device=device, dtype=dtype)
        tower = text_tower(encoder)
        self.encoder = encoder
        self._squash: Pictures | None = None
        if resize == "squash" and isinstance(encoder, ImageEncoder):
            self._squash = replace(encoder.pictures, resize="squash")
        self.alpha = float(alpha)
        self._goal = mean_text(tower, texts)
        self._way: Tensor | None = None
        if others is not None:
            way = self._goal - mean_text(tower, others)
            length = way.norm()
            if length < 1e-6:
                raise ValueError(
                    f"prompt={prompt!r} and baseline={baseline!r} have the same "
                    "embedding: there is no way from one to the other"
                )
            self._way = way / length

    def reset(self, memory: None, frames: UInt8, mask: Bool, seeds: UInt64) -> None:
        """Nothing to remember."""
        return None

    def step(self, memory: None, transition: Transition) -> tuple[Score, None]:
        """Pays at every step."""
        active = transition.active
        value = np.zeros(len(active), np.float32)
        value[active] = self.values(transition.next_frames[active])
        return Score(value, active), None

    @torch.inference_mode()
    def values(self, frames: UInt8) -> Float32:
        """(n,) the reward of frames."""
        if self._squash is not None:
            frames = self._squash.fit(torch.from_numpy(frames)).numpy()
        embeddings = self.encoder.encode_images(frames).flatten(1)
        off = torch.nn.functional.normalize(embeddings, dim=-1) - self._goal
        projected = (1 - self.alpha) * off
        if self._way is not None:
            projected += self.alpha * (off @ self._way)[:, None] * self._way
        reward: Float32 = (1 - projected.square().sum(1) / 2).cpu().numpy()
        return reward
