"""A planner for dm_control's tasks: it acts well in them, and nobody has to learn.

dm_control has no scripted policies. But its simulator is at hand, and a simulator is a
model to plan with: from the state that the environment is in, a batch of action
sequences is tried out, each the last plan with smooth noise on it, and the plan moves
towards those that the task's own reward likes (model predictive path integral control;
with a temperature near zero, predictive sampling).

The rollouts run in C (`mujoco.rollout`), on data of their own. The reward is the
task's Python function, which costs more than many steps of the physics, so it is asked
at a few moments of each rollout alone. At those moments it sees, to the last bit, what
it would see if the environment itself had gone there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import positive, whole
from genreward_wrappers.envs.dm_control import DmControlEnv

Floats = NDArray[np.float64]


class Planner:
    """Plans the actions of one episode of an environment of dm_control's.

    It reads the environment's state and model and changes neither. An episode's plan
    is a function of the seed and of the states that it is asked in.

    Attributes:
        steps: How many of the environment's steps it looks ahead.
        scored: After which of them the reward is asked.
    """

    def __init__(
        self,
        env: Any,
        seed: int,
        *,
        samples: int = 32,
        horizon: float = 1.0,
        knots: int = 6,
        moments: int = 16,
        every: int = 2,
        noise: float = 1.0,
        temperature: float = 0.1,
    ) -> None:
        """Begins with a plan that does nothing.

        Args:
            env: A `DmControlEnv`, wrapped or not; it need not have been reset.
            seed: Of the noise.
            samples: Action sequences that are tried out for one plan.
            horizon: How far they reach, in simulated seconds.
            knots: Noise is drawn for so many moments, with straight lines between.
            moments: How often the reward is asked in one rollout.
            every: A plan is followed for so many steps before the next is made.
            noise: Standard deviation of the largest noise, where 1 is half the range
                of an action, or 1 for one without bounds; a tenth of it is the
                smallest.
            temperature: How much worse than the best, in standard deviations of the
                returns, a sequence may be and still have a say.

        Raises:
            TypeError: It is no environment of dm_control's.
            ValueError: A number is out of its range.
        """
        inner = env.unwrapped
        if not isinstance(inner, DmControlEnv):
            raise TypeError(
                "a planner needs dm_control's simulator: expected an environment "
                f"dmc/... or distracting/..., got {type(inner).__name__}"
            )
        whole("every", every)
        whole("moments", moments)
        whole("samples", samples, 2)
        whole("knots", knots, 2)
        positive(horizon=horizon, noise=noise, temperature=temperature)
        # Not before there is an environment: importing these takes a while.
        import mujoco
        import mujoco.rollout

        self._mujoco, self._rollout = mujoco, mujoco.rollout.rollout
        self._kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._sim = inner._sim
        # The model is shared, since some tasks keep their targets in it.
        self._scratch = self._sim.physics.copy(share_model=True)
        timestep = self._sim.physics.timestep()
        control_steps = round(self._sim.control_timestep() / timestep)
        self._substeps = control_steps * inner.action_repeat
        self.steps = max(2, round(horizon / (self._substeps * timestep)))
        asked = np.linspace(0, self.steps, min(moments, self.steps) + 1)[1:]
        self.scored: NDArray[np.int64] = np.round(asked).astype(np.int64) - 1

        space: Any = inner.action_space
        low, high = space.low.astype(float), space.high.astype(float)
        self._bounds: tuple[Floats, Floats] = low, high
        # dm_control writes a large number where there is no bound.
        bounded = high - low < mujoco.mjMAXVAL
        half = np.where(bounded, (high - low) / 2, 1)
        # From fine to coarse: which is right differs along an episode.
        scales = noise * np.geomspace(0.1, 1, samples - 1)
        self._scales: Floats = scales[:, None, None] * half
        self._lines = _lines(self.steps, knots)
        self._rng = np.random.default_rng(seed)
        self._every, self._temperature = every, temperature
        self._age = 0
        self._plan: Floats = np.zeros((self.steps, *space.shape))

    def __call__(self, observation: Any = None) -> NDArray[np.float32]:
        """The action for the state that the environment is in now.

        Args:
            observation: Not looked at.
        """
        if self._age % self._every == 0:
            self._plan = self._improved(self._plan)
        action: NDArray[np.float32] = self._plan[0].astype(np.float32)
        # What was planned for later is where the next plan begins.
        self._plan = np.concatenate([self._plan[1:], self._plan[-1:]])
        self._age += 1
        return action

    def rewards(self, plans: Floats) -> Floats:
        """What the task pays for action sequences, from the environment's state on.

        Args:
            plans: (samples, steps, actions), within the bounds.

        Returns:
            (samples, moments) the reward of the task's last control step in each of the
            environment's steps `scored`.
        """
        mujoco, scratch = self._mujoco, self._scratch
        model, now = self._sim.physics.model.ptr, self._sim.physics.data.ptr
        data, task = scratch.data.ptr, self._sim.task
        state = np.empty(mujoco.mj_stateSize(model, self._kind))
        mujoco.mj_getState(model, now, state, self._kind)
        states, sensed = self._rollout(
            model,
            data,
            state,
            np.repeat(plans, self._substeps, 1),
            initial_warmstart=now.qacc_warmstart.copy(),
        )
        last = (self.scored + 1) * self._substeps - 1
        rewards = np.empty((len(plans), len(last)))
        for i, plan in enumerate(plans):
            for j, (step, row) in enumerate(zip(self.scored, last, strict=True)):
                mujoco.mj_setState(model, data, states[i, row], self._kind)
                data.ctrl[:] = plan[step]
                # Sensors of forces stay as the last substep left them, and those of
                # places and velocities are brought up to date: as dm_control steps.
                data.sensordata[:] = sensed[i, row]
                mujoco.mj_step1(model, data)
                rewards[i, j] = task.get_reward(scratch)
        # A simulation that blew up is no way to go.
        return np.where(np.isfinite(rewards), rewards, -1e6)

    def _improved(self, plan: Floats) -> Floats:
        """The plan, moved towards what is better in one batch of variants."""
        count, actions = len(self._scales), plan.shape[1]
        drawn = self._rng.normal(size=(count, self._lines.shape[1], actions))
        noise = np.einsum("sk,nka->nsa", self._lines, drawn * self._scales)
        # The plan itself is among them, so that what works is not lost.
        plans = np.clip(np.concatenate([plan[None], plan + noise]), *self._bounds)
        returns = self.rewards(plans).mean(1)
        spread = max(float(returns.std()), 1e-9)
        weights = np.exp((returns - returns.max()) / (self._temperature * spread))
        better: Floats = np.tensordot(weights / weights.sum(), plans, 1)
        return better


def _lines(steps: int, knots: int) -> Floats:
    """(steps, knots) how much of each knot is in each step, by linear interpolation."""
    at = np.linspace(0, knots - 1, steps)
    parts: Floats = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(knots)))
    return parts
