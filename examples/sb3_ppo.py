"""PPO from pixels: four environments, one reward model outside them.

python examples/sb3_ppo.py --steps 100000
"""

from __future__ import annotations

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

import genreward_wrappers  # noqa: F401  (registers metaworld/...)
from genreward_wrappers.sb3 import VecGenReward


def main() -> None:
    """Trains, and says what the last episodes earned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--steps", type=int, default=100_000)
    args = parser.parse_args()

    venv = make_vec_env(args.env, n_envs=4, seed=0)
    venv = VecGenReward(venv, frame_weight=0)
    # Outside, so that it logs the reward that is trained on.
    venv = VecMonitor(venv, info_keywords=("is_success",))
    agent = PPO("CnnPolicy", venv, n_steps=128, batch_size=128, verbose=1, seed=0)
    agent.learn(args.steps)
    venv.close()


if __name__ == "__main__":
    main()
