"""Where training runs: one device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


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

    def backward(self, loss: Tensor) -> None:
        """The gradients of a loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def mean(self, value: float) -> float:
        """The mean of the processes' values."""
        return value
