"""Training forward-backward nets from batches of transitions, wherever they come from.

`FBTrainer` holds the nets, their slowly moving copies, the optimisers and the random
numbers, and takes one gradient step per `update`. All of it fits into one safetensors
file: a run that is killed goes on from there, on a CPU bit for bit.

Which of the two variants is trained is the nets' own affair, `FBConfig.conditioned`:

- standard: pi_z acts, greedy for F^T z; with continuous actions an actor learns it.
- one-step: the data's policy acts, and nothing is maximised. It cannot overestimate
  what the data does not show.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genreward_wrappers.data.files import FileError, Layout, load_tensors, save_tensors
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.data.schema import Record, Whole, record_of
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.training.forward_backward import losses
from genreward_wrappers.training.forward_backward.data import Batch
from genreward_wrappers.training.forward_backward.nets import (
    Actor,
    FBConfig,
    FBNets,
    Standardise,
)

#: Rows that go through the nets at once where no gradient is needed.
CHUNK = 4096
#: Transitions that diagnostics of a whole data set look at.
LOOKED_AT = 1024


@dataclass(frozen=True)
class FBTraining:
    """How the nets are trained, saved with them. Shape and discount are in `FBConfig`.

    Attributes:
        batch: Transitions that are drawn for an update, by whoever draws them.
        learning_rate: Of all nets.
        weight_decay: AdamW's; at 0 it is Adam.
        target_rate: How much of the nets their slow copies take over at an update.
        orthonormality: Weight of the loss that keeps B's covariance the identity.
        q_weight: Weight of the implicit-reward loss; 0 leaves it out.
        heads: "min" or "mean" of F's heads in targets. The smaller of two entries, at
            every pair of states, draws the whole measure down, and does so again at
            every step of the future: its mean, `mass` in the figures, ends below 1.
        z_from_states: How often z is B of a state, and not a direction at random.
        noise: Of pi_z's continuous actions in targets, so that the measure is smooth.
        noise_clip: Its bound.
        seed: Of weights and of all that is drawn afterwards.
    """

    batch: int = 1024
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    target_rate: float = 0.01
    orthonormality: float = 1.0
    q_weight: float = 0.0
    heads: str = "mean"
    z_from_states: float = 0.5
    noise: float = 0.2
    noise_clip: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(f"batch={self.batch}: expected at least 2")
        if self.heads not in losses.HEADS:
            raise ValueError(f"heads={self.heads!r}: expected one of {losses.HEADS}")
        for name, low, high in (
            ("learning_rate", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("target_rate", 0, 1),
            ("orthonormality", 0, math.inf),
            ("q_weight", 0, math.inf),
            ("z_from_states", 0, 1),
            ("noise", 0, math.inf),
            ("noise_clip", 0, math.inf),
        ):
            value = getattr(self, name)
            # Not the other way about: NaN is in no range.
            if not (low <= value <= high and math.isfinite(value)):
                raise ValueError(f"{name}={value}: expected from {low} to {high}")


LAYOUT = Layout(
    "genreward_fb",
    "forward-backward checkpoint",
    "FBTrainer.save",
    schema=1,
    header=Record(
        {
            "config": record_of(FBConfig),
            "training": record_of(FBTraining, seed=(1 << 64) - 1),
            "step": Whole(),
        },
        {"notes": dict},
    ),
)


class FBTrainer:
    """F, B and all that training them needs.

    Example:
        >>> config = FBConfig(features=3, actions=2, z=8, hidden=16, conditioned=False)
        >>> trainer = FBTrainer(config, device="cpu")
        >>> states, actions = np.random.rand(9, 3), np.random.rand(9, 2)
        >>> batch = Batch(
        ...     states[:-1], actions[:-1], states[1:], np.zeros(8, bool), actions[1:]
        ... )
        >>> figures = trainer.update(batch)
        >>> trainer.step
        1
    """

    def __init__(
        self,
        config: FBConfig,
        training: FBTraining | None = None,
        *,
        device: str = "auto",
    ) -> None:
        """Builds untrained nets.

        Args:
            config: Their shape, variant and discount.
            training: How to train them.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
        """
        self.config = config
        self.training = training or FBTraining()
        self.device = resolve_device(device)
        self.step = 0
        self.notes: dict[str, Any] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            self.nets = FBNets(config).to(self.device)
            self.actor: Actor | None = None
            if config.conditioned and not config.discrete:
                self.actor = Actor(config).to(self.device)
        self.target = copy.deepcopy(self.nets).requires_grad_(False)
        self._generator = torch.Generator().manual_seed(self.training.seed)
        self._optimizer = self._adam(self.nets)
        self._actor_optimizer = None if self.actor is None else self._adam(self.actor)

    @property
    def diagonal(self) -> float:
        """The weight of the diagonal: 1, or 1 - gamma in the one-step variant."""
        return 1.0 if self.config.conditioned else 1 - self.config.discount

    @property
    def mass(self) -> float:
        """The mean of F^T B over the data, were there no terminations."""
        return self.diagonal / (1 - self.config.discount)

    def standardise(self, states: NDArray[Any]) -> None:
        """Standardises every feature from now on, as in these states.

        Features of images need it; features of one unit may do without.

        Args:
            states: (n, features) of the data, all or a good share.

        Raises:
            ValueError: Training has begun, and would begin anew with other features.
        """
        if self.step > 0:
            raise ValueError(
                f"features are standardised before training, not after {self.step} "
                "updates"
            )
        array = self._features(states, "states").double()
        mean, std = array.mean(0), array.std(0, correction=0)
        for _, module in self._modules():
            for part in module.modules():
                if isinstance(part, Standardise):
                    part.set(mean, std)

    def update(self, batch: Batch, rate: float = 1.0) -> dict[str, float]:
        """One gradient step.

        Args:
            batch: What it is taken on.
            rate: The share of the learning rate that it is taken with.

        Returns:
            The losses, and the figures of `losses.diagnose` before the step.

        Raises:
            ValueError: The batch has other sizes, holds NaN, or one transition only.
            FloatingPointError: The loss is not finite; the weights are left as they
                were.
        """
        given = self._given(batch)
        training, discount = self.training, self.config.discount
        backward = self.nets.backward_net(given.next_state)
        z = None
        if self.config.conditioned or training.q_weight > 0:
            z = losses.sample_z(
                backward,
                from_states=training.z_from_states,
                generator=self._generator,
            )
        seen = z if self.config.conditioned else None
        forward = self.nets.forward_net(given.state, given.action, seen)
        with torch.no_grad():
            future = self.target.forward_net(
                given.next_state, self._next_action(given, z), seen
            )
            target = losses.measure_target(
                future,
                self.target.backward_net(given.next_state),
                discount=discount,
                terminated=given.terminated,
                heads=training.heads,
            )
        parts = {
            "measure": losses.measure_loss(forward, backward, target, self.diagonal),
            "orthonormality": losses.orthonormality_loss(backward),
        }
        loss = parts["measure"] + training.orthonormality * parts["orthonormality"]
        if z is not None and training.q_weight > 0:
            reward = self.diagonal * losses.implicit_reward(backward, z)
            parts["q"] = losses.q_loss(
                forward,
                z,
                losses.q_target(
                    reward,
                    future,
                    z,
                    discount=discount,
                    terminated=given.terminated,
                    heads=training.heads,
                ),
            )
            loss = loss + training.q_weight * parts["q"]
        for _, optimizer in self._optimizers():
            for group in optimizer.param_groups:
                group["lr"] = rate * training.learning_rate
        self._descend(loss, self._optimizer)
        if self.actor is not None and self._actor_optimizer is not None:
            assert z is not None
            parts["actor"] = self._actor_loss(given.state, z)
            self._descend(parts["actor"], self._actor_optimizer)
        self._follow()
        self.step += 1
        figures = {f"loss_{name}": value.item() for name, value in parts.items()}
        return {**figures, **losses.diagnose(forward, backward, self.mass)}

    @torch.no_grad()
    def diagnose(self, batch: Batch) -> dict[str, float]:
        """The figures of `losses.diagnose` on transitions that need not be trained on.

        Nets that see z are asked for the states of the batch.
        """
        given = self._given(batch)
        backward = self.nets.backward_net(given.next_state)
        # Each row for another row's state; what is drawn in training stays untouched.
        z = backward.roll(len(backward) // 2, 0) if self.config.conditioned else None
        forward = self.nets.forward_net(given.state, given.action, z)
        return losses.diagnose(forward, backward, self.mass)

    @torch.no_grad()
    def values(
        self, goals: NDArray[Any], states: NDArray[Any], actions: NDArray[Any]
    ) -> NDArray[np.float32]:
        """(K, n) F(s, a, z)^T z with z = B(goal) and the smaller head.

        Args:
            goals: (K, features).
            states: (n, features).
            actions: As in `Batch`.
        """
        return self._values(self.nets, goals, states, actions)

    def _values(
        self,
        nets: FBNets,
        goals: NDArray[Any],
        states: NDArray[Any],
        actions: NDArray[Any],
    ) -> NDArray[np.float32]:
        zs = nets.backward_net(self._features(goals, "goals"))
        rows = []
        for first in range(0, len(states), CHUNK):
            part = slice(first, first + CHUNK)
            state = self._features(states[part], "states")
            action = nets.encode_actions(actions[part])
            rows.append(nets.measure_of(state, action, zs).amin(-1))
        of_goals: NDArray[np.float32] = torch.cat(rows, 1).cpu().numpy()
        return of_goals

    def to_bundle(
        self,
        goal: GoalBundle,
        keys: NDArray[Any],
        data: Batch,
        *,
        features: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        figures: Mapping[str, float] | None = None,
        half: bool = False,
    ) -> GoalBundle:
        """The goal with these nets, and what the frame-level reward needs to know.

        A warning says so if the nets are dead or diverging on the data.

        Args:
            goal: The goal.
            keys: (K, features) of its key frames, from the encoder of the states.
            data: Transitions that the reward is normalised over and the nets are judged
                by: those trained on, or a good share of them.
            features: The `Features.card` of the states; None takes them for single
                pictures of the goal's own encoder.
            about: What else the provenance should say, such as where the data is from.
            figures: What else the nets were judged by, as `time_rank` of held-out
                trajectories.
            half: Whether the matrices are kept in half precision, at half the size.

        Raises:
            ValueError: Not one row for each of the goal's videos, other sizes, NaN.
        """
        if len(keys) != len(goal.videos):
            raise ValueError(
                f"expected the features of {len(goal.videos)} key frames, one for each "
                f"video of {goal!r}, got {len(keys)}"
            )
        rows = np.unique(np.linspace(0, len(data) - 1, LOOKED_AT).astype(int))
        judged = {**self.diagnose(data.take(rows)), **(figures or {})}
        weights, config = self.nets.to_arrays(half=half)
        # As they will be asked: rounded.
        nets = FBNets.from_arrays(weights, config).to(self.device)
        with torch.no_grad():
            values = self._values(nets, keys, data.state, data.action)
        # The reward is that of the best of the goals.
        reward = values.max(0).astype(np.float64)
        # What counts in the end is the reward of this goal, not the mean over goals.
        judged["spread"] = float(reward.std() / self.mass)
        wrong = losses.complaints(judged)
        if wrong:
            warnings.warn(
                f"forward-backward nets after {self.step} updates: {'; '.join(wrong)}",
                UserWarning,
                stacklevel=2,
            )
        statistics = {
            "mean": float(reward.mean()),
            "std": float(reward.std()),
            "transitions": len(data),
            **judged,
        }
        made = {
            "step": "forward-backward",
            "variant": self.config.variant,
            "updates": self.step,
            "training": dataclasses.asdict(self.training),
            **(about or {}),
        }
        seen = {} if features is None else {"input": dict(features)}
        return goal.with_(
            nets=weights,
            nets_config={**config, **seen, "statistics": statistics},
            provenance=(*goal.provenance, made),
        )

    def save(
        self, path: str | os.PathLike[str], notes: Mapping[str, Any] | None = None
    ) -> None:
        """Writes everything that the next update depends on, all or nothing.

        Args:
            path: Where to.
            notes: What else to keep, as JSON; `load` gives it back as `notes`.
        """
        tensors = {
            f"{part}/{name}": tensor.detach().cpu().contiguous().numpy()
            for part, states in self._parts().items()
            for name, tensor in states.items()
        }
        tensors["generator"] = self._generator.get_state().numpy()
        header = {
            "config": dataclasses.asdict(self.config),
            "training": dataclasses.asdict(self.training),
            "step": self.step,
            "notes": dict(notes or {}),
        }
        save_tensors(Path(path), tensors, LAYOUT, header)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        config: FBConfig | None = None,
        device: str = "auto",
    ) -> FBTrainer:
        """A trainer where the saved one was.

        Args:
            path: What `save` wrote.
            config: The configuration that is expected, None for any.
            device: "auto", "cpu", "cuda" or "cuda:<index>".

        Raises:
            FileError: It is missing, damaged, or of another configuration.
        """
        path = Path(path)
        tensors, header = load_tensors(path, LAYOUT)
        try:
            shape = FBConfig.from_dict(header["config"])
            # Before there is a net of any size that a file may name.
            for name, wanted in FBNets.shapes(shape).items():
                found = tensors[f"nets/{name}"].shape
                if found != wanted:
                    raise ValueError(f"{name!r} is {found}, expected {wanted}")
            trainer = cls(shape, FBTraining(**header["training"]), device=device)
            trainer._restore(tensors, header["step"])
            trainer.notes = header.get("notes", {})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FileError(
                f"{path} is no valid forward-backward checkpoint: {error}"
            ) from error
        if config is not None and config != trainer.config:
            raise FileError(
                f"{path} is of another configuration.\n  saved:    {trainer.config}\n"
                f"  expected: {config}"
            )
        return trainer

    def _restore(self, tensors: Mapping[str, NDArray[Any]], step: int) -> None:
        saved: dict[str, dict[str, Tensor]] = {}
        for name, array in tensors.items():
            part, _, key = name.partition("/")
            # Copied, since what is read from a file may not be writable.
            saved.setdefault(part, {})[key] = torch.from_numpy(np.array(array))
        for name, module in self._modules():
            module.load_state_dict(saved.pop(name))
        for name, optimizer in self._optimizers():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in saved.pop(f"{name}_optimizer", {}).items():
                index, _, entry = key.partition("/")
                state.setdefault(int(index), {})[entry] = tensor
            # Before the first update there is no state; afterwards all have one.
            if step > 0:
                _check_state(state, optimizer.param_groups[0]["params"], name)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self._generator.set_state(saved.pop("generator")[""])
        if saved:
            raise ValueError(f"there is more in it than expected: {sorted(saved)}")
        self.step = step

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        """All tensors but the generator's, by part and name."""
        parts: dict[str, dict[str, Tensor]] = {
            name: module.state_dict() for name, module in self._modules()
        }
        for name, optimizer in self._optimizers():
            parts[f"{name}_optimizer"] = {
                f"{index}/{key}": tensor
                for index, entries in optimizer.state_dict()["state"].items()
                for key, tensor in entries.items()
            }
        return parts

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield "nets", self.nets
        yield "target", self.target
        if self.actor is not None:
            yield "actor", self.actor

    def _optimizers(self) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        yield "nets", self._optimizer
        if self._actor_optimizer is not None:
            yield "actor", self._actor_optimizer

    def _adam(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            module.parameters(),
            lr=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of update {self.step + 1} is {loss.item()}: the nets have "
                "diverged. Their last checkpoint with a smaller learning_rate, or a "
                "smaller discount, may go on"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the slow copies a little towards the nets."""
        for slow, net in zip(
            self.target.parameters(), self.nets.parameters(), strict=True
        ):
            slow.lerp_(net, self.training.target_rate)

    def _next_action(self, given: _Given, z: Tensor | None) -> Tensor:
        if not self.config.conditioned:
            assert given.next_action is not None
            return given.next_action
        assert z is not None
        if self.actor is None:
            # Of the slow copies: a policy that changes at every update has no measure.
            return self.target.greedy(given.next_state, z)
        return self._noisy(self.actor(given.next_state, z))

    def _noisy(self, action: Tensor) -> Tensor:
        noise = torch.randn(action.shape, generator=self._generator)
        limit = self.training.noise_clip
        noise = (self.training.noise * noise).clamp(-limit, limit)
        return (action + noise.to(action.device)).clamp(-1, 1)

    def _actor_loss(self, state: Tensor, z: Tensor) -> Tensor:
        """Minus the value of what the actor would do."""
        assert self.actor is not None
        action = self._noisy(self.actor(state, z))
        # The nets' own gradients are thrown away before their next step.
        return -self.nets.measure(state, action, z).amin(1).mean()

    def _given(self, batch: Batch) -> _Given:
        """A checked batch as tensors on the device."""
        if len(batch) < 2:
            raise ValueError(
                f"a batch of {len(batch)}: the losses compare transitions with one "
                "another and need at least 2"
            )
        lengths = {
            field.name: len(value)
            for field in dataclasses.fields(batch)
            if (value := getattr(batch, field.name)) is not None
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"a batch of different lengths: {lengths}")
        terminated = np.asarray(batch.terminated)
        if terminated.shape != (len(batch),) or terminated.dtype != np.bool_:
            raise ValueError(
                f"terminated: expected bool ({len(batch)},), got {terminated.dtype} "
                f"{terminated.shape}"
            )
        next_action = None
        if not self.config.conditioned:
            if batch.next_action is None:
                raise ValueError(
                    "the one-step variant needs next_action, the action that the data "
                    "took at next_state"
                )
            next_action = self._actions(batch.next_action, "next_action")
        return _Given(
            self._features(batch.state, "state"),
            self._actions(batch.action, "action"),
            self._features(batch.next_state, "next_state"),
            torch.from_numpy(terminated).to(self.device),
            next_action,
        )

    def _features(self, values: NDArray[Any], name: str) -> Tensor:
        array = np.asarray(values, np.float32)
        if array.ndim != 2 or array.shape[1] != self.config.features:
            raise ValueError(
                f"{name}: expected (n, {self.config.features}) features, got "
                f"{array.shape}"
            )
        _refuse_nan(array, name)
        return torch.from_numpy(array).to(self.device)

    def _actions(self, values: NDArray[Any], name: str) -> Tensor:
        array = np.asarray(values)
        if not self.config.discrete:
            _refuse_nan(array, name)
            # The actor's own actions are in that range, and F must know what they do.
            if self.config.conditioned and np.abs(array).max(initial=0) > 1 + 1e-6:
                raise ValueError(
                    f"{name}: the standard variant takes actions from -1 to 1, got "
                    f"{array.min()} to {array.max()}; rescale them, in the environment "
                    "as well (gymnasium.wrappers.RescaleAction)"
                )
        return self.nets.encode_actions(array)


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """A batch on the device; discrete actions are one-hot."""

    state: Tensor
    action: Tensor
    next_state: Tensor
    terminated: Tensor
    next_action: Tensor | None


def _check_state(
    state: Mapping[int, Mapping[str, Tensor]], parameters: list[Tensor], name: str
) -> None:
    """What the optimiser itself would only miss at its next step."""
    for index, parameter in enumerate(parameters):
        entries = state.get(index, {})
        shapes = {key: tuple(tensor.shape) for key, tensor in entries.items()}
        own = tuple(parameter.shape)
        expected = {"step": (), "exp_avg": own, "exp_avg_sq": own}
        if shapes != expected:
            raise ValueError(
                f"the optimiser of {name} has {shapes} for its parameter {index}, "
                f"expected {expected}"
            )


def _refuse_nan(array: NDArray[Any], name: str) -> None:
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
    if bad.any():
        raise ValueError(
            f"{name}: {bad.sum()} of {len(array)} rows hold NaN or infinity, the first "
            f"is row {int(bad.argmax())}"
        )
