"""Where training runs: one device, or those of ``accelerate launch`` or torchrun."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from genreward_wrappers.extras import require

#: What `accelerate launch` says to the processes that it starts.
LAUNCHED = "ACCELERATE_MIXED_PRECISION"
#: Encoding and sampling take as long as they take; the others wait.
PATIENCE = timedelta(days=2)


class Place:
    """One process on one device.

    Attributes:
        device: The device.
        rank: Which process this is, from 0.
        count: How many there are.
    """

    def __init__(self, device: torch.device) -> None:
        """Remembers the device."""
        self.device = device
        self.rank = 0
        self.count = 1

    def wrap(self, model: nn.Module) -> Any:
        """The model as it is called in training."""
        return model

    def together(self, model: Any, last: bool) -> AbstractContextManager[Any]:
        """Around a backward pass; processes exchange gradients at a step's last."""
        return nullcontext()

    def means(self, values: Sequence[float]) -> list[float]:
        """The means of what the processes give."""
        return list(values)

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first process goes ahead, the others follow."""
        yield

    def wait(self) -> None:
        """Until all processes are here."""


class Launched(Place):
    """One of several processes, each on a device of its own."""

    def __init__(self, device: torch.device) -> None:
        """Finds the others.

        Args:
            device: Its type alone counts.

        Raises:
            ImportError: accelerate is not there.
            ValueError: It was configured to split the model.
        """
        accelerate = require(
            "accelerate", "finetune", "several devices need accelerate"
        )
        # Precision is set by --dtype, so that one process and several do the same.
        self._accelerator = accelerate.Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no",
            kwargs_handlers=[accelerate.InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        # An interpreter that ends with the processes still connected may abort.
        atexit.register(self._accelerator.end_training)
        kind = str(self._accelerator.distributed_type.value)
        if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
            raise ValueError(
                f"accelerate is configured for {kind}: each process has to hold the "
                "whole model, as with accelerate launch --multi_gpu or --cpu"
            )
        super().__init__(self._accelerator.device)
        self.rank = self._accelerator.process_index
        self.count = self._accelerator.num_processes

    def wrap(self, model: nn.Module) -> Any:
        """The model as it is called in training."""
        return self._accelerator.prepare_model(model)

    def together(self, model: Any, last: bool) -> AbstractContextManager[Any]:
        """Around a backward pass; processes exchange gradients at a step's last."""
        if last:
            return nullcontext()
        quiet: AbstractContextManager[Any] = self._accelerator.no_sync(model)
        return quiet

    def means(self, values: Sequence[float]) -> list[float]:
        """The means of what the processes give."""
        given = torch.tensor(values, dtype=torch.float64, device=self.device)
        found: Tensor = self._accelerator.reduce(given, "mean")
        return [float(value) for value in found.tolist()]

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first process goes ahead, the others follow."""
        with self._accelerator.main_process_first():
            yield

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()


def find_place(device: torch.device) -> Place:
    """Where this process trains.

    Args:
        device: What was asked for. Of several processes each has its own of that type.
    """
    return Launched(device) if _launched() else Place(device)


def is_first() -> bool:
    """Whether this process is the one that speaks for all."""
    return not _launched() or os.environ.get("RANK", "0") == "0"


def _launched() -> bool:
    # torchrun says nothing but how many there are.
    return LAUNCHED in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1
