"""Models with every one of their weights, and no others.

Where a file lacks weights, diffusers and transformers fill them with chance and say so
in a log at most: a truncated checkpoint would generate noise. Here it is an error that
names the weights. What is missing the libraries know best themselves, who rename old
names, tie weights and quantise: it is asked of them, as the model is loaded.
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

#: How many weights of a kind an error names.
NAMED = 4


class WeightsError(ValueError):
    """Weights that are not those of the model."""


def check_weights(
    what: str,
    missing: Iterable[str],
    unexpected: Iterable[str] = (),
    misshaped: Iterable[str] = (),
) -> None:
    """Checks that weights are those of a model.

    Args:
        what: Where they are, for the message.
        missing: What the model has and the file has not.
        unexpected: What the file has and the model has not.
        misshaped: What both have, in different shapes.

    Raises:
        WeightsError: There are any.
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
    """What has another shape than the model wants, and both shapes."""
    return [
        f"{name} {tuple(shape)}, expected {tuple(wanted[name])}"
        for name, shape in shapes.items()
        if name in wanted and tuple(shape) != tuple(wanted[name])
    ]


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file, which are not read."""
    with opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def no_remote_code() -> Iterator[None]:
    """Nothing that is loaded inside runs Python that came with a model.

    Some of what transformers loads is loaded by other libraries, which do not hand
    ``trust_remote_code=False`` on; without it, transformers asks on the terminal. With
    no time to wait for the answer it refuses.
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
        WeightsError: It is damaged, or shorter than it says.
    """
    from safetensors import safe_open

    with _told_if_damaged(path), safe_open(path, framework="pt") as file:
        yield file


def load_with_report(
    kind: Any, source: str, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """A model of diffusers or transformers, and what its library says of its weights.

    Args:
        kind: Its class, or an `Auto` one.
        source: A folder or a hub id.
        options: Of ``from_pretrained``.

    Returns:
        The model; and ``missing``, ``unexpected`` and ``misshaped``, for
        `check_weights`.

    Raises:
        WeightsError: A file is damaged, or shorter than it says.
    """
    folder = Path(source)
    if kind.__module__.startswith("transformers."):
        options["trust_remote_code"] = False
    with _told_if_damaged(source), no_remote_code():
        model, found = kind.from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            # Weights that were quantised before have other shapes by design. All
            # others come to our own error, which names them.
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
        kind: Its class.
        folder: With its parts.
        dtype: What it computes in; None leaves it to the libraries.
        without: Parts to leave out.
        quantised: How parts are quantised, by name.

    Raises:
        WeightsError: The weights of a part are not all there, or others.
    """
    options: dict[str, Any] = {}
    if importlib.util.find_spec("accelerate") is None:
        # What diffusers falls back on, and says at length.
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
            # transformers takes weights that it quantises in any shape.
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


@contextmanager
def _told_if_damaged(where: str | Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise WeightsError(
            f"the weights in {where} are damaged or cut short ({error})"
        ) from error


def _models(kind: Any, folder: Path) -> dict[str, Any]:
    """The classes of a pipeline's models; its other parts have no weights."""
    import diffusers
    import transformers

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    known = {"diffusers": diffusers, "transformers": transformers}
    # Another class than the one that was saved may do without some of its parts.
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
    """The argument for what a model computes in, which has had two names."""
    import transformers

    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    new = issubclass(model, transformers.PreTrainedModel) and version >= (4, 56)
    return {"dtype" if new else "torch_dtype": dtype}


def _misshapen_in(folder: Path, model: Any) -> list[str]:
    """What has another shape in the files than in an unquantised model."""
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
    """Weights that are in none of their shards, whose index diffusers believes."""
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
    """The sha256 over names, types, shapes and bytes of tensors, in order of name.

    It does not depend on how the tensors are laid out over files, and is that of the
    type they are stored in, whatever they are computed in.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()
