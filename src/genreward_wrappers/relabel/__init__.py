"""Rewards for what was recorded: exactly those that a wrapper would have paid."""

from genreward_wrappers.relabel.datasets import Relabelled, relabel_dataset
from genreward_wrappers.relabel.fold import fold, score_episodes
from genreward_wrappers.relabel.recordings import (
    Recording,
    as_episode,
    find_recordings,
    from_buffer,
    from_frames,
    from_lerobot,
    from_minari,
)
from genreward_wrappers.relabel.scoring import Scored, Scorer, score

__all__ = [
    "Recording",
    "Relabelled",
    "Scored",
    "Scorer",
    "as_episode",
    "find_recordings",
    "fold",
    "from_buffer",
    "from_frames",
    "from_lerobot",
    "from_minari",
    "relabel_dataset",
    "score",
    "score_episodes",
]
