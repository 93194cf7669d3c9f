"""A reward is a fold over transitions; everything else is a host for that fold.

Three names carry the whole package. A `Transition` is what happened in N environments
at once. A `RewardModel` turns transitions into scores and keeps its memory outside
itself, so it can be shared, batched, snapshotted and run over recorded data. A
`Session` owns that memory for one set of environments and knows nothing about where
they come from: the Gymnasium, vector and stable-baselines3 hosts are thin layers over
it, and so is the relabelling of a replay buffer.

Only numpy is imported here.
"""

from genreward_wrappers.core.contract import (
    Bool,
    Float32,
    Int64,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
    check_frames,
    check_model,
    weigh,
)
from genreward_wrappers.core.session import Seed, Session, Snapshot
from genreward_wrappers.core.warning import warn_caller

__all__ = [
    "Bool",
    "Float32",
    "Int64",
    "RewardModel",
    "Score",
    "Seed",
    "Session",
    "Snapshot",
    "Transition",
    "UInt8",
    "UInt64",
    "check_frames",
    "check_model",
    "warn_caller",
    "weigh",
]
