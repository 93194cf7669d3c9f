"""PPO of TorchRL on states, with each part of the reward in the TensorDict.

pip install torchrl
python examples/torchrl_ppo.py --env metaworld/drawer-close
"""

from __future__ import annotations

import argparse

import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.envs import DoubleToFloat, GymWrapper, TransformedEnv
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from genreward_wrappers import VideoLevelReward, make


def main() -> None:
    """Trains on the goal video alone, and prints what it paid and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--episodes", type=int, default=400)
    args = parser.parse_args()

    torch.manual_seed(0)
    env = make(
        args.env,
        obs="state",
        action_repeat=2,
        max_episode_steps=128,
        render_mode="rgb_array",
    )
    env = VideoLevelReward(env, encoder="pixels", frames="render", observe="progress")
    # Whatever is in info, `reward_video` and `is_success` among it, goes along.
    env = GymWrapper(env).auto_register_info_dict()
    env = TransformedEnv(env, DoubleToFloat(in_keys=["observation"]))
    env.set_seed(0)

    (numbers,) = env.observation_spec["observation"].shape
    (moves,) = env.action_spec.shape
    kind = {"num_cells": [256, 256], "activation_class": nn.Tanh}
    body = nn.Sequential(MLP(numbers, 2 * moves, **kind), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(body, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    critic = ValueOperator(MLP(numbers, 1, **kind), ["observation"])
    advantage = GAE(gamma=0.95, lmbda=0.95, value_network=critic)
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=1e-3)
    optimiser = torch.optim.Adam(loss_of.parameters(), lr=3e-4)

    for episode in range(args.episodes):
        with torch.no_grad():
            data = env.rollout(128, actor)
        for _ in range(10):
            advantage(data)
            for batch in data[torch.randperm(len(data))].split(64):
                losses = loss_of(batch)
                loss = sum(v for k, v in losses.items() if k.startswith("loss_"))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        paid = data["next", "reward_video"].sum()
        solved = bool(data["next", "is_success"].any())
        print(f"episode {episode}: reward_video {paid:.1f}, success {solved}")
    env.close()


if __name__ == "__main__":
    main()
