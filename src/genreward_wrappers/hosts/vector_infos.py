"""What `gymnasium.vector` environments say of themselves and, in infos, of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from genreward_wrappers.core import Bool
from genreward_wrappers.data.episodes import succeeded
from genreward_wrappers.data.frames import TAP
from genreward_wrappers.hosts.attach import Inside
from genreward_wrappers.hosts.frames import Frames

#: What environments call a success.
SUCCESS = ("is_success", "success")


def look_inside(env: VectorEnv[Any, Any, Any]) -> tuple[AutoresetMode, Inside]:
    """How the environments reset their rows, and what a wrapper has to know of them.

    Raises:
        ValueError: They do not say how they reset.
    """
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        raise ValueError(
            f"{env} does not say how it resets: its metadata needs an "
            '"autoreset_mode", one of '
            f"{[f'AutoresetMode.{m.name}' for m in AutoresetMode]}"
        )
    spec = env.spec
    if spec is None and hasattr(env.unwrapped, "get_attr"):
        spec = env.unwrapped.get_attr("spec")[0]
    inside = Inside(
        next(iter(getattr(env.unwrapped, "envs", ())), None),
        spec if isinstance(spec, EnvSpec) else None,
        env.metadata,
        env.single_observation_space,
        env.single_action_space,
        env.render_mode,
        env.num_envs,
        "frames from render() cannot be used under AutoresetMode.SAME_STEP: after the "
        "last step of an episode render() shows the next one. Use pixel observations, "
        "TapFrames in each environment, or AutoresetMode.NEXT_STEP"
        if mode == AutoresetMode.SAME_STEP
        else "",
    )
    return AutoresetMode(mode), inside


def rows(infos: dict[str, Any], key: str, count: int) -> Sequence[Any]:
    """What is under a key in each row's info, or None; tapped frames are taken out."""
    if key not in infos:
        return [None] * count
    values, there = infos[key], infos[f"_{key}"]
    if key == TAP:
        del infos[key], infos[f"_{key}"]
    return [values[row] if there[row] else None for row in range(count)]


def last_frame(infos: dict[str, Any], frames: Frames) -> Callable[[int], Any]:
    """Finds the last frames of the episodes that SAME_STEP has ended."""
    source = frames.source
    if source.kind == "obs":
        return lambda row: source.of_observation(infos["final_obs"][row])
    found = rows(infos.get("final_info", {}), str(source.key), len(frames.last))
    return lambda row: found[row]


def success(infos: dict[str, Any], over: Bool) -> bool:
    """Whether the first environment calls this step a success.

    Args:
        infos: The infos of the step.
        over: (N,) the rows that SAME_STEP has reset.
    """
    if over[0]:
        infos = infos.get("final_info", {})
    return succeeded({key: infos[key][0] for key in SUCCESS if key in infos})


def add(
    infos: dict[str, Any], logged: Mapping[str, NDArray[Any]], mask: Bool
) -> dict[str, Any]:
    """Infos with more keys, as `VectorEnv._add_info` has them: each beside a mask.

    Args:
        infos: The infos of a step.
        logged: (N,) each, by its key.
        mask: (N,) the rows that have them.
    """
    if np.count_nonzero(mask) < len(mask):
        logged = {k: np.where(mask, v, np.zeros_like(v)) for k, v in logged.items()}
    mask = mask.copy()
    return {**infos, **logged, **{f"_{key}": mask for key in logged}}
