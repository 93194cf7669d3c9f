"""Nets for the frame-level reward, from recorded episodes to an agent that is paid.

python examples/frame_level.py --env metaworld/pick-place --episodes 40 --updates 10000
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stable_baselines3 import PPO

from genreward_wrappers import GenRewardWrapper, load_encoder, load_goal, make
from genreward_wrappers.goal_pipeline.collect import collect
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


def main() -> None:
    """Collects, trains, and lets an agent learn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--goal", help="a goal bundle; the embedded one if not given")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=Path("frame_level"))
    args = parser.parse_args()

    # Half of the episodes know the way, half know what else there is.
    episodes = args.output / "episodes"
    for policy in ("noisy", "random"):
        collect(args.env, episodes, policy=policy, episodes=args.episodes // 2)

    goal = load_goal(args.goal, args.env)
    features = Features(load_encoder(goal.encoder["source"]))
    recorded = load_trajectories(str(episodes), features, cache=default_cache())
    goal = train_fb(
        goal,
        recorded,
        features,
        training=FBTraining(**SMALL_TRAINING),
        plan=Plan(args.updates, checkpoint=args.output / "checkpoint.safetensors"),
    )
    goal.save(args.output / "goal.safetensors")
    for name, value in goal.nets_config["statistics"].items():
        print(f"{name:18} {value:.3g}")

    # The goal by its path: a spec holds names, not weights.
    env = GenRewardWrapper(make(args.env), args.output / "goal.safetensors")
    agent = PPO("CnnPolicy", env, n_steps=256, verbose=1, seed=0)
    agent.learn(args.steps, log_interval=1)
    env.close()


if __name__ == "__main__":
    main()
