"""The reward wrappers for stable-baselines3's vector environments."""

from genreward_wrappers.hosts.sb3 import (
    VecFrameLevelReward,
    VecGenReward,
    VecRewardModel,
    VecVideoLevelReward,
)
from genreward_wrappers.hosts.sb3_callbacks import FBCallback
from genreward_wrappers.hosts.sb3_logger import RewardLogger

__all__ = [
    "FBCallback",
    "RewardLogger",
    "VecFrameLevelReward",
    "VecGenReward",
    "VecRewardModel",
    "VecVideoLevelReward",
]
