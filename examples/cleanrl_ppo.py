"""PPO on states in one file, as CleanRL's are, which takes its task by id alone.

python examples/cleanrl_ppo.py --env-id genreward-state/drawer-close-v0
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn
from torch.distributions import Independent, Normal

import genreward_wrappers  # noqa: F401 (registers the ids)


def network(inputs: int, outputs: int) -> nn.Sequential:
    body = [nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*body, nn.Linear(64, outputs))


def main() -> None:
    """Trains on what the environment pays, and prints the return of each episode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env-id", default="genreward-state/drawer-close-v0")
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    parser.add_argument("--num-steps", type=int, default=1024)
    args = parser.parse_args()

    torch.manual_seed(0)
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(args.env_id))
    env = gym.wrappers.NormalizeObservation(gym.wrappers.ClipAction(env))
    # The step that ends an episode begins the next one, as it did in Gymnasium 0.29.
    envs = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
    obs, _ = envs.reset(seed=0)
    actor = network(obs.shape[1], 2 * envs.single_action_space.shape[0])
    critic = network(obs.shape[1], 1)
    optimiser = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-4)

    def policy(seen: torch.Tensor) -> Independent:
        mean, log_std = actor(seen).chunk(2, dim=1)
        return Independent(Normal(mean, log_std.exp()), 1)

    for begun in range(0, args.total_timesteps, args.num_steps):
        steps = []
        for step in range(begun + 1, begun + args.num_steps + 1):
            action = policy(torch.as_tensor(obs).float()).sample()
            after, reward, ended, _, infos = envs.step(action.numpy())
            last = after
            if over := "final_info" in infos:
                last = np.stack(infos["final_obs"])
                print(f"step {step}: return", *infos["final_info"]["episode"]["r"])
            steps.append((obs, action, reward, last, ~ended, [not over]))
            obs = after
        columns = map(np.concatenate, zip(*steps, strict=True))
        seen, action, reward, last, alive, same = (
            torch.as_tensor(column).float() for column in columns
        )
        with torch.no_grad():
            before, value = policy(seen).log_prob(action), critic(seen)[:, 0]
            better = reward + 0.95 * alive * critic(last)[:, 0] - value
            for t in reversed(range(args.num_steps - 1)):
                better[t] += 0.95 * 0.95 * same[t] * better[t + 1]
        gain = (better - better.mean()) / better.std()
        for rows in torch.cat([torch.randperm(len(seen)) for _ in range(10)]).split(64):
            ratio = (policy(seen[rows]).log_prob(action[rows]) - before[rows]).exp()
            paid = torch.minimum(ratio * gain[rows], ratio.clamp(0.8, 1.2) * gain[rows])
            miss = critic(seen[rows])[:, 0] - (value + better)[rows]
            optimiser.zero_grad()
            (miss.square() - paid).mean().backward()
            optimiser.step()
    envs.close()


if __name__ == "__main__":
    main()
