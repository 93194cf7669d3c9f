"""An SBX agent in a safetensors file, so that a run can stop and resume.

SBX's own files hold pickles, which are never read here. The file keeps everything that
the next update depends on: weights, optimisers, the replay buffer, and the states of
the random number generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.files import FileError, Layout, load_tensors, save_tensors
from genreward_wrappers.data.schema import Record, Whole

LAYOUT = Layout(
    "genreward_agent",
    "checkpoint of a learning run",
    "genreward evaluate --learn",
    schema=2,
    header=Record(
        {
            "notes": dict,
            **dict.fromkeys(("steps", "updates", "episodes"), Whole()),
            "buffer": (Whole(), bool),
            "numpy": (str, Whole(), Whole(0, 1), float),
            "actions": dict,
        }
    ),
    # A replay buffer of pictures may be larger than other files.
    limit=1 << 40,
)
BUFFER = (
    "observations",
    "next_observations",
    "actions",
    "rewards",
    "dones",
    "timeouts",
)


def save_agent(agent: Any, path: Path, notes: dict[str, Any]) -> None:
    """Writes an off-policy agent atomically.

    Args:
        agent: SBX's `SAC`, between two calls of its `learn`.
        path: The file to write.
        notes: Anything else to keep, as JSON.
    """
    import jax

    tensors: dict[str, NDArray[Any]] = {}
    for name, tree in _trees(agent).items():
        for place, leaf in jax.tree_util.tree_leaves_with_path(tree):
            # Through jax, which turns Python's numbers into its own types.
            array = np.asarray(jax.numpy.asarray(leaf))
            # ascontiguousarray would turn a number into an array of one.
            tensors[_key(name, place)] = array.copy(order="C")
    buffer = agent.replay_buffer
    filled = buffer.buffer_size if buffer.full else buffer.pos
    for name in BUFFER:
        tensors[f"buffer/{name}"] = np.ascontiguousarray(getattr(buffer, name)[:filled])
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    tensors["numpy"] = np.asarray(keys)
    header = {
        "notes": notes,
        "steps": agent.num_timesteps,
        "updates": agent._n_updates,
        "episodes": agent._episode_num,
        "buffer": [buffer.pos, bool(buffer.full)],
        "numpy": [str(kind), int(position), int(has_gauss), float(gauss)],
        "actions": agent.action_space.np_random.bit_generator.state,
    }
    save_tensors(path, tensors, LAYOUT, header)


def restore_agent(agent: Any, path: Path) -> dict[str, Any]:
    """Restores a saved agent into a new one that was made with the same arguments.

    Returns:
        The notes that were saved with it.

    Raises:
        FileError: The file is missing or damaged, or holds an agent of another shape.
    """
    import jax

    tensors, header = load_tensors(path, LAYOUT)
    found = {}
    for name, tree in _trees(agent).items():
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        kept = []
        for place, leaf in leaves:
            key = _key(name, place)
            wanted, held = jax.numpy.asarray(leaf), tensors.get(key)
            if held is None or _look(held) != _look(wanted):
                raise FileError(
                    f"{path} is of another agent: {key} should be {_look(wanted)}, the "
                    f"file has {'nothing' if held is None else _look(held)}"
                )
            kept.append(jax.numpy.asarray(held))
        found[name] = jax.tree_util.tree_unflatten(structure, kept)
    for name, tree in found.items():
        owner, _, attribute = name.partition(".")
        setattr(agent if owner == "agent" else agent.policy, attribute, tree)
    try:
        _fill_buffer(agent.replay_buffer, tensors, *header["buffer"])
        kind, position, has_gauss, gauss = header["numpy"]
        state = (kind, tensors["numpy"], position, has_gauss, gauss)
        np.random.set_state(state)  # noqa: NPY002
        agent.action_space.np_random.bit_generator.state = header["actions"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileError(f"{path} is no valid {LAYOUT.kind}: {error}") from error
    agent.num_timesteps = header["steps"]
    agent._n_updates, agent._episode_num = header["updates"], header["episodes"]
    notes: dict[str, Any] = header["notes"]
    return notes


def _fill_buffer(
    buffer: Any, tensors: Mapping[str, NDArray[Any]], position: int, full: bool
) -> None:
    """Raises unless there are as many transitions as the header says."""
    filled = buffer.buffer_size if full else position
    if position >= buffer.buffer_size:
        raise ValueError(
            f"its replay buffer is at {position} of {buffer.buffer_size} transitions"
        )
    for name in BUFFER:
        rows, into = tensors[f"buffer/{name}"], getattr(buffer, name)
        if _look(rows) != _look(into[:filled]):
            raise ValueError(
                f"{name} is {_look(rows)}, expected {_look(into[:filled])}"
            )
        into[:filled] = rows
    buffer.pos, buffer.full = position, full


def _look(array: Any) -> str:
    """The type and shape of an array."""
    return f"{array.dtype} {array.shape}"


def _trees(agent: Any) -> dict[str, Any]:
    """Networks with their optimisers, and random keys, of agent and policy."""
    trees = {}
    for owner, thing in (("agent", agent), ("policy", agent.policy)):
        for name, value in vars(thing).items():
            if name.endswith("_state") or name in ("key", "noise_key"):
                trees[f"{owner}.{name}"] = value
    return trees


def _key(name: str, place: Any) -> str:
    import jax

    return f"{name}{jax.tree_util.keystr(place)}"
