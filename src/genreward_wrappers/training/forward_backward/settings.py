"""How forward-backward nets are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from genreward_wrappers.training.forward_backward import losses


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
