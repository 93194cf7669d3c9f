"""Records episodes and the parts of their reward with Minari, and scores them anew.

pip install "minari[hdf5]"
python examples/minari_dataset.py --env metaworld/reach --dataset reach/random-v0
"""

from __future__ import annotations

import argparse

import minari
import numpy as np

from genreward_wrappers import VideoLevelReward, make
from genreward_wrappers.relabel import from_minari, score


def main() -> None:
    """Plays at random, and holds what was paid online against what recordings earn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--dataset", default="genreward/random-v0")
    parser.add_argument("--episodes", type=int, default=10)
    args = parser.parse_args()

    env = make(args.env, action_repeat=2, max_episode_steps=128)
    env = VideoLevelReward(env, encoder="pixels")
    # JPEG, Minari's default, would change what is scored later.
    env = minari.DataCollector(env, record_infos=True, jpeg_encoding=False)
    for episode in range(args.episodes):
        env.reset(seed=episode)
        over = False
        while not over:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
    dataset = env.create_dataset(args.dataset)
    env.close()

    # Minari knows the environment's time limit, which is the reward's horizon.
    again = score(from_minari(dataset), "video:encoder=pixels", goal=args.env)
    for episode, scored in zip(dataset.iterate_episodes(), again, strict=True):
        # The first row of infos is that of the reset.
        paid = np.float32(episode.infos["reward_video"][1:])
        same = np.array_equal(paid, scored.rewards)
        print(f"episode {episode.id}: paid {paid.sum():.1f}, the same again: {same}")


if __name__ == "__main__":
    main()
