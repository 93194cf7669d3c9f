"""Whether every host and reward on the device pays what it pays on the CPU.

Differences are relative to the largest reward of the CPU, or to 1 where that is
smaller. The stated tolerances are `TOLERANCES`: on a GPU, torch multiplies in TF32
inside convolutions unless it is told not to, so float32 is held to two of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv

from benchmarks.compare import specs
from benchmarks.gpu.bench import Bench, Row, Rows
from genreward_wrappers import GoalBundle, VideoLevelReward, load_goal, vector
from genreward_wrappers.core import RewardModel, Session
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.evaluate.judge.judged_rewards import Maker
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.forward_backward.features import Features
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets

TASK = "metaworld/drawer-close"
#: Beside the default one, and for nets without statistics.
READINGS = {
    "frame": "frame:form=value",
    "video, stream": "video:reading=stream,length=9",
    "video, window": "video:reading=window,window=8,length=8,stride=4",
}
TOLERANCES = {"float32": 1e-3, "float32, TF32": 2e-2, "bfloat16": 0.1, "float16": 2e-2}


def rows(bench: Bench) -> Rows:
    """The check of the device's choice, hosts, rewards, precisions, synchronisation."""
    yield "device='auto'", partial(_auto, bench)
    for host in HOSTS:
        yield f"host {host}", partial(_host, bench, host)
    texts = specs(TASK) | READINGS
    for name in ("generated", "env"):
        # The one makes videos, the other is the environment's own.
        del texts[name]
    for name, text in texts.items():
        yield f"reward {name}", partial(_exact, bench, text)
    # Half precision on a CPU takes seconds, and says nothing about a GPU's.
    for dtype in ("bfloat16",) if bench.tiny else ("bfloat16", "float16"):
        yield f"video in {dtype}", partial(_against_cpu, bench, "video", dtype, dtype)
    yield "video with TF32", partial(_against_cpu, bench, "video", "float32, TF32")
    for text in ("video", READINGS["frame"]):
        yield (
            f"synchronisations a step, {text}",
            partial(_synchronisations, bench, text),
        )


def _auto(bench: Bench) -> Row:
    found = resolve_device("auto")
    return {"found": str(found), "ok": found.type == bench.device.type}


def _horizon(bench: Bench) -> int:
    return 8 if bench.tiny else 64


def _envs(bench: Bench) -> int:
    return 2 if bench.tiny else 4


@cache
def _goal(tiny: bool) -> GoalBundle:
    """The embedded goal, with nets on pooled pixels that nobody has trained."""
    torch.manual_seed(0)
    shape = FBConfig(features=192, actions=4, z=16, hidden=32)
    weights, config = FBNets(shape).to_arrays()
    seen = Features(load_encoder("pixels", device="cpu")).card
    goal = load_goal(TASK)
    few = 1 if tiny else len(goal.videos)
    return goal.with_(
        videos=goal.videos[:few],
        key_frames=goal.key_frames[:few],
        nets=weights,
        nets_config={**config, "input": seen},
    )


def _model(
    bench: Bench, text: str, device: Any, dtype: str | None = None
) -> RewardModel[Any]:
    horizon = _horizon(bench)
    maker = Maker(
        _goal(bench.tiny), horizon, horizon + 1, device=str(device), dtype=dtype
    )
    (contestant,) = maker.make(text)
    ((model, _),) = contestant.parts
    return model


def _film(bench: Bench) -> np.ndarray[Any, Any]:
    """(T, N, 64, 64, 3) the goal's videos with a little noise, as N agents see them."""
    rng, videos = np.random.default_rng(0), load_goal(TASK).videos[: _envs(bench)]
    at = np.linspace(0, videos.shape[1] - 1, _horizon(bench) + 1).astype(int)
    film = videos[:, at].swapaxes(0, 1)
    noise = rng.integers(-20, 21, film.shape)
    return np.clip(film.astype(int) + noise, 0, 255).astype(np.uint8)


def _scores(bench: Bench, model: RewardModel[Any]) -> np.ndarray[Any, Any]:
    film, rng = _film(bench), np.random.default_rng(1)
    count = film.shape[1]
    session = Session([model], count)
    session.begin(film[0], seed=0)
    no = np.zeros(count, np.bool_)
    found = []
    for frames in film[1:]:
        actions = rng.uniform(-1, 1, (count, 4)).astype(np.float32)
        found.append(session.score(actions, frames, no, no)[model.name].value)
    return np.stack(found)


def _compared(device: Any, cpu: Any, kind: str) -> Row:
    apart = float(np.abs(device - cpu).max() / max(1.0, np.abs(cpu).max()))
    tolerance = TOLERANCES[kind]
    return {"difference": apart, "tolerance": tolerance, "ok": apart <= tolerance}


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _against_cpu(bench: Bench, text: str, kind: str, dtype: str | None = None) -> Row:
    there = _scores(bench, _model(bench, text, bench.device, dtype))
    return _compared(there, _scores(bench, _model(bench, text, "cpu")), kind)


def _exact(bench: Bench, text: str) -> Row:
    with _exact_convolutions():
        return _against_cpu(bench, text, "float32")


def _synchronisations(bench: Bench, text: str) -> Row:
    """How often a step waits for the device: once, when it hands the rewards back."""
    if not bench.cuda:
        return {"left_out": "torch counts them on CUDA alone"}
    model = _model(bench, text, bench.device)
    _scores(bench, model)
    film = _film(bench)
    count = film.shape[1]
    no, actions = np.zeros(count, np.bool_), np.zeros((count, 4), np.float32)
    session = Session([model], count)
    session.begin(film[0], seed=0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            session.score(actions, film[1], no, no)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    told = [w for w in found if "synchroniz" in str(w.message).lower()]
    where = sorted({f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in told})
    return {"count": len(told), "where": where, "ok": len(told) <= 1}


Make = Callable[[], gym.Env[Any, Any]]
Actions = np.ndarray[Any, Any]


def _gymnasium(make: Make, actions: Actions, **options: Any) -> list[Any]:
    env = VideoLevelReward(make(), **options)
    env.reset(seed=0)
    return [env.step(action[0])[1] for action in actions]


def _vector(make: Make, actions: Actions, **options: Any) -> list[Any]:
    made = SyncVectorEnv([make] * actions.shape[1])
    envs = vector.VideoLevelReward(made, **options)
    envs.reset(seed=0)
    return [envs.step(action)[1] for action in actions]


def _sb3(make: Make, actions: Actions, **options: Any) -> list[Any]:
    from stable_baselines3.common.vec_env import DummyVecEnv

    from genreward_wrappers.sb3 import VecVideoLevelReward

    venv = VecVideoLevelReward(DummyVecEnv([make] * actions.shape[1]), **options)
    venv.seed(0)
    venv.reset()
    return [venv.step(action)[1] for action in actions]


HOSTS = {"gymnasium": _gymnasium, "vector": _vector, "stable-baselines3": _sb3}


def _host(bench: Bench, name: str) -> Row:
    play, make = HOSTS[name], partial(PointMass, horizon=64)
    options = {"goal": _goal(bench.tiny), "horizon": 64, "other_task": True}
    rng = np.random.default_rng(2)
    shape = (_horizon(bench), _envs(bench), 2)
    actions = rng.uniform(-1, 1, shape).astype(np.float32)
    with warnings.catch_warnings(), _exact_convolutions():
        warnings.simplefilter("ignore")
        there = play(make, actions, device=str(bench.device), **options)
        here = play(make, actions, device="cpu", **options)
    return _compared(np.array(there), np.array(here), "float32")
