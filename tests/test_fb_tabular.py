"""Forward-backward nets against worlds whose successor measures are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from genreward_wrappers.forward_backward import losses
from genreward_wrappers.forward_backward.data import Batch
from genreward_wrappers.forward_backward.nets import FBConfig
from genreward_wrappers.forward_backward.train import FBTrainer, FBTraining


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class World:
    """moves (A, S, S): the chances of every next state."""

    moves: np.ndarray
    discount: float = 0.9

    @property
    def states(self):
        return self.moves.shape[1]

    @property
    def actions(self):
        return self.moves.shape[0]

    def uniform(self):
        return np.full((self.states, self.actions), 1 / self.actions)

    def successors(self, policy, ends=()):
        """(A, S, S) sum over t of gamma^t P(s_(t+1)), for a policy (S, A)."""
        goes_on = np.ones(self.states)
        goes_on[list(ends)] = 0
        walk = np.einsum("sa,ast->st", policy, self.moves) * goes_on[:, None]
        after = np.linalg.inv(np.eye(self.states) - self.discount * walk)
        # What comes after the first next state; nothing if it ends there.
        return self.moves @ after

    def best(self, goal):
        """(S, A) a policy that maximises the discounted visits to a state."""
        value = np.zeros(self.states)
        for _ in range(300):
            quality = self.moves @ (np.eye(self.states)[goal] + self.discount * value)
            value = quality.max(0)
        return np.eye(self.actions)[quality.argmax(0)], quality

    def transitions(self, policy, ends=(), count=20_000, seed=0):
        """Independent transitions, and how often each state was come to."""
        rng = np.random.default_rng(seed)
        s = rng.integers(self.states, size=count)
        a = self._draw(policy[s], rng)
        t = self._draw(self.moves[a, s], rng)
        b = self._draw(policy[t], rng)
        share = np.bincount(t, minlength=self.states) / count
        eye = np.eye(self.states, dtype=np.float32)
        return Batch(eye[s], a, eye[t], np.isin(t, list(ends)), b), share

    @staticmethod
    def _draw(chances, rng):
        heights = chances.cumsum(1)
        # The last may be a rounding below 1.
        return (rng.random(len(chances))[:, None] > heights[:, :-1]).sum(1)


def chain(states=12):
    """Left and right along a line, one step in ten the other way."""
    moves = np.zeros((2, states, states))
    for s in range(states):
        for action, way in enumerate((-1, 1)):
            for chance, to in ((0.9, s + way), (0.1, s - way)):
                moves[action, s, np.clip(to, 0, states - 1)] += chance
    return World(moves)


def ring(states=12):
    """Round and round: the way to a goal is the shorter one."""
    moves = np.zeros((2, states, states))
    for s in range(states):
        for action, way in enumerate((-1, 1)):
            moves[action, s, (s + way) % states] += 0.9
            moves[action, s, s] += 0.1
    return World(moves)


def scattered(states=12, seed=0):
    """A random chain: every action leads to three states at random."""
    rng = np.random.default_rng(seed)
    moves = np.zeros((2, states, states))
    for action in range(2):
        for s in range(states):
            to = rng.choice(states, 3, replace=False)
            moves[action, s, to] = rng.dirichlet(np.ones(3))
    return World(moves)


def four_rooms():
    """Four rooms of 3 x 3 with a door between each two neighbours: 40 states."""
    plan = ["#########"] * 9
    rows = [list("#...#...#") for _ in range(9)]
    rows[0], rows[4], rows[8] = (list(plan[0]) for _ in range(3))
    rows[2][4] = rows[6][4] = rows[4][2] = rows[4][6] = "."
    cells = [(y, x) for y in range(9) for x in range(9) if rows[y][x] == "."]
    number = {cell: i for i, cell in enumerate(cells)}
    moves = np.zeros((4, len(cells), len(cells)))
    for action, (dy, dx) in enumerate(((0, 1), (1, 0), (0, -1), (-1, 0))):
        for (y, x), i in number.items():
            moves[action, i, number.get((y + dy, x + dx), i)] = 1
    return World(moves, discount=0.95)


def learn(world, conditioned, data, updates, batch=256, **shape):
    sizes = {"z": 16, "hidden": 64, "backward_hidden": 64, **shape}
    trainer = FBTrainer(
        FBConfig(
            features=world.states,
            actions=world.actions,
            discrete=True,
            conditioned=conditioned,
            discount=world.discount,
            **sizes,
        ),
        FBTraining(learning_rate=1e-3, target_rate=0.05),
        device="cpu",
    )
    rng = np.random.default_rng(0)
    for _ in range(updates):
        figures = trainer.update(data.take(rng.integers(len(data), size=batch)))
    return trainer, figures


@torch.no_grad()
def learned(nets, world, share, z=None):
    """(A, S, S) F^T B over all actions and states, as a measure."""
    count = world.states
    state = torch.eye(count).repeat(world.actions, 1)
    action = torch.eye(world.actions).repeat_interleave(count, 0)
    given = None if z is None else z.expand(len(state), -1)
    density = losses.measure(
        nets.forward_net(state, action, given), nets.backward_net(torch.eye(count))
    )
    return density.mean(0).reshape(world.actions, count, count).numpy() * share


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def reaches(world, choice, goal):
    """The share of starts from which an argmax policy comes to the goal."""
    place = np.arange(world.states)
    there = place == goal
    for _ in range(world.states):
        place = world.moves[choice[place], place].argmax(1)
        there |= place == goal
    return there.mean()


ONE_STEP = {
    "chain": (chain, 600),
    "ring": (ring, 800),
    "random chain": (scattered, 800),
}
