"""Any pixel environment, with a video of one's own as the goal: CarRacing and an mp4.

python examples/any_pixel_env.py                     # films a goal first
python examples/any_pixel_env.py --video mine.mp4    # takes yours

Without ``--video`` a simple driver (follow the grey) is filmed on another track. The
encoder was trained on a robot's table, so ``--encoder pixels`` is worth comparing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

from genreward_wrappers import GenRewardWrapper
from genreward_wrappers.data.video_files import write_video
from genreward_wrappers.goal_pipeline.pack import pack

HORIZON = 200


def drive(observation: np.ndarray) -> np.ndarray:
    """Steers to where the road is, a little ahead of the car."""
    road = np.ptp(observation[45:60].astype(int), axis=-1) < 25
    columns = np.flatnonzero(road.any(0))
    middle = columns.mean() if len(columns) else 48
    return np.array([np.clip((middle - 48) / 20, -1, 1), 0.15, 0.0], np.float32)


def film(path: Path) -> None:
    """Writes an mp4 of the driver, on a track that no training seed will show."""
    env = gym.make("CarRacing-v3", max_episode_steps=HORIZON)
    observation, _ = env.reset(seed=1_000_000)
    frames = [observation]
    for _ in range(HORIZON):
        observation, *_ = env.step(drive(observation))
        frames.append(observation)
    env.close()
    write_video(path, np.stack(frames))


def main() -> None:
    """Packs the goal, and trains on the video-level reward alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="an mp4 of your own")
    parser.add_argument("--encoder", default="embedded:video-vae-64")
    parser.add_argument("--steps", type=int, default=50_000)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        video = args.video or Path(folder) / "goal.mp4"
        if args.video is None:
            film(video)
        goal = pack([video], env_id="CarRacing-v3", prompt="drive along the road")

    env = gym.make("CarRacing-v3", max_episode_steps=HORIZON)
    env = GenRewardWrapper(env, goal, frame_weight=0, encoder=args.encoder)
    agent = PPO("CnnPolicy", env, n_steps=256, verbose=1, seed=0)
    agent.learn(args.steps)
    env.close()


if __name__ == "__main__":
    main()
