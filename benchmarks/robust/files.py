"""The kinds of file that are mutated: how one is made, signed, read and used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genreward_wrappers import GoalBundle, VideoLevelReward
from genreward_wrappers.data import cache, episodes, goals
from genreward_wrappers.data.episodes import Episode, outcome
from genreward_wrappers.data.files import Layout, canonical
from genreward_wrappers.data.trees import flatten
from genreward_wrappers.encoders.binding import bind_encoder
from genreward_wrappers.encoders.s3d import LAYOUT as S3D_LAYOUT
from genreward_wrappers.encoders.s3d import S3D, S3DConfig, load_s3d, save_s3d
from genreward_wrappers.goal_pipeline.card import (
    check_summary,
    curve_summary,
    describe,
    readme,
)
from genreward_wrappers.hosts.state import LAYOUT as STATE_LAYOUT
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets
from genreward_wrappers.training.forward_backward.train import LAYOUT as FB_LAYOUT
from genreward_wrappers.training.forward_backward.train import FBTrainer
from genreward_wrappers.training.priors.store import LAYOUT as PRIOR_LAYOUT
from genreward_wrappers.training.priors.store import Prior
from genreward_wrappers.training.priors.transformer import PriorConfig, VideoTransformer
from genreward_wrappers.training.priors.vq import VQCodec, VQConfig

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: What it is called in the table.
        layout: Its layout.
        make: Writes a good one.
        read: Reads one, and gives a hash of all that was read.
        use: What is done with one that a liar has signed.
        weight: How often it is taken; reading some takes longer.
    """

    name: str
    layout: Layout
    make: Callable[[Path], None]
    read: Callable[[Path], str]
    use: Callable[[Path], Any]
    weight: float = 1.0


