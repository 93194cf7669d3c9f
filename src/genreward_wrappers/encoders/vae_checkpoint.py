"""Loads the encoder of a video VAE from its configuration and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreward_wrappers.encoders.strict_loading import (
    check_weights,
    hash_tensors,
    misshapen,
    opened,
    shapes_of,
)
from genreward_wrappers.encoders.video_vae import (
    ENCODERS,
    VideoVAEEncoder,
    encoder_part,
)
from genreward_wrappers.extras import require

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
HUB_PATTERNS = ("config.json", WEIGHTS, INDEX, "diffusion_pytorch_model-*.safetensors")
DECODER_PARTS = ("decoder.", "post_quant_conv.")

#: The seed of the weights of untrained models, which are the same every time.
UNTRAINED_SEED = 0


def load_video_vae(
    folder_or_id: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    size: tuple[int, int] | None = None,
    keep_decoder: bool = False,
    source: str | None = None,
    untrained: bool = False,
    download: bool = True,
) -> VideoVAEEncoder:
    """Loads a video VAE's encoder from a folder or from the Hugging Face Hub.

    Args:
        folder_or_id: A local folder, or a Hub id such as "THUDM/CogVideoX-5b-I2V".
        subfolder: The model's folder inside it, "vae" for that id.
        revision: A branch, tag or commit of the repository on the Hub.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type to compute in; float32 by default.
        size: Height and width of the model's input; by default the configuration's
            `sample_height` and `sample_width`, which Wan's does not have.
        keep_decoder: Whether to load the decoder as well, as `encoder.model.decode`.
        source: The name to record as the encoder's source; by default the one given.
        untrained: Whether to use random weights, the same every time, as a control for
            the effect of training.
        download: Whether it may be downloaded from the Hub.

    Raises:
        ImportError: diffusers is not installed.
        FileNotFoundError: A file is missing, or the Hub cannot be reached.
        ValueError: The configuration or the weights are not those of a known model.
    """
    diffusers = require("diffusers", "video", "video VAEs need diffusers")
    folder = Path(folder_or_id).expanduser()
    if folder.is_dir():
        folder = folder / (subfolder or "")
        source = source or str(folder)
    else:
        source = source or _hub_source(str(folder_or_id), subfolder, revision)
        source = f"random:{source}" if untrained else source
        folder = _download(str(folder_or_id), subfolder, revision, download)
    config = _read_config(folder)
    name = config.get("_class_name")
    if name not in ENCODERS:
        raise ValueError(
            f"{folder / 'config.json'} is of {name!r}; the video VAEs that are known "
            f"are {', '.join(ENCODERS)}"
        )
    kind = getattr(diffusers, name)
    sha256: str | None = None
    if untrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(UNTRAINED_SEED)
            model = kind.from_config(config)
    else:
        weights = _read_weights(folder, keep_decoder)
        sha256 = hash_tensors(encoder_part(weights.items()))
        # Nothing is allocated or initialised before the weights are assigned.
        with torch.device("meta"):
            model = kind.from_config(config)
    if not keep_decoder:
        model.decoder = model.post_quant_conv = None
    if not untrained:
        wanted, there = shapes_of(model.state_dict()), shapes_of(weights)
        check_weights(
            f"{folder} ({name})",
            wanted.keys() - there.keys(),
            there.keys() - wanted.keys(),
            misshapen(there, wanted),
        )
        model.load_state_dict(weights, strict=True, assign=True)
    if size is None and "sample_height" in config and "sample_width" in config:
        size = (config["sample_height"], config["sample_width"])
    encoder = ENCODERS[name](
        model, size=size, device=device, dtype=dtype, sha256=sha256, source=source
    )
    encoder.control = untrained
    return encoder


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        inside = sorted(p.parent.name for p in folder.glob("*/config.json"))
        hint = f"; folders inside that have one: {', '.join(inside)}" if inside else ""
        raise FileNotFoundError(f"there is no config.json in {folder}{hint}")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _read_weights(folder: Path, keep_decoder: bool) -> dict[str, Tensor]:
    """The tensors of a folder's safetensors file, or of several with an index."""
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    else:
        files = [WEIGHTS]
    for name in files:
        if not (folder / name).is_file():
            found = sorted(
                p.name for p in folder.glob("*.*") if p.name != "config.json"
            )
            raise FileNotFoundError(
                f"there is no {name} in {folder}, which has {found or 'no weights'}; "
                "only safetensors are read, as other formats can run code: load the "
                "model with diffusers where you trust it, and save_pretrained() it"
            )
    weights = {}
    for name in files:
        with opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                if keep_decoder or not key.startswith(DECODER_PARTS):
                    # A clone, as the tensor is a view of the file: overwriting the
                    # file would change, or crash, a model in use.
                    weights[key] = file.get_tensor(key).clone()
    return weights


def _hub_source(repository: str, subfolder: str | None, revision: str | None) -> str:
    tail = f"/{subfolder}" if subfolder else ""
    return f"hf://{repository}{tail}{f'@{revision}' if revision else ''}"


def _download(
    repository: str, subfolder: str | None, revision: str | None, download: bool
) -> Path:
    """Downloads a model's files from the Hub, or finds them in its cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    prefix = f"{subfolder}/" if subfolder else ""
    try:
        snapshot = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[prefix + pattern for pattern in HUB_PATTERNS],
            local_files_only=not download,
        )
    except HFValidationError as error:
        raise ValueError(
            f"{repository!r} is neither a local folder nor a hub id 'owner/repo'"
        ) from error
    except OSError as error:
        # All errors of the Hub, including being offline, are OSErrors.
        include = f" --include '{prefix}*'" if prefix else ""
        pinned = f" --revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"cannot get {repository!r} (subfolder {subfolder}, revision {revision}) "
            f"from the Hugging Face hub: {error}\nWhere the hub can be reached, run\n"
            f"  hf download {repository}{include}{pinned} --local-dir <folder>\n"
            f"and give the local folder, '<folder>/{subfolder or ''}', instead."
        ) from error
    return Path(snapshot) / (subfolder or "")
