"""Forward-backward nets that are trained while the agent learns.

The data are what the agent sees: the callback reads every transition that the reward's
session scores, whether or not the agent has a replay buffer. From time to time it
trains the nets and puts them into the reward, under a new version number that every
step's info carries. An ordinary replay buffer mixes the rewards of several versions; a
`RelabelReplayBuffer` pays all its samples by the newest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from genreward_wrappers.checks import at_least
from genreward_wrappers.core import (
    Bool,
    RewardModel,
    Score,
    Transition,
    UInt8,
    UInt64,
)
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.hosts.sb3 import SB3Host
from genreward_wrappers.hosts.sb3_replay import RelabelReplayBuffer
from genreward_wrappers.rewards.frame_level import FrameLevel
from genreward_wrappers.training.forward_backward.bundle import to_bundle
from genreward_wrappers.training.forward_backward.data import Trajectory, Transitions
from genreward_wrappers.training.forward_backward.features import Features
from genreward_wrappers.training.forward_backward.train import FBTrainer

#: Transitions that the reward is normalised over at a refresh.
NORMALISED_OVER = 5_000


class UntrainedReward(RewardModel[None]):
    """A frame-level reward that has learned nothing yet: nothing is due.

    It wants every frame, so that the nets can be trained on all of them.
    """

    name = FrameLevel.name

    def reset(self, memory: None, frames: UInt8, mask: Bool, seeds: UInt64) -> None:
        """Nothing to remember."""
        return None

    def step(self, memory: None, transition: Transition) -> tuple[Score, None]:
        """Nothing is due."""
        count = len(transition.steps)
        return Score(np.zeros(count, np.float32), np.zeros(count, np.bool_)), None


class FBCallback(BaseCallback):  # type: ignore[misc]
    """Trains forward-backward nets on what the agent does, and rewards it by them.

    The agent's environment has to be a wrapper of `genreward_wrappers.sb3` over
    environments that show their pixels at every step. The trained nets replace its
    frame-level reward; where it has none, one is added.

    Example:
        >>> callback = FBCallback(trainer, goal, features)  # doctest: +SKIP
        >>> SAC("MlpPolicy", venv).learn(50_000, callback)  # doctest: +SKIP
        >>> callback.bundle.save("goal.safetensors")  # doctest: +SKIP

    Attributes:
        version: The number of times that the nets in the reward were replaced;
            ``info["reward_frame_version"]`` at every step.
        bundle: The goal with the nets that are in the reward; None before the first
            refresh.
    """

    def __init__(
        self,
        trainer: FBTrainer,
        goal: GoalBundle,
        features: Features,
        *,
        weight: float = 1.0,
        every: int = 2_000,
        updates: int = 500,
        until: int | None = None,
        keep: int = 100_000,
        form: str = "normalised",
        verbose: int = 0,
    ) -> None:
        """Plans the training.

        Args:
            trainer: The nets, trained or untrained.
            goal: The goal whose key frames the reward leads to.
            features: The features that the nets see. With the encoder of the
                environment's rewards, every frame is encoded only once.
            weight: The weight of the frame-level score in the agent's reward.
            every: The number of environment steps between two refreshes, and before the
                first.
            updates: The number of gradient steps at a refresh.
            until: The number of environment steps after which the nets stay as they
                are; None never stops refreshing them.
            keep: The number of newest transitions to train on.
            form: The form of the score; see `rewards.frame_level.FrameLevel`.
            verbose: 1 prints the result of each refresh.
        """
        super().__init__(verbose)
        at_least(1, every=every, updates=updates, keep=keep)
        if features.encoder is None:
            raise ValueError("the reward sees pictures: give features of pictures")
        self.trainer, self.goal, self.features = trainer, goal, features
        self.version = 0
        self.bundle: GoalBundle | None = None
        self._weight, self._form = weight, form
        self._every, self._updates, self._until = every, updates, until
        self._keep = keep
        self._done: list[Trajectory] = []
        self._open: dict[int, _Episode] = {}
        self._due = every

    def _on_training_start(self) -> None:
        self._host = _find_host(self.training_env)
        names = {model.name for model in self._host.session.models}
        if self.bundle is not None:
            # Trained before, perhaps in another environment: it continues from that.
            self._pay_by(self._model())
        elif FrameLevel.name not in names:
            self._host.put_model(UntrainedReward(), self._weight, self.version)

    def _on_step(self) -> bool:
        self._watch()
        frozen = self._until is not None and self.num_timesteps > self._until
        if self.num_timesteps >= self._due and not frozen:
            self._due = self.num_timesteps + self._every
            self._refresh()
        return True

    def _watch(self) -> None:
        """Keeps the features of what has just happened."""
        happened = self._host.session.last
        assert happened is not None
        after = self.features.encode(happened.next_frames)
        for row in np.flatnonzero(happened.steps == 1).tolist():
            # Reset from outside: what had begun ends here.
            if row in self._open:
                self._done.append(self._open.pop(row).close(False))
        begins = [row for row in range(len(after)) if row not in self._open]
        if begins:
            before = self.features.encode(happened.frames[begins])
            for row, state in zip(begins, before, strict=True):
                self._open[row] = _Episode(state)
        for row, state in enumerate(after):
            episode = self._open[row]
            episode.states.append(state)
            episode.actions.append(np.array(happened.actions[row]))
            if happened.terminated[row] or happened.truncated[row]:
                self._done.append(episode.close(bool(happened.terminated[row])))
                del self._open[row]

    def _refresh(self) -> None:
        """Trains on what there is, and puts the nets into the reward."""
        running = [episode.close(False) for episode in self._open.values()]
        self._forget(sum(map(len, running)))
        data = Transitions([*self._done, *running], self.features.stack)
        trainer, training = self.trainer, self.trainer.training
        if trainer.step == 0:
            trainer.standardise(data.batch(np.arange(len(data))).state)
        figures: dict[str, float] = {}
        for _ in range(self._updates):
            batch = data.draw(
                training.batch,
                not trainer.config.conditioned,
                (training.seed, trainer.step),
            )
            figures = trainer.update(batch)
        self.version += 1
        self.bundle = to_bundle(
            trainer,
            self.goal,
            self.features.of_goal(self.goal.key_pictures).cpu().numpy(),
            data.spread(NORMALISED_OVER),
            features=self.features.card,
            about={"data": "online", "version": self.version},
        )
        self._pay_by(self._model())
        for name, value in figures.items():
            self.logger.record(f"forward_backward/{name}", value)
        self.logger.record("forward_backward/version", self.version)
        if self.verbose:
            print(
                f"forward-backward nets, version {self.version}: {trainer.step} "
                f"updates on {len(data)} transitions, spread {figures['spread']:.3g}"
            )

    def _pay_by(self, model: FrameLevel) -> None:
        """Puts the nets into the reward, of new steps and perhaps of kept ones."""
        self._host.put_model(model, self._weight, self.version)
        buffer = getattr(self.model, "replay_buffer", None)
        if isinstance(buffer, RelabelReplayBuffer):
            buffer.put_model(model, self.version)

    def _model(self) -> FrameLevel:
        assert self.bundle is not None
        return FrameLevel(self.bundle, self.features.encoder, form=self._form)

    def _forget(self, running: int) -> None:
        """Drops the oldest episodes beyond what is to be kept."""
        total = running + sum(map(len, self._done))
        while self._done and total - len(self._done[0]) >= self._keep:
            total -= len(self._done.pop(0))


class _Episode:
    """An episode that is going on."""

    def __init__(self, state: NDArray[Any]) -> None:
        self.states = [state]
        self.actions: list[NDArray[Any]] = []

    def close(self, terminated: bool) -> Trajectory:
        return Trajectory(
            np.stack(self.states), np.stack(self.actions), terminated, name="online"
        )


def _find_host(venv: Any) -> SB3Host:
    """The reward wrapper among an agent's environment wrappers."""
    inner = venv
    while not isinstance(inner, SB3Host):
        if not hasattr(inner, "venv"):
            raise ValueError(
                f"the agent's environment, {venv}, has no reward wrapper: wrap it in "
                "genreward_wrappers.sb3.VecGenReward or its like"
            )
        inner = inner.venv
    return inner
