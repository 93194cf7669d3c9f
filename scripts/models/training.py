"""What the training scripts share: one step by the clock, and files put in place."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


def log(line: str) -> None:
    """A line that is seen at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def descend(
    loss: torch.Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, rate: float
) -> None:
    """One step of the optimizer at a learning rate, its gradient cut to 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files are moved into another when all are written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        yield Path(scratch)
        for file in [path for path in Path(scratch).rglob("*") if path.is_file()]:
            file.chmod(0o644)  # safetensors makes its files private
            there = folder / file.relative_to(scratch)
            there.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, there)


def write_json(path: Path, value: Any) -> None:
    """As people and version control like to read it."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def forget_origin(config: Path) -> None:
    """Takes out of a model's config where it lay on this machine: nobody's business."""
    named = json.loads(config.read_text())
    named.pop("_name_or_path", None)
    write_json(config, named)
