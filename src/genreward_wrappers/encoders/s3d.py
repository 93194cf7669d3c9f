"""S3D-G as trained on HowTo100M by MIL-NCE: videos and texts in one space.

The architecture is that of Xie et al., "Rethinking Spatiotemporal Feature Learning"
(ECCV 2018): an Inception network whose 3D convolutions are split into space and time,
with feature gating; here behind a stem that turns 2x2x2 pixels into channels. The text
tower and the training are those of Miech et al., "End-to-End Learning of Visual
Representations from Uncurated Instructional Videos" (CVPR 2020): word2vec embeddings, a
layer, the maximum over 16 positions, a layer. Similarity is the plain dot product.

``genreward convert s3d`` makes the file that `load_s3d` reads from the weights and the
list of words that the authors publish. Parameters have the same names as there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from genreward_wrappers.data.files import FileError, Layout, load_tensors, save_tensors
from genreward_wrappers.data.schema import SIDE, Record, Whole, record_of
from genreward_wrappers.encoders.base import (
    Frames,
    as_frames,
    resolve_device,
    resolve_dtype,
)
from genreward_wrappers.encoders.images import Pictures
from genreward_wrappers.encoders.texts import as_texts, report_cut, report_unknown

#: Height and width of the input of the published weights.
SIZE = (224, 224)

#: Output channels of the inception blocks: one plain branch, two with a bottleneck
#: (narrow, wide, narrow, wide), one that pools first.
_BLOCKS = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
#: Pooling before blocks, in space or in space and time: kernel, stride.
_POOLS = {
    "conv_2b": ((1, 3, 3), (1, 2, 2)),
    "mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


@dataclass(frozen=True, slots=True)
class S3DConfig:
    """The widths of an S3D-G; the defaults are the published ones.

    Attributes:
        shrink: The divisor of all channel counts of the video tower.
        features: The dimension of the space of videos and texts.
        vocabulary: The number of rows of the word table; row 0 stands for no word.
        word: The dimension of a word embedding.
        hidden: The width of the text tower.
        max_words: The maximum number of words it reads.
    """

    shrink: int = 1
    features: int = 512
    vocabulary: int = 66_250
    word: int = 300
    hidden: int = 2048
    max_words: int = 16


class Gating(nn.Module):
    """Weights channels by an average over the whole clip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, T, H, W) to the same."""
        weights = torch.sigmoid(self.fc(x.mean((2, 3, 4))))
        return x * weights[:, :, None, None, None]


class Conv(nn.Module):
    """A convolution, in space and then in time if it is split, each normalised."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (0, 0, 0),
        split: bool = False,
    ) -> None:
        super().__init__()
        self.split = split
        if not split:
            self.conv1 = nn.Conv3d(inputs, outputs, kernel, padding=padding, bias=False)
            self.bn1 = nn.BatchNorm3d(outputs)
            return
        (time, *_), (along, *_) = kernel, padding
        space, around = (1, *kernel[1:]), (0, *padding[1:])
        self.conv1 = nn.Conv3d(inputs, outputs, space, padding=around, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(
            outputs, outputs, (time, 1, 1), padding=(along, 0, 0), bias=False
        )
        self.bn2 = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, T, H, W) to (n, C', T', H', W')."""
        x = torch.relu(self.bn1(self.conv1(x)))
        if self.split:
            x = torch.relu(self.bn2(self.conv2(x)))
        return x


class Inception(nn.Module):
    """Four branches side by side, each gated."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        plain, narrow_1, wide_1, narrow_2, wide_2, pooled = widths
        around = {"kernel": (3, 3, 3), "padding": (1, 1, 1), "split": True}
        self.conv_b0 = Conv(inputs, plain)
        self.conv_b1_a = Conv(inputs, narrow_1)
        self.conv_b1_b = Conv(narrow_1, wide_1, **around)  # type: ignore[arg-type]
        self.conv_b2_a = Conv(inputs, narrow_2)
        self.conv_b2_b = Conv(narrow_2, wide_2, **around)  # type: ignore[arg-type]
        self.conv_b3_b = Conv(inputs, pooled)
        self.gating_b0 = Gating(plain)
        self.gating_b1 = Gating(wide_1)
        self.gating_b2 = Gating(wide_2)
        self.gating_b3 = Gating(pooled)
        self.outputs = plain + wide_1 + wide_2 + pooled

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, T, H, W) to (n, C', T, H, W)."""
        near = nn.functional.max_pool3d(x, 3, stride=1, padding=1)
        branches = (
            self.gating_b0(self.conv_b0(x)),
            self.gating_b1(self.conv_b1_b(self.conv_b1_a(x))),
            self.gating_b2(self.conv_b2_b(self.conv_b2_a(x))),
            self.gating_b3(self.conv_b3_b(near)),
        )
        return torch.cat(branches, 1)


class TextModule(nn.Module):
    """Words to features: a table, a layer, the maximum over the places, a layer."""

    def __init__(self, config: S3DConfig) -> None:
        super().__init__()
        self.word_embd = nn.Embedding(config.vocabulary, config.word)
        self.fc1 = nn.Linear(config.word, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.features)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, max_words) rows of the table to (n, features).

        Places without a word hold row 0 and take part in the maximum, as in training.
        """
        places = torch.relu(self.fc1(self.word_embd(tokens)))
        features: Tensor = self.fc2(places.amax(1))
        return features


LAYOUT = Layout(
    "genreward_s3d",
    "S3D model",
    "`genreward convert s3d`",
    schema=1,
    header=Record(
        {"config": record_of(S3DConfig), "words": [str]},
        {"size": (Whole(1, SIDE),) * 2},
    ),
)


class S3D(nn.Module):
    """The video tower and the text tower."""

    def __init__(self, config: S3DConfig) -> None:
        super().__init__()

        def shrunk(channels: int) -> int:
            return max(1, channels // config.shrink)

        # 2x2x2 pixels of 3 colours; half of the 3x7x7 kernel of the paper, rounded up.
        self.conv1 = Conv(24, shrunk(64), (2, 4, 4), (1, 2, 2))
        self.conv_2b = Conv(shrunk(64), shrunk(64))
        self.conv_2c = Conv(shrunk(64), shrunk(192), (3, 3, 3), (1, 1, 1), split=True)
        self.gating = Gating(shrunk(192))
        channels = shrunk(192)
        for name, widths in _BLOCKS.items():
            block = Inception(channels, [shrunk(width) for width in widths])
            setattr(self, name, block)
            channels = block.outputs
        self.fc = nn.Linear(channels, config.features)
        self.text_module = TextModule(config)

    def forward(self, video: Tensor) -> Tensor:
        """(n, 3, T, H, W) in [0, 1], all of T, H and W even, to (n, features)."""
        # The kernels have even size; outputs that start before the clip are dropped.
        x: Tensor = self.conv1(space_to_depth(video))[:, :, 1:, 1:, 1:]
        for name in ("conv_2b", "conv_2c", "gating", *_BLOCKS):
            if name in _POOLS:
                x = _pool(x, *_POOLS[name])
            x = getattr(self, name)(x)
        features: Tensor = self.fc(x.mean((2, 3, 4)))
        return features


def space_to_depth(video: Tensor) -> Tensor:
    """(n, 3, T, H, W) to (n, 24, T/2, H/2, W/2): time, row, column, then colour."""
    n, colours, *sides = video.shape
    if any(side % 2 for side in sides):
        raise ValueError(
            f"S3D takes videos with an even number of frames, rows and columns, got "
            f"{tuple(sides)}"
        )
    t, h, w = (side // 2 for side in sides)
    cells = video.reshape(n, colours, t, 2, h, 2, w, 2)
    cells = cells.permute(0, 3, 5, 7, 1, 2, 4, 6)
    return cells.reshape(n, 8 * colours, t, h, w)


def _pool(
    x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Tensor:
    """Max pooling with zero padding; the input is never negative."""
    extra = [max(k - s, 0) for k, s in zip(kernel, stride, strict=True)]
    before = [more // 2 for more in extra]
    borders: list[int] = []
    for near, more in zip(reversed(before), reversed(extra), strict=True):
        borders += [near, more - near]
    padded = nn.functional.pad(x, borders)
    pooled: Tensor = nn.functional.max_pool3d(padded, kernel, stride, ceil_mode=True)
    return pooled


class S3DEncoder:
    """An S3D-G with its words, on a device: whole videos and texts in, features out.

    Args:
        model: The model.
        config: Its widths.
        words: The words of the table's rows from 1 on.
        size: Height and width to which videos are resized by their shortest edge and
            cropped at the centre; both even.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type that the video tower computes in; float32 by default.
        source: Where the model came from.
    """

    def __init__(
        self,
        model: S3D,
        config: S3DConfig,
        words: Sequence[str],
        *,
        size: tuple[int, int] = SIZE,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        source: str = "a model in memory",
    ) -> None:
        if min(size) < 2 or any(side % 2 for side in size):
            raise ValueError(f"size={size}: expected two even numbers")
        if len(words) >= config.vocabulary:
            raise ValueError(
                f"{len(words)} words do not fit a table of {config.vocabulary} rows, "
                "the first of which stands for no word"
            )
        self.config, self.source = config, source
        self.pictures = Pictures(size=(size[0], size[1]), interpolation="bilinear")
        self.device, self.dtype = resolve_device(device), resolve_dtype(dtype)
        self.model = model.eval().requires_grad_(False).to(self.device, self.dtype)
        self._rows = {word: row for row, word in enumerate(words, 1)}

    def encode_videos(self, frames: Frames) -> Tensor:
        """Features (n, features) of videos (n, T, H, W, 3), T even, one by one."""
        clips = as_frames(frames, "n, T, H, W, 3")
        features = []
        with torch.inference_mode():
            for clip in clips:
                fitted = self.pictures.fit(clip.to(self.device))
                video = fitted.permute(3, 0, 1, 2)[None].float() / 255
                features.append(self.model(video.to(self.dtype)).float())
            found = torch.cat(features) if features else torch.zeros(0)
        return found.clone()

    def encode_texts(self, texts: str | Sequence[str]) -> Tensor:
        """Features (n, features) of texts, not of unit length.

        Warns about words that are not in the table and words beyond the first 16.
        """
        tokens = self.tokens(texts)
        with torch.inference_mode():
            features: Tensor = self.model.text_module(tokens).float()
        return features.clone()

    def tokens(self, texts: str | Sequence[str]) -> Tensor:
        """(n, max_words) the rows of the table for some texts."""
        rows = [self._rows_of(text) for text in as_texts(texts)]
        return torch.tensor(rows, device=self.device)

    def _rows_of(self, text: str) -> list[int]:
        words = re.findall(r"[\w']+", text.lower())
        unknown = [word for word in words if word not in self._rows]
        known = [word for word in words if word in self._rows]
        if not known:
            raise ValueError(f"the model knows none of the words of {text!r}")
        if unknown:
            report_unknown(text, unknown)
        limit = self.config.max_words
        if len(known) > limit:
            report_cut(text, " ".join(known[:limit]), f"{limit} words")
        kept = [self._rows[word] for word in known[:limit]]
        return kept + [0] * (limit - len(kept))

    def __repr__(self) -> str:
        """Name, source, size and device."""
        return (
            f"{type(self).__name__}({self.source!r}, size={self.pictures.size}, "
            f"device={str(self.device)!r}, dtype={str(self.dtype)!r})"
        )


def save_s3d(
    path: Path,
    model: S3D,
    config: S3DConfig,
    words: Sequence[str],
    size: tuple[int, int] = SIZE,
) -> None:
    """Writes the file that `load_s3d` reads.

    Args:
        path: The file to write.
        model: The model, in any precision; `load_s3d` computes in float32 by default.
        config: Its widths.
        words: The words of the table's rows from 1 on.
        size: Height and width of its training videos.
    """
    tensors = {
        name: np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in model.state_dict().items()
    }
    header = {
        "config": asdict(config),
        "words": list(words),
        "size": list(size),
    }
    save_tensors(path, tensors, LAYOUT, header)


def load_s3d(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
) -> S3DEncoder:
    """Loads what ``genreward convert s3d`` or `save_s3d` wrote.

    Args:
        path: The file.
        size: Height and width to which videos are resized; None uses those of the
            model's training videos.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type that the video tower computes in; float32 by default, whatever
            the type of the stored weights.

    Raises:
        FileError: It is no such file, or its tensors do not match the model.
    """
    path = Path(path).expanduser()
    arrays, header = load_tensors(path, LAYOUT)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        config = S3DConfig(**header["config"])
        # First without memory, as the configuration may demand any amount.
        with torch.device("meta"):
            S3D(config).load_state_dict(tensors, strict=True, assign=True)
        model = S3D(config)
        model.load_state_dict(tensors, strict=True)
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        raise FileError(
            f"the tensors of {path} are not those of S3D: {error}"
        ) from error
    height, width = size or header.get("size", SIZE)
    return S3DEncoder(
        model,
        config,
        header["words"],
        size=(height, width),
        device=device,
        dtype=dtype,
        source=str(path),
    )
