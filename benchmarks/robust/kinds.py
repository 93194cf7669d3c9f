"""The kinds of file that are mutated: how one is made, read and used."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.robust.files import Kind, digest
from genreward_wrappers import GoalBundle, VideoLevelReward
from genreward_wrappers.data import cache as caches
from genreward_wrappers.data import episodes, goals
from genreward_wrappers.data.episodes import Episode, outcome
from genreward_wrappers.data.files import Layout, hash_file
from genreward_wrappers.data.trees import flatten
from genreward_wrappers.encoders.binding import bind_encoder
from genreward_wrappers.encoders.s3d import LAYOUT as S3D_LAYOUT
from genreward_wrappers.encoders.s3d import S3D, S3DConfig, load_s3d, save_s3d
from genreward_wrappers.evaluate.learn.checkpoint import LAYOUT as AGENT_LAYOUT
from genreward_wrappers.evaluate.learn.checkpoint import restore_agent, save_agent
from genreward_wrappers.goal_pipeline.card import (
    check_summary,
    curve_summary,
    describe,
    readme,
)
from genreward_wrappers.hosts.state import LAYOUT as STATE_LAYOUT
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.finetuning.place import Place
from genreward_wrappers.training.finetuning.settings import Finetuning
from genreward_wrappers.training.finetuning.tuner import LAYOUT as TUNER_LAYOUT
from genreward_wrappers.training.finetuning.tuner import Tuner
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets
from genreward_wrappers.training.forward_backward.train import LAYOUT as FB_LAYOUT
from genreward_wrappers.training.forward_backward.train import FBTrainer
from genreward_wrappers.training.priors.settings import PriorTraining
from genreward_wrappers.training.priors.store import LAYOUT as PRIOR_LAYOUT
from genreward_wrappers.training.priors.store import Prior
from genreward_wrappers.training.priors.train import LAYOUT as PRIOR_TRAINING
from genreward_wrappers.training.priors.train import PriorTrainer
from genreward_wrappers.training.priors.transformer import PriorConfig, VideoTransformer
from genreward_wrappers.training.priors.vq import VQCodec, VQConfig

RNG = np.random.default_rng(0)

#: What a fine-tuning run says of itself in its checkpoint.
RUN = {"rank": 2, "rate": 1e-3}


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


def _entry() -> caches.Cache[caches.Arrays]:
    def fault(arrays: caches.Arrays) -> str:
        return caches.expected(arrays, {"features": (np.float16, (6, None))})

    return caches.array_cache(Path(), fault)


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


# Checkpoints


def _make_trainer(path: Path) -> None:
    config = FBConfig(features=3, actions=2, z=2, hidden=4, backward_hidden=4)
    FBTrainer(config, device="cpu").save(path, {"data": "some"})


def _read_trainer(path: Path) -> str:
    found = FBTrainer.load(path, device="cpu")
    about = [found.step, found.notes, vars(found.training), vars(found.config)]
    generator = found._generator.get_state().numpy()
    modules = found._modules().values()
    return digest(_of_modules(*modules, about=about), generator)


@cache
def _prior_trainer() -> PriorTrainer:
    videos = [RNG.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)]
    codec = VQConfig(size=(8, 8), codes=4, dim=2, channels=(2, 2))
    training = PriorTraining(codec_steps=1, steps=1, batch=1)
    net = {"frames": 2, "width": 4, "layers": 1, "heads": 1}
    trainer = PriorTrainer("viper", videos, codec, training, device="cpu", **net)
    # Once for the codec and once for the prior, so that both optimisers hold numbers.
    trainer.update()
    trainer.update()
    return trainer


def _make_prior_training(path: Path) -> None:
    _prior_trainer().save(path)


def _read_prior_training(path: Path) -> str:
    found = _prior_trainer()
    found.restore(path)
    state = found._generator.get_state().numpy(), found._used.numpy()
    modules = found._modules().values()
    return digest(_of_modules(*modules, about=found.step), *state)


@cache
def _tuner() -> Tuner:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    weights: Any = SimpleNamespace(
        trained=dict(net.named_parameters()),
        average={name: value.clone() for name, value in net.state_dict().items()},
    )
    task: Any = SimpleNamespace(module=net)
    training = Finetuning(held_out=0)
    tuner = Tuner(weights, task, 4, training, Place(torch.device("cpu")))
    net(torch.ones(1, 3)).sum().backward()
    tuner._adam.step()
    tuner.step = 1
    return tuner


def _make_tuner(path: Path) -> None:
    _tuner().save(path, RUN)


def _read_tuner(path: Path) -> str:
    found = _tuner()
    found.restore(path, RUN)
    state = found._adam.state_dict()["state"]
    moments = [tensor.numpy() for each in state.values() for tensor in each.values()]
    average = [tensor.numpy() for tensor in found.weights.average.values()]
    about = [found.step, found.elapsed]
    return digest(_of_modules(found._task.module, about=about), *moments, *average)


@cache
def _agent() -> Any:
    import gymnasium as gym
    from sbx import SAC

    env = gym.make("Pendulum-v1")
    options: dict[str, Any] = {"buffer_size": 4, "policy_kwargs": {"net_arch": [4]}}
    return SAC("MlpPolicy", env, seed=0, **options)


def _make_agent(path: Path) -> None:
    save_agent(_agent(), path, {"success": [True]})


def _read_agent(path: Path) -> str:
    found = _agent()
    notes = restore_agent(found, path)
    again = path.with_suffix(".again")
    # What it would save again is all that was restored.
    save_agent(found, again, notes)
    return hash_file(again)


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


@cache
def _live_host() -> VideoLevelReward:
    """One that states are loaded into."""
    return _host(0)


def _make_state(path: Path) -> None:
    _host(5).save_state(path, {"rng": RNG.bit_generator.state, "at": (1.5, None)})


def _of_host(host: VideoLevelReward, *more: Any) -> str:
    outline, tensors = flatten([*more, host.snapshot()])
    return digest(outline, *tensors.values())


def _read_state(path: Path) -> str:
    host = _live_host()
    before = _of_host(host)
    try:
        env_state = host.load_state(path)
    except ValueError:
        assert _of_host(host) == before, "a state that was refused was loaded in part"
        raise
    return _of_host(host, env_state)


def _use_state(path: Path) -> None:
    host = _live_host()
    before = host.snapshot()
    host.load_state(path)
    host.step(np.ones(2, np.float32))
    host.restore(before)


def _of_modules(*modules: Any, about: Any) -> str:
    states = [module.state_dict() for module in modules]
    return digest(about, *(t.numpy() for state in states for t in state.values()))


def _alike(
    name: str,
    layout: Layout,
    make: Callable[[Path], None],
    read: Callable[[Path], str],
    weight: float,
) -> Kind:
    """A kind whose files are read and no more."""
    return Kind(name, layout, make, read, read, weight)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("goal bundle", goals.LAYOUT, _make_bundle, _read_bundle, _use_bundle),
        Kind("episode", episodes.LAYOUT, _make_episode, _read_episode, _use_episode),
        _alike("cache entry", caches.ENTRY, _make_entry, _read_entry, 0.5),
        Kind("reward state", STATE_LAYOUT, _make_state, _read_state, _use_state, 0.5),
        _alike("prior", PRIOR_LAYOUT, _make_prior, _read_prior, 0.3),
        _alike("S3D model", S3D_LAYOUT, _make_s3d, _read_s3d, 0.1),
        _alike("train-fb checkpoint", FB_LAYOUT, _make_trainer, _read_trainer, 0.2),
        _alike(
            "train-viper checkpoint", PRIOR_TRAINING, _make_prior_training,
            _read_prior_training, 0.2,
        ),
        _alike("finetune checkpoint", TUNER_LAYOUT, _make_tuner, _read_tuner, 0.2),
        _alike("agent checkpoint", AGENT_LAYOUT, _make_agent, _read_agent, 0.1),
    )
}  # fmt: skip
