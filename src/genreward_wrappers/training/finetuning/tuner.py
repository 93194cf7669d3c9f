"""One gradient step after the other, and a checkpoint of all that they depend on.

Every draw of a step follows from the seed and the number of the step, so that a run
that was stopped resumes as if it had not been, on a CPU bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genreward_wrappers.data.atomic import replacing
from genreward_wrappers.data.files import (
    FileError,
    Layout,
    header_text,
    load_tensors,
)
from genreward_wrappers.data.schema import Record, Whole
from genreward_wrappers.training.checkpoint import (
    Arrays,
    load_arrays,
    load_optimizer,
    optimizer_arrays,
    tensor_arrays,
)
from genreward_wrappers.training.finetuning.place import Place
from genreward_wrappers.training.finetuning.settings import Finetuning
from genreward_wrappers.training.finetuning.weights import Weights

LAYOUT = Layout(
    "genreward_finetune",
    "checkpoint",
    "genreward finetune",
    schema=1,
    header=Record({"step": Whole(), "elapsed": float, "run": dict}),
    # Three numbers for each weight of the largest models.
    limit=1 << 42,
)

#: The name of the optimiser's state in a checkpoint.
ADAM = "adam"

#: What random numbers are for: the order of the clips, a step, a validation.
ORDER, STEP, JUDGED = 1, 2, 3


class Task(Protocol):
    """What weights are trained for, and on what."""

    @property
    def module(self) -> Any:
        """What is called in training."""

    def losses(self, model: Any, rows: Tensor, rng: np.random.Generator) -> Tensor:
        """The losses of some clips, with what is called and all that is drawn."""

    def judge(self, row: int, rng: np.random.Generator) -> float:
        """The loss of a held-out clip."""


class Tuner:
    """Weights, optimiser and task, and how far they are.

    Attributes:
        weights: What is trained.
        trained_rows: The clips that are trained on.
        held_rows: Those that are held out.
        step: Gradient steps that are done.
        elapsed: Seconds of training; whoever runs the steps counts them.
    """

    def __init__(
        self,
        weights: Weights,
        task: Task,
        clips: int,
        training: Finetuning,
        place: Place,
    ) -> None:
        """Makes the optimiser.

        Args:
            weights: What is trained, on the place's device.
            task: The task that they are trained on.
            clips: How many there are.
            training: How.
            place: Where.

        Raises:
            ValueError: There are too few clips.
        """
        self.weights = weights
        self.training = training
        self.place = place
        self.step = 0
        self.elapsed = 0.0
        self.trained_rows, self.held_rows = split(clips, training.held_out)
        self._task = task
        self._model = place.wrap(task.module)
        self._parameters = list(weights.trained.values())
        self._adam = torch.optim.AdamW(
            self._parameters,
            lr=training.rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=True,
        )
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def update(self, rate: float) -> dict[str, float]:
        """One gradient step.

        Args:
            rate: The learning rate.

        Returns:
            The loss and the gradient's norm before it was cut.

        Raises:
            FloatingPointError: The loss is not finite; the weights are left as they
                were.
        """
        training, place = self.training, self.place
        self._model.train()
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(training.accumulate):
            key = (STEP, training.seed, self.step, place.rank, part)
            last = part == training.accumulate - 1
            with place.together(self._model, last), _own_numbers(key, place.device):
                rng = np.random.default_rng(key)
                loss = self._task.losses(self._model, self._rows(part), rng).mean()
                total += float(loss.detach()) / training.accumulate
                (loss / training.accumulate).backward()  # type: ignore[no-untyped-call]
        total = place.means([total])[0]
        if not np.isfinite(total):
            raise FloatingPointError(
                f"the loss of step {self.step + 1} is {total}: training has diverged. "
                "A smaller learning rate, from the last checkpoint, may go on"
            )
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, training.clip)
        self._adam.step()
        self.weights.follow(self.step)
        self.step += 1
        return {"loss": total, "gradient": float(norm)}

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """The loss of held-out clips at noise that is the same every time."""
        if len(self.held_rows) == 0:
            return {}
        module = self._task.module.eval()
        found = []
        with self.weights.averaged():
            for row in self.held_rows.tolist():
                key = (JUDGED, self.training.seed, row)
                with _own_numbers(key, self.place.device):
                    found.append(self._task.judge(row, np.random.default_rng(key)))
        module.train()
        return {"loss_held_out": float(np.mean(found))}

    def save(self, path: Path, run: Mapping[str, Any]) -> None:
        """Writes everything that the next step depends on, all or nothing.

        Args:
            path: The file to write.
            run: The settings that a resumed run must share.
        """
        arrays = tensor_arrays(self._tensors()) | optimizer_arrays({ADAM: self._adam})
        header = {"step": self.step, "elapsed": self.elapsed, "run": dict(run)}
        _save(path, arrays, header)

    def restore(self, path: Path, run: Mapping[str, Any]) -> None:
        """Puts a tuner, newly made with the same arguments, where the saved one was.

        Raises:
            FileError: It is missing, damaged, or of another run.
        """
        arrays, header = load_tensors(path, LAYOUT)
        unlike = _differences(header["run"], run)
        if unlike:
            raise FileError(
                f"{path} is the checkpoint of another run: {'; '.join(unlike)}. "
                "Finish that one, delete it, or give another output"
            )
        try:
            own = {n: a for n, a in arrays.items() if not n.startswith(f"{ADAM}/")}
            load_arrays(self._tensors(), own)
            load_optimizer(self._adam, ADAM, arrays, has_stepped=header["step"] > 0)
            self.step, self.elapsed = header["step"], float(header["elapsed"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FileError(f"{path} is no valid checkpoint: {error}") from error

    def _tensors(self) -> dict[str, Tensor]:
        """The weights and their average, as a checkpoint names them."""
        return {
            **{f"weight/{n}": w for n, w in self.weights.trained.items()},
            **{f"average/{n}": w for n, w in self.weights.average.items()},
        }

    def _rows(self, part: int) -> Tensor:
        """The clips of a part of this step: all of them once before any comes again."""
        training, place = self.training, self.place
        position = self.step * training.accumulate + part
        first = (position * place.count + place.rank) * training.batch
        rows = []
        for i in range(first, first + training.batch):
            epoch, index = divmod(i, len(self.trained_rows))
            rows.append(self._order(epoch)[index])
        return torch.from_numpy(np.array(rows))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng((ORDER, self.training.seed, epoch))
            self._epoch = epoch, rng.permutation(self.trained_rows)
        return self._epoch[1]


def split(count: int, held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which clips are trained on, and which are held out.

    >>> split(10, 4)
    (array([0, 1, 3, 4, 5, 7, 8, 9]), array([2, 6]))
    """
    rows = np.arange(count)
    held = rows % held_out == held_out // 2 if held_out else np.zeros(count, np.bool_)
    return rows[~held], rows[held]


@contextmanager
def _own_numbers(key: tuple[int, ...], device: torch.device) -> Iterator[None]:
    """What torch draws inside the model, for dropout, follows from a key."""
    seed = int(np.random.default_rng((*key, 0)).integers(2**62))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What two runs differ in, in words."""
    return [
        f"{name} was {saved.get(name)!r} and is {given.get(name)!r}"
        for name in sorted({*saved, *given})
        if saved.get(name) != given.get(name)
    ]


def _save(path: Path, arrays: Arrays, header: Mapping[str, Any]) -> None:
    """Writes arrays without a second copy of them in memory, all or nothing."""
    from safetensors.torch import save_file

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    metadata = {LAYOUT.key: header_text(arrays, LAYOUT, header)}
    with replacing(path) as scratch:
        save_file(tensors, scratch, metadata)
