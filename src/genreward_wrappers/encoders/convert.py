"""``genreward convert``: converts published weights to safetensors.

The published files are pickles. They are read here and nowhere else, with
`weights_only`. Their keys must be exactly those of the model.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genreward_wrappers.data.files import FileError, hash_file, write_atomic
from genreward_wrappers.encoders.names import CLIP_CONFIG, CLIP_WEIGHTS

if TYPE_CHECKING:
    # Imported where it is needed: wrong arguments are reported before.
    import torch
    from torch import Tensor

#: The prefix of CLIP's parameters in LIV's checkpoint.
LIV_PREFIX = "module.model."
#: CLIP's own statistics, which LIV uses as well.
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def convert(
    kind: str,
    source: Path,
    target: Path,
    *,
    words: Path | None = None,
    sha256: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Converts one published file.

    Args:
        kind: "s3d" or "liv".
        source: The published file.
        target: For "s3d" the file to write, for "liv" the folder.
        words: For "s3d", its list of words, which is published with the weights: an npy
            file, or one word per line.
        sha256: The expected SHA-256 of the source.
        say: Called with each line of output.

    Raises:
        FileError: It is not such a file, or its SHA-256 differs.
    """
    if kind not in ("s3d", "liv"):
        raise ValueError(f"convert {kind!r}: expected 's3d' or 'liv'")
    if (words is None) == (kind == "s3d"):
        raise ValueError(
            "convert s3d needs --words, the list of words published beside the weights"
            if kind == "s3d"
            else "convert liv takes no --words: CLIP's tokenizer comes with open_clip"
        )
    table = None if words is None else _read_words(words)
    _check_file(source, sha256, say)
    state = _read(source)
    if table is None:
        convert_liv(state, target)
    else:
        convert_s3d(state, table, target)
    say(f"{target}: written")


