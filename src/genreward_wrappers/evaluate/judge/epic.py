"""EPIC: how far apart two rewards are once shaping and scale are taken out.

After Gleave et al., "Quantifying Differences in Reward Functions", ICLR 2021. It is
defined for rewards of one transition, r(s, a, s'): whoever asks makes sure of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.evaluate.judge.bootstrap import Float64

#: A reward of single transitions: (n,) for states, actions and next states, (n, ...).
TabularReward = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], Float64]


def distance(one: Float64, other: Float64) -> float:
    """0 for canonical rewards that differ only by scale, 1 for opposites.

    Args:
        one: (n,) `canonical` of one reward, which varies.
        other: (n,) that of another, for the same transitions.
    """
    centred = [paid - paid.mean() for paid in (one, other)]
    ours, theirs = (paid / np.sqrt((paid * paid).sum()) for paid in centred)
    # sqrt((1 - rho) / 2) in another way: 1 - rho would turn a rounding error into 1e-8.
    return min(1.0, float(np.sqrt(np.square(ours - theirs).sum())) / 2)


def canonical(
    reward: TabularReward,
    states: NDArray[Any],
    actions: NDArray[Any],
    next_states: NDArray[Any],
    coverage_states: NDArray[Any],
    coverage_actions: NDArray[Any],
    gamma: float,
) -> Float64:
    """(n,) the canonically shaped reward of n transitions.

    C(R)(s, a, s') = R(s, a, s') + E[gamma R(s', A, S') - R(s, A, S') - gamma R(S, A,
    S')], with S and S' drawn from the coverage states and A from the actions. The means
    are over all their combinations, which is what cancels a potential exactly.
    """
    if not (len(states) and len(coverage_states) and len(coverage_actions)):
        raise ValueError(
            "EPIC needs transitions, coverage states and actions; got none"
        )
    m, k = len(coverage_states), len(coverage_actions)
    drawn_actions = np.repeat(coverage_actions, m, axis=0)
    drawn_next = np.concatenate([coverage_states] * k)

    def expected(points: NDArray[Any]) -> Float64:
        """The mean reward of leaving each point, one at a time to save memory."""
        return np.array(
            [
                np.mean(
                    reward(
                        np.repeat(point[None], m * k, axis=0), drawn_actions, drawn_next
                    )
                )
                for point in points
            ]
        )

    paid = np.asarray(reward(states, actions, next_states), np.float64)
    anywhere = expected(coverage_states).mean()
    shaped: Float64 = (
        paid + gamma * expected(next_states) - expected(states) - gamma * anywhere
    )
    return shaped
