"""Records goal videos and packs them, where there is somebody who solves the task.

    python scripts/models/record_goal.py metaworld/pick-place --output pick.safetensors
    python scripts/models/record_goal.py dmc/walker-walk --output w.safetensors

Meta-World's scripted policies act in its tasks, the planner in dm_control's. Of the
successful episodes the first K are kept. Meta-World says what a success is; in
dm_control it is a mean reward, over a whole episode, of the task's threshold here. The
seeds begin at 1,000,000, far from those of training and tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from prompts import PROMPTS

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.envs.policies import make_policy
from genreward_wrappers.goal_pipeline.pack import LENGTH, pack

FIRST_SEED = 1_000_000

SCRIPTED = "Meta-World's scripted policy, successful episodes"
PLANNED = "a planner with the simulator as its model, episodes of a mean reward of"

#: The mean reward, of at most 1, that an episode of dm_control's has to reach.
THRESHOLDS = {
    "dmc/cartpole-swingup": 0.75,
    "dmc/reacher-easy": 0.8,
    "dmc/walker-walk": 0.85,
}


def record(env_id: str, seed: int, length: int) -> tuple[np.ndarray, bool, float]:
    """One whole episode: its frames, whether it is a success, and its mean reward."""
    planned = env_id in THRESHOLDS
    env = gym.make(env_id, obs="dict")
    policy = make_policy("planned" if planned else "scripted", env, env_id, seed)
    observation, _ = env.reset(seed=seed)
    horizon = env.spec.max_episode_steps
    sampled = set(sample_steps(length, horizon))
    frames, success, total = [observation["pixels"]], False, 0.0
    for step in range(1, horizon + 1):
        observation, reward, _, _, info = env.step(policy(observation))
        success |= info.get("is_success", False)
        total += reward
        if step in sampled:
            frames.append(observation["pixels"])
    env.close()
    mean = total / horizon
    return np.stack(frames), mean >= THRESHOLDS[env_id] if planned else success, mean


def main() -> None:
    """Records and packs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("env", choices=sorted(PROMPTS))
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--length", type=int, default=LENGTH, help="frames of each")
    parser.add_argument("--encoder", default="embedded:video-vae-64")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    videos: list[np.ndarray] = []
    seed = FIRST_SEED
    while len(videos) < args.videos:
        video, success, mean = record(args.env, seed, args.length)
        print(f"seed {seed}: mean reward {mean:.3f}, {'' if success else 'not '}kept")
        if success:
            videos.append(video)
        seed += 1
    threshold = THRESHOLDS.get(args.env)
    env = gym.make(args.env)
    goal = pack(
        videos,
        env_id=args.env,
        camera=env.unwrapped.camera,
        prompt=PROMPTS[args.env],
        length=args.length,
        encoder=None if args.encoder == "none" else args.encoder,
        generator="recorded: "
        + (SCRIPTED if threshold is None else f"{PLANNED} {threshold} or more"),
        license="MIT",
    )
    env.close()
    made = {
        "step": "record",
        "script": "scripts/models/record_goal.py",
        "seeds": [FIRST_SEED, seed - 1],
    }
    goal = goal.with_(provenance=(made, *goal.provenance))
    goal.save(args.output)
    print(f"{args.output}: {goal!r}, {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
