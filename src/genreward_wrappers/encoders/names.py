"""The names of encoders, devices and types: what is wrong with one is said at once.

Nothing here imports torch, so that a misspelled name costs no seconds.
"""

from __future__ import annotations

import re
from pathlib import Path

from genreward_wrappers.data.files import embedded_folder, embedded_folders

FORMS = (
    "'pixels' or 'pixels:<grid>'",
    "'open_clip:<model>/<pretrained tag>', 'open_clip:<folder or safetensors file>'",
    "'transformers:<folder, or hub id[@<revision>]>'",
    "'random:<any of the following>'",
    "'embedded:<name>'",
    "'hf://<owner>/<repo>[/<subfolder>][@<revision>]'",
    "or a local folder with config.json and safetensors weights",
)

#: Files that identify embedded encoders of diffusers and of open_clip.
CLIP_CONFIG = "open_clip_config.json"
MARKERS = ("config.json", CLIP_CONFIG)

#: Encoders of single images, by the library that has them.
LIBRARIES = ("open_clip", "transformers")

PIXELS = re.compile(r"pixels(?::(\d+))?")
HUB = re.compile(r"hf://([^/@]+/[^/@]+)(?:/([^@]+?))?/?(?:@(.+))?")
_COMMIT = re.compile(r"@[0-9a-f]{40}$")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_encoder(spec: str) -> None:
    """Raises `ValueError` for what can be no encoder's name; nothing is downloaded."""
    spec = str(spec)
    library, _, name = spec.partition(":")
    bare = spec.removeprefix("random:")
    if library in LIBRARIES and name:
        return
    if not (PIXELS.fullmatch(spec) or HUB.fullmatch(bare) or folder_of(bare)):
        raise ValueError(
            f"unknown encoder {spec!r}{_hint(bare)}; it must be {', '.join(FORMS)}"
        )


def check_device(device: str) -> None:
    """Raises `ValueError` for what is no device; whether it is there, torch knows."""
    if not isinstance(device, str) or _DEVICE.fullmatch(device) is None:
        raise ValueError(f"expected auto, cpu, cuda or cuda:<index>, got {device!r}")


def check_dtype(dtype: str) -> None:
    """Raises `ValueError` for what is no type that models compute in."""
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"expected float32, float16 or bfloat16, got {dtype!r}")


def is_pinned(spec: str) -> bool:
    """Whether a name always stands for the same encoder.

    Folders and the models of this package are local; on the Hub, only a commit is
    immutable.
    """
    bare = spec.removeprefix("random:")
    if bare.startswith("hf://"):
        return _COMMIT.search(bare) is not None
    library, _, name = bare.partition(":")
    if library not in LIBRARIES:
        return True
    return Path(name).expanduser().exists() or _COMMIT.search(name) is not None


def embedded_encoders() -> list[str]:
    """The names of the models that come with this package."""
    return [*embedded_folders(MARKERS)]


def folder_of(spec: str) -> Path | None:
    """The folder of an embedded name or a path, or None.

    Raises:
        ValueError: No model of that name comes with this package.
    """
    if spec.startswith("embedded:"):
        return embedded_folder(spec, MARKERS, "encoder")
    path = Path(spec).expanduser()
    return path.resolve() if path.is_dir() else None


def _hint(spec: str) -> str:
    """A hint for names that consist of an owner and a repository only."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", spec):
        return ""
    return (
        f" (for a model of the Hub write 'hf://{spec}' if it is a video VAE, or "
        f"'transformers:{spec}' if it looks at single images)"
    )
