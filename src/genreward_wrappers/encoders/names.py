"""The names of encoders, devices and types: what is wrong with one is said at once.

Nothing here imports torch, so that a misspelled name costs no seconds.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from genreward_wrappers.checks import did_you_mean
from genreward_wrappers.data.files import embedded_folder, embedded_folders
from genreward_wrappers.encoders.weight_files import check_complete

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
CLIP_CONFIG, CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
MARKERS = ("config.json", CLIP_CONFIG)
#: What the configuration of a pose reader calls its class.
POSE = "PoseReader"

#: Encoders of single images, by the library that has them.
LIBRARIES = ("open_clip", "transformers")

PIXELS = re.compile(r"pixels(?::(\d+))?")
HUB = re.compile(r"hf://([^/@]+/[^/@]+)(?:/([^@]+?))?/?(?:@(.+))?")
_COMMIT = re.compile(r"@[0-9a-f]{40}$")
# "cpu:0" is how accelerate names the CPU.
_DEVICE = re.compile(r"auto|cpu(:0)?|cuda(:\d+)?")


def check_encoder(spec: str) -> None:
    """Raises for what can be no encoder's name; nothing is downloaded.

    Raises:
        FileNotFoundError: A local model lacks a file.
        ValueError: There is no such encoder, or its weights are damaged.
    """
    spec = str(spec)
    library, _, name = spec.partition(":")
    bare = spec.removeprefix("random:")
    if library == "open_clip" and name:
        files = clip_files(name)
        if files:
            check_complete(files[1:])
        else:
            _check_clip_name(name)
        return
    local = library in LIBRARIES and name
    folder = folder_of(name if local else bare)
    if not (local or PIXELS.fullmatch(spec) or HUB.fullmatch(bare) or folder):
        raise ValueError(
            f"unknown encoder {spec!r}{_hint(bare)}; it must be {', '.join(FORMS)}"
        )
    # An untrained twin has no weights to read.
    if folder and bare == spec:
        check_complete(folder.glob("*.safetensors"))


def clip_files(name: str) -> tuple[Path, Path] | None:
    """The configuration and the weights of a local model of open_clip.

    None if the name is no path.

    Raises:
        FileNotFoundError: One of them is missing.
    """
    path = Path(name).expanduser()
    if not (path.is_dir() or path.suffix == ".safetensors"):
        return None
    folder = path if path.is_dir() else path.parent
    files = folder / CLIP_CONFIG, folder / CLIP_WEIGHTS if path.is_dir() else path
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no {file.name} in {file.parent}: a model of open_clip "
                f"is a folder with {CLIP_CONFIG} and {CLIP_WEIGHTS}; other formats can "
                "run code and are not read"
            )
    return files


def _check_clip_name(spec: str) -> None:
    """Raises unless open_clip has such a model; which tags it has, only torch knows.

    Importing open_clip imports torch, but its models are one file each.
    """
    loaded = sys.modules.get("open_clip")
    found = None if loaded else find_spec("open_clip")
    models: list[str] = loaded.list_models() if loaded else []
    if found and found.origin:
        folder = Path(found.origin).parent / "model_configs"
        models = [file.stem for file in folder.glob("*.json")]
    name = spec.rpartition("/")[0] or spec
    # Without any, open_clip is missing, which loading it will say.
    if models and name not in models:
        raise ValueError(
            f"open_clip:{spec} is neither a folder, nor a safetensors file, nor "
            f"<model>/<pretrained tag>: open_clip has no model {name!r}"
            f"{did_you_mean(name, models, 3)}"
        )


def check_device(device: str) -> None:
    """Raises `ValueError` for what is no device; whether it is there, torch knows.

    Nothing here has been tried on torch's devices of other kinds.
    """
    if not isinstance(device, str) or _DEVICE.fullmatch(device) is None:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}"
        )


def check_dtype(dtype: str) -> None:
    """Raises `ValueError` for what is no type that models compute in."""
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(
            f"dtype must be 'float32', 'float16' or 'bfloat16', got {dtype!r}"
        )


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


def class_of(folder: Path) -> str:
    """The class that the configuration in a model's folder names; empty if none."""
    path = folder / "config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # What is missing or damaged is said by what loads it.
        return ""
    return str(said.get("_class_name", "")) if isinstance(said, dict) else ""


def _hint(spec: str) -> str:
    """A hint for names that consist of an owner and a repository only."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", spec):
        return ""
    return (
        f" (for a model of the Hub write 'hf://{spec}' if it is a video VAE, or "
        f"'transformers:{spec}' if it looks at single images)"
    )
