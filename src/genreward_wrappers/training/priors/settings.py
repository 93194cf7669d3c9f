"""How priors are trained."""

from __future__ import annotations

from dataclasses import dataclass

from genreward_wrappers.checks import at_least, positive

#: Windows of an update. VIPER's are longer.
BATCH = {"viper": 4, "diffusion-reward": 32}


@dataclass(frozen=True)
class PriorTraining:
    """How codec and prior are trained, saved with them.

    Attributes:
        codec_steps: The number of updates of the codec.
        steps: The number of updates of the prior that follow.
        codec_batch: How many frames an update of the codec takes.
        batch: How many windows an update of the prior takes; see `BATCH`.
        codec_rate: Adam's learning rate for the codec.
        rate: Adam's learning rate for the prior.
        average: The decay of the moving average of the weights.
        revive: After every so many updates, unused rows of the codebook are moved to
            latents of frames, during the first half of the codec's training.
        seed: The seed of the weights and of every random draw.
    """

    codec_steps: int = 600
    steps: int = 300
    codec_batch: int = 8
    batch: int = 8
    codec_rate: float = 1e-3
    rate: float = 1e-3
    average: float = 0.98
    revive: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, codec_steps=self.codec_steps, steps=self.steps, revive=self.revive)
        at_least(1, codec_batch=self.codec_batch, batch=self.batch)
        positive(codec_rate=self.codec_rate, rate=self.rate)
        if not 0 <= self.average < 1:
            raise ValueError(f"average={self.average}: expected from 0 to below 1")
