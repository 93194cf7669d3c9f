"""The frame-level reward: how likely an action is to lead to the key frame.

Paper: GenReward (Wang et al., CVPR 2026, arXiv 2512.00961), F(s, a, z)^T B(g) with
z = B(g), g the features of the goal video's key frame.

Weights: the forward-backward nets in the goal bundle, and the encoder they were trained
on: its single-frame latents are the features of states and of the goal alike.

What they see is the features' `card` in the bundle: an encoder of its own where the
nets were trained on other features than the video-level reward compares, or the
environment's own numbers, and how many of the last ones are stacked.

Recipe: paid at every step, from the frame *before* the action. (The released code pays
twice an episode, pairs the action with the frame after it, and trains on other features
than it asks with.) F^T B is a value of the goal and not a reward: ``form="difference"``
is the potential difference, which does not pay for hovering near the goal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
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
    warn_caller,
)
from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.data.goals import GoalBundle, GoalError, load_goal
from genreward_wrappers.encoders.base import VideoEncoder, resolve_device
from genreward_wrappers.encoders.binding import bind_encoder, same_encoder
from genreward_wrappers.rewards.frame_options import FrameOptions, check_nets
from genreward_wrappers.training.forward_backward.features import (
    Features,
    card_of,
    encode_flat,
)
from genreward_wrappers.training.forward_backward.losses import complaints
from genreward_wrappers.training.forward_backward.nets import FBNets, action_shape


def fits_nets(goal: GoalBundle, encoder: VideoEncoder | str | None) -> bool:
    """Whether a goal's nets were trained on the features of this encoder."""
    if not isinstance(encoder, VideoEncoder):
        return False
    trained_on = card_of(goal.nets_config, goal.encoder)["encoder"]
    known = trained_on.get("fingerprint")
    return not known or same_encoder(known, encoder.fingerprint)


@dataclass(frozen=True, slots=True)
class FrameMemory:
    """The value of the step before, where there was one, and what was seen before.

    Attributes:
        value: (N,) of the step before.
        valued: (N,) whether there was a step before.
        seen: (N, stack - 1, features) the pictures before the last, the oldest first.
        begun: (N,) False until the first picture of the episode stands in ``seen``.
    """

    value: Float32
    valued: Bool
    seen: Float32
    begun: Bool


