"""Clips as training reads them: posteriors of the VAE, and embeddings of the prompts.

Each is computed once and kept in a file of its own, which is named by a hash of what it
depends on and written atomically. Encoding can therefore be resumed, and neither VAE
nor text encoder is needed afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.cache import Arrays, Cache, array_cache, expected
from genreward_wrappers.data.files import canonical
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.training.finetuning.clips import CaptionedClip

SCHEMA = 1
#: Up to this many bytes of latents are kept in memory; more are read when needed.
HELD = 16 << 30
#: The published noise of first frames: mean and deviation of its logarithm.
NOISE_MEAN, NOISE_STD = -3.0, 0.5
HALF = "bfloat16"


@dataclass(frozen=True)
class Recipe:
    """What the files of a cache depend on, apart from the clips.

    Attributes:
        vae: The hash of the VAE.
        text: The hash of text encoder and tokenizer.
        tokens: The number of tokens that a prompt is cut or padded to.
        frames: The number of frames of a clip.
        size: (height, width) of a clip.
        noised: The number of noised versions of the first frame.
        dtype: The precision of the VAE and the text encoder.
    """

    vae: str
    text: str
    tokens: int
    frames: int
    size: tuple[int, int]
    noised: int
    dtype: str

    def of_clip(self, clip: CaptionedClip) -> str:
        """The name of a clip's file."""
        return "clip-" + digest_of(
            [self.vae, clip.digest, self.frames, *self.size, self.noised, self.dtype]
        )

    def of_prompt(self, prompt: str) -> str:
        """The name of a prompt's file."""
        return "prompt-" + digest_of([self.text, prompt, self.tokens, self.dtype])


class LatentsCache:
    """A folder of encoded clips and prompts."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        """Stores both; nothing is made or read yet."""
        self.folder = folder
        self.recipe = recipe

    def lacks_prompts(self, prompts: Iterable[str]) -> list[str]:
        """The prompts that are still to be encoded, "" included, each once."""
        wanted = dict.fromkeys(["", *prompts])
        return [p for p in wanted if self._read(self.recipe.of_prompt(p)) is None]

    @torch.inference_mode()
    def encode_prompts(
        self, pipeline: Any, prompts: Sequence[str], device: torch.device
    ) -> None:
        """Encodes prompts with the pipeline's text encoder."""
        pipeline.text_encoder.to(device)
        for prompt in self.lacks_prompts(prompts):
            embedded, _ = pipeline.encode_prompt(
                prompt,
                do_classifier_free_guidance=False,
                max_sequence_length=self.recipe.tokens,
                device=device,
            )
            self._write(self.recipe.of_prompt(prompt), {"prompt": embedded[0]})

    @torch.inference_mode()
    def encode_clips(
        self,
        vae: Any,
        clips: Sequence[CaptionedClip],
        device: torch.device,
        on_progress: OnProgress = no_progress,
    ) -> None:
        """Encodes clips with the VAE.

        Raises:
            ValueError: A clip cannot be read, or does not fit.
        """
        for done, clip in enumerate(clips):
            on_progress(done, len(clips))
            name = self.recipe.of_clip(clip)
            if self._read(name) is None:
                frames = clip.frames(self.recipe.frames, self.recipe.size)
                pixels = _pixels(frames).to(device, vae.dtype)
                first = [pixels[:, :, :1]]
                if self.recipe.noised:
                    first = _noised(first[0], self.recipe.noised, clip.digest)
                self._write(
                    name,
                    {
                        "video": _posterior(vae, pixels),
                        "image": torch.stack([_posterior(vae, f) for f in first]),
                    },
                )
        on_progress(len(clips), len(clips))

    def latents(self, clips: Sequence[CaptionedClip]) -> Latents:
        """All latents, which must exist."""
        return Latents(self, clips)

    def _read(self, name: str) -> dict[str, Tensor] | None:
        found = self._files.get(name)
        if found is None:
            return None
        # Copied: what is read from a file may not be writable.
        tensors = {key: torch.from_numpy(array.copy()) for key, array in found.items()}
        if self.recipe.dtype == HALF:
            tensors = {key: t.view(torch.bfloat16) for key, t in tensors.items()}
        return tensors

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        arrays: Arrays = {}
        for key, tensor in tensors.items():
            plain = tensor.cpu().contiguous()
            if plain.dtype == torch.bfloat16:
                # numpy has no such type: it is kept as the bits that it is.
                if not plain.isfinite().all():
                    raise ValueError(f"{key!r} of {name} holds NaN or infinity")
                plain = plain.view(torch.int16)
            arrays[key] = plain.numpy()
        self._files.put(name, arrays)

    @property
    def _files(self) -> Cache[Arrays]:
        return array_cache(self.folder, self._fault)

    def _fault(self, arrays: Arrays) -> str:
        kind = "int16" if self.recipe.dtype == HALF else self.recipe.dtype
        wanted: dict[str, tuple[str, tuple[int | None, ...]]]
        if "prompt" in arrays:
            wanted = {"prompt": (kind, (None, None))}
        else:
            noised = max(1, self.recipe.noised)
            wanted = {
                "video": (kind, (2, None, None, None, None)),
                "image": (kind, (noised, 2, 1, None, None, None)),
            }
        return expected(arrays, wanted)


