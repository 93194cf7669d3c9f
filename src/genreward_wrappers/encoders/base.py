"""The interface of encoders, and how a clip is cut into chunks.

A causal video encoder takes a clip in chunks: a first one of `Grammar.first` frames,
then chunks of `Grammar.rest`, each with a cache of what came before. Chunks cannot be
cut in any other way: CogVideoX's encoder normalises over the time of a chunk, so 17
frames encoded as 9 and 8 give other latents than encoded as 1 and four times 4. A goal
and an agent's clip are comparable only if both follow the same grammar, which is why it
is a part of the encoder's fingerprint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.data.files import plain
from genreward_wrappers.encoders.names import check_device

Frames: TypeAlias = Union[Tensor, "np.ndarray[Any, Any]"]
Mask: TypeAlias = Union[Tensor, "np.ndarray[Any, Any]", Sequence[bool]]

Tree: TypeAlias = Union[
    Tensor, "dict[str, Tree]", "list[Tree]", "tuple[Tree, ...]", None
]
"""An encoder's cache: nested dicts, lists and tuples of tensors and None."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """How an encoder cuts a clip into chunks, and how many latents a chunk gives.

    CogVideoX has `Grammar(9, 8, 3, 2)`, Wan `Grammar(1, 4, 1, 1)`, and an encoder of
    single images `Grammar()`.

    Args:
        first: The number of frames of the first chunk.
        rest: The number of frames of every later chunk.
        first_latents: The number of latents of the first chunk.
        rest_latents: The number of latents of every later chunk.

    Example:
        >>> grammar = Grammar(9, 8, 3, 2)
        >>> [frames for frames in range(30) if grammar.is_whole(frames)]
        [9, 17, 25]
        >>> grammar.latents(17), grammar.floor(20), grammar.last_frame(3)
        (5, 17, 16)
        >>> grammar.spans(17)
        [(0, 9), (9, 17)]
    """

    first: int = 1
    rest: int = 1
    first_latents: int = 1
    rest_latents: int = 1

    def __post_init__(self) -> None:
        """Refuses chunks without frames or latents."""
        if min(self.as_list()) < 1:
            raise ValueError(f"a grammar's numbers must be positive, got {self}")

    def as_list(self) -> list[int]:
        """The four numbers, for JSON: first, rest, first_latents, rest_latents."""
        return [self.first, self.rest, self.first_latents, self.rest_latents]

    def is_whole(self, frames: int) -> bool:
        """Whether a clip of this many frames consists of complete chunks."""
        return frames >= self.first and (frames - self.first) % self.rest == 0

    def floor(self, frames: int) -> int:
        """The longest whole length of at most this many frames; 0 if there is none."""
        return frames - self._into_chunk(frames)

    def ceil(self, frames: int) -> int:
        """The shortest whole length of at least this many frames."""
        if frames <= self.first:
            return self.first
        return frames + (self.first - frames) % self.rest

    def latents(self, frames: int) -> int:
        """The number of latents of a whole clip of this many frames."""
        if not self.is_whole(frames):
            raise ValueError(
                f"a clip must have {self}, got {frames} frames; the nearest lengths "
                f"are {self.floor(frames) or self.first} and {self.ceil(frames)}"
            )
        return self.latents_by(frames)

    def latents_by(self, frames: int) -> int:
        """The number of latents that are complete after this many frames."""
        if frames < self.first:
            return 0
        return self.first_latents + (frames - self.first) // self.rest * (
            self.rest_latents
        )

    def last_frame(self, latent: int) -> int:
        """The index of the frame that completes a latent: the last of its chunk."""
        if latent < self.first_latents:
            return self.first - 1
        chunk = (latent - self.first_latents) // self.rest_latents
        return self.first + (chunk + 1) * self.rest - 1

    def spans(self, frames: int) -> list[tuple[int, int]]:
        """The (start, stop) frames of every chunk of a whole clip."""
        self.latents(frames)
        starts = [0, *range(self.first, frames, self.rest)]
        return list(zip(starts, [*starts[1:], frames], strict=True))

    def _into_chunk(self, frames: int) -> int:
        """The number of frames in the incomplete chunk at the end of a clip."""
        return frames if frames < self.first else (frames - self.first) % self.rest

    def __str__(self) -> str:
        """For error messages: `9 + 8k frames`."""
        return f"{self.first} + {self.rest}k frames"


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device that a name stands for; "auto" is CUDA where there is one.

    Raises:
        ValueError: The name is no device, or that CUDA device is not there.
    """
    check_device(str(device))
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (resolved.index or 0) >= found:
            raise ValueError(
                f"device {str(device)!r} was asked for, but torch {torch.__version__} "
                f"finds {found} CUDA devices here; use 'auto' or 'cpu'"
            )
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The floating point type that a name stands for; None is float32.

    The default does not depend on the device, since a goal encoded on one machine has
    to fit the encoder of another.
    """
    if dtype is None:
        return torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"dtype must be 'float32', 'float16' or 'bfloat16', got {dtype!r}"
        )
    return found


def as_frames(frames: Frames, layout: str = "n, H, W, 3") -> Tensor:
    """The frames as a tensor, after a check that they are uint8 RGB, channels last.

    Args:
        frames: An array or tensor.
        layout: The names of the expected axes, for their number and the message.

    Raises:
        ValueError: They are of another type or layout, or grey.
        TypeError: They are neither an array nor a tensor.
    """
    if not isinstance(frames, (Tensor, np.ndarray)):
        raise TypeError(
            f"frames must be a uint8 array or tensor ({layout}), got "
            f"{type(frames).__name__}"
        )
    shape, axes = tuple(frames.shape), layout.count(",") + 1
    right = len(shape) == axes and shape[-1] == 3 and 0 not in shape[1:]
    if not right or frames.dtype not in (np.uint8, torch.uint8):
        dtype = str(frames.dtype).removeprefix("torch.")
        raise ValueError(f"frames must be uint8 ({layout}) RGB, got {dtype} {shape}")
    if isinstance(frames, Tensor):
        return frames
    # torch takes neither negative strides (a flipped render) nor read-only memory.
    if min(frames.strides, default=0) < 0 or not frames.flags.writeable:
        frames = frames.copy()
    return torch.from_numpy(frames)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor from main memory to a device without waiting for the copy.

    CUDA stages memory that is not pinned before it returns, so the tensor may change.
    """
    return tensor.to(device, non_blocking=True)


