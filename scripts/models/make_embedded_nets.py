"""Trains the forward-backward nets of an embedded Meta-World goal, and judges them.

    python scripts/models/make_embedded_nets.py drawer-close --data episodes --held held

Collects what is not there yet: 72 episodes to train on (40 scripted with noise, 16
scripted, 16 random) and 20 others to judge by (8, 8, 4). What is found on those is
appended to benchmarks/results/frame_level.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from genreward_wrappers import load_goal
from genreward_wrappers.core import Session
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.encoders.binding import bind_encoder
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.goal_pipeline.collect import collect
from genreward_wrappers.rewards.frame_level import FrameLevel
from genreward_wrappers.training.forward_backward.features import (
    CHUNK,
    Features,
    default_cache,
)
from genreward_wrappers.training.forward_backward.fit import (
    SMALL_TRAINING,
    Plan,
    train_fb,
)
from genreward_wrappers.training.forward_backward.judge import rank_correlation
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.sources import load_trajectories

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "src/genreward_wrappers/assets/goals"
RESULTS = ROOT / "benchmarks/results/frame_level.jsonl"
TRAIN = (
    ("noisy", 40, 4_000_000),
    ("random", 16, 4_100_000),
    ("scripted", 16, 4_200_000),
)
HELD = (
    ("noisy", 8, 4_300_000),
    ("scripted", 8, 4_310_000),
    ("random", 4, 4_320_000),
)
#: Steps of a window, which is a success if its last step is one.
WINDOW = 16


def record(task: str, lots: tuple, folder: Path) -> list[Path]:
    """The episodes of some policies, new or from an earlier call."""
    return [
        path
        for policy, count, seed in lots
        for path in collect(
            f"metaworld/{task}", folder, policy=policy, episodes=count, seed=seed
        )
    ]


def judge(goal: GoalBundle, paths: list[Path], form: str, encoder: Memo) -> dict:
    """Rank with time along held-out successes; AUC of successful windows."""
    model = FrameLevel(goal, encoder, form=form)
    ranks, scores, labels = [], [], []
    for path in paths:
        episode = Episode.load(path)
        for i in range(0, len(episode.frames), CHUNK):
            # Some at a time is several times faster than one by one.
            encoder.encode_images(episode.frames[i : i + CHUNK])
        session = Session([model], 1)
        session.begin(episode.frames[:1])
        no = np.zeros(1, bool)
        paid = np.array(
            [
                session.score(action[None], frame[None], no, no)["frame"].value[0]
                for action, frame in zip(
                    episode.actions, episode.frames[1:], strict=True
                )
            ]
        )
        if episode.succeeded:
            until = int(np.argmax(episode.success)) + 1
            ranks.append(rank_correlation(paid[:until], np.arange(until)))
        for end in range(WINDOW, len(paid) + 1, WINDOW):
            scores.append(paid[end - WINDOW : end].mean())
            labels.append(episode.success[end - 1])
    won, value = np.array(labels), np.array(scores)
    larger = mannwhitneyu(value[won], value[~won]).statistic
    return {
        "rank": float(np.mean(ranks)),
        "lowest rank": float(np.min(ranks)),
        "successes": len(ranks),
        "auc": float(larger / (won.sum() * (~won).sum())),
    }


def main() -> None:
    """Trains and judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("--goal", help="a bundle; the embedded one if not given")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held", type=Path, required=True)
    parser.add_argument("--features")
    parser.add_argument("--variant", default="standard")
    parser.add_argument("--discount", type=float, default=0.98)
    parser.add_argument("--updates", type=int, default=5_000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="the embedded bundle by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    record(args.task, TRAIN, args.data / args.task)
    held = record(args.task, HELD, args.held / args.task)
    goal = load_goal(args.goal, f"metaworld/{args.task}")
    free = goal if args.features is None else goal.with_(encoder={})
    features = Features(bind_encoder(free, args.features, device="cpu"))
    data = load_trajectories(
        str(args.data / args.task), features, cache=default_cache()
    )
    made = train_fb(
        goal,
        data,
        features,
        config={
            "conditioned": args.variant == "standard",
            "discount": args.discount,
            "hidden": args.hidden,
        },
        training=FBTraining(**SMALL_TRAINING, seed=args.seed),
        plan=Plan(args.updates),
        device="cpu",
    )
    path = args.output or ASSETS / f"metaworld--{args.task}.safetensors"
    made.save(path)
    memo = Memo(features.encoder)
    row = {
        "task": args.task,
        "features": args.features or "goal's",
        "variant": args.variant,
        "discount": args.discount,
        "updates": args.updates,
        "seed": args.seed,
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        **{f"value {k}": v for k, v in judge(made, held, "value", memo).items()},
        **{
            f"difference {k}": v
            for k, v in judge(made, held, "difference", memo).items()
        },
        **{k: v for k, v in made.nets_config["statistics"].items() if k != "std"},
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
