"""Ids of environments that come with their reward, for scripts that only take an id."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from genreward_wrappers.data.goals import embedded_goals

NAMESPACE = "genreward"


def register_rewarded() -> None:
    """Registers ``genreward/<task>-v0`` for every embedded goal.

    Each is the environment of the goal's id in a `GenRewardWrapper` with its defaults.
    Arguments of ``gym.make`` go to the environment, and its time limit lies below the
    reward. Ids that are registered already are left as they are.
    """
    for goal in embedded_goals():
        env_id = f"{NAMESPACE}/{goal.rpartition('/')[2]}-v0"
        if env_id in gym.registry or goal not in gym.registry:
            continue
        reward = WrapperSpec(
            "GenRewardWrapper",
            "genreward_wrappers.wrappers:GenRewardWrapper",
            {"goal": goal},
        )
        gym.registry[env_id] = replace(
            gym.registry[goal], id=env_id, additional_wrappers=(reward,)
        )
