"""TADPoLe: how much a text helps a diffusion model to remove noise.

Paper: Luo et al., "Text-Aware Diffusion for Policy Learning" (NeurIPS 2024, arXiv
2407.01903).

Formula, per frame, of a frame's latents with noise e added,

    symlog(w1 mean((e_c - e_u)^2)) + symlog(w2 (mean((e_u - e)^2) - mean((e_c - e)^2))),

where the denoiser predicts the noise e_c with the prompt and e_u without it. w1 = 2000,
w2 = 200. The noise is new at every step, its level t is drawn from [400, 500) once an
episode, and there is no guidance. Both depend only on the episode's seed and the step.

Weights: any text-to-image pipeline of diffusers that `denoiser` knows, by folder, hub
id, or in memory. There is no default, because repositories on the hub come and go.

Paid at every step, for the new frame. With a text-to-video pipeline (Video-TADPoLe,
AnimateDiff) frames are scored in windows of 8, one every 4 steps, and a frame's score
is the mean over its windows. It is paid when the last of them is complete: every 4
steps the sum over 4 frames, and at the end of an episode, by termination or time limit,
the rest. The return is the same as if every frame were paid on its own step.

Latents are the posterior's mode; only the noise is random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from genreward_wrappers.rewards.combine import symlog
from genreward_wrappers.rewards.peers import values
from genreward_wrappers.rewards.peers.denoiser import Denoiser

#: How many frames go through the denoiser at once.
CHUNK = 16


@dataclass(frozen=True, slots=True)
class TadpoleMemory:
    """What each row remembers of its episode.

    Attributes:
        seeds: (N,) the seed of its noise.
        latents: (N, window, channels, h, w) the latents of its newest frames; None for
            pipelines of pictures.
        sums: (N, window) the scores of these frames, summed over windows.
        counts: (N, window) the number of these windows.
        unpaid: (N, window) whether a frame is still to be paid.
    """

    seeds: UInt64
    latents: Tensor | None
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    unpaid: Bool


class Tadpole(RewardModel[TadpoleMemory]):
    """Pays what a prompt tells a diffusion model about the frames."""

    name = "tadpole"

    def __init__(
        self,
        prompt: str,
        pipeline: Any,
        *,
        w1: float = 2000.0,
        w2: float = 200.0,
        noise: tuple[int, int] = (400, 500),
        negative: str = "",
        size: int | None = None,
        window: int = 8,
        stride: int = 4,
        device: str = "auto",
        dtype: str | None = None,
        revision: str | None = None,
    ) -> None:
        """Binds the prompt.

        Args:
            prompt: What the frames should show.
            pipeline: A diffusers pipeline, a local folder with one, or a hub id.
            w1: The weight of what the prompt changes.
            w2: The weight of what the prompt explains.
            noise: The range of noise levels, from the first up to but not including the
                second.
            negative: The text of the prediction without the prompt.
            size: The shorter side at which the model sees frames; None is its training
                size.
            window: How many frames a text-to-video pipeline sees at once.
            stride: The number of steps between two windows.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: The precision of the pipeline; None is float32.
            revision: The revision of the hub's repository.

        Raises:
            ValueError: The prompt is empty, the pipeline lacks a part, or a number is
                out of range.
            FileNotFoundError: There is no such pipeline here, and it cannot be
                downloaded.
        """
        values.tadpole(prompt, w1, w2, noise, size, window, stride)
        self.denoiser = Denoiser(
            pipeline,
            prompt,
            negative,
            size=size,
            device=device,
            dtype=dtype,
            revision=revision,
        )
        if noise[1] > self.denoiser.steps:
            raise ValueError(
                f"noise={noise}: expected a range within the {self.denoiser.steps} "
                "steps of the pipeline"
            )
        self.prompt = prompt
        self._w1, self._w2, self._levels = w1, w2, noise
        self._window, self._stride = window, stride

    def reset(
        self, memory: TadpoleMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> TadpoleMemory:
        """Begins the episodes of some rows; a window begins with the first frame."""
        count = len(mask)
        if memory is None:
            latents = None
            if self.denoiser.video:
                shape = (count, self._window, *self.denoiser.shape(frames))
                latents = torch.zeros(shape, device=self.denoiser.device)
            board = np.zeros((count, self._window))
            memory = TadpoleMemory(
                seeds, latents, board, board.astype(np.int64), board.astype(np.bool_)
            )
        latents = memory.latents
        if latents is not None:
            rows = torch.from_numpy(mask).to(latents.device)
            latents = latents.clone()
            latents[rows] = self.denoiser.encode(frames[mask])[:, None]
        fresh = mask[:, None]
        return TadpoleMemory(
            np.where(mask, seeds, memory.seeds),
            latents,
            np.where(fresh, 0.0, memory.sums),
            np.where(fresh, 0, memory.counts),
            # Before the first step there is nothing to pay for.
            memory.unpaid & ~fresh,
        )

    def step(
        self, memory: TadpoleMemory, transition: Transition
    ) -> tuple[Score, TadpoleMemory]:
        """Scores the new frames, or the windows that they complete."""
        if memory.latents is not None:
            return self._step_video(memory, transition)
        active = transition.active
        value = np.zeros(len(active), np.float32)
        if active.any():
            latents = self.denoiser.encode(transition.next_frames[active])
            value[active] = self._judge(
                latents, memory.seeds[active], transition.steps[active]
            )
        return Score(value, active), memory

    def _step_video(
        self, memory: TadpoleMemory, transition: Transition
    ) -> tuple[Score, TadpoleMemory]:
        active, steps = transition.active, transition.steps
        memory = self._pushed(memory, transition)
        assert memory.latents is not None
        # With the first frame there are steps + 1 of them.
        full = (steps + 1 >= self._window) & (
            (steps + 1 - self._window) % self._stride == 0
        )
        end = transition.terminated | transition.truncated
        ready = active & (full | end)
        value = np.zeros(len(active), np.float32)
        if not ready.any():
            return Score(value, ready), memory
        sums, counts = memory.sums.copy(), memory.counts.copy()
        rows = torch.from_numpy(ready).to(memory.latents.device)
        sums[ready] += self._judge(
            memory.latents[rows], memory.seeds[ready], steps[ready]
        )
        counts[ready] += 1
        # The oldest frames are in no later window; at the end, none is.
        final = np.arange(self._window) < self._stride
        paid = memory.unpaid & ready[:, None] & (final | end[:, None])
        means = np.where(paid, sums / np.maximum(counts, 1), 0)
        value = means.sum(1).astype(np.float32)
        return Score(value, ready), replace(
            memory, sums=sums, counts=counts, unpaid=memory.unpaid & ~paid
        )

    def _pushed(self, memory: TadpoleMemory, transition: Transition) -> TadpoleMemory:
        """The memory with the new frames of the active rows."""
        active = transition.active
        assert memory.latents is not None
        latents = memory.latents.clone()
        rows = torch.from_numpy(active).to(latents.device)
        if active.any():
            new = self.denoiser.encode(transition.next_frames[active])[:, None]
            latents[rows] = torch.cat([latents[rows, 1:], new], 1)

        def moved(board: NDArray[Any], newest: Any) -> NDArray[Any]:
            shifted = np.concatenate(
                [board[:, 1:], np.full_like(board[:, :1], newest)], 1
            )
            return np.where(active[:, None], shifted, board)

        return TadpoleMemory(
            memory.seeds,
            latents,
            moved(memory.sums, 0),
            moved(memory.counts, 0),
            moved(memory.unpaid, True),
        )

    def _judge(self, latents: Tensor, seeds: UInt64, steps: NDArray[Any]) -> Float32:
        """(n,) of pictures, (n, window) of videos."""
        drawn = np.stack(
            [
                np.random.default_rng([int(seed), int(step)]).standard_normal(
                    latents.shape[1:], dtype=np.float32
                )
                for seed, step in zip(seeds, steps, strict=True)
            ]
        )
        # Steps count from 1: 0 is the episode's own draw.
        levels = [
            int(np.random.default_rng([int(seed), 0]).integers(*self._levels))
            for seed in seeds
        ]
        noise = torch.from_numpy(drawn).to(latents.device)
        t = torch.tensor(levels, device=latents.device)
        rows = max(1, CHUNK // (self._window if self.denoiser.video else 1))
        parts = []
        for first in range(0, len(latents), rows):
            part = slice(first, first + rows)
            with_text, without = self.denoiser.believe(
                latents[part], noise[part], t[part]
            )
            parts.append(alignment(with_text, without, noise[part], self._w1, self._w2))
        found: Float32 = torch.cat(parts).cpu().numpy()
        return found


def alignment(
    with_text: Tensor, without: Tensor, noise: Tensor, w1: float, w2: float
) -> Tensor:
    """The reward of TADPoLe, over the last three axes, in float64."""
    with_text, without, noise = (x.double() for x in (with_text, without, noise))

    def mean(difference: Tensor) -> Tensor:
        return difference.square().mean((-3, -2, -1))

    changed = w1 * mean(with_text - without)
    explained = w2 * (mean(without - noise) - mean(with_text - noise))
    total = symlog(changed.cpu().numpy()) + symlog(explained.cpu().numpy())
    return torch.from_numpy(np.asarray(total))
