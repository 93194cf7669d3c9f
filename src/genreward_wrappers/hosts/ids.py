"""Ids of environments that come with their reward, for scripts that only take an id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from genreward_wrappers.data.goals import embedded_goals

#: What stands before the task, with arguments of the environment and of its reward.
_NAMESPACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "genreward": ({}, {}),
    # The reward depends on the time, which a state does not show.
    "genreward-state": (
        {"obs": "state", "render_mode": "rgb_array"},
        {"observe": "progress"},
    ),
}


def register_rewarded() -> None:
    """Registers two ids with a reward for every embedded goal.

    ``genreward/<task>-v0`` is the environment of the goal's id in a `GenRewardWrapper`
    with its defaults. In ``genreward-state/<task>-v0`` the agent sees the state and the
    place in the episode instead of pixels. Arguments of ``gym.make`` go to the
    environment, and its time limit lies below the reward. Ids that are registered
    already are left as they are.
    """
    for goal in embedded_goals():
        if goal not in gym.registry:
            continue
        bare, task = gym.registry[goal], goal.rpartition("/")[2]
        for namespace, (arguments, options) in _NAMESPACES.items():
            env_id = f"{namespace}/{task}-v0"
            if env_id in gym.registry:
                continue
            reward = WrapperSpec(
                "GenRewardWrapper",
                "genreward_wrappers.wrappers:GenRewardWrapper",
                {"goal": goal, **options},
            )
            gym.registry[env_id] = replace(
                bare,
                id=env_id,
                kwargs={**bare.kwargs, **arguments},
                additional_wrappers=(reward,),
            )
