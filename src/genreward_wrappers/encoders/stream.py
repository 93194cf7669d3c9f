"""Streaming: clips encoded frame by frame, each frame once.

Streaming is a fold over frames. `stream_push` takes one frame of every row and returns
a new state and the latents of the chunks that this frame completed::

    state = stream_start(encoder, n=len(frames))
    for frames, starting in ticks:
        state = stream_restart(state, starting)
        state, emitted = stream_push(encoder, state, frames)

Each frame is encoded once, so that a step costs the same however long the clip is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genreward_wrappers.encoders.base import (
    Frames,
    Mask,
    Tree,
    VideoEncoder,
    as_frames,
    tree_map,
)


@dataclass(frozen=True, slots=True)
class StreamState:
    """The position of every row in its clip. Frozen: a push returns a new state.

    Attributes:
        pending: uint8 (N, P, h, w, 3), the frames of the chunk that is not complete
            yet, on the encoder's device; P is the longest chunk.
        count: int64 (N,) on the CPU, the frames taken in this clip.
        cache: The encoder's cache, leading axis N; None before any chunk.
    """

    pending: Tensor
    count: Tensor
    cache: Tree = None

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.count)


@dataclass(frozen=True, slots=True)
class Emitted:
    """The latents of the chunks that a push completed.

    Attributes:
        rows: int64 (n,) on the CPU, the rows they belong to, ascending.
        start: int64 (n,) on the CPU, the index of the first of them in its clip.
        latents: float32 `(n, t, *D)` on the encoder's device.
    """

    rows: Tensor
    start: Tensor
    latents: Tensor


def stream_start(encoder: VideoEncoder, n: int) -> StreamState:
    """The state of n rows that have taken no frame."""
    chunk = max(encoder.grammar.first, encoder.grammar.rest)
    return StreamState(
        pending=torch.zeros(
            (n, chunk, *encoder.size, 3), dtype=torch.uint8, device=encoder.device
        ),
        count=torch.zeros(n, dtype=torch.int64),
    )


def stream_restart(state: StreamState, mask: Mask) -> StreamState:
    """Begins a new clip in the masked rows; their unfinished clips are dropped."""
    # Frames and cache of the rows may stay: a clip's first chunk reads neither.
    return replace(state, count=state.count.masked_fill(_as_mask(mask, state), 0))


def stream_push(
    encoder: VideoEncoder,
    state: StreamState,
    frames: Frames,
    mask: Mask | None = None,
) -> tuple[StreamState, list[Emitted]]:
    """Takes one frame of every masked row, and encodes the chunks that are complete.

    Rows may be at any point of their clips. There is at most one forward pass for the
    rows that complete their first chunk and one for those that complete a later one.
    The old state is not modified and can be pushed to again.

    Args:
        encoder: The encoder that the state was started with.
        state: The state of the rows.
        frames: uint8 (N, H, W, 3).
        mask: Which rows take their frame; all of them by default.

    Returns:
        The new state, and up to two sets of new latents, no row twice.
    """
    images = as_frames(frames)
    if len(images) != len(state):
        raise ValueError(
            f"frames must have one row for each of the {len(state)} rows of the "
            f"state, got {len(images)}"
        )
    everyone = torch.arange(len(state))
    rows = everyone if mask is None else everyone[_as_mask(mask, state)]
    if len(rows) == 0:
        return state, []

    grammar = encoder.grammar
    begun, in_first = state.count[rows], state.count[rows] < grammar.first
    slot = torch.where(in_first, begun, (begun - grammar.first) % grammar.rest)
    pending = state.pending.clone()
    pending[rows, slot] = encoder.prepare(_take(images, rows))
    count = state.count.clone()
    count[rows] = begun + 1

    completes_first = begun + 1 == grammar.first
    completes_later = ~in_first & (slot + 1 == grammar.rest)
    emitted, caches = [], []
    for due, length, cache in (
        (rows[completes_first], grammar.first, None),
        (rows[completes_later], grammar.rest, state.cache),
    ):
        if len(due) == 0:
            continue
        chunk = _take(pending, due)[:, :length]
        old = tree_map(lambda tensor, due=due: _take(tensor, due), cache)
        latents, new = encoder.encode_chunk(chunk, old)
        start = [grammar.latents_by(taken - length) for taken in count[due].tolist()]
        emitted.append(Emitted(due, torch.tensor(start), latents))
        caches.append((due, new))
    cache = _put_rows(state.cache, len(state), caches)
    return StreamState(pending, count, cache), emitted


def _as_mask(mask: Mask, state: StreamState) -> Tensor:
    result = torch.as_tensor(mask).cpu()
    if result.dtype != torch.bool or result.shape != state.count.shape:
        raise ValueError(
            f"mask must be bool ({len(state)},), got "
            f"{str(result.dtype).removeprefix('torch.')} {tuple(result.shape)}"
        )
    return result


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a tensor; the tensor itself if they are all."""
    return tensor if len(rows) == len(tensor) else tensor[rows.to(tensor.device)]


def _put_rows(tree: Tree, n: int, parts: list[tuple[Tensor, Tree]]) -> Tree:
    """A copy of a tree of n rows with some of its rows replaced.

    Without parts, it is the tree itself; if a part has all rows, it is that part.
    """
    if not parts:
        return tree
    if len(parts[0][0]) == n:
        return parts[0][1]

    def zeros(part: Tensor) -> Tensor:
        return part.new_zeros((n, *part.shape[1:]))

    def put(base: Tensor, *new: Tensor) -> Tensor:
        # One copy for both parts, which is then written to.
        result = base.clone()
        for (rows, _), values in zip(parts, new, strict=True):
            result.index_copy_(0, rows.to(result.device), values)
        return result

    base = tree_map(zeros, parts[0][1]) if tree is None else tree
    return tree_map(put, base, *(new for _, new in parts))
