"""`GoalBundle`: goal videos and everything known about them, in one safetensors file.

The file holds the K videos, losslessly packed, the weights of the forward-backward nets
if there are any, and one metadata key of canonical JSON: schema, environment, camera,
prompt, encoder fingerprint, key frames, licence, and the steps that made it. A hash
over all of it finds any damaged byte. Saving the same bundle twice gives the same
bytes, and a save that is killed leaves the old file intact.

Nothing here unpickles or imports torch.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import did_you_mean
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.files import (
    CODEC,
    FileError,
    Layout,
    canonical,
    check_unpacked,
    load_tensors,
    pack_video,
    save_tensors,
    unpack_videos,
)
from genreward_wrappers.data.schema import (
    ENCODER,
    FRAMES,
    SHAPE,
    Each,
    Maybe,
    Record,
    Whole,
)
from genreward_wrappers.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA = 1
METADATA_KEY = "genreward"

_SEED = Whole(0, (1 << 64) - 1)

#: A step in the provenance may hold anything; these fields are looked at later.
_STEP = Record(
    optional={
        "step": str,
        "seeds": [_SEED],
        "candidates": [Record(optional={"start_seed": Maybe(_SEED)}, open=True)],
    },
    open=True,
)

#: The nets' sizes are those of `FBConfig`.
_SIZE = Whole(1, 1 << 20)
_NETS = Record(
    optional={
        **dict.fromkeys(("features", "actions", "z", "hidden"), _SIZE),
        "backward_hidden": _SIZE,
        "discrete": bool,
        "conditioned": bool,
        "discount": float,
        "input": Record(optional={"encoder": ENCODER, "stack": _SIZE}, open=True),
        "statistics": Each(float),
    },
    open=True,
)

LAYOUT = Layout(
    METADATA_KEY,
    "goal bundle",
    "GoalBundle.save or `genreward pack`",
    SCHEMA,
    Record(
        {
            "videos": Record({"codec": str, "shape": (Whole(1, 1 << 16), *SHAPE)}),
            **dict.fromkeys(("env_id", "camera", "prompt"), str),
            "key_frames": [Whole(0, FRAMES)],
            "encoder": ENCODER,
            "nets_config": _NETS,
            **dict.fromkeys(("generator", "license"), str),
            "provenance": [_STEP],
        }
    ),
    # Its hash is over the frames, not over how they are packed.
    hashed=False,
)

MAKE_ONE = (
    "make one from your own videos with: genreward pack VIDEO [VIDEO ...] "
    "--env {env} --output goal.safetensors"
)


class GoalError(FileError):
    """A goal bundle cannot be found, read or used; the message says what can be."""


@dataclass(frozen=True, eq=False)
class GoalBundle:
    """Goal videos with their provenance. It is immutable; `with_` makes a changed copy.

    Attributes:
        videos: (K, T, H, W, 3) uint8 RGB.
        env_id: The environment they are for, for example "metaworld/pick-place".
        camera: The camera that they were taken with; empty if unknown.
        prompt: The task in words.
        key_frames: The index of each video's key frame; by default the last frame.
        encoder: The fingerprint of the video encoder that this bundle is used with.
            ``encoder["id"]`` is what `load_encoder` takes.
        nets: Weights of the forward-backward nets by name; empty if there are none.
        nets_config: Their configuration.
        generator: What made the videos: model ids, or "recorded".
        license: The licence of the videos and nets.
        provenance: The steps that made the bundle, in order.
        source: The path or address it was loaded from; empty for one made in memory.
    """

    videos: UInt8
    env_id: str = ""
    camera: str = ""
    prompt: str = ""
    key_frames: tuple[int, ...] = ()
    encoder: Mapping[str, Any] = field(default_factory=dict)
    nets: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    nets_config: Mapping[str, Any] = field(default_factory=dict)
    generator: str = ""
    license: str = ""
    provenance: tuple[Mapping[str, Any], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        videos = self.videos
        if not isinstance(videos, np.ndarray):
            raise TypeError(
                f"videos must be a numpy array, got {type(videos).__name__}"
            )
        if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[-1] != 3:
            raise GoalError(
                "videos must be uint8 of shape (videos, frames, height, width, 3), "
                f"got {videos.dtype} {videos.shape}"
            )
        if len(videos) < 1 or videos.shape[1] < 2:
            raise GoalError(
                "a goal needs at least one video of at least 2 frames, got shape "
                f"{videos.shape}"
            )
        key_frames = tuple(int(i) for i in self.key_frames)
        if not key_frames:
            key_frames = (videos.shape[1] - 1,) * len(videos)
        if len(key_frames) != len(videos) or not all(
            0 <= i < videos.shape[1] for i in key_frames
        ):
            raise GoalError(
                f"key_frames must be one index below {videos.shape[1]} for each of "
                f"{len(videos)} videos, got {key_frames}"
            )
        for name, weight in self.nets.items():
            if not np.isfinite(weight).all():
                raise GoalError(f"the net weights {name!r} hold NaN or infinity")
        object.__setattr__(self, "key_frames", key_frames)
        # It is shared between wrappers and specs, so nobody may write to it.
        videos.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GoalBundle) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __deepcopy__(self, memo: dict[int, Any]) -> GoalBundle:
        return self

    def __repr__(self) -> str:
        count, frames, height, width, _ = self.videos.shape
        return (
            f"GoalBundle({self.env_id or 'no environment'}: {count} videos of {frames} "
            f"frames, {height}x{width}, {'with' if self.nets else 'without'} "
            "forward-backward nets)"
        )

    def _repr_html_(self) -> str:
        # Drawing imports this module.
        from genreward_wrappers.data.contact_sheet import html_of

        return html_of(self)

    def show(self, columns: int = 9) -> Image:
        """A contact sheet with one video per row; the key frames are framed in red.

        Notebooks show it, and ``goal.show().save("goal.png")`` writes it.

        Args:
            columns: The number of frames of each video.
        """
        from genreward_wrappers.data.contact_sheet import image_of

        return image_of(self, columns)

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the videos."""
        return int(self.videos.shape[2]), int(self.videos.shape[3])

    @property
    def key_pictures(self) -> UInt8:
        """(K, H, W, 3) the key frame of each video."""
        pictures: UInt8 = self.videos[np.arange(len(self.videos)), self.key_frames]
        return pictures

    @cached_property
    def digest(self) -> str:
        """A hash of everything in the bundle."""
        # Over the frames and not over how they are packed, which may differ between
        # versions of zlib.
        digest = hashlib.sha256(canonical(self._header()).encode())
        for name, array in [("videos", self.videos), *sorted(self.nets.items())]:
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def with_(self, **changes: Any) -> GoalBundle:
        """A copy with some fields changed. It has no source, since no file holds it."""
        return replace(self, **{"source": "", **changes})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the bundle atomically."""
        header = {**self._header(), "sha256": self.digest}
        save_tensors(Path(path), self._tensors(), LAYOUT, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GoalBundle:
        """Reads and validates a bundle.

        Raises:
            GoalError: The file is missing, damaged, of another schema, or no bundle.
        """
        path = Path(path)
        try:
            tensors, info = load_tensors(path, LAYOUT)
        except FileError as error:
            raise GoalError(str(error)) from error.__cause__
        claimed = info.pop("sha256", None)
        codec, shape = info["videos"]["codec"], tuple(info["videos"]["shape"])
        packed = [f"video/{i}" for i in range(shape[0])]
        nets = [name for name in tensors if name.startswith("nets/")]
        try:
            if codec != CODEC:
                raise ValueError(f"its codec is {codec!r}, expected {CODEC!r}")
            if tensors.keys() != {*packed, *nets}:
                raise ValueError(
                    f"it says that it has {shape[0]} videos, and holds "
                    f"{sorted(tensors.keys() - {*nets})}"
                )
            bundle = cls(
                videos=unpack_videos((tensors[name] for name in packed), shape),
                env_id=info["env_id"],
                camera=info["camera"],
                prompt=info["prompt"],
                key_frames=tuple(info["key_frames"]),
                encoder=info["encoder"],
                nets={name.removeprefix("nets/"): tensors[name] for name in nets},
                nets_config=info["nets_config"],
                generator=info["generator"],
                license=info["license"],
                provenance=tuple(info["provenance"]),
                source=str(path),
            )
        except (TypeError, ValueError) as error:
            raise GoalError(f"{path} is no valid goal bundle: {error}") from error
        if bundle.digest != claimed or bundle._header() != info:
            raise GoalError(
                f"{path} is damaged: its content hashes to {bundle.digest}, it says "
                f"{claimed}. Fetch or make it again"
            )
        return bundle

    def _tensors(self) -> dict[str, NDArray[Any]]:
        check_unpacked(self.videos.nbytes)
        packed = {
            f"video/{i}": pack_video(video) for i, video in enumerate(self.videos)
        }
        nets = {
            f"nets/{name}": np.ascontiguousarray(weight)
            for name, weight in self.nets.items()
        }
        return {**packed, **nets}

    def _header(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "videos": {"codec": CODEC, "shape": list(self.videos.shape)},
            "env_id": self.env_id,
            "camera": self.camera,
            "prompt": self.prompt,
            "key_frames": list(self.key_frames),
            "encoder": dict(self.encoder),
            "nets_config": dict(self.nets_config),
            "generator": self.generator,
            "license": self.license,
            "provenance": [dict(step) for step in self.provenance],
        }


def load_goal(
    goal: str | os.PathLike[str] | GoalBundle | None, env_id: str | None = None
) -> GoalBundle:
    """Finds a goal bundle.

    Args:
        goal: A bundle, a path, ``"hf://owner/repo/file.safetensors[@revision]"``, the
            id of an environment with an embedded goal, or None for that of ``env_id``.
            A task under distractions, ``"distracting/<task>"``, has the goal of
            ``"dmc/<task>"`` if it has none of its own.
        env_id: The environment's id.

    Example:
        >>> load_goal("metaworld/pick-place").frame_size
        (64, 64)
    """
    if isinstance(goal, GoalBundle):
        return goal
    if goal is None:
        if not env_id:
            raise GoalError(
                "the environment has no id to look a goal up by: give goal=, a path or "
                f"one of the embedded {embedded_goals()}, or "
                + MAKE_ONE.format(env="ID")
            )
        goal = env_id
    if not isinstance(goal, (str, os.PathLike)):
        raise TypeError(_expected(goal))
    name = os.fspath(goal)
    if name.startswith("hf://"):
        return replace(GoalBundle.load(download(HubAddress.parse(name))), source=name)
    for known in (name, _undistracted(name)):
        if known not in embedded_goals():
            continue
        with resources.as_file(_goal_folder() / _file_name(known)) as path:
            return replace(GoalBundle.load(path), source=known)
    if name.endswith(".safetensors") or Path(name).exists():
        return GoalBundle.load(name)
    raise GoalError(
        f"there is no embedded goal for {name!r}{did_you_mean(name, embedded_goals())}"
        f". Embedded are {embedded_goals()}; {MAKE_ONE.format(env=name)}"
    )


def _expected(goal: Any) -> str:
    wanted = "None, an environment id, a path, an hf:// address or a GoalBundle"
    if not isinstance(goal, np.ndarray):
        return f"goal={goal!r}: expected {wanted}"
    told = f"goal is an array, {goal.dtype} {goal.shape}: expected {wanted}"
    return f"{told}, which goal_pipeline.pack.pack([array]) makes of a video"


def embedded_goals() -> list[str]:
    """The ids of the environments whose goals come with the package."""
    folder = _goal_folder()
    if not folder.is_dir():
        return []
    return sorted(
        item.name.removesuffix(".safetensors").replace("--", "/")
        for item in folder.iterdir()
        if item.name.endswith(".safetensors")
    )


def _goal_folder() -> Any:
    return resources.files("genreward_wrappers") / "assets" / "goals"


def _undistracted(env_id: str) -> str:
    """The id of the same task without distractions, which change only the pictures."""
    task = env_id.removeprefix("distracting/")
    return env_id if task == env_id else f"dmc/{task}"


def _file_name(env_id: str) -> str:
    return env_id.replace("/", "--") + ".safetensors"


class HubAddress(NamedTuple):
    """Where a goal is on the Hugging Face Hub; without a revision, the newest one."""

    repo: str
    file: str
    revision: str | None

    @classmethod
    def parse(cls, address: str) -> HubAddress:
        """The parts of ``hf://owner/repo/file.safetensors[@revision]``."""
        match = re.fullmatch(
            r"hf://(?P<repo>[^/@]+/[^/@]+)/(?P<file>[^@]+)(@(?P<revision>.+))?", address
        )
        if match is None:
            raise GoalError(
                f"{address!r} is no address of a goal: expected "
                '"hf://owner/repo/file.safetensors" or the same with "@revision"'
            )
        return cls(match["repo"], match["file"], match["revision"])

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}/{self.file}{at}"


def download(address: HubAddress) -> Path:
    """The path of an address's file on this machine, downloaded if necessary.

    Raises:
        GoalError: It cannot be downloaded, and is not in the cache.
    """
    hub = import_hub()
    try:
        found = hub.hf_hub_download(
            address.repo, address.file, revision=address.revision
        )
    except Exception as error:
        raise GoalError(
            f"could not get {address} ({type(error).__name__}: {error}). If there is "
            "no network here, download the file elsewhere and give its path"
        ) from error
    return Path(found)


def import_hub() -> Any:
    """huggingface_hub, or an error that names the extra."""
    return require(
        "huggingface_hub",
        "video",
        "goals on the Hugging Face Hub need huggingface_hub",
    )
