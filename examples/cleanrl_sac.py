"""SAC on states in one file, as CleanRL's are, which takes its task by id alone.

python examples/cleanrl_sac.py --env-id genreward-state/drawer-close-v0
"""

from __future__ import annotations

import argparse
from copy import deepcopy

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, cat, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import genreward_wrappers  # noqa: F401 (registers the ids)


def network(inputs: int, outputs: int) -> nn.Sequential:
    body = [nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*body, nn.Linear(256, outputs))


def main() -> None:
    """Trains on what the environment pays, and prints the return of each episode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env-id", default="genreward-state/drawer-close-v0")
    parser.add_argument("--total-timesteps", type=int, default=30_000)
    args = parser.parse_args()

    torch.manual_seed(0)
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(args.env_id))
    # The step that ends an episode begins the next one, as it did in Gymnasium 0.29.
    envs = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
    obs, _ = envs.reset(seed=0)
    sees, moves = obs.shape[1], envs.single_action_space.shape[0]
    actor, log_alpha = network(sees, 2 * moves), nn.Parameter(torch.zeros(()))
    critic = network(sees + moves, 2)  # two opinions, of which the lower one counts
    slow = deepcopy(critic).requires_grad_(False)
    learned = [*actor.parameters(), *critic.parameters(), log_alpha]
    optimiser = torch.optim.Adam(learned, lr=1e-3)

    def act(seen: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor(seen).chunk(2, dim=1)
        normal = Normal(mean, log_std.clamp(-5, 2).exp())
        policy = TransformedDistribution(normal, TanhTransform(cache_size=1))
        action = policy.rsample()
        return action, policy.log_prob(action).sum(1)

    memory = torch.zeros(args.total_timesteps, 2 * sees + moves + 2)
    for step in range(1, args.total_timesteps + 1):
        action = act(torch.as_tensor(obs).float())[0].detach().numpy()
        after, reward, ended, _, infos = envs.step(action)
        last = infos.get("final_obs", after)
        if "final_info" in infos:
            print(f"step {step}: return", *infos["final_info"]["episode"]["r"])
        row = torch.as_tensor(np.hstack([*obs, *action, *last, reward, ended]))
        memory[step - 1], obs = row, after
        rows = memory[torch.randint(step, (256,))]
        seen, action, last, other = rows.split([sees, moves, sees, 2], 1)
        with torch.no_grad():
            then, log_prob, alpha = *act(last), log_alpha.exp()
            ahead = slow(cat([last, then], 1)).amin(1) - alpha * log_prob
            target = other[:, 0] + 0.95 * (1 - other[:, 1]) * ahead
        miss = (critic(cat([seen, action], 1)) - target[:, None]).square().sum(1)
        now, log_prob = act(seen)
        # The slow critic judges the actor too, so that one loss trains everything.
        gain = slow(cat([seen, now], 1)).amin(1) - alpha * log_prob
        optimiser.zero_grad()
        (miss - gain + log_alpha * (moves - log_prob.detach())).mean().backward()
        optimiser.step()
        for old, new in zip(slow.parameters(), critic.parameters(), strict=True):
            old.lerp_(new.detach(), 0.005)
    envs.close()


if __name__ == "__main__":
    main()
