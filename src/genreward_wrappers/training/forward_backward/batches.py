"""Batches of transitions, checked and moved to the device of the nets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genreward_wrappers.training.forward_backward.data import Batch
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBatch:
    """A batch as tensors; discrete actions are one-hot."""

    state: Tensor
    action: Tensor
    next_state: Tensor
    terminated: Tensor
    next_action: Tensor | None


def to_device(batch: Batch, nets: FBNets, device: torch.device) -> DeviceBatch:
    """Checks a batch and moves it to the device.

    Raises:
        ValueError: It has fewer than two transitions, parts of different lengths or of
            other shapes, NaN, or actions that the variant cannot take.
    """
    if len(batch) < 2:
        raise ValueError(
            f"a batch of {len(batch)}: the losses compare transitions with one "
            "another and need at least 2"
        )
    lengths = {
        field.name: len(value)
        for field in dataclasses.fields(batch)
        if (value := getattr(batch, field.name)) is not None
    }
    if len(set(lengths.values())) > 1:
        raise ValueError(f"a batch of different lengths: {lengths}")
    terminated = np.asarray(batch.terminated)
    if terminated.shape != (len(batch),) or terminated.dtype != np.bool_:
        raise ValueError(
            f"terminated: expected bool ({len(batch)},), got {terminated.dtype} "
            f"{terminated.shape}"
        )
    next_action = None
    if not nets.config.conditioned:
        if batch.next_action is None:
            raise ValueError(
                "the one-step variant needs next_action, the action that the data "
                "took at next_state"
            )
        next_action = _actions(batch.next_action, "next_action", nets)
    return DeviceBatch(
        to_features(batch.state, "state", nets.config, device),
        _actions(batch.action, "action", nets),
        to_features(batch.next_state, "next_state", nets.config, device),
        torch.from_numpy(terminated).to(device),
        next_action,
    )


def to_features(
    values: NDArray[Any], name: str, config: FBConfig, device: torch.device
) -> Tensor:
    """(n, features) float32 on the device.

    Raises:
        ValueError: The values have another shape, or are not finite.
    """
    array = np.asarray(values, np.float32)
    if array.ndim != 2 or array.shape[1] != config.features:
        raise ValueError(
            f"{name}: expected (n, {config.features}) features, got {array.shape}"
        )
    _refuse_nan(array, name)
    return torch.from_numpy(array).to(device)


def _actions(values: NDArray[Any], name: str, nets: FBNets) -> Tensor:
    array = np.asarray(values)
    if not nets.config.discrete:
        _refuse_nan(array, name)
        # The actor's own actions are in that range, and F must know what they do.
        if nets.config.conditioned and np.abs(array).max(initial=0) > 1 + 1e-6:
            raise ValueError(
                f"{name}: the standard variant takes actions from -1 to 1, got "
                f"{array.min()} to {array.max()}; rescale them, in the environment "
                "as well (gymnasium.wrappers.RescaleAction)"
            )
    return nets.encode_actions(array)


def _refuse_nan(array: NDArray[Any], name: str) -> None:
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
    if bad.any():
        raise ValueError(
            f"{name}: {bad.sum()} of {len(array)} rows hold NaN or infinity, the first "
            f"is row {int(bad.argmax())}"
        )
