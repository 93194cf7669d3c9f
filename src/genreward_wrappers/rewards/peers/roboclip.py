"""RoboCLIP: a video-text model looks at the whole episode and pays at its end.

Paper: Sontakke et al., "RoboCLIP: One Demonstration is Enough to Learn Robot Policies"
(NeurIPS 2023, arXiv 2310.07899).

Weights: S3D-G trained on HowTo100M by MIL-NCE; ``genreward convert s3d`` makes the file
for ``weights=`` from the two that its authors publish.

Formula: the dot product of the 512 features of the episode's video and of the goal, a
text or one video, neither scaled to unit length.

Paid: once, on the last step of the episode; its 32 frames are spread evenly over it,
first and last included.

Needs: a goal text or a goal video, and episodes that end: ``horizon=`` is the time
limit.

Pictures: in [0, 1], shortest edge 224, centre crop, all sides even. Text: lower case,
the first 16 words that the model knows.

Where the released code differs: it feeds pixels from 0 to 255 into weights that were
    trained on 0 to 1; it takes every fourth of the 128 frames after the first action,
    and their central 250x250 pixels; and each environment has its own copy of the
    model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from genreward_wrappers.core import (
    Bool,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.data.frames import evenly, sample_steps
from genreward_wrappers.data.goals import GoalBundle, load_goal
from genreward_wrappers.encoders.s3d import S3DEncoder, load_s3d
from genreward_wrappers.encoders.texts import as_texts
from genreward_wrappers.rewards.peers import values
from genreward_wrappers.rewards.peers.history import History, add, begin, sample


@dataclass(frozen=True, slots=True)
class RoboMemory:
    """What each row remembers of its episode.

    Attributes:
        seen: Each row's frames so far. Old and new memories share the frames.
        paid: (N,) whether the episode has been paid for.
    """

    seen: tuple[History, ...]
    paid: Bool


class RoboCLIP(RewardModel[RoboMemory]):
    """Pays an episode, at its end, for how much it looks like the goal."""

    name = "roboclip"

    def __init__(
        self,
        prompt: str | Sequence[str] | None = None,
        goal: GoalBundle | UInt8 | str | None = None,
        *,
        weights: S3DEncoder | str | PathLike[str],
        horizon: int | None = None,
        length: int = 32,
        sparse: bool = False,
        size: int | None = None,
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        """Binds the goal: it is encoded here, once.

        Args:
            prompt: The goal in words; several are averaged.
            goal: The goal as a video (T, H, W, 3), or as a bundle (or anything that
                `load_goal` takes); several videos are averaged. Give either a prompt or
                a goal.
            weights: A file that ``genreward convert s3d`` or
                ``scripts/models/train_s3d.py`` wrote.
            horizon: The length of an episode in steps. An episode that lasts longer is
                paid at this step, and not again.
            length: How many frames the model looks at, an even number.
            sparse: Whether to render only the frames at which an episode of full length
                is sampled. An episode that ends early is then judged by the frames that
                it had by then, perhaps without its last.
            size: The height and width that frames are scaled to; None is the model's
                training size, 224 for the published one.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: The precision of the model; None is float32.

        Raises:
            ValueError: There is no goal, or two; or no horizon; or the goal video is
                too short.
        """
        values.roboclip(prompt, weights, horizon, length, size)
        values.one_goal(prompt, goal, "video")
        if horizon is None:
            raise ValueError(
                "RoboCLIP is paid at the end of an episode and needs to know when that "
                "is: the environment has no time limit, so give horizon="
            )
        texts = [] if prompt is None else as_texts(prompt)
        videos = None if goal is None else _videos(goal, length)
        if not isinstance(weights, S3DEncoder):
            sides = None if size is None else (size, size)
            weights = load_s3d(_path(weights), size=sides, device=device, dtype=dtype)
        self.encoder = weights
        self._horizon, self._length = horizon, length
        self._aspect: tuple[int, int] | None = None
        if videos is None:
            features = weights.encode_texts(texts)
        else:
            features = weights.encode_videos(videos)
            self._aspect = (videos.shape[2], videos.shape[3])
        self._goal = features.mean(0)
        self._kept = np.ones(horizon + 1, np.bool_)
        if sparse:
            self._kept[:] = False
            self._kept[list(sample_steps(min(length, horizon + 1), horizon))] = True

    def wants(self, steps: Int64) -> Bool:
        """Every step up to the horizon, or the sampled ones."""
        last = len(self._kept) - 1
        wanted: Bool = self._kept[np.minimum(steps, last)] & (steps <= last)
        return wanted

    def reset(
        self, memory: RoboMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> RoboMemory:
        """Begins new videos with the first frames, which are part of them."""
        if self._aspect is not None:
            self._check_aspect(frames.shape[1], frames.shape[2], *self._aspect)
        seen = begin(None if memory is None else memory.seen, frames, mask)
        paid = np.zeros(len(mask), np.bool_) if memory is None else memory.paid & ~mask
        return RoboMemory(seen, paid)

    def step(
        self, memory: RoboMemory, transition: Transition
    ) -> tuple[Score, RoboMemory]:
        """Takes the frames, and pays the episodes that end."""
        t = transition
        keep = t.active & self.wants(t.steps) & ~memory.paid
        seen = add(memory.seen, t.next_frames, keep)
        over = t.terminated | t.truncated | (t.steps >= self._horizon)
        due = t.active & over & ~memory.paid
        value = np.zeros(len(due), np.float32)
        if due.any():
            videos = np.stack(
                [sample(seen[row], self._length) for row in np.flatnonzero(due)]
            )
            features = self.encoder.encode_videos(videos)
            value[due] = (features @ self._goal).cpu().numpy()
        # The frames of a paid episode are dropped.
        seen = tuple(() if due[row] else seen[row] for row in range(len(due)))
        return Score(value, due), RoboMemory(seen, memory.paid | due)

    def _check_aspect(
        self, height: int, width: int, goal_height: int, goal_width: int
    ) -> None:
        # Rounding a size may cost half a pixel.
        if abs(width - goal_width * height / goal_height) > 0.5:
            raise ValueError(
                f"the goal video is {goal_height}x{goal_width} (height x width), the "
                f"environment's frames are {height}x{width}: another aspect ratio, and "
                "the model would see other parts of the two; crop the video"
            )


def _videos(goal: Any, length: int) -> UInt8:
    """(K, length, H, W, 3) the goal's videos, sampled evenly."""
    if isinstance(goal, np.ndarray):
        if goal.dtype != np.uint8 or goal.ndim != 4 or goal.shape[-1] != 3:
            raise ValueError(
                "goal: expected one uint8 video of shape (frames, height, width, 3), "
                f"RGB, or a goal bundle; got {goal.dtype} {goal.shape}"
            )
        videos = goal[None]
    else:
        videos = load_goal(goal).videos
    count = videos.shape[1]
    if count < length:
        raise ValueError(
            f"the goal video has {count} frames, and the model looks at {length}: give "
            f"a longer one, or length={max(2, count - count % 2)}"
        )
    sampled: UInt8 = videos[:, evenly(length, count - 1)]
    return sampled


def _path(weights: Any) -> str:
    if not isinstance(weights, (str, PathLike)):
        raise TypeError(
            f"weights={weights!r}: expected the path of what `genreward convert s3d` "
            "wrote"
        )
    return str(weights)
