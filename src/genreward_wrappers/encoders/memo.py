"""An encoder that remembers single frames."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.encoders.base import Frames, Tree, VideoEncoder, as_frames


class Memo(VideoEncoder):
    """Another encoder, which encodes no frame twice.

    For judging rewards, where the same frames come again and again: in several rewards,
    backwards, in an arm that stands still, and in the table that compares an episode
    with all of a goal. Nothing is ever forgotten, so it is not for training.

    Args:
        encoder: The encoder that does the work.

    Example:
        >>> import numpy as np
        >>> from genreward_wrappers import load_encoder
        >>> memo = Memo(load_encoder("pixels", device="cpu"))
        >>> _ = memo.encode_images(np.zeros((5, 64, 64, 3), np.uint8))
        >>> len(memo)
        1
    """

    def __init__(self, encoder: VideoEncoder) -> None:
        self.encoder = encoder
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
            latents = self.encoder.encode_images(batch[list(new.values())])
            self._known.update(zip(new, latents, strict=True))
        return torch.stack([self._known[key] for key in keys])
