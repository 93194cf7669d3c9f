"""The reward wrappers for single Gymnasium environments."""

from genreward_wrappers.hosts.arguments import (
    FrameLevelArguments,
    GenRewardArguments,
    RewardModelArguments,
    VideoLevelArguments,
)
from genreward_wrappers.hosts.gymnasium import GymnasiumHost

__all__ = [
    "FrameLevelReward",
    "GenRewardWrapper",
    "RewardModelWrapper",
    "VideoLevelReward",
]


class RewardModelWrapper(RewardModelArguments, GymnasiumHost):
    """Rewards an agent by any `RewardModel`.

    Example:
        >>> import gymnasium as gym
        >>> from genreward_wrappers import RewardModelWrapper
        >>> from genreward_wrappers.testing import Brightness, PointMass
        >>> env = RewardModelWrapper(PointMass(), Brightness())
        >>> _ = env.reset(seed=0)
        >>> *_, info = env.step(env.action_space.sample())
        >>> sorted(key for key in info if key.startswith("reward"))
        ['reward_brightness', 'reward_brightness_due', 'reward_env']
    """


class VideoLevelReward(VideoLevelArguments, GymnasiumHost):
    """Rewards an agent for following a goal video.

    Example:
        >>> from genreward_wrappers import VideoLevelReward, make
        >>> env = VideoLevelReward(make("metaworld/pick-place"), encoder="pixels")
        >>> _ = env.reset(seed=0)
        >>> _, reward, _, _, info = env.step(env.action_space.sample())
        >>> bool(reward == info["reward_video"]), bool(info["reward_video_due"])
        (True, True)
        >>> env.close()
    """


class FrameLevelReward(FrameLevelArguments, GymnasiumHost):
    """Rewards an agent for actions that lead to a goal video's key frame."""


class GenRewardWrapper(GenRewardArguments, GymnasiumHost):
    """Both rewards of GenReward, in place of the environment's own or beside it.

    Example:
        >>> from genreward_wrappers import GenRewardWrapper, make
        >>> env = GenRewardWrapper(make("metaworld/pick-place"), frame_weight=0)
        >>> _ = env.reset(seed=0)
        >>> _, reward, _, _, info = env.step(env.action_space.sample())
        >>> bool(reward == info["reward_video"]), float(info["weight_env"])
        (True, 0.0)
        >>> env.close()
    """
