"""``genreward train-fb``: the terminal's side of training forward-backward nets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genreward_wrappers.data.goals import load_goal
from genreward_wrappers.progress import board, told
from genreward_wrappers.training.forward_backward.features import (
    Features,
    default_cache,
)
from genreward_wrappers.training.forward_backward.fit import (
    SMALL_TRAINING,
    Plan,
    train_fb,
)
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.sources import load_trajectories

#: What the bar shows of an update.
SHOWN = ("loss_measure", "mass", "spread", "directions")


def run_train_fb(
    goal: str,
    data: str,
    output: Path,
    *,
    encoder: str | None,
    stack: int,
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    updates: int,
    settle: float,
    checkpoint: Path | None,
    tensorboard: Path | None,
    cache: Path | None,
    device: str,
) -> int:
    """Trains, says what came of it, and writes the bundle.

    Args:
        goal: A path, an hf:// address or an environment's id.
        data: A folder of recorded episodes, or "minari:<dataset>".
        output: The bundle to write.
        encoder: Of the features; None is the goal's own, "state" the environment's
            numbers.
        stack: How many pictures are seen at once.
        config: Of `FBConfig`, what differs from the small default.
        training: Of `FBTraining`, likewise.
        updates: Gradient steps.
        settle: The share of them with a fifth of the learning rate.
        checkpoint: What a stopped run goes on from; None is beside the output.
        tensorboard: A folder for TensorBoard; None for none.
        cache: A folder for features.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
    """
    bundle = load_goal(goal)
    features = Features.for_goal(bundle, encoder, stack, device=device)
    chosen = FBTraining(**{**SMALL_TRAINING, **training})
    checkpoint = checkpoint or output.with_name(f"{output.name}.checkpoint")
    with told("pictures to features") as tick:
        recorded = load_trajectories(
            data, features, cache=cache or default_cache(), tick=tick
        )
    with board(tensorboard) as write, told("updates", SHOWN) as tick:

        def tell(step: int, figures: Mapping[str, float]) -> None:
            tick(step, updates, figures)
            write(step, figures)

        made = train_fb(
            bundle,
            recorded,
            features,
            config=config,
            training=chosen,
            plan=Plan(updates, checkpoint, settle=settle, tell=tell),
            device=device,
        )
    made.save(output)
    # Nothing goes on from here: with other data or settings it would be in the way.
    checkpoint.unlink(missing_ok=True)
    for name, value in made.nets_config["statistics"].items():
        print(f"{name:18} {value:.4g}")
    print(f"{output}: {made!r}")
    return 0
