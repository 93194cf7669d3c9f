"""Which weights are trained, their average, and how both are written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genreward_wrappers.data.atomic import recover_folder, replacing_folder
from genreward_wrappers.data.files import canonical
from genreward_wrappers.extras import require
from genreward_wrappers.generators.checkpoints import FoundPipeline
from genreward_wrappers.generators.settings import INDEX
from genreward_wrappers.training.finetuning.settings import Finetuning

#: What is written beside the weights, about how they came to be.
CARD = "finetune.json"
#: Where LoRA's matrices go: the attention's own, as published.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
#: At most so much of the average is new after few steps.
WARM_UP = 10


class Weights:
    """The trained weights of a model, in float32, and perhaps their average.

    Attributes:
        module: The model that they are in.
        trained: The weights that are trained, by name.
        average: Their average, by name; empty if none is kept.
    """

    def __init__(
        self, module: nn.Module, training: Finetuning, dtype: torch.dtype
    ) -> None:
        """Says which weights are trained.

        Args:
            module: The transformer or VAE, on its device; it is changed.
            training: How it is trained.
            dtype: The dtype of weights that are not trained.

        Raises:
            ImportError: LoRA needs peft, and it is not there.
        """
        self.module = module
        self.training = training
        if training.method == "lora":
            _add_lora(module, training.rank, training.seed, dtype)
        else:
            cast(module.requires_grad_(True), torch.float32)
        self.trained = {
            name: weight
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }
        self.average: dict[str, Tensor] = {}
        if training.ema:
            self.average = {n: w.detach().clone() for n, w in self.trained.items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Moves the average a little towards the weights.

        Args:
            step: Steps that were done before.
        """
        if self.average:
            keep = min(self.training.ema, (step + 1) / (step + WARM_UP))
            for name, weight in self.trained.items():
                self.average[name].lerp_(weight, 1 - keep)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with the average as its weights, where there is one."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, slow in self.average.items():
            weight = self.trained[name]
            weight.data, self.average[name] = slow, weight.data

    def save(
        self, found: FoundPipeline, kind: Any, output: Path, card: Mapping[str, Any]
    ) -> None:
        """Writes the weights as a folder, all or nothing; an old one is replaced.

        Args:
            found: The pipeline that was fine-tuned.
            kind: Its class.
            output: The folder.
            card: What to say about how they came to be.
        """
        with replacing_folder(output) as scratch:
            with self.averaged():
                if self.training.method == "lora":
                    self._save_lora(kind, scratch)
                else:
                    self._save_whole(found, scratch)
            (scratch / CARD).write_text(canonical(card) + "\n")

    def _save_lora(self, kind: Any, folder: Path) -> None:
        from peft.utils import get_peft_model_state_dict

        layers = get_peft_model_state_dict(self.module)
        kind.save_lora_weights(str(folder), transformer_lora_layers=layers)

    def _save_whole(self, found: FoundPipeline, folder: Path) -> None:
        """The pipeline's other parts as they are, and the new weights."""
        tuned = "vae" if self.training.method == "vae" else "transformer"
        for name in found.parts:
            if name != tuned:
                shutil.copytree(found.folder / name, folder / name)
        shutil.copyfile(found.folder / INDEX, folder / INDEX)
        # In the precision that the pipeline had before.
        dtype = _dtype_of(found.folder / tuned)
        module: Any = self.module
        exact = {name: weight.data for name, weight in self.trained.items()}
        try:
            for weight in self.trained.values():
                weight.data = weight.data.to(dtype)
            module.save_pretrained(folder / tuned)
        finally:
            for name, weight in self.trained.items():
                weight.data = exact[name]


def check_output(output: Path) -> None:
    """Raises if there is something at the output that fine-tuning did not write.

    What a run that was killed had moved away from there is put back first.
    """
    recover_folder(output)
    if output.is_file() or (
        output.is_dir() and any(output.iterdir()) and not (output / CARD).is_file()
    ):
        raise ValueError(
            f"{output} is there already, and no fine-tuned weights of an earlier run: "
            "give another output"
        )


def cast(module: Any, dtype: torch.dtype) -> Any:
    """A model of diffusers in another precision, which it warns of where it has it."""
    return module if module.dtype == dtype else module.to(dtype)


def import_peft() -> Any:
    """The package.

    Raises:
        ImportError: It is not there.
    """
    return require("peft", "finetune", "LoRA needs peft")


def _add_lora(transformer: Any, rank: int, seed: int, dtype: torch.dtype) -> None:
    peft = import_peft()
    cast(transformer.requires_grad_(False), dtype)
    config = peft.LoraConfig(
        r=rank,
        # The same number: nothing has to be said where they are loaded.
        lora_alpha=rank,
        init_lora_weights=True,
        target_modules=list(TARGETS),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    for weight in transformer.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _dtype_of(folder: Path) -> torch.dtype:
    """What the weights of a model are saved in."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor: Tensor = file.get_tensor(name)
                if tensor.is_floating_point():
                    return tensor.dtype
    return torch.float32
