"""From trained forward-backward nets to a goal bundle that has them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.training.forward_backward import losses
from genreward_wrappers.training.forward_backward.data import Batch
from genreward_wrappers.training.forward_backward.nets import FBNets
from genreward_wrappers.training.forward_backward.train import FBTrainer

#: How many transitions the diagnostics of a whole data set look at.
LOOKED_AT = 1024


def to_bundle(
    trainer: FBTrainer,
    goal: GoalBundle,
    keys: NDArray[Any],
    data: Batch,
    *,
    features: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    figures: Mapping[str, float] | None = None,
    half: bool = False,
) -> GoalBundle:
    """The goal with these nets and what the frame-level reward needs to know.

    Warns if the nets are dead or diverging on the data.

    Args:
        trainer: The trainer, whose nets go into the bundle.
        goal: The goal.
        keys: (K, features) the features of its key frames, by the encoder of the
            states.
        data: The transitions that the reward is normalised over and the nets are
            judged by: the training data, or a good share of it.
        features: The `Features.card` of the states; None takes them for single
            pictures of the goal's own encoder.
        about: Further entries of the provenance, such as where the data comes from.
        figures: Further figures, such as `time_rank` on held-out trajectories.
        half: Whether the matrices are kept in half precision, at half the size.

    Raises:
        ValueError: The keys are not one row for each of the goal's videos, or have
            another size or NaN.
    """
    if len(keys) != len(goal.videos):
        raise ValueError(
            f"expected the features of {len(goal.videos)} key frames, one for each "
            f"video of {goal!r}, got {len(keys)}"
        )
    rows = np.unique(np.linspace(0, len(data) - 1, LOOKED_AT).astype(int))
    judged = {**trainer.diagnose(data.take(rows)), **(figures or {})}
    weights, config = trainer.nets.to_arrays(half=half)
    # Rounded, as the reward will use them.
    nets = FBNets.from_arrays(weights, config).to(trainer.device)
    values = trainer.values(keys, data.state, data.action, nets)
    # The reward is that of the best goal.
    reward = values.max(0).astype(np.float64)
    # What counts in the end is the reward of this goal, not the mean over goals.
    judged["spread"] = float(reward.std() / trainer.mass)
    wrong = losses.complaints(judged)
    if wrong:
        warnings.warn(
            f"forward-backward nets after {trainer.step} updates: {'; '.join(wrong)}",
            UserWarning,
            stacklevel=2,
        )
    statistics = {
        "mean": float(reward.mean()),
        "std": float(reward.std()),
        "transitions": len(data),
        **judged,
    }
    made = {
        "step": "forward-backward",
        "variant": trainer.config.variant,
        "updates": trainer.step,
        "training": dataclasses.asdict(trainer.training),
        **(about or {}),
    }
    seen = {} if features is None else {"input": dict(features)}
    return goal.with_(
        nets=weights,
        nets_config={**config, **seen, "statistics": statistics},
        provenance=(*goal.provenance, made),
    )
