"""Recurrent PPO of sb3-contrib on states: its memory counts the time.

pip install sb3-contrib
python examples/sb3_recurrent.py --env metaworld/drawer-close
"""

from __future__ import annotations

import argparse

from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

from genreward_wrappers import TapFrames, make
from genreward_wrappers.sb3 import RewardLogger, VecVideoLevelReward


def main() -> None:
    """Trains on the goal video alone, and logs what each part of the reward pays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--goal", help="a goal bundle; the embedded one if not given")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--envs", type=int, default=4)
    parser.add_argument("--rollout", type=int, default=128, help="steps an environment")
    args = parser.parse_args()

    def single():
        # Drawn where the environment lives, for the reward alone.
        return TapFrames(
            make(
                args.env,
                obs="state",
                action_repeat=2,
                max_episode_steps=128,
                render_mode="rgb_array",
            )
        )

    venv = make_vec_env(single, n_envs=args.envs, seed=0)
    goal = args.goal or args.env
    # No observe="progress": the reward depends on the time, which its memory can count.
    venv = VecVideoLevelReward(venv, goal, encoder="pixels")
    agent = RecurrentPPO(
        "MlpLstmPolicy", venv, n_steps=args.rollout, verbose=1, seed=0, device="cpu"
    )
    agent.learn(args.steps, RewardLogger(), log_interval=1)
    venv.close()


if __name__ == "__main__":
    main()
