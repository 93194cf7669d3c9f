"""Policies for three tasks of dm_control: what plays the episodes of a video model.

Two are solved on paper, and so in no time; the third is planned. The planner solves the
others, too, but takes half a minute an episode. Each is a function of (env, seed), as
`genreward collect` takes them: ``--policy controllers:swing_up`` with this folder on
the Python path.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_are

from genreward_wrappers.envs.planner import Planner
from genreward_wrappers.envs.policies import noisy_policy

Act = Callable[[Any], NDArray[np.float32]]
Policy = Callable[[Any, int], Act]

#: Of the cart and its pole: how near to upright, in radians, balancing takes over.
CATCH = 0.5
#: What an error of the cart's place, the pole's angle and their speeds costs, and what
#: a push does.
COSTS, PUSH = np.diag([4.0, 20.0, 0.5, 0.5]), 0.5
#: The arm's spring and damper.
STIFFNESS, DAMPING = 6.0, 1.5


def swing_up(env: Any, seed: int) -> Act:
    """Pumps energy into the pole and catches it: cartpole-swingup."""
    physics = env.unwrapped._sim.physics
    gain = _balance(physics)
    # No two seeds pump alike.
    pump = np.random.default_rng(seed).uniform(0.8, 1.6)

    def act(observation: Any) -> NDArray[np.float32]:
        (x, angle), (speed, turning) = physics.data.qpos, physics.data.qvel
        off = (angle + np.pi) % (2 * np.pi) - np.pi
        if abs(off) < CATCH and abs(turning) < 5:
            push = -gain @ np.array([x, off, speed, turning])
        else:
            # A rod of length one: its energy, upright and at rest, would be one.
            energy = turning**2 / (3 * 9.81) + np.cos(angle)
            lacking = np.clip(1.02 - energy, -1, 1)
            push = -pump * lacking * np.sign(turning * np.cos(angle) or 1.0)
            push -= 0.6 * x + 0.25 * speed
        return np.clip([push], -1, 1).astype(np.float32)

    return act


def _balance(physics: Any) -> NDArray[np.float64]:
    """The linear-quadratic regulator of the upright pole."""
    import mujoco

    model = copy.copy(physics.model.ptr)
    # Derivatives are there for this integrator; at one step they differ by nothing.
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    data = mujoco.MjData(model)
    a, b = np.zeros((4, 4)), np.zeros((4, 1))
    mujoco.mj_forward(model, data)
    mujoco.mjd_transitionFD(model, data, 1e-6, True, a, b, None, None)
    cost = solve_discrete_are(a, b, COSTS, np.array([[PUSH]]))
    gain: NDArray[np.float64] = np.linalg.solve(b.T @ cost @ b + PUSH, b.T @ cost @ a)
    return gain[0]


def point(env: Any, seed: int) -> Act:
    """Turns both links to where the tip is on the target: reacher-easy."""
    physics = env.unwrapped._sim.physics

    def act(observation: Any) -> NDArray[np.float32]:
        wanted = _angles(physics)
        error = (wanted - physics.data.qpos + np.pi) % (2 * np.pi) - np.pi
        # The elbow does not go all the way round.
        error[1] = wanted[1] - physics.data.qpos[1]
        torque = STIFFNESS * error - DAMPING * physics.data.qvel
        return np.clip(torque, -1, 1).astype(np.float32)

    return act


def _angles(physics: Any) -> NDArray[np.float64]:
    """Of the two ways to bend the arm so that it ends at the target, the nearer."""
    x, y = physics.named.data.geom_xpos["target", :2]
    upper = np.linalg.norm(physics.named.model.body_pos["hand", :2])
    lower = np.linalg.norm(physics.named.model.body_pos["finger", :2])
    reach = np.clip(np.hypot(x, y), abs(upper - lower), upper + lower)
    bend = np.arccos(
        np.clip((reach**2 - upper**2 - lower**2) / (2 * upper * lower), -1, 1)
    )
    ways = []
    for elbow in (bend, -bend):
        inner = np.arctan2(lower * np.sin(elbow), upper + lower * np.cos(elbow))
        ways.append(np.array([np.arctan2(y, x) - inner, elbow]))
    now = physics.data.qpos

    def far(way: NDArray[np.float64]) -> float:
        turn = (way[0] - now[0] + np.pi) % (2 * np.pi) - np.pi
        return abs(turn) + abs(way[1] - now[1])

    return min(ways, key=far)


def walk(env: Any, seed: int) -> Act:
    """The planner in a hurry, faster and a little clumsier: walker-walk."""
    return Planner(env, seed, samples=24, moments=8, every=4)


def _badly(policy: Policy) -> Policy:
    """The same with noise on it, of another strength for every seed."""

    def badly(env: Any, seed: int) -> Act:
        rng = np.random.default_rng(seed)
        strength = rng.uniform(0.3, 2.0)
        return noisy_policy(policy(env, seed), env.action_space, rng, strength)

    return badly


swing_up_badly, point_badly, walk_badly = map(_badly, (swing_up, point, walk))
