"""Episodes that were played in the toy arena, and what a wrapper paid for them."""

from __future__ import annotations

import numpy as np
import torch

from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.relabel import as_episode
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets

SIZE, HORIZON = 32, 12


def play(env, seed, policy=None):
    """(frames, actions, rewards, terminated, the environment's own rewards)."""
    rng = np.random.default_rng(seed)
    start = {"position": [-0.9, 0.1 * seed - 0.5], "target": [0.0, 0.1 * seed - 0.5]}
    frame, _ = env.reset(seed=seed, options=start)
    frames, actions, paid, own, over = [frame], [], [], [], False
    while not over:
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        if seed % 3 == 0:
            # Gets there, and ends the episode.
            action = np.array([1, 0], np.float32)
        frame, reward, terminated, truncated, info = env.step(action)
        frames.append(frame)
        actions.append(action)
        paid.append(reward)
        own.append(info["reward_env"])
        over = terminated or truncated
    return np.stack(frames), np.stack(actions), np.array(paid), terminated, own


def arena(wrap, count=5, horizon=HORIZON, size=SIZE):
    """Episodes and what the wrapper paid in each."""
    env = wrap(PointMass(size=size, horizon=horizon))
    episodes, online = [], []
    for seed in range(count):
        frames, actions, paid, terminated, own = play(env, seed)
        episodes.append(
            as_episode(
                frames, actions, terminated=terminated, env_rewards=own, seed=seed
            )
        )
        online.append(paid)
    return episodes, online


def with_nets(goal):
    """The goal with untrained nets over pooled pixels."""
    torch.manual_seed(0)
    nets, config = FBNets(FBConfig(features=192, actions=2, z=8, hidden=16)).to_arrays()
    return goal.with_(
        encoder=encoder_card(PooledPixels((SIZE, SIZE), device="cpu")),
        nets=nets,
        nets_config={**config, "statistics": {"mean": 0.0, "std": 1.0}},
    )
