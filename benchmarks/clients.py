"""What trainers need beside a wrapped environment, and how fast they step it.

    python -m benchmarks.clients [--steps 512] [--cleanrl ppo_continuous_action.py]

Prints the table of docs/trainers.md: each client's version, the lines that change in a
script of its own, and steps a second with and without the reward, for one environment
and for eight, from one run. The environment is a small arena on states, whose picture
is drawn for the reward alone; the reward is the video-level one on pooled pixels. What
is not installed is left out; CleanRL is a script, whose path is given.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from genreward_wrappers import VideoLevelReward, vector
from genreward_wrappers.testing import PointMass

HORIZON = 64
REWARD: dict[str, Any] = {
    "goal": "metaworld/drawer-close",
    "encoder": "pixels",
    "horizon": HORIZON,
    "frames": "render",
    "other_task": True,
}


def arena() -> gym.Env[Any, Any]:
    """States in; pixels on request."""
    return PointMass(obs="state", horizon=HORIZON, render_mode="rgb_array")


def paid() -> gym.Env[Any, Any]:
    """The same under the reward."""
    return VideoLevelReward(arena(), **REWARD)


def gymnasiums(count: int, reward: bool) -> Any:
    """What most clients take: one environment, or several in one process."""
    if count == 1:
        return paid() if reward else arena()
    made = [partial(PointMass, obs="pixels", horizon=HORIZON)] * count
    envs = SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)
    own = {**REWARD, "frames": "obs"}
    return vector.VideoLevelReward(envs, **own) if reward else envs


def random_actions(count: int, reward: bool) -> Callable[[int], None]:
    """Gymnasium's own loop, without an agent."""
    env = gymnasiums(count, reward)
    env.reset(seed=0)

    def play(steps: int) -> None:
        for _ in range(steps // count):
            _, _, ended, cut, _ = env.step(env.action_space.sample())
            if count == 1 and (ended or cut):
                env.reset()

    return play


def sb3(count: int, reward: bool, agent: str = "stable_baselines3:PPO") -> Any:
    """An agent of stable-baselines3 or one of its relatives, which learns."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    module, _, name = agent.partition(":")
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    venv = DummyVecEnv([paid if reward else arena] * count)
    made = getattr(import_module(module), name)
    learner = made(policy, venv, n_steps=256 // count, batch_size=64, n_epochs=2)

    def play(steps: int) -> None:
        learner.learn(steps)

    return play


def torchrl(count: int, reward: bool) -> Callable[[int], None]:
    """A rollout of random actions into TensorDicts."""
    from torchrl.envs import GymWrapper

    env = GymWrapper(gymnasiums(count, reward))

    def play(steps: int) -> None:
        env.rollout(steps // count, break_when_any_done=False)

    return play


def skrl(count: int, reward: bool) -> Callable[[int], None]:
    """Steps of random actions through skrl's wrapper, in tensors."""
    import torch
    from skrl.envs.wrappers.torch import wrap_env

    env = wrap_env(gymnasiums(count, reward), wrapper="gymnasium", verbose=False)
    env.reset()
    shape = (count, *env.action_space.shape)

    def play(steps: int) -> None:
        for _ in range(steps // count):
            _, _, ended, cut, _ = env.step(torch.rand(shape) * 2 - 1)
            if count == 1 and bool(ended | cut):
                env.reset()

    return play


def rllib(count: int, reward: bool) -> Callable[[int], None]:
    """PPO of RLlib, whose one runner is in this process."""
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.tune.registry import register_env

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    name = "paid" if reward else "bare"
    register_env(name, lambda _: paid() if reward else arena())
    algorithm = (
        PPOConfig()
        .environment(name, disable_env_checking=True)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=count)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=256, minibatch_size=64, num_epochs=2)
        .debugging(log_level="ERROR")
        .build_algo()
    )

    def play(steps: int) -> None:
        for _ in range(steps // 256):
            algorithm.train()

    return play


class SameStep(SyncVectorEnv):
    """What CleanRL's scripts expect of Gymnasium, and how long one ran."""

    seconds = 0.0

    def __init__(self, made: Any) -> None:
        super().__init__(made, autoreset_mode=AutoresetMode.SAME_STEP)

    def reset(self, **kwargs: Any) -> Any:
        SameStep.seconds = -time.process_time()
        return super().reset(**kwargs)

    def step(self, actions: Any) -> Any:
        *rest, infos = super().step(actions)
        infos.pop("final_info", None)
        return *rest, infos

    def close(self, **kwargs: Any) -> None:
        SameStep.seconds += time.process_time()
        super().close(**kwargs)


def cleanrl(count: int, reward: bool, script: str) -> Callable[[int], float]:
    """A script of CleanRL, with what Gymnasium 1.x needs put in its place."""
    gym.register("bench/bare-v0", arena)
    gym.register("bench/paid-v0", paid)
    clipped = gym.wrappers.TransformObservation
    told = [script, "--env-id", f"bench/{'paid' if reward else 'bare'}-v0",
            "--num-envs", str(count), "--num-steps", str(256 // count),
            "--num-minibatches", "4", "--update-epochs", "2"]  # fmt: skip

    def play(steps: int) -> float:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch.object(sys, "argv", [*told, "--total-timesteps", str(steps)]),
            mock.patch("torch.utils.tensorboard.SummaryWriter"),
            mock.patch.object(gym.vector, "SyncVectorEnv", SameStep),
            mock.patch.object(
                gym.wrappers,
                "TransformObservation",
                lambda env, cut: clipped(env, cut, env.observation_space),
            ),
        ):
            runpy.run_path(script, run_name="__main__")
        return SameStep.seconds

    return play


#: Package, how it is measured, and what changes in a script of its own.
CLIENTS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "Gymnasium, random actions": ("gymnasium", random_actions, "the environment"),
    "stable-baselines3 PPO": ("stable-baselines3", sb3, "the environment"),
    "sb3-contrib RecurrentPPO": (
        "sb3-contrib",
        partial(sb3, agent="sb3_contrib:RecurrentPPO"),
        "the environment",
    ),
    "SBX PPO": ("sbx-rl", partial(sb3, agent="sbx:PPO"), "the environment"),
    "RLlib PPO": ("ray", rllib, "the environment"),
    "TorchRL, random actions": (
        "torchrl",
        torchrl,
        "the environment; SAME_STEP or DISABLED for vectors",
    ),
    "skrl, random actions": ("skrl", skrl, "the environment"),
}


