"""Loads models strictly: with all of their weights and no others.

If a file lacks weights, diffusers and transformers initialise them at random and at
most log it: a truncated checkpoint would generate noise. Here that is an error which
names the weights. The libraries rename old keys, tie weights and quantise, so the list
of missing weights is taken from their own report.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreward_wrappers.encoders.weight_files import WeightsError, told_if_damaged

#: Maximum number of weights of each kind named by an error.
NAMED = 4


def check_weights(
    what: str,
    missing: Iterable[str],
    unexpected: Iterable[str] = (),
    misshaped: Iterable[str] = (),
) -> None:
    """Raises unless the weights match the model.

    Args:
        what: The location of the weights, for the message.
        missing: Weights of the model that are not in the file.
        unexpected: Weights in the file that are not in the model.
        misshaped: Weights whose shapes differ.

    Raises:
        WeightsError: Any of these is not empty.
    """
    faults = [
        f"{said}: {_named(names)}"
        for said, names in (
            ("missing", sorted(missing)),
            ("of another shape", sorted(misshaped)),
            ("unknown", sorted(unexpected)),
        )
        if names
    ]
    if faults:
        raise WeightsError(
            f"the weights in {what} do not fit its configuration; " + "; ".join(faults)
        )


def misshapen(
    shapes: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]
) -> list[str]:
    """The weights whose shapes differ from those of the model, with both shapes."""
    return [
        f"{name} {tuple(shape)}, expected {tuple(wanted[name])}"
        for name, shape in shapes.items()
        if name in wanted and tuple(shape) != tuple(wanted[name])
    ]


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file, without reading the tensors."""
    with opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def no_remote_code() -> Iterator[None]:
    """Prevents models loaded inside from running Python code in their repositories.

    Other libraries that load models through transformers do not pass
    ``trust_remote_code=False`` on, and transformers would then ask on the terminal.
    With a time-out of zero, it refuses instead.
    """
    try:
        from transformers import dynamic_module_utils
    except ImportError:
        yield
        return
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open for torch.

    Raises:
        WeightsError: It is damaged or truncated.
    """
    from safetensors import safe_open

    with told_if_damaged(path), safe_open(path, framework="pt") as file:
        yield file


def load_with_report(
    kind: Any, source: str, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """A model of diffusers or transformers, and its library's report on the weights.

    Args:
        kind: The class of the model, or an `Auto` class.
        source: A folder or a Hub id.
        options: Arguments of ``from_pretrained``.

    Returns:
        The model, and the arguments ``missing``, ``unexpected`` and ``misshaped`` of
        `check_weights`.

    Raises:
        WeightsError: A file is damaged or truncated.
    """
    folder = Path(source)
    if kind.__module__.startswith("transformers."):
        options["trust_remote_code"] = False
    with told_if_damaged(source), no_remote_code():
        model, found = kind.from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            # The shapes of quantised weights differ by design. All others are left to
            # our own error, which names them.
            ignore_mismatched_sizes=not _is_quantised(folder),
            **options,
        )
    return model, {
        "missing": {*found["missing_keys"], *_lost(folder)},
        "unexpected": set(found["unexpected_keys"]),
        "misshaped": [
            f"{name} {tuple(there)}, expected {tuple(wanted)}"
            for name, there, wanted in found["mismatched_keys"]
        ],
    }


def load_pipeline(
    kind: Any,
    folder: Path,
    dtype: Any = None,
    *,
    without: Sequence[str] = (),
    quantised: Mapping[str, Any] | None = None,
) -> Any:
    """A pipeline of diffusers with all weights of its parts, on the CPU.

    Args:
        kind: The class of the pipeline.
        folder: The folder of its parts.
        dtype: The type to compute in; None leaves it to the libraries.
        without: Parts to leave out.
        quantised: The quantisation of parts, by name.

    Raises:
        WeightsError: The weights of a part do not match its model.
    """
    options: dict[str, Any] = {}
    if importlib.util.find_spec("accelerate") is None:
        # The fallback of diffusers, without its long warning.
        options["low_cpu_mem_usage"] = False
    parts: dict[str, Any] = dict.fromkeys(without)
    for name, part in _models(kind, folder).items():
        if name in parts:
            continue
        more: dict[str, Any] = {**_in_dtype(part, dtype)}
        if part.__module__.startswith("diffusers."):
            more |= options
        if quantised and name in quantised:
            more["quantization_config"] = quantised[name]
        parts[name], found = load_with_report(part, str(folder / name), **more)
        if "quantization_config" in more and not part.__module__.startswith(
            "diffusers."
        ):
            # transformers accepts any shape for weights that it quantises.
            found["misshaped"] += _misshapen_in(folder / name, parts[name])
        check_weights(f"{folder / name} ({part.__name__})", **found)
    with no_remote_code():
        return kind.from_pretrained(
            str(folder),
            torch_dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            **parts,
            **options,
        )


def _models(kind: Any, folder: Path) -> dict[str, Any]:
    """The classes of a pipeline's models. Its other parts have no weights."""
    import diffusers
    import transformers

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    known = {"diffusers": diffusers, "transformers": transformers}
    # A class other than the one that was saved may not need all of its parts.
    takes = inspect.signature(kind.__init__).parameters
    found = {}
    for name, part in index.items():
        if name not in takes or not isinstance(part, list) or not part[0]:
            continue
        library = getattr(diffusers.pipelines, part[0], known.get(part[0]))
        model = getattr(library, part[1], None)
        if isinstance(model, type) and issubclass(
            model, (diffusers.ModelMixin, transformers.PreTrainedModel)
        ):
            found[name] = model
    return found


def _in_dtype(model: Any, dtype: Any) -> dict[str, Any]:
    """The argument for the type to compute in, which was renamed."""
    import transformers

    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    new = issubclass(model, transformers.PreTrainedModel) and version >= (4, 56)
    return {"dtype" if new else "torch_dtype": dtype}


def _misshapen_in(folder: Path, model: Any) -> list[str]:
    """The weights whose shapes differ from those of the unquantised model."""
    with torch.device("meta"):
        wanted = shapes_of(type(model)(model.config).state_dict())
    there: dict[str, Sequence[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        there |= shapes_in(path)
    return misshapen(there, wanted)


def _is_quantised(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and "quantization_config" in json.loads(
        path.read_text(encoding="utf-8")
    )


def _lost(folder: Path) -> set[str]:
    """Weights that an index lists but no shard has, which diffusers does not check."""
    lost: set[str] = set()
    for index in folder.glob("*.safetensors.index.json"):
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        there: set[str] = set()
        for shard in sorted(set(listed.values())):
            there |= set(shapes_in(folder / shard))
        lost |= set(listed) - there
    return lost


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The SHA-256 of names, types, shapes and bytes of tensors, ordered by name.

    It does not depend on how the tensors are distributed over files, nor on the type
    that the model computes in: it is over the tensors as stored.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()
