"""The reward wrappers for stable-baselines3's vector environments."""

from genreward_wrappers.hosts.sb3 import (
    VecFrameLevelReward,
    VecGenReward,
    VecRewardModel,
    VecVideoLevelReward,
)
from genreward_wrappers.hosts.sb3_callbacks import FBCallback

__all__ = [
    "FBCallback",
    "VecFrameLevelReward",
    "VecGenReward",
    "VecRewardModel",
    "VecVideoLevelReward",
]
