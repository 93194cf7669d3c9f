"""Gymnasium wrappers that turn generated goal videos into rewards.

Importing this package registers its environments and loads no torch: names come in when
they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gymnasium import make

from genreward_wrappers.envs._llvm import watch
from genreward_wrappers.envs.families import register_environments
from genreward_wrappers.hosts.ids import register_rewarded

if TYPE_CHECKING:
    from genreward_wrappers.core import RewardModel, Score, Session, Transition
    from genreward_wrappers.data.frames import TapFrames
    from genreward_wrappers.data.goals import GoalBundle, GoalError, load_goal
    from genreward_wrappers.encoders.registry import load_encoder
    from genreward_wrappers.evaluate.page.drawing import plot_episode
    from genreward_wrappers.generators.episode_settings import GeneratedGoals
    from genreward_wrappers.hosts.describe import describe
    from genreward_wrappers.rewards.registry import load_reward
    from genreward_wrappers.rewards.spec import RewardSpec
    from genreward_wrappers.wrappers import (
        FrameLevelReward,
        GenRewardWrapper,
        RewardModelWrapper,
        VideoLevelReward,
    )

__version__ = "0.1.0"

_HOME = {
    "FrameLevelReward": "wrappers",
    "GenRewardWrapper": "wrappers",
    "GeneratedGoals": "generators.episode_settings",
    "GoalBundle": "data.goals",
    "GoalError": "data.goals",
    "RewardModel": "core",
    "RewardModelWrapper": "wrappers",
    "RewardSpec": "rewards.spec",
    "Score": "core",
    "Session": "core",
    "TapFrames": "data.frames",
    "Transition": "core",
    "VideoLevelReward": "wrappers",
    "describe": "hosts.describe",
    "load_encoder": "encoders.registry",
    "load_goal": "data.goals",
    "load_reward": "rewards.registry",
    "plot_episode": "evaluate.page.drawing",
}

__all__ = [
    "FrameLevelReward",
    "GenRewardWrapper",
    "GeneratedGoals",
    "GoalBundle",
    "GoalError",
    "RewardModel",
    "RewardModelWrapper",
    "RewardSpec",
    "Score",
    "Session",
    "TapFrames",
    "Transition",
    "VideoLevelReward",
    "describe",
    "load_encoder",
    "load_goal",
    "load_reward",
    "make",
    "plot_episode",
]

watch()
register_environments()
register_rewarded()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in ("relabel", "sb3", "vector"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; it has {sorted(__all__)} and "
        "the modules 'relabel', 'sb3' and 'vector'"
    )


def __dir__() -> list[str]:
    return sorted([*__all__, "relabel", "sb3", "vector"])
