"""An encoder that remembers single frames."""

from __future__ import annotations

import hashlib
import weakref

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.encoders.base import Frames, Tree, VideoEncoder, as_frames

#: What `shared` remembers: a frame is looked at again in the next step, if at all.
RECENT = 512

_shared: weakref.WeakValueDictionary[int, Memo] = weakref.WeakValueDictionary()


class Memo(VideoEncoder):
    """Another encoder, which encodes no frame twice.

    For judging rewards, where the same frames come again and again: in several rewards,
    backwards, in an arm that stands still, and in the table that compares an episode
    with all of a goal. And for training on two rewards that look at the same frame one
    after the other, with a limit.

    Args:
        encoder: The encoder that does the work.
        limit: How many frames are remembered, the newest ones; None is all.

    Example:
        >>> import numpy as np
        >>> from genreward_wrappers import load_encoder
        >>> memo = Memo(load_encoder("pixels", device="cpu"))
        >>> _ = memo.encode_images(np.zeros((5, 64, 64, 3), np.uint8))
        >>> len(memo)
        1
    """

    def __init__(self, encoder: VideoEncoder, limit: int | None = None) -> None:
        self.encoder = encoder
        self._limit = limit
        self.control = encoder.control
        self.grammar, self.size = encoder.grammar, encoder.size
        self.device, self.dtype = encoder.device, encoder.dtype
        self.latent_shape, self.source = encoder.latent_shape, encoder.source
        self.fingerprint = encoder.fingerprint
        self._known: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        """How many different frames it has seen."""
        return len(self._known)

    def encode_chunk(self, frames: Frames, cache: Tree = None) -> tuple[Tensor, Tree]:
        """As the encoder does; a chunk depends on what came before."""
        return self.encoder.encode_chunk(frames, cache)

    def encode_clips(self, frames: Frames) -> Tensor:
        """As the encoder does."""
        return self.encoder.encode_clips(frames)

    def encode_images(self, frames: Frames) -> Tensor:
        """Encodes the frames that are new, in one batch, and remembers the others."""
        batch = np.ascontiguousarray(as_frames(frames).cpu().numpy())
        keys = [hashlib.blake2b(frame.data, digest_size=16).digest() for frame in batch]
        # The same pixels in another shape are another picture.
        shape = str(batch.shape[1:]).encode()
        keys = [shape + key for key in keys]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        if new:
            made = self.encoder.encode_images(batch[list(new.values())])
            self._known.update(zip(new, made, strict=True))
        latents = torch.stack([self._known[key] for key in keys])
        if self._limit is not None:
            for key in list(self._known)[: -self._limit]:
                del self._known[key]
        return latents


def shared(encoder: VideoEncoder) -> Memo:
    """The memo of an encoder's recent frames that all rewards on it share."""
    memo = _shared.get(id(encoder))
    # A memo keeps its encoder alive: while it is there, no other has this id.
    if memo is None:
        memo = Memo(encoder, RECENT)
        _shared[id(encoder)] = memo
    return memo
