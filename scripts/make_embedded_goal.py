"""Records the goal videos of an embedded Meta-World goal and packs them.

    python scripts/make_embedded_goal.py pick-place

The scripted policy acts; of its successful episodes the first K are kept. The seeds
begin at 1,000,000, far from those of training and tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers.envs.metaworld import scripted_policy
from genreward_wrappers.frames import sample_steps
from genreward_wrappers.goal_pipeline.pack import LENGTH, pack

ASSETS = Path(__file__).parents[1] / "src/genreward_wrappers/assets/goals"
FIRST_SEED = 1_000_000

PROMPTS = {
    "pick-place": "a robot arm picks up the red puck and moves it to the goal",
    "drawer-close": "a robot arm pushes the drawer shut",
    "handle-press": "a robot arm presses the handle down",
    "coffee-button": "a robot arm pushes the button of the coffee machine",
    "reach": "a robot arm reaches the goal",
}


def record(task: str, seed: int) -> tuple[np.ndarray, bool]:
    """One scripted episode: its LENGTH frames, and whether it succeeded."""
    env = gym.make(f"metaworld/{task}", obs="dict")
    policy = scripted_policy(task)
    observation, _ = env.reset(seed=seed)
    horizon = env.spec.max_episode_steps
    sampled = set(sample_steps(LENGTH, horizon))
    frames, success = [observation["pixels"]], False
    for step in range(1, horizon + 1):
        action = policy(observation["state"])
        observation, _, _, _, info = env.step(action)
        success |= info["is_success"]
        if step in sampled:
            frames.append(observation["pixels"])
    env.close()
    return np.stack(frames), success


def main() -> None:
    """Records and packs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(PROMPTS))
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--encoder", default="embedded:video-vae-64")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    videos: list[np.ndarray] = []
    seed = FIRST_SEED
    while len(videos) < args.videos:
        video, success = record(args.task, seed)
        if success:
            videos.append(video)
        seed += 1
    goal = pack(
        videos,
        env_id=f"metaworld/{args.task}",
        camera="corner2",
        prompt=PROMPTS[args.task],
        encoder=None if args.encoder == "none" else args.encoder,
        generator="recorded: Meta-World's scripted policy, successful episodes",
        license="MIT",
    )
    made = {
        "step": "record",
        "script": "scripts/make_embedded_goal.py",
        "seeds": [FIRST_SEED, seed - 1],
    }
    goal = goal.with_(provenance=(made, *goal.provenance))
    path = args.output or ASSETS / f"metaworld--{args.task}.safetensors"
    goal.save(path)
    print(f"{path}: {goal!r}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
