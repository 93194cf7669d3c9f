"""Two cameras: a goal video for each, and a reward that looks through both.

python examples/two_cameras.py                              # films a goal first
genreward pack front=a.mp4 wrist=b.mp4 --output goal.safetensors
python examples/two_cameras.py --goal goal.safetensors      # takes your videos
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO

from genreward_wrappers import GoalBundle, VideoLevelReward, make
from genreward_wrappers.envs.metaworld import scripted_policy
from genreward_wrappers.goal_pipeline.pack import pack_views

TASK, HORIZON = "drawer-close", 128
CAMERAS = {"front": "corner2", "wrist": "gripperPOV"}


class TwoCameras(gym.Env[Any, Any]):
    """One scene through two cameras: two simulations that are always told the same."""

    def __init__(self) -> None:
        self.envs = {
            view: make(f"metaworld/{TASK}", obs="dict", camera=camera)
            for view, camera in CAMERAS.items()
        }
        one = self.envs["front"].observation_space
        pictures = dict.fromkeys(CAMERAS, one["pixels"])
        self.observation_space = spaces.Dict(state=one["state"], **pictures)
        self.action_space = self.envs["front"].action_space

    def _seen(self, found: dict[str, Any]) -> dict[str, Any]:
        pictures = {view: each[0]["pixels"] for view, each in found.items()}
        return {"state": found["front"][0]["state"], **pictures}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        same = int(self.np_random.integers(2**31))
        found = {view: env.reset(seed=same) for view, env in self.envs.items()}
        return self._seen(found), found["front"][1]

    def step(self, action: np.ndarray) -> Any:
        found = {view: env.step(action) for view, env in self.envs.items()}
        return self._seen(found), *found["front"][1:]


def film(env: gym.Env[Any, Any]) -> GoalBundle:
    """A goal of what both cameras see of a hand-written policy."""
    act, (seen, _) = scripted_policy(TASK), env.reset(seed=1_000_000)
    films = {view: [seen[view]] for view in CAMERAS}
    for _ in range(HORIZON):
        seen, *_ = env.step(act(seen["state"]))
        for view, frames in films.items():
            frames.append(seen[view])
    return pack_views({view: [np.stack(frames)] for view, frames in films.items()})


def main() -> None:
    """Trains on the goal alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goal", help="a bundle with the views front and wrist")
    parser.add_argument("--encoder", default="embedded:video-vae-64")
    parser.add_argument("--steps", type=int, default=50_000)
    args = parser.parse_args()
    env = gym.wrappers.TimeLimit(TwoCameras(), HORIZON)
    goal, frames = args.goal or film(env), {view: f"obs:{view}" for view in CAMERAS}
    env = VideoLevelReward(env, goal, frames=frames, encoder=args.encoder)
    PPO("MultiInputPolicy", env, n_steps=256, verbose=1, seed=0).learn(args.steps)


if __name__ == "__main__":
    main()
