"""How forward-backward nets are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from genreward_wrappers.training.forward_backward import losses


@dataclass(frozen=True)
class FBTraining:
    """How the nets are trained, saved with them. Shape and discount are in `FBConfig`.

    Attributes:
        batch: How many transitions are drawn for an update.
        learning_rate: The learning rate of all nets.
        weight_decay: AdamW's weight decay; at 0 AdamW is Adam.
        target_rate: How far an update moves the slow copies towards the nets.
        orthonormality: The weight of the loss that keeps B's covariance at the
            identity.
        q_weight: The weight of the implicit-reward loss; 0 leaves it out.
        heads: How targets join F's heads, "min" or "mean". The minimum lowers the
            measure at every pair of states, and again at every step of the future: its
            mean, `mass` in the figures, ends below 1.
        z_from_states: The probability that z is B of a state rather than a random
            direction.
        noise: The standard deviation of the noise on pi_z's continuous actions in
            targets, which smooths the measure.
        noise_clip: The bound of that noise.
        seed: The seed of the weights and of every random draw.
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
            # Written this way round because NaN is in no range.
            if not (low <= value <= high and math.isfinite(value)):
                raise ValueError(f"{name}={value}: expected from {low} to {high}")
