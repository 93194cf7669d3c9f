"""Shared by text encoders: checks, and warnings about what a model does not read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class TextTower(Protocol):
    """An encoder that also encodes texts."""

    def encode_texts(self, texts: str | Sequence[str]) -> Tensor:
        """Embeddings (n, D) of texts."""
        ...


def as_texts(texts: str | Sequence[str], name: str = "texts") -> list[str]:
    """One or more texts as a list of non-empty texts.

    Raises:
        ValueError: There is no text, or one is empty.
        TypeError: There is anything but texts.
    """
    if not isinstance(texts, (str, list, tuple)):
        raise TypeError(
            f"{name}={texts!r}: expected a text or a list of texts, got "
            f"{type(texts).__name__}"
        )
    found = [texts] if isinstance(texts, str) else list(texts)
    for text in found:
        if not isinstance(text, str):
            raise TypeError(
                f"{name}={texts!r}: expected texts, got {type(text).__name__}"
            )
    if not found or not all(text.strip() for text in found):
        raise ValueError(f"{name}={texts!r}: expected at least one text, none empty")
    return found


def text_tower(encoder: object) -> TextTower:
    """The encoder, if it encodes texts.

    Raises:
        ValueError: It has no text tower.
    """
    if not isinstance(encoder, TextTower):
        raise ValueError(
            f"{encoder!r} has no text tower, and the goal is a text: take an encoder "
            'of pictures and texts, "open_clip:<model>/<pretrained tag>"'
        )
    return encoder


def mean_text(tower: TextTower, texts: Sequence[str]) -> Tensor:
    """The unit vector (D,) along the mean of the texts' unit embeddings."""
    # Texts themselves are checked without torch.
    from torch.nn.functional import normalize

    units = normalize(tower.encode_texts(texts), dim=-1)
    return normalize(units.mean(0), dim=-1)


def report_cut(text: str, kept: str, limit: str) -> None:
    """Warns that a text is truncated."""
    warnings.warn(
        f"the model reads {limit} and no more: of {text!r} it sees {kept!r}",
        stacklevel=3,
    )


def report_unknown(text: str, words: Sequence[str]) -> None:
    """Warns that a text has words that the model does not know."""
    warnings.warn(
        f"the model does not know {', '.join(map(repr, words))} in {text!r}",
        stacklevel=3,
    )
