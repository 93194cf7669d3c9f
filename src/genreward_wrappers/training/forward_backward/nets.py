"""The forward-backward nets: M(s, a, s') ~ F(s, a, z)^T B(s').

F says where an action leads, B where a state lies, and their product how much of the
discounted future after (s, a) is spent at s'. F has two heads, since the smaller of two
estimates errs less upwards. B lies on the sphere of radius sqrt(d), the scale on which
its covariance is the identity.

The weights live in safetensors beside one configuration, and nothing else is needed to
load them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from genreward_wrappers.checks import at_least
from genreward_wrappers.data.schema import fault, record_of
from genreward_wrappers.training.forward_backward.losses import check_discount


@dataclass(frozen=True)
class FBConfig:
    """The shape of the nets, saved with their weights.

    Attributes:
        features: How many numbers describe a state.
        actions: The entries of a continuous action, or the number of discrete actions.
        discrete: Whether actions are indices, which F sees as one-hot vectors.
        z: The dimension d of the representation.
        hidden: The width of F's first layers; the embeddings before them have half of
            it.
        backward_hidden: The width of B's layers.
        conditioned: Whether F sees z: True for the standard variant, False for the
            one-step variant, whose policy is the data's.
        discount: The gamma of the successor measure, below 1.
    """

    features: int
    actions: int
    discrete: bool = False
    z: int = 64
    hidden: int = 1024
    backward_hidden: int = 256
    conditioned: bool = True
    discount: float = 0.98

    def __post_init__(self) -> None:
        at_least(1, features=self.features, actions=self.actions, z=self.z)
        at_least(1, hidden=self.hidden, backward_hidden=self.backward_hidden)
        check_discount(self.discount)

    @property
    def variant(self) -> str:
        """Whose future is measured: "standard", of pi_z, or "one-step", of the data."""
        return "standard" if self.conditioned else "one-step"

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> FBConfig:
        """Reads a saved configuration and refuses unknown keys."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = set(config) - known
        if unknown:
            raise ValueError(
                f"unknown keys {sorted(unknown)} in the configuration of "
                f"forward-backward nets; known are {sorted(known)}"
            )
        said = fault(dict(config), record_of(cls), "configuration")
        if said:
            raise ValueError(f"forward-backward nets: {said}")
        return cls(**config)


def action_shape(space: spaces.Space[Any]) -> tuple[int, bool]:
    """(entries, discrete) of an action space, as `FBConfig` has them."""
    if isinstance(space, spaces.Discrete):
        return int(space.n), True
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return int(space.shape[0]), False
    raise ValueError(
        f"forward-backward nets take Discrete or flat Box actions, got {space}"
    )