class FrameLevel(RewardModel[FrameMemory]):
    """Scores actions by the measure that F and B give to the key frame after them."""

    name = "frame"
    Options = FrameOptions

    def __init__(
        self,
        goal: GoalBundle | str,
        encoder: VideoEncoder | str | None = None,
        *,
        action_space: spaces.Space[Any] | None = None,
        horizon: int | None = None,
        device: str = "auto",
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        """Binds the goal: z = B(g) is computed here, once.

        Args:
            goal: A bundle with forward-backward nets, or what `load_goal` finds one
                by.
            encoder: None loads the one that the nets were trained on; any other has to
                have its fingerprint.
            action_space: The environment's; checked against the nets.
            horizon: Steps of an episode, which ``length`` spreads over.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            dtype: What the encoder computes in; the nets stay in float32.
            **options: Fields of `FrameOptions`.

        Raises:
            TypeError: There is no such option.
            ValueError: An option has a value that it cannot have, or does nothing.
            GoalError: The bundle has no nets, or they do not fit.
        """
        self.options = how = FrameOptions.of(options, type(self).__name__)
        goal = load_goal(goal)
        self._at: Int64 | None = None
        if how.length is not None:
            if horizon is None:
                raise ValueError(
                    f"length={how.length} is spread over an episode and needs to know "
                    "how long one is: give horizon="
                )
            self._at = np.array(sample_steps(how.length, horizon)[1:])
        check_nets(goal)
        self.goal = goal
        config = dict(goal.nets_config)
        statistics = config.pop("statistics", None)
        card = card_of(config, goal.encoder)
        config.pop("input", None)
        self.sees_states = "goal_states" in card
        if self.sees_states:
            self.encoder = None
            self._device = resolve_device(device)
            self._size = len(card["goal_states"][0])
        else:
            # The nets' own encoder need not be that of the video-level reward.
            trained_on = goal.with_(encoder=card["encoder"])
            bound = bind_encoder(trained_on, encoder, device=device, dtype=dtype)
            self.encoder, self._device = bound, bound.device
            self._size = int(np.prod(bound.latent_shape))
        self.features = Features(self.encoder, card["stack"])
        self.nets = FBNets.from_arrays(goal.nets, config).to(self._device)
        self.nets.eval().requires_grad_(False)
        if action_space is not None:
            self._check_actions(action_space)
        features = self._size * self.features.stack
        if features != self.nets.config.features:
            raise GoalError(
                f"the nets of {goal!r} take {self.nets.config.features} features, "
                f"{self.features.stack} x "
                f"{'the state' if self.encoder is None else repr(self.encoder)} give "
                f"{features}"
            )
        wrong = complaints(statistics or {})
        if wrong:
            warn_caller(f"the frame-level reward of {goal!r}: {'; '.join(wrong)}")
        self._discount = np.float32(
            self.nets.config.discount if how.discount is None else how.discount
        )
        if self.features.stack > 1 and (self._at is not None or how.every > 1):
            raise ValueError(
                f"length={how.length}, every={how.every}: {goal!r} sees "
                f"{self.features.stack} frames at a time, so none can be left out"
            )
        self._shift, self._scale = np.float32(0), np.float32(1)
        if how.form == "normalised":
            if statistics is None:
                raise GoalError(
                    f"{goal!r} holds no statistics to normalise with: use "
                    'form="value" or form="difference"'
                )
            self._shift = np.float32(statistics["mean"])
            self._scale = np.float32(max(statistics["std"], 1e-8))
        with torch.inference_mode():
            keys = self._at_rest(
                np.asarray(card["goal_states"])
                if self.sees_states
                else goal.key_pictures
            )
            self._z = self.nets.backward_net(keys)

    @property
    def identity(self) -> str:
        """Goal, features and options."""
        return f"{super().identity} {self.features.card} {self.options}"

    @property
    def about(self) -> str:
        """What is asked of the nets, and what they see."""
        sees = "states" if self.encoder is None else repr(self.encoder.source)
        return (
            "how likely the action is to lead to the goal's key frame: "
            f"form={self.options.form!r}, nets on {sees}"
        )

    def reset(
        self, memory: FrameMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> FrameMemory:
        """Forgets the value before, in the rows that begin."""
        count = len(mask)
        if memory is None:
            return FrameMemory(
                np.zeros(count, np.float32),
                np.zeros(count, np.bool_),
                np.zeros((count, self.features.stack - 1, self._size), np.float32),
                np.zeros(count, np.bool_),
            )
        return FrameMemory(
            memory.value, memory.valued & ~mask, memory.seen, memory.begun & ~mask
        )

    def step(
        self, memory: FrameMemory, transition: Transition
    ) -> tuple[Score, FrameMemory]:
        """Scores the frames before the actions, all rows in one pass."""
        active = transition.active & self._pays(transition.steps)
        value, seen, begun = memory.value.copy(), memory.seen, memory.begun
        if active.any():
            new = self._new(transition, active)
            state, seen, begun = self._stacked(memory, new, active)
            value[active] = self._measure(state, transition.actions[active])
        valued = memory.valued | active
        if self.options.form == "difference":
            due = active & memory.valued
            paid = self._discount * value - memory.value
        else:
            due = active
            paid = (value - self._shift) / self._scale
        score = Score(np.where(due, paid, np.float32(0)).astype(np.float32), due)
        return score, FrameMemory(value, valued, seen, begun)

    def wants(self, steps: Int64) -> Bool:
        """The frames before and after steps that are paid; none if states are seen."""
        if self.sees_states:
            return np.zeros(len(steps), np.bool_)
        return self._pays(steps) | self._pays(steps + 1)

    def _pays(self, steps: Int64) -> Bool:
        paid: Bool = steps % self.options.every == 0
        return paid if self._at is None else paid & np.isin(steps, self._at)

    def _new(self, transition: Transition, active: Bool) -> Tensor:
        """The features of what the active rows saw before they acted."""
        if self.encoder is not None:
            return encode_flat(self.encoder, transition.frames[active])
        if transition.states is None or transition.states.shape[1] != self._size:
            raise ValueError(
                f"{self.goal!r} was trained on states of {self._size} numbers, got "
                + (
                    "none"
                    if transition.states is None
                    else f"{transition.states.shape[1]}"
                )
            )
        states = transition.states[active].astype(np.float32)
        return torch.from_numpy(states).to(self._device)

    def values(self, seen: NDArray[Any], actions: Any) -> Float32:
        """(n,) F(s, a, z)^T z of actions at rest; the best of the goals.

        Args:
            seen: (n, H, W, 3) frames, or (n, S) states where those are what it sees.
            actions: (n, ...) what was done there.
        """
        if len(seen) == 0:
            return np.zeros(0, np.float32)
        return self._measure(self._at_rest(seen), actions)

    def _at_rest(self, seen: NDArray[Any]) -> Tensor:
        """(n, features) of what has not moved for as long as the nets look back."""
        if not self.sees_states:
            return self.features.of_goal(seen)
        rest = np.tile(seen, self.features.stack).astype(np.float32)
        return torch.from_numpy(rest).to(self._device)

    def _stacked(
        self, memory: FrameMemory, new: Tensor, active: Bool
    ) -> tuple[Tensor, Float32, Bool]:
        """The states of the active rows, and what is remembered of them."""
        before = self.features.stack - 1
        if before == 0:
            return new, memory.seen, memory.begun
        seen, latest = memory.seen.copy(), new.cpu().numpy()[:, None]
        fresh = active & ~memory.begun
        # Before the first picture there was nothing else.
        seen[fresh] = latest[fresh[active]]
        whole = np.concatenate([seen[active], latest], axis=1)
        seen[active] = whole[:, 1:]
        state = torch.from_numpy(whole.reshape(len(whole), -1)).to(new.device)
        return state, seen, memory.begun | active

    @torch.inference_mode()
    def _measure(self, state: Tensor, actions: Any) -> Float32:
        heads = self.nets.measure_of(state, self.nets.encode_actions(actions), self._z)
        of_goals = heads.amin(2) if self.options.heads == "min" else heads.mean(2)
        best: Float32 = of_goals.amax(0).cpu().numpy()
        return best

    def _check_actions(self, space: spaces.Space[Any]) -> None:
        count, discrete = action_shape(space)
        config = self.nets.config
        if (count, discrete) != (config.actions, config.discrete):
            kind = "discrete actions" if config.discrete else "action entries"
            raise GoalError(
                f"the nets of {self.goal!r} take {config.actions} {kind}, the "
                f"environment's action space is {space}"
            )
