"""How good trained nets are, as far as the data can tell.

Losses do not say whether a reward points anywhere. Held-out trajectories do: along a
trajectory the measure of a later state should rise until it is reached, and along a
success that of the goal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.training.forward_backward.data import Transitions
from genreward_wrappers.training.forward_backward.train import FBTrainer

#: How many later states of a trajectory are taken for goals.
LATER = 4


def time_rank(trainer: FBTrainer, data: Transitions) -> float:
    """How well the measure ranks states by the time to a later one, from -1 to 1.

    The mean rank correlation of F(s_t, a_t)^T B(s_g) with gamma^(g - t), over some
    later states s_g of each trajectory. NaN if all are too short.
    """
    found = []
    for index, trajectory in enumerate(data.trajectories):
        if len(trajectory) < 4:
            continue
        walk = data.of(index)
        ends = np.unique(np.linspace(len(walk) // 2, len(walk) - 1, LATER).astype(int))
        values = trainer.values(walk.next_state[ends], walk.state, walk.action)
        found += [
            rank_correlation(value[: end + 1], np.arange(end + 1))
            for end, value in zip(ends, values, strict=True)
        ]
    return float(np.mean(found)) if found else float("nan")


def success_rank(
    trainer: FBTrainer, data: Transitions, keys: NDArray[np.float32]
) -> float:
    """How well the reward rises with time until the first success, from -1 to 1.

    The mean rank correlation over the trajectories that succeed. NaN if none does.

    Args:
        trainer: The nets.
        data: Held-out trajectories.
        keys: (K, features) the features of the goals.
    """
    found = []
    for index, trajectory in enumerate(data.trajectories):
        if trajectory.success is None or not trajectory.success.any():
            continue
        steps = int(np.argmax(trajectory.success)) + 1
        if steps < 4:
            continue
        walk = data.of(index)
        value = trainer.values(keys, walk.state, walk.action).max(0)[:steps]
        found.append(rank_correlation(value, np.arange(steps)))
    return float(np.mean(found)) if found else float("nan")


def rank_correlation(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Spearman's; 0 where one of the two is constant.

    >>> rank_correlation(np.array([1.0, 5.0, 9.0]), np.array([3, 4, 7]))
    1.0
    """
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def _ranks(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Ranks; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: NDArray[np.float64] = (ends - (counts - 1) / 2)[place].astype(np.float64)
    return mean
