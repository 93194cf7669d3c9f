"""The host for `gymnasium.vector`: N environments, one session, one model.

What differs from a single environment is how episodes follow one another. NEXT_STEP
resets a row in the step after its last one, which is then no transition at all.
SAME_STEP resets it within the last one, whose true frame is in ``final_obs``. DISABLED
leaves it to the user and ``reset_mask``. Whatever the mode, the rewards are those that
the single wrapper would give inside each environment; that is the central test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from genreward_wrappers.core import Bool, UInt8
from genreward_wrappers.data.frames import TAP
from genreward_wrappers.hosts.host import Host, Inside, marked

if TYPE_CHECKING:
    _VectorWrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    # It is generic from Gymnasium 1.4 on.
    _VectorWrapper = VectorWrapper


class VectorHost(Host, _VectorWrapper, RecordConstructorArgs):
    """Scores every step of a vector environment."""

    _kind = (VectorEnv, "gymnasium.vector.VectorEnv")

    def _inside(self, env: VectorEnv[Any, Any, Any]) -> Inside:
        self._mode = _autoreset_mode(env)
        spec = env.spec
        if spec is None and hasattr(env.unwrapped, "get_attr"):
            spec = env.unwrapped.get_attr("spec")[0]
        return Inside(
            next(iter(getattr(env.unwrapped, "envs", ())), None),
            spec if isinstance(spec, EnvSpec) else None,
            env.metadata,
            env.single_observation_space,
            env.single_action_space,
            env.render_mode,
            env.num_envs,
        )

    def _check(self, inside: Inside) -> None:
        source = self._frames.source
        if source.kind == "render" and self._mode == AutoresetMode.SAME_STEP:
            raise ValueError(
                "frames from render() cannot be used under AutoresetMode.SAME_STEP: "
                "after the last step of an episode render() shows the next one. Use "
                "pixel observations, TapFrames in each environment, or "
                "AutoresetMode.NEXT_STEP"
            )

    def _wrap(self, env: VectorEnv[Any, Any, Any], space: Any) -> None:
        VectorWrapper.__init__(self, env)
        self.metadata = marked(env.metadata, self)
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
        mask: Bool = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            # Read before it is forwarded: the environment takes it out of the options.
            mask = np.array(options["reset_mask"], np.bool_)
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        frames = self._look(observations, infos, mask)
        self._head.begin(frames, mask, seed, self._states(observations))
        self._ended = self._ended & ~mask
        # The keys of a step, with nothing paid yet.
        for key, values in self._head.opening().items():
            infos[key] = np.where(mask, values, np.zeros_like(values))
            infos[f"_{key}"] = mask
        return self._observed(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all environments, and pays."""
        same_step = self._mode == AutoresetMode.SAME_STEP
        # A row that NEXT_STEP is about to reset has no transition in this step.
        resetting = self._ended & (self._mode == AutoresetMode.NEXT_STEP)
        active = ~resetting
        self.session.check_running(active)
        wanted = self.session.wanted | resetting
        observations, env_rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.asarray(terminated | truncated)
        # Under SAME_STEP the frames of rows that ended are in final_info.
        frames = self._look(observations, infos, wanted & ~(ended & same_step))
        next_frames = frames
        if same_step and ended.any():
            next_frames = self._final_frames(frames, infos, ended & wanted)
        paid = self._head.pay(
            np.asarray(actions),
            next_frames,
            np.asarray(env_rewards, np.float64),
            np.asarray(terminated),
            np.asarray(truncated),
            active=active,
            # Where a row ended it is the next episode that these belong to, which
            # begins below.
            next_states=self._states(observations),
            looked=bool(wanted[0]),
            success=_success(
                infos.get("final_info", {}) if ended[0] and same_step else infos
            ),
        )
        if same_step:
            resetting = ended
            if self._observe:
                for row in np.flatnonzero(ended):
                    last = infos["final_obs"]
                    last[row] = self._observed(last[row], slice(row, row + 1), axes=0)
        if resetting.any():
            self._head.begin(frames, resetting, states=self._states(observations))
        self._ended = ended
        # As in `VectorEnv._add_info`: each key beside a mask of the rows that have it.
        # An autoreset row says what the single wrapper says after a reset.
        logged = paid.infos
        if not active.all():
            opening = self._head.opening()
            logged = {k: np.where(active, v, opening[k]) for k, v in logged.items()}
        logged |= self.session.notes()
        everyone = np.ones(self.num_envs, np.bool_)
        infos = {**infos, **logged, **{f"_{key}": everyone for key in logged}}
        observations = self._observed(observations)
        return observations, paid.rewards, terminated, truncated, infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the environments, or one of this wrapper's own."""
        if name == "compute_reward":
            self.compute_reward()
        if name == "set_weights":
            self.set_weights(*args, **kwargs)
            return (None,) * self.num_envs
        return self.env.call(name, *args, **kwargs)  # type: ignore[attr-defined]

    def _look(self, observations: Any, infos: dict[str, Any], wanted: Bool) -> UInt8:
        """(N, H, W, 3) the frames beside the observations."""
        source = self._frames.source
        if source.kind == "obs":
            return self._frames.batch(source.of_observation(observations))
        if source.kind == "render":
            if wanted.any():
                self._frames.batch(np.stack(self.env.render()))  # type: ignore[arg-type]
            return self._frames.last
        found = _rows(infos, source.key, self.num_envs)
        return self._frames.rows(found, wanted, self.session.steps)

    def _final_frames(self, frames: UInt8, infos: dict[str, Any], rows: Bool) -> UInt8:
        """The frames with those of the rows that ended put back to their true last."""
        final, source = np.array(frames), self._frames.source
        last = _rows(infos.get("final_info", {}), source.key, self.num_envs)
        for row in np.flatnonzero(rows).tolist():
            frame = last[row]
            if source.kind == "obs":
                frame = source.of_observation(infos["final_obs"][row])
            final[row] = self._frames.checked(frame)
        return final

    def _play(self, actions: spaces.Space[Any] | None) -> None:
        if actions is None:
            self.reset(seed=0)
            return
        if self._mode == AutoresetMode.DISABLED and self._ended.any():
            self.reset(options={"reset_mask": self._ended.copy()})
        self.step(actions.sample())


def _rows(infos: dict[str, Any], key: str | None, count: int) -> Sequence[Any]:
    """What each row has under a key; tapped frames are taken out."""
    if key is None or key not in infos:
        return [None] * count
    values, there = infos[key], infos[f"_{key}"]
    if key == TAP:
        del infos[key], infos[f"_{key}"]
    return [values[row] if there[row] else None for row in range(count)]


def _success(infos: dict[str, Any]) -> bool:
    """Whether the first environment calls this step a success."""
    for key in ("is_success", "success"):
        if key in infos:
            return bool(infos[key][0])
    return False


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        raise ValueError(
            f"{env} does not say how it resets: its metadata needs an "
            '"autoreset_mode", one of '
            f"{[f'AutoresetMode.{m.name}' for m in AutoresetMode]}"
        )
    return AutoresetMode(mode)
