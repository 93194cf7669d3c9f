"""Training a pose reader on recorded episodes, whose states say what to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genreward_wrappers.checks import at_least, positive
from genreward_wrappers.data.files import FileError, Layout, plain, save_tensors
from genreward_wrappers.data.schema import Record, Whole
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.encoders.pose import (
    PoseConfig,
    PoseNet,
    PoseReader,
    load_pose,
    save_pose,
)
from genreward_wrappers.training.checkpoint import (
    load_optimizer,
    load_run,
    load_weights,
    optimizer_arrays,
    weight_arrays,
)
from genreward_wrappers.training.pose_data import Poses

LAYOUT = Layout(
    "genreward_pose_training",
    "checkpoint",
    "genreward train-pose",
    schema=1,
    header=Record({"step": Whole(), "run": dict}),
)

#: Errors, in units of a number's spread, up to which the loss is quadratic.
NEAR = 0.1
#: The share of generated pictures in a batch, where there are any. With a half, what is
#: recorded was read less well: of the gripper's variance .59 and not .88.
GENERATED = 0.25
#: Updates in which the learning rate rises; afterwards it falls to zero.
WARM_UP = 200


@dataclass(frozen=True)
class PoseTraining:
    """How a reader is trained, saved with it.

    Attributes:
        steps: The number of updates.
        batch: The number of pictures of an update.
        rate: Adam's highest learning rate.
        seed: The seed of the weights and of every random draw.
    """

    steps: int = 8_000
    batch: int = 64
    rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, batch=self.batch)
        positive(rate=self.rate)


class PoseTrainer:
    """A reader that is being trained, in one file from which a killed run resumes."""

    def __init__(
        self,
        data: Poses,
        config: PoseConfig,
        training: PoseTraining | None = None,
        *,
        begin: PoseReader | None = None,
        device: str = "auto",
    ) -> None:
        """Builds a reader that is to be trained.

        Args:
            data: What to learn from.
            config: What to read.
            training: How to train.
            begin: A trained reader of the same numbers to begin with; its units stay.
            device: "auto", "cpu", "cuda" or "cuda:<index>".

        Raises:
            ValueError: The states lack a number that is to be read, or it never
                changes; or the pictures have another size; or the first reader has
                another shape.
        """
        if data.frames.shape[1:3] != config.size:
            raise ValueError(
                f"the pictures are {data.frames.shape[1:3]}, expected {config.size}"
            )
        count = data.states.shape[1]
        if max(config.columns) >= count:
            raise ValueError(
                f"columns={config.columns}: the states have {count} numbers, 0 to "
                f"{count - 1}"
            )
        episodes = len(np.unique(data.episodes))
        if episodes < 2:
            raise ValueError(
                "a reader needs at least 2 episodes, one of them to be judged by, got "
                f"{episodes}"
            )
        self.data, self.config = data, config
        self.training = training or PoseTraining()
        self.device = resolve_device(device)
        self.step = 0
        wanted = data.states[:, list(config.columns)]
        held_out = data.held_out()
        mean, unit = wanted[~held_out].mean(0), wanted[~held_out].std(0)
        still = [c for c, u in zip(config.columns, unit, strict=True) if u < 1e-6]
        if still:
            raise ValueError(
                f"columns={config.columns}: number {still[0]} never changes in these "
                "episodes, so there is nothing to read"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            self.net = PoseNet(config)
        self.net.mean.copy_(torch.from_numpy(mean))
        self.net.unit.copy_(torch.from_numpy(unit))
        if begin is not None:
            if begin.config != config:
                raise ValueError(
                    f"begin: it has {begin.config}, expected the same as {config}"
                )
            self.net.load_state_dict(begin.model.state_dict())
            mean, unit = self.net.mean.numpy(), self.net.unit.numpy()
        self._begun = begin and begin.fingerprint["sha256"]
        self.net.to(self.device)
        self._recorded, self._generated = (
            torch.from_numpy(np.flatnonzero(~held_out & (data.generated == kind)))
            for kind in (False, True)
        )
        self._frames = torch.from_numpy(data.frames)
        self._wanted = torch.from_numpy((wanted - mean) / unit)
        self._adam = torch.optim.AdamW(self.net.parameters(), self.training.rate)
        self._random = torch.Generator().manual_seed(self.training.seed)
        self._digest = data.digest()

    def update(self) -> float:
        """One gradient step; returns its loss.

        Raises:
            FloatingPointError: The loss is not finite; the weights are unchanged.
        """
        training = self.training
        for group in self._adam.param_groups:
            left = 1 - self.step / training.steps
            group["lr"] = training.rate * min(1.0, (self.step + 1) / WARM_UP) * left
        rows = self._draw()
        images = self._disturb(self._frames[rows]).to(self.device)
        loss = nn.functional.smooth_l1_loss(
            self.net(images), self._wanted[rows].to(self.device), beta=NEAR
        )
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of update {self.step + 1} is {loss.item()}: training has "
                "diverged; give a smaller learning rate"
            )
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        self.step += 1
        return loss.item()

    def _draw(self) -> Tensor:
        """The pictures of a batch, those that were generated last."""
        made = round(self.training.batch * GENERATED) if len(self._generated) else 0
        kinds = (self._recorded, self.training.batch - made), (self._generated, made)
        return torch.cat(
            [
                rows[torch.randint(len(rows), (count,), generator=self._random)]
                for rows, count in kinds
                if count
            ]
        )

    def _disturb(self, frames: Tensor) -> Tensor:
        """Pictures as the net sees them, in other light, noisy or blurred.

        Generated videos are all of that, and the reader has to read them as well.
        """
        n = len(frames)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=self._random)

        images = frames.permute(0, 3, 1, 2).float() / 255 - 0.5
        light = 1 + 0.1 * normal(n, 1, 1, 1), 0.02 * normal(n, 1, 1, 1)
        images = images * light[0] + light[1] + 0.015 * normal(*images.shape)
        blurred = torch.rand(n, 1, 1, 1, generator=self._random) < 0.3
        soft = nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
        return torch.where(blurred, soft, images).contiguous(
            memory_format=torch.channels_last
        )

    def judge(self, generated: bool = False) -> dict[str, list[float]]:
        """How far the reader is off on the episodes that were held out.

        Args:
            generated: Whether on what was generated for them, not on what was recorded.

        Returns:
            For each number: ``error``, the mean distance in its own unit; ``spread``,
            the standard deviation that it has there; and ``explained``, the share of
            its variance that is read. Empty if there are no such pictures.
        """
        data = self.data
        rows = np.flatnonzero(data.held_out() & (data.generated == generated))
        if len(rows) == 0:
            return {}
        read = self.reader().read(data.frames[rows]).double().cpu().numpy()
        true = data.states[rows][:, list(self.config.columns)].astype(np.float64)
        variance = true.var(0)
        missed = np.square(read - true).mean(0)
        return {
            "error": np.abs(read - true).mean(0).tolist(),
            "spread": np.sqrt(variance).tolist(),
            "explained": (1 - missed / np.maximum(variance, 1e-12)).tolist(),
        }

    def reader(self) -> PoseReader:
        """The net as it is now."""
        # A copy, since a reader freezes its net.
        net = PoseNet(self.config)
        net.load_state_dict(self.net.state_dict())
        return PoseReader(net, self.config, device=str(self.device))

    def provenance(self) -> dict[str, Any]:
        """What the result depends on."""
        begun = {"begin": self._begun} if self._begun else {}
        return {
            "step": "train-pose",
            **begun,
            "training": asdict(self.training),
            "episodes": len(np.unique(self.data.episodes)),
            "pictures": len(self.data.frames),
            "sha256": self._digest,
        }

    def save(self, path: Path) -> None:
        """Writes everything that the next update depends on, all or nothing."""
        tensors = weight_arrays({"net": self.net})
        tensors |= optimizer_arrays({"adam": self._adam})
        tensors["generator"] = self._random.get_state().numpy()
        save_tensors(path, tensors, LAYOUT, {"step": self.step, "run": self._run()})

    def restore(self, path: Path) -> None:
        """Restores the saved state in a new trainer with the same arguments.

        Raises:
            FileError: The file is missing, damaged, or belongs to another run.
        """
        tensors, header = load_run(path, LAYOUT, self._run())
        try:
            self._restore(dict(tensors), header["step"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FileError(f"{path} is no valid checkpoint: {error}") from error

    def _restore(self, tensors: dict[str, NDArray[Any]], step: int) -> None:
        generator = tensors.pop("generator")
        adam = {n: tensors.pop(n) for n in list(tensors) if n.startswith("adam/")}
        load_weights({"net": self.net}, tensors)
        load_optimizer(self._adam, "adam", adam, has_stepped=step > 0)
        self._random.set_state(torch.from_numpy(np.array(generator)))
        self.step = step

    def _run(self) -> dict[str, Any]:
        return {**self.provenance(), "config": plain(asdict(self.config))}


def train_pose(
    trainer: PoseTrainer,
    output: Path,
    *,
    every: int = 500,
    log: Callable[[str], None] = print,
) -> PoseReader:
    """Runs a training to its end, or resumes it, and writes the reader.

    Args:
        trainer: A new trainer.
        output: The reader's folder. The checkpoint is kept beside it until it is
            written.
        every: The number of updates between two checkpoints and lines of progress.
        log: Called with each line of progress.

    Raises:
        ValueError: There is something at ``output``.
    """
    at_least(1, every=every)
    if output.exists():
        raise ValueError(f"{output} exists already; delete it, or give another output")
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    if checkpoint.exists():
        trainer.restore(checkpoint)
        log(f"resumes at update {trainer.step} of {trainer.training.steps}")
    while trainer.step < trainer.training.steps:
        loss = trainer.update()
        if trainer.step % every == 0:
            log(f"{trainer.step}/{trainer.training.steps}  loss {loss:.4g}")
            trainer.save(checkpoint)
    judged = {
        "held out": trainer.judge(),
        "held out, generated": trainer.judge(generated=True),
    }
    save_pose(
        output, trainer.net, trainer.config, {**trainer.provenance(), "judged": judged}
    )
    checkpoint.unlink(missing_ok=True)
    return load_pose(output, device=str(trainer.device))