def rate(make: Callable[..., Any], count: int, steps: int) -> tuple[float, float]:
    """Steps a second without and with the reward, by turns."""
    both = [make(count, reward) for reward in (False, True)]
    seconds: list[list[float]] = [[], []]
    for turn in range(4):
        for play, found in zip(both, seconds, strict=True):
            begun = time.process_time()
            took = play(steps)
            if turn:  # the first one warms up
                # A script sets itself up each time, and says how long the rest took.
                found.append(took or time.process_time() - begun)
    bare, rewarded = (steps / float(np.median(found)) for found in seconds)
    return bare, rewarded


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--cleanrl", type=Path)
    parser.add_argument("--only", default="")
    args = parser.parse_args(argv)
    if args.cleanrl:
        script = str(args.cleanrl.resolve())
        CLIENTS[f"CleanRL `{args.cleanrl.name}`"] = (
            "gymnasium",
            partial(cleanrl, script=script),
            "the id, beside what Gymnasium 1.x needs",
        )
    warnings.simplefilter("ignore")
    print(
        "| client | version | what changes | 1 environment | 8 environments |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for name, (package, make, changes) in CLIENTS.items():
        if args.only not in name:
            continue
        try:
            cells = [name, version(package), changes]
            for count in (1, 8):
                bare, rewarded = rate(make, count, args.steps)
                share = rewarded / bare
                cells.append(f"{bare:.0f} → {rewarded:.0f} ({share:.2f}x)")
        except ImportError as error:
            print(f"<!-- {name}: {error} -->")
            continue
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