def digest(*parts: Any) -> str:
    """A hash of arrays and of what JSON can say."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode())
            found.update(np.ascontiguousarray(part).tobytes())
        else:
            found.update(canonical(part).encode())
    return found.hexdigest()


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and its tensors."""
    (size,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    return header, data[8 + size :]


def joined(header: dict[str, Any], tensors: bytes) -> bytes:
    """The file of a header and tensors."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + tensors


def signed(
    layout: Layout, about: dict[str, Any], data: bytes, frames: bool = True
) -> bytes:
    """A file with another header, and the hash that goes with it.

    Args:
        layout: Of the file.
        about: The other header.
        data: The file.
        frames: Whether a hash that is over frames is found, which unpacks them.
    """
    header, tensors = split(data)
    about = {key: value for key, value in about.items() if key != "sha256"}
    arrays = {
        name: _array(each, tensors)
        for name, each in header.items()
        if name != "__metadata__"
    }
    if layout.hashed or frames:
        # Some lies cannot be signed, and are tried as they are.
        with contextlib.suppress(Exception):
            about["sha256"] = _sign(layout, about, arrays)
    header["__metadata__"][layout.key] = json.dumps(about)
    return joined(header, tensors)


def _array(each: dict[str, Any], tensors: bytes) -> NDArray[Any]:
    kinds = {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8",
        "U8": "u1", "BOOL": "?",
    }  # fmt: skip
    begin, end = each["data_offsets"]
    return np.frombuffer(tensors[begin:end], kinds[each["dtype"]]).reshape(
        each["shape"]
    )


def _sign(
    layout: Layout, about: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> str:
    found = hashlib.sha256(canonical(about).encode())
    if layout.hashed:
        for name, array in sorted(arrays.items()):
            found.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
            found.update(array.tobytes())
        return found.hexdigest()
    # A bundle's is over the frames themselves.
    import zlib

    shape = tuple(about["videos"]["shape"])
    deltas = b"".join(zlib.decompress(arrays[f"video/{i}"]) for i in range(shape[0]))
    videos = np.frombuffer(deltas, np.uint8).reshape(shape)
    videos = np.cumsum(videos, axis=1, dtype=np.uint8)
    nets = {k.removeprefix("nets/"): v for k, v in arrays.items() if "nets/" in k}
    for name, array in [("videos", videos), *sorted(nets.items())]:
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


# Goal bundles


def _make_bundle(path: Path) -> None:
    config = FBConfig(features=6, actions=2, z=4, hidden=4, backward_hidden=4)
    weights, about = FBNets(config).to_arrays()
    card = {
        "source": "pixels:8",
        "fingerprint": {
            "kind": "pixels", "sha256": None, "config": {"grid": 8},
            "grammar": [1, 1, 1, 1], "size": [8, 8], "dtype": "float32",
        },
    }  # fmt: skip
    GoalBundle(
        RNG.integers(0, 256, (2, 5, 8, 8, 3)).astype(np.uint8),
        env_id="metaworld/reach", camera="corner2", prompt="reach",
        key_frames=(3, 4), encoder=card, nets=weights,
        nets_config={**about, "input": {"encoder": card, "stack": 1},
                     "statistics": {"mean": 0.5, "std": 2.0}},
        generator="nobody", license="MIT",
        provenance=(
            {"step": "generate", "candidates": [{"seed": 3, "start_seed": 4}]},
            {"step": "select", "curves": [[0.1, 0.2, 0.3, 0.4, 0.5]] * 2,
             "key_frames": [3, 4], "ranking": [1, 0], "kept": [0, 1],
             "prompts": ["a"], "baseline": ["b"], "encoder": card, "prior": 0.5,
             "deviation": 0.1},
            {"step": "forward-backward", "seeds": [4_000_000, 4_000_010]},
            {"step": "check", "said": ["good"], "wrong way round": False},
        ),
    ).save(path)  # fmt: skip


def _read_bundle(path: Path) -> str:
    return GoalBundle.load(path).digest


def _use_bundle(path: Path) -> None:
    goal = GoalBundle.load(path)
    # What `genreward inspect` and `genreward push` say of it.
    json.dumps(describe(goal))
    assert repr(goal)
    assert isinstance(curve_summary(goal) + check_summary(goal), list)
    _ = readme(goal, "me/goals", "goal.safetensors", "goal.png")
    # Foreign encoders are looked for, which takes long; what is named is checked.
    if str(goal.encoder.get("source", "")).startswith("pixels"):
        bind_encoder(goal, None, device="cpu")
    config = {
        k: v for k, v in goal.nets_config.items() if k not in ("input", "statistics")
    }
    FBNets.from_arrays(goal.nets, config)


# Episodes


def _make_episode(path: Path) -> None:
    Episode(
        frames=RNG.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8),
        frame_steps=np.array([0, 2, 4]),
        actions=RNG.normal(size=(4, 2)).astype(np.float32),
        success=np.array([False, False, True, True]),
        rewards={"env": np.array([0.5, 1, 2, np.nan], np.float32)},
        terminated=True,
        states=RNG.normal(size=(5, 3)).astype(np.float32),
        info={
            "env_id": "metaworld/reach", "kind": "success", "seed": 3,
            "group": "one", "policy": "random", "options": {"size": 8}, "goal": 0,
        },
    ).save(path)  # fmt: skip


def _read_episode(path: Path) -> str:
    found = Episode.load(path)
    success, about = outcome(path)
    assert (success, about) == (found.succeeded, found.info)
    parts = [found.frames, found.frame_steps, found.actions, found.success]
    states = [] if found.states is None else [found.states]
    rewards = [part for item in sorted(found.rewards.items()) for part in item]
    return digest(*parts, *states, *rewards, found.terminated, dict(found.info))


def _use_episode(path: Path) -> None:
    found = Episode.load(path)
    np.random.default_rng(found.info.get("seed", 0))
    int(found.info.get("goal", -1))
    found.save(path)


# Caches


def _entry() -> cache.Cache[cache.Arrays]:
    def fault(arrays: cache.Arrays) -> str:
        return cache.expected(arrays, {"features": (np.float16, (6, None))})

    return cache.array_cache(Path(), fault)


def _make_entry(path: Path) -> None:
    features = RNG.normal(size=(6, 12)).astype(np.float16)
    _entry().write(path, {"features": features})


def _read_entry(path: Path) -> str:
    return digest(_entry().read(path)["features"])


# Models


def _make_prior(path: Path) -> None:
    codec = VQConfig(size=(8, 8), codes=4, dim=2, channels=(2, 2))
    torch.manual_seed(0)
    net = PriorConfig(codes=4, positions=16, frames=2, width=4, layers=1, heads=1)
    Prior(
        "viper", VQCodec(codec), VideoTransformer(net), {"mean": 0.0, "std": 1.0}, {}
    ).save(path)


def _read_prior(path: Path) -> str:
    found = Prior.load(path, device="cpu")
    return _of_modules(found.codec, found.net, about=[found.kind, found.statistics])


def _make_s3d(path: Path) -> None:
    config = S3DConfig(shrink=64, features=2, vocabulary=4, word=2, hidden=2)
    torch.manual_seed(0)
    save_s3d(path, S3D(config), config, ["a", "b", "c"], size=(32, 32))


def _read_s3d(path: Path) -> str:
    found = load_s3d(path, device="cpu")
    return _of_modules(found.model, about=[found.pictures.size, found._rows])


def _make_trainer(path: Path) -> None:
    config = FBConfig(features=3, actions=2, z=2, hidden=4, backward_hidden=4)
    FBTrainer(config, device="cpu").save(path, {"data": "some"})


def _read_trainer(path: Path) -> str:
    found = FBTrainer.load(path, device="cpu")
    about = [found.step, found.notes, vars(found.training), vars(found.config)]
    generator = found._generator.get_state().numpy()
    modules = found._modules().values()
    return digest(_of_modules(*modules, about=about), generator)


# Rewards in mid-episode


def _host(steps: int) -> VideoLevelReward:
    goal = GoalBundle(np.arange(960, dtype=np.uint8).reshape(1, 5, 8, 8, 3))
    env = PointMass(8, obs="dict")
    host = VideoLevelReward(
        env, goal, frames="obs:pixels", encoder="pixels:4", horizon=50,
        reading="stream",
    )  # fmt: skip
    host.reset(seed=0)
    for _ in range(steps):
        host.step(np.ones(2, np.float32))
    return host


def _make_state(path: Path) -> None:
    _host(5).save_state(path, {"rng": RNG.bit_generator.state, "at": (1.5, None)})


def _read_state(path: Path) -> str:
    host = _host(0)
    outline, tensors = flatten([host.load_state(path), host.snapshot()])
    return digest(outline, *tensors.values())


def _of_modules(*modules: Any, about: Any) -> str:
    states = [module.state_dict() for module in modules]
    return digest(about, *(t.numpy() for state in states for t in state.values()))


KINDS = {
    kind.name: kind
    for kind in (
        Kind("goal bundle", goals.LAYOUT, _make_bundle, _read_bundle, _use_bundle),
        Kind("episode", episodes.LAYOUT, _make_episode, _read_episode, _use_episode),
        Kind("cache entry", cache.ENTRY, _make_entry, _read_entry, _read_entry),
        Kind("reward state", STATE_LAYOUT, _make_state, _read_state, _read_state, 0.5),
        Kind("prior", PRIOR_LAYOUT, _make_prior, _read_prior, _read_prior, 0.1),
        Kind("S3D model", S3D_LAYOUT, _make_s3d, _read_s3d, _read_s3d, 0.02),
        Kind("checkpoint", FB_LAYOUT, _make_trainer, _read_trainer, _read_trainer, 0.1),
    )
}
