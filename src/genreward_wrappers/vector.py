"""The reward wrappers for `gymnasium.vector` environments."""

from genreward_wrappers.hosts.arguments import (
    FrameLevelArguments,
    GenRewardArguments,
    RewardModelArguments,
    VideoLevelArguments,
)
from genreward_wrappers.hosts.vector import VectorHost

__all__ = [
    "FrameLevelReward",
    "GenRewardWrapper",
    "RewardModelWrapper",
    "VideoLevelReward",
]


class RewardModelWrapper(RewardModelArguments, VectorHost):
    """Rewards the agents of a vector environment by any `RewardModel`."""


class VideoLevelReward(VideoLevelArguments, VectorHost):
    """Rewards the agents of a vector environment for following a goal video."""


class FrameLevelReward(FrameLevelArguments, VectorHost):
    """Rewards the agents of a vector environment for leading to the key frame."""


class GenRewardWrapper(GenRewardArguments, VectorHost):
    """Both rewards of GenReward, in place of the environments' own or beside it."""
