"""The reward wrappers for stable-baselines3's vector environments."""

from genreward_wrappers.extras import require

require("stable_baselines3", "sb3", "genreward_wrappers.sb3 needs stable-baselines3")

from genreward_wrappers.hosts.arguments import (
    FrameLevelArguments,
    GenRewardArguments,
    RewardModelArguments,
    VideoLevelArguments,
)
from genreward_wrappers.hosts.sb3 import SB3Host
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


class VecRewardModel(RewardModelArguments, SB3Host):
    """Rewards the agents of a stable-baselines3 `VecEnv` by any `RewardModel`."""


class VecVideoLevelReward(VideoLevelArguments, SB3Host):
    """Rewards the agents of a `VecEnv` for following a goal video."""


class VecFrameLevelReward(FrameLevelArguments, SB3Host):
    """Rewards the agents of a `VecEnv` for leading to the key frame."""


class VecGenReward(GenRewardArguments, SB3Host):
    """Both rewards of GenReward, in place of the environments' own or beside it."""
