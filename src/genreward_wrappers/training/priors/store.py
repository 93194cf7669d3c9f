"""`Prior`: a codec, a prior over its codes and what is known of both, in one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from genreward_wrappers.data.files import FileError, load_tensors, save_tensors
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.training.checkpoint import load_weights, weight_arrays
from genreward_wrappers.training.priors.transformer import PriorConfig, VideoTransformer
from genreward_wrappers.training.priors.vq import VQCodec, VQConfig
from genreward_wrappers.training.priors.vq_diffusion import DiffusionConfig, VQDiffusion

KEY = "genreward_prior"
SCHEMA = 1

#: The prior of each method, its configuration, and the command that trains it.
KINDS: Mapping[str, tuple[type[Any], type[Any]]] = {
    "viper": (VideoTransformer, PriorConfig),
    "diffusion-reward": (VQDiffusion, DiffusionConfig),
}


@dataclass(frozen=True, eq=False)
class Prior:
    """A trained codec and prior. Its nets are frozen.

    Attributes:
        kind: "viper" or "diffusion-reward".
        codec: Frames to codes.
        net: The prior over codes.
        statistics: ``mean`` and ``std`` of the reward over the training videos.
        provenance: What it was trained on, and how.
    """

    kind: str
    codec: VQCodec
    net: Any
    statistics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind(self.kind)
        codec, net = self.codec.config, self.net.config
        if (codec.codes, codec.positions) != (net.codes, net.positions):
            raise ValueError(
                f"a codec of {codec.codes} codes at {codec.positions} positions does "
                f"not fit a prior of {net.codes} at {net.positions}"
            )
        for module in (self.codec, self.net):
            module.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the nets are."""
        return self.codec.device

    def save(self, path: str | PathLike[str]) -> None:
        """Writes everything, all or nothing."""
        header = {
            "schema": SCHEMA,
            "kind": self.kind,
            "codec": dataclasses.asdict(self.codec.config),
            "net": dataclasses.asdict(self.net.config),
            "statistics": dict(self.statistics),
            "provenance": dict(self.provenance),
        }
        modules = {"codec": self.codec, "net": self.net}
        save_tensors(Path(path), weight_arrays(modules), KEY, header)

    @classmethod
    def load(
        cls, path: str | PathLike[str], kind: str | None = None, device: str = "auto"
    ) -> Prior:
        """Reads what `save` wrote.

        Args:
            path: The file.
            kind: What is expected, None for any.
            device: "auto", "cpu", "cuda" or "cuda:<index>".

        Raises:
            FileError: It is missing, damaged, of another kind, or its weights are not
                those that its configuration has.
        """
        path = Path(path)
        command = f"genreward train-{kind or 'viper'}"
        tensors, header = load_tensors(path, KEY, "video prior", command, SCHEMA)
        if kind is not None and header.get("kind") != kind:
            raise FileError(
                f"{path} is the prior of {header.get('kind')!r}, expected one of "
                f"{kind!r}: make it with {command}"
            )
        where = resolve_device(device)
        try:
            build, config = KINDS[header["kind"]]
            codec = VQCodec(VQConfig(**header["codec"]))
            net = build(config(**header["net"]))
            load_weights({"codec": codec, "net": net}, tensors)
            return cls(
                header["kind"],
                codec.to(where),
                net.to(where),
                header["statistics"],
                header["provenance"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{path} is no valid video prior: {error}") from error


def check_kind(kind: str) -> None:
    """Raises unless there is such a prior."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
