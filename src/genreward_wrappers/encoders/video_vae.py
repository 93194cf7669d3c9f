"""The causal video VAEs of CogVideoX and Wan, streamed.

Both are the encoders of diffusers' `AutoencoderKLCogVideoX` (arXiv 2408.06072) and
`AutoencoderKLWan` (arXiv 2503.20314), with their caches outside of the model, so that
one model can encode any number of clips at a time. Latents are the mode of the
posterior, `encode(clip).latent_dist.mode()`, and are not scaled: the scaling factors of
the configurations belong to the diffusion models. Nothing is ever sampled.

Weights are read strictly and from safetensors only: every tensor of the encoder must be
present. The decoder is loaded only on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from genreward_wrappers.encoders.base import (
    Frames,
    Grammar,
    Tree,
    VideoEncoder,
    as_frames,
    resolve_device,
    resolve_dtype,
    tree_map,
)
from genreward_wrappers.encoders.memory import batch_limit
from genreward_wrappers.encoders.still_frames import still_encoder
from genreward_wrappers.encoders.strict_loading import hash_tensors

ENCODER_PARTS = ("encoder.", "quant_conv.")


class VideoVAEEncoder(VideoEncoder):
    """Base of the video VAEs; subclasses define an architecture's chunks and cache.

    Args:
        model: The diffusers model. The encoder takes ownership of it: it is moved, set
            to evaluation mode and frozen.
        size: Height and width of the model's input; by default `sample_height` and
            `sample_width` of its configuration.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type to compute in; float32 by default.
        sha256: The hash of the weights if known; otherwise it is computed.
        source: Where the model came from, as a name for `load_encoder`.
    """

    kind: ClassVar[str]
    config_keys: ClassVar[tuple[str, ...]]

    #: Maximum number of pixels (frames x height x width) of a forward pass: 56 clips of
    #: 64x64, one of 480x480. Larger batches are split to bound memory.
    pixel_budget: int = 2**21

    def __init__(
        self,
        model: Any,
        *,
        size: tuple[int, int] | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        sha256: str | None = None,
        source: str = "a model in memory",
    ) -> None:
        self.device, self.dtype = resolve_device(device), resolve_dtype(dtype)
        if sha256 is None:
            sha256 = hash_tensors(encoder_part(model.state_dict().items()))
        model.eval().requires_grad_(False)
        # diffusers' own `to` warns about every change of type.
        self.model = torch.nn.Module.to(model, self.device, self.dtype)
        self.grammar, stride, channels = self._geometry(dict(model.config))
        self.size = _checked_size(size, dict(model.config), stride, source)
        self.latent_shape = (channels, self.size[0] // stride, self.size[1] // stride)
        self.source = source
        config = {key: model.config.get(key) for key in self.config_keys}
        self.fingerprint = self.describe(self.kind, sha256, config)

    def _geometry(self, config: dict[str, Any]) -> tuple[Grammar, int, int]:
        """The grammar, the spatial stride, and the number of latent channels."""
        raise NotImplementedError

    def _forward(self, video: Tensor, cache: Tree) -> tuple[Tensor, Tree]:
        """Moments (n, 2C, t, h, w) of a chunk (n, 3, f, H, W), and its cache."""
        raise NotImplementedError

    def encode_chunk(self, frames: Frames, cache: Tree = None) -> tuple[Tensor, Tree]:
        """Encodes one chunk of n clips, given the cache; see `VideoEncoder`."""
        chunk = as_frames(frames, "n, f, H, W, 3")
        want = self.grammar.first if cache is None else self.grammar.rest
        if chunk.shape[1] != want:
            place = "the first" if cache is None else "a later"
            raise ValueError(
                f"{place} chunk must have {want} frames, got {chunk.shape[1]}"
            )
        with batch_limit(self), torch.inference_mode():
            parts = []
            for rows in self._batches(len(chunk), want):
                old = tree_map(lambda tensor, rows=rows: tensor[rows], cache)
                moments, new = self._forward(self._video(chunk[rows]), old)
                parts.append((_mode(moments), new))
            latents = torch.cat([part[0] for part in parts])
            caches = [part[1] for part in parts]
            merged = (
                caches[0]
                if len(caches) == 1
                else tree_map(lambda *tensors: torch.cat(tensors), *caches)
            )
        return latents.clone(), merged

    def encode_clips(self, frames: Frames) -> Tensor:
        """Encodes clips as the library does: (n, T, H, W, 3) to `(n, t, *D)`.

        T is any length that the library encodes without dropping a frame. If the length
        is whole in the grammar, the latents are those of streaming; other lengths (for
        example 16 frames) are chunked differently and can only be compared with clips
        of the same length.
        """
        clips = as_frames(frames, "n, T, H, W, 3")
        self._check_length(clips.shape[1])
        # The library encodes a clip in chunks of about this length for any T.
        chunk = min(clips.shape[1], max(self.grammar.first, self.grammar.rest))
        with batch_limit(self), torch.inference_mode():
            parts = [
                self._whole(self._video(clips[rows]))
                for rows in self._batches(len(clips), chunk)
            ]
            latents = torch.cat(parts)
        # Inference tensors cannot be used in training; a clone made outside can.
        return latents.clone()

    def encode_images(self, frames: Frames) -> Tensor:
        """Encodes every frame as a clip of one frame: (n, H, W, 3) to `(n, *D)`."""
        return self.encode_clips(as_frames(frames)[:, None])[:, 0]

    def _whole(self, video: Tensor) -> Tensor:
        """Latents (n, t, C, h, w) of clips (n, 3, T, H, W)."""
        mode: Tensor = self.model.encode(video).latent_dist.mode()
        return mode.movedim(1, 2).float()

    def _check_length(self, frames: int) -> None:
        """Raises for clips of which the library would drop frames."""

    def _batches(self, n: int, frames: int) -> Iterator[slice]:
        """Slices of n rows that keep every forward pass within the pixel budget."""
        pixels = frames * self.size[0] * self.size[1]
        rows = max(1, self.pixel_budget // pixels)
        return (slice(i, min(i + rows, n)) for i in range(0, max(n, 1), rows))

    def _video(self, frames: Tensor) -> Tensor:
        """The input of the models: (n, f, H, W, 3) to (n, 3, f, h, w) in [-1, 1].

        Contiguous, because the memory layout decides which kernels run, and thereby the
        last bits of the latents.
        """
        return self._colours(frames).contiguous()

    def _colours(self, frames: Tensor) -> Tensor:
        """The same with the colours last in memory, as they come."""
        video = self.prepare(frames).movedim(-1, 1).to(torch.float32)
        return video.div_(127.5).sub_(1).to(self.dtype)


class CogVideoXEncoder(VideoVAEEncoder):
    """The encoder of diffusers' `AutoencoderKLCogVideoX`: 9 frames, then 8 at a time.

    Its normalisation pools over the time of a chunk, so chunks cannot be smaller; the
    first one has one frame more. Four frames give one latent.
    """

    kind = "cogvideox"
    config_keys = (
        "act_fn",
        "norm_eps",
        "norm_num_groups",
        "temporal_compression_ratio",
    )

    def _geometry(self, config: dict[str, Any]) -> tuple[Grammar, int, int]:
        rest = int(self.model.num_sample_frames_batch_size)
        halvings = int(config["temporal_compression_ratio"]).bit_length() - 1
        latents = rest >> halvings
        # In a chunk of odd length, the first frame is not part of any halving.
        grammar = Grammar(rest + 1, rest, latents + 1, latents)
        stride = 2 ** (len(config["block_out_channels"]) - 1)
        return grammar, stride, int(config["latent_channels"])

    def _forward(self, video: Tensor, cache: Tree) -> tuple[Tensor, Tree]:
        moments, cache = self.model.encoder(video, conv_cache=cache)
        if self.model.quant_conv is not None:
            moments = self.model.quant_conv(moments)
        return moments, cache

    def encode_images(self, frames: Frames) -> Tensor:
        """Encodes every frame as a clip of one frame: (n, H, W, 3) to `(n, *D)`.

        Equal to the library's latents up to rounding, at a third of the cost.
        """
        if self._still is None:
            self._still = still_encoder(self.model)
        images = as_frames(frames)[:, None]
        with batch_limit(self), torch.inference_mode():
            parts = [
                _mode(self._still(self._colours(images[rows])))
                for rows in self._batches(len(images), 1)
            ]
        # Outside of inference mode, as in `encode_clips`.
        return torch.cat(parts)[:, 0]

    # Made for the first image; not every encoder sees one.
    _still: Callable[[Tensor], Tensor] | None = None


class WanEncoder(VideoVAEEncoder):
    """The encoder of diffusers' `AutoencoderKLWan`: 1 frame, then 4 at a time.

    It has the finer resolution online: a latent every four frames, from the first on.
    """

    kind = "wan"
    config_keys = ("temperal_downsample", "attn_scales", "is_residual", "patch_size")

    def _geometry(self, config: dict[str, Any]) -> tuple[Grammar, int, int]:
        halvings = sum(map(bool, config["temperal_downsample"]))
        if halvings != 2:
            raise ValueError(
                "Wan's encode takes 4 frames at a time, which needs two temporal "
                f"downsamplings, got {config['temperal_downsample']}"
            )
        patch = int(config.get("patch_size") or 1)
        stride = patch * 2 ** (len(config["dim_mult"]) - 1)
        return Grammar(1, 4, 1, 1), stride, int(config["z_dim"])

    def _forward(self, video: Tensor, cache: Tree) -> tuple[Tensor, Tree]:
        patch = self.model.config.get("patch_size")
        if patch is not None:
            from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

            video = patchify(video, patch_size=patch)
        # `encode` keeps this list on the module; the encoder writes to its argument.
        convolutions = self.model._cached_conv_counts["encoder"]
        features = [None] * convolutions if cache is None else list(cache)
        moments = self.model.encoder(video, feat_cache=features, feat_idx=[0])
        return self.model.quant_conv(moments), tree_map(_two_frames, features)

    def _whole(self, video: Tensor) -> Tensor:
        # Like `encode`, with two differences: no cache is left on the module, which may
        # be shared, and the last convolution (1x1) is applied to chunks instead of the
        # clip. Its last bits depend on the length, and should be those of streaming.
        latents, cache = [], None
        for start, stop in self.grammar.spans(video.shape[2]):
            moments, cache = self._forward(video[:, :, start:stop], cache)
            latents.append(_mode(moments))
        return torch.cat(latents, dim=1)

    def _check_length(self, frames: int) -> None:
        if not self.grammar.is_whole(frames):
            floor = self.grammar.floor(frames)
            raise ValueError(
                f"Wan takes clips of {self.grammar}, got {frames} frames; of those it "
                f"would drop the last {frames - floor}: give {floor} or "
                f"{self.grammar.ceil(frames)}"
            )


def _two_frames(features: Tensor) -> Tensor:
    """A causal convolution's cache with two frames, as from the second chunk on.

    After the first chunk, which has one frame, the cache has one frame and the
    convolution pads it with zeros. Padding it here gives the same input, and lets rows
    in their second chunk share a forward pass with rows that are further on.
    """
    missing = 2 - features.shape[2]
    if missing <= 0:
        return features
    return torch.nn.functional.pad(features, (0, 0, 0, 0, missing, 0))


ENCODERS: dict[str, type[VideoVAEEncoder]] = {
    "AutoencoderKLCogVideoX": CogVideoXEncoder,
    "AutoencoderKLWan": WanEncoder,
}


def _mode(moments: Tensor) -> Tensor:
    """The posterior's mode (n, t, C, h, w) from its moments (n, 2C, t, h, w)."""
    return moments.chunk(2, dim=1)[0].movedim(1, 2).float()


def encoder_part(
    tensors: Iterable[tuple[str, Tensor]],
) -> Iterator[tuple[str, Tensor]]:
    return (item for item in tensors if item[0].startswith(ENCODER_PARTS))


def _checked_size(
    size: tuple[int, int] | None, config: dict[str, Any], stride: int, source: str
) -> tuple[int, int]:
    if size is None:
        try:
            size = (config["sample_height"], config["sample_width"])
        except KeyError:
            raise ValueError(
                f"the configuration of {source} names no resolution; give "
                f"size=(height, width)"
            ) from None
    height, width = int(size[0]), int(size[1])
    if min(height, width) < stride or height % stride or width % stride:
        raise ValueError(
            f"both sides of size must be multiples of {stride}, got {(height, width)}"
        )
    return height, width
