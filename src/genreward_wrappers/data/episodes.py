"""`Episode`: frames, actions and rewards of one episode, in one file.

The wrappers' ``record=`` writes episodes, the evaluator records and scores them, and
the inspector shows them. Frames may be sparse: a host renders only the frames that its
reward needs, so each frame comes with the step after which it was seen.
"""

from __future__ import annotations

import re
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, Int64, UInt8
from genreward_wrappers.data.files import (
    CODEC,
    FileError,
    Layout,
    load_tensors,
    pack_video,
    save_tensors,
    unpack_video,
)
from genreward_wrappers.data.schema import SHAPE, Record, Whole

METADATA_KEY = "genreward_episode"
LAYOUT = Layout(
    METADATA_KEY,
    "recorded episode",
    "Episode.save or a wrapper's record=",
    schema=1,
    header=Record(
        {
            "codec": str,
            "shape": SHAPE,
            "terminated": bool,
            # The fields that are used later; any others are allowed.
            "info": Record(
                optional={
                    **dict.fromkeys(("env_id", "kind", "group", "policy"), str),
                    **dict.fromkeys(("prompt", "label", "checkpoint", "run"), str),
                    "seed": Whole(0, (1 << 64) - 1),
                    "goal": Whole(-1),
                    "episode": Whole(),
                    "options": dict,
                },
                open=True,
            ),
        }
    ),
)

#: The goal that the episodes of a folder were rewarded for, beside them.
GOAL_FILE = "goal.safetensors"

