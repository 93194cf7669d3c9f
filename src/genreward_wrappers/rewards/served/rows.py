"""Nested values of N rows: laid side by side for one batch, and cut apart again.

What a model remembers is nested dataclasses, tuples and dicts of arrays and tensors
with the leading axis N, and so is a transition. Between processes tensors travel as
numpy arrays, with a note of where they belong, so that a process without a GPU can keep
the memory of a model that has one.

>>> import numpy as np
>>> one, other = {"seen": np.zeros(2)}, {"seen": np.ones(1)}
>>> both = join([one, other], [2, 1])
>>> both["seen"]
array([0., 0., 1.])
>>> cut(both, slice(2, 3))["seen"]
array([1.])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class UnlikeError(ValueError):
    """Values that cannot be laid side by side."""


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as it travels.

    Attributes:
        bits: Its numbers, as integers where numpy lacks the type.
        dtype: The name of its type.
        local: Whether it belongs on the CPU; otherwise on the model's device.
    """

    bits: NDArray[Any]
    dtype: str
    local: bool


def join(trees: Sequence[Any], counts: Sequence[int], device: str = "cpu") -> Any:
    """One tree of all rows, in memory of its own.

    Args:
        trees: What arrived, with `Packed` tensors.
        counts: How many rows each has.
        device: Where tensors belong that are not the CPU's.

    Raises:
        UnlikeError: There are several, and they differ in more than their rows.
    """

    def side_by_side(*parts: Any) -> Any:
        first = parts[0]
        if isinstance(first, Packed):
            if any((p.dtype, p.local) != (first.dtype, first.local) for p in parts):
                raise UnlikeError("tensors of several types")
            bits = side_by_side(*(part.bits for part in parts))
            return _tensor(Packed(bits, first.dtype, first.local), device)
        if first is None:
            return None
        if len(parts) == 1:
            return np.array(first) if isinstance(first, np.ndarray) else first
        if not isinstance(first, np.ndarray):
            raise UnlikeError(f"{type(first).__name__} is no rows")
        kinds = {(part.dtype, part.shape[1:]) for part in parts}
        rows = [part.shape[:1] for part in parts]
        if len(kinds) > 1 or rows != [(count,) for count in counts]:
            raise UnlikeError("arrays of several shapes, or without rows")
        return np.concatenate(parts)

    return _map(side_by_side, trees, len(trees) > 1)


def cut(tree: Any, rows: slice | None) -> Any:
    """Some rows of a tree, packed for the way; None takes it as it is.

    Raises:
        UnlikeError: There is something in it that has no rows.
    """

    def some(part: Any) -> Any:
        if hasattr(part, "detach"):
            return _packed(part if rows is None else part[rows])
        if rows is None or part is None:
            return part
        if not isinstance(part, np.ndarray) or part.ndim == 0:
            raise UnlikeError(f"{type(part).__name__} has no rows")
        return part[rows]

    return _map(some, [tree], rows is not None)


def _map(function: Callable[..., Any], trees: Sequence[Any], by_row: bool) -> Any:
    """Applies a function to the leaves of trees of one structure.

    Args:
        function: Of as many leaves as there are trees.
        trees: The trees.
        by_row: Whether rows are put together or taken apart. A tuple of values has one
            for each row, as the histories of some models do, and is left whole.
    """
    first, kind = trees[0], type(trees[0])
    if any(type(tree) is not kind for tree in trees):
        raise UnlikeError("trees of several structures")
    if kind is Packed or not isinstance(_parts(first), Mapping):
        return function(*trees)
    if by_row and kind is tuple:
        raise UnlikeError("a tuple with a value for each row")
    parts = [_parts(tree) for tree in trees]
    if any(each.keys() != parts[0].keys() for each in parts):
        raise UnlikeError("trees of several structures")
    new = {
        name: _map(function, [each[name] for each in parts], by_row)
        for name in parts[0]
    }
    if isinstance(first, Mapping):
        return new
    if dataclasses.is_dataclass(kind) or hasattr(first, "_fields"):
        return kind(**new)
    return kind(new.values())


def _parts(tree: Any) -> Any:
    """What a value consists of, by name; None for a leaf."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        return {name: getattr(tree, name) for name in names}
    if hasattr(tree, "_asdict"):
        return tree._asdict()
    if isinstance(tree, Mapping):
        return tree
    return dict(enumerate(tree)) if isinstance(tree, (list, tuple)) else None


def _packed(tensor: Any) -> Packed:
    import torch

    local = tensor.device.type == "cpu"
    tensor = tensor.detach().cpu().contiguous()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return Packed(tensor.numpy(), dtype, local)


def _tensor(packed: Packed, device: str) -> Any:
    import torch

    tensor = torch.from_numpy(packed.bits)
    dtype = getattr(torch, packed.dtype)
    tensor = tensor if tensor.dtype == dtype else tensor.view(dtype)
    return tensor if packed.local else tensor.to(device)
