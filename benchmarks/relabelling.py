"""How fast recorded episodes are scored, against a loop over the wrapper.

    python -m benchmarks.relabelling

Both score the same frames in one run, on one thread. The environment below the wrapper
shows frames that are there already, so that the loop pays for no simulator and no
renderer, and what is compared is the reward alone. Beside them stands what no way of
scoring can be faster than: the encoder alone on these frames, 16 at a time. All take
turns, and each gets the best of its turns, in time of this process's own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from genreward_wrappers import GenRewardWrapper, RewardSpec, load_goal
from genreward_wrappers.core import UInt8
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.relabel import Scorer, as_episode, from_frames

REWARDS = ("pixels", "video", "genreward")


class Film(gym.Env[Any, Any]):
    """Shows recorded frames, whatever is done."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Box(-1, 1, (4,), np.float32)
        self.frames: UInt8 = np.zeros((2, 64, 64, 3), np.uint8)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Shows the first frame."""
        super().reset(seed=seed)
        self._step = 0
        return self.frames[0], {}

    def step(self, action: Any) -> Any:
        """Shows the next one."""
        self._step += 1
        over = self._step == len(self.frames) - 1
        return self.frames[self._step], 0.0, False, over, {}


def films(goal: str, count: int, steps: int) -> list[UInt8]:
    """Episodes that look like the goal's and are all different."""
    videos = load_goal(goal).videos
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        video = videos[i % len(videos)]
        frames = video[np.linspace(0, len(video) - 1, steps + 1).astype(int)]
        noise = rng.integers(-8, 9, frames.shape)
        made.append(np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8))
    return made


def loop(env: Any, shown: Sequence[UInt8], actions: Any) -> list[Any]:
    """What the wrapper pays, episode after episode."""
    paid = []
    for frames in shown:
        env.unwrapped.frames = frames
        env.reset(seed=0)
        paid.append([env.step(action)[1] for action in actions])
    return paid


def best(turns: int, *runs: Callable[[], Any]) -> list[tuple[float, Any]]:
    """The seconds and the result of each, which take turns."""
    found: list[tuple[float, Any]] = [(float("inf"), None)] * len(runs)
    for _ in range(turns):
        for i, run in enumerate(runs):
            begun = time.process_time()
            result = run()
            found[i] = min(found[i][0], time.process_time() - begun), result
    return found


def alone(encoder: Any, shown: Sequence[UInt8]) -> Callable[[], None]:
    """The encoder, and nothing else, on every frame."""
    frames = np.concatenate(shown)

    def run() -> None:
        for first in range(0, len(frames), 16):
            encoder.encode_images(frames[first : first + 16])

    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each reward."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goal", default="metaworld/pick-place")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--reward", nargs="+", default=REWARDS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    shown = films(args.goal, args.episodes, args.steps)
    actions = np.random.default_rng(1).uniform(-1, 1, (args.steps, 4))
    actions = actions.astype(np.float32)
    recorded = from_frames([as_episode(f, actions, seed=0) for f in shown])
    total = args.episodes * args.steps
    print(f"{args.episodes} episodes of {args.steps} steps, steps a second:")
    ways = ("exact", "8", "64", "encoder")
    print(f"{'reward':12}{'wrapper':>9}"
          + "".join(f"{way:>9}{'ratio':>7}" for way in ways)
          + f"{'difference':>12}")  # fmt: skip
    for reward in args.reward:
        spec = {**RewardSpec.parse(reward).to_json(), "goal": args.goal}
        env = GenRewardWrapper(Film(), reward=spec, horizon=args.steps)
        encoder = env.session.models[0].encoder
        if isinstance(encoder, Memo):
            encoder = encoder.encoder

        def at(batch: int | None, reward: str = reward) -> Callable[[], list[Any]]:
            scorer = Scorer([reward], args.goal, horizon=args.steps, batch=batch)
            # As in the wrapper, what is made of the goal is there before the clock
            # starts.
            scorer.prepare(recorded[0])
            return lambda: [found for _, (found,) in sorted(scorer.run(recorded))]

        (slow, online), (exact, same), (eight, _), (many, near), (floor, _) = best(
            args.turns,
            lambda env=env: loop(env, shown, actions),
            at(None),
            at(8),
            at(64),
            alone(encoder, shown),
        )
        paid = np.array(online)
        assert np.array_equal([one.rewards for one in same], paid)
        difference = np.abs([one.rewards for one in near] - paid).max()
        cells = "".join(
            f"{total / seconds:9.0f}{slow / seconds:7.2f}"
            for seconds in (exact, eight, many, floor)
        )
        print(f"{reward:12}{total / slow:9.0f}{cells}{difference:12.1e}", flush=True)


if __name__ == "__main__":
    main()
