"""How a generator is fine-tuned, and for how long."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from genreward_wrappers.checks import at_least, not_negative, one_of, positive, share
from genreward_wrappers.progress import OnFigures, no_progress

METHODS = ("lora", "full", "vae")


@dataclass(frozen=True)
class Finetuning:
    """How a generator is fine-tuned, saved with it. The defaults are the published
    ones.

    Attributes:
        method: "lora" trains small matrices beside the attention's own; "full" all
            weights of the transformer; "vae" those of the VAE instead.
        learning_rate: The highest learning rate; None is 1e-5 for all weights of a
            transformer, otherwise 1e-4.
        warm_up: The number of steps over which it rises; then it falls as a half
            cosine.
        batch: Videos that go through the transformer at once, on each device.
        accumulate: The number of batches whose gradients are summed for one step.
        rank: The rank of LoRA's matrices; their scale, alpha, is the same number.
        weight_decay: AdamW's weight decay.
        betas: AdamW's betas.
        clip: The largest norm of the gradient.
        prompt_dropout: The probability that a video's prompt is replaced by the empty
            one, which classifier-free guidance needs.
        image_dropout: The probability that the first frame is left out.
        noised: How many versions with a little noise are made of each first frame; each
            step sees one of them. 0 uses the frame unchanged.
        sample: Whether latents are drawn from the VAE's posterior; otherwise its mode
            is taken.
        ema: The decay of the moving average of the weights, which is then what is
            written; 0 keeps no average.
        checkpointing: Whether activations are recomputed to save memory; None does so
            on a GPU.
        held_out: One clip of so many is held out for validation; 0 holds out none.
        seed: The seed of every random draw.
    """

    method: str = "lora"
    learning_rate: float | None = None
    warm_up: int = 100
    batch: int = 1
    accumulate: int = 1
    rank: int = 128
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    prompt_dropout: float = 0.0
    image_dropout: float = 0.05
    noised: int = 1
    sample: bool = True
    ema: float = 0.0
    checkpointing: bool | None = None
    held_out: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(METHODS, method=self.method)
        at_least(1, batch=self.batch, accumulate=self.accumulate, rank=self.rank)
        at_least(0, warm_up=self.warm_up, noised=self.noised)
        at_least(0, held_out=self.held_out, seed=self.seed)
        if self.held_out == 1:
            raise ValueError("held_out=1 would leave nothing to train on")
        not_negative(weight_decay=self.weight_decay, clip=self.clip, rate=self.rate)
        share("prompt_dropout", self.prompt_dropout)
        share("image_dropout", self.image_dropout)
        for name, value in (("ema", self.ema), *zip(("betas",) * 2, self.betas)):  # noqa: B905
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: expected from 0 to below 1")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-5 if self.method == "full" else 1e-4

    def rate_at(self, step: int, done: float) -> float:
        """The learning rate of a step.

        Args:
            step: The number of the step, from 0.
            done: How much of the run is over, from 0 to 1.
        """
        rising = min(1.0, (step + 1) / (self.warm_up + 1))
        return self.rate * rising * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))

    def as_dict(self) -> dict[str, object]:
        """As JSON restores it."""
        told = dataclasses.asdict(self)
        return {**told, "betas": list(self.betas), "learning_rate": self.rate}


@dataclass(frozen=True)
class Plan:
    """How long to train, and what to do on the way.

    Attributes:
        steps: The number of optimizer steps; None if only the minutes limit the run.
        minutes: Minutes of training, including those before an interruption; None sets
            no such limit. Only a run that is limited by steps alone ends bit for bit
            the same after an interruption.
        checkpoint: The file that an interrupted run resumes from; None puts it beside
            the output.
        every: The number of steps between two checkpoints.
        report: The number of steps between two reports of the loss.
        validate: The number of steps between two validations; 0 validates only at the
            end.
        videos: How many held-out first frames each validation continues; the videos are
            written beside the output.
        sampling_steps: The denoising steps of these videos.
        guidance: The scale of classifier-free guidance for these videos.
        on_progress: Called with the number of the step and its figures.
    """

    steps: int | None = None
    minutes: float | None = None
    checkpoint: Path | None = None
    every: int = 500
    report: int = 10
    validate: int = 0
    videos: int = 0
    sampling_steps: int = 50
    guidance: float = 6.0
    on_progress: OnFigures = no_progress

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("nothing says how long to train: give steps or minutes")
        positive(minutes=self.minutes)
        at_least(1, steps=self.steps, every=self.every, report=self.report)
        at_least(1, sampling_steps=self.sampling_steps)
        at_least(0, validate=self.validate, videos=self.videos)

    def done(self, step: int, elapsed: float) -> float:
        """How much of the run is over, from 0; at 1 it ends.

        Args:
            step: The number of finished steps.
            elapsed: The seconds that they took.
        """
        of_steps = step / self.steps if self.steps is not None else 0.0
        of_time = elapsed / (60 * self.minutes) if self.minutes is not None else 0.0
        return max(of_steps, of_time)
