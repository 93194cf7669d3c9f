"""Three ways to read a trajectory through one encoder, each exact and batched.

- `FramesReading`: every sampled frame on its own, as a one-frame clip. A score at every
  sampled step.
- `StreamReading`: a clip that grows with the episode, encoded chunk by chunk as its
  frames come in, each frame once. A score whenever a chunk completes.
- `WindowReading`: the last n steps, m of them, encoded anew every k steps: what the
  released code of GenReward does.

A reading knows which frames it wants, keeps a memory with the leading axis N, and hands
out, for the rows that have something new, a stretch of the agent's latents beside the
indices of the goal's latents of the same time. What goals look like to it, it says by
`read`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.checks import at_least
from genreward_wrappers.core import Bool, Int64, Transition, UInt8
from genreward_wrappers.data.frames import evenly, sample_steps
from genreward_wrappers.encoders.base import VideoEncoder, as_frames, upload
from genreward_wrappers.encoders.stream import (
    StreamState,
    stream_push,
    stream_restart,
    stream_start,
)


class Stretch(NamedTuple):
    """What some rows have to compare, on the encoder's device.

    Attributes:
        rows: (n,) the rows that have something new, on the CPU.
        agent: (n, T, D) their latents.
        first: (n, D) the first latents of their clips.
        seen: (n, T) 1 where there is a latent already, else 0.
        time: (n, T) where among the goal's latents they belong; between two of them,
            the goal is taken to move straight from one to the other.
    """

    rows: Tensor
    agent: Tensor
    first: Tensor
    seen: Tensor
    time: Tensor


class Reading(Protocol):
    """One way to read a trajectory."""

    def read(self, videos: UInt8) -> Tensor:
        """(K, T, D) goal videos as this reading sees them, in order of time."""
        ...

    def wants(self, steps: Int64) -> Bool:
        """Which rows' frames it looks at."""
        ...

    def reset(self, memory: Any, frames: UInt8, mask: Bool) -> Any:
        """Begins the clips of some rows."""
        ...

    def step(self, memory: Any, t: Transition) -> tuple[Stretch | None, Any]:
        """Takes one frame of every row; None if no row has anything new."""
        ...


class FramesReading:
    """Every sampled frame on its own."""

    @dataclass(frozen=True, slots=True)
    class Memory:
        """The latent of each row's first frame."""

        first: Tensor

    def __init__(
        self, encoder: VideoEncoder, count: int, horizon: int, length: int | None
    ) -> None:
        """Reads ``length`` frames an episode, first and last included; None: all.

        Args:
            encoder: The encoder of the frames.
            count: Frames of a goal video.
            horizon: Steps of an episode.
            length: Frames of it.
        """
        self.encoder = encoder
        self._sampled = _table(sample_steps(length or horizon + 1, horizon), horizon)
        # A goal video has fewer frames than an episode. Each is encoded once, and a
        # step belongs to the moment at the same share of the time.
        self._moment = np.arange(horizon + 1) * ((count - 1) / horizon)

    def read(self, videos: UInt8) -> Tensor:
        """Every frame of the videos, each on its own."""
        images = self.encoder.encode_images(videos.reshape(-1, *videos.shape[2:]))
        return images.reshape(len(videos), videos.shape[1], -1)

    def wants(self, steps: Int64) -> Bool:
        """The sampled steps."""
        return _look_up(self._sampled, steps)

    def reset(self, memory: Memory | None, frames: UInt8, mask: Bool) -> Memory:
        """Encodes the first frames."""
        rows = torch.from_numpy(np.flatnonzero(mask))
        latents = self.encoder.encode_images(frames[mask]).flatten(1)
        if memory is None:
            first = latents.new_zeros(len(mask), latents.shape[1])
        else:
            first = memory.first
        return self.Memory(first.index_copy(0, upload(rows, first.device), latents))

    def step(self, memory: Memory, t: Transition) -> tuple[Stretch | None, Memory]:
        """Encodes the frames of the rows that are at a sampled step."""
        mask = t.active & self.wants(t.steps)
        if not mask.any():
            return None, memory
        rows = torch.from_numpy(np.flatnonzero(mask))
        latents = self.encoder.encode_images(t.next_frames[mask]).flatten(1)
        there = upload(rows, latents.device)
        stretch = Stretch(
            rows=rows,
            agent=latents[:, None],
            first=memory.first[there],
            seen=latents.new_ones(len(rows), 1),
            time=torch.from_numpy(self._moment[t.steps[mask]])[:, None],
        )
        return stretch, memory


