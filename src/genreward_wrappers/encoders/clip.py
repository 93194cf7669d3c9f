"""CLIP models of open_clip: images and texts in one space.

A model is a local folder in open_clip's own layout (`open_clip_config.json` and
`open_clip_model.safetensors`), or one of open_clip's names and pretrained tags, whose
weights huggingface_hub downloads or finds in its cache. Only safetensors are read.

`encode_images` returns the unnormalised embeddings of the image tower, which suit
features; rewards that are cosines normalise them. `encode_texts` returns unit vectors.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreward_wrappers.encoders.images import ImageEncoder, Pictures
from genreward_wrappers.encoders.names import (
    CLIP_CONFIG,
    CLIP_WEIGHTS,
    check_encoder,
    clip_files,
)
from genreward_wrappers.encoders.strict_loading import (
    check_weights,
    hash_tensors,
    misshapen,
    no_remote_code,
    shapes_in,
    shapes_of,
)
from genreward_wrappers.encoders.texts import as_texts, report_cut, report_unknown
from genreward_wrappers.extras import require


class ClipEncoder(ImageEncoder):
    """A CLIP model of open_clip as an encoder of single images and of texts.

    Args:
        model: The model, with its preprocessing in `model.visual.preprocess_cfg`.
        config: The model's configuration, as in `open_clip_config.json`.
        tokenizer: Returns the model's tokenizer; called for the first text.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type to compute in; float32 by default.
        source: Its name for `load_encoder`.
    """

    def __init__(
        self,
        model: Any,
        config: dict[str, Any],
        tokenizer: Any,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        source: str = "a model in memory",
    ) -> None:
        super().__init__(
            _pictures(model.visual.preprocess_cfg),
            (int(config["embed_dim"]),),
            device=device,
            dtype=dtype,
            source=source,
        )
        sha256 = hash_tensors(model.visual.state_dict().items())
        model.eval().requires_grad_(False)
        self.model = model.to(self.device, self.dtype)
        self._make_tokenizer = tokenizer
        self._tokenizer: Any = None
        # Only what determines the latents, which the text tower does not.
        tower = {key: config.get(key) for key in ("embed_dim", "vision_cfg")}
        tower["quick_gelu"] = bool(config.get("quick_gelu", False))
        self.fingerprint = self.describe("open_clip", sha256, tower)

    def _embed(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.model.encode_image(images, normalize=False)
        return embeddings

    def encode_texts(self, texts: str | Sequence[str]) -> Tensor:
        """Unit embeddings (n, D) of texts.

        Warns about texts that are truncated, and about words that the tokenizer does
        not know. (CLIP's own tokenizer encodes any word by its bytes.)
        """
        found = as_texts(texts)
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        for text in found:
            self._report(text)
        with torch.inference_mode():
            tokens = self._tokenizer(found).to(self.device)
            embeddings = self.model.encode_text(tokens).float()
            units = torch.nn.functional.normalize(embeddings, dim=-1)
        return units.clone()

    def _report(self, text: str) -> None:
        limit = self._tokenizer.context_length
        # Tokenizers of transformers are wrapped by open_clip, CLIP's own is not.
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is None:
            tokens = self._tokenizer.encode(text)
            if len(tokens) > limit - 2:
                kept = self._tokenizer.decode(tokens[: limit - 2]).strip()
                report_cut(text, kept, f"{limit - 2} tokens")
            return
        tokens = inner(text)["input_ids"]
        if len(tokens) > limit:
            kept = inner.decode(tokens[:limit], skip_special_tokens=True)
            report_cut(text, kept, f"{limit} tokens")
        unknown = inner.unk_token_id
        words = [
            word
            for word in text.split()
            if unknown is not None
            and unknown in inner(word, add_special_tokens=False)["input_ids"]
        ]
        if words:
            report_unknown(text, words)


def load_clip(
    spec: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    size: tuple[int, int] | None = None,
    source: str | None = None,
    download: bool = True,
) -> ClipEncoder:
    """Loads a CLIP model. Python code in its repository is never run.

    Args:
        spec: ``<model>/<pretrained tag>`` of open_clip, a folder in its layout, or a
            safetensors file next to an `open_clip_config.json`.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type to compute in; float32 by default.
        size: The image size that the caller expects; None accepts any.
        source: The name to record as the encoder's source.
        download: Whether weights may be downloaded from the Hub.

    Raises:
        ImportError: open_clip is not installed.
        FileNotFoundError: A file is missing, or the Hub cannot be reached.
        ValueError: There is no such model or tag, or the weights do not fit.
    """
    open_clip = import_open_clip()
    check_encoder(f"open_clip:{spec}")
    files = clip_files(spec)
    if files:
        settings, weights = files
        name, forced = f"local-dir:{settings.parent.resolve()}", {}
        config = _read_config(settings)
    else:
        name, tag = _name_and_tag(open_clip, spec)
        card = open_clip.get_pretrained_cfg(name, tag)
        config = open_clip.get_model_config(name)
        config["quick_gelu"] = bool(card.get("quick_gelu", False))
        weights = _download(name, tag, str(card.get("hf_hub", "")), download)
        keys = ("mean", "std", "interpolation", "resize_mode")
        forced = {
            "force_quick_gelu": config["quick_gelu"],
            "force_preprocess_cfg": {k: card[k] for k in keys if card.get(k)},
        }
    model = _build(open_clip, name, weights, forced)
    encoder = ClipEncoder(
        model,
        config,
        lambda: _tokenizer(open_clip, name),
        device=device,
        dtype=dtype,
        source=source or f"open_clip:{spec}",
    )
    encoder.check_size(size)
    return encoder


def _read_config(path: Path) -> dict[str, Any]:
    """The model's part of a configuration, unless it asks to run code."""
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))["model_cfg"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no configuration of open_clip") from error
    # open_clip passes such options on to transformers.
    if "trust_remote_code" in json.dumps(config):
        raise ValueError(
            f"{path} asks for trust_remote_code: Python that comes with a model is "
            "never run"
        )
    return config


def _tokenizer(open_clip: Any, name: str) -> Any:
    with no_remote_code():
        return open_clip.get_tokenizer(name)


def _build(open_clip: Any, name: str, weights: Path, forced: dict[str, Any]) -> Any:
    """The model with exactly its weights."""
    root = logging.getLogger()
    # open_clip would warn that there are no weights; they are loaded below.
    root.addFilter(_says_something)
    try:
        with no_remote_code():
            model = open_clip.create_model(
                name,
                load_weights=False,
                pretrained_image=False,
                pretrained_text=False,
                device="cpu",
                **forced,
            )
    finally:
        root.removeFilter(_says_something)
    there = shapes_in(weights)
    for scalar in ("logit_scale", "logit_bias"):
        # Stored as a number by some, and as a list of one number by others.
        there.pop(scalar, None)
    # open_clip would silently resize a position embedding of another size.
    wrong = misshapen(there, shapes_of(model.state_dict()))
    check_weights(str(weights), (), misshaped=wrong)
    found = open_clip.load_checkpoint(model, str(weights), strict=False)
    check_weights(str(weights), found.missing_keys, found.unexpected_keys)
    return model


def _says_something(record: logging.LogRecord) -> bool:
    return "No pretrained weights loaded" not in record.getMessage()


def _pictures(config: dict[str, Any]) -> Pictures:
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return Pictures(
        size=(int(height), int(width)),
        resize=config["resize_mode"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fill=int(config["fill_color"]),
    )


def _name_and_tag(open_clip: Any, spec: str) -> tuple[str, str]:
    name, _, tag = spec.rpartition("/") if "/" in spec else (spec, "", "")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ValueError(
            f"open_clip:{spec}: {name!r} comes with the pretrained tags "
            f"{', '.join(map(repr, tags)) or 'none'}, got {tag!r}"
        )
    return name, tag


def _download(name: str, tag: str, address: str, download: bool) -> Path:
    """Downloads a tag's weights from the Hub, or finds them in its cache."""
    from huggingface_hub import hf_hub_download

    repository, _, file = address.rpartition("/")
    file = f"{Path(file).stem}.safetensors" if file else CLIP_WEIGHTS
    try:
        if not repository:
            raise OSError("open_clip knows no repository for them")
        return Path(hf_hub_download(repository, file, local_files_only=not download))
    except OSError as error:
        # All errors of the Hub, including being offline, are OSErrors.
        raise FileNotFoundError(
            f"cannot get the weights {tag!r} of {name!r} as safetensors, {file} of "
            f"{repository!r} on the Hugging Face hub: {error}\nWhere the hub can be "
            f"reached, run\n  hf download {repository} {file} {CLIP_CONFIG} "
            "--local-dir <folder>\nand give 'open_clip:<folder>' instead."
        ) from error


def import_open_clip() -> Any:
    """open_clip, or an error that names the extra."""
    return require("open_clip", "clip", "CLIP models need open_clip")
