"""Converts pictures and videos of other libraries to uint8 RGB."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch

from genreward_wrappers.core import UInt8
from genreward_wrappers.generators.checkpoints import import_diffusers


def to_frames(video: Any, name: str = "the pipeline") -> UInt8:
    """(T, H, W, 3) uint8 frames of one video, in whatever form a pipeline gives it.

    Args:
        video: Pictures of Pillow; an array (T, H, W, 3), uint8 or floats in [0, 1]; or
            a tensor (T, 3, H, W) of floats in [0, 1].
        name: The video's source, for messages.

    Raises:
        ValueError: It is no such video, or not finite.
    """
    if isinstance(video, torch.Tensor):
        video = video.detach().cpu()
        array = (video.float() if video.is_floating_point() else video).numpy()
        if array.ndim == 4:
            array = np.moveaxis(array, 1, -1)
    elif isinstance(video, (list, tuple)):
        array = np.stack([np.asarray(_rgb(frame)) for frame in video])
    else:
        array = np.asarray(video)
    if array.ndim != 4 or array.shape[-1] != 3 or len(array) < 2:
        raise ValueError(
            f"{name} gave a video of shape {array.shape}, expected (frames, height, "
            "width, 3) with at least 2 frames"
        )
    if array.dtype == np.uint8:
        frames: UInt8 = np.ascontiguousarray(array)
        return frames
    if array.dtype.kind != "f":
        raise ValueError(
            f"{name} gave a video of {array.dtype}, expected uint8, or floats from 0 "
            "to 1"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} gave a video with NaN or infinity: half precision overflows in "
            "some models, try --dtype bfloat16 or float32"
        )
    low, high = float(array.min()), float(array.max())
    if low < -0.01 or high > 1.01:
        raise ValueError(
            f"{name} gave a video with values from {low:.3g} to {high:.3g}, expected "
            "floats from 0 to 1"
        )
    rounded: UInt8 = np.rint(np.clip(array, 0, 1) * 255.0).astype(np.uint8)
    return rounded


def load_image(path: str | PathLike[str]) -> UInt8:
    """(H, W, 3) the picture in a file.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    import_diffusers()
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.array(_rgb(image))
    except FileNotFoundError as error:
        raise ValueError(f"there is no picture at {path}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a picture ({error})") from error


def _rgb(frame: Any) -> Any:
    return frame.convert("RGB") if hasattr(frame, "convert") else frame
