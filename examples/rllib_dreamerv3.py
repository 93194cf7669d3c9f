"""DreamerV3 of RLlib, the learner of GenReward's paper, on pixels.

pip install "genreward-wrappers[ray]"
python examples/rllib_dreamerv3.py --env metaworld/drawer-close
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from ray.rllib.algorithms.dreamerv3 import DreamerV3Config
from ray.tune.registry import register_env

from genreward_wrappers import GenRewardWrapper, make


def make_env(env_id: str, _: Any) -> gym.Env[Any, Any]:
    """The environment as RLlib makes it: what is paid and seen are the same pixels."""
    env = GenRewardWrapper(make(env_id, action_repeat=2, max_episode_steps=128))
    # RLlib's DreamerV3 takes no uint8. Around the reward, which needs them as drawn.
    return gym.wrappers.TransformObservation(
        env,
        lambda frame: np.float32(frame) / 127.5 - 1,
        gym.spaces.Box(-1, 1, env.observation_space.shape, np.float32),
    )


def main() -> None:
    """Trains on the goal video alone, and prints what each episode was paid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--size", default="XS", help="nano to XL")
    parser.add_argument("--rows", type=int, default=16, help="sequences in a batch")
    parser.add_argument("--length", type=int, default=64, help="steps of a sequence")
    parser.add_argument("--ratio", type=int, default=512, help="steps learned a step")
    args = parser.parse_args()

    ray.init(include_dashboard=False)
    register_env("paid-by-a-goal", partial(make_env, args.env))
    config = (
        DreamerV3Config()
        .environment("paid-by-a-goal", disable_env_checking=True)
        .training(
            model_size=args.size,
            batch_size_B=args.rows,
            batch_length_T=args.length,
            training_ratio=args.ratio,
        )
        .debugging(seed=0, log_level="ERROR")
    )
    algorithm = config.build_algo()
    step = 0
    while step < args.steps:
        found = algorithm.train()["env_runners"]
        step = int(found["num_env_steps_sampled_lifetime"])
        if found.get("num_episodes"):
            paid = found["episode_return_mean"]
            print(f"{step} steps: an episode is paid {paid:.1f}", flush=True)
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
