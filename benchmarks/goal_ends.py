"""How near to the target do a goal's last pictures lead? The diagnosis of `reach`.

    python -m benchmarks.goal_ends
    python -m benchmarks.goal_ends --generator runs/generator/trained --seeds 40

The hand is put at many places of an episode, half of them about its target, and a
picture is taken of each. The place whose picture is most like the end of a goal, by
what `tracking` calls alike, is where a perfect optimiser of that end would go: how far
from the target is that? Meta-World calls 5 cm a success. Compared are the nearest of
the bundle's goals, goals generated from the episode's own first frame, and the film of
the scripted policy in this very episode, which no goal can surpass.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.data.goals import load_goal
from genreward_wrappers.encoders.base import VideoEncoder
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.envs.policies import make_policy
from genreward_wrappers.generators.episode_settings import (
    EMBEDDED,
    STEPS,
    GeneratedGoals,
)

ENV = "metaworld/reach"
#: Of the first episode; neither goals nor training data begin here.
FIRST = 2_000_000
#: Frames of a goal, as many as the generator makes; and what counts as there, metres.
FRAMES, NEAR = 17, 0.05


@dataclass(frozen=True)
class Places:
    """The pictures of one episode.

    Attributes:
        film: (T, H, W, 3) of the scripted policy.
        pictures: (M, H, W, 3) of the hand at M places.
        distances: (M,) of those places from the target, in metres.
    """

    film: UInt8
    pictures: UInt8
    distances: NDArray[np.float64]


def photograph(env: gym.Env, seed: int, count: int) -> Places:
    """Plays one episode by the script, and once more from place to place."""
    script = make_policy("scripted", env, ENV, seed)
    seen, _ = env.reset(seed=seed)
    film = [env.render()]
    for _ in range(256):
        seen, *_ = env.step(script(seen))
        film.append(env.render())
    seen, _ = env.reset(seed=seed)
    target, rng = seen[-3:].copy(), np.random.default_rng(seed)
    pictures, distances = [], []
    for index in range(count):
        place = target + rng.normal(0, NEAR, 3)
        if index % 2:
            place = rng.uniform([-0.2, 0.6, 0.05], [0.2, 0.95, 0.35])
        for _ in range(40):
            way = np.clip(10 * (place - seen[:3]), -1, 1)
            seen, *_ = env.step(np.append(way, -1).astype(np.float32))
        pictures.append(env.render())
        distances.append(float(np.linalg.norm(seen[:3] - target)))
    return Places(
        np.stack(film)[evenly(FRAMES, 256)], np.stack(pictures), np.array(distances)
    )


def led_to(encoder: VideoEncoder, goals: UInt8, places: Places) -> float:
    """How far from the target the place is that is most like the ends of K goals."""

    def change(pictures: UInt8, first: UInt8) -> torch.Tensor:
        read = encoder.encode_images(np.concatenate([first, pictures])).flatten(1)
        return read[len(first) :] - read[: len(first)]

    ends = change(goals[:, -1], goals[:, 0])
    agent = change(places.pictures, places.film[:1])
    apart = (agent[:, None] - ends).square().mean(-1).sqrt().mean(1)
    return float(places.distances[int(apart.argmin())])


def main() -> None:
    """Prints one line a kind of goal and encoder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=40, help="episodes")
    parser.add_argument("--places", type=int, default=80, help="in each of them")
    parser.add_argument("--generator", default=EMBEDDED)
    parser.add_argument("--videos", type=int, default=1, help="of each first frame")
    parser.add_argument("--steps", type=int, default=STEPS, help="of denoising")
    args = parser.parse_args()
    torch.set_num_threads(1)
    env = gym.make(
        f"genreward_wrappers:{ENV}",
        obs="state",
        render_mode="rgb_array",
        max_episode_steps=args.places * 40 + 257,
    )
    episodes = [
        photograph(env, FIRST + index, args.places) for index in range(args.seeds)
    ]
    first = np.stack([places.film[0] for places in episodes])
    bundle, pixels = load_goal(ENV), PooledPixels(device="cpu")
    looks = [pixels.encode_images(x).flatten(1) for x in (first, bundle.videos[:, 0])]
    settings = GeneratedGoals(
        generator=args.generator, videos=args.videos, steps=args.steps, cache=""
    )
    made = settings.maker(ENV)(first)
    kinds = {
        f"nearest of {len(bundle.videos)}": [
            bundle.videos[[k]] for k in torch.cdist(*looks).argmin(1).numpy()
        ],
        "generated from its own first frame": [one.videos for one in made],
        "its own film": [places.film[None] for places in episodes],
    }
    encoders = {
        "pixels": pixels,
        "pixels:32": PooledPixels(grid=32, device="cpu"),
        "VAE": load_encoder(bundle.encoder["source"], device="cpu"),
    }
    print("| goal | encoder | within 5 cm | median, cm |\n|---|---|---|---|")
    for kind, goals in kinds.items():
        for name, encoder in encoders.items():
            far = np.array(list(map(led_to, [encoder] * len(goals), goals, episodes)))
            print(
                f"| {kind} | {name} | {np.mean(far < NEAR):.2f} | "
                f"{100 * np.median(far):.1f} |"
            )
    nearest = [places.distances.min() for places in episodes]
    print(f"\nof all places the nearest: median {100 * np.median(nearest):.1f} cm")


if __name__ == "__main__":
    main()
