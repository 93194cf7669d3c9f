"""Bonuses for what is new, learned while an agent explores.

`RND` (Burda et al., arXiv 1810.12894) pays the error of a net that learns to imitate a
random one: frames that were seen often are imitated well. `Disagreement` (Pathak et
al., arXiv 1906.04161) pays the variance of an ensemble that learns what an action does:
where it has seen enough, its members agree, and noise that nobody can predict earns
nothing in the end.

Both learn from every step that they score, so **rows depend on one another**: the nets
are shared by all environments of a session, and what is new to one is soon known to
all. They also last over episodes. Nets, optimiser and statistics are the memory: a
snapshot of the session has them, and going back to it forgets what was learned since.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from genreward_wrappers.core import Bool, RewardModel, Score, Transition, UInt8, UInt64
from genreward_wrappers.encoders.base import as_frames, resolve_device
from genreward_wrappers.training.forward_backward.nets import action_shape

#: Adam's, and what it adds to a root.
BETAS, EPSILON = (0.9, 0.999), 1e-8
#: Pixels are standardised, and what is further out than this is cut.
REACH = 5.0


@dataclass(frozen=True, slots=True)
class Learner:
    """An ensemble of nets with Adam's memory of them; never written to.

    Attributes:
        weights: Alternately (K, in, out) and (K, 1, out), for K members.
        first, second: Adam's moments.
        steps: Updates so far.
    """

    weights: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    steps: int = 0

    @classmethod
    def untrained(
        cls, members: int, sizes: Sequence[int], generator: torch.Generator
    ) -> Learner:
        """Nets with layers of these sizes."""
        weights: list[Tensor] = []
        for before, after in itertools.pairwise(sizes):
            drawn = torch.randn(members, before, after, generator=generator)
            weights += [drawn * math.sqrt(2 / before), torch.zeros(members, 1, after)]
        nothing = tuple(torch.zeros_like(weight) for weight in weights)
        return cls(tuple(weights), nothing, nothing)

    def to(self, device: torch.device) -> Learner:
        """The same elsewhere."""
        moved = [
            tuple(tensor.to(device) for tensor in part)
            for part in (self.weights, self.first, self.second)
        ]
        return Learner(moved[0], moved[1], moved[2], self.steps)

    def descended(self, gradients: Sequence[Tensor], rate: float) -> Learner:
        """What one step of Adam makes of it."""
        steps, (one, two) = self.steps + 1, BETAS
        first = tuple(
            one * m + (1 - one) * g for m, g in zip(self.first, gradients, strict=True)
        )
        second = tuple(
            two * v + (1 - two) * g * g
            for v, g in zip(self.second, gradients, strict=True)
        )
        one, two = 1 - one**steps, 1 - two**steps
        weights = tuple(
            w - rate * (m / one) / ((v / two).sqrt() + EPSILON)
            for w, m, v in zip(self.weights, first, second, strict=True)
        )
        return Learner(weights, first, second, steps)


def predict(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """(K, n, out) what each member says of (n, in)."""
    x = inputs.expand(len(weights[0]), -1, -1)
    for layer in range(0, len(weights), 2):
        x = torch.baddbmm(weights[layer + 1], x, weights[layer])
        if layer + 2 < len(weights):
            x = x.relu()
    return x


@dataclass(frozen=True, slots=True)
class Pixels:
    """The mean and spread of every pooled pixel so far."""

    count: int
    mean: Tensor
    squares: Tensor

    def seen(self, pooled: Tensor) -> Pixels:
        """What they are after some more."""
        n, mean = len(pooled), pooled.mean(0)
        total = self.count + n
        shift = mean - self.mean
        spread = (pooled - mean).square().sum(0)
        return Pixels(
            total,
            self.mean + shift * n / total,
            self.squares + spread + shift.square() * self.count * n / total,
        )

    def standardised(self, pooled: Tensor) -> Tensor:
        """Pixels as the nets see them; those that never changed as they are."""
        std = (self.squares / max(self.count, 1)).sqrt()
        scaled = (pooled - self.mean) / torch.where(std > 1e-4, std, 1.0)
        return scaled.clamp(-REACH, REACH)


@dataclass(frozen=True, slots=True)
class ExplorerMemory:
    """All that a bonus has learned, shared by all rows."""

    learner: Learner
    pixels: Pixels


class _Explorer(RewardModel[ExplorerMemory]):
    """What the bonuses share: pooled, standardised pixels, and one update a step."""

    #: A subclass draws them when it is made.
    _untrained: Learner

    def __init__(
        self,
        name: str,
        grid: int,
        hidden: int,
        learning_rate: float,
        seed: int,
        device: str,
    ) -> None:
        if min(grid, hidden) < 1 or not learning_rate > 0:
            raise ValueError(
                f"grid={grid}, hidden={hidden}, learning_rate={learning_rate}: all "
                "must be positive"
            )
        self.name = name
        self._grid, self._rate = grid, learning_rate
        self._device = resolve_device(device)
        self._generator = torch.Generator().manual_seed(seed)

    def _draw(self, members: int, *sizes: int) -> Learner:
        """Nets with layers of these sizes, from the seed."""
        return Learner.untrained(members, sizes, self._generator).to(self._device)

    def reset(
        self, memory: ExplorerMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> ExplorerMemory:
        """Begins to learn, once; what was learned outlasts the episode."""
        if memory is not None:
            return memory
        nothing = torch.zeros(3 * self._grid**2, device=self._device)
        return ExplorerMemory(self._untrained, Pixels(0, nothing, nothing))

    def step(
        self, memory: ExplorerMemory, transition: Transition
    ) -> tuple[Score, ExplorerMemory]:
        """Pays, and then learns from the same frames."""
        active = transition.active
        value = np.zeros(len(active), np.float32)
        if not active.any():
            return Score(value, active), memory
        pooled = self._pool(transition.next_frames[active])
        pixels = memory.pixels.seen(pooled)
        # Copies, since the old ones must stay as they are.
        weights = [w.clone().requires_grad_() for w in memory.learner.weights]
        with torch.enable_grad():
            bonus, loss = self._judge(weights, pixels, transition, pooled)
            gradients = torch.autograd.grad(loss, weights)
        learner = memory.learner.descended(gradients, self._rate)
        value[active] = bonus.detach().cpu().numpy()
        return Score(value, active), ExplorerMemory(learner, pixels)

    def _judge(
        self,
        weights: Sequence[Tensor],
        pixels: Pixels,
        transition: Transition,
        pooled: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The bonuses (n,) of the active rows, and the loss to descend."""
        raise NotImplementedError

    def _pool(self, frames: UInt8) -> Tensor:
        """(n, 3 * grid * grid) from 0 to 1."""
        pictures = as_frames(frames).to(self._device).movedim(-1, 1).float() / 255
        pooled = torch.nn.functional.adaptive_avg_pool2d(pictures, self._grid)
        return pooled.flatten(1)


