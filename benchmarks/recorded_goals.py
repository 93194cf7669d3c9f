"""Goals of recorded successes, to tell a poor goal from a poor reward.

    python -m benchmarks.recorded_goals door-open --output runs/goals/door-open
    python -m benchmarks.learning --task door-open \
        --goal runs/goals/door-open/recorded.safetensors

The same bundle as the embedded one, but for its videos: as many of as many frames, of
the scripted policy in the environment itself, over the time of a learning run's
episode. What is not learned from these was not lost by the generator.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from genreward_wrappers import load_goal
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.learn.runs import HORIZON, REPEAT
from genreward_wrappers.goal_pipeline.collect import collect

#: Episodes that are played for each video: the scripted policy fails now and then.
PATIENCE = 2


def record(task: str, output: Path) -> Path:
    """Plays successes of a task: the path of their bundle.

    Args:
        task: Of Meta-World.
        output: The folder of the bundle, and of the episodes.
    """
    goal = load_goal(f"metaworld/{task}")
    count, frames = goal.videos.shape[:2]
    found = []
    look = {"action_repeat": REPEAT, "camera": goal.camera, "size": 64}
    paths = collect(
        f"metaworld/{task}",
        output / "episodes",
        policy="scripted",
        episodes=PATIENCE * count,
        steps=HORIZON,
        frames=frames,
        options={**look, "max_episode_steps": HORIZON},
    )
    for episode in map(Episode.load, paths):
        if episode.success.any() and len(found) < count:
            found.append(episode.frames)
    if len(found) < count:
        raise ValueError(f"{task}: {len(found)} of {len(paths)} episodes succeed")
    path = output / "recorded.safetensors"
    # The nets and the key frames belong to the videos that were there.
    goal.with_(videos=np.stack(found), key_frames=()).save(path)
    return path


def main() -> None:
    """Records one task's goals."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    print(record(args.task, args.output))


if __name__ == "__main__":
    main()