class StreamReading:
    """A clip of ``length`` frames spread over the episode, encoded as it grows."""

    @dataclass(frozen=True, slots=True)
    class Memory:
        """The encoder's streaming state, and the latents so far."""

        stream: StreamState
        trail: Tensor

    def __init__(
        self, encoder: VideoEncoder, count: int, horizon: int, length: int | None
    ) -> None:
        """Reads a clip of ``length`` frames.

        Args:
            encoder: The encoder of the clips.
            count: Frames of a goal video.
            horizon: Steps of an episode.
            length: Frames of a clip; None takes the longest up to 129 that the episode
                and the goal have.
        """
        grammar = encoder.grammar
        if length is None:
            most = min(129, horizon + 1)
            # A goal of fewer frames would stand still between two of them, which no
            # episode does.
            length = grammar.floor(min(most, count)) or grammar.floor(most)
        # Raises with the nearest lengths if it is not of the grammar.
        self.latents = grammar.latents(length)
        self.encoder = encoder
        self._length = length
        self._sampled = _table(sample_steps(length, horizon), horizon)

    def read(self, videos: UInt8) -> Tensor:
        """The clips of the videos."""
        return self.encoder.encode_clips(_resample(videos, self._length)).flatten(2)

    def wants(self, steps: Int64) -> Bool:
        """The sampled steps."""
        return _look_up(self._sampled, steps)

    def reset(self, memory: Memory | None, frames: UInt8, mask: Bool) -> Memory:
        """Begins new clips with the first frames, which belong to them."""
        if memory is None:
            state = stream_start(self.encoder, len(mask))
            size = int(np.prod(self.encoder.latent_shape))
            memory = self.Memory(
                stream=state,
                trail=torch.zeros(
                    len(mask), self.latents, size, device=self.encoder.device
                ),
            )
        # What the trail holds of the episode before lies past the new one's end.
        restarted = replace(memory, stream=stream_restart(memory.stream, mask))
        return self._push(restarted, frames, mask)[-1]

    def step(self, memory: Memory, t: Transition) -> tuple[Stretch | None, Memory]:
        """Takes the sampled frames; a row has news when one of its chunks is full."""
        mask = t.active & self.wants(t.steps)
        if not mask.any():
            return None, memory
        rows, filled, memory = self._push(memory, t.next_frames, mask)
        if len(rows) == 0:
            return None, memory
        there = rows.to(memory.trail.device)
        agent = memory.trail[there]
        time = torch.arange(self.latents).expand(len(rows), -1)
        seen = (time < filled[:, None]).to(agent)
        return Stretch(rows, agent, agent[:, 0], seen, time), memory

    def _push(
        self, memory: Memory, frames: UInt8, mask: Bool
    ) -> tuple[Tensor, Tensor, Memory]:
        """The rows with new latents, how many they have by now, and the memory."""
        state, emitted = stream_push(self.encoder, memory.stream, frames, mask)
        if not emitted:
            none = torch.zeros(0, dtype=torch.int64)
            return none, none, replace(memory, stream=state)
        trail = memory.trail.clone()
        rows, filled = [], []
        for part in emitted:
            count = part.latents.shape[1]
            columns = part.start[:, None] + torch.arange(count)
            trail[part.rows[:, None], columns] = part.latents.flatten(2)
            rows.append(part.rows)
            filled.append(part.start + count)
        return torch.cat(rows), torch.cat(filled), self.Memory(state, trail)


