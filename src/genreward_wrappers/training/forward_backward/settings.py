"""How forward-backward nets are trained."""

from __future__ import annotations

from dataclasses import dataclass

from genreward_wrappers.checks import at_least, not_negative, one_of, share
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
        at_least(2, batch=self.batch)
        one_of(losses.HEADS, heads=self.heads)
        not_negative(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        not_negative(orthonormality=self.orthonormality, q_weight=self.q_weight)
        not_negative(noise=self.noise, noise_clip=self.noise_clip)
        share("target_rate", self.target_rate)
        share("z_from_states", self.z_from_states)
