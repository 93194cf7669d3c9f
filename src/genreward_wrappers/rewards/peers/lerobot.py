"""LeRobot's reward models: Robometer, TOPReward and its success classifier.

Weights: whatever LeRobot loads, from a folder or the hub; they and their preprocessing
are LeRobot's own (`lerobot.rewards`, in lerobot 0.6 and later, which needs Python
3.12).

Reward: what the model's `compute_reward` returns. Robometer and TOPReward look at the
episode so far, as `length` frames spread over it, and at a text: progress in [0, 1],
and the log-probability that the text is true of the video. The classifier looks at one
frame: 1 for success.

Paid: every `every` steps. The models are large; every 16 steps is far cheaper than
    every step.

SARM is not supported: it also reads the robot's state, and a `RewardModel` sees only
    frames and actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreward_wrappers.core import (
    Bool,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.data.goals import import_hub
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.encoders.strict_loading import (
    check_weights,
    misshapen,
    shapes_in,
    shapes_of,
)
from genreward_wrappers.encoders.texts import as_texts
from genreward_wrappers.extras import require
from genreward_wrappers.rewards.peers import values
from genreward_wrappers.rewards.peers.history import History, add, begin, sample

#: What LeRobot calls the file of a model's weights.
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class LeRobotMemory:
    """Each row's frames so far; only the first for models of single frames."""

    seen: tuple[History, ...]


class LeRobotReward(RewardModel[LeRobotMemory]):
    """Pays what a reward model of LeRobot returns."""

    name = "lerobot"

    def __init__(
        self,
        variant: str,
        prompt: str | None = None,
        *,
        path: str | None = None,
        every: int = 16,
        length: int = 8,
        device: str = "auto",
    ) -> None:
        """Loads the model.

        Args:
            variant: "robometer", "topreward" or "reward_classifier".
            prompt: The task in words, for the first two.
            path: A folder or hub id of weights; None takes LeRobot's default, which the
                classifier does not have.
            every: The number of steps between two payments.
            length: The number of frames of a video.
            device: "auto", "cpu", "cuda" or "cuda:<index>".

        Raises:
            ImportError: lerobot is not installed, or has no reward models.
            ValueError: There is no such variant, or its text or weights are missing.
        """
        values.lerobot(variant, prompt, path, every, length)
        self._prompt = None if prompt is None else as_texts(prompt)[0]
        self._every, self._length = every, length
        self._reward = _load(variant, path, resolve_device(device), self._prompt)

    def wants(self, steps: Int64) -> Bool:
        """Every step for a video, the paid ones for a frame."""
        if self._prompt is not None:
            return np.ones(len(steps), np.bool_)
        wanted: Bool = steps % self._every == 0
        return wanted

    def reset(
        self, memory: LeRobotMemory | None, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> LeRobotMemory:
        """Begins new videos."""
        return LeRobotMemory(
            begin(None if memory is None else memory.seen, frames, mask)
        )

    def step(
        self, memory: LeRobotMemory, transition: Transition
    ) -> tuple[Score, LeRobotMemory]:
        """Pays every so many steps."""
        t = transition
        due = t.active & (t.steps % self._every == 0)
        seen = memory.seen
        if self._prompt is not None:
            seen = add(seen, t.next_frames, t.active)
        value = np.zeros(len(due), np.float32)
        # One by one: padding to the longest of a batch would change the others.
        for row in np.flatnonzero(due):
            video = (
                t.next_frames[row][None]
                if self._prompt is None
                else sample(seen[row], self._length)
            )
            value[row] = self._reward(torch.from_numpy(video))
        return Score(value, due), LeRobotMemory(seen)


def _load(
    variant: str, path: str | None, device: torch.device, prompt: str | None
) -> Callable[[Tensor], float]:
    """A function from a uint8 video (T, H, W, 3) to its reward."""
    # Its older versions have no such module.
    needs = "reward models of LeRobot need lerobot 0.6 or later (Python 3.12)"
    rewards = require("lerobot.rewards", "lerobot", needs)
    configs = require("lerobot.configs.rewards", "lerobot", needs)
    if path is None:
        config = rewards.make_reward_model_config(variant, device=str(device))
    else:
        config = configs.RewardModelConfig.from_pretrained(path)
        if config.type != variant:
            raise ValueError(
                f"{path!r} holds a {config.type!r} of LeRobot, not a {variant!r}"
            )
        config.device, config.pretrained_path = str(device), path
    model = rewards.make_reward_model(config).eval()
    # TOPReward has no weights of its own and uses a language model.
    if config.pretrained_path:
        _check_loaded(model, config.pretrained_path)
    keys = [config.image_key] if prompt is not None else _cameras(config)
    prepare = None
    if prompt is not None:
        prepare, _ = rewards.make_reward_pre_post_processors(config)

    @torch.inference_mode()
    def reward(video: Tensor) -> float:
        # LeRobot's pictures lie in [0, 1], channels first.
        frames = video.permute(0, 3, 1, 2).float() / 255
        if prepare is None:
            views = torch.tensor_split(frames.to(device), len(keys), dim=-1)
            batch: dict[str, Any] = dict(zip(keys, views, strict=True))
        else:
            batch = prepare({keys[0]: frames[None], config.task_key: [prompt]})
        return float(model.compute_reward(batch).reshape(-1)[0])

    return reward


def _cameras(config: Any) -> list[str]:
    """The pictures that a classifier looks at, as `data.views` puts them."""
    keys = [key for key in config.input_features if key.startswith("observation.image")]
    if not keys:
        raise ValueError(
            "a classifier of pictures is expected, this one looks at "
            f"{[*config.input_features]}"
        )
    return sorted(keys, key=lambda key: key.rpartition(".")[2])


def _check_loaded(model: torch.nn.Module, source: str) -> None:
    """Raises unless a file has the weights of a model, all of them and no others.

    LeRobot's own strict loading refuses what LeRobot saves: where two names stand for
    one tensor it is saved by one of them, and expected by the other.
    """
    path = Path(source) / WEIGHTS
    if not path.is_file():
        # LeRobot has just fetched it.
        path = Path(import_hub().hf_hub_download(source, WEIGHTS))
    there = shapes_in(path)
    wanted = model.state_dict()
    loaded = {wanted[name].data_ptr() for name in there if name in wanted}
    check_weights(
        source,
        (name for name, tensor in wanted.items() if tensor.data_ptr() not in loaded),
        there.keys() - wanted.keys(),
        misshapen(there, shapes_of(wanted)),
    )
