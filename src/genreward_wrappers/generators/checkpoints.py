"""Finds and loads the pipelines and LoRA weights of diffusers, from folders or the hub.

What is missing is said before anything large is read. Weights are read from safetensors
alone, and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genreward_wrappers.data.files import hash_file
from genreward_wrappers.encoders import strict_loading
from genreward_wrappers.extras import require
from genreward_wrappers.generators.quantisation import quantisation
from genreward_wrappers.generators.settings import INDEX, check_source, local_folder

#: Beside its index, if its maker has a say: what its pipeline is best called with.
SAMPLING = "sampling.json"
LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class FoundPipeline:
    """A pipeline that is on this machine with all its parts.

    Attributes:
        source: What the user called it.
        folder: Where it is.
        kind: The class to load it as.
        revision: The hub's commit, or the hash of a local folder's parts.
    """

    source: str
    folder: Path
    kind: Any
    revision: str

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of one of its models; empty if it has no such part."""
        path = self.folder / part / "config.json"
        if not path.is_file():
            return {}
        config: dict[str, Any] = _read_json(path)
        return config

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of the pipeline that its maker sets otherwise than its class."""
        path = self.folder / SAMPLING
        found = _read_json(path) if path.is_file() else {}
        if not isinstance(found, dict):
            raise ValueError(
                f'{path}: expected {{"<argument>": <value>, ...}}, got {found!r}'
            )
        return found

    @property
    def parts(self) -> dict[str, str]:
        """Its parts, with their classes."""
        return _parts(self.folder)

    def hash_of(self, *parts: str) -> str:
        """The hash of some of its parts, wherever they came from."""
        return _hash_files(self.folder, parts)

    def compression(self) -> tuple[int, int]:
        """By how much the VAE shrinks space and time; 0 where it does not say."""
        config = self.config("vae")
        name = config.get("_class_name")
        if name == "AutoencoderKLCogVideoX":
            space = 2 ** (len(config["block_out_channels"]) - 1)
            return space, int(config["temporal_compression_ratio"])
        space = config.get("scale_factor_spatial")
        time = config.get("scale_factor_temporal")
        if name == "AutoencoderKLWan":
            # Those of Wan 2.1 were saved before the configuration said it.
            return int(space or 8), int(time or 4)
        space = space or config.get("spatial_compression_ratio")
        time = time or config.get("temporal_compression_ratio")
        return int(space or 0), int(time or 0)


@dataclass(frozen=True)
class FoundLora:
    """A file of LoRA weights, and its hash."""

    path: Path
    sha256: str


def import_diffusers() -> Any:
    """The package, with what its video pipelines need.

    Raises:
        ImportError: It is not there.
    """
    for module in ("PIL", "transformers", "diffusers"):
        found = require(
            module,
            "video,features",
            "generating videos needs diffusers, transformers and pillow",
        )
    return found


def find_pipeline(source: str, revision: str | None, kind: str = "") -> FoundPipeline:
    """Finds a pipeline, fetching it from the hub if it is not here.

    Args:
        source: A local folder, a hub id, or ``embedded:<name>``, a pipeline that comes
            with this package.
        revision: Of the hub's repository.
        kind: A class of diffusers to load it as.

    Raises:
        FileNotFoundError: It is neither here nor can it be fetched.
        ValueError: Parts are missing, or the class is none of diffusers.
    """
    diffusers = import_diffusers()
    folder = local_folder(source)
    if folder is not None:
        if revision is not None:
            raise ValueError(
                f"revision={revision!r}: {source} is a local folder, which has none"
            )
        _check_parts(folder)
        return FoundPipeline(
            source, folder, _class(diffusers, folder, kind), _hash_files(folder)
        )
    check_source(source)
    try:
        fetched = Path(
            diffusers.DiffusionPipeline.download(
                source,
                revision=revision,
                use_safetensors=True,
                trust_remote_code=False,
            )
        )
    except ImportError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        at = f" --revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"cannot fetch {source} from the Hugging Face Hub ({type(error).__name__}: "
            f"{said}). Without a network, fetch it elsewhere with: hf download "
            f"{source}{at} --local-dir FOLDER; and give the folder instead of the id"
        ) from error
    _check_parts(fetched)
    # The hub's cache names a snapshot's folder by its commit.
    return FoundPipeline(
        source, fetched, _class(diffusers, fetched, kind), fetched.name
    )


def load_pipeline(
    found: FoundPipeline,
    dtype: Any,
    *,
    without: Sequence[str] = (),
    quantise: str = "none",
) -> Any:
    """Loads a pipeline onto the CPU.

    Args:
        found: Which one.
        dtype: What it computes in.
        without: Parts to leave out.
        quantise: How many bits its large parts are kept in; see `quantised`.

    Raises:
        ValueError: Its files do not fit the class.
    """
    quantised = None
    if quantise != "none":
        quantised = quantisation(quantise, _parts(found.folder), dtype).quant_mapping
    alone = importlib.util.find_spec("accelerate") is None
    try:
        with warnings.catch_warnings(), _no_bars():
            # Newer versions call it dtype, older ones do not know that name.
            warnings.filterwarnings("ignore", message=".*torch_dtype")
            return strict_loading.load_pipeline(
                found.kind,
                found.folder,
                dtype,
                without=without,
                quantised=quantised,
            )
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise
        if alone and "low_cpu_mem_usage" in str(error):
            # Models that keep some of their parts in float32 load no other way.
            raise ImportError(
                f"{found.source} needs accelerate to be loaded: "
                'pip install "genreward-wrappers[finetune]"'
            ) from error
        raise ValueError(
            f"{found.source} does not load as a {found.kind.__name__} "
            f"({type(error).__name__}: {error})"
        ) from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keeps diffusers and transformers from drawing bars on somebody's terminal."""
    import diffusers
    import transformers

    shown = [
        logging
        for logging in (diffusers.utils.logging, transformers.utils.logging)
        if logging.is_progress_bar_enabled()
    ]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()


