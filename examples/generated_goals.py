"""Goals that are generated from the frame with which each episode begins.

python examples/generated_goals.py --episodes 4

In reach the target is somewhere else in every episode: no recorded goal shows where.
The generator that comes with the package continues the frame that the agent sees. Run
it again: the goals of the same first frames are there already. Any pipeline of
diffusers that continues a picture does, as --generator.
"""

from __future__ import annotations

import argparse

from genreward_wrappers import GeneratedGoals, VideoLevelReward, make
from genreward_wrappers.generators.episode_settings import EMBEDDED


def main() -> None:
    """Plays some episodes at random, and says what their goals cost and pay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/reach")
    parser.add_argument("--generator", default=EMBEDDED)
    parser.add_argument("--prompt", default="", help="default: the embedded goal's own")
    parser.add_argument("--denoising", type=int, default=None)
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=256, help="of each episode")
    args = parser.parse_args()

    goals = GeneratedGoals(args.generator, args.prompt, steps=args.denoising)
    env = VideoLevelReward(make(args.env), goals)
    env.action_space.seed(0)
    for episode in range(args.episodes):
        _, info = env.reset(seed=3_000_000 + episode)
        how = "was there" if info["goal_cached"] else "was made"
        total = sum(
            float(env.step(env.action_space.sample())[1]) for _ in range(args.steps)
        )
        print(
            f"episode {episode}: its goal {how} in {info['goal_seconds']:.2f} s, a "
            f"random policy earned {total:.1f} in {args.steps} steps"
        )
    env.close()


if __name__ == "__main__":
    main()
