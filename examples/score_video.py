"""Scores videos with a reward: no environment and no agent.

    python examples/score_video.py mine.mp4 --goal metaworld/pick-place

Without a video of your own it scores one that follows the goal, one that stops
half-way, and one that runs backwards. ``genreward score`` does the same and more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from genreward_wrappers import load_goal
from genreward_wrappers.data.video_files import write_video
from genreward_wrappers.relabel import find_recordings, score


def make_videos(goal, folder):
    """Three videos of the goal's task, good and bad."""
    video = goal.videos[0]
    half = len(video) // 2
    films = {
        "follows": video,
        "stops": np.concatenate([video[:half], video[half - 1 : half].repeat(half, 0)]),
        "backwards": video[::-1],
    }
    for name, frames in films.items():
        write_video(folder / f"{name}.mp4", frames, fps=10)
    return [folder / f"{name}.mp4" for name in films]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--goal", default="metaworld/pick-place")
    parser.add_argument("--reward", default="video")
    args = parser.parse_args()

    goal = load_goal(args.goal)
    videos = args.videos or make_videos(goal, Path())
    recordings = [one for video in videos for one in find_recordings(video)]
    for recording, paid in zip(
        recordings, score(recordings, args.reward, goal=goal), strict=True
    ):
        rewards = paid.rewards[paid.due]
        quarters = [part.mean() for part in np.array_split(rewards, 4)]
        said = "  ".join(f"{value:6.3f}" for value in quarters)
        print(f"{Path(recording.name).name:20}{said}   mean {rewards.mean():.3f}")


if __name__ == "__main__":
    main()