class Standardise(nn.Module):
    """Gives every feature mean 0 and standard deviation 1 over the data.

    Most features of an image hardly change from state to state, and what changes is
    small compared with the rest; without this the nets would see nearly the same vector
    throughout. The statistics are saved with the weights. A new one changes nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        """Builds one that changes nothing."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, state: Tensor) -> Tensor:
        """(n, features)."""
        return (state - self.mean) / self.std

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Takes the statistics of the data.

        Args:
            mean: (features,).
            std: (features,). For a nearly constant feature a typical deviation is used:
                divided by its own, its rounding would become a signal.
        """
        typical = std.square().mean().sqrt()
        if typical == 0:
            typical = torch.ones_like(typical)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0.01 * typical, std, typical))


class Forward(nn.Module):
    """F: (s, a, z) -> two vectors of dimension d.

    Two embeddings, of (s, z) and of (s, a), joined by one layer, as in the published
    architecture; without z the first is of s alone.
    """

    def __init__(self, config: FBConfig) -> None:
        """Builds both heads."""
        super().__init__()
        self.config = config
        self.input = Standardise(config.features)
        self.heads = nn.ModuleList(_ForwardHead(config) for _ in range(2))

    def forward(self, state: Tensor, action: Tensor, z: Tensor | None) -> Tensor:
        """(n, 2, d).

        Args:
            state: (n, features).
            action: (n, actions), one-hot if discrete; see `encode_actions`.
            z: (n, d) on the sphere of radius sqrt(d); None if not conditioned.
        """
        if self.config.conditioned != (z is not None):
            raise ValueError(
                f"these nets are {'' if self.config.conditioned else 'not '}"
                f"conditioned on z, got z={'None' if z is None else tuple(z.shape)}"
            )
        state = self.input(state)
        return torch.stack([head(state, action, z) for head in self.heads], dim=1)


class _ForwardHead(nn.Module):
    def __init__(self, config: FBConfig) -> None:
        super().__init__()
        wide, half = config.hidden, max(config.hidden // 2, 1)
        self.where = _embedding(
            config.features + (config.z if config.conditioned else 0), wide, half
        )
        self.what = _embedding(config.features + config.actions, wide, half)
        self.join = nn.Sequential(
            nn.Linear(2 * half, wide), nn.ReLU(), nn.Linear(wide, config.z)
        )

    def forward(self, state: Tensor, action: Tensor, z: Tensor | None) -> Tensor:
        where = state if z is None else torch.cat([state, z], dim=-1)
        what = torch.cat([state, action], dim=-1)
        joined: Tensor = self.join(
            torch.cat([self.where(where), self.what(what)], dim=-1)
        )
        return joined


class Backward(nn.Module):
    """B: s -> a vector of length sqrt(d)."""

    def __init__(self, config: FBConfig) -> None:
        """Builds the net."""
        super().__init__()
        width = config.backward_hidden
        self.radius = math.sqrt(config.z)
        self.input = Standardise(config.features)
        self.net = nn.Sequential(
            *_embedding(config.features, width, width),
            nn.Linear(width, config.z),
        )

    def forward(self, state: Tensor) -> Tensor:
        """(n, d)."""
        where = self.net(self.input(state))
        return self.radius * functional.normalize(where, dim=-1)


class Actor(nn.Module):
    """pi_z of continuous actions in [-1, 1]: (s, z) -> an action with a large F^T z.

    Only training the standard variant needs it, so bundles hold none. Discrete actions
    need none: see `FBNets.greedy`.
    """

    def __init__(self, config: FBConfig) -> None:
        """Builds the net, of F's size."""
        super().__init__()
        wide, half = config.hidden, max(config.hidden // 2, 1)
        self.input = Standardise(config.features)
        self.where = _embedding(config.features + config.z, wide, half)
        self.what = _embedding(config.features, wide, half)
        self.join = nn.Sequential(
            nn.Linear(2 * half, wide), nn.ReLU(), nn.Linear(wide, config.actions)
        )

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        """(n, actions)."""
        state = self.input(state)
        where = self.where(torch.cat([state, z], dim=-1))
        joined: Tensor = self.join(torch.cat([where, self.what(state)], dim=-1))
        return torch.tanh(joined)


class FBNets(nn.Module):
    """F and B of one configuration.

    Example:
        >>> nets = FBNets(FBConfig(features=3, actions=2, z=8, hidden=16))
        >>> z = nets.backward_net(torch.ones(1, 3))
        >>> nets.forward_net(torch.ones(1, 3), torch.ones(1, 2), z).shape
        torch.Size([1, 2, 8])
    """

    def __init__(self, config: FBConfig) -> None:
        """Builds untrained nets."""
        super().__init__()
        self.config = config
        self.forward_net = Forward(config)
        self.backward_net = Backward(config)

    def measure(self, state: Tensor, action: Tensor, z: Tensor) -> Tensor:
        """(n, 2) both heads' F(s, a, z)^T z: for z = B(g) the measure of g."""
        given = z if self.config.conditioned else None
        heads = self.forward_net(state, action, given)
        measure: Tensor = torch.einsum("nhd,nd->nh", heads, z)
        return measure

    def measure_of(self, state: Tensor, action: Tensor, zs: Tensor) -> Tensor:
        """(K, n, 2) both heads' F(s, a, z)^T z for each of K z, in one pass of F."""
        if not self.config.conditioned:
            heads = self.forward_net(state, action, None)
            measures: Tensor = torch.einsum("nhd,kd->knh", heads, zs)
            return measures
        count = len(state)
        rows = self.measure(
            state.repeat(len(zs), 1),
            action.repeat(len(zs), 1),
            zs.repeat_interleave(count, 0),
        )
        return rows.reshape(len(zs), count, 2)

    @torch.no_grad()
    def greedy(self, state: Tensor, z: Tensor) -> Tensor:
        """(n, actions) one-hot: the discrete action of the largest F(s, a, z)^T z.

        Args:
            state: (n, features).
            z: (n, d).
        """
        count = self.config.actions
        every = torch.eye(count, device=state.device).repeat(len(state), 1)
        heads = self.measure(
            state.repeat_interleave(count, 0), every, z.repeat_interleave(count, 0)
        )
        best = heads.amin(1).reshape(len(state), count).argmax(1)
        return functional.one_hot(best, count).float()

    def encode_actions(self, actions: NDArray[Any]) -> Tensor:
        """(n, actions) float, one-hot if discrete, on the nets' device.

        Raises:
            ValueError: Actions of another shape or out of range.
        """
        config = self.config
        # `parameters()` would walk over all modules, at every step of a reward.
        device = self.backward_net.input.mean.device
        if config.discrete:
            flat = np.asarray(actions).reshape(len(actions), -1)
            if flat.shape[1] != 1 or flat.dtype.kind not in "iu":
                raise ValueError(
                    f"expected (n,) indices below {config.actions}, got "
                    f"{flat.dtype} {np.shape(actions)}"
                )
            if flat.min(initial=0) < 0 or flat.max(initial=0) >= config.actions:
                raise ValueError(
                    f"expected action indices from 0 to {config.actions - 1}, got "
                    f"{flat.min()} to {flat.max()}"
                )
            index = torch.from_numpy(flat[:, 0].astype(np.int64)).to(
                device, non_blocking=True
            )
            return functional.one_hot(index, config.actions).float()
        if np.shape(actions)[1:] != (config.actions,):
            raise ValueError(
                f"expected actions of shape (n, {config.actions}), got "
                f"{np.shape(actions)}"
                + ("" if np.size(actions) else ": none were recorded")
            )
        array = torch.from_numpy(np.asarray(actions, np.float32))
        return array.to(device, non_blocking=True)

    def to_arrays(
        self, half: bool = False
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Weights and configuration, as a goal bundle stores them.

        Args:
            half: Whether matrices are rounded to half precision; everything else is
                small.
        """
        weights = {
            name: array.astype(np.float16) if half and array.ndim > 1 else array
            for name, tensor in self.state_dict().items()
            for array in [tensor.detach().cpu().numpy()]
        }
        return weights, dataclasses.asdict(self.config)

    @classmethod
    def shapes(cls, config: FBConfig) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights by name, without allocating memory for them."""
        with torch.device("meta"):
            nets = cls(config)
        return {name: tuple(t.shape) for name, t in nets.state_dict().items()}

    @classmethod
    def from_arrays(
        cls, weights: Mapping[str, NDArray[Any]], config: Mapping[str, Any]
    ) -> FBNets:
        """Nets from a goal bundle.

        Raises:
            ValueError: The weights are not those of the configuration.
        """
        shape = FBConfig.from_dict(config)
        own = cls.shapes(shape)
        given = {name: tuple(array.shape) for name, array in weights.items()}
        if own != given:
            missing = sorted(set(own.items()) - set(given.items()))
            foreign = sorted(set(given.items()) - set(own.items()))
            raise ValueError(
                "these weights do not fit the configuration of the nets.\n"
                f"  expected and not there: {missing}\n"
                f"  there and not expected: {foreign}"
            )
        nets = cls(shape)
        nets.load_state_dict(
            {name: torch.from_numpy(np.array(a)) for name, a in weights.items()}
        )
        return nets


def _embedding(inputs: int, wide: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, wide),
        # Bounds what any one feature can do, however large features are.
        nn.LayerNorm(wide),
        nn.Tanh(),
        nn.Linear(wide, outputs),
        nn.ReLU(),
    )
