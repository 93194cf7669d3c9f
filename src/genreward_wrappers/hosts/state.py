"""The state of a reward wrapper in mid-episode, as a value and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import Bool, Snapshot, UInt8
from genreward_wrappers.data.files import FileError, Layout, load_tensors, save_tensors
from genreward_wrappers.data.schema import Record, Whole
from genreward_wrappers.data.trees import flatten, rebuild

LAYOUT = Layout(
    "genreward_state",
    "reward state",
    "save_state()",
    schema=1,
    header=Record({"models": [str], "num_envs": Whole(1), "state": dict}),
)


class HostSnapshot(NamedTuple):
    """Everything that changes in a reward wrapper; see `Host.snapshot`.

    Attributes:
        session: What the models remember.
        frames: (N, H, W, 3) the newest frame of each environment.
        ended: (N,) the environments whose episode ended in the step before.
        steps: How many steps have been paid.
        held: The last finite values of the parts of the reward, if they are held.
    """

    session: Snapshot
    frames: UInt8
    ended: Bool
    steps: int
    held: Mapping[str, NDArray[Any]]


def write_state(path: Path, snapshot: HostSnapshot, env_state: Any) -> None:
    """Writes a snapshot, and what the user adds to it.

    Raises:
        TypeError: There is something in them that cannot be stored.
    """
    models = [*snapshot.session.identities]
    host, tensors = flatten(_without_models(snapshot), "/host")
    env, more = flatten(env_state, "/env", classes=False)
    outline = {"dict": {"host": host, "env": env}}
    about = {"models": models, "num_envs": len(snapshot.ended), "state": outline}
    save_tensors(path, tensors | more, LAYOUT, about)


def read_state(path: Path, live: HostSnapshot) -> tuple[HostSnapshot, Any]:
    """Reads what `write_state` wrote.

    Args:
        path: The file.
        live: A snapshot of the wrapper that it is for.

    Returns:
        The snapshot, and what the user had added to it.

    Raises:
        FileError: It cannot be read, or is the state of another reward, or of another
            number of environments.
    """
    tensors, header = load_tensors(path, LAYOUT)
    ours, num_envs = [*live.session.identities], len(live.ended)
    if header["models"] != ours:
        raise FileError(
            f"{path} is the state of the models {header['models']}, and this wrapper "
            f"has {ours}"
        )
    if header["num_envs"] != num_envs:
        raise FileError(
            f"{path} is the state of {header['num_envs']} environments, and this "
            f"wrapper has {num_envs}"
        )
    host = _without_models(live)
    like = {"host": host, "env": None}
    try:
        tree = rebuild(header["state"], tensors, like)
        if not isinstance(tree, dict) or {*tree} != {*like}:
            raise ValueError(f"it holds no {[*like]}")
        found: HostSnapshot = tree["host"]
        _compare(found, host)
        _compare(found.session, host.session)
    except ValueError as error:
        raise FileError(f"{path} does not fit this wrapper: {error}") from error
    session = found.session._replace(identities=live.session.identities)
    return found._replace(session=session), tree["env"]


def _without_models(snapshot: HostSnapshot) -> HostSnapshot:
    """They are in the header, and are compared before anything else."""
    return snapshot._replace(session=snapshot.session._replace(identities=()))


def _compare(found: Any, live: Any) -> None:
    """Raises unless two named tuples hold the same kinds of values."""
    if type(found) is not type(live):
        raise ValueError(f"there is no {type(live).__name__}")
    for name, ours in live._asdict().items():
        theirs = getattr(found, name)
        same = type(theirs) is type(ours)
        if isinstance(ours, tuple):
            same = same and len(theirs) == len(ours)
        if isinstance(ours, np.ndarray):
            same = same and (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
        if not same:
            what = [getattr(v, "shape", type(v).__name__) for v in (theirs, ours)]
            raise ValueError(f"its {name!r} is {what[0]}, and here it is {what[1]}")