#: The file names of a recorder: the number of the episode, and the run.
_NUMBERED = re.compile(r"episode-(\d+)(-[0-9a-f]+)?\.safetensors")


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode of T steps.

    Attributes:
        frames: (F, H, W, 3) the frames, including the first one of the episode.
        frame_steps: (F,) the number of steps before each frame: 0 for the first one;
            strictly increasing, at most T.
        actions: (T, ...) the actions of the agent.
        success: (T,) whether the environment reported success, step by step.
        rewards: The components of the reward by name, (T,) each; NaN at steps without a
            score.
        terminated: Whether the episode terminated; otherwise it was truncated.
        states: (T + 1, S) the numbers in the environment's observations, before every
            step and at the end; None if they were not recorded.
        info: Anything else that is known, as JSON: ``env_id``, ``seed``, ``kind``, ...
    """

    frames: UInt8
    frame_steps: Int64
    actions: NDArray[Any]
    success: Bool
    rewards: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    terminated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)
    states: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        frames, steps = self.frames, self.frame_steps
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                "an episode's frames are uint8 of shape (frames, height, width, 3), "
                f"got {frames.dtype} {frames.shape}"
            )
        if len(steps) != len(frames) or len(frames) == 0 or steps[0] != 0:
            raise ValueError(
                "an episode has one step number for each frame, the first one 0; got "
                f"{len(frames)} frames and steps {steps.tolist()}"
            )
        if (np.diff(steps) <= 0).any() or steps[-1] > len(self):
            raise ValueError(
                f"frame steps must increase and be at most {len(self)}, got "
                f"{steps.tolist()}"
            )
        lengths = {name: len(part) for name, part in self.rewards.items()}
        lengths["success"] = len(self.success)
        if set(lengths.values()) != {len(self)}:
            raise ValueError(
                f"an episode of {len(self)} actions needs as many of these, got "
                f"{lengths}"
            )
        states = self.states
        if states is not None and (states.ndim != 2 or len(states) != len(self) + 1):
            raise ValueError(
                f"an episode of {len(self)} actions needs one state more, of shape "
                f"({len(self) + 1}, numbers), got {states.shape}"
            )

    def __len__(self) -> int:
        """The number of steps, T."""
        return len(self.actions)

    @property
    def succeeded(self) -> bool:
        """Whether any step was a success."""
        return bool(self.success.any())

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the episode atomically."""
        tensors: dict[str, NDArray[Any]] = {
            "frames": pack_video(self.frames),
            "frame_steps": self.frame_steps.astype(np.int64),
            "actions": np.ascontiguousarray(self.actions),
            "success": self.success,
            **{
                f"rewards/{name}": np.asarray(part, np.float32)
                for name, part in self.rewards.items()
            },
        }
        if self.states is not None:
            tensors["states"] = np.asarray(self.states, np.float32)
        header = {
            "codec": CODEC,
            "shape": list(self.frames.shape),
            "terminated": self.terminated,
            "info": dict(self.info),
        }
        save_tensors(Path(path), tensors, LAYOUT, header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Episode:
        """Reads an episode.

        Raises:
            FileError: It is missing, damaged, or no episode.
        """
        tensors, header = load_tensors(Path(path), LAYOUT)
        rewards = {
            name.removeprefix("rewards/"): tensor
            for name, tensor in sorted(tensors.items())
            if name.startswith("rewards/")
        }
        try:
            _check_tensors(tensors, header["codec"])
            return cls(
                frames=unpack_video(tensors["frames"], tuple(header["shape"])),
                frame_steps=tensors["frame_steps"],
                actions=tensors["actions"],
                success=tensors["success"],
                rewards=rewards,
                terminated=header["terminated"],
                info=header["info"],
                states=tensors.get("states"),
            )
        except ValueError as error:
            raise FileError(f"{path} is no valid recorded episode: {error}") from error


def outcome(path: str | PathLike[str]) -> tuple[bool, Mapping[str, Any]]:
    """Whether a recorded episode succeeded, and its info, without its frames.

    Raises:
        FileError: It is missing, damaged, or no episode.
    """
    tensors, header = load_tensors(Path(path), LAYOUT, only=("success",))
    success = tensors.get("success")
    if success is None or success.dtype != np.bool_:
        raise FileError(f"{path} is no valid recorded episode: it has no 'success'")
    return bool(success.any()), header["info"]


def episode_files(folder: Path, pattern: str = "*.safetensors") -> list[Path]:
    """The files of recorded episodes in a folder, without the goal beside them."""
    return sorted(path for path in folder.glob(pattern) if path.name != GOAL_FILE)


def _check_tensors(tensors: Mapping[str, NDArray[Any]], codec: str) -> None:
    """Raises unless a file has the tensors of an episode, with their types."""
    if codec != CODEC:
        raise ValueError(f"its codec is {codec!r}, expected {CODEC!r}")
    kinds = {"frame_steps": (np.int64, 1), "success": (np.bool_, 1)}
    if "states" in tensors:
        kinds["states"] = (np.float32, 2)
    for name in tensors:
        if name.startswith("rewards/"):
            kinds[name] = (np.float32, 1)
    missing = {"frames", "actions", *kinds} - tensors.keys()
    unknown = tensors.keys() - {"frames", "actions", *kinds}
    if missing or unknown:
        raise ValueError(
            f"it lacks {sorted(missing)} and has the unknown {sorted(unknown)}"
        )
    if tensors["actions"].ndim < 1:
        raise ValueError("its actions have no axis of steps")
    for name, (kind, axes) in kinds.items():
        tensor = tensors[name]
        if tensor.dtype != kind or tensor.ndim != axes:
            raise ValueError(
                f"its {name!r} is {tensor.dtype} {tensor.shape}, expected "
                f"{np.dtype(kind)} with {axes} axes"
            )


def succeeded(info: Mapping[str, Any]) -> bool:
    """Whether an info reports success, under either of the usual names."""
    return bool(info.get("is_success", info.get("success", False)))


class Recorder:
    """Writes some episodes of an environment to a folder while it is being used.

    Episodes 0, 1, 8, 27, ... up to 1000, then every thousandth, like Gymnasium's
    `RecordVideo`. The frames are those that the reward looked at anyway; none is
    rendered for the recording. If an episode cannot be written, for example because the
    disk is full, recording stops with a warning and the environment continues.

    Attributes:
        folder: The folder of the files ``episode-<number>-<run>.safetensors``. Numbers
            continue from those in the folder.
        run: Distinguishes the episodes of this recorder from those of other recorders
            in the same folder.
    """

    def __init__(
        self, folder: str | PathLike[str], info: Mapping[str, Any] | None = None
    ) -> None:
        """Creates the folder.

        Args:
            folder: The folder to write to.
            info: Information to save with every episode.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = secrets.token_hex(4)
        self._info = {**(info or {}), "run": self.run}
        found = (_NUMBERED.fullmatch(path.name) for path in self.folder.iterdir())
        self.number = max((int(each[1]) for each in found if each), default=-1) + 1
        self._broken = False
        self._about: dict[str, Any] = {}
        self._frames: list[UInt8] = []
        self._steps: list[int] = []
        self._actions: list[NDArray[Any]] = []
        self._success: list[bool] = []
        self._rewards: dict[str, list[float]] = {}

    def begin(self, frame: UInt8, info: Mapping[str, Any] | None = None) -> None:
        """Starts a new episode; an unfinished one is dropped.

        Args:
            frame: The first frame.
            info: More information to save with this episode.
        """
        if self._broken:
            return
        self._about = dict(info or {})
        self._frames, self._steps = [np.array(frame)], [0]
        self._actions, self._success, self._rewards = [], [], {}

    def drop(self) -> None:
        """Drops the running episode, whose beginning was not seen here."""
        self._frames = []

    def step(
        self,
        action: Any,
        frame: UInt8 | None,
        rewards: Mapping[str, float],
        success: bool,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Adds one step, and writes the episode if it was the last one."""
        if self._due():
            self._actions.append(np.array(action))
            self._success.append(success)
            for name, value in rewards.items():
                self._rewards.setdefault(name, []).append(value)
            if frame is not None:
                self._frames.append(np.array(frame))
                self._steps.append(len(self._actions))
        if terminated or truncated:
            if self._due():
                self._write(terminated)
            self.number += 1

    def _due(self) -> bool:
        number = self.number
        if not self._frames:
            return False
        if number >= 1000:
            return number % 1000 == 0
        return bool(round(number ** (1 / 3)) ** 3 == number)

    def _write(self, terminated: bool) -> None:
        path = self.folder / f"episode-{self.number:08d}-{self.run}.safetensors"
        try:
            self._episode(terminated).save(path)
        except OSError as error:
            self._broken = True
            self._frames = []
            warnings.warn(
                f"record= has stopped: {path} could not be written "
                f"({error.strerror or error}). The environment and its rewards "
                "continue",
                stacklevel=2,
            )

    def _episode(self, terminated: bool) -> Episode:
        return Episode(
            frames=np.stack(self._frames),
            frame_steps=np.array(self._steps, np.int64),
            actions=np.stack(self._actions),
            success=np.array(self._success, np.bool_),
            rewards={
                name: np.array(values, np.float32)
                for name, values in self._rewards.items()
            },
            terminated=terminated,
            info={**self._info, **self._about, "episode": self.number},
        )
