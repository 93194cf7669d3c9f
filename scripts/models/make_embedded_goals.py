r"""Makes the embedded goals: videos that the embedded generator made of first frames.

    python scripts/models/make_embedded_goals.py --work runs/goals --data runs/episodes

Of sixteen first frames two videos each, of which the embedded CLIP keeps the eight
that fit the task's words best, and their key frames. Forward-backward nets, where a
goal has them, know no goal: they are taken over from the bundle that is there, and
their statistics are found anew for the new key frames, on the data that they were
trained on (see make_embedded_nets.py).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from make_embedded_nets import ASSETS, TRAIN, record
from prompts import PROMPTS
from rounding import coarse

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers import load_goal
from genreward_wrappers.data.goals import GoalBundle, embedded_goals
from genreward_wrappers.encoders.binding import bind_encoder
from genreward_wrappers.envs.stages import sentences
from genreward_wrappers.generators.settings import Model, Sampling
from genreward_wrappers.goal_pipeline.generate import first_frames, generate
from genreward_wrappers.goal_pipeline.pack import pack_candidates
from genreward_wrappers.goal_pipeline.select import select
from genreward_wrappers.training.forward_backward.bundle import to_bundle
from genreward_wrappers.training.forward_backward.data import Transitions
from genreward_wrappers.training.forward_backward.features import (
    Features,
    default_cache,
)
from genreward_wrappers.training.forward_backward.fit import HELD_OUT, NORMALISED_OVER
from genreward_wrappers.training.forward_backward.judge import success_rank, time_rank
from genreward_wrappers.training.forward_backward.nets import FBNets
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.sources import load_trajectories
from genreward_wrappers.training.forward_backward.train import FBTrainer

STARTS, CANDIDATES, KEEP = 16, 2, 8
STEPS, FRAMES = 20, 17
#: In levels of 255.
STILL, LEVELS = 24, 8
#: Of two frames that fit the words alike the later one: a task is done at its end.
PRIOR = 0.5
#: In dm_control a task that is done stays done, and CLIP knows its stages less well.
PRIOR_OF_CONTROL = 2.0


def make(env_id: str, work: Path, generator: str, clip: str) -> GoalBundle:
    """The goal without nets."""
    folder = work / env_id.replace("/", "--")
    generate(
        Model(generator, device="cpu"),
        Sampling(PROMPTS[env_id], steps=STEPS, guidance=1.0),
        folder,
        env_id=env_id,
        starts=STARTS,
        candidates=CANDIDATES,
    )
    env = gym.make(env_id)
    bundle = pack_candidates(
        [folder],
        env_id=env_id,
        camera=env.unwrapped.camera,
        length=FRAMES,
        license="MIT",
    )
    env.close()
    bundle = steady(bundle, env_id)
    begins, *_, ends = sentences(env_id)
    goal, _ = select(
        bundle,
        clip,
        prompts=[PROMPTS[env_id], ends],
        baseline=begins,
        prior=PRIOR_OF_CONTROL if env_id.startswith("dmc/") else PRIOR,
        keep=KEEP,
    )
    return goal


def steady(bundle: GoalBundle, env_id: str) -> GoalBundle:
    """Nothing moves where a video stays near its first frame, which is known exactly.

    What a decoder makes of a still background is noise, and most of a file. What does
    move is kept in steps of eight levels, a small part of the decoder's own error.
    """
    made = next(s for s in bundle.provenance if s["step"] == "generate")
    seeds = [candidate["start_seed"] for candidate in made["candidates"]]
    frames = dict(first_frames(env_id, {}, range(min(seeds), max(seeds) + 1)))
    first = np.stack([frames[seed] for seed in seeds])[:, None]
    apart = np.abs(bundle.videos.astype(np.int16) - first).max(-1, keepdims=True)
    moving = bundle.videos // LEVELS * LEVELS + LEVELS // 2
    step = {"step": "steady", "still": STILL, "levels": LEVELS}
    return bundle.with_(
        videos=np.where(apart <= STILL, first, moving).astype(np.uint8),
        provenance=(*bundle.provenance, step),
    )


def with_nets(goal: GoalBundle, old: GoalBundle, data: Path) -> GoalBundle:
    """The goal with another's nets, and statistics of its own key frames."""
    task = goal.env_id.removeprefix("metaworld/")
    record(task, TRAIN, data / task)
    features = Features(bind_encoder(goal.with_(encoder={}), "pixels", device="cpu"))
    recorded = load_trajectories(str(data / task), features, cache=default_cache())
    trained, held = Transitions(recorded.trajectories).split(HELD_OUT)
    beside = ("input", "statistics")
    config = {k: v for k, v in old.nets_config.items() if k not in beside}
    nets = FBNets.from_arrays(old.nets, config)
    made = [step for step in old.provenance if step["step"] == "forward-backward"][-1]
    trainer = FBTrainer(nets.config, FBTraining(**made["training"]), device="cpu")
    trainer.nets.load_state_dict({k: fewer(t) for k, t in nets.state_dict().items()})
    trainer.step = made["updates"]
    keys = features.of_goal(goal.key_pictures).cpu().numpy()
    assert held is not None
    ranks = {
        "time_rank": time_rank(trainer, held),
        "success_rank": success_rank(trainer, held, keys),
    }
    with warnings.catch_warnings():
        # Said when the goal is used, too.
        warnings.simplefilter("ignore", UserWarning)
        return to_bundle(
            trainer,
            goal,
            keys,
            trained.spread(NORMALISED_OVER),
            features=features.card,
            about={
                **recorded.about,
                "trajectories": len(trained.trajectories),
                "held out": len(held.trajectories),
            },
            figures={name: rank for name, rank in ranks.items() if np.isfinite(rank)},
            half=True,
        )


def fewer(weight: torch.Tensor) -> torch.Tensor:
    """What a bundle keeps in half precision, in few digits."""
    return coarse(weight).float() if weight.ndim > 1 else weight


def main() -> None:
    """Makes them all, or some."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("envs", nargs="*", default=embedded_goals())
    parser.add_argument("--work", type=Path, required=True, help="for the candidates")
    parser.add_argument("--data", type=Path, required=True, help="of the nets")
    parser.add_argument("--generator", default="embedded:goal-generator-64")
    parser.add_argument("--clip", default="embedded:clip-64")
    parser.add_argument("--output", type=Path, default=ASSETS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    for env_id in args.envs:
        old = load_goal(env_id)
        goal = make(env_id, args.work, args.generator, args.clip)
        if old.nets:
            goal = with_nets(goal, old, args.data)
        path = args.output / f"{env_id.replace('/', '--')}.safetensors"
        goal.save(path)
        size = path.stat().st_size / 1e6
        print(f"{path}: {goal!r}, key frames {goal.key_frames}, {size:.2f} MB")


if __name__ == "__main__":
    main()
