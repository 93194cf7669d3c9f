"""Stops a run in mid-episode, and resumes it as if it had never been stopped.

python examples/resume.py --agent sac    # the second time it resumes

Two runs print the rewards of one run of twice as many steps.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from genreward_wrappers import GoalBundle, TapFrames
from genreward_wrappers.sb3 import VecVideoLevelReward
from genreward_wrappers.testing import PointMass

AGENTS = {"ppo": (PPO, {"n_steps": 64}), "sac": (SAC, {"buffer_size": 1000})}


def make_env() -> TapFrames:
    """The agent acts on the state, and the reward looks at small pictures."""
    return TapFrames(PointMass(32, obs="state", render_mode="rgb_array"), size=32)


def make_goal() -> GoalBundle:
    """A disc that moves straight to its target."""
    env = PointMass(32)
    first, _ = env.reset(options={"position": (-0.8, -0.8), "target": (0.8, 0.8)})
    frames = [first, *(env.step((0.5, 0.5))[0] for _ in range(32))]
    return GoalBundle(np.stack(frames)[None])


def main() -> None:
    """Trains or resumes, and saves everything that a later run depends on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", choices=AGENTS, default="ppo")
    parser.add_argument("--steps", type=int, default=256, help="a multiple of 128")
    args = parser.parse_args()
    kind, options = AGENTS[args.agent]
    state = Path("state.safetensors")
    venv = DummyVecEnv([make_env] * 2)
    envs = [env.unwrapped for env in venv.envs]
    venv = VecVideoLevelReward(venv, make_goal(), encoder="pixels", horizon=50)

    if state.exists():
        venv.reset()
        saved = venv.load_state(state)
        # Without force_reset=False, training would begin with new episodes.
        agent = kind.load("agent", venv, force_reset=False)
        for env, place, random in zip(envs, saved["envs"], saved["rngs"], strict=True):
            env.position, env.target, env._step = place
            env.np_random.bit_generator.state = random
        # Last, since making an agent seeds all of these.
        agent.action_space.np_random.bit_generator.state = saved["actions"]
        np.random.set_state(saved["numpy"])  # noqa: NPY002
        torch.set_rng_state(saved["torch"])
    else:
        agent = kind("MlpPolicy", venv, seed=0, **options)

    agent.learn(
        args.steps, lambda now, _: not print(now["rewards"]), reset_num_timesteps=False
    )
    agent.save("agent", include=["replay_buffer"])
    saved = {
        "envs": [(env.position, env.target, env._step) for env in envs],
        "rngs": [env.np_random.bit_generator.state for env in envs],
        "actions": agent.action_space.np_random.bit_generator.state,
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    }
    venv.save_state(state, saved)


if __name__ == "__main__":
    main()