def resize_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrinks uint8 frames (..., H, W, 3) to `size`, with antialiasing.

    The result is rounded to uint8, so that a frame kept for later and a frame encoded
    at once are the same. Frames that have the size already are returned unchanged.

    Raises:
        ValueError: The frames are smaller than `size` or of another aspect ratio: the
            encoder would see pictures that no goal looks like.
    """
    height, width = size
    have_height, have_width = frames.shape[-3:-1]
    if (have_height, have_width) == (height, width):
        return frames
    what = (
        f"frames of {have_height}x{have_width} cannot be resized to the encoder's "
        f"{height}x{width} (height x width)"
    )
    if have_height < height or have_width < width:
        raise ValueError(f"{what}: that would enlarge them; render larger frames")
    # Rounding the scaled size may cost half a pixel.
    if abs(width - have_width * height / have_height) > 0.5:
        raise ValueError(
            f"{what}: another aspect ratio; crop them, or give the encoder a size of "
            f"that ratio"
        )
    lead = frames.shape[:-3]
    planes = frames.reshape(-1, have_height, have_width, 3).permute(0, 3, 1, 2)
    small = scale_planes(planes, size, "bilinear")
    return small.permute(0, 2, 3, 1).reshape(*lead, height, width, 3)


def scale_planes(planes: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Scales planes (n, 3, H, W) with antialiasing; they stay uint8."""
    scaled = torch.nn.functional.interpolate(
        planes.float(), size=size, mode=mode, antialias=True, align_corners=False
    )
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


class VideoEncoder(ABC):
    """Frames in, latents out: a frozen model that knows no environment and no goal.

    All methods take uint8 RGB frames, channels last, as arrays or tensors, of the
    model's size or larger at its aspect ratio, and return float32 latents on the
    model's device. An encoder is immutable after construction, so any number of
    environments can share one.

    Attributes:
        grammar: How clips are cut into chunks.
        size: The height and width of the model's input.
        device: The device of the model and the latents.
        dtype: The type that the model computes in.
        latent_shape: The shape D of one latent, channels first.
        fingerprint: Everything that determines the latents, for JSON: `kind`, `sha256`
            of the weights, `config`, `grammar`, `size` and `dtype`. Two encoders with
            equal fingerprints give the same latents, wherever they were loaded from.
        source: The string that `load_encoder` takes for this encoder. It says where the
            weights came from and is not part of the fingerprint.
        control: Whether it has learned nothing. Learned encoders are compared with such
            an encoder, and it goes with every goal.
        any_goal: Whether it reads any goal although the goal was made with another
            encoder, as a control does.
    """

    control: bool = False
    any_goal: bool = False
    grammar: Grammar
    size: tuple[int, int]
    device: torch.device
    dtype: torch.dtype
    latent_shape: tuple[int, ...]
    fingerprint: dict[str, Any]
    source: str

    @abstractmethod
    def encode_chunk(self, frames: Frames, cache: Tree = None) -> tuple[Tensor, Tree]:
        """Encodes one chunk of n clips, given what came before.

        Args:
            frames: (n, f, H, W, 3), where f is the grammar's `first` if the cache is
                None, otherwise its `rest`.
            cache: What this method returned for the chunk before; None begins new
                clips.

        Returns:
            Latents `(n, t, *D)`, and the cache for the next chunk: nested dicts and
            lists of tensors whose leading axis is n. The old cache is not changed.
        """

    @abstractmethod
    def encode_clips(self, frames: Frames) -> Tensor:
        """Encodes whole clips: (n, T, H, W, 3) to `(n, t, *D)`, some at a time."""

    @abstractmethod
    def encode_images(self, frames: Frames) -> Tensor:
        """Encodes every frame on its own: (n, H, W, 3) to `(n, *D)`."""

    def describe(self, kind: str, sha256: str | None, config: Any) -> dict[str, Any]:
        """The fingerprint, once everything else is known."""
        return {
            "kind": kind,
            "sha256": sha256,
            "config": plain(config),
            "grammar": self.grammar.as_list(),
            "size": list(self.size),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def prepare(self, frames: Tensor) -> Tensor:
        """Checked frames (..., H, W, 3) on the model's device and at its size."""
        return resize_frames(upload(frames, self.device), self.size)

    def __repr__(self) -> str:
        """Name, source, size and device."""
        return (
            f"{type(self).__name__}({self.source!r}, size={self.size}, "
            f"device={str(self.device)!r}, dtype={str(self.dtype)!r})"
        )


def encoder_card(encoder: VideoEncoder) -> dict[str, Any]:
    """What a goal bundle stores about an encoder."""
    return {"source": encoder.source, "fingerprint": dict(encoder.fingerprint)}


def tree_map(fn: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """Applies a function to the tensors of trees of one structure; None stays None."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return fn(tree, *others)
    if isinstance(tree, dict):
        return {
            key: tree_map(fn, value, *(other[key] for other in others))  # type: ignore[index,call-overload]
            for key, value in tree.items()
        }
    rows = zip(tree, *others, strict=True)
    return type(tree)(tree_map(fn, *row) for row in rows)
