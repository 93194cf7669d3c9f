"""`Prior`: a codec, a prior over its codes, and how they were made, in one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from genreward_wrappers.data.files import FileError, Layout, load_tensors, save_tensors
from genreward_wrappers.data.schema import Each, Record, fault, record_of
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.training.checkpoint import load_weights, weight_arrays
from genreward_wrappers.training.priors.transformer import PriorConfig, VideoTransformer
from genreward_wrappers.training.priors.vq import VQCodec, VQConfig
from genreward_wrappers.training.priors.vq_diffusion import DiffusionConfig, VQDiffusion

#: The prior of each method, its configuration, and the command that trains it.
KINDS: Mapping[str, tuple[type[Any], type[Any]]] = {
    "viper": (VideoTransformer, PriorConfig),
    "diffusion-reward": (VQDiffusion, DiffusionConfig),
}


LAYOUT = Layout(
    "genreward_prior",
    "video prior",
    "genreward train-viper",
    schema=1,
    header=Record(
        {
            "kind": str,
            "codec": record_of(VQConfig, layers=64, channels=1 << 12),
            # That of its kind, which is looked at next.
            "net": dict,
            "statistics": Each(float),
            "provenance": dict,
        }
    ),
)


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
            "kind": self.kind,
            "codec": dataclasses.asdict(self.codec.config),
            "net": dataclasses.asdict(self.net.config),
            "statistics": dict(self.statistics),
            "provenance": dict(self.provenance),
        }
        modules = {"codec": self.codec, "net": self.net}
        save_tensors(Path(path), weight_arrays(modules), LAYOUT, header)

    @classmethod
    def load(
        cls, path: str | PathLike[str], kind: str | None = None, device: str = "auto"
    ) -> Prior:
        """Reads what `save` wrote.

        Args:
            path: The file.
            kind: The expected kind; None accepts any.
            device: "auto", "cpu", "cuda" or "cuda:<index>".

        Raises:
            FileError: It is missing, damaged or of another kind, or its weights do not
                fit its configuration.
        """
        path = Path(path)
        command = f"genreward train-{kind or 'viper'}"
        tensors, header = load_tensors(path, LAYOUT.made_by(command))
        if kind is not None and header["kind"] != kind:
            raise FileError(
                f"{path} is the prior of {header['kind']!r}, expected one of "
                f"{kind!r}: make it with {command}"
            )
        where = resolve_device(device)
        try:
            check_kind(header["kind"])
            build, config = KINDS[header["kind"]]
            said = fault(header["net"], record_of(config, layers=64), "net")
            if said:
                raise ValueError(said)
            shape = VQConfig(**header["codec"]), config(**header["net"])
            # Without memory at first: a configuration may say anything.
            with torch.device("meta"):
                empty = {"codec": VQCodec(shape[0]), "net": build(shape[1])}
                load_weights(empty, tensors)
            codec, net = VQCodec(shape[0]), build(shape[1])
            load_weights({"codec": codec, "net": net}, tensors)
            return cls(
                header["kind"],
                codec.to(where),
                net.to(where),
                header["statistics"],
                header["provenance"],
            )
        except (ValueError, OverflowError, ZeroDivisionError) as error:
            raise FileError(f"{path} is no valid video prior: {error}") from error


def check_kind(kind: str) -> None:
    """Raises unless there is such a prior."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
