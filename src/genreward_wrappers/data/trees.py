"""Nested values as an outline in JSON and named tensors, and back.

What reward models remember is nested: dataclasses and named tuples of arrays, torch
tensors, numbers and None. A file of it names no class. The outline holds only the names
of fields, and classes are taken from a live value of the same structure, so that a file
decides nothing about what is constructed.

>>> outline, tensors = flatten({"seen": (np.zeros(2), None), "count": 3})
>>> outline
{'dict': {'seen': {'tuple': ['array', None]}, 'count': {'is': 3}}}
>>> list(tensors)
['/seen/0']
>>> rebuild(outline, tensors)["seen"]
(array([0., 0.]), None)
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]

#: Types of torch that numpy lacks are stored as their bits.
BITS = "bits of "


def flatten(tree: Any, path: str = "", classes: bool = True) -> tuple[Any, Tensors]:
    """The outline of a tree, and its arrays by their paths.

    Args:
        tree: The tree.
        path: Its path in a larger tree.
        classes: Whether there will be a live tree to take classes from.

    Raises:
        TypeError: It contains something that cannot be stored.
    """
    if tree is None:
        return None, {}
    if isinstance(tree, (bool, int, str)):
        return {"is": tree}, {}
    if isinstance(tree, (float, np.generic, np.ndarray)):
        array = np.asarray(tree)
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(f"{path}: {array.dtype} cannot be stored")
        numpys = "scalar" if isinstance(tree, np.generic) else "float"
        return "array" if array is tree else numpys, {path: array}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tree, torch.Tensor):
        return _flatten_tensor(tree, path)
    kind, parts = _parts(tree)
    if not kind or (kind == "fields" and not classes):
        raise TypeError(
            f"{path}: {type(tree).__name__} cannot be stored; what can are "
            f"{'dataclasses, ' if classes else ''}tuples, lists and dicts (with texts "
            "without a slash as keys) of arrays, tensors, numbers, texts and None"
        )
    outlines: dict[str, Any] = {}
    tensors: Tensors = {}
    for name, part in parts.items():
        outlines[name], more = flatten(part, f"{path}/{name}", classes)
        tensors |= more
    named = kind in ("fields", "dict")
    return {kind: outlines if named else [*outlines.values()]}, tensors


def rebuild(
    outline: Any, tensors: Mapping[str, NDArray[Any]], like: Any = None, path: str = ""
) -> Any:
    """Builds the tree of an outline.

    Args:
        outline: The outline, as `flatten` returned it; it need not be valid.
        tensors: The arrays by their paths.
        like: A tree to take classes and devices from. None suffices for trees without
            dataclasses and named tuples.
        path: The path of this tree in a larger one.

    Raises:
        ValueError: The outline is invalid, or the tree does not match ``like``.
    """
    home = _home(like)
    used: set[str] = set()

    def build(outline: Any, like: Any, path: str) -> Any:
        if outline is None:
            return None
        if isinstance(outline, str):
            if path not in tensors:
                raise ValueError(f"there is no tensor {path!r}")
            used.add(path)
            return _leaf(outline, tensors[path], like, home, path)
        if not isinstance(outline, dict) or len(outline) != 1:
            raise ValueError(f"{path}: {str(outline)[:60]} is no part of a tree")
        ((kind, parts),) = outline.items()
        if kind == "is" and isinstance(parts, (bool, int, str)):
            _expect(_alike(parts, like), f"{parts!r:.60}", like, path)
            return parts
        if kind in ("list", "tuple") and isinstance(parts, list):
            fits = like is None or type(like).__name__ == kind
            _expect(fits, f"a {kind}", like, path)
            ours = [*(like or ()), *(None for _ in parts)]
            built = [
                build(part, ours[i], f"{path}/{i}") for i, part in enumerate(parts)
            ]
            return built if kind == "list" else tuple(built)
        if kind not in ("fields", "dict") or not isinstance(parts, dict):
            raise ValueError(f"{path}: {str(outline)[:60]} is no part of a tree")
        fields: Mapping[str, Any] = {}
        if kind == "fields" or like is not None:
            _expect(like is not None, kind, like, path)
            found, fields = _parts(like)
            fits = found == kind and (kind == "dict" or [*fields] == [*parts])
            _expect(fits, f"{kind} {[*parts]}", like, path)
        filled = {
            name: build(part, fields.get(name), f"{path}/{name}")
            for name, part in parts.items()
        }
        return filled if kind == "dict" else type(like)(**filled)

    tree = build(outline, like, path)
    spare = sorted(set(tensors) - used)
    if spare:
        raise ValueError(f"the tensors {spare[:3]} have no place")
    return tree


def _parts(tree: Any) -> tuple[str, dict[str, Any]]:
    """The kind of a container and its values by name; "" if it is no container."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        return "fields", {name: getattr(tree, name) for name in sorted(names)}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return "fields", {name: getattr(tree, name) for name in sorted(tree._fields)}
    if isinstance(tree, Mapping) and all(
        isinstance(name, str) and "/" not in name for name in tree
    ):
        return "dict", dict(tree)
    if isinstance(tree, (list, tuple)):
        parts = {str(i): part for i, part in enumerate(tree)}
        return ("list" if isinstance(tree, list) else "tuple"), parts
    return "", {}


