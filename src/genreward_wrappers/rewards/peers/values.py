"""Which values the published rewards take, by themselves and together.

Constructors call these functions before they load anything, and the command line calls
them before it imports torch, so nothing here imports it. Parameters have the names that
they have in the constructors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.checks import number, one_of, share, whole
from genreward_wrappers.data.files import opened
from genreward_wrappers.encoders.texts import as_texts

#: LeRobot's models that look at a video so far, and those that look at one picture.
VIDEO, FRAME = ("robometer", "topreward"), ("reward_classifier",)


def vlm_rm(prompt: Any, baseline: Any, alpha: float, resize: str) -> None:
    """Raises for values that `VLMRM` does not take."""
    share("alpha", alpha)
    one_of(("squash", "model"), resize=resize)
    as_texts(prompt, "prompt")
    if baseline is not None:
        as_texts(baseline, "baseline")
    elif alpha > 0:
        raise ValueError(
            f"alpha={alpha} looks along the way from a baseline to the goal: give "
            "baseline=, a text for the scene without the goal, or alpha=0 for the "
            "plain cosine"
        )


def one_goal(prompt: Any, goal: Any, kind: str) -> None:
    """Raises unless there is one goal, in words or as a picture or video."""
    if (prompt is None) == (goal is None):
        shown = repr(goal)
        if isinstance(goal, np.ndarray):
            shown = f"an array {goal.dtype} {goal.shape}"
        raise ValueError(
            "expected one of prompt=, the goal in words, and goal=, the goal as a "
            f"{kind}; got prompt={prompt!r} and goal={shown}"
        )


def liv(prompt: Any, form: str) -> None:
    """Raises for values that `LIV` does not take."""
    one_of(("plain", "difference"), form=form)
    if prompt is not None:
        as_texts(prompt, "prompt")


def roboclip(
    prompt: Any, weights: Any, horizon: int | None, length: int, size: int | None
) -> None:
    """Raises for values that `RoboCLIP` does not take."""
    if (horizon is not None and horizon < 1) or length < 2 or length % 2:
        raise ValueError(
            f"expected horizon of at least 1 and an even length, got "
            f"horizon={horizon} and length={length}"
        )
    if size is not None and (size < 2 or size % 2):
        raise ValueError(f"size={size}: expected an even number, at least 2")
    if prompt is not None:
        as_texts(prompt, "prompt")
    _check_readable(weights, "S3D model", "`genreward convert s3d`")


def viper(prior: Any, likelihood: str, every: int) -> None:
    """Raises for values that `Viper` does not take."""
    one_of(("last", "joint"), likelihood=likelihood)
    whole("every", every)
    _check_readable(prior, "video prior", "genreward train-viper")


def diffusion_reward(prior: Any, chains: int, every: int) -> None:
    """Raises for values that `DiffusionReward` does not take."""
    whole("chains", chains)
    whole("every", every)
    _check_readable(prior, "video prior", "genreward train-diffusion-reward")


def tadpole(
    prompt: Any,
    w1: float,
    w2: float,
    noise: Sequence[int],
    size: int | None,
    window: int,
    stride: int,
) -> None:
    """Raises for values that `Tadpole` does not take."""
    as_texts([prompt], "prompt")
    number("w1", w1)
    number("w2", w2)
    if size is not None:
        whole("size", size)
    if not 1 <= stride <= window:
        raise ValueError(
            f"window={window}, stride={stride}: expected 1 <= stride <= window, or "
            "some frames would be in no window"
        )
    if not (
        isinstance(noise, (tuple, list))
        and len(noise) == 2
        and all(isinstance(step, int) for step in noise)
        and 0 <= noise[0] < noise[1]
    ):
        raise ValueError(
            f"noise={noise!r}: expected two whole numbers, the first lower than the "
            "second, such as [400, 500]"
        )


def lerobot(
    variant: str, prompt: Any, path: str | None, every: int, length: int
) -> None:
    """Raises for values that `LeRobotReward` does not take."""
    if variant not in VIDEO + FRAME:
        raise ValueError(
            f"lerobot:{variant}: expected one of {', '.join(VIDEO + FRAME)}"
            + (
                "; SARM reads the robot's state beside the pictures, which a "
                "reward of frames does not have"
                if variant == "sarm"
                else ""
            )
        )
    if (variant in VIDEO) == (prompt is None):
        raise ValueError(
            f"lerobot:{variant} {'needs' if prompt is None else 'takes no'} "
            f"prompt=, got {prompt!r}"
        )
    if prompt is not None:
        as_texts(prompt, "prompt")
    whole("every", every)
    whole("length", length)
    if variant in FRAME and path is None:
        raise ValueError(
            f"lerobot:{variant} needs path=, a folder or hub id of its weights: "
            "LeRobot publishes none"
        )


#: By the name of the reward.
CHECKS: Mapping[str, Callable[..., None]] = {
    "vlm-rm": vlm_rm,
    "liv": liv,
    "roboclip": roboclip,
    "viper": viper,
    "diffusion-reward": diffusion_reward,
    "tadpole": tadpole,
    "lerobot": lerobot,
}


def _check_readable(path: Any, kind: str, maker: str) -> None:
    # A model that is loaded already has no path.
    if isinstance(path, (str, PathLike)):
        with opened(Path(path).expanduser(), kind, maker):
            pass
