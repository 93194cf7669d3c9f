"""Test episodes made from others: played backwards, shifted, or lit differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.episodes import Episode

#: The kinds of episodes that are made here.
ALTERED = ("reversed", "shifted", "brightness")


def altered(episodes: Sequence[Episode], wanted: Sequence[int] = ()) -> list[Episode]:
    """The successes played backwards, shifted, and with another brightness.

    Args:
        episodes: The test episodes.
        wanted: The steps whose frames are looked at. An episode that was recorded
            without the frames at the other end cannot be played backwards.
    """
    changed = []
    for episode in episodes:
        if episode.info["kind"] != "success":
            continue
        rng = np.random.default_rng(episode.info["seed"])
        needed = {0, *(int(step) for step in wanted if step <= len(episode))}
        if needed <= set((len(episode) - episode.frame_steps).tolist()):
            changed.append(_derive(_backwards(episode), "reversed"))
        changed += [
            _derive(replace(episode, frames=_shift(episode.frames, rng)), "shifted"),
            _derive(
                replace(episode, frames=_brighten(episode.frames, rng)), "brightness"
            ),
        ]
    return changed


def _derive(episode: Episode, kind: str) -> Episode:
    # The group stays: these are the same episode again, not new evidence.
    return replace(episode, info={**episode.info, "kind": kind})


def _backwards(episode: Episode) -> Episode:
    return replace(
        episode,
        frames=episode.frames[::-1].copy(),
        frame_steps=len(episode) - episode.frame_steps[::-1],
        actions=-episode.actions[::-1],
        success=np.zeros(len(episode), np.bool_),
        # What the environment would have said is unknown.
        rewards={},
        states=None if episode.states is None else episode.states[::-1].copy(),
    )


def _shift(frames: UInt8, rng: np.random.Generator) -> UInt8:
    """Shifts the picture by up to a sixteenth, as if the camera had turned a little."""
    height, width = frames.shape[1:3]
    reach = max(1, height // 16)
    down, right = 0, 0
    while down == right == 0:
        down, right = rng.integers(-reach, reach + 1, 2)
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return np.ascontiguousarray(frames[:, rows][:, :, columns])


def _brighten(frames: UInt8, rng: np.random.Generator) -> UInt8:
    """Multiplies by 0.5 to 0.8 or by 1.15 to 1.3: visibly darker or brighter."""
    factor = rng.uniform(0.5, 0.8) if rng.random() < 0.5 else rng.uniform(1.15, 1.3)
    changed: UInt8 = np.clip(frames * np.float32(factor), 0, 255).astype(np.uint8)
    return changed
