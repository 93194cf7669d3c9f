"""A small causal transformer over the codes of a video: log p of every frame.

The codes of a clip are read frame by frame and, in a frame, row by row; each is
predicted from all that come before it. Nothing is left out or assumed to be
independent, so the log-probabilities add up to that of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PriorConfig:
    """The shape of a causal prior.

    Attributes:
        codes: The number of rows of the codec's codebook.
        positions: The number of codes of a frame.
        frames: The length of the window, whose last frame is predicted from the others.
        width: The width of the transformer.
        layers: The number of attention blocks.
        heads: The number of attention heads.
    """

    codes: int
    positions: int
    frames: int = 16
    width: int = 96
    layers: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"frames={self.frames}: a window has at least 2")
        check_width(self.width, self.layers, self.heads)


def check_width(width: int, layers: int, heads: int) -> None:
    """Raises unless a transformer can have these numbers."""
    if min(width, layers, heads) < 1 or width % heads:
        raise ValueError(
            f"width={width}, layers={layers}, heads={heads}: expected positive numbers "
            "and a width that the heads divide"
        )


class Blocks(nn.Module):
    """Layers of attention and feed-forward nets, each added to what it reads."""

    def __init__(self, width: int, layers: int, heads: int, causal: bool) -> None:
        """Builds them.

        Args:
            width: The width of a token.
            layers: The number of layers.
            heads: The number of attention heads.
            causal: Whether a token sees only itself and those before it.
        """
        super().__init__()
        self.layers = nn.ModuleList(_Block(width, heads, causal) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, L, width) in and out."""
        for layer in self.layers:
            tokens = layer(tokens)
        normed: Tensor = self.norm(tokens)
        return normed


class VideoTransformer(nn.Module):
    """The prior of VIPER.

    Example:
        >>> prior = VideoTransformer(PriorConfig(codes=8, positions=4, frames=3))
        >>> prior.log_likelihood(torch.zeros(2, 3, 4, dtype=torch.int64)).shape
        torch.Size([2, 3])
    """

    def __init__(self, config: PriorConfig) -> None:
        """Builds an untrained prior."""
        super().__init__()
        self.config = config
        # One more than the codes: the token before the first code.
        self.code = nn.Embedding(config.codes + 1, config.width)
        self.frame = nn.Parameter(0.02 * torch.randn(config.frames, 1, config.width))
        self.position = nn.Parameter(
            0.02 * torch.randn(1, config.positions, config.width)
        )
        self.blocks = Blocks(config.width, config.layers, config.heads, causal=True)
        self.head = nn.Linear(config.width, config.codes)

    def log_likelihood(self, codes: Tensor, last: int | None = None) -> Tensor:
        """Log p of each frame, given the frames of the window before it.

        Args:
            codes: (n, frames, positions).
            last: How many of the last frames to score; None scores all.

        Returns:
            (n, last) in nats, summed over the codes of a frame.
        """
        flat = codes.flatten(1)
        start = flat.new_full((len(flat), 1), self.config.codes)
        tokens = self.code(torch.cat([start, flat[:, :-1]], 1))
        where = (self.frame + self.position).flatten(0, 1)
        kept = self.config.frames if last is None else last
        count = kept * self.config.positions
        seen = self.blocks(tokens + where)[:, -count:]
        logits = self.head(seen).log_softmax(-1)
        found = logits.gather(-1, flat[:, -count:, None])[..., 0]
        each: Tensor = found.unflatten(1, (kept, -1)).sum(-1)
        return each


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self._heads, self._causal = heads, causal
        self.before_attention = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        n, length, width = tokens.shape
        mixed = self.mix(self.before_attention(tokens))
        q, k, v = mixed.view(n, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=self._causal
        )
        tokens = tokens + self.join(seen.transpose(1, 2).reshape(n, length, width))
        fed: Tensor = tokens + self.feed(tokens)
        return fed
