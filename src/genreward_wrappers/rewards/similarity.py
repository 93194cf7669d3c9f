"""How alike an agent's stretch of video and a goal's are: small pure functions.

Each takes a `Comparison` and gives one number a row and goal. They differ in what they
forgive: `tracking` nothing but the starting point, `motion` also how far things move,
`cosine` almost everything (a still background alone scores high). The documentation's
page on reward quality says what that means for training.

The names of the scores are options, which the command line checks before it loads
torch: this module does not import it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

#: Below this squared length a change counts as none: its direction is noise.
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Comparison:
    """Latents of n rows beside those of K goals, flattened to D numbers each.

    Attributes:
        agent: (n, 1, T, D) the agent's stretch.
        agent_first: (n, 1, 1, D) the first latent of the agent's clip.
        goal: (n, K, T, D) the same stretch of the goals.
        goal_first: (n, K, 1, D) the first latents of the goals.
        goal_last: (n, K, 1, D) the last latents of the goals.
        seen: (n, 1, T, 1) 1 where the agent has a latent already, else 0.
        reference: (n, 1, 1, D) the mean latent of all goals of the row's bundle.
        sharpness: (n, 1) how fast `tracking` falls with distance.
    """

    agent: Tensor
    agent_first: Tensor
    goal: Tensor
    goal_first: Tensor
    goal_last: Tensor
    seen: Tensor
    reference: Tensor
    sharpness: Tensor


Similarity: TypeAlias = "Callable[[Comparison], Tensor]"


def tracking(c: Comparison) -> Tensor:
    """exp(-k RMS distance of the changes since the clip's first latent).

    1 for following the goal exactly. Falls with every difference in direction, in
    extent and in time, which is what keeps an optimiser from farming it.
    """
    apart = (c.agent - c.agent_first) - (c.goal - c.goal_first)
    numbers = c.seen.sum((2, 3)) * apart.shape[-1]
    mean_square = (apart.square() * c.seen).sum((2, 3)) / numbers
    return (-c.sharpness * mean_square.sqrt()).exp()


def motion(c: Comparison) -> Tensor:
    """The cosine of the changes since the clip's first latent.

    Blind to how far the motion goes: separates recorded episodes well, and can be
    farmed by an optimiser.
    """
    return _cosine((c.agent - c.agent_first), (c.goal - c.goal_first), c.seen)


def last_change(c: Comparison) -> Tensor:
    """The cosine of the newest change with the goal's whole change. Knows no time."""
    newest = c.seen.sum(2, keepdim=True).long() - 1
    index = newest.expand(-1, -1, -1, c.agent.shape[-1])
    agent = c.agent.gather(2, index) - c.agent_first
    last = c.seen[:, :, :1]
    return _cosine(agent, c.goal_last - c.goal_first, last.new_ones(last.shape))


def cosine(c: Comparison) -> Tensor:
    """The cosine of the latents as they are, which is the published similarity.

    Dominated by what does not move.
    """
    return _cosine(c.agent, c.goal, c.seen)


def centred(c: Comparison) -> Tensor:
    """The cosine about the mean latent of the bundle's goals."""
    return _cosine(c.agent - c.reference, c.goal - c.reference, c.seen)


SIMILARITIES: dict[str, Similarity] = {
    function.__name__: function
    for function in (tracking, motion, last_change, cosine, centred)
}


def calibrate(goals: Tensor, contrast: float) -> float:
    """A `Comparison.sharpness` that fits some goals.

    The natural unit of distance is what the goals themselves move: an agent that stands
    still is, on average over the clip, as far from a goal as the goal is from its own
    first frame. That agent is to earn exp(-contrast).

    Args:
        goals: (K, T, D) latents of the goals, in order of time.
        contrast: How many factors of e following earns over standing still.
    """
    changes = goals[:, 1:] - goals[:, :1]
    still = float(changes.square().mean(-1).sqrt().mean())
    if not isfinite(still) or still <= 0:
        raise ValueError(
            "nothing moves in the goal videos: every frame is like the first one, so "
            "there is nothing to follow"
        )
    return contrast / still


def _cosine(agent: Tensor, goal: Tensor, seen: Tensor) -> Tensor:
    """Over time and latent together; 0 where either side is nothing."""
    dot = (agent * goal * seen).sum((2, 3))
    agent_square = (agent.square() * seen).sum((2, 3))
    goal_square = (goal.square() * seen).sum((2, 3))
    square = agent_square * goal_square
    some = (agent_square > TINY) & (goal_square > TINY)
    return (dot / square.clamp_min(TINY * TINY).sqrt()).where(some, 0.0)
