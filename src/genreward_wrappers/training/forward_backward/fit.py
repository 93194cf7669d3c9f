"""From a goal and a data set to a goal with nets: the training run as a whole.

What a run needs beyond `FBTrainer.update` is here: drawing batches, holding out some
trajectories, writing checkpoints, and judging the result. Every draw follows from the
seed and the number of the update, so a run resumes as if it had not been interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import at_least, share
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.progress import OnFigures, no_progress
from genreward_wrappers.training.forward_backward.bundle import to_bundle
from genreward_wrappers.training.forward_backward.data import Transitions
from genreward_wrappers.training.forward_backward.features import Features
from genreward_wrappers.training.forward_backward.judge import success_rank, time_rank
from genreward_wrappers.training.forward_backward.nets import FBConfig
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.sources import Recorded
from genreward_wrappers.training.forward_backward.train import FBTrainer

#: One trajectory of so many is held out, to judge by.
HELD_OUT = 8
#: What the learning rate is multiplied by at the end.
SETTLED = 0.2
#: Transitions that the reward is normalised over.
NORMALISED_OVER = 20_000

#: Nets that two cores train in minutes, and how.
SMALL: Mapping[str, Any] = {"z": 32, "hidden": 128, "backward_hidden": 128}
SMALL_TRAINING: Mapping[str, Any] = {
    "batch": 256,
    "learning_rate": 1e-3,
    "target_rate": 0.05,
}


@dataclass(frozen=True)
class Plan:
    """How long to train, and what to do on the way.

    Attributes:
        updates: The number of gradient steps.
        checkpoint: The file that an interrupted run resumes from; None writes none.
        every: The number of updates between two checkpoints and two reports.
        anneal_share: The share of the updates, the last ones, with a fifth of the
            learning rate: far from the goal it is small differences that matter, and
            large steps blur them.
        on_progress: Called with the number of the update and its figures.
    """

    updates: int = 10_000
    checkpoint: Path | None = None
    every: int = 500
    anneal_share: float = 0.0
    on_progress: OnFigures = no_progress

    def __post_init__(self) -> None:
        at_least(1, updates=self.updates, every=self.every)
        share("anneal_share", self.anneal_share)

    def rate(self, step: int) -> float:
        """The share of the learning rate for an update; they are counted from 0."""
        return SETTLED if step >= (1 - self.anneal_share) * self.updates else 1.0


def train_fb(
    goal: GoalBundle,
    recorded: Recorded,
    features: Features,
    *,
    config: Mapping[str, Any] | None = None,
    training: FBTraining | None = None,
    plan: Plan | None = None,
    device: str = "auto",
    half: bool = True,
) -> GoalBundle:
    """The goal with forward-backward nets trained on recorded data.

    Args:
        goal: The goal, to whose key frames the reward will lead.
        recorded: The data; see `forward_backward.sources`.
        features: The features that the data was encoded with.
        config: Fields of `FBConfig`, except for those that the data decides.
        training: How to train.
        plan: How long to train, and the checkpoint.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        half: Whether the bundle keeps the nets in half precision.

    Raises:
        ValueError: The data cannot be trained on, or the checkpoint belongs to another
            run.
    """
    plan = plan or Plan()
    data = Transitions(recorded.trajectories, features.stack)
    trained, held = data.split(HELD_OUT)
    shape = shape_of(trained, config or {})
    if features.encoder is None:
        # An error here comes before the first minutes have been spent.
        _goal_states(trained, 1)
    trainer = _begin(shape, training or FBTraining(), trained, plan, device)
    fit(trainer, trained, plan)
    card = features.card
    if features.encoder is None:
        goal_states = _goal_states(trained, len(goal.videos))
        keys = np.tile(goal_states, features.stack)
        card["goal_states"] = goal_states.tolist()
    else:
        keys = features.of_goal(goal.key_pictures).cpu().numpy()
    figures = {}
    if held is not None:
        ranks = {
            "time_rank": time_rank(trainer, held),
            "success_rank": success_rank(trainer, held, keys),
        }
        figures = {name: rank for name, rank in ranks.items() if not math.isnan(rank)}
    return to_bundle(
        trainer,
        goal,
        keys,
        trained.spread(NORMALISED_OVER),
        features=card,
        about={
            **recorded.about,
            "trajectories": len(trained.trajectories),
            "held out": 0 if held is None else len(held.trajectories),
        },
        figures=figures,
        half=half,
    )


def fit(trainer: FBTrainer, data: Transitions, plan: Plan) -> None:
    """Trains from the trainer's current update to the plan's last."""
    one_step = not trainer.config.conditioned
    training = trainer.training
    # An error here comes before the first minutes have been spent.
    data.usable(one_step)
    notes = {"data": data.digest}
    while trainer.step < plan.updates:
        batch = data.draw(training.batch, one_step, (training.seed, trainer.step))
        figures = trainer.update(batch, plan.rate(trainer.step))
        if trainer.step % plan.every == 0 or trainer.step == plan.updates:
            plan.on_progress(trainer.step, figures)
            if plan.checkpoint is not None:
                trainer.save(plan.checkpoint, notes)


def shape_of(data: Transitions, config: Mapping[str, Any]) -> FBConfig:
    """The nets' configuration for some data."""
    actions = data.batch(np.arange(min(len(data), 2))).action
    discrete = actions.ndim == 1 and actions.dtype.kind in "iu"
    if not discrete and (actions.ndim != 2 or actions.dtype.kind != "f"):
        raise ValueError(
            "expected flat float actions or single indices, got "
            f"{actions.dtype} of shape {actions.shape[1:]}"
        )
    count = data.action_count if discrete else actions.shape[1]
    return FBConfig(
        **{
            **SMALL,
            "actions": count,
            "discrete": discrete,
            **config,
            "features": data.features,
        }
    )


def _goal_states(data: Transitions, count: int) -> NDArray[np.float32]:
    """(count, S) states in which the data succeeded: a picture has no numbers."""
    states = [
        trajectory.states[int(np.argmax(trajectory.success)) + 1]
        for trajectory in data.trajectories
        if trajectory.success is not None and trajectory.success.any()
    ]
    if not states:
        raise ValueError(
            "nets on states need to know the goal in numbers, which they take from "
            "episodes that succeed: none of these do"
        )
    chosen = np.linspace(0, len(states) - 1, count).astype(int)
    return np.stack([states[i] for i in chosen]).astype(np.float32)


def _begin(
    config: FBConfig,
    training: FBTraining,
    data: Transitions,
    plan: Plan,
    device: str,
) -> FBTrainer:
    """A new trainer, or the one from the checkpoint."""
    path = plan.checkpoint
    if path is None or not path.exists():
        trainer = FBTrainer(config, training, device=device)
        trainer.standardise(data.spread(NORMALISED_OVER).state)
        return trainer
    trainer = FBTrainer.load(path, config=config, device=device)
    for what, saved, given in (
        ("training", trainer.training, training),
        ("data", trainer.notes.get("data"), data.digest),
    ):
        if saved != given:
            raise ValueError(
                f"{path} is of a run with other {what}; delete it, or give another "
                f"checkpoint.\n  its own: {saved}\n  given:   {given}"
            )
    return trainer
