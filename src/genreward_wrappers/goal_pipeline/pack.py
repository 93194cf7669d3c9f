"""Packs videos into a goal bundle: a user's own, or the candidates of a generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.data.views import join_views
from genreward_wrappers.generators.candidates import (
    OWN,
    PREFIX,
    STEP,
    differences,
    find_candidates,
    load_candidate,
    shared,
)
from genreward_wrappers.generators.own_videos import ENCODER, LENGTH, pack

__all__ = ["LENGTH", "pack", "pack_candidates", "pack_views"]


def pack_views(
    videos: Mapping[str, Sequence[str | PathLike[str] | UInt8]], **options: Any
) -> GoalBundle:
    """Makes a goal bundle of several cameras.

    Args:
        videos: For each camera its videos, as for `pack`; those at one place in their
            lists show the same moments.
        **options: Those of `pack`, but ``camera``.

    Raises:
        GoalError: They do not have one length.
    """
    return join_views(
        {view: pack(own, camera=view, **options) for view, own in videos.items()}
    )


def pack_candidates(
    sources: Sequence[str | PathLike[str]],
    *,
    env_id: str = "",
    camera: str = "",
    prompt: str = "",
    size: int | tuple[int, int] = 64,
    length: int | None = None,
    encoder: str | None = ENCODER,
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
