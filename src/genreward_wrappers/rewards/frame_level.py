"""The frame-level reward: how likely an action is to lead to the key frame.

Paper: GenReward (Wang et al., CVPR 2026, arXiv 2512.00961), F(s, a, z)^T B(g) with
z = B(g), g the features of the goal video's key frame.

Weights: the forward-backward nets in the goal bundle, and the encoder they were trained
on: its single-frame latents are the features of states and of the goal alike.

Recipe: paid at every step, from the frame *before* the action. (The released code pays
twice an episode, pairs the action with the frame after it, and trains on other features
than it asks with.) F^T B is a value of the goal and not a reward: ``form="difference"``
is the potential difference, which does not pay for hovering near the goal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from genreward_wrappers.core import (
    Bool,
    Float32,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.encoders.base import VideoEncoder
from genreward_wrappers.forward_backward.nets import FBNets, action_shape
from genreward_wrappers.goals import GoalBundle, GoalError, load_goal
from genreward_wrappers.rewards.video_level import bind_encoder

FORMS = ("value", "normalised", "difference")
HEADS = ("min", "mean")

#: The weight of the score in a preset; 1 where nothing is said. The released beta.
FRAME_WEIGHTS = {"paper": 1e-5}


class FrameOptions(TypedDict, total=False):
    """How the score is formed; see `FrameLevel`."""

    form: Literal["value", "normalised", "difference"]
    heads: Literal["min", "mean"]
    discount: float


@dataclass(frozen=True, slots=True)
class FrameMemory:
    """The value of the step before, where there was one."""

    value: Float32
    valued: Bool


class FrameLevel(RewardModel[FrameMemory]):
    """Scores actions by the measure that F and B give to the key frame after them."""

    name = "frame"

    def __init__(
        self,
        goal: GoalBundle | str,
        encoder: VideoEncoder | str | None = None,
        *,
        action_space: spaces.Space[Any] | None = None,
        form: str = "normalised",
        heads: str = "min",
        discount: float | None = None,
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        """Binds the goal: z = B(g) is computed here, once.

        Args:
            goal: A bundle with forward-backward nets, or what `load_goal` finds one
                by.
            encoder: None loads the one that the nets were trained on.
            action_space: The environment's; checked against the nets.
            form: "value" is F^T B; "normalised" takes the mean and divides by the
                standard deviation stored with the nets; "difference" is
                discount * value - the value one step before.
            heads: "min" or "mean" of F's two heads.
            discount: Of the difference; None is the nets' own.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: What the encoder computes in; the nets stay in float32.

        Raises:
            GoalError: The bundle has no nets, or they do not fit.
        """
        for name, value, accepted in (("form", form, FORMS), ("heads", heads, HEADS)):
            if value not in accepted:
                raise ValueError(f"{name}={value!r}: expected one of {accepted}")
        goal = load_goal(goal)
        if not goal.nets:
            raise GoalError(
                f"{goal!r} has no frame-level part: its bundle holds no "
                "forward-backward nets. VideoLevelReward works with it, or "
                "GenRewardWrapper, which leaves the frame-level part out"
            )
        self.goal = goal
        self.encoder = bind_encoder(goal, encoder, device=device, dtype=dtype)
        config = dict(goal.nets_config)
        statistics = config.pop("statistics", None)
        self.nets = FBNets.from_arrays(goal.nets, config).to(self.encoder.device)
        self.nets.eval().requires_grad_(False)
        if action_space is not None:
            self._check_actions(action_space)
        features = int(np.prod(self.encoder.latent_shape))
        if features != self.nets.config.features:
            raise GoalError(
                f"the nets of {goal!r} take {self.nets.config.features} features, "
                f"{self.encoder!r} gives {features}"
            )
        self._form, self._heads = form, heads
        self._discount = np.float32(
            self.nets.config.discount if discount is None else discount
        )
        self._shift, self._scale = np.float32(0), np.float32(1)
        if form == "normalised":
            if statistics is None:
                raise GoalError(
                    f"{goal!r} holds no statistics to normalise with: use "
                    'form="value" or form="difference"'
                )
            self._shift = np.float32(statistics["mean"])
            self._scale = np.float32(max(statistics["std"], 1e-8))
        keys = goal.videos[np.arange(len(goal.videos)), goal.key_frames]
        with torch.inference_mode():
            self._z = self.nets.backward_net(self._features(keys))

    def reset(
        self, memory: FrameMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> FrameMemory:
        """Forgets the value before, in the rows that begin."""
        if memory is None:
            return FrameMemory(
                np.zeros(len(mask), np.float32), np.zeros(len(mask), np.bool_)
            )
        return FrameMemory(memory.value, memory.valued & ~mask)

    def step(
        self, memory: FrameMemory, transition: Transition
    ) -> tuple[Score, FrameMemory]:
        """Scores the frames before the actions, all rows in one pass."""
        active = transition.active
        value = memory.value.copy()
        value[active] = self.values(
            transition.frames[active], transition.actions[active]
        )
        valued = memory.valued | active
        if self._form == "difference":
            due = active & memory.valued
            paid = self._discount * value - memory.value
        else:
            due = active
            paid = (value - self._shift) / self._scale
        score = Score(np.where(due, paid, np.float32(0)).astype(np.float32), due)
        return score, FrameMemory(value, valued)

    @torch.inference_mode()
    def values(self, frames: UInt8, actions: Any) -> Float32:
        """(n,) F(s, a, z)^T z of frames and actions; the best of the goals."""
        if len(frames) == 0:
            return np.zeros(0, np.float32)
        state = self._features(frames)
        action = self.nets.encode_actions(actions)
        of_goals = []
        for z in self._z:
            heads = self.nets.measure(state, action, z.expand(len(state), -1))
            of_goals.append(heads.amin(1) if self._heads == "min" else heads.mean(1))
        best: Float32 = torch.stack(of_goals).amax(0).cpu().numpy()
        return best

    def _features(self, frames: UInt8) -> Tensor:
        return self.encoder.encode_images(frames).flatten(1)

    def _check_actions(self, space: spaces.Space[Any]) -> None:
        count, discrete = action_shape(space)
        config = self.nets.config
        if (count, discrete) != (config.actions, config.discrete):
            kind = "discrete actions" if config.discrete else "action entries"
            raise GoalError(
                f"the nets of {self.goal!r} take {config.actions} {kind}, the "
                f"environment's action space is {space}"
            )
