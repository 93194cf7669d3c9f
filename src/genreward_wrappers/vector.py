"""The reward wrappers for `gymnasium.vector` environments."""

from genreward_wrappers.hosts.vector import (
    FrameLevelReward,
    GenRewardWrapper,
    RewardModelWrapper,
    VideoLevelReward,
)

__all__ = [
    "FrameLevelReward",
    "GenRewardWrapper",
    "RewardModelWrapper",
    "VideoLevelReward",
]
