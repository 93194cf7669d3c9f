"""Which part fails? Agents that are paid for the pose itself, not for a picture of it.

    python -m benchmarks.known_poses --task pick-out-of-hole
    python -m benchmarks.known_poses --task pick-out-of-hole --reader embedded:pose-64

`tracking` on the simulator's own numbers: a reward with perfect eyes. The goal is the
scripted policy's own motion in the very episode, or what a pose reader reads from the
video that a generator makes of the episode's first frame. If an agent learns from both,
what is left to fail is how well the reader sees the agent; if only from the first, it
is the video; if from neither, the learner. Nothing is drawn, so that a run takes
minutes. One line of JSON goes to the results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import genreward_wrappers  # noqa: F401  the environments
from genreward_wrappers.envs.policies import make_policy
from genreward_wrappers.evaluate.learn.episodes import FIRST_SEED, Episodes, make_env
from genreward_wrappers.evaluate.learn.learner import Learner
from genreward_wrappers.evaluate.learn.runs import HORIZON, REPEAT, Run

RESULTS = Path(__file__).parent / "results/known_poses.jsonl"
#: The hand's place and the gripper, in the reader's units.
POSE = slice(0, 4)
#: The object's height in Meta-World's states, and what counts as lifted, in metres.
HEIGHT, LIFTED = 6, 0.04
#: Success is averaged over so many episodes.
WINDOW = 20

Poses = NDArray[np.float64]


def states_env(env_id: str) -> gym.Env[Any, Any]:
    """The task of the learning runs, with the states and pictures of its episodes."""
    return gym.make(
        env_id,
        obs="state",
        render_mode="rgb_array",
        size=64,
        action_repeat=REPEAT,
        max_episode_steps=HORIZON,
    )


def of_the_script(env_id: str, episodes: int) -> Poses:
    """(episodes, T + 1, 4) the script's poses in the first episodes of a run."""
    env = states_env(env_id)
    paths = []
    for seed in range(FIRST_SEED, FIRST_SEED + episodes):
        state, _ = env.reset(seed=seed)
        policy = make_policy("scripted", env, env_id, seed)
        path = [state[POSE]]
        for _ in range(HORIZON):
            state, *_ = env.step(policy(state))
            path.append(state[POSE])
        paths.append(path)
    return np.array(paths)


def of_the_video(env_id: str, episodes: int, reader: str, generator: str) -> Poses:
    """The poses that are read from generated goals of the same episodes."""
    from genreward_wrappers.encoders.pose import PoseReader
    from genreward_wrappers.encoders.registry import load_encoder
    from genreward_wrappers.generators.episode_settings import GeneratedGoals

    encoder = load_encoder(reader)
    if not isinstance(encoder, PoseReader):
        raise SystemExit(f"--reader {reader}: expected a pose reader")
    env = states_env(env_id)
    maker = GeneratedGoals(generator=generator, steps=1).maker(env_id)
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + episodes):
        env.reset(seed=seed)
        (made,) = maker(np.asarray(env.render())[None])
        read = encoder.read(made.videos[0]).double().cpu().numpy()
        # Between two frames of a goal the reward interpolates, and so does this.
        share = np.linspace(0, len(read) - 1, HORIZON + 1)
        columns = (np.interp(share, np.arange(len(read)), c) for c in read.T)
        found.append(np.column_stack(list(columns)))
    return np.array(found)


class Tracked(Episodes):
    """The episodes of a run, paid by how near the pose is to the goal's."""

    def __init__(self, env: gym.Env[Any, Any], goals: Poses, unit: Poses) -> None:
        super().__init__(env, 0)
        self.goals, self.unit = goals / unit, unit
        change = self.goals - self.goals[:, :1]
        # As `similarity.calibrate`: what stands still earns exp(-1) on average.
        self.sharpness = 1 / np.sqrt(np.square(change).mean(-1)).mean()
        self.lifted: list[bool] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """The next of the episodes whose goals are known."""
        self._now, self._earned, self._step = False, 0.0, 0
        number = len(self.success) % len(self.goals)
        self._goal = self.goals[number]
        state, info = self.env.reset(seed=FIRST_SEED + number, options=options)
        self._ground, self._high = state[HEIGHT], 0.0
        return state, info

    def step(self, action: Any) -> Any:
        """Pays `tracking` and notes how high the object was."""
        state, _, terminated, truncated, info = self.env.step(action)
        self._step += 1
        apart = state[POSE] / self.unit - self._goal[self._step]
        reward = float(np.exp(-self.sharpness * np.sqrt(np.square(apart).mean())))
        self._now |= bool(info["is_success"])
        self._earned += reward
        self._high = max(self._high, state[HEIGHT] - self._ground)
        if terminated or truncated:
            self.success.append(self._now)
            self.returns.append(self._earned)
            self.lifted.append(self._high > LIFTED)
        return state, reward, terminated, truncated, info


def means(values: list[Any]) -> list[float]:
    """The mean of every whole window of episodes."""
    ends = range(WINDOW, len(values) + 1, WINDOW)
    return [round(float(np.mean(values[end - WINDOW : end])), 2) for end in ends]


def main() -> None:
    """Trains one agent and writes its line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--task", required=True)
    parser.add_argument(
        "--reader", help="a pose reader; the script's own poses if none"
    )
    parser.add_argument("--generator", default="embedded:goal-generator-64")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--unit", type=float, nargs=4, default=[0.118] * 3 + [0.264])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    env_id = f"metaworld/{args.task}"
    goals = (
        of_the_video(env_id, args.episodes, args.reader, args.generator)
        if args.reader
        else of_the_script(env_id, args.episodes)
    )
    env = Tracked(
        make_env(Run(env_id, "env", args.seed)), goals, np.array(args.unit, float)
    )
    Learner().make(env, args.seed, args.steps).learn(args.steps)
    line = {
        "task": args.task,
        "goal": f"{args.generator}, {args.reader}" if args.reader else "script",
        "seed": args.seed,
        "episodes": args.episodes,
        "decisions": args.steps,
        "every": WINDOW * HORIZON,
        "success": means(env.success),
        "return": means(env.returns),
        "lifted": means(env.lifted),
    }
    with args.results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
