"""Binds goals to encoders: what was trained on one encoder works with no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from genreward_wrappers.data.files import plain
from genreward_wrappers.data.goals import GoalError
from genreward_wrappers.encoders.base import VideoEncoder
from genreward_wrappers.encoders.names import is_pinned
from genreward_wrappers.encoders.registry import load_encoder


class NamesEncoder(Protocol):
    """A goal bundle, or anything else that names its encoder."""

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The encoder's card; empty if it names none."""
        ...

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of its videos."""
        ...


def bind_encoder(
    goal: NamesEncoder,
    encoder: VideoEncoder | str | None,
    *,
    device: str = "auto",
    dtype: str | None = None,
    allow_download: bool = False,
) -> VideoEncoder:
    """The encoder to use with a bundle, checked against the bundle's fingerprint.

    Args:
        goal: The bundle.
        encoder: An encoder, its name as for `load_encoder`, or "random" for an
            untrained one of the same shape; None uses the one that the bundle names.
        device: The device to load it to.
        dtype: The type to compute in.
        allow_download: Whether an encoder that the bundle names without a commit may
            be downloaded from the Hub. You may not trust the author of the bundle.

    Raises:
        GoalError: The fingerprints differ, and the message quotes both; or the encoder
            is not on this machine and may not be downloaded.
    """
    named = encoder is None or encoder == "random"
    if encoder is None:
        source = goal.encoder.get("source")
        if not source:
            raise GoalError(
                f"{goal!r} names no encoder: give encoder=, for example "
                '"embedded:video-vae-64" or "pixels"'
            )
        encoder = source
    if encoder == "random":
        source = goal.encoder.get("source")
        if not source or source.startswith("pixels"):
            raise GoalError(
                f'encoder="random": {goal!r} names no encoder with weights that an '
                'untrained one could have the shape of; give "random:<encoder>"'
            )
        encoder = f"random:{source}"
    if isinstance(encoder, str):
        size = goal.encoder.get("fingerprint", {}).get("size")
        if size is None and encoder.startswith("pixels"):
            # The goal's own size, rounded down to a multiple of 8.
            size = [side - side % 8 for side in goal.frame_size]
        download = not named or allow_download or is_pinned(encoder)
        try:
            encoder = load_encoder(
                encoder,
                device=device,
                dtype=dtype,
                size=tuple(size) if size else None,
                download=download,
            )
        except FileNotFoundError as error:
            if download:
                raise
            raise GoalError(
                f"{goal!r} names the encoder {encoder!r}, which is not on this "
                "machine. The goal does not say which commit of it, so it is not "
                "fetched for the goal's sake. If you trust it, give "
                f"encoder={encoder!r} yourself; to pin it, name a commit, "
                "...@<40 hexadecimal digits>"
            ) from error
    if encoder.control or encoder.any_goal:
        # There are no weights that a goal could be made with.
        return encoder
    expected = goal.encoder.get("fingerprint")
    if expected and not same_encoder(expected, encoder.fingerprint):
        raise GoalError(
            f"{goal!r} was made with another encoder than {encoder!r}.\n"
            f"  the goal's:    {json.dumps(_essence(expected), sort_keys=True)}\n"
            "  the encoder's: "
            f"{json.dumps(_essence(encoder.fingerprint), sort_keys=True)}\n"
            "Use the goal's encoder, or bind the goal to this one with "
            "goal.with_(encoder=encoder_card(encoder))"
        )
    return encoder


def same_encoder(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two fingerprints belong to the same encoder, in any precision."""
    return _essence(one) == _essence(other)


def _essence(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without the precision: bfloat16 is the same encoder, rounded."""
    essence = {k: v for k, v in fingerprint.items() if k != "dtype"}
    return dict(plain(essence))