class Latents:
    """The encoded clips of a data set, in its order.

    Attributes:
        clips: The clips.
        digest: The hash of everything that training reads.
    """

    def __init__(self, cache: LatentsCache, clips: Sequence[CaptionedClip]) -> None:
        """Reads them, into memory if they fit.

        Raises:
            FileNotFoundError: One of them is missing.
        """
        self.clips = list(clips)
        self._cache = cache
        recipe = cache.recipe
        self._names = [recipe.of_clip(clip) for clip in clips]
        prompts = list(dict.fromkeys(["", *(clip.prompt for clip in clips)]))
        self._prompts = torch.stack(
            [self._get(recipe.of_prompt(prompt))["prompt"] for prompt in prompts]
        )
        #: Which of the prompts each clip has; 0 is none.
        self._prompt_of = torch.tensor([prompts.index(clip.prompt) for clip in clips])
        self.digest = digest_of([*self._names, *map(recipe.of_prompt, prompts)])
        one = self._get(self._names[0])
        size = sum(t.nbytes for t in one.values()) * len(clips)
        self._held: dict[str, Tensor] | None = None
        if size <= HELD:
            self._held = {
                key: torch.empty(len(clips), *t.shape, dtype=t.dtype)
                for key, t in one.items()
            }
            for row, name in enumerate(self._names):
                for key, tensor in self._get(name).items():
                    self._held[key][row] = tensor

    def __len__(self) -> int:
        """How many clips there are."""
        return len(self.clips)

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The posteriors of some clips.

        Returns:
            (B, 2, F, C, h, w) mean and spread of the videos, and (B, K, 2, 1, C, h, w)
            of the versions of their first frames.
        """
        if self._held is not None:
            return self._held["video"][rows], self._held["image"][rows]
        some = [self._get(self._names[row]) for row in rows.tolist()]
        video, image = (torch.stack([s[k] for s in some]) for k in ("video", "image"))
        return video, image

    def prompts(self, rows: Tensor, dropped: Tensor | None = None) -> Tensor:
        """(B, tokens, D) the embeddings of some clips' prompts.

        Args:
            rows: (B,) the indices of the clips.
            dropped: (B,) where the empty prompt stands for the clip's own.
        """
        which = self._prompt_of[rows]
        if dropped is not None:
            which = which.masked_fill(dropped, 0)
        return self._prompts[which]

    def _get(self, name: str) -> dict[str, Tensor]:
        found = self._cache._read(name)
        if found is None:
            raise FileNotFoundError(
                f"{self._cache.folder} lacks {name}, which was there a moment ago"
            )
        return found


def _pixels(frames: UInt8) -> Tensor:
    """(1, 3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).float().div(127.5).sub(1).permute(3, 0, 1, 2)[None]


def _posterior(vae: Any, pixels: Tensor) -> Tensor:
    """(2, F, C, h, w) mean and spread of one video's latents, unscaled."""
    found = vae.encode(pixels).latent_dist
    both: Tensor = torch.cat([found.mean, found.std])
    return both.transpose(1, 2)


def _noised(first: Tensor, count: int, digest: str) -> list[Tensor]:
    """Versions of a first frame with a little noise, always the same for a clip."""
    rng = np.random.default_rng(int(digest[:16], 16))
    found = []
    for _ in range(count):
        sigma = float(np.exp(rng.normal(NOISE_MEAN, NOISE_STD)))
        noise = rng.standard_normal(tuple(first.shape), np.float32)
        found.append(first + sigma * torch.from_numpy(noise).to(first))
    return found


def digest_of(parts: Sequence[Any]) -> str:
    """A hash of what JSON can say."""
    text = canonical([SCHEMA, *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
