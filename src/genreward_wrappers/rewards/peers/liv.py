"""LIV: the cosine of a frame and a goal, a text or a picture, as a value.

Paper: Ma et al., "LIV: Language-Image Representations and Rewards for Robotic Control"
(ICML 2023, arXiv 2306.00958).

Weights: CLIP RN50, trained further by the authors on EpicKitchens. ``genreward convert
liv`` turns their checkpoint into a folder for ``encoder=``. Any other CLIP model works
too, but is then not LIV.

Formula: S(o) = cos(phi(o), psi(goal)). ``form="plain"`` pays S(o'), for the frame o'
that the action led to, ``form="difference"`` pays S(o') - S(o).

Paid: at every step.

Needs: a goal text or a goal picture.

Pictures: shortest edge 224, centre crop, CLIP's mean and deviation.

Where the released code differs: it uses the same formula, and leaves to its users what
is paid when. It divides a tensor by 255 if its largest number is above 10, so that a
dark picture is read in one of two ways, depending on the batch; and it scales tensors
without antialiasing, but files with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
from genreward_wrappers.data.goals import GoalBundle, load_goal
from genreward_wrappers.encoders.base import VideoEncoder
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.texts import as_texts, text_tower
from genreward_wrappers.rewards.peers import values


@dataclass(frozen=True, slots=True)
class LIVMemory:
    """The value of each row's newest frame, for the difference."""

    value: Float32


class LIV(RewardModel[LIVMemory]):
    """Pays for frames whose embedding points where the goal's does."""

    name = "liv"

    def __init__(
        self,
        prompt: str | Sequence[str] | None = None,
        goal: GoalBundle | UInt8 | str | None = None,
        *,
        encoder: VideoEncoder | str,
        form: str = "plain",
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        """Binds the goal: it is encoded here, once.

        Args:
            prompt: The goal in words; several pay the mean of their values.
            goal: The goal as a picture (H, W, 3), or as a bundle (or anything that
                `load_goal` takes), whose key frames are used; several pay the mean of
                their values. Give either a prompt or a goal.
            encoder: "open_clip:<folder>" with what ``genreward convert liv`` wrote, or
                any other encoder; for a prompt one that reads texts.
            form: "plain" or "difference".
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: The precision of the encoder; None is float32.

        Raises:
            ValueError: There is no goal, or two, or the encoder reads no texts.
        """
        values.liv(prompt, form)
        values.one_goal(prompt, goal, "picture")
        texts = [] if prompt is None else as_texts(prompt)
        if isinstance(encoder, str):
            encoder = load_encoder(encoder, device=device, dtype=dtype)
        self.encoder, self._form = encoder, form
        if texts:
            self._goals = text_tower(encoder).encode_texts(texts)
        else:
            self._goals = self._units(_pictures(goal))

    def reset(
        self, memory: LIVMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> LIVMemory:
        """Takes the value of the first frames, for the difference."""
        value = np.zeros(len(mask), np.float32) if memory is None else memory.value
        if self._form == "difference":
            value = value.copy()
            value[mask] = self.values(frames[mask])
        return LIVMemory(value)

    def step(
        self, memory: LIVMemory, transition: Transition
    ) -> tuple[Score, LIVMemory]:
        """Pays at every step."""
        active = transition.active
        value = memory.value.copy()
        value[active] = self.values(transition.next_frames[active])
        paid = value - memory.value if self._form == "difference" else value
        score = Score(np.where(active, paid, np.float32(0)), active)
        return score, LIVMemory(value)

    @torch.inference_mode()
    def values(self, frames: UInt8) -> Float32:
        """(n,) S of frames."""
        similarity: Float32 = (
            (self._units(frames) @ self._goals.T).mean(1).cpu().numpy()
        )
        return similarity

    def _units(self, frames: UInt8) -> Tensor:
        embeddings = self.encoder.encode_images(frames).flatten(1)
        return torch.nn.functional.normalize(embeddings, dim=-1)


def _pictures(goal: Any) -> UInt8:
    """(K, H, W, 3) the pictures of a goal."""
    if isinstance(goal, np.ndarray):
        if goal.dtype != np.uint8 or goal.ndim != 3 or goal.shape[-1] != 3:
            raise ValueError(
                "goal: expected one uint8 picture of shape (height, width, 3), RGB, or "
                f"a goal bundle; got {goal.dtype} {goal.shape}"
            )
        return goal[None]
    return load_goal(goal).key_pictures