def _flatten_tensor(tensor: Any, path: str) -> tuple[str, Tensors]:
    tensor = tensor.detach().cpu().contiguous()
    try:
        return "tensor", {path: tensor.numpy()}
    except TypeError:
        import torch

        name = str(tensor.dtype).removeprefix("torch.")
        bits = {1: torch.uint8, 2: torch.int16}.get(tensor.element_size())
        if bits is None:
            raise TypeError(f"{path}: a tensor of {name} cannot be stored") from None
        return BITS + name, {path: tensor.view(bits).numpy()}


def _leaf(
    kind: str, array: NDArray[Any], like: Any, home: str, path: str
) -> np.generic | NDArray[Any] | Any:
    if kind in ("float", "scalar") and array.ndim == 0:
        value: Any = array[()]
        value = float(value) if kind == "float" else value
    elif kind == "array":
        value = array
    elif kind == "tensor" or kind.startswith(BITS):
        import torch

        value = torch.from_numpy(array)
        if kind != "tensor":
            dtype = getattr(torch, kind.removeprefix(BITS), None)
            if not isinstance(dtype, torch.dtype) or dtype.itemsize != array.itemsize:
                raise ValueError(f"{path}: there are no {kind!r}")
            value = value.view(dtype)
        value = value.to(home if like is None else getattr(like, "device", "cpu"))
    else:
        raise ValueError(f"{path}: {kind!r:.60} is no part of a tree")
    _expect(_alike(value, like), f"{kind} {array.dtype} {array.shape}", like, path)
    return value


def _alike(value: Any, like: Any) -> bool:
    """Whether a leaf may replace another.

    Numbers may have another type, and all axes but the first may have another length.
    """
    numbers = (int, float, np.generic)
    if like is None or (isinstance(value, numbers) and isinstance(like, numbers)):
        return True
    one, other = (getattr(each, "shape", ()) for each in (value, like))
    same = len(one) == len(other) and one[:1] == other[:1]
    return type(value) is type(like) and same


def _expect(fits: bool, what: str, like: Any, path: str) -> None:
    if not fits:
        shape = f" {like.dtype} {tuple(like.shape)}" if hasattr(like, "shape") else ""
        raise ValueError(
            f"{path} is {what}, and here it is {type(like).__name__}{shape}"
        )


def _home(tree: Any) -> str:
    """The accelerator that any tensor of a tree is on, or else the CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tree, torch.Tensor):
        return str(tree.device)
    homes = map(_home, _parts(tree)[1].values())
    return next((home for home in homes if home != "cpu"), "cpu")
