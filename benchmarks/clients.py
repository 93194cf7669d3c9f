"""What trainers need beside a wrapped environment, and how fast they step it.

    python -m benchmarks.clients [--steps 512]

Prints the table of docs/trainers.md: each client's version, the lines that change in a
script of its own, and steps a second with and without the reward, for one environment
and for eight, from one run. The environment is a small arena on states, whose picture
is drawn for the reward alone; the reward is the video-level one on pooled pixels. What
is not installed is left out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

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
    return lambda steps: learner.learn(steps)


def torchrl(count: int, reward: bool) -> Callable[[int], None]:
    """A rollout of random actions into TensorDicts."""
    from torchrl.envs import GymWrapper

    env = GymWrapper(gymnasiums(count, reward))
    return lambda steps: env.rollout(steps // count, break_when_any_done=False)


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


#: Package, how it is measured, and what changes in a script of its own.
CLIENTS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "Gymnasium, random actions": ("gymnasium", random_actions, "the environment"),
    "stable-baselines3 PPO": ("stable-baselines3", sb3, "the environment"),
    "sb3-contrib RecurrentPPO": (
        "sb3-contrib",
        partial(sb3, agent="sb3_contrib:RecurrentPPO"),
        "the environment",
    ),
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
            play(steps)
            if turn:  # the first one warms up
                found.append(time.process_time() - begun)
    bare, rewarded = (steps / float(np.median(found)) for found in seconds)
    return bare, rewarded


def main() -> None:
    """Measures, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=512)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| client | version | what changes | 1 environment, steps/s | with the reward "
        "| 8 environments | with the reward |\n| --- | --- | --- | --- | --- | --- | "
        "--- |"
    )
    for name, (package, make, changes) in CLIENTS.items():
        try:
            cells = [name, version(package), changes]
            for count in (1, 8):
                bare, rewarded = rate(make, count, args.steps)
                share = rewarded / bare
                cells += [f"{bare:.0f}", f"{rewarded:.0f} ({share:.2f}x)"]
        except ImportError as error:
            print(f"<!-- {name}: {error} -->")
            continue
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
