"""The reward wrappers for stable-baselines3's vector environments."""

from genreward_wrappers.hosts.sb3 import (
    VecFrameLevelReward,
    VecGenReward,
    VecRewardModel,
    VecVideoLevelReward,
)
from genreward_wrappers.hosts.sb3_callbacks import FBCallback
from genreward_wrappers.hosts.sb3_logger import RewardLogger
from genreward_wrappers.hosts.sb3_replay import RelabelReplayBuffer

__all__ = [
    "FBCallback",
    "RelabelReplayBuffer",
    "RewardLogger",
    "VecFrameLevelReward",
    "VecGenReward",
    "VecRewardModel",
    "VecVideoLevelReward",
]
