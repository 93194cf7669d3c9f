"""How near to the target do a goal's last pictures lead? The diagnosis of `reach`.

    python -m benchmarks.goal_ends
    python -m benchmarks.goal_ends --generator runs/generator/trained --seeds 40

The hand is sent to many places of an episode, every second one near its target, and a
picture is taken of each. From the places whose pictures are most like the end of a
goal, by what `tracking` calls alike, a search goes on to ever more alike ones. Where it
ends is where a perfect optimiser of that end would go: how far from the target is that?
Meta-World calls 5 cm a success. Each place is gone to from the beginning of the
episode, as an agent would: the arm has a joint to spare, and coming from elsewhere it
holds the hand at the same place with another elbow, in another picture. Compared are
the nearest of the bundle's goals, goals generated from the episode's own first frame,
and the film of the scripted policy in this very episode, which no goal can surpass.
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


#: The search: its rounds, the places in each, and how many of the best it goes on from.
ROUNDS, PLACES, BEST = 4, 8, 6
#: Steps of the way to a place, the last ones at rest.
STEPS_THERE = 100
#: The corners of the room that the hand is sent through, in metres.
LOW, HIGH = np.array([-0.25, 0.55, 0.04]), np.array([0.25, 1.0, 0.4])

#: The corners of the room that Meta-World draws targets in.
TARGETS = np.array([[-0.1, 0.8, 0.05], [0.1, 0.9, 0.3]])

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Places:
    """Pictures of the hand at M places.

    Attributes:
        pictures: (M, H, W, 3).
        hands: (M, 3) where the hand was, in metres.
    """

    pictures: UInt8
    hands: Floats

    def and_more(self, other: Places) -> Places:
        """These and others."""
        return Places(
            np.concatenate([self.pictures, other.pictures]),
            np.concatenate([self.hands, other.hands]),
        )


class Hand:
    """The hand in one episode at a time."""

    def __init__(self, env: gym.Env) -> None:
        self.env = env

    def begin(self, seed: int) -> UInt8:
        """Begins an episode; its first picture."""
        self.seen, _ = self.env.reset(seed=seed)
        self.target = self.seen[-3:].astype(np.float64)
        return self.env.render()

    def play(self, seed: int) -> UInt8:
        """(T, H, W, 3) the film of the scripted policy."""
        script = make_policy("scripted", self.env, ENV, seed)
        film = [self.begin(seed)]
        for _ in range(256):
            self.seen, *_ = self.env.step(script(self.seen))
            film.append(self.env.render())
        return np.stack(film)[evenly(FRAMES, 256)]

    def photograph(self, places: Floats, seed: int) -> Places:
        """Goes to each place in an episode of its own, and takes a picture there."""
        pictures, hands = [], []
        for place in places:
            self.begin(seed)
            for _ in range(STEPS_THERE):
                way = np.clip(10 * (place - self.seen[:3]), -1, 1)
                action = np.append(way, -1).astype(np.float32)
                self.seen, *_ = self.env.step(action)
            pictures.append(self.env.render())
            hands.append(self.seen[:3])
        return Places(np.stack(pictures), np.array(hands))


def search(
    hand: Hand, seed: int, encoder: VideoEncoder, goals: UInt8, known: Places
) -> Places:
    """Looks for places that are most like the ends of K goals, best first.

    Args:
        hand: Goes there.
        seed: The episode's.
        encoder: By which pictures are alike.
        goals: (K, T, H, W, 3) the goal videos.
        known: What the search starts from; the first picture is the episode's.

    Returns:
        All places that are known now, the best one first but for the episode's first.
    """

    def change(pictures: UInt8, first: UInt8) -> torch.Tensor:
        read = encoder.encode_images(np.concatenate([first, pictures])).flatten(1)
        return read[len(first) :] - read[: len(first)]

    rng, first = np.random.default_rng(0), known.pictures[:1]
    ends, agent = change(goals[:, -1], goals[:, 0]), change(known.pictures, first)
    for left in range(ROUNDS, -1, -1):
        apart = (agent[:, None] - ends).square().mean(-1).sqrt().mean(1)
        order = apart[1:].argsort().numpy() + 1
        best = known.hands[order[:BEST]]
        if left:
            asked = rng.normal(best.mean(0), best.std(0) + 0.003, (PLACES, 3))
            more = hand.photograph(np.clip(asked, LOW, HIGH), seed)
            known = known.and_more(more)
            agent = torch.cat([agent, change(more.pictures, first)])
    order = np.append(0, order)
    return Places(known.pictures[order], known.hands[order])


def guess(env: gym.Env, targets: Floats) -> tuple[Floats, Floats]:
    """How far from each target the best guess is that its dot's place allows, and how
    far a target that is drawn from all that there may be.

    A camera shows where the dot is in the picture, but hardly how far away: at 64x64
    the dot is two pixels wide everywhere. The best guess is the mean of all targets
    that there may be behind this place.
    """
    model, data, camera = env._model, env._data, env._camera_id
    turn, at = data.cam_xmat[camera].reshape(3, 3), data.cam_xpos[camera]
    side = env.size[0]
    focal = side / 2 / np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)

    def pixels(places: Floats) -> Floats:
        seen = (places - at) @ turn
        return focal * seen[:, :2] / -seen[:, 2:]

    rng = np.random.default_rng(0)
    space = rng.uniform(*TARGETS, (400_000, 3))
    behind = pixels(space)
    best, drawn = [], []
    for target, pixel in zip(targets, pixels(targets), strict=True):
        same = np.abs(behind - pixel).max(1) < 0.25
        best.append(np.linalg.norm(space[same].mean(0) - target))
        drawn.append(np.linalg.norm(rng.choice(space[same]) - target))
    return np.array(best), np.array(drawn)


def main() -> None:
    """Prints one line a kind of goal and encoder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="episodes")
    parser.add_argument("--places", type=int, default=60, help="before the search")
    parser.add_argument("--generator", default=EMBEDDED)
    parser.add_argument("--videos", type=int, default=1, help="of each first frame")
    parser.add_argument("--steps", type=int, default=STEPS, help="of denoising")
    args = parser.parse_args()
    torch.set_num_threads(1)
    env = gym.make(f"genreward_wrappers:{ENV}", obs="state", render_mode="rgb_array")
    # An episode of any length, for any number of places.
    hand = Hand(env.unwrapped)
    films = [hand.play(FIRST + index) for index in range(args.seeds)]
    first = np.stack([film[0] for film in films])
    bundle, pixels = load_goal(ENV), PooledPixels(device="cpu")
    looks = [pixels.encode_images(x).flatten(1) for x in (first, bundle.videos[:, 0])]
    nearest = torch.cdist(*looks).argmin(1).numpy()
    settings = GeneratedGoals(
        generator=args.generator, videos=args.videos, steps=args.steps, cache=""
    )
    made = settings.maker(ENV)(first)
    encoders = {
        "pixels": pixels,
        "pixels:32": PooledPixels(grid=32, device="cpu"),
        "VAE": load_encoder(bundle.encoder["source"], device="cpu"),
    }
    far: dict[tuple[str, str], list[float]] = {}
    for index, film in enumerate(films):
        begin = hand.begin(FIRST + index)
        known = Places(begin[None], hand.seen[None, :3].astype(np.float64))
        rng = np.random.default_rng(index)
        places = rng.uniform(LOW, HIGH, (args.places, 3))
        places[::2] = rng.normal(hand.target, NEAR, places[::2].shape)
        known = known.and_more(hand.photograph(places, FIRST + index))
        goals = {
            f"nearest of {len(bundle.videos)}": bundle.videos[[nearest[index]]],
            "generated from its own first frame": made[index].videos,
            "its own film": film[None],
        }
        for kind, videos in goals.items():
            for name, encoder in encoders.items():
                # What was seen for one goal is known when the next is looked for.
                known = search(hand, FIRST + index, encoder, videos, known)
                away = float(np.linalg.norm(known.hands[1] - hand.target))
                far.setdefault((kind, name), []).append(away)
    print("| goal | encoder | within 5 cm | median, cm |\n|---|---|---|---|")
    for (kind, name), distances in far.items():
        print(
            f"| {kind} | {name} | {np.mean(np.array(distances) < NEAR):.2f} | "
            f"{100 * np.median(distances):.1f} |"
        )
    targets = []
    for index in range(400):
        hand.begin(FIRST + index)
        targets.append(hand.target)
    print("\nfrom the place of the target's dot in the first frame, 400 episodes:")
    for kind, blind in zip(
        ("the best guess", "a draw"), guess(hand.env, np.array(targets)), strict=True
    ):
        print(
            f"{kind}: within 5 cm {np.mean(blind < NEAR):.2f}, median "
            f"{100 * np.median(blind):.1f} cm"
        )


if __name__ == "__main__":
    main()
