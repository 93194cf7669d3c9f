"""Weights and optimizer states as the arrays of a checkpoint, and back.

Names are ``<module>/<weight>`` and ``<optimizer>/<parameter's index>/<entry>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genreward_wrappers.data.files import FileError, Layout, load_tensors

Arrays = Mapping[str, NDArray[Any]]


def load_run(
    path: Path, layout: Layout, run: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the header of a checkpoint of this very run.

    Args:
        path: The checkpoint.
        layout: What its file looks like.
        run: All that the run depends on, which the header has under the same name.

    Raises:
        FileError: The file is missing, damaged, or belongs to another run.
    """
    arrays, header = load_tensors(path, layout)
    if header["run"] != run:
        raise FileError(
            f"{path} is the checkpoint of another run.\n  saved:    "
            f"{header['run']}\n  expected: {run}\n"
            "Finish that one, delete it, or give another output"
        )
    return arrays, header


def weight_arrays(modules: Mapping[str, nn.Module]) -> dict[str, NDArray[Any]]:
    """The weights of some modules."""
    return tensor_arrays(_weights(modules))


def tensor_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors as arrays, which share their memory on a CPU."""
    return {name: _array(tensor) for name, tensor in tensors.items()}


def load_weights(modules: Mapping[str, nn.Module], arrays: Arrays) -> None:
    """Loads exactly the weights that `weight_arrays` returned; see `load_arrays`."""
    load_arrays(_weights(modules), arrays)


def load_arrays(own: Mapping[str, Tensor], arrays: Arrays) -> None:
    """Puts exactly the arrays of these names into tensors.

    Raises:
        ValueError: The names or shapes differ, and the message has both; or a weight is
            not finite.
    """
    if own.keys() != arrays.keys():
        raise ValueError(
            "the weights have other names.\n"
            f"  missing:    {sorted(own.keys() - arrays.keys())}\n"
            f"  unexpected: {sorted(arrays.keys() - own.keys())}"
        )
    for name, tensor in own.items():
        if tuple(tensor.shape) != arrays[name].shape:
            raise ValueError(
                f"the weight {name!r} is {arrays[name].shape}, expected "
                f"{tuple(tensor.shape)}"
            )
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"the weight {name!r} holds NaN or infinity")
        with torch.no_grad():
            # A state's tensors share their memory with the module.
            tensor.copy_(_tensor(arrays[name]))


def optimizer_arrays(
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> dict[str, NDArray[Any]]:
    """The states of some Adam optimizers."""
    return {
        f"{name}/{index}/{key}": _array(tensor)
        for name, optimizer in optimizers.items()
        for index, entries in optimizer.state_dict()["state"].items()
        for key, tensor in entries.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, name: str, arrays: Arrays, *, has_stepped: bool
) -> None:
    """Restores the state that `optimizer_arrays` returned.

    Args:
        optimizer: A new Adam optimizer over the same parameters.
        name: The name that its state was saved under.
        arrays: The optimizers' arrays of a checkpoint; those of others are ignored.
        has_stepped: Whether the optimizer had taken a step. Before the first one it has
            no state; afterwards it has one for every parameter.

    Raises:
        ValueError: The state does not fit the parameters, which the optimizer itself
            would only notice at its next step.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for full, array in arrays.items():
        part, _, rest = full.partition("/")
        if part == name:
            index, _, key = rest.partition("/")
            state.setdefault(int(index), {})[key] = _tensor(array)
    shapes = {
        index: {key: tuple(tensor.shape) for key, tensor in entries.items()}
        for index, entries in state.items()
    }
    parameters = optimizer.param_groups[0]["params"] if has_stepped else []
    expected = {
        index: {"step": (), "exp_avg": tuple(p.shape), "exp_avg_sq": tuple(p.shape)}
        for index, p in enumerate(parameters)
    }
    for i in sorted({*expected, *shapes}):
        if shapes.get(i) != expected.get(i):
            raise ValueError(
                f"{name} has {shapes.get(i)} for parameter {i}, expected "
                f"{expected.get(i)}"
            )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _weights(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": tensor
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().contiguous().numpy()
    return array


def _tensor(array: NDArray[Any]) -> Tensor:
    # Copied, since an array that was read from a file may not be writable.
    return torch.from_numpy(np.array(array))