class RND(_Explorer):
    """Pays how badly a net imitates a random one on the new frame.

    Example:
        >>> RND(seed=1).name
        'rnd'
    """

    def __init__(
        self,
        *,
        grid: int = 16,
        hidden: int = 128,
        features: int = 64,
        learning_rate: float = 1e-4,
        seed: int = 0,
        device: str = "auto",
        name: str = "rnd",
    ) -> None:
        """Draws the two nets.

        Args:
            grid: Frames are pooled to this many pixels a side.
            hidden: Width of the nets.
            features: What the random net gives.
            learning_rate: Adam's.
            seed: The seed of the nets.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            name: Its name in info.
        """
        super().__init__(name, grid, hidden, learning_rate, seed, device)
        inputs = 3 * grid * grid
        self._untrained = self._draw(1, inputs, hidden, hidden, features)
        self._target = self._draw(1, inputs, hidden, features).weights

    def _judge(
        self,
        weights: Sequence[Tensor],
        pixels: Pixels,
        transition: Transition,
        pooled: Tensor,
    ) -> tuple[Tensor, Tensor]:
        seen = pixels.standardised(pooled)
        wanted = predict(self._target, seen)
        error = (predict(weights, seen) - wanted).square().mean(-1)[0]
        return error, error.mean()


class Disagreement(_Explorer):
    """Pays how much an ensemble disagrees about what the action did."""

    def __init__(
        self,
        action_space: spaces.Space[Any],
        *,
        members: int = 5,
        grid: int = 8,
        hidden: int = 128,
        learning_rate: float = 1e-3,
        seed: int = 0,
        device: str = "auto",
        name: str = "disagreement",
    ) -> None:
        """Draws the ensemble.

        Args:
            action_space: The action space of one environment: Discrete or a flat Box.
            members: How many nets there are.
            grid: Frames are pooled to this many pixels a side.
            hidden: Width of the nets.
            learning_rate: Adam's.
            seed: The seed of the nets.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            name: Its name in info.
        """
        if members < 2:
            raise ValueError(f"members={members}: one alone cannot disagree")
        self._actions, self._discrete = action_shape(action_space)
        # Discrete actions may be counted from elsewhere than 0.
        self._start = int(getattr(action_space, "start", 0))
        super().__init__(name, grid, hidden, learning_rate, seed, device)
        pixels = 3 * grid * grid
        inputs = pixels + self._actions
        self._untrained = self._draw(members, inputs, hidden, hidden, pixels)

    def _judge(
        self,
        weights: Sequence[Tensor],
        pixels: Pixels,
        transition: Transition,
        pooled: Tensor,
    ) -> tuple[Tensor, Tensor]:
        active = transition.active
        before = pixels.standardised(self._pool(transition.frames[active]))
        actions = self._encode(transition.actions[active]).to(self._device)
        said = predict(weights, torch.cat([before, actions], 1))
        loss = (said - pixels.standardised(pooled)).square().mean()
        return said.var(0, correction=0).mean(-1), loss

    def _encode(self, actions: NDArray[Any]) -> Tensor:
        if self._discrete:
            index = torch.as_tensor(np.asarray(actions).reshape(len(actions)))
            return torch.nn.functional.one_hot(
                index.long() - self._start, self._actions
            ).float()
        return torch.as_tensor(np.asarray(actions, np.float32))
