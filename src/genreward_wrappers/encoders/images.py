"""Models of single images: their preprocessing, and what they share as encoders.

Such models were trained on pictures of one size, often larger than an environment's
frames. `resize_frames` never enlarges, since no goal would look like the result. Here
frames are enlarged as the model's authors do, for example from 64x64 to 224x224, for
goal and agent alike. Everything is done in batches on the model's device, and every
number comes from the model's own configuration, so nothing depends on what else is in
the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
    scale_planes,
    upload,
)
from genreward_wrappers.encoders.memory import batch_limit


@dataclass(frozen=True, slots=True)
class Pictures:
    """How a model wants its pictures prepared.

    Attributes:
        size: The height and width of the model's input.
        resize: "shortest" scales the picture to cover a square of `edge` and cuts out
            its middle, "longest" scales it to fit into `size` and pads it, "squash"
            changes its aspect ratio.
        edge: The shortest edge before the cut; None takes that of `size`.
        interpolation: "bicubic" or "bilinear", with antialiasing as in Pillow.
        mean: What is subtracted from each colour in [0, 1].
        std: What each colour is then divided by.
        fill: The level, 0 to 255, of padded pixels.
    """

    size: tuple[int, int]
    resize: Literal["shortest", "longest", "squash"] = "shortest"
    edge: int | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    fill: int = 0

    def fit(self, frames: Tensor) -> Tensor:
        """Frames (..., H, W, 3) at the model's size, still uint8.

        Rounded to uint8 as Pillow does, so that a frame kept for later and a frame
        encoded at once are the same. Frames that have the size already are returned
        unchanged.
        """
        height, width = frames.shape[-3:-1]
        if (height, width) == self.size:
            return frames
        lead = frames.shape[:-3]
        planes = frames.reshape(-1, height, width, 3).permute(0, 3, 1, 2)
        scaled_height, scaled_width = self._scaled(height, width)
        # Across and then down, rounded in between, as Pillow does. (Some versions of it
        # begin with the other side of tall pictures: in noise that is a few levels.)
        planes = scale_planes(planes, (height, scaled_width), self.interpolation)
        planes = scale_planes(planes, (scaled_height, scaled_width), self.interpolation)
        scaled = self._cut(planes)
        return scaled.permute(0, 2, 3, 1).reshape(*lead, *self.size, 3)

    def normalise(self, frames: Tensor) -> Tensor:
        """Fitted frames (n, h, w, 3) as the model's input: float32 (n, 3, h, w).

        The colours stay last in memory, which convolutions take up to half again as
        fast on a CPU.
        """
        mean, std = (
            upload(torch.tensor(numbers, dtype=torch.float32), frames.device)
            for numbers in (self.mean, self.std)
        )
        images = (frames.float() / 255 - mean) / std
        return images.permute(0, 3, 1, 2)

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """The size that a picture is scaled to, before anything is cut off or added."""
        wanted_height, wanted_width = self.size
        if self.resize == "squash":
            return self.size
        if self.resize == "longest":
            ratio = max(height / wanted_height, width / wanted_width)
            return round(height / ratio), round(width / ratio)
        if wanted_height != wanted_width and self.edge is None:
            ratio = min(height / wanted_height, width / wanted_width)
            return round(height / ratio), round(width / ratio)
        # The longer edge is rounded down, as in torchvision.
        edge = self.edge or wanted_height
        if height <= width:
            return edge, int(edge * width / height)
        return int(edge * height / width), edge

    def _cut(self, planes: Tensor) -> Tensor:
        """The middle of planes (n, 3, h, w), padded where they are too small."""
        (height, width), (have_height, have_width) = self.size, planes.shape[-2:]
        more_height, more_width = (
            max(height - have_height, 0),
            max(width - have_width, 0),
        )
        if more_height or more_width:
            left, top = more_width // 2, more_height // 2
            planes = torch.nn.functional.pad(
                planes,
                (left, more_width - left, top, more_height - top),
                value=self.fill,
            )
        top = round((planes.shape[-2] - height) / 2)
        left = round((planes.shape[-1] - width) / 2)
        return planes[..., top : top + height, left : left + width]


class ImageEncoder(VideoEncoder):
    """The base of encoders of single images; a subclass knows one library's models.

    A clip is encoded frame by frame. Frames may be of any size.

    Args:
        pictures: How the model wants its pictures prepared.
        latent_shape: The shape of a latent.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type that the model computes in; float32 by default.
        source: The string that `load_encoder` takes for it.
    """

    #: Maximum number of pixels of a forward pass: 83 pictures of 224x224.
    pixel_budget: int = 2**22

    def __init__(
        self,
        pictures: Pictures,
        latent_shape: Sequence[int],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        source: str = "a model in memory",
    ) -> None:
        self.grammar, self.pictures, self.size = Grammar(), pictures, pictures.size
        self.device, self.dtype = resolve_device(device), resolve_dtype(dtype)
        self.latent_shape, self.source = tuple(latent_shape), source

    def _embed(self, images: Tensor) -> Tensor:
        """Latents (n, *D) of images (n, 3, h, w) on the model's device."""
        raise NotImplementedError

    def describe(self, kind: str, sha256: str | None, config: Any) -> dict[str, Any]:
        """The fingerprint, with how pictures are prepared."""
        return super().describe(
            kind, sha256, {**config, "pictures": asdict(self.pictures)}
        )

    def check_size(self, size: tuple[int, int] | None) -> None:
        """Raises unless a requested size is the model's own."""
        if size not in (None, self.size):
            raise ValueError(
                f"{self.source} sees pictures of {self.size}, whatever their own size "
                f"is; got size={size}"
            )

    def prepare(self, frames: Tensor) -> Tensor:
        """Checked frames (..., H, W, 3) on the model's device and at its size."""
        return self.pictures.fit(upload(frames, self.device))

    def encode_chunk(self, frames: Frames, cache: Tree = None) -> tuple[Tensor, Tree]:
        """Encodes a chunk of one frame; there is nothing to remember."""
        return self.encode_clips(frames), None

    def encode_clips(self, frames: Frames) -> Tensor:
        """Encodes every frame of the clips: (n, T, H, W, 3) to `(n, T, *D)`."""
        clips = as_frames(frames, "n, T, H, W, 3")
        latents = self.encode_images(clips.reshape(-1, *clips.shape[2:]))
        return latents.reshape(*clips.shape[:2], *self.latent_shape)

    def encode_images(self, frames: Frames) -> Tensor:
        """Encodes the frames, some at a time: (n, H, W, 3) to `(n, *D)`."""
        images = as_frames(frames)
        if len(images) == 0:
            return torch.zeros(0, *self.latent_shape, device=self.device)
        with batch_limit(self), torch.inference_mode():
            latents = torch.cat(
                [self._some(images[rows]) for rows in self._batches(images)]
            )
        # Inference tensors cannot be used in training; a clone made outside can.
        return latents.clone()

    def _some(self, frames: Tensor) -> Tensor:
        images = self.pictures.normalise(self.prepare(frames))
        return self._embed(images.to(self.dtype)).float()

    def _batches(self, images: Tensor) -> Iterator[slice]:
        rows = max(1, self.pixel_budget // (self.size[0] * self.size[1]))
        return (slice(i, i + rows) for i in range(0, len(images), rows))
