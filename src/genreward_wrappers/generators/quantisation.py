"""Large parts of a pipeline in fewer bits, by diffusers' own quantisation.

"int8" keeps the matrices' weights in 8 bits (torchao, on any device), "nf4" in 4 bits
(bitsandbytes, on a GPU). The computation uses the pipeline's dtype. The denoiser and
the text encoders are quantised, which are nearly all of a pipeline; the VAE is not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

#: The package that each kind needs in addition to accelerate.
KINDS = {"int8": "torchao", "nf4": "bitsandbytes"}

_LARGE = ("transformer", "unet", "text_encoder")


def check_quantised(kind: str, device_type: str) -> None:
    """Raises unless pipelines can be quantised in this way on this machine.

    Args:
        kind: "none", or one of `KINDS`.
        device_type: The type of the pipeline's device.

    Raises:
        ImportError: A package is missing.
        ValueError: There is no such kind, or not on this device.
    """
    if kind == "none":
        return
    if kind not in KINDS:
        raise ValueError(
            f"quantise={kind!r}: expected one of {', '.join(('none', *KINDS))}"
        )
    if kind == "nf4" and device_type == "cpu":
        raise ValueError(
            "quantise='nf4' needs a GPU, and the device is the CPU: take 'int8', or "
            "leave it at 'none'"
        )
    for package in (KINDS[kind], "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"--quantise {kind} needs {package}: "
                'pip install "genreward-wrappers[quantise]"'
            )


def quantisation(kind: str, parts: Iterable[str], dtype: Any) -> Any:
    """The ``quantization_config`` for a pipeline's ``from_pretrained``.

    Args:
        kind: One of `KINDS`.
        parts: The names of the pipeline's parts.
        dtype: The precision of the computation.
    """
    import diffusers
    import transformers
    from diffusers.quantizers import PipelineQuantizationConfig

    def config(library: Any) -> Any:
        if kind == "int8":
            from torchao.quantization import Int8WeightOnlyConfig

            return library.TorchAoConfig(Int8WeightOnlyConfig())
        return library.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )

    # A part's library has its own class for the same thing.
    return PipelineQuantizationConfig(
        quant_mapping={
            name: config(transformers if name.startswith("text_encoder") else diffusers)
            for name in parts
            if name.startswith(_LARGE)
        }
    )
