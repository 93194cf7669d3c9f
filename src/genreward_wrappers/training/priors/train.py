"""Training a codec and a prior over its codes on videos of one task.

First the codec learns to write frames as codes; then it is frozen, and the prior learns
the codes of the videos. The exponential moving averages of their weights are kept.
Last, the mean and the spread of the reward over the training videos are measured and
stored with them.

`PriorTrainer` fits into one file, from which a killed run resumes, on a CPU bit for
bit.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genreward_wrappers.checks import at_least
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.files import FileError, Layout, plain, save_tensors
from genreward_wrappers.data.schema import Record, Whole
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.encoders.strict_loading import hash_tensors
from genreward_wrappers.training.checkpoint import (
    load_optimizer,
    load_run,
    load_weights,
    optimizer_arrays,
    weight_arrays,
)
from genreward_wrappers.training.priors.settings import BATCH, PriorTraining
from genreward_wrappers.training.priors.store import KINDS, Prior, check_kind
from genreward_wrappers.training.priors.vq import VQCodec, VQConfig, VQLoss
from genreward_wrappers.training.priors.vq_diffusion import certainty

LAYOUT = Layout(
    "genreward_prior_training",
    "checkpoint",
    "genreward train-viper",
    schema=1,
    header=Record({"step": Whole(), "run": dict}),
)

#: Windows of the training videos that the reward's mean and spread are measured over.
MEASURED = 256
#: Limits the decay of the averages during the first updates.
WARM_UP = 10


class PriorTrainer:
    """A codec, a prior, and everything that training them needs."""

    def __init__(
        self,
        kind: str,
        videos: Sequence[UInt8],
        codec: VQConfig | VQCodec | None = None,
        training: PriorTraining | None = None,
        *,
        device: str = "auto",
        **net: Any,
    ) -> None:
        """Builds untrained nets.

        Args:
            kind: "viper" or "diffusion-reward".
            videos: (T, H, W, 3) each, of the codec's size or larger.
            codec: The codec's shape, or a trained codec, for example of another prior
                over the same kind of pictures, which is used unchanged.
            training: How to train.
            device: "auto", "cpu", "cuda" or "cuda:<index>".
            **net: The prior's shape: ``frames`` or ``context``, ``width``, ``layers``
                and the other fields of its configuration.

        Raises:
            ValueError: There are no videos, or they are too short.
        """
        check_kind(kind)
        build, config = KINDS[kind]
        self.kind = kind
        self.training = training or PriorTraining(batch=BATCH[kind])
        trained = codec if isinstance(codec, VQCodec) else None
        look = codec.config if isinstance(codec, VQCodec) else codec or VQConfig()
        #: Updates of the codec; the others are of the prior.
        self.codec_steps = 0 if trained else self.training.codec_steps
        shape = config(codes=look.codes, positions=look.positions, **net)
        #: Frames that the prior is shown at once.
        self.window = shape.frames if kind == "viper" else shape.context + 1
        _check_videos(videos)
        self.videos = [np.asarray(video) for video in videos]
        self.digest = digest_of(self.videos)
        self.device = resolve_device(device)
        self.step = 0
        self._given = trained and hash_tensors(trained.state_dict().items())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            self.codec = VQCodec(look).to(self.device)
            self.net: Any = build(shape).to(self.device)
        if trained is not None:
            self.codec.load_state_dict(trained.state_dict())
        self.codec_average = copy.deepcopy(self.codec).requires_grad_(False)
        self.net_average = copy.deepcopy(self.net).requires_grad_(False)
        self._codec_adam = self._adam(self.codec, self.training.codec_rate)
        self._net_adam = self._adam(self.net, self.training.rate)
        self._generator = torch.Generator().manual_seed(self.training.seed)
        self._used = torch.zeros(look.codes, dtype=torch.int64)
        self._codes: list[Tensor] | None = None

    @property
    def steps(self) -> int:
        """The number of updates of a whole run."""
        return self.codec_steps + self.training.steps

    @property
    def codes(self) -> list[Tensor]:
        """(T, positions) each, the videos as the trained codec writes them."""
        if self._codes is None:
            if self.step < self.codec_steps:
                raise ValueError("the codec is still being trained")
            self._codes = [self.codec_average.encode(v).cpu() for v in self.videos]
        return self._codes

    def update(self) -> dict[str, float]:
        """One gradient step, first of the codec, later of the prior.

        Raises:
            FloatingPointError: The loss is not finite; the weights are unchanged.
        """
        if self.step < self.codec_steps:
            return self._update_codec()
        loss = self._net_loss(self._windows())
        self._descend(loss, self._net_adam)
        self._follow(self.net, self.net_average, self.step - self.codec_steps)
        self.step += 1
        return {"loss": loss.item()}

    def finish(self) -> Prior:
        """The averaged weights, with the reward's mean and spread over the videos.

        Raises:
            ValueError: Training is not over.
        """
        if self.step < self.steps:
            raise ValueError(f"{self.step} of {self.steps} updates are done")
        reward = self._rewards()
        statistics = {
            "mean": float(reward.mean()),
            "std": float(reward.std()),
            "windows": float(len(reward)),
        }
        # Copies, since the trainer may continue; these are frozen.
        return Prior(
            self.kind,
            copy.deepcopy(self.codec_average),
            copy.deepcopy(self.net_average),
            statistics,
            self.provenance(),
        )

    def provenance(self) -> dict[str, Any]:
        """What the result depends on."""
        told = {
            "step": f"train-{self.kind}",
            "training": dataclasses.asdict(self.training),
            "videos": len(self.videos),
            "frames": sum(len(video) for video in self.videos),
            "sha256": self.digest,
        }
        return told if self._given is None else {**told, "codec": self._given}

    def save(self, path: Path) -> None:
        """Writes everything that the next update depends on, all or nothing."""
        tensors = weight_arrays(self._modules()) | optimizer_arrays(self._adams())
        tensors["generator"] = self._generator.get_state().numpy()
        tensors["used"] = self._used.numpy()
        save_tensors(path, tensors, LAYOUT, {"step": self.step, "run": self._run()})

    def restore(self, path: Path) -> None:
        """Restores the saved state in a new trainer with the same arguments.

        Raises:
            FileError: The file is missing, damaged, or belongs to another run.
        """
        layout = LAYOUT.made_by(f"genreward train-{self.kind}")
        tensors, header = load_run(path, layout, self._run())
        try:
            self._restore(tensors, header["step"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FileError(f"{path} is no valid checkpoint: {error}") from error

    def _run(self) -> dict[str, Any]:
        shapes = {"codec": self.codec.config, "net": self.net.config}
        told = {name: dataclasses.asdict(shape) for name, shape in shapes.items()}
        return {**self.provenance(), **plain(told)}

    def _restore(self, tensors: Mapping[str, NDArray[Any]], step: int) -> None:
        rest = dict(tensors)
        generator, used = rest.pop("generator"), rest.pop("used")
        states = {name: rest.pop(name) for name in list(rest) if "_adam/" in name}
        load_weights(self._modules(), rest)
        updates = min(step, self.codec_steps)
        for name, steps in (("codec_adam", updates), ("net_adam", step - updates)):
            adam = self._adams()[name]
            load_optimizer(adam, name, states, has_stepped=steps > 0)
        self._generator.set_state(torch.from_numpy(np.array(generator)))
        self._used = torch.from_numpy(np.array(used))
        self.step, self._codes = step, None

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "codec": self.codec,
            "codec_average": self.codec_average,
            "net": self.net,
            "net_average": self.net_average,
        }

    def _adams(self) -> dict[str, torch.optim.Optimizer]:
        return {"codec_adam": self._codec_adam, "net_adam": self._net_adam}

    def _adam(self, module: nn.Module, rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), lr=rate)

    def _update_codec(self) -> dict[str, float]:
        lengths = torch.tensor([len(video) for video in self.videos])
        drawn = self._integers(int(lengths.sum()), self.training.codec_batch)
        frames = np.stack([self._frame(int(i)) for i in drawn])
        if self.step == 0:
            # Rows that begin at latents of frames get used; others hardly do.
            self._revive(self.codec.loss(frames))
        found = self.codec.loss(frames)
        self._descend(found.total, self._codec_adam)
        self._follow(self.codec, self.codec_average, self.step)
        self._used += torch.bincount(found.codes.cpu(), minlength=len(self._used))
        self.step += 1
        figures = {
            "pixels": found.pixels.item(),
            "codes": float((self._used > 0).sum()),
        }
        if self.step % self.training.revive == 0:
            if self.step <= self.codec_steps // 2:
                self._revive(found)
            self._used.zero_()
        return figures

    @torch.no_grad()
    def _revive(self, found: VQLoss) -> None:
        """Moves unused rows of the codebook to latents drawn from a batch."""
        rows = torch.nonzero(self._used == 0)[:, 0].to(self.device)
        picked = self._integers(len(found.latents), len(rows)).to(self.device)
        for codec in (self.codec, self.codec_average):
            codec.codebook[rows] = found.latents[picked]

    def _net_loss(self, windows: Tensor) -> Tensor:
        """The prior's loss on (n, window, positions), per code."""
        if self.kind == "viper":
            likely = self.net.log_likelihood(windows)
            loss: Tensor = -likely.mean() / self.net.config.positions
            return loss
        n, _, positions = windows.shape
        t = 1 + self._integers(self.net.config.steps, n)
        u = torch.rand(n, positions, generator=self._generator)
        lost: Tensor = self.net.loss(
            windows[:, -1], windows[:, :-1], t.to(self.device), u.to(self.device)
        )
        return lost

    def _windows(self) -> Tensor:
        """(batch, window, positions) drawn from the videos.

        As in an episode, a window may begin with copies of the first frame.
        """
        lengths = torch.tensor([len(video) for video in self.videos])
        # A window for each of its last frames but the first of a video.
        ends = torch.cumsum(lengths - 1, 0)
        drawn = self._integers(int(ends[-1]), self.training.batch)
        return self._windows_at(drawn.tolist()).to(self.device)

    def _windows_at(self, drawn: Sequence[int]) -> Tensor:
        found = []
        lengths = [len(video) - 1 for video in self.videos]
        for index in drawn:
            which = 0
            while index >= lengths[which]:
                index -= lengths[which]
                which += 1
            times = torch.arange(index + 2 - self.window, index + 2).clamp(min=0)
            found.append(self.codes[which][times])
        return torch.stack(found)

    def _frame(self, index: int) -> UInt8:
        for video in self.videos:
            if index < len(video):
                frame: UInt8 = video[index]
                return frame
            index -= len(video)
        raise IndexError(index)

    @torch.no_grad()
    def _rewards(self) -> NDArray[np.float64]:
        """What the reward pays for windows spread over the videos."""
        total = sum(len(video) - 1 for video in self.videos)
        count = min(MEASURED, total)
        which = np.unique(np.rint(np.linspace(0, total - 1, count)).astype(int))
        found = []
        for first in range(0, len(which), self.training.batch):
            drawn = which[first : first + self.training.batch].tolist()
            windows = self._windows_at(drawn).to(self.device)
            if self.kind == "viper":
                likely = self.net_average.log_likelihood(windows, 1)
                found.append(likely[:, 0].double().cpu().numpy())
            else:
                seed = self.training.seed
                keys = [np.random.default_rng([seed, index]) for index in drawn]
                # As in an episode: how certain is what follows these frames.
                context = windows[:, 1:]
                found.append(certainty(self.net_average, context, keys))
        return np.concatenate(found)

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator)

    def _descend(self, loss: Tensor, adam: torch.optim.Optimizer) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of update {self.step + 1} is {loss.item()}: training has "
                "diverged; give a smaller learning rate"
            )
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()

    @torch.no_grad()
    def _follow(self, module: nn.Module, average: nn.Module, step: int) -> None:
        keep = min(self.training.average, (step + 1) / (step + WARM_UP))
        for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)


