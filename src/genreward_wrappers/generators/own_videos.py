"""Packs a user's own videos into a goal bundle.

Any video that shows the task from start to end will do: generated, filmed, or recorded
in the environment. All are brought to one size and one length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genreward_wrappers.core import UInt8, warn_caller
from genreward_wrappers.data.frames import image_size
from genreward_wrappers.data.goals import GoalBundle, GoalError, load_goal
from genreward_wrappers.data.video_files import fit, is_videos, read_video

if TYPE_CHECKING:
    from genreward_wrappers.encoders.base import VideoEncoder

#: What goals are packed for where nothing else is asked for.
ENCODER = "embedded:video-vae-64"

#: The most frames that a packed video has unless more are asked for.
LENGTH = 129

#: The environments whose pictures the embedded encoders were trained on.
SEEN = ("metaworld/", "dmc/", "distracting/")


def pack(
    videos: Sequence[str | PathLike[str] | UInt8],
    *,
    env_id: str = "",
    camera: str = "",
    prompt: str = "",
    size: int | tuple[int, int] = 64,
    length: int | None = None,
    encoder: str | None = ENCODER,
    generator: str = "",
    license: str = "",
) -> GoalBundle:
    """Makes a goal bundle from videos.

    Args:
        videos: Files, or arrays of shape (time, height, width, 3).
        env_id: The id of the environment that they are for.
        camera: The environment's camera; checked when the goal is used, if given.
        prompt: The task in words.
        size: (height, width) of the packed videos; the encoder's own, usually.
        length: Frames of each packed video, spread evenly over it; None keeps as many
            as the first one has, up to 129.
        encoder: What `load_encoder` takes; the goal will be used with it. None leaves
            it open.
        generator: What made the videos.
        license: Their licence.
    """
    if not videos:
        raise GoalError("a goal needs at least one video, got none")
    if length is not None and length < 2:
        raise GoalError(f"length={length}: a goal video needs at least 2 frames")
    _warn_unseen(env_id, encoder)
    target = image_size(size)
    clips, sources = [], []
    for video in videos:
        frames = video if isinstance(video, np.ndarray) else read_video(video)
        name = "an array" if isinstance(video, np.ndarray) else Path(video).name
        length = length or min(LENGTH, max(2, len(frames)))
        clips.append(fit(frames, target, length, name))
        digest = hashlib.sha256(frames.tobytes()).hexdigest()[:16]
        sources.append({"video": name, "frames": len(frames), "sha256": digest})
    card: dict[str, Any] = {}
    if encoder is not None:
        from genreward_wrappers.encoders.base import encoder_card
        from genreward_wrappers.encoders.registry import load_encoder

        card = encoder_card(load_encoder(encoder, device="cpu", size=target))
    return GoalBundle(
        videos=np.stack(clips),
        env_id=env_id,
        camera=camera,
        prompt=prompt,
        encoder=card,
        generator=generator,
        license=license,
        provenance=({"step": "pack", "videos": sources, "length": length},),
    )


def _warn_unseen(env_id: str, encoder: str | None) -> None:
    """Says that an embedded encoder does not know an environment's pictures."""
    if not env_id or env_id.startswith(SEEN) or not str(encoder).startswith("embedded"):
        return
    warn_caller(
        f"{encoder!r} was trained on pictures of Meta-World and dm_control and has "
        f"never seen any of {env_id!r}: judge the goal before you train on it "
        "(genreward evaluate --rollouts), and compare an encoder of ordinary images, "
        "such as open_clip:ViT-B-32/laion2b_s34b_b79k, or plain pixels"
    )


def load_or_pack(
    goal: Any, env_id: str | None = None, encoder: VideoEncoder | str | None = None
) -> GoalBundle:
    """The bundle that `load_goal` finds, or videos packed on the way.

    Args:
        goal: What `load_goal` takes, the path of a video, or a list of such paths.
        env_id: The environment that it is used in.
        encoder: What videos are packed for; None is the embedded one.
    """
    if is_videos(goal):
        return pack_on_the_way(goal, env_id, encoder)
    return load_goal(goal, env_id)


def pack_on_the_way(
    goal: Any, env_id: str | None = None, encoder: VideoEncoder | str | None = None
) -> GoalBundle:
    """Packs videos that were given as a goal, as `pack` does, for an encoder.

    Args:
        goal: A path, or several.
        env_id: The environment that it is used in.
        encoder: What it is compared by; None is the embedded one.

    Raises:
        GoalError: A video cannot be read, or does not have the encoder's aspect ratio.
    """
    places = goal if isinstance(goal, (list, tuple)) else [goal]
    paths = tuple(fspath(place) for place in places)
    # A process that wraps many environments alike decodes them once.
    stamps = tuple(_stamp(Path(path)) for path in paths)
    return _packed(paths, stamps, env_id or "", encoder or ENCODER)


def _stamp(path: Path) -> tuple[int, int]:
    if not path.is_file():
        raise GoalError(f"there is no video at {path}")
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=8)
def _packed(
    paths: tuple[str, ...],
    stamps: tuple[tuple[int, int], ...],
    env_id: str,
    encoder: VideoEncoder | str,
) -> GoalBundle:
    if not isinstance(encoder, str):
        from genreward_wrappers.encoders.base import encoder_card

        bundle = pack(paths, env_id=env_id, size=encoder.size, encoder=None)
        card = {} if encoder.control else encoder_card(encoder)
        return bundle.with_(encoder=card)
    # Controls are used with every goal, and leave it open.
    named = None if encoder.startswith("pixels") else encoder
    return pack(paths, env_id=env_id, encoder=ENCODER if encoder == "random" else named)
