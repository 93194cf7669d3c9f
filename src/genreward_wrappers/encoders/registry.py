"""Loads encoders by name; equal requests share one object."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import torch

from genreward_wrappers.encoders.base import (
    VideoEncoder,
    resolve_device,
    resolve_dtype,
)
from genreward_wrappers.encoders.names import (
    CLIP_CONFIG,
    HUB,
    PIXELS,
    POSE,
    check_encoder,
    class_of,
    folder_of,
)
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.envs._llvm import before_torch

# Encoders are immutable, so all environments of a process can share one. It is freed
# with the last reference.
_loaded: weakref.WeakValueDictionary[tuple[object, ...], VideoEncoder] = (
    weakref.WeakValueDictionary()
)
_lock = threading.Lock()


def load_encoder(
    spec: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    size: tuple[int, int] | None = None,
    download: bool = True,
) -> VideoEncoder:
    """Loads an encoder; calls with the same arguments share one object.

    Args:
        spec: `pixels` or `pixels:<grid>`; `embedded:<name>`, a model that comes with
            this package; `hf://<owner>/<repo>[/<subfolder>][@<revision>]`; a local
            folder with a diffusers `config.json` and safetensors weights; or
            `random:` followed by one of the last three, for the untrained model.
            Models for single images are `open_clip:<model>/<pretrained tag>`,
            `open_clip:<folder or safetensors file>` and `transformers:<folder, or hub
            id[@<revision>]>`.
        device: "auto" (CUDA if available), "cpu", "cuda" or "cuda:<index>".
        dtype: The type to compute in, "float32" by default on every device.
        size: Height and width of the model's input; by default `sample_height` and
            `sample_width` of the model's configuration, and 64x64 for pixels.
        download: Whether it may be downloaded from the Hugging Face Hub. Python code
            that comes with a model is never run.

    Raises:
        ValueError: The string has none of these forms.

    Example:
        >>> encoder = load_encoder("pixels:4", device="cpu")
        >>> encoder is load_encoder("pixels:4", device="cpu")
        True
    """
    resolved, number = resolve_device(device), resolve_dtype(dtype)
    size = None if size is None else (int(size[0]), int(size[1]))
    key = (spec, _stamp(spec), str(resolved), number, size)
    with _lock:
        encoder = _loaded.get(key)
        if encoder is None:
            encoder = _load(spec, resolved, number, size, download)
            _loaded[key] = encoder
        return encoder


def _load(
    spec: str,
    device: torch.device,
    dtype: torch.dtype,
    size: tuple[int, int] | None,
    download: bool,
) -> VideoEncoder:
    check_encoder(spec)
    before_torch()
    pixels = PIXELS.fullmatch(spec)
    if pixels:
        if dtype != torch.float32:
            raise ValueError(f"{spec!r} computes in float32, got dtype={dtype}")
        return PooledPixels(size or (64, 64), int(pixels[1] or 8), device=device)
    how: dict[str, Any] = {"device": device, "dtype": dtype, "size": size}
    library, _, name = spec.partition(":")
    if library == "open_clip":
        from genreward_wrappers.encoders.clip import load_clip

        return load_clip(name, **how, download=download)
    if library == "transformers":
        from genreward_wrappers.encoders.vision import load_vision

        return load_vision(name, **how, download=download)

    folder = folder_of(spec)
    if folder is not None and (folder / CLIP_CONFIG).is_file():
        from genreward_wrappers.encoders.clip import load_clip

        return load_clip(str(folder), **how, source=spec)

    # The same architecture with untrained weights.
    untrained = spec.startswith("random:")
    source, spec = spec, spec.removeprefix("random:")
    folder = folder_of(spec)
    if folder is not None and class_of(folder) == POSE:
        from genreward_wrappers.encoders.pose import load_pose

        return load_pose(folder, **how, source=source, untrained=untrained)

    # Only the models below need diffusers.
    from genreward_wrappers.encoders.vae_checkpoint import load_video_vae

    hub = HUB.fullmatch(spec)
    if hub:
        return load_video_vae(
            hub[1],
            subfolder=hub[2],
            revision=hub[3],
            **how,
            untrained=untrained,
            download=download,
        )
    assert folder is not None, "checked above"
    return load_video_vae(folder, **how, source=source, untrained=untrained)


def _stamp(spec: str) -> tuple[object, ...]:
    """Changes with the files of a folder, so that a retrained model is loaded anew."""
    for library in ("random:", "open_clip:", "transformers:"):
        spec = spec.removeprefix(library)
    if spec.endswith(".safetensors"):
        spec = str(Path(spec).parent)
    folder = None if spec.startswith(("pixels", "hf://")) else folder_of(spec)
    if folder is None:
        return ()
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    return (folder, *((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files))