def train(
    trainer: PriorTrainer,
    output: Path,
    *,
    every: int = 100,
    log: Callable[[str], None] = print,
) -> Prior:
    """Runs a training to its end, or resumes it, and writes the prior.

    Args:
        trainer: A new trainer.
        output: The prior's file. The checkpoint is kept beside it until it is written.
        every: The number of updates between two checkpoints and lines of progress.
        log: Called with each line of progress.

    Raises:
        ValueError: There is something else at ``output``.
    """
    at_least(1, every=every)
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    if output.exists():
        done = Prior.load(output, trainer.kind, str(trainer.device))
        if done.provenance != trainer.provenance():
            raise ValueError(
                f"{output} exists already, from another run: {done.provenance}. "
                "Delete it, or give another output"
            )
        log(f"{output} exists already, from the same run")
        # A process that was killed right after it wrote the prior left it behind.
        checkpoint.unlink(missing_ok=True)
        return done
    if checkpoint.exists():
        trainer.restore(checkpoint)
        log(f"resumes at update {trainer.step} of {trainer.steps}")
    while trainer.step < trainer.steps:
        part = "codec" if trainer.step < trainer.codec_steps else "prior"
        figures = trainer.update()
        if trainer.step % every == 0 or trainer.step == trainer.steps:
            said = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            log(f"{trainer.step}/{trainer.steps}  {part}  {said}")
            trainer.save(checkpoint)
    prior = trainer.finish()
    prior.save(output)
    checkpoint.unlink(missing_ok=True)
    return prior


def digest_of(videos: Sequence[UInt8]) -> str:
    """A hash of all frames, in order."""
    digest = hashlib.sha256()
    for video in videos:
        digest.update(str(video.shape).encode())
        digest.update(np.ascontiguousarray(video).data)
    return digest.hexdigest()


def _check_videos(videos: Sequence[UInt8]) -> None:
    if len(videos) == 0:
        raise ValueError("there are no videos to train on")
    for index, video in enumerate(videos):
        right = video.dtype == np.uint8 and video.ndim == 4 and video.shape[-1] == 3
        if not right or len(video) < 2:
            raise ValueError(
                f"video {index}: expected uint8 frames (time, height, width, 3), at "
                f"least 2 of them, got {video.dtype} {video.shape}"
            )
