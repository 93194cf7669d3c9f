"""EPIC: how far apart two rewards are once shaping and scale are taken out.

After Gleave et al., "Quantifying Differences in Reward Functions", ICLR 2021. It is
defined for rewards of one transition, r(s, a, s'). A reward that looks further back is
refused, not approximated.
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.evaluate.judge.bootstrap import Float64

#: A reward whose canonical form varies by less than this share of its size is rounding.
FLAT = 1e-9


class NotMarkov(ValueError):
    """EPIC was asked about a reward that depends on the history."""


class TabularReward(Protocol):
    """A reward of single transitions, for many at once: s, a and s' share an axis.

    A reward that depends on more says so with an attribute ``markov = False`` and a
    sentence ``why``.
    """

    def __call__(
        self, states: NDArray[Any], actions: NDArray[Any], next_states: NDArray[Any], /
    ) -> Float64:
        """(n,) the reward of each of n transitions."""
        ...


def epic_distance(
    reward_a: TabularReward,
    reward_b: TabularReward,
    states: NDArray[Any],
    actions: NDArray[Any],
    next_states: NDArray[Any],
    *,
    gamma: float,
    coverage_states: NDArray[Any],
    coverage_actions: NDArray[Any],
) -> float:
    """0 for rewards that differ only by shaping and scale, 1 for opposites.

    Args:
        reward_a: One reward.
        reward_b: The other.
        states: (n, ...) the transitions on which the rewards are compared.
        actions: (n, ...) their actions.
        next_states: (n, ...) what came of them.
        gamma: The discount.
        coverage_states: (m, ...) the states that canonical shaping averages over.
            Whatever they are, potential shaping cancels exactly.
        coverage_actions: (k, ...) the actions that it averages over.

    Raises:
        NotMarkov: One of them depends on the history.
        ValueError: One of them is only shaping, and has no direction.
    """
    for reward in (reward_a, reward_b):
        if not getattr(reward, "markov", True):
            why = getattr(reward, "why", "depends on the history")
            refuse_epic(_name(reward), why)
    sides = []
    for reward in (reward_a, reward_b):
        paid = canonical(
            reward,
            states,
            actions,
            next_states,
            coverage_states,
            coverage_actions,
            gamma,
        )
        size = np.abs(reward(states, actions, next_states)).max(initial=0.0)
        paid = paid - paid.mean()
        length = float(np.sqrt((paid * paid).sum()))
        if length <= FLAT * size * np.sqrt(len(paid)):
            raise ValueError(
                f"EPIC has no distance to {_name(reward)!r}: without its shaping it "
                "pays the same for every transition"
            )
        sides.append(paid / length)
    # sqrt((1 - rho) / 2) in another way: 1 - rho would turn a rounding error into 1e-8.
    apart = sides[0] - sides[1]
    return min(1.0, float(np.sqrt((apart * apart).sum())) / 2)


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


def refuse_epic(name: str, reason: str) -> NoReturn:
    """Raises; says why there is no EPIC distance, and what to look at instead."""
    raise NotMarkov(
        f"EPIC compares rewards of a single transition, and {name!r} is not one: it "
        f"{reason}. Compare what it says about whole episodes instead (AUC), or what "
        "an agent learns from it: genreward evaluate --learn"
    )


def _name(reward: Any) -> str:
    name = getattr(reward, "name", None) or getattr(reward, "__name__", None)
    return str(name or type(reward).__name__)
