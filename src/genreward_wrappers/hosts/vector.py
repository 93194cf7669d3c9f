"""The host for `gymnasium.vector`: N environments, one session, one model.

What differs from a single environment is how episodes follow one another. NEXT_STEP
resets a row in the step after its last one, which is then no transition at all.
SAME_STEP resets it within the last one, whose true frame is in ``final_obs``. DISABLED
leaves it to the user and ``reset_mask``. Whatever the mode, the rewards are those that
the single wrapper would give inside each environment; that is the central test.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from genreward_wrappers.core import Bool, UInt8
from genreward_wrappers.hosts import vector_infos
from genreward_wrappers.hosts.attach import Inside
from genreward_wrappers.hosts.host import Host


class VectorHost(Host, VectorWrapper, RecordConstructorArgs):
    """Scores every step of a vector environment."""

    _kind = (VectorEnv, "gymnasium.vector.VectorEnv")

    def _inside(self, env: VectorEnv[Any, Any, Any]) -> Inside:
        self._mode, inside = vector_infos.look_inside(env)
        return inside

    def _wrap(self, env: VectorEnv[Any, Any, Any], space: Any) -> None:
        VectorWrapper.__init__(self, env)
        self.metadata = self._marked(env.metadata)
        # TorchRL asks the environment itself.
        self.autoreset_mode = self._mode
        if space is not None:
            self.single_observation_space = space
            self.observation_space = batch_space(space, env.num_envs)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all environments, or those in ``options["reset_mask"]``."""
        # Read before it is forwarded: the environment takes it out of the options.
        mask = np.array((options or {}).get("reset_mask", self._everyone), np.bool_)
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        frames = self._look(observations, infos, mask)
        self._head.begin(frames, mask, seed, self._states(observations))
        self._ended = self._ended & ~mask
        # The keys of a step, with nothing paid yet.
        infos = vector_infos.add(infos, self._head.opening(), mask)
        return self._progress.add(observations, self.session.steps), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all environments, and pays."""
        # A row that NEXT_STEP is about to reset has no transition in this step.
        resetting = self._ended & (self._mode == AutoresetMode.NEXT_STEP)
        active = ~resetting if np.count_nonzero(resetting) else None
        self.session.check_running(active)
        wanted = self.session.wanted | resetting
        observations, env_rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.asarray(terminated | truncated)
        # A row that SAME_STEP has reset shows the next episode, and keeps the end of
        # this one in its final_obs and final_info.
        over = ended & (self._mode == AutoresetMode.SAME_STEP)
        frames = self._look(observations, infos, wanted & ~over)
        last_frame = vector_infos.last_frame(infos, self._frames)
        paid = self._head.pay(
            np.asarray(actions),
            self._frames.put_last(over & wanted, last_frame),
            np.asarray(env_rewards, np.float64),
            np.asarray(terminated),
            np.asarray(truncated),
            active=active,
            # Where a row is over they belong to the next episode, which begins below.
            next_states=self._states(observations),
            success=vector_infos.success(infos, over),
        )
        for row in np.flatnonzero(over).tolist():
            self._progress.add_in(infos["final_obs"], row, self.session.steps[row])
        begins = resetting | over
        if np.count_nonzero(begins):
            self._head.begin(frames, begins, states=self._states(observations))
        self._ended = ended
        logged = {**paid.infos, **self.session.notes()}
        infos = vector_infos.add(infos, logged, self._everyone)
        observations = self._progress.add(observations, self.session.steps)
        return observations, paid.rewards, terminated, truncated, infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the environments, or one of this wrapper's own."""
        if self._answers(name, args, kwargs):
            return (None,) * self.num_envs
        return self.env.call(name, *args, **kwargs)  # type: ignore[attr-defined]

    def _look(self, observations: Any, infos: dict[str, Any], wanted: Bool) -> UInt8:
        """(N, H, W, 3) the frames beside the observations."""
        return self._frames.take(
            observations,
            wanted,
            self.session.steps,
            infos=lambda key: vector_infos.rows(infos, key, self.num_envs),
            render=self.env.render,
        )

    def _play(self, actions: spaces.Space[Any] | None) -> None:
        if actions is None:
            self.reset(seed=0)
        elif self._mode == AutoresetMode.DISABLED and self._ended.any():
            self.reset(options={"reset_mask": self._ended.copy()})
        if actions is not None:
            self.step(actions.sample())
