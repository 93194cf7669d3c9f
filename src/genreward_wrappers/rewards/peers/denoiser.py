"""The noise that a diffusers pipeline predicts in a picture, with and without a text.

The parts are the pipeline's own: VAE, text encoder, denoiser, and the scheduler's
noise. Supported denoisers:

- `UNet2DConditionModel` (Stable Diffusion 1 and 2, SDXL and similar models),
- `PixArtTransformer2DModel` (PixArt-alpha),
- `UNetMotionModel` (AnimateDiff): videos.

They may predict the noise (epsilon), the velocity (v), or the picture (sample); all are
converted to the noise. Flow models (Stable Diffusion 3, FLUX) predict none of these.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreward_wrappers.core import UInt8
from genreward_wrappers.encoders.base import as_frames, resolve_device, resolve_dtype
from genreward_wrappers.encoders.strict_loading import load_pipeline
from genreward_wrappers.encoders.texts import as_texts, report_cut, report_unknown
from genreward_wrappers.encoders.weight_files import WeightsError
from genreward_wrappers.extras import require

DENOISERS = ("UNet2DConditionModel", "PixArtTransformer2DModel", "UNetMotionModel")
NEEDED = ("vae", "tokenizer", "text_encoder", "scheduler")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Denoiser:
    """A frozen pipeline with a prompt bound to it.

    Attributes:
        video: Whether it takes videos.
        channels: The number of channels of its latents.
        steps: The number of noise steps.
    """

    def __init__(
        self,
        pipeline: Any,
        prompt: str,
        negative: str = "",
        *,
        size: int | None = None,
        device: str = "auto",
        dtype: str | None = None,
        revision: str | None = None,
    ) -> None:
        """Takes a pipeline apart.

        Args:
            pipeline: A diffusers pipeline, a local folder or a hub id.
            prompt: What the pictures should show.
            negative: The text of the prediction without the prompt.
            size: The shorter side of the pictures that the model sees; None is its
                training size.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: The precision of the computation; None is float32.
            revision: The revision of the hub's repository.

        Raises:
            ValueError: The prompt is empty, or the pipeline lacks a part.
            FileNotFoundError: There is no such pipeline here, and it cannot be
                downloaded.
        """
        (prompt,) = as_texts([prompt], "prompt")
        self.device, self.dtype = resolve_device(device), resolve_dtype(dtype)
        self.source = pipeline if isinstance(pipeline, str) else type(pipeline).__name__
        if isinstance(pipeline, str):
            pipeline = _load(pipeline, revision)
        self._model, self._kind = _denoiser(pipeline, self.source)
        self.video = self._kind == "UNetMotionModel"
        self._noise = _noise(pipeline.scheduler, self.source)
        self._alphas = self._noise.alphas_cumprod.double()
        self.steps = len(self._alphas)
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module) and name != "safety_checker":
                # diffusers' own `to` warns about every change of type.
                torch.nn.Module.to(part, self.device, self.dtype)
                part.eval().requires_grad_(False)
        self._vae = pipeline.vae
        self._factor = 2 ** (len(self._vae.config.block_out_channels) - 1)
        own = getattr(self._model.config, "sample_size", None)
        own = own if isinstance(own, int) else min(own or (64,))
        self._size = own * self._factor if size is None else int(size)
        self._grain = self._factor * _halvings(self._model)
        if self._size < self._grain:
            raise ValueError(f"size={size}: {self.source} needs at least {self._grain}")
        self.channels = int(self._model.config.in_channels)
        _report(pipeline.tokenizer, prompt)
        with torch.no_grad():
            self._texts = self._encode(pipeline, prompt, negative)

    def __repr__(self) -> str:
        """Source, denoiser and device."""
        return f"Denoiser({self.source!r}, {self._kind}, device={str(self.device)!r})"

    def shape(self, frames: UInt8) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of frames (n, H, W, 3)."""
        height, width = self._fitted(frames.shape[1], frames.shape[2])
        return self.channels, height // self._factor, width // self._factor

    @torch.no_grad()
    def encode(self, frames: UInt8) -> Tensor:
        """(n, channels, h, w) latents: the posterior's mode, scaled for the denoiser.

        Frames are scaled to the model's size, larger or smaller, at their own aspect
        ratio, up to what rounding the sides takes.
        """
        pictures = as_frames(frames).to(self.device).movedim(-1, 1).float()
        size = self._fitted(frames.shape[1], frames.shape[2])
        if tuple(pictures.shape[2:]) != size:
            pictures = torch.nn.functional.interpolate(
                pictures, size=size, mode="bilinear", antialias=True
            )
        found = self._vae.encode((pictures / 127.5 - 1).to(self.dtype))
        posterior = getattr(found, "latent_dist", None)
        # Tiny autoencoders have no posterior.
        latents = found.latents if posterior is None else posterior.mode()
        shift = getattr(self._vae.config, "shift_factor", None) or 0.0
        scaled: Tensor = (latents.float() - shift) * self._vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def believe(
        self, latents: Tensor, noise: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The noise that it predicts in noisy latents: with the prompt, and without.

        Args:
            latents: Latents from `encode`; for videos (n, frames, channels, h, w).
            noise: The noise to add, of the same shape.
            t: (n,) the noise step of each.

        Returns:
            Two float32 tensors of the latents' shape.
        """
        noisy = self._noise.add_noise(latents, noise, t)
        given = noisy.movedim(1, 2) if self.video else noisy
        # One pass for both, with the prompt first.
        said = self._predict(torch.cat([given, given]), torch.cat([t, t]), len(given))
        said = (said.movedim(1, 2) if self.video else said).float()
        found = self._to_noise(said, torch.cat([noisy, noisy]), torch.cat([t, t]))
        with_text, without = found.chunk(2)
        return with_text, without

    def _predict(self, noisy: Tensor, t: Tensor, count: int) -> Tensor:
        texts = {
            name: part.repeat_interleave(count, 0) for name, part in self._texts.items()
        }
        hidden = texts["hidden"]
        arguments: dict[str, Any] = {}
        if self._kind == "PixArtTransformer2DModel":
            arguments["encoder_attention_mask"] = texts["mask"]
            conditions: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
            if self._model.config.get("use_additional_conditions"):
                side = [self._factor * length for length in noisy.shape[-2:]]
                sides = torch.tensor([side], device=self.device, dtype=self.dtype)
                ratio = sides[:, :1] / sides[:, 1:]
                conditions = {
                    "resolution": sides.expand(len(noisy), -1),
                    "aspect_ratio": ratio.expand(len(noisy), -1),
                }
            arguments["added_cond_kwargs"] = conditions
        elif "pooled" in texts:
            # SDXL gets the size of the picture, and that nothing was cropped.
            height, width = (self._factor * length for length in noisy.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]])
            arguments["added_cond_kwargs"] = {
                "text_embeds": texts["pooled"],
                "time_ids": sizes.to(self.device, self.dtype).expand(len(noisy), -1),
            }
        if self.video:
            # Every frame has the same text.
            hidden = hidden.repeat_interleave(noisy.shape[2], 0)
        said: Tensor = self._model(
            noisy.to(self.dtype),
            timestep=t,
            encoder_hidden_states=hidden,
            return_dict=False,
            **arguments,
        )[0]
        # Some also predict a variance.
        return said[:, : self.channels]

    def _to_noise(self, said: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        kind = self._noise.config.prediction_type
        if kind == "epsilon":
            return said
        ones = (1,) * (noisy.ndim - 1)
        alpha = self._alphas.to(self.device)[t].reshape(-1, *ones)
        keep, spread = alpha.sqrt().float(), (1 - alpha).sqrt().float()
        noise: Tensor = (noisy - keep * said) / spread
        if kind == "v_prediction":
            noise = keep * said + spread * noisy
        return noise

    def _encode(self, pipeline: Any, prompt: str, negative: str) -> dict[str, Tensor]:
        """The two texts, the prompt first, as the denoiser takes them."""
        accepted = inspect.signature(pipeline.encode_prompt).parameters
        given = {
            "prompt": prompt,
            "negative_prompt": negative,
            "device": self.device,
            "do_classifier_free_guidance": True,
            "num_images_per_prompt": 1,
            "num_videos_per_prompt": 1,
        }
        arguments = {k: v for k, v in given.items() if k in accepted}
        found = pipeline.encode_prompt(**arguments)
        if self._kind == "PixArtTransformer2DModel":
            hidden, mask, without, without_mask = found
            masks = torch.cat([mask, without_mask])
            return {"hidden": torch.cat([hidden, without]), "mask": masks}
        texts = {"hidden": torch.cat(found[:2])}
        if len(found) == 4:
            texts["pooled"] = torch.cat(found[2:])
        return texts

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        """The sides at which the model sees frames."""
        scale = self._size / min(height, width)
        sides = (height, width)
        fitted = [max(1, round(s * scale / self._grain)) * self._grain for s in sides]
        return fitted[0], fitted[1]


def _load(source: str, revision: str | None) -> Any:
    diffusers = require(
        "diffusers",
        '"genreward-wrappers[video]" transformers',
        "TADPoLe needs diffusers and transformers",
    )
    try:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            folder = Path(
                diffusers.DiffusionPipeline.download(
                    source, revision=revision, use_safetensors=True
                )
            )
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        kind = getattr(diffusers, index["_class_name"], diffusers.DiffusionPipeline)
        return load_pipeline(kind, folder)
    except (ImportError, WeightsError):
        raise
    except Exception as error:
        raise FileNotFoundError(
            f"cannot get the pipeline {source!r} ({type(error).__name__}: {error}). It "
            "must be a local folder with a model_index.json and its parts as "
            "safetensors, or a hub id; without a network, fetch it elsewhere with\n"
            f"  hf download {source} --local-dir <folder>\nand give the folder"
        ) from error


def _denoiser(pipeline: Any, source: str) -> tuple[Any, str]:
    """The denoiser of a pipeline and its class, after a check of all parts."""
    parts = getattr(pipeline, "components", {})
    missing = [name for name in NEEDED if parts.get(name) is None]
    model: Any = parts.get("unet") or parts.get("transformer")
    if model is None:
        missing.append("unet or transformer")
    if not missing and not hasattr(pipeline, "encode_prompt"):
        missing.append("encode_prompt")
    if missing:
        there = sorted(name for name, part in parts.items() if part is not None)
        raise ValueError(
            f"the pipeline {source!r} has no {', no '.join(missing)}; it has {there}. "
            "Expected a text-to-image pipeline, or AnimateDiff for videos"
        )
    kind = type(model).__name__
    if kind not in DENOISERS:
        raise ValueError(
            f"the pipeline {source!r} denoises with {kind}, expected one of "
            f"{', '.join(DENOISERS)}"
        )
    takes, gives = model.config.in_channels, pipeline.vae.config.latent_channels
    if takes != gives:
        raise ValueError(
            f"the denoiser of {source!r} takes {takes} channels and its VAE gives "
            f"{gives}: it needs more than a picture, for inpainting perhaps; take a "
            "text-to-image pipeline"
        )
    return model, kind


def _noise(scheduler: Any, source: str) -> Any:
    """The pipeline's noise at any step, whatever steps its scheduler visits."""
    from diffusers import DDPMScheduler

    kind = scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or kind not in PREDICTIONS:
        raise ValueError(
            f"the scheduler of {source!r} is {type(scheduler).__name__} with "
            f"prediction_type={kind!r}: expected one with alphas_cumprod that predicts "
            f"{', '.join(PREDICTIONS)}"
        )
    # Some schedulers add noise only at the few steps that they visit.
    noise = DDPMScheduler.from_config(scheduler.config)
    own, other = scheduler.alphas_cumprod, noise.alphas_cumprod
    if len(own) != len(other) or not torch.allclose(own.cpu(), other, atol=1e-4):
        raise ValueError(
            f"the noise of {source!r} ({type(scheduler).__name__}) is not what its "
            "configuration says"
        )
    return noise


def _halvings(model: Any) -> int:
    """What the sides of latents must be divisible by."""
    blocks = model.config.get("block_out_channels")
    if blocks is not None:
        return int(2 ** (len(blocks) - 1))
    return int(model.config.get("patch_size", 1))


def _report(tokenizer: Any, prompt: str) -> None:
    """Warns about the parts of the prompt that the model does not read."""
    unknown = tokenizer.unk_token_id
    words = [
        word
        for word in prompt.split()
        if unknown in tokenizer(word, add_special_tokens=False).input_ids
    ]
    if words:
        report_unknown(prompt, words)
    limit = int(tokenizer.model_max_length)
    ids = tokenizer(prompt, truncation=True, max_length=limit).input_ids
    if len(tokenizer(prompt).input_ids) > len(ids):
        kept = tokenizer.decode(ids, skip_special_tokens=True)
        report_cut(prompt, kept, f"{limit} tokens")
