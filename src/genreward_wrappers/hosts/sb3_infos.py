"""What SB3 vector environments say of themselves and, in infos, of rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from genreward_wrappers.core import Bool
from genreward_wrappers.data.frames import TAP, spoiled
from genreward_wrappers.hosts.attach import MARK, Inside
from genreward_wrappers.hosts.frames import Frames
from genreward_wrappers.hosts.host import Host


def look_inside(env: VecEnv, name: str) -> tuple[Sequence[Any], Inside]:
    """Its worker processes, and what a wrapper has to know of the environments.

    Args:
        env: The vector environment.
        name: The class of the wrapper, for messages.
    """
    metadata = dict(env.get_attr("metadata")[0])
    around: Any = env
    while isinstance(around, VecEnvWrapper):
        if isinstance(around, Host):
            metadata[MARK] = type(around).__name__
        around = around.venv
    processes = tuple(getattr(around, "processes", ()))
    if any(getattr(p, "_start_method", "") == "fork" for p in processes):
        warnings.warn(
            'SubprocVecEnv(start_method="fork") waits for ever when a worker dies, '
            'and its workers cannot draw: use start_method="forkserver"',
            UserWarning,
            stacklevel=5,
        )
    cause = spoiled(env.observation_space)
    order = (
        f"{cause}. Put {name} below VecFrameStack, VecTransposeImage and VecNormalize, "
        "and those around it: "
    )
    inside = Inside(
        next(iter(getattr(around, "envs", ())), None),
        env.get_attr("spec")[0],
        metadata,
        env.observation_space,
        env.action_space,
        env.render_mode,
        env.num_envs,
        (order if cause else "")
        + "frames from render() cannot be used in stable-baselines3's vector "
        "environments: after the last step of an episode render() shows the next one. "
        "Use pixel observations, or TapFrames in each environment",
    )
    return processes, inside


def rows(infos: Sequence[dict[str, Any]], key: str) -> list[Any]:
    """What is under a key in each row's info, or None; tapped frames are taken out."""
    take = dict.pop if key == TAP else dict.get
    return [take(info, key, None) for info in infos]


def last_frame(infos: Sequence[dict[str, Any]], frames: Frames) -> Callable[[int], Any]:
    """Finds the last frames of the episodes that ended, in their observations."""
    of = frames.source.of_observation
    return lambda row: of(infos[row]["terminal_observation"])


def add(
    infos: Sequence[dict[str, Any]], logged: Mapping[str, NDArray[Any]], mask: Bool
) -> None:
    """Adds to the infos of the rows in a mask; ``logged`` holds (N,) by key."""
    for row in np.flatnonzero(mask).tolist():
        infos[row].update({key: values[row].item() for key, values in logged.items()})


def let_go_of_dead(processes: Sequence[Any], venv: VecEnv) -> None:
    """Lets ``close()`` wait for no worker if one has died."""
    if any(not process.is_alive() for process in processes):
        for process in processes:
            process.terminate()
        venv.unwrapped.closed = True
