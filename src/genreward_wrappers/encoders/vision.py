"""Vision models of transformers (ViT, DINOv2, DINOv3, ...) as image encoders.

The embedding is the class token after the last norm, or the pooled output of models
without one. (The pooled output of a ViT comes from a layer that most published weights
lack, and that transformers would initialise at random.) Images are preprocessed as by
the model's own image processor, but in batches on the device. Only safetensors are
read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genreward_wrappers.encoders.images import ImageEncoder, Pictures
from genreward_wrappers.encoders.strict_loading import (
    check_weights,
    hash_tensors,
    load_with_report,
    no_remote_code,
)
from genreward_wrappers.extras import require

#: Fields of a configuration that do not affect the latents.
_BESIDE = ("_name_or_path", "architectures", "dtype", "id2label", "label2id",
           "transformers_version")  # fmt: skip


class TransformersEncoder(ImageEncoder):
    """A vision model of transformers as an encoder of single images.

    Args:
        model: The model.
        pictures: Its preprocessing, as returned by `pictures_of`.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type to compute in; float32 by default.
        source: Its name for `load_encoder`.
    """

    def __init__(
        self,
        model: Any,
        pictures: Pictures,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        source: str = "a model in memory",
    ) -> None:
        super().__init__(pictures, (), device=device, dtype=dtype, source=source)
        state = model.state_dict().items()
        # The pooler may be random, and does not affect the class token.
        sha256 = hash_tensors(item for item in state if not _is_pooler(item[0]))
        model.eval().requires_grad_(False)
        self.model = model.to(self.device, self.dtype)
        self._by_class_token = has_class_token(model)
        blank = torch.zeros(1, 3, *self.size, device=self.device, dtype=self.dtype)
        with torch.inference_mode():
            self.latent_shape = tuple(self._embed(blank).shape[1:])
        config = model.config.to_diff_dict()
        essence = {k: v for k, v in config.items() if k not in _BESIDE}
        self.fingerprint = self.describe("transformers", sha256, essence)

    def _embed(self, images: Tensor) -> Tensor:
        output = self.model(pixel_values=images)
        if self._by_class_token:
            token: Tensor = output.last_hidden_state[:, 0]
            return token
        pooled: Tensor = output.pooler_output.flatten(1)
        return pooled


def has_class_token(model: Any) -> bool:
    """Whether the first token of a model represents the whole image."""
    return any(
        name.rpartition(".")[2] in ("cls_token", "class_embedding")
        for name, _ in model.named_parameters()
    )


def pictures_of(processor: Any) -> Pictures:
    """The preprocessing of an image processor of transformers.

    Raises:
        ValueError: The preprocessing is not supported.
    """
    size, crop = _size(processor.size), None
    if getattr(processor, "do_center_crop", False):
        crop = _size(processor.crop_size)
    factor = getattr(processor, "rescale_factor", 1 / 255)
    modes: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
    fault = ""
    if not processor.do_resize or not processor.do_rescale:
        fault = "it does not resize, or not rescale"
    elif abs(factor * 255 - 1) > 1e-6:
        fault = f"it rescales by {factor} and not by 1/255"
    elif int(processor.resample) not in modes:
        fault = f"it resamples by {processor.resample!r}, not bilinear or bicubic"
    elif "height" not in size and ("shortest_edge" not in size or crop is None):
        fault = f"its size is {size}, its crop {crop}"
    elif "height" in size and crop not in (None, size):
        fault = f"it cuts {crop} out of {size}"
    if fault:
        raise ValueError(
            f"the image processor {type(processor).__name__} is none of those known "
            f"here: {fault}"
        )
    by_edge = "height" not in size
    final = crop if by_edge and crop is not None else size
    plain = not processor.do_normalize
    return Pictures(
        size=(final["height"], final["width"]),
        resize="shortest" if by_edge else "squash",
        edge=size["shortest_edge"] if by_edge else None,
        interpolation=modes[int(processor.resample)],
        mean=(0.0, 0.0, 0.0) if plain else tuple(map(float, processor.image_mean)),
        std=(1.0, 1.0, 1.0) if plain else tuple(map(float, processor.image_std)),
    )


def load_vision(
    name: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    size: tuple[int, int] | None = None,
    download: bool = True,
) -> TransformersEncoder:
    """Loads a vision model of transformers. Python code in its repository is never run.

    Args:
        name: A folder with `config.json`, `preprocessor_config.json` and safetensors
            weights, or a Hub id such as "facebook/dinov2-small", optionally followed by
            "@" and a commit.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type to compute in; float32 by default.
        size: The image size that the caller expects; None accepts any.
        download: Whether it may be downloaded from the Hub.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: A file is missing, or the Hub cannot be reached.
        ValueError: The weights or the image processor do not fit.
    """
    transformers = require(
        "transformers", "features", "vision models need transformers"
    )
    where, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if not download:
        options["local_files_only"] = True
    try:
        with no_remote_code():
            processor = transformers.AutoImageProcessor.from_pretrained(
                where, trust_remote_code=False, **options
            )
        model, found = load_with_report(transformers.AutoModel, where, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"cannot get {name!r}, neither as a folder nor from the Hugging Face hub: "
            f"{error}\nA model is config.json, preprocessor_config.json and "
            "model.safetensors. Where the hub can be reached, run\n"
            f"  hf download {where} --local-dir <folder>\n"
            "and give 'transformers:<folder>' instead."
        ) from error
    missing = found["missing"]
    if has_class_token(model):
        missing = {key for key in missing if not _is_pooler(key)}
    # Unexpected keys belong to the heads that the model was trained with. They are
    # named only if there is another problem.
    if missing or found["misshaped"]:
        check_weights(name, **{**found, "missing": missing})
    encoder = TransformersEncoder(
        model,
        pictures_of(processor),
        device=device,
        dtype=dtype,
        source=f"transformers:{name}",
    )
    encoder.check_size(size)
    return encoder


def _is_pooler(key: str) -> bool:
    return key.startswith("pooler.") or ".pooler." in key


def _size(given: Any) -> dict[str, int]:
    """The size of an image processor as a plain dict."""
    sizes = given if isinstance(given, dict) else vars(given)
    names = ("height", "width", "shortest_edge", "longest_edge")
    return {name: int(sizes[name]) for name in names if sizes.get(name)}
