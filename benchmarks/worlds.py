"""Worlds so small that their successor measures are known exactly, and nets on them.

A chain, a ring, a random chain and four rooms. What nets learn there from independent
transitions is compared with the truth by tests/test_fb_tabular.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genreward_wrappers.training.forward_backward import losses
from genreward_wrappers.training.forward_backward.data import Batch
from genreward_wrappers.training.forward_backward.fit import Plan
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.train import FBTrainer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """A finite world.

    Attributes:
        moves: (A, S, S) the chances of every next state.
        discount: Of its successor measures.
    """

    moves: Floats
    discount: float = 0.9

    @property
    def states(self) -> int:
        """How many there are."""
        return int(self.moves.shape[1])

    @property
    def actions(self) -> int:
        """How many there are."""
        return int(self.moves.shape[0])

    def uniform(self) -> Floats:
        """(S, A) the policy that does everything alike."""
        return np.full((self.states, self.actions), 1 / self.actions)

    def successors(self, policy: Floats, ends: Sequence[int] = ()) -> Floats:
        """(A, S, S) sum over t of gamma^t P(s_(t+1)), for a policy (S, A)."""
        goes_on = np.ones(self.states)
        goes_on[list(ends)] = 0
        walk = np.einsum("sa,ast->st", policy, self.moves) * goes_on[:, None]
        after = np.linalg.inv(np.eye(self.states) - self.discount * walk)
        # What comes after the first next state; nothing if it ends there.
        measure: Floats = self.moves @ after
        return measure

    def best(self, goal: int) -> Floats:
        """(A, S) the most discounted visits to a state that any policy makes."""
        reward, value = np.eye(self.states)[goal], np.zeros(self.states)
        for _ in range(1000):
            quality: Floats = self.moves @ (reward + self.discount * value)
            value = quality.max(0)
        return quality

    def transitions(
        self, policy: Floats, ends: Sequence[int] = (), count: int = 20_000
    ) -> tuple[Batch, Floats]:
        """Independent transitions, and how often each state was come to."""
        rng = np.random.default_rng(0)
        s = rng.integers(self.states, size=count)
        a = _draw(policy[s], rng)
        t = _draw(self.moves[a, s], rng)
        b = _draw(policy[t], rng)
        share = np.bincount(t, minlength=self.states) / count
        eye = np.eye(self.states, dtype=np.float32)
        return Batch(eye[s], a, eye[t], np.isin(t, list(ends)), b), share


def chain(states: int = 12) -> World:
    """Left and right along a line, one step in ten the other way."""
    moves = np.zeros((2, states, states))
    for s in range(states):
        for action, way in enumerate((-1, 1)):
            for chance, to in ((0.9, s + way), (0.1, s - way)):
                moves[action, s, np.clip(to, 0, states - 1)] += chance
    return World(moves)


def ring(states: int = 12) -> World:
    """Round and round, one step in ten not at all."""
    moves = np.zeros((2, states, states))
    for s in range(states):
        for action, way in enumerate((-1, 1)):
            moves[action, s, (s + way) % states] += 0.9
            moves[action, s, s] += 0.1
    return World(moves)


def random_chain(states: int = 12, seed: int = 0) -> World:
    """Every action leads to three states at random."""
    rng = np.random.default_rng(seed)
    moves = np.zeros((2, states, states))
    for action in range(2):
        for s in range(states):
            to = rng.choice(states, 3, replace=False)
            moves[action, s, to] = rng.dirichlet(np.ones(3))
    return World(moves)


def four_rooms() -> World:
    """Four rooms of 3 x 3 cells and a door between every two neighbours: 40 states."""
    rows = [list("#...#...#") for _ in range(9)]
    for wall in (0, 4, 8):
        rows[wall] = list("#########")
    rows[2][4] = rows[6][4] = rows[4][2] = rows[4][6] = "."
    cells = [(y, x) for y in range(9) for x in range(9) if rows[y][x] == "."]
    number = {cell: i for i, cell in enumerate(cells)}
    moves = np.zeros((4, len(cells), len(cells)))
    for action, (dy, dx) in enumerate(((0, 1), (1, 0), (0, -1), (-1, 0))):
        for (y, x), i in number.items():
            moves[action, i, number.get((y + dy, x + dx), i)] = 1
    return World(moves)


WORLDS = {
    "chain": chain,
    "ring": ring,
    "random chain": random_chain,
    "four rooms": four_rooms,
}


def learn(
    world: World,
    conditioned: bool,
    data: Batch,
    updates: int,
    *,
    batch: int = 256,
    anneal_share: float = 0.0,
    shape: dict[str, int] | None = None,
    seed: int = 0,
    **training: Any,
) -> tuple[FBTrainer, dict[str, float]]:
    """Nets trained on some transitions, and the figures of the last update."""
    sizes = {"z": 16, "hidden": 64, "backward_hidden": 64, **(shape or {})}
    given = {"learning_rate": 1e-3, "target_rate": 0.05, "seed": seed, **training}
    trainer = FBTrainer(
        FBConfig(
            features=world.states,
            actions=world.actions,
            discrete=True,
            conditioned=conditioned,
            discount=world.discount,
            **sizes,
        ),
        FBTraining(**given),
        device="cpu",
    )
    rng = np.random.default_rng(seed)
    rate = Plan(updates, anneal_share=anneal_share).rate
    for step in range(updates):
        some = data.take(rng.integers(len(data), size=batch))
        figures = trainer.update(some, rate(step))
    return trainer, figures


@torch.no_grad()
def learned(
    nets: FBNets, world: World, share: Floats, z: torch.Tensor | None = None
) -> Floats:
    """(A, S, S) F^T B over all actions and states, as a measure."""
    count = world.states
    state = torch.eye(count).repeat(world.actions, 1)
    action = torch.eye(world.actions).repeat_interleave(count, 0)
    given = None if z is None else z.expand(len(state), -1)
    density = losses.measure(
        nets.forward_net(state, action, given), nets.backward_net(torch.eye(count))
    )
    measure = density.mean(0).reshape(world.actions, count, count).numpy() * share
    return np.asarray(measure, np.float64)


@torch.no_grad()
def of_goals(nets: FBNets, world: World, share: Floats) -> Floats:
    """(S, A, S) for every goal the learned measure of it, after every (a, s)."""
    columns = []
    for goal, z in enumerate(nets.backward_net(torch.eye(world.states))):
        given = z if nets.config.conditioned else None
        columns.append(learned(nets, world, share, given)[..., goal])
    return np.stack(columns)


def reached(world: World, choice: NDArray[np.int64], goal: int) -> float:
    """The share of starts from which a policy (S,) comes to a goal.

    Where moves are left to chance each start goes the likeliest way.
    """
    place = np.arange(world.states)
    there = place == goal
    for _ in range(world.states):
        place = world.moves[choice[place], place].argmax(1)
        there |= place == goal
    return float(there.mean())


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's, over everything in them."""
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def _draw(chances: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    # The last height may be a rounding below 1.
    heights = chances.cumsum(1)[:, :-1]
    drawn: NDArray[np.int64] = (rng.random(len(chances))[:, None] > heights).sum(1)
    return drawn