class WindowReading:
    """The last ``window`` steps, ``length`` of them, encoded anew every ``stride``."""

    @dataclass(frozen=True, slots=True)
    class Memory:
        """The frames that a coming window may need, in a ring."""

        ring: Tensor

    def __init__(
        self,
        encoder: VideoEncoder,
        window: int,
        length: int,
        stride: int,
    ) -> None:
        """Reads windows of ``window`` steps through ``length`` evenly spread frames."""
        if not 2 <= length <= window:
            raise ValueError(
                f"a window of {window} steps holds between 2 and {window} frames, got "
                f"length={length}"
            )
        at_least(1, stride=stride)
        self.encoder = encoder
        self.window, self.stride = window, stride
        # Where in a window its frames lie, the newest step being window - 1.
        self._offsets = np.linspace(0, window - 1, length).astype(np.int64)
        # A step is wanted if it lies at one of these places of any window; windows
        # begin at the steps 1, 1 + stride, 1 + 2 stride, ...
        hit = np.zeros(stride, np.bool_)
        hit[self._offsets % stride] = True
        self._hit = hit
        self._rank = np.cumsum(hit) - 1
        # The most wanted steps that ever lie within one window.
        turns = np.tile(hit, 2 + window // stride)
        self._slots = int(np.convolve(turns, np.ones(window), "valid").max())

    def read(self, videos: UInt8) -> Tensor:
        """Clips of the window's length, over the whole videos."""
        length = len(self._offsets)
        return self.encoder.encode_clips(_resample(videos, length)).flatten(2)

    def wants(self, steps: Int64) -> Bool:
        """The steps that lie at a sampled place of some window."""
        wanted: Bool = self._hit[(steps - 1) % self.stride]
        return wanted

    def reset(self, memory: Memory | None, frames: UInt8, mask: Bool) -> Memory:
        """Keeps the ring: a window is full of new frames before it is read."""
        if memory is not None:
            return memory
        height, width = self.encoder.size
        return self.Memory(
            torch.zeros(
                (len(mask), self._slots, height, width, 3),
                dtype=torch.uint8,
                device=self.encoder.device,
            )
        )

    def step(self, memory: Memory, t: Transition) -> tuple[Stretch | None, Memory]:
        """Keeps the wanted frames, and encodes the windows that end here."""
        keep = t.active & self.wants(t.steps)
        if keep.any():
            rows = torch.from_numpy(np.flatnonzero(keep))
            ring = memory.ring.clone()
            frames = self.encoder.prepare(as_frames(t.next_frames[keep]))
            ring[rows, torch.from_numpy(self._slot(t.steps[keep]))] = frames
            memory = self.Memory(ring)
        due = (
            t.active
            & (t.steps >= self.window)
            & ((t.steps - self.window) % self.stride == 0)
        )
        if not due.any():
            return None, memory
        rows = torch.from_numpy(np.flatnonzero(due))
        begin = t.steps[due, None] - self.window + 1
        slots = torch.from_numpy(self._slot(begin + self._offsets))
        latents = self.encoder.encode_clips(memory.ring[rows[:, None], slots])
        agent = latents.flatten(2)
        stretch = Stretch(
            rows=rows,
            agent=agent,
            first=agent[:, 0],
            seen=agent.new_ones(agent.shape[:2]),
            time=torch.arange(agent.shape[1]).expand(len(rows), -1),
        )
        return stretch, memory

    def _slot(self, steps: Int64) -> Int64:
        """The place of a wanted step in the ring: wanted steps take turns."""
        turn, place = np.divmod(steps - 1, self.stride)
        slot: Int64 = (turn * int(self._hit.sum()) + self._rank[place]) % self._slots
        return slot


def _resample(videos: UInt8, length: int) -> Tensor:
    """(K, length, H, W, 3) the nearest frames of evenly spread times."""
    return torch.from_numpy(videos[:, evenly(length, videos.shape[1] - 1)])


def _table(steps: tuple[int, ...], horizon: int) -> Bool:
    table = np.zeros(horizon + 1, np.bool_)
    table[list(steps)] = True
    return table


def _look_up(table: Bool, steps: Int64) -> Bool:
    """False past the horizon: the clip is over."""
    known: Bool = table[np.minimum(steps, len(table) - 1)] & (steps < len(table))
    return known
