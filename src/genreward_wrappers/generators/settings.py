"""Which generator is loaded, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genreward_wrappers.data.files import embedded_folder
from genreward_wrappers.encoders.weight_files import check_complete

#: The file that identifies a pipeline's folder.
INDEX = "model_index.json"


@dataclass(frozen=True)
class Model:
    """Which generator to load, and how it is kept in memory.

    Attributes:
        source: A local folder with a ``model_index.json``, a hub id, or
            ``embedded:<name>``.
        revision: A branch, tag or commit of the hub's repository.
        kind: The class of diffusers to load it as; empty is the one that it was saved
            as.
        lora: A file or folder with LoRA weights, or a hub id; empty loads none.
        lora_scale: The factor that they are added with.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The precision of the computation; None is bfloat16 on a GPU, otherwise
            float32.
        offload: "none"; "model" keeps one part at a time on the GPU, "sequential" one
            layer, which is slow.
        tiling: Whether the VAE works on tiles of the picture, one after the other.
        slicing: Whether the VAE works on one video of a batch at a time.
        quantise: "none"; "int8" or "nf4" keeps the large parts in 8 or 4 bits.
    """

    source: str
    revision: str | None = None
    kind: str = ""
    lora: str = ""
    lora_scale: float = 1.0
    device: str = "auto"
    dtype: str | None = None
    offload: str = "none"
    tiling: bool = False
    slicing: bool = False
    quantise: str = "none"


@dataclass(frozen=True)
class Sampling:
    """The arguments of a generator's call; None takes the pipeline's own default.

    Attributes:
        prompt: The task in words.
        negative: What the video should not show.
        steps: The number of denoising steps.
        guidance: The scale of classifier-free guidance.
        frames: The number of frames of the video.
        size: (height, width) of the video.
        more: Further arguments of the pipeline by name.
    """

    prompt: str
    negative: str = ""
    steps: int | None = None
    guidance: float | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    more: Mapping[str, Any] | None = None


def local_folder(source: str) -> Path | None:
    """The folder that a source stands for, if it is one or an embedded name.

    Raises:
        ValueError: There is no embedded generator of that name.
    """
    if source.startswith("embedded:"):
        return embedded_folder(source, (INDEX,), "generator")
    folder = Path(source).expanduser()
    return folder if folder.is_dir() else None


def check_source(source: str) -> None:
    """Raises for what can be no pipeline; nothing is downloaded.

    Raises:
        FileNotFoundError: It is neither a folder nor of a hub id's form.
        ValueError: There is no embedded generator of that name, or weights of the
            folder are damaged.
    """
    folder = local_folder(source)
    if folder is not None:
        check_complete(folder.rglob("*.safetensors"))
        return
    if source.count("/") != 1 or source[0] in "./~" or source.endswith("/"):
        raise FileNotFoundError(
            f"there is no folder {source}, and it is no hub id, as "
            "THUDM/CogVideoX-5b-I2V is"
        )
