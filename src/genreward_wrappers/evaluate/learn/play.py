"""One episode of a learning run's agent, without exploration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.learn.checkpoint import restore_agent
from genreward_wrappers.evaluate.learn.episodes import Episodes, make_env
from genreward_wrappers.evaluate.learn.runs import Run
from genreward_wrappers.evaluate.learn.train import checkpoint_of


def play(run: Run, folder: Path, device: str = "auto") -> Episode:
    """Plays one more episode with the agent of a run as it is now.

    Args:
        run: The run, whose reward has to look at pictures.
        folder: The folder of its checkpoint.
        device: The device of the reward's models.

    Raises:
        FileError: There is no checkpoint of this run, or it is damaged.
    """
    env = Episodes(make_env(run, device=device), run.seed)
    try:
        agent = run.learner.make(env, run.seed, 100_000)
        env.success = list(restore_agent(agent, checkpoint_of(run, folder))["success"])
        number = len(env.success)
        observation, info = env.reset()
        frames: list[Any] = [env.render()]
        actions, success = [], []
        rewards: dict[str, list[float]] = {}
        while len(env.success) == number:
            action, _ = agent.predict(observation, deterministic=True)
            observation, _, terminated, _, now = env.step(action)
            frames.append(env.render())
            actions.append(action)
            success.append(bool(now["is_success"]))
            for key, value in now.items():
                name = key.removeprefix("reward_")
                if f"{key}_due" in now or name == "env":
                    due = now.get(f"{key}_due", True)
                    rewards.setdefault(name, []).append(value if due else np.nan)
    finally:
        env.close()
    return Episode(
        frames=np.stack(frames),
        frame_steps=np.arange(len(frames)),
        actions=np.stack(actions),
        success=np.array(success),
        rewards={name: np.array(paid, np.float32) for name, paid in rewards.items()},
        terminated=terminated,
        info={
            "env_id": run.env_id,
            "policy": f"trained on {run.reward}",
            "episode": number,
            **({"goal": int(info["goal_index"])} if "goal_index" in info else {}),
        },
    )
