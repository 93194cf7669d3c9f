"""Reads a robot's pose from a picture: where its hand is, how far its gripper is open.

Most encoders describe the whole picture, in which a gripper is two pixels wide: an arm
that hovers along the goal's path is paid nearly as much as one that grips. The latent
of this one is a few numbers that were read from the picture, and nothing else. It was
trained on recorded episodes, whose states say what to read. A robot knows its own pose,
so nobody has to label anything.

Every number is in units of its spread in the training data, so a distance weighs all of
them alike.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genreward_wrappers.data.files import plain
from genreward_wrappers.encoders.images import ImageEncoder, Pictures
from genreward_wrappers.encoders.names import POSE
from genreward_wrappers.encoders.strict_loading import (
    check_weights,
    hash_tensors,
    misshapen,
    opened,
    shapes_of,
)
from genreward_wrappers.encoders.weight_files import WeightsError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: How a reader was trained and how well it reads.
CARD = "training.json"


@dataclass(frozen=True)
class PoseConfig:
    """What is read, and by how large a network.

    Attributes:
        columns: The numbers of a state that are read from its picture.
        size: The height and width of the pictures, multiples of 8.
        widths: The channels of the convolutions at a half, a quarter and an eighth of
            the size.
        hidden: The width of the layer that sees the whole picture.
    """

    columns: tuple[int, ...]
    size: tuple[int, int] = (64, 64)
    widths: tuple[int, int, int] = (16, 32, 64)
    hidden: int = 128

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"columns={self.columns}: expected at least one number of the state, "
                "and each of them once"
            )
        if min(self.columns) < 0:
            raise ValueError(f"columns={self.columns}: expected numbers from 0 on")
        if len(self.size) != 2 or any(s < 8 or s % 8 for s in self.size):
            raise ValueError(f"size={self.size}: expected two multiples of 8")
        if len(self.widths) != 3 or min(*self.widths, self.hidden) < 1:
            raise ValueError(
                f"widths={self.widths}, hidden={self.hidden}: expected three positive "
                "numbers and one"
            )


class PoseNet(nn.Module):
    """(n, 3, H, W) pictures to (n, numbers), in units of their spread.

    Attributes:
        mean: (numbers,) the mean of each in the training data.
        unit: (numbers,) the spread of each there.
    """

    mean: Tensor
    unit: Tensor

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        near, middle, far = config.widths
        cells = config.size[0] // 8 * (config.size[1] // 8)
        # Where things are is all that counts: cells are not pooled, and the last layers
        # see every one of them in its place.
        self.layers = nn.Sequential(
            nn.Conv2d(3, near, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(near, middle, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(middle, far, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(far, near, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(near * cells, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, len(config.columns)),
        )
        count = len(config.columns)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("unit", torch.ones(count))

    def forward(self, images: Tensor) -> Tensor:
        """The numbers, less their mean, in units of their spread."""
        numbers: Tensor = self.layers(images)
        return numbers


class PoseReader(ImageEncoder):
    """A `PoseNet` as an encoder of single images.

    Example:
        >>> import numpy as np
        >>> reader = PoseReader(PoseNet(PoseConfig((0, 1, 2))), PoseConfig((0, 1, 2)))
        >>> reader.encode_images(np.zeros((5, 64, 64, 3), np.uint8)).shape
        torch.Size([5, 3])
    """

    any_goal = True

    def __init__(
        self,
        model: PoseNet,
        config: PoseConfig,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        source: str = "a model in memory",
    ) -> None:
        """Freezes the model.

        Args:
            model: The model.
            config: What it reads.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: The type to compute in; float32 by default.
            source: Its name for `load_encoder`.
        """
        super().__init__(
            Pictures(size=config.size, mean=(0.5,) * 3),
            (len(config.columns),),
            device=device,
            dtype=dtype,
            source=source,
        )
        sha256 = hash_tensors(model.state_dict().items())
        self.config = config
        self.model = model.eval().requires_grad_(False).to(self.device, self.dtype)
        self.fingerprint = self.describe("pose", sha256, asdict(config))

    def read(self, frames: Any) -> Tensor:
        """The pose in its own units, such as metres: (n, H, W, 3) to (n, numbers)."""
        mean, unit = self.model.mean.float(), self.model.unit.float()
        return self.encode_images(frames) * unit + mean

    def _embed(self, images: Tensor) -> Tensor:
        numbers: Tensor = self.model(images)
        return numbers


def save_pose(
    folder: Path, model: PoseNet, config: PoseConfig, training: dict[str, Any]
) -> None:
    """Writes the folder that `load_pose` reads.

    Args:
        folder: The folder; it is made if it is missing.
        model: The trained model.
        config: What it reads.
        training: How it was trained and how well it reads, for ``training.json``.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(weights))
    for name, content in (
        (CONFIG, {"_class_name": POSE, **plain(asdict(config))}),
        (CARD, training),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def load_pose(
    folder: Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    size: tuple[int, int] | None = None,
    source: str | None = None,
    untrained: bool = False,
) -> PoseReader:
    """Loads what `save_pose` wrote.

    Args:
        folder: The folder.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type to compute in; float32 by default.
        size: The height and width that the caller expects; None accepts any.
        source: Its name for `load_encoder`; the folder by default.
        untrained: Whether to leave the weights as a fixed seed draws them.

    Raises:
        WeightsError: The weights are damaged or do not fit the configuration, or the
            configuration is none of a `PoseReader`.
    """
    said = json.loads((folder / CONFIG).read_text())
    said.pop("_class_name", None)
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in said.items()
    }
    try:
        config = PoseConfig(**fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{folder / CONFIG} is no configuration of a pose reader: {error}"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PoseNet(config)
    if not untrained:
        path = folder / WEIGHTS
        with opened(path) as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        own = shapes_of(model.state_dict())
        check_weights(
            str(path),
            own.keys() - found.keys(),
            found.keys() - own.keys(),
            misshapen(shapes_of(found), own),
        )
        model.load_state_dict(found)
    reader = PoseReader(
        model, config, device=device, dtype=dtype, source=source or str(folder)
    )
    reader.control = untrained
    reader.check_size(size)
    return reader
