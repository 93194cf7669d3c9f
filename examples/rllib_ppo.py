"""PPO of RLlib with two env runners, which have a model each or share a served one.

pip install "genreward-wrappers[ray]"
python examples/rllib_ppo.py --env metaworld/drawer-close
python examples/rllib_ppo.py --env metaworld/drawer-close --share
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import gymnasium as gym
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

from genreward_wrappers import RewardModelWrapper, make
from genreward_wrappers.rewards.facts import Facts
from genreward_wrappers.rewards.served.deployment import deploy
from genreward_wrappers.rewards.spec import RewardSpec

HORIZON = 128


def make_env(env_id: str, reward: Any, _: Any = None) -> gym.Env[Any, Any]:
    """The environment as each runner makes it: states for the agent, pixels paid."""
    env = make(
        env_id,
        obs="state",
        action_repeat=2,
        max_episode_steps=HORIZON,
        render_mode="rgb_array",
    )
    return RewardModelWrapper(env, reward, frames="render", observe="progress")


def main() -> None:
    """Trains on the goal video alone, and prints what it paid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=2_048)
    parser.add_argument("--share", action="store_true")
    args = parser.parse_args()

    # Two cores for the runners: the learner is in this process.
    ray.init(num_cpus=2, include_dashboard=False)
    reward: Any = "video"
    if args.share:
        facts = Facts(args.env, HORIZON, goal=args.env)
        deploy(RewardSpec.parse(reward), facts, "goal", cpus=0)
        reward = "ray:goal"
    register_env("paid-by-a-goal", partial(make_env, args.env, reward))
    config = (
        PPOConfig()
        .environment("paid-by-a-goal", disable_env_checking=True)
        .env_runners(num_env_runners=2, num_cpus_per_env_runner=1)
        .learners(num_learners=0)
        .training(
            gamma=0.95,
            lr=3e-4,
            train_batch_size_per_learner=args.batch,
            minibatch_size=min(128, args.batch),
            num_epochs=8,
        )
        .debugging(seed=0, log_level="ERROR")
    )
    algorithm = config.build_algo()
    for step in range(args.batch, args.steps + 1, args.batch):
        found = algorithm.train()["env_runners"]
        paid = found.get("episode_return_mean", float("nan"))
        print(f"{step} steps: an episode is paid {paid:.1f}")
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
