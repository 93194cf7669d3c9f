"""Pictures and the states that they show: what a pose reader is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, Int64, UInt8
from genreward_wrappers.data.episodes import Episode, episode_files
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.data.goal_maker import GoalMaker
from genreward_wrappers.data.video_files import fit
from genreward_wrappers.encoders.base import as_frames
from genreward_wrappers.generators.episode_settings import GeneratedGoals

#: One episode of so many is never trained on; the reader is judged by it.
HELD_OUT = 10


@dataclass(frozen=True, eq=False)
class Poses:
    """Pictures and the states that they show.

    Attributes:
        frames: (n, H, W, 3) the pictures.
        states: (n, S) the states.
        episodes: (n,) the number of each one's episode. Pictures of one episode are
            alike, so a reader is trained and judged on different episodes.
        generated: (n,) which of the pictures were generated from an episode's first
            frame; the state beside one is that of the episode at the same time.
    """

    frames: UInt8
    states: NDArray[np.float32]
    episodes: Int64
    generated: Bool

    def __post_init__(self) -> None:
        frames, states = as_frames(self.frames), self.states
        counts = {len(frames), len(states), len(self.episodes), len(self.generated)}
        if states.ndim != 2 or len(counts) > 1:
            raise ValueError(
                f"{len(frames)} frames need as many states (n, numbers) and episodes, "
                f"got {states.shape} and {len(self.episodes)}"
            )
        if not np.isfinite(states).all():
            raise ValueError("the states hold NaN or infinity")

    def held_out(self) -> NDArray[np.bool_]:
        """(n,) whether a picture's episode is one that the reader is judged by."""
        _, number = np.unique(self.episodes, return_inverse=True)
        every = min(HELD_OUT, int(number.max()) + 1)
        chosen: NDArray[np.bool_] = number % every == every - 1
        return chosen

    def digest(self) -> str:
        """A hash of everything."""
        digest = hashlib.sha256()
        for array in (self.frames, self.states, self.episodes, self.generated):
            digest.update(str((array.dtype, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @classmethod
    def of(
        cls, frames: UInt8, states: NDArray[Any], episode: int, generated: bool = False
    ) -> Poses:
        """The pictures of one episode."""
        n = len(frames)
        return cls(
            frames,
            states.astype(np.float32),
            np.full(n, episode),
            np.full(n, generated),
        )

    @classmethod
    def joined(cls, parts: Sequence[Poses]) -> Poses:
        """All of them, in order."""
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            )
        )


def load_poses(
    sources: Sequence[str | PathLike[str]],
    size: tuple[int, int] = (64, 64),
    generated: GeneratedGoals | None = None,
) -> Poses:
    """The pictures of recorded episodes, brought to one size, with their states.

    Args:
        sources: Episodes (.safetensors), or folders with any of them anywhere below.
        size: The height and width to bring the pictures to.
        generated: What also makes a video from the first frame of every episode that
            succeeded. Generated videos are blurred where the future is uncertain; a
            reader that was trained on them reads the mean pose.

    Raises:
        ValueError: There are none, or they hold no states, or not equally many numbers;
            or videos are to be generated and no episode succeeded.
    """
    parts: list[Poses] = []
    # One for all episodes of an environment, since it loads the generator.
    makers: dict[str, GoalMaker] = {}
    for number, path in enumerate(_files(sources)):
        episode = Episode.load(path)
        if episode.states is None:
            raise ValueError(
                f"{path} holds no states, which say what to read: record an "
                "environment that shows both (obs=dict)"
            )
        if parts and parts[0].states.shape[1] != episode.states.shape[1]:
            raise ValueError(
                f"{path} has states of {episode.states.shape[1]} numbers, those before "
                f"have {parts[0].states.shape[1]}"
            )
        frames = fit(episode.frames, size, len(episode.frames), str(path))
        states = episode.states[episode.frame_steps]
        parts.append(Poses.of(frames, states, number))
        if generated is not None and episode.succeeded:
            env_id = str(episode.info.get("env_id", ""))
            if env_id not in makers:
                makers[env_id] = generated.maker(env_id or None)
            parts.append(_continued(episode, makers[env_id], size, number))
    if not parts:
        raise ValueError(
            "there are no recorded episodes (.safetensors) in "
            f"{', '.join(map(str, sources)) or 'nothing'}"
        )
    if generated is not None and not makers:
        raise ValueError(
            f"generated={generated.generator!r}: none of the episodes succeeded, and "
            "only those that did are what a generated video shows"
        )
    return Poses.joined(parts)


def _continued(
    episode: Episode, maker: GoalMaker, size: tuple[int, int], number: int
) -> Poses:
    """What is generated from an episode's first frame, with the episode's states."""
    assert episode.states is not None
    videos = maker(episode.frames[:1])[0].videos
    frames = videos.reshape(-1, *videos.shape[2:])
    # A generated video spans the whole episode.
    steps = evenly(videos.shape[1], len(episode))
    states = np.tile(episode.states[steps], (len(videos), 1))
    frames = fit(frames, size, len(frames), "a generated video")
    return Poses.of(frames, states, number, generated=True)


def _files(sources: Sequence[str | PathLike[str]]) -> list[Path]:
    found: list[Path] = []
    for source in map(Path, sources):
        within = source.is_dir()
        found += episode_files(source, "**/*.safetensors") if within else [source]
    return found
