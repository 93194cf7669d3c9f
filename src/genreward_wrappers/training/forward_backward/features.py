"""What F and B see of a state: an encoder's features of its picture.

F, B and the goal share one encoder, whose fingerprint is stored with the nets: with
    other features than those of their training, nets answer nonsense. A stack of the
    last k pictures shows velocities, which a single picture does not.

Features are frozen, so those of recorded episodes are computed once and kept in half
precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genreward_wrappers.checks import at_least
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.cache import array_cache, cache_folder, expected
from genreward_wrappers.data.files import canonical
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.encoders.base import VideoEncoder, encoder_card
from genreward_wrappers.encoders.binding import bind_encoder

#: The name of features that are the environment's own numbers.
STATE = "state"

#: Pictures that go through the encoder at once; on a CPU more of them are slower.
CHUNK = 16


@dataclass(frozen=True)
class Features:
    """How a state is described.

    Attributes:
        encoder: The encoder of single pictures; None if the features are the
            environment's own numbers.
        stack: How many of the last pictures are seen, the newest one last. At the
            beginning of an episode the first picture is repeated.
    """

    encoder: VideoEncoder | None
    stack: int = 1

    @classmethod
    def for_goal(
        cls,
        goal: GoalBundle,
        encoder: str | None = None,
        stack: int = 1,
        *,
        device: str = "auto",
    ) -> Features:
        """The features that a goal's nets are trained on.

        Args:
            goal: The goal.
            encoder: The name of an encoder; None takes the goal's own, "state" the
                environment's own numbers.
            stack: How many successive pictures are seen together.
            device: The encoder's device.
        """
        if encoder == STATE:
            return cls(None, stack)
        # Another encoder than the goal's own has its own size.
        free = goal if encoder is None else goal.with_(encoder={})
        return cls(bind_encoder(free, encoder, device=device), stack)

    def __post_init__(self) -> None:
        at_least(1, stack=self.stack)

    @property
    def card(self) -> dict[str, Any]:
        """What a bundle keeps about the features of its nets."""
        encoder = {} if self.encoder is None else encoder_card(self.encoder)
        return {"encoder": encoder, "stack": self.stack}

    def encode(self, frames: UInt8) -> NDArray[np.float16]:
        """(n, features) of single pictures, in half precision."""
        encoder = self._needed()
        parts = [
            encode_flat(encoder, frames[i : i + CHUNK]).cpu().numpy().astype(np.float16)
            for i in range(0, len(frames), CHUNK)
        ]
        return np.concatenate(parts)

    def encode_once(self, frames: UInt8, cache: Path | None) -> NDArray[np.float16]:
        """Like `encode`, but from the cache if these pictures are in it."""
        if cache is None:
            return self.encode(frames)
        wanted = {"features": (np.float16, (len(frames), None))}
        kept = array_cache(cache, lambda arrays: expected(arrays, wanted))
        name = self._name(frames)
        found = kept.get(name)
        if found is None:
            found = {"features": self.encode(frames)}
            kept.put(name, found)
        return found["features"]

    def of_goal(self, frames: UInt8) -> Tensor:
        """(K, features) of goals' key frames.

        At the goal nothing moves, so a stack repeats the key frame: the frames before
        it have the speed of the video, not of the agent.
        """
        single = encode_flat(self._needed(), frames)
        return single.repeat(1, self.stack)

    def _needed(self) -> VideoEncoder:
        if self.encoder is None:
            raise ValueError("these features are states, not pictures: no encoder")
        return self.encoder

    def _name(self, frames: UInt8) -> str:
        digest = hashlib.sha256(canonical(self._needed().fingerprint).encode())
        digest.update(str(frames.shape).encode())
        digest.update(np.ascontiguousarray(frames).data)
        return digest.hexdigest()[:32]


@torch.inference_mode()
def encode_flat(encoder: VideoEncoder, frames: UInt8) -> Tensor:
    """(n, features) of single pictures, on the encoder's device."""
    return encoder.encode_images(frames).flatten(1)


def stack_before(
    states: NDArray[Any], rows: NDArray[Any], firsts: NDArray[Any], stack: int
) -> NDArray[Any]:
    """(n, stack * features) stacks of states that end at given rows, the newest last.

    Args:
        states: (S, features) the states of several episodes, one after the other.
        rows: (n,) the newest state of each stack.
        firsts: (n,) the row at which each one's episode begins.
        stack: How many states a stack has.
    """
    back = np.arange(stack - 1, -1, -1)
    index = np.maximum(rows[:, None] - back, firsts[:, None])
    stacked: NDArray[Any] = states[index].reshape(len(rows), -1)
    return stacked


def default_cache() -> Path:
    """Where features are kept; see `data.cache`."""
    return cache_folder("features")


def card_of(
    nets_config: Mapping[str, Any], encoder: Mapping[str, Any]
) -> dict[str, Any]:
    """The card of a bundle's nets; by default they see single pictures of its encoder.

    Args:
        nets_config: The bundle's configuration of its nets.
        encoder: The card of the bundle's encoder.
    """
    return {"encoder": dict(encoder), "stack": 1, **nets_config.get("input", {})}