def convert_s3d(
    state: Mapping[str, Tensor], words: Sequence[str], target: Path
) -> None:
    """Writes an S3D-G with its words as one safetensors file."""
    from genreward_wrappers.encoders.s3d import S3D, S3DConfig, save_s3d

    config = S3DConfig(
        shrink=max(1, 64 // len(_get(state, "conv_2b.bn1.weight", 64))),
        features=_get(state, "fc.weight", 512).shape[0],
        vocabulary=_get(state, "text_module.word_embd.weight", 66_250, 300).shape[0],
        word=_get(state, "text_module.word_embd.weight", 66_250, 300).shape[1],
        hidden=_get(state, "text_module.fc1.weight", 2048).shape[0],
    )
    if len(words) >= config.vocabulary:
        raise FileError(
            f"{len(words)} words do not fit a table of {config.vocabulary} rows, the "
            "first of which stands for no word: they are of another model"
        )
    model = S3D(config)
    _fill(model, state, "S3D-G")
    save_s3d(target, model, config, words)


def convert_liv(state: Mapping[str, Any], target: Path) -> None:
    """Writes LIV's CLIP as a folder in open_clip's layout."""
    from safetensors.torch import save

    from genreward_wrappers.encoders.clip import import_open_clip

    open_clip = import_open_clip()
    inner = state["liv"] if isinstance(state.get("liv"), dict) else state
    state = {
        # Other names are kept, and reported as unexpected.
        name.removeprefix(LIV_PREFIX) if name.startswith(LIV_PREFIX) else f"{name} ": t
        for name, t in inner.items()
    }
    config = _clip_config(state)
    model = open_clip.CLIP(**config)
    _fill(model, state, f"CLIP RN50, each under {LIV_PREFIX!r}")
    card = {
        "model_cfg": config,
        "preprocess_cfg": {
            "mean": CLIP_MEAN,
            "std": CLIP_STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    tensors = {name: t.contiguous() for name, t in model.state_dict().items()}
    write_atomic(target / CLIP_WEIGHTS, save(tensors))
    write_atomic(target / CLIP_CONFIG, json.dumps(card, indent=2).encode())


def _clip_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The widths of a CLIP with a ResNet, from its shapes; those of RN50 if missing."""
    layers = [
        len(
            {name.split(".")[2] for name in state if name.startswith(f"visual.{part}.")}
        )
        for part in ("layer1", "layer2", "layer3", "layer4")
    ]
    places = len(_get(state, "visual.attnpool.positional_embedding", 50))
    width = len(_get(state, "visual.layer1.0.bn1.weight", 64))
    text_width = len(_get(state, "ln_final.weight", 512))
    blocks = {
        name.split(".")[2] for name in state if name.startswith("transformer.res")
    }
    return {
        "embed_dim": _get(state, "text_projection", 512, 1024).shape[1],
        # The weights were initialised with OpenAI's, which were trained with it.
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": round((places - 1) ** 0.5) * 32,
            "layers": layers if all(layers) else [3, 4, 6, 3],
            "width": width,
            "patch_size": None,
        },
        "text_cfg": {
            "context_length": len(_get(state, "positional_embedding", 77)),
            "vocab_size": len(_get(state, "token_embedding.weight", 49_408)),
            "width": text_width,
            "heads": max(1, text_width // 64),
            "layers": len(blocks) or 12,
        },
    }


def _get(state: Mapping[str, Tensor], name: str, *shape: int) -> Tensor:
    """A tensor, or an empty one of the published shape, to derive widths from.

    `_fill` then reports all missing keys together.
    """
    import torch

    found = state.get(name)
    return torch.empty(*shape, device="meta") if found is None else found


def _fill(model: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Loads weights into a model; raises unless keys and shapes match."""
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(name.strip() for name in state.keys() - own.keys())
    if missing or unexpected:
        raise FileError(
            f"the keys are not those of {what}.\n"
            f"  missing ({len(missing)}):    {_listed(missing)}\n"
            f"  unexpected ({len(unexpected)}): {_listed(unexpected)}"
        )
    shapes = [
        f"{name}: {tuple(state[name].shape)} and not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if state[name].shape != tensor.shape
    ]
    if shapes:
        raise FileError(f"the shapes are not those of {what}: {_listed(shapes)}")
    # Strict; half precision is converted to the model's own.
    model.load_state_dict(dict(state), strict=True)


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 20:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:20])} and {len(names) - 20} more"


def _check_file(path: Path, sha256: str | None, say: Callable[[str], None]) -> None:
    """Raises unless it is there, has the hash, and may be a file of torch.save."""
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    found = hash_file(path)
    say(f"{path}: sha256 {found}")
    if sha256 is not None and sha256.strip().lower() != found:
        raise FileError(
            f"{path} has the sha256 {found}, not the expected {sha256}: it "
            "is another file, or damaged"
        )
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"PK" and not zipfile.is_zipfile(path):
        raise FileError(f"{path} is damaged or cut short: it has no end")
    if head != b"PK" and head[:1] != pickle.PROTO:
        raise FileError(f"{path} is no file of torch.save")


def _read(path: Path) -> dict[str, Any]:
    import torch

    _check_torch()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise FileError(
            f"{path} holds more than tensors, or is no file of torch.save, and is not "
            f"read: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict):
        raise FileError(
            f"{path} holds a {type(state).__name__}, expected a dict of tensors"
        )
    return state


def _check_torch() -> None:
    """Raises unless ``weights_only`` is safe, which it is since torch 2.6."""
    import torch

    major, minor = torch.__version__.split(".")[:2]
    if (int(major), int(minor)) < (2, 6):
        raise ImportError(
            f"torch {torch.__version__} can be made to run code by a file of weights, "
            'even with weights_only=True: pip install "torch>=2.6" to convert one'
        )


def _read_words(path: Path) -> list[str]:
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    if path.suffix != ".npy":
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    try:
        words = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise FileError(f"{path} is no array of words: {error}") from error
    if words.ndim != 1 or words.dtype.kind != "U":
        raise FileError(
            f"{path} holds {words.dtype} {words.shape}, expected one row of words"
        )
    return [str(word) for word in words]