def find_lora(source: str) -> FoundLora:
    """Finds LoRA weights: a file, a folder with one, or a hub id.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are no safetensors file.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        named = path / LORA_FILE
        if not named.is_file() and len(files) != 1:
            raise FileNotFoundError(
                f"{path} holds no {LORA_FILE} and {len(files)} other .safetensors: "
                "give the file itself"
            )
        path = named if named.is_file() else files[0]
    elif not path.is_file():
        path = _fetch_lora(source)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: LoRA weights are read from .safetensors alone")
    require("peft", "finetune", "LoRA weights need peft")
    return FoundLora(path, hash_file(path))


def load_lora(pipeline: Any, lora: FoundLora, scale: float) -> None:
    """Adds LoRA weights to a pipeline.

    Raises:
        ValueError: They are none, or those of another model.
    """
    name = type(pipeline).__name__
    if not hasattr(pipeline, "load_lora_weights"):
        raise ValueError(f"{name} takes no LoRA weights")
    try:
        pipeline.load_lora_weights(
            str(lora.path.parent),
            weight_name=lora.path.name,
            adapter_name="lora",
            use_safetensors=True,
        )
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{lora.path} holds no LoRA weights for {name} ({error})"
        ) from error
    # Weights whose names fit nothing are passed over with no more than a warning.
    if not any("lora" in names for names in pipeline.get_list_adapters().values()):
        raise ValueError(f"none of the LoRA weights in {lora.path} fit {name}")
    pipeline.set_adapters(["lora"], [scale])


def _fetch_lora(source: str) -> Path:
    if source.count("/") != 1 or source[0] in "./~":
        raise FileNotFoundError(f"there are no LoRA weights at {source}")
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(source, LORA_FILE))
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"there are no LoRA weights at {source}, and {source}/{LORA_FILE} cannot "
            f"be fetched from the Hugging Face Hub ({type(error).__name__}: {said}). "
            "Without a network, fetch the file elsewhere and give its path"
        ) from error


def _class(diffusers: Any, folder: Path, kind: str) -> Any:
    name = kind or str(_read_json(folder / INDEX).get("_class_name", ""))
    found = getattr(diffusers, name, None) if name else None
    if not isinstance(found, type) or not issubclass(
        found, diffusers.DiffusionPipeline
    ):
        where = "--pipeline" if kind else f"the _class_name in {folder / INDEX}"
        raise ValueError(
            f"{where} is {name!r}, expected a pipeline of diffusers "
            f"{diffusers.__version__}, as CogVideoXImageToVideoPipeline"
        )
    return found


def _check_parts(folder: Path) -> None:
    """Raises if the folder is no pipeline, or names the parts that it lacks."""
    index = folder / INDEX
    if not index.is_file():
        raise ValueError(
            f"{folder} has no {INDEX}: expected the folder of a whole pipeline, as "
            "save_pretrained writes it or hf download fetches it"
        )
    faults = []
    for name, kind in _parts(folder).items():
        fault = _fault(folder / name, kind)
        if fault:
            faults.append(f"{name} ({kind}): {fault}")
    if faults:
        raise ValueError(f"{folder} lacks parts: " + "; ".join(faults))


def _parts(folder: Path) -> dict[str, str]:
    """The parts that a pipeline has, with their classes."""
    return {
        name: part[1]
        for name, part in _read_json(folder / INDEX).items()
        # Others are options; a part that a pipeline does without has two nulls.
        if isinstance(part, list) and len(part) == 2 and isinstance(part[1], str)
    }


def _fault(folder: Path, kind: str) -> str:
    """Why a part cannot be loaded; empty if nothing speaks against it."""
    if not folder.is_dir():
        return f"there is no folder {folder.name}"
    if "Tokenizer" in kind or kind.endswith("Processor"):
        there = any(folder.glob("*.json")) or any(folder.glob("*.model"))
        return "" if there else "its folder is empty"
    if kind.endswith("Scheduler"):
        config = "scheduler_config.json"
        return "" if (folder / config).is_file() else f"no {config}"
    if not (folder / "config.json").is_file():
        return "no config.json"
    if any(folder.glob("*.safetensors")):
        return _missing_shards(folder)
    pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
    return "no .safetensors" + (", and pickles are never read" if pickles else "")


def _missing_shards(folder: Path) -> str:
    for index in folder.glob("*.safetensors.index.json"):
        wanted = set(_read_json(index).get("weight_map", {}).values())
        missing = sorted(name for name in wanted if not (folder / name).is_file())
        if missing:
            return "no " + ", no ".join(missing)
    return ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error


def _hash_files(folder: Path, parts: Iterable[str] | None = None) -> str:
    """A hash over parts of a pipeline, whose weights may change under one name.

    Args:
        folder: Of the pipeline.
        parts: Which; None is all of them, and the index.
    """
    digest = hashlib.sha256()
    # Beside the parts there may lie the same weights in other formats.
    names = _parts(folder) if parts is None else parts
    inside = [path for name in names for path in (folder / name).rglob("*")]
    for path in sorted(inside if parts is not None else [folder / INDEX, *inside]):
        if path.is_file() and path.suffix in (
            ".json",
            ".safetensors",
            ".model",
            ".txt",
        ):
            digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(hash_file(path).encode())
    return "sha256:" + digest.hexdigest()
