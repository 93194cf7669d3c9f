"""Training forward-backward nets from batches of transitions.

`FBTrainer` holds the nets, their slow copies, the optimizers and the random generator,
and takes one gradient step per `update`. All of it fits into one safetensors file, from
which a killed run resumes, on a CPU bit for bit.

`FBConfig.conditioned` says which of the two variants is trained:

- standard: pi_z acts, greedy for F^T z; with continuous actions an actor learns it.
- one-step: the data's policy acts, and nothing is maximised. It cannot overestimate
  what the data does not show.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genreward_wrappers.data.files import FileError, Layout, load_tensors, save_tensors
from genreward_wrappers.data.schema import Record, Whole, record_of
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.training.checkpoint import (
    load_optimizer,
    load_weights,
    optimizer_arrays,
    weight_arrays,
)
from genreward_wrappers.training.forward_backward import losses
from genreward_wrappers.training.forward_backward.batches import (
    DeviceBatch,
    to_device,
    to_features,
)
from genreward_wrappers.training.forward_backward.data import Batch
from genreward_wrappers.training.forward_backward.nets import (
    Actor,
    FBConfig,
    FBNets,
    Standardise,
)
from genreward_wrappers.training.forward_backward.settings import FBTraining

#: How many rows go through the nets at once where no gradient is needed.
CHUNK = 4096


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
    """F, B and everything that training them needs.

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
        """Standardises every feature by its mean and deviation over these states.

        Features of images need this; features of one unit may do without.

        Args:
            states: (n, features) the states of the data, or a good share of them.

        Raises:
            ValueError: Training has begun already.
        """
        if self.step > 0:
            raise ValueError(
                f"features are standardised before training, not after {self.step} "
                "updates"
            )
        array = to_features(states, "states", self.config, self.device).double()
        mean, std = array.mean(0), array.std(0, correction=0)
        for module in self._modules().values():
            for part in module.modules():
                if isinstance(part, Standardise):
                    part.set(mean, std)

    def update(self, batch: Batch, rate: float = 1.0) -> dict[str, float]:
        """One gradient step.

        Args:
            batch: The transitions to train on.
            rate: The share of the learning rate to use.

        Returns:
            The losses, and the figures of `losses.diagnose` before the step.

        Raises:
            ValueError: The batch has other sizes, holds NaN, or one transition only.
            FloatingPointError: The loss is not finite; the weights are unchanged.
        """
        given = to_device(batch, self.nets, self.device)
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
        for optimizer in self._optimizers().values():
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
        """The figures of `losses.diagnose` on any transitions.

        Nets that see z are asked for states of the batch.
        """
        given = to_device(batch, self.nets, self.device)
        backward = self.nets.backward_net(given.next_state)
        # Each row gets another row's state; the training's random numbers are not
        # touched.
        z = backward.roll(len(backward) // 2, 0) if self.config.conditioned else None
        forward = self.nets.forward_net(given.state, given.action, z)
        return losses.diagnose(forward, backward, self.mass)

    @torch.no_grad()
    def values(
        self,
        goals: NDArray[Any],
        states: NDArray[Any],
        actions: NDArray[Any],
        nets: FBNets | None = None,
    ) -> NDArray[np.float32]:
        """(K, n) F(s, a, z)^T z with z = B(goal) and the smaller head.

        Args:
            goals: (K, features).
            states: (n, features).
            actions: As in `Batch`.
            nets: Other nets than the trainer's own, such as rounded ones.
        """
        nets = nets or self.nets
        zs = nets.backward_net(to_features(goals, "goals", self.config, self.device))
        rows = []
        for first in range(0, len(states), CHUNK):
            part = slice(first, first + CHUNK)
            state = to_features(states[part], "states", self.config, self.device)
            action = nets.encode_actions(actions[part])
            rows.append(nets.measure_of(state, action, zs).amin(-1))
        of_goals: NDArray[np.float32] = torch.cat(rows, 1).cpu().numpy()
        return of_goals

    def save(
        self, path: str | os.PathLike[str], notes: Mapping[str, Any] | None = None
    ) -> None:
        """Writes everything that the next update depends on, all or nothing.

        Args:
            path: The file to write.
            notes: Anything else to keep, as JSON; `load` restores it as `notes`.
        """
        tensors = weight_arrays(self._modules()) | optimizer_arrays(self._optimizers())
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
        """A trainer in the state of the saved one.

        Args:
            path: The file that `save` wrote.
            config: The expected configuration; None accepts any.
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
        rest = dict(tensors)
        generator = rest.pop("generator")
        states = {name: rest.pop(name) for name in list(rest) if "_optimizer/" in name}
        load_weights(self._modules(), rest)
        for name, optimizer in self._optimizers().items():
            load_optimizer(optimizer, name, states, has_stepped=step > 0)
        self._generator.set_state(torch.from_numpy(np.array(generator)))
        self.step = step

    def _modules(self) -> dict[str, nn.Module]:
        trained = {"nets": self.nets, "target": self.target, "actor": self.actor}
        return {name: net for name, net in trained.items() if net is not None}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        trained = {"nets": self._optimizer, "actor": self._actor_optimizer}
        return {f"{n}_optimizer": adam for n, adam in trained.items() if adam}

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
                "diverged. Resume the last checkpoint with a smaller learning_rate "
                "or a smaller discount"
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

    def _next_action(self, given: DeviceBatch, z: Tensor | None) -> Tensor:
        if not self.config.conditioned:
            assert given.next_action is not None
            return given.next_action
        assert z is not None
        if self.actor is None:
            # The slow copies act: a policy that changes at every update has no measure.
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
