"""A stable-baselines3 agent in a safetensors file, so that a run can stop and go on.

stable-baselines3's own files hold pickles, which are never read here. What is kept is
everything that the next gradient step depends on: weights, optimisers, replay buffer,
and the random numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genreward_wrappers.data.files import Layout, load_tensors, save_tensors
from genreward_wrappers.data.schema import Record, Whole

LAYOUT = Layout(
    "genreward_agent",
    "checkpoint of a learning run",
    "genreward evaluate --learn",
    schema=1,
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
    """Writes an off-policy agent, all or nothing.

    Args:
        agent: A `SAC` between two calls of `learn`.
        path: Where to.
        notes: What else to keep, as JSON.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, state in agent.get_parameters().items():
        for key, tensor in _flat(state):
            tensors[f"{name}/{key}"] = tensor.detach().cpu().contiguous().numpy()
    tensors["log_ent_coef"] = agent.log_ent_coef.detach().cpu().numpy()
    buffer = agent.replay_buffer
    filled = buffer.buffer_size if buffer.full else buffer.pos
    for name in BUFFER:
        tensors[f"buffer/{name}"] = np.ascontiguousarray(getattr(buffer, name)[:filled])
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    tensors["numpy"] = np.asarray(keys)
    tensors["torch"] = torch.get_rng_state().numpy()
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
    """Puts an agent, newly made with the same arguments, where the saved one was.

    Returns:
        The notes that were kept with it.

    Raises:
        FileError: There is no such file, or it is damaged.
    """
    tensors, header = load_tensors(path, LAYOUT)
    states = agent.get_parameters()
    for name, state in states.items():
        prefix = f"{name}/"
        saved = {
            key.removeprefix(prefix): torch.from_numpy(value)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        states[name] = {**state, "state": _nested(saved)} if "state" in state else saved
    agent.set_parameters(states, exact_match=True)
    with torch.no_grad():
        agent.log_ent_coef.copy_(torch.from_numpy(tensors["log_ent_coef"]))
    buffer = agent.replay_buffer
    for name in BUFFER:
        kept = tensors[f"buffer/{name}"]
        getattr(buffer, name)[: len(kept)] = kept
    buffer.pos, buffer.full = header["buffer"]
    agent.num_timesteps = header["steps"]
    agent._n_updates, agent._episode_num = header["updates"], header["episodes"]
    kind, position, has_gauss, gauss = header["numpy"]
    np.random.set_state(  # noqa: NPY002
        (kind, tensors["numpy"], position, has_gauss, gauss)
    )
    torch.set_rng_state(torch.from_numpy(tensors["torch"]))
    agent.action_space.np_random.bit_generator.state = header["actions"]
    notes: dict[str, Any] = header["notes"]
    return notes


def _flat(state: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a module's state, or of an optimiser's by parameter."""
    if "state" not in state:
        return list(state.items())
    return [
        (f"{index}/{key}", value)
        for index, entries in state["state"].items()
        for key, value in entries.items()
    ]


def _nested(flat: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    nested: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in flat.items():
        index, _, key = name.partition("/")
        nested.setdefault(int(index), {})[key] = value
    return nested
