"""Packs a user's own videos into a goal bundle.

Any video that shows the task from start to end will do: generated, filmed, or recorded
in the environment. All are brought to one size and one length.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.frames import image_size
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.data.video_files import fit, read_video
from genreward_wrappers.generators.candidates import (
    OWN,
    PREFIX,
    STEP,
    differences,
    find_candidates,
    load_candidate,
    shared,
)

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
    encoder: str | None = "embedded:video-vae-64",
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
    warnings.warn(
        f"{encoder!r} was trained on pictures of Meta-World and dm_control and has "
        f"never seen any of {env_id!r}: judge the goal before you train on it "
        "(genreward evaluate --rollouts), and compare an encoder of ordinary images, "
        "such as open_clip:ViT-B-32/laion2b_s34b_b79k, or plain pixels",
        UserWarning,
        stacklevel=3,
    )


def pack_candidates(
    sources: Sequence[str | PathLike[str]],
    *,
    env_id: str = "",
    camera: str = "",
    prompt: str = "",
    size: int | tuple[int, int] = 64,
    length: int | None = None,
    encoder: str | None = "embedded:video-vae-64",
    license: str = "",
) -> GoalBundle:
    """Makes a goal bundle from candidates, and records how they were generated.

    Args:
        sources: Candidates' files, and folders of them.
        env_id: The environment; by default the one that the first frames come from.
        camera: The environment's camera.
        prompt: The task in words; the generator's prompt by default.
        size: (height, width) of the packed videos.
        length: As in `pack`.
        encoder: What `load_encoder` takes; None leaves it open.
        license: The videos' licence, which follows from the generator's.

    Raises:
        GoalError: There are none, they were made with different settings, or they do
            not fit the size.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        inside = find_candidates(source) if source.is_dir() else [source]
        if not inside:
            raise GoalError(
                f"{source} holds no candidates ({PREFIX}-*.safetensors): expected a "
                "folder that `genreward generate` wrote"
            )
        paths += inside
    if not paths:
        raise GoalError("a goal needs at least one candidate, got none")
    found = [load_candidate(path) for path in paths]
    cards = [dict(bundle.provenance[0]) for bundle in found]
    for path, card in zip(paths, cards, strict=True):
        unlike = differences(shared(card), shared(cards[0]))
        if unlike:
            raise GoalError(
                f"{path} was made with other settings than {paths[0]} "
                f"({'; '.join(unlike)}): pack them apart"
            )
    made = [
        {"file": path.name, **{key: card[key] for key in OWN if key in card}}
        for path, card in zip(paths, cards, strict=True)
    ]
    # What frames were before they were fitted is in the last step.
    bundle = pack(
        [np.asarray(candidate.videos[0]) for candidate in found],
        env_id=env_id or found[0].env_id,
        camera=camera,
        prompt=prompt or found[0].prompt,
        size=size,
        length=length,
        encoder=encoder,
        generator=found[0].generator,
        license=license,
    )
    step = {"step": STEP, **shared(cards[0]), "candidates": made}
    return bundle.with_(provenance=(step, *bundle.provenance))
