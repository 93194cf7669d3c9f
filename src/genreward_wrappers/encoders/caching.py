"""An encoder that remembers single frames."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.checks import at_least
from genreward_wrappers.encoders.base import Frames, Tree, VideoEncoder, as_frames

#: The limit of `shared`: a frame is looked at again in the next step, if at all.
RECENT = 512

_lock = threading.Lock()
_shared: weakref.WeakValueDictionary[int, Memo] = weakref.WeakValueDictionary()


class Memo(VideoEncoder):
    """Wraps an encoder so that no frame is encoded twice.

    It serves the judging of rewards, where the same frames come again and again: in
    several rewards, backwards, when an arm stands still, and in the table that compares
    an episode with all of a goal. With a limit it also serves training on two rewards
    that look at the same frame one after the other.

    Args:
        encoder: The encoder that does the work.
        limit: The number of frames to remember, the most recently used; None remembers
            all.

    Example:
        >>> import numpy as np
        >>> from genreward_wrappers import load_encoder
        >>> memo = Memo(load_encoder("pixels", device="cpu"))
        >>> _ = memo.encode_images(np.zeros((5, 64, 64, 3), np.uint8))
        >>> len(memo)
        1
    """

    def __init__(self, encoder: VideoEncoder, limit: int | None = None) -> None:
        at_least(1, limit=limit)
        self.encoder = encoder
        self._limit = limit
        self.control, self.any_goal = encoder.control, encoder.any_goal
        self.grammar, self.size = encoder.grammar, encoder.size
        self.device, self.dtype = encoder.device, encoder.dtype
        self.latent_shape, self.source = encoder.latent_shape, encoder.source
        self.fingerprint = encoder.fingerprint
        # The most recently used frames come last.
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of different frames that it remembers."""
        return len(self._known)

    def encode_chunk(self, frames: Frames, cache: Tree = None) -> tuple[Tensor, Tree]:
        """Passes on to the encoder: a chunk depends on what came before."""
        return self.encoder.encode_chunk(frames, cache)

    def encode_clips(self, frames: Frames) -> Tensor:
        """Passes on to the encoder."""
        return self.encoder.encode_clips(frames)

    def encode_images(self, frames: Frames) -> Tensor:
        """Encodes the new frames in one batch, and remembers them."""
        batch = np.ascontiguousarray(as_frames(frames).cpu().numpy())
        keys = [hashlib.sha256(frame.data).digest() for frame in batch]
        # The same pixels in another shape are another picture.
        shape = str(batch.shape[1:]).encode()
        keys = [shape + key for key in keys]
        with self._lock:
            known = {key: self._known[key] for key in keys if key in self._known}
        new = {key: i for i, key in enumerate(keys) if key not in known}
        if new:
            # Not under the lock, so that other threads can find their frames meanwhile.
            made = self.encoder.encode_images(batch[list(new.values())])
            known.update(zip(new, made, strict=True))
        with self._lock:
            for key in keys:
                self._known[key] = known[key]
                self._known.move_to_end(key)
            if self._limit is not None:
                while len(self._known) > self._limit:
                    self._known.popitem(last=False)
        return torch.stack([known[key] for key in keys])


def shared(encoder: VideoEncoder) -> Memo:
    """The memo of an encoder's recent frames, shared by all rewards that use it."""
    with _lock:
        memo = _shared.get(id(encoder))
        # A memo keeps its encoder alive, so no other encoder has the same id.
        if memo is None:
            memo = Memo(encoder, RECENT)
            _shared[id(encoder)] = memo
        return memo
