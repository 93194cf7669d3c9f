"""``genreward serve``: one reward model for many processes and machines."""

from __future__ import annotations

import argparse
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from genreward_wrappers.cli.arguments import (
    Commands,
    add_command,
    add_count,
    add_shared,
    check_env,
    check_goal_or_video,
    check_least,
)
from genreward_wrappers.extras import require

if TYPE_CHECKING:
    from genreward_wrappers.rewards.spec import RewardSpec


def add_serve(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "serve",
        run_serve,
        "serve a reward to trainers on this or other machines",
        "Puts a reward on Ray Serve, where it is in memory once, and answers until "
        "Ctrl-C. Wrappers, trainers and data jobs in the same Ray cluster use it as "
        "the reward ray:<name>.",
        "--goal metaworld/coffee-button --name coffee",
    )
    command.add_argument(
        "--reward",
        default="genreward",
        metavar="REWARD",
        help="The reward, as `genreward evaluate` takes it.",
    )
    add_shared(
        command,
        "--goal",
        help="A goal bundle (a path or an hf:// address), a video, or the id of an "
        "environment that has an embedded goal; by default that of the environment.",
    )
    command.add_argument(
        "--name",
        default="reward",
        metavar="NAME",
        help="What clients call it: ray:NAME.",
    )
    add_shared(
        command,
        "--env",
        help="The environment whose time limit and actions the reward is for; by "
        "default the one that the goal is for.",
    )
    add_count(
        command,
        "--horizon",
        "Steps of an episode; the environment's time limit by default.",
    )
    add_count(command, "--replicas", "How many copies of the model answer.", default=1)
    add_count(
        command,
        "--batch",
        "How many clients' requests are scored side by side. With 1, rewards are "
        "those of a local model to the last bit; more is faster on a GPU.",
        default=1,
    )
    command.add_argument(
        "--address",
        metavar="ADDRESS",
        help="The Ray cluster to join; by default the one on this machine, which is "
        "started if there is none.",
    )
    add_shared(command, "--device")
    add_shared(command, "--dtype")


def run_serve(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C."""
    from genreward_wrappers.rewards.served.connection import find_cluster
    from genreward_wrappers.rewards.spec import RewardSpec

    check_least(args, replicas=1, batch=1, horizon=1)
    spec = RewardSpec.parse(args.reward)
    if args.env is not None:
        check_env(args.env)
    if args.goal is not None:
        check_goal_or_video(args.goal, args.env, [spec])
    ray = require("ray", "ray", "genreward serve needs Ray")
    started = find_cluster(args.address)
    try:
        from genreward_wrappers.rewards.served.deployment import deploy, withdraw

        facts = _facts(args, spec)
        gpus = _gpus(args.device, ray)
        card = deploy(
            spec,
            facts,
            args.name,
            replicas=args.replicas,
            batch=args.batch,
            gpus=gpus,
        )
        parts = ", ".join(part.name for part in card.parts)
        print(f"ray:{args.name} pays {parts} (stop with Ctrl-C)", flush=True)
        try:
            threading.Event().wait()
        finally:
            withdraw(args.name)
    finally:
        if started:
            require("ray.serve", "ray", "genreward serve needs Ray Serve").shutdown()
        ray.shutdown()
    return 0


def _facts(args: argparse.Namespace, spec: RewardSpec) -> Any:
    """What is known of the environments that the reward is for."""
    import gymnasium as gym

    from genreward_wrappers.generators.own_videos import load_or_pack
    from genreward_wrappers.rewards.facts import Facts
    from genreward_wrappers.rewards.spec import encoder_of_videos

    # The file is here, and perhaps not where the replicas are.
    goal = None
    if args.goal is not None:
        goal = load_or_pack(args.goal, args.env, encoder_of_videos([spec]))
    env_id = args.env or ("" if goal is None else goal.env_id)
    facts = Facts(
        env_id or None,
        args.horizon,
        device=args.device,
        dtype=args.dtype,
        goal=goal,
    )
    if env_id not in gym.registry:
        return facts
    env = gym.make(env_id)
    env.close()
    return replace(
        facts,
        horizon=args.horizon or gym.spec(env_id).max_episode_steps,
        camera=env.metadata.get("camera"),
        action_space=env.action_space,
    )


def _gpus(device: str, ray: Any) -> float:
    """GPUs of a replica: Ray hides those that it was not asked for."""
    there = ray.cluster_resources().get("GPU", 0)
    if device.startswith("cuda") and not there:
        raise ValueError(f"--device {device}: the Ray cluster has no GPU")
    return 1 if there and device != "cpu" else 0
