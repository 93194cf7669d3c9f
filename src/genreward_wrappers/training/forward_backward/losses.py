"""The losses of forward-backward nets: pure functions over batches of tensors.

What is learned is the successor measure of a policy, as a density over the data's own
states: F(s, a)^T B(s') ~ m(s, a, s'), so that the discounted number of later visits to
a set X after (s, a) is the mean of m(s, a, s') * [s' in X] over the data. Time counts
from the next state, which has weight 1:

    M(s, a, X) = sum over t >= 0 of gamma^t P(s_(t+1) in X | s, a)

Two variants share every function here:

- standard: F sees z, the policy is pi_z, and `diagonal` is 1. The mean of m over the
  data is 1 / (1 - gamma), the number of discounted steps.
- one-step: F sees no z, the policy is the data's own, the next action is the one that
  was taken, and `diagonal` is 1 - gamma. What is learned is (1 - gamma) M: the density
  of where one is after a geometric number of steps (1 with probability 1 - gamma, and
  so on), whose mean over the data is 1 at every gamma.

Both means are smaller where transitions terminate: a terminated one has no future.

Papers: Touati and Ollivier, "Learning one representation to optimize all rewards"
(arXiv 2103.07945); one-step: arXiv 2602.11399.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genreward_wrappers.checks import one_of

HEADS = ("min", "mean")

#: A measure that varies over states by less than this share of its mean is dead: no
#: action is told from any other.
DEAD_SPREAD = 0.05
#: With fewer directions than this, B is practically constant.
DEAD_DIRECTIONS = 2.0
#: The mean of the measure is known; beyond this multiple of it the nets diverge.
DIVERGED_MASS = 3.0
#: A random walk says little about the way. Of the runs in docs/forward_backward.md that
#: went well none had a rank correlation below 0.35, of those that failed none one above
#: 0.24; the threshold was set after them.
NO_TIME_RANK = 0.25
#: How fast a success goes is up to the policy: only values near 0 are complained about.
NO_SUCCESS_RANK = 0.1


def measure(forward: Tensor, backward: Tensor) -> Tensor:
    """(heads, n, m) F(s_i, a_i)^T B(s'_j).

    Args:
        forward: (n, heads, d).
        backward: (m, d).
    """
    products: Tensor = torch.einsum("nhd,md->hnm", forward, backward)
    return products


def join_heads(values: Tensor, heads: str, dim: int) -> Tensor:
    """One value of several heads: the smaller, which errs less upwards, or the mean."""
    one_of(HEADS, heads=heads)
    return values.amin(dim) if heads == "min" else values.mean(dim)


def measure_target(
    forward: Tensor,
    backward: Tensor,
    *,
    discount: float,
    terminated: Tensor,
    heads: str = "min",
) -> Tensor:
    """(n, m) gamma * F(s'_i, a'_i)^T B(s'_j), what the rest of the future counts for.

    Args:
        forward: (n, heads, d) of the *target* nets at the next state and next action.
        backward: (m, d) of the target net at the sampled next states.
        discount: gamma, below 1.
        terminated: (n,) bool. Where it is set there is no future. Truncation is no
            termination: the future continues unseen.
        heads: "min" or "mean", entry by entry.
    """
    joined = join_heads(measure(forward, backward), heads, 0)
    return _future(joined, discount, terminated[:, None])


def measure_loss(
    forward: Tensor, backward: Tensor, target: Tensor, diagonal: float = 1.0
) -> Tensor:
    """How far F^T B is from the Bellman equation of the successor measure.

    1/2 mean over i != j of (F_i^T B_j - target_ij)^2, less `diagonal` times the mean of
    F_i^T B_i, summed over the heads. It has no lower bound at 0: it is the squared
    error up to a constant that nobody knows.

    Args:
        forward: (n, heads, d) F(s_i, a_i).
        backward: (n, d) B(s'_i), at the next state of each transition. They stand for
            the states of the data as well, so they must differ: fed one state over and
            over, B and F learn a constant.
        target: (n, n) from `measure_target`; no gradient flows into it.
        diagonal: 1 in the standard variant, 1 - gamma in the one-step variant.
    """
    count = _at_least_two(backward)
    products = measure(forward, backward)
    error = (products - target.detach()).square()
    # A state next to itself is in the diagonal's term already.
    elsewhere = 1 - torch.eye(count, dtype=error.dtype, device=error.device)
    spread_out = (error * elsewhere).sum() / (count * (count - 1))
    hit = products.diagonal(dim1=1, dim2=2).mean(1).sum()
    return 0.5 * spread_out - diagonal * hit


def orthonormality_loss(backward: Tensor) -> Tensor:
    """Holds the covariance of B at the identity.

    The mean over i != j of ``(B_i^T B_j)^2``, less twice the mean of ``B_i^T B_i``: the
    squared distance between the covariance of B and the identity, up to a constant.
    Without it B may shrink to few directions and F grow to make up for it.

    Args:
        backward: (n, d).
    """
    count = _at_least_two(backward)
    gram = backward @ backward.T
    elsewhere = 1 - torch.eye(count, dtype=gram.dtype, device=gram.device)
    off = (gram.square() * elsewhere).sum() / (count * (count - 1))
    return off - 2 * gram.diagonal().mean()


def implicit_reward(backward: Tensor, z: Tensor, ridge: float = 1e-3) -> Tensor:
    """(n,) r_z(s'_i) = B(s'_i)^T E[B B^T]^-1 z_i, the reward whose value F^T z is.

    Args:
        backward: (n, d) B(s'_i).
        z: (n, d), one a row.
        ridge: Added to the covariance's diagonal: fewer samples than dimensions leave
            it without an inverse.
    """
    with torch.no_grad():
        covariance = backward.T @ backward / len(backward)
        covariance.diagonal().add_(ridge)
        weights = torch.linalg.solve(covariance, z.T).T
        reward: Tensor = (backward * weights).sum(-1)
    return reward


def q_target(
    reward: Tensor,
    forward: Tensor,
    z: Tensor,
    *,
    discount: float,
    terminated: Tensor,
    heads: str = "min",
) -> Tensor:
    """(n,) r_z + gamma * F(s', a')^T z.

    Args:
        reward: (n,) from `implicit_reward`; times 1 - gamma in the one-step variant.
        forward: (n, heads, d) of the target nets at the next state and next action.
        z: (n, d).
        discount: gamma, below 1.
        terminated: (n,) bool.
        heads: "min" or "mean".
    """
    values = torch.einsum("nhd,nd->nh", forward, z)
    return reward + _future(join_heads(values, heads, 1), discount, terminated)


def q_loss(forward: Tensor, z: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of F^T z, halved, and summed over the heads.

    The measure loss learns F^T B everywhere alike; this one sharpens it along the z
    that pi_z is greedy for.

    Args:
        forward: (n, heads, d) F(s_i, a_i, z_i).
        z: (n, d).
        target: (n,) from `q_target`; no gradient flows into it.
    """
    values = torch.einsum("nhd,nd->nh", forward, z)
    return 0.5 * (values - target.detach()[:, None]).square().mean(0).sum()


def sample_z(
    backward: Tensor, *, from_states: float = 0.5, generator: torch.Generator
) -> Tensor:
    """(n, d) z on the sphere of radius sqrt(d): some B(s), some from anywhere.

    Args:
        backward: (n, d) B of sampled states; they are shuffled, so that no transition
            gets the state that it leads to.
        from_states: The probability that a row is B of a state rather than a random
        direction.
        generator: A generator on the CPU, wherever `backward` is, so that a seed gives
            the same run on every device.
    """
    count, size = backward.shape
    normal = torch.randn(count, size, generator=generator, dtype=backward.dtype)
    anywhere = math.sqrt(size) * torch.nn.functional.normalize(normal, dim=-1)
    order = torch.randperm(count, generator=generator)
    chosen = torch.rand(count, 1, generator=generator) < from_states
    device = backward.device
    return torch.where(
        chosen.to(device),
        backward.detach()[order.to(device)],
        anywhere.to(device),
    )


@torch.no_grad()
def diagnose(forward: Tensor, backward: Tensor, mass: float) -> dict[str, float]:
    """Figures that tell live nets from dead ones, without knowing the truth.

    Args:
        forward: (n, heads, d) at transitions of the data.
        backward: (n, d) at their next states.
        mass: The mean that the measure should have without terminations: `diagonal` /
            (1 - gamma).

    Returns:
        Figures by name. ``covariance_error``: the Frobenius distance of B's covariance
        to the identity, by sqrt(d): 0 if B fills all directions alike, sqrt(d - 1) if
        it is constant. ``directions``: how many directions B fills, from 1 to d.
        ``measure_mean`` and ``measure_max``: of F^T B with the smaller head. ``mass``:
        the mean as a share of what it should be. ``spread``: how much F^T B(g) varies
        over (s, a), as a standard deviation, the mean over many g, as a share of the
        same; 0 is a dead reward.
    """
    _at_least_two(backward)
    size = backward.shape[1]
    products = measure(forward, backward).amin(0)
    covariance = backward.T @ backward / len(backward)
    off = covariance - torch.eye(size, dtype=backward.dtype, device=backward.device)
    varies = (products - products.mean(0)).square().mean(0).sqrt()
    return {
        "covariance_error": float(off.norm() / math.sqrt(size)),
        "directions": float(covariance.trace() ** 2 / covariance.square().sum()),
        "measure_mean": float(products.mean()),
        "measure_max": float(products.amax()),
        "mass": float(products.mean() / mass),
        "spread": float(varies.mean() / mass),
    }


def complaints(figures: Mapping[str, float]) -> tuple[str, ...]:
    """What is wrong with the figures of `diagnose`, in words; empty if nothing is."""
    wrong = []
    broken = sorted(n for n, value in figures.items() if not math.isfinite(value))
    if broken:
        wrong.append(f"the nets have diverged: {', '.join(broken)} not finite")
    if figures.get("mass", 0) > DIVERGED_MASS:
        wrong.append(
            f"the nets are diverging: the mean of F^T B is {figures['mass']:.3g} times "
            "what it can be; a smaller learning rate or discount helps"
        )
    if figures.get("spread", math.inf) < DEAD_SPREAD:
        wrong.append(
            f"the reward is dead: F^T B varies by {figures['spread']:.2%} of its mean "
            "over states and actions"
        )
    if figures.get("directions", math.inf) < DEAD_DIRECTIONS:
        wrong.append(
            f"B is all but constant: it fills {figures['directions']:.1f} directions; "
            "the data may hold one state over and over, or features that never change"
        )
    if figures.get("time_rank", math.inf) < NO_TIME_RANK:
        wrong.append(
            "the reward knows no way: on held-out trajectories its rank correlation "
            f"with how soon a state is reached is {figures['time_rank']:.2f}"
        )
    if figures.get("success_rank", math.inf) < NO_SUCCESS_RANK:
        wrong.append(
            "the reward does not rise towards this goal: on held-out successes its "
            f"rank correlation with time is {figures['success_rank']:.2f}"
        )
    return tuple(wrong)


def check_discount(discount: float) -> None:
    """Raises ValueError unless 0 <= gamma < 1."""
    if not 0 <= discount < 1:
        raise ValueError(
            f"discount={discount}: expected at least 0 and below 1; at 1 the successor "
            "measure is infinite"
        )


def _future(values: Tensor, discount: float, terminated: Tensor) -> Tensor:
    check_discount(discount)
    return discount * torch.where(terminated, torch.zeros_like(values), values)


def _at_least_two(backward: Tensor) -> int:
    count = len(backward)
    if count < 2:
        raise ValueError(
            f"a batch of {count}: the losses compare transitions with one another and "
            "need at least 2"
        )
    return count
