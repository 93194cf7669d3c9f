"""The video-level reward: how closely an episode follows a goal video.

Paper: GenReward (Wang et al., CVPR 2026, arXiv 2512.00961), the cosine of a trajectory
and a goal video in the latent space of the fine-tuned CogVideoX's causal video VAE.

Weights: any `VideoEncoder`; the goal bundle names the one it is made for.

Recipe: a `Reading` turns the trajectory into latents, a similarity compares them with
the goal's latents of the same time, a payment decides when the score is paid. The
released code (``preset="paper"``) compares each half of an episode with the whole goal
by one cosine of everything, background included, twice an episode. The default is
single frames and the distance of the changes since the first one, paid at every step;
it was chosen by short learning runs, whose table the documentation has.
"""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genreward_wrappers.core import (
    Bool,
    Float32,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.data.goal_maker import GoalMaker
from genreward_wrappers.data.goals import GoalBundle, load_goal
from genreward_wrappers.encoders.base import VideoEncoder, as_frames, upload
from genreward_wrappers.encoders.binding import bind_encoder
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.rewards.clip_readers import (
    FramesReading,
    Reading,
    StreamReading,
    Stretch,
    WindowReading,
)
from genreward_wrappers.rewards.similarity import SIMILARITIES, Comparison
from genreward_wrappers.rewards.targets import Own, Targets, begin
from genreward_wrappers.rewards.video_options import VideoOptions


class _Read:
    """A bundle's goals as a reading sees them.

    Encoding them is the slow part of making a wrapper, and a process that wraps many
    environments alike does it once.
    """

    def __init__(self, reading: Reading, videos: UInt8) -> None:
        # It keeps its encoder, so that the id in the key below stays that encoder's.
        self.reading = reading
        self.latents = reading.read(videos)


_known: weakref.WeakValueDictionary[tuple[object, ...], _Read] = (
    weakref.WeakValueDictionary()
)


@dataclass(frozen=True, slots=True)
class VideoMemory:
    """What `VideoLevel` remembers of each row's episode.

    Attributes:
        reading: The memory of the reading.
        choice: (N,) the goal that each row follows, for ``goals="nearest"``.
        latest: (N,) the newest score of the episode.
        scored: (N,) whether there is one.
        own: Each row's own goals; None where all rows have those of a bundle.
    """

    reading: Any
    choice: Tensor
    latest: Float32
    scored: Bool
    own: Own | None = None


class VideoLevel(RewardModel[VideoMemory]):
    """Scores how closely episodes follow the goal videos of a bundle.

    Example:
        >>> from genreward_wrappers import load_goal
        >>> model = VideoLevel(
        ...     load_goal("metaworld/pick-place"), encoder="pixels", horizon=256
        ... )
        >>> model.name
        'video'
    """

    name = "video"
    Options = VideoOptions

    def __init__(
        self,
        goal: GoalBundle | GoalMaker | str,
        encoder: VideoEncoder | str | None = None,
        *,
        horizon: int | None = None,
        device: str = "auto",
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        """Binds the goal.

        Args:
            goal: The goal bundle, or what `load_goal` finds one by; or what makes every
                episode's goals from its first frame.
            encoder: None loads the one that the bundle is made for; "pixels" is the
                control that every learned encoder has to beat.
            horizon: Steps of an episode; "frames" and "stream" align the goal with it.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: What the encoder computes in; None is float32.
            **options: Fields of `VideoOptions`.

        Raises:
            TypeError: There is no such option.
            ValueError: An option has a value that it cannot have, or does nothing.
            GoalError: The bundle does not fit the encoder.
        """
        self.options = how = VideoOptions.of(options, type(self).__name__)
        source = goal if isinstance(goal, GoalMaker) else load_goal(goal)
        #: The bundle; None where every episode has goals of its own.
        self.goal = source if isinstance(source, GoalBundle) else None
        self._maker = source if isinstance(source, GoalMaker) else None
        self.encoder = bind_encoder(source, encoder, device=device, dtype=dtype)
        self.stretch = None if how.reading == "window" else horizon
        self._similarity = SIMILARITIES[how.score]
        self._contrast = 1.0 if how.contrast is None else how.contrast
        self._discount = np.float32(0.99 if how.discount is None else how.discount)
        # Which goal is nearest is asked of coarse pixels: no encoder has to be trusted
        # with it, and it costs nothing.
        height, width = self.encoder.size
        grid = next(n for n in range(8, 0, -1) if height % n == 0 == width % n)
        self._pixels = PooledPixels(self.encoder.size, grid, device="cpu")
        self.targets: Targets | None = None
        if isinstance(source, GoalMaker):
            self.reading = self._make_reading(source.frames)
        else:
            self._read = self._read_goals(source)
            self.reading = self._read.reading
            self.targets = self._targets(source.videos, self._read.latents)

    @property
    def identity(self) -> str:
        """Goal, encoder, options and horizon."""
        about = (self._maker, self.encoder.fingerprint, self.options, self.stretch)
        return f"{super().identity} {about}"

    @property
    def about(self) -> str:
        """What is compared, and when it is paid."""
        how = self.options
        which = "the goal video" if self._maker is None else "its own generated goal"
        return (
            f"how closely the episode follows {which}: score={how.score!r}, "
            f"reading={how.reading!r}, payment={how.payment!r}, "
            f"encoder={self.encoder.source!r}"
        )

    def with_goal(self, goal: GoalBundle) -> VideoLevel:
        """The same reward for another goal."""
        return VideoLevel(
            goal, self.encoder, horizon=self.stretch, **asdict(self.options)
        )

    def wants(self, steps: Int64) -> Bool:
        """The frames that the reading samples."""
        return self.reading.wants(steps)

    def reset(
        self, memory: VideoMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> VideoMemory:
        """Begins the episodes of some rows, and chooses their goals."""
        count, rows = len(mask), torch.from_numpy(np.flatnonzero(mask))
        if memory is None:
            memory = VideoMemory(
                reading=None,
                choice=torch.zeros(count, dtype=torch.int64),
                latest=np.zeros(count, np.float32),
                scored=np.zeros(count, np.bool_),
            )
        own = memory.own
        if self._maker is not None:
            own = begin(own, frames, mask, self._maker, self._targets)
        choice, targets = memory.choice, self._compared(own)
        if self.options.goals == "nearest" and targets.latents.shape[1] > 1:
            nearest = targets.nearest(rows, self._look(frames[mask]))
            choice = choice.index_copy(0, rows, nearest)
        return VideoMemory(
            reading=self.reading.reset(memory.reading, frames, mask),
            choice=choice,
            latest=np.where(mask, np.float32(0), memory.latest),
            scored=memory.scored & ~mask,
            own=own,
        )

    def step(
        self, memory: VideoMemory, transition: Transition
    ) -> tuple[Score, VideoMemory]:
        """Scores the rows that have something new, and pays."""
        stretch, reading = self.reading.step(memory.reading, transition)
        new = np.zeros(len(transition.active), np.bool_)
        latest = memory.latest
        if stretch is not None:
            rows = stretch.rows.numpy()
            new[rows] = True
            latest = memory.latest.copy()
            choice = memory.choice[stretch.rows]
            latest[rows] = self._scores(stretch, choice, self._compared(memory.own))
        scored = memory.scored | new
        if self.options.payment == "level":
            due, value = new, latest
        elif self.options.payment == "hold":
            due, value = scored & transition.active, latest
        else:
            # The first score of an episode has nothing to be the difference to.
            due = new & memory.scored
            value = self._discount * latest - memory.latest
        paid = Score(np.where(due, value, np.float32(0)), due)
        memory = replace(memory, reading=reading, latest=latest, scored=scored)
        return paid, memory

    def notes(self, memory: VideoMemory) -> dict[str, NDArray[Any]]:
        """Which goal a row follows, or what its own goals cost to make."""
        own = memory.own
        if own is None:
            return {"goal_index": self.chosen(memory)}
        return {"goal_seconds": own.seconds, "goal_cached": own.cached}

    def chosen(self, memory: VideoMemory) -> Int64:
        """(N,) the index of the goal video that each row follows."""
        choice: Int64 = memory.choice.numpy()
        return choice

    def nearest(self, frame: UInt8) -> int:
        """The goal video whose first frame is most like a frame."""
        targets, _ = self._shared()
        look = self._look(frame[None])
        return int(targets.nearest(torch.zeros(1, dtype=torch.int64), look)[0])

    def compare(self, frames: UInt8, choice: int, times: int = 65) -> Float32:
        """(F, times) every frame of an episode against all of a goal, each on its own.

        What the score would be if the two were of the same moment. Rows are frames,
        the first one being where the episode began; columns are spread over the goal.

        Args:
            frames: (F, H, W, 3) of one episode, the first one included.
            choice: Which of the goal videos.
            times: How many of the goal's frames.
        """
        targets, bundle = self._shared()
        video = bundle.videos[choice]
        spread = evenly(min(times, len(video)), len(video) - 1)
        agent = self.encoder.encode_images(frames).flatten(1)
        goal = self.encoder.encode_images(video[spread]).flatten(1)
        # The goal's moments stand where several goals do otherwise.
        comparison = Comparison(
            agent=agent[:, None, None],
            agent_first=agent[None, None, None, 0],
            goal=goal[None, :, None],
            goal_first=goal[None, None, None, 0],
            goal_last=goal[None, None, None, -1],
            seen=agent.new_ones(len(agent), 1, 1, 1),
            reference=targets.reference[:, None, None],
            sharpness=targets.sharpness[:, None],
        )
        table: Float32 = self._similarity(comparison).float().cpu().numpy()
        return np.broadcast_to(table, (len(agent), len(goal)))

    def _scores(self, stretch: Stretch, choice: Tensor, targets: Targets) -> Float32:
        """(n,) one score a row, over the goals that it is compared with."""
        goal, own = targets.latents, targets.at(stretch.rows)
        device = goal.device
        time = upload(stretch.time, device)
        before, after = time.floor().long(), time.ceil().long()
        part = (time - before).to(goal.dtype)[:, None, :, None]
        if self.options.goals == "nearest":
            which = upload(choice, device)[:, None]
        else:
            which = torch.arange(goal.shape[1], device=device).expand(len(time), -1)
        each = own[:, None]
        sets, goals = each[:, :, None], which[:, :, None]
        comparison = Comparison(
            agent=stretch.agent[:, None],
            agent_first=stretch.first[:, None, None],
            goal=torch.lerp(
                goal[sets, goals, before[:, None]],
                goal[sets, goals, after[:, None]],
                part,
            ),
            goal_first=goal[each, which, 0][:, :, None],
            goal_last=goal[each, which, -1][:, :, None],
            seen=stretch.seen[:, None, :, None],
            reference=targets.reference[own][:, None, None],
            sharpness=targets.sharpness[each],
        )
        scores = self._similarity(comparison)
        together = scores.amax(1) if self.options.goals == "max" else scores.mean(1)
        result: Float32 = together.float().cpu().numpy()
        return result

    def _targets(self, videos: UInt8, latents: Tensor | None = None) -> Targets:
        """What videos make for this reward; their latents, if somebody has them."""
        if latents is None:
            latents = self.reading.read(videos)
        return Targets.of(latents, self._look(videos[:, 0]), self._contrast)

    def _compared(self, own: Own | None) -> Targets:
        """What the rows are compared with."""
        targets = self.targets if own is None else own.targets
        assert targets is not None
        return targets

    def _shared(self) -> tuple[Targets, GoalBundle]:
        if self.targets is None or self.goal is None:
            raise ValueError(
                "every episode has goals of its own here: there is none before an "
                "episode begins; make the reward with a goal bundle"
            )
        return self.targets, self.goal

    def _read_goals(self, goal: GoalBundle) -> _Read:
        how = self.options
        read_by = (how.reading, how.length, how.window, how.stride, self.stretch)
        key = (goal.digest, id(self.encoder), *read_by)
        found = _known.get(key)
        if found is None:
            found = _Read(self._make_reading(goal.videos.shape[1]), goal.videos)
            _known[key] = found
        return found

    def _make_reading(self, count: int) -> Reading:
        """The reading, for goal videos of some frames."""
        how = self.options
        if how.reading == "window":
            window = 128 if how.window is None else how.window
            stride = 1 if how.stride is None else how.stride
            return WindowReading(self.encoder, window, how.length or 16, stride)
        if self.stretch is None:
            raise ValueError(
                f"reading={how.reading!r} compares an episode with the goal at the "
                "same time and needs to know how long an episode is: the environment "
                'has no time limit, so give horizon=, or use reading="window"'
            )
        kind = FramesReading if how.reading == "frames" else StreamReading
        return kind(self.encoder, count, self.stretch, how.length)

    def _look(self, frames: UInt8) -> Tensor:
        small = self.encoder.prepare(as_frames(frames))
        return self._pixels.encode_images(small.cpu()).flatten(1)
