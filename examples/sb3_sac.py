"""SAC on states; pixels are rendered for the reward only, and nothing else rewards it.

python examples/sb3_sac.py --env metaworld/drawer-close --goal drawer.safetensors
python examples/sb3_sac.py --agent sbx:CrossQ    # the same of SBX, in JAX
"""

from __future__ import annotations

import argparse
from importlib import import_module

from genreward_wrappers import VideoLevelReward, make


def main() -> None:
    """Trains on the goal video alone, and prints the success rate along the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--goal", help="a goal bundle; the embedded one if not given")
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--agent", default="stable_baselines3:SAC")
    args = parser.parse_args()

    # Two physics steps an action: half the decisions for the same task.
    env = make(
        args.env,
        obs="state",
        action_repeat=2,
        max_episode_steps=128,
        render_mode="rgb_array",
    )
    # The reward depends on the time, so the agent gets to see it.
    env = VideoLevelReward(env, args.goal, frames="render", observe="progress")
    module, _, name = args.agent.partition(":")
    kind = getattr(import_module(module), name)
    agent = kind("MlpPolicy", env, learning_starts=200, verbose=1, seed=0)
    agent.learn(args.steps, log_interval=2)
    env.close()


if __name__ == "__main__":
    main()
