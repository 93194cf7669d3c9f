"""What a step of the default reward costs beside its unavoidable parts.

    python -m benchmarks.step

On one thread, by turns: the environment with one drawing; the same and then the bare
forward of the networks, on a frame that is ready; and the wrapped environment. The
forward has to come after a step, which takes the caches: repeated by itself it is
faster than anybody can have it. Of several rounds of CPU time the best counts, so that
what else the machine does counts as little as it can.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.overhead import table
from genreward_wrappers import GenRewardWrapper, VideoLevelReward, make
from genreward_wrappers.encoders.caching import Memo

ENV = "metaworld/pick-place"
#: Steps of a round: short, so that few are disturbed. Episodes are 256 steps.
STEPS = 8


def cpu_by_turns(
    runs: dict[str, Callable[[], Any]], rounds: int, calls: int = STEPS
) -> dict[str, float]:
    """CPU seconds of a call, the best of several rounds that take turns."""
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.process_time()
            for _ in range(calls):
                run()
            best[name] = min(best[name], (time.process_time() - begin) / calls)
    return best


class Walk:
    """Steps of random actions that start over before the episode ends."""

    def __init__(self, env: Any) -> None:
        """Resets."""
        self.env = env
        rng = np.random.default_rng(0)
        space = env.action_space
        self._actions = rng.uniform(space.low, space.high, (64, *space.shape))
        self._actions = self._actions.astype(space.dtype)
        self._step = 0

    def __call__(self) -> None:
        """One step."""
        if self._step % 200 == 0:
            self.env.reset(seed=0)
        self.env.step(self._actions[self._step % 64])
        self._step += 1


def forward_alone(encoder: Any) -> Callable[[], Any]:
    """The encoder's network on one frame that is where it belongs."""
    encoder = encoder.encoder if isinstance(encoder, Memo) else encoder
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, *encoder.size, 3), np.uint8)
    encoder.encode_images(frames)
    video = encoder._colours(torch.from_numpy(frames[:, None]))

    def run() -> Any:
        with torch.inference_mode():
            return encoder._still(video)

    return run


def nets_alone(reward: Any) -> Callable[[], Any]:
    """The frame-level reward on one frame: its own encoder, and the forward net."""
    frames = torch.zeros(1, *reward.encoder.size, 3, dtype=torch.uint8)
    actions = torch.zeros(1, 4)

    def run() -> Any:
        with torch.inference_mode():
            state = reward.encoder.encode_images(frames).flatten(1)
            return reward.nets.measure_of(state, actions, reward._z)

    return run


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    step_table(args.rounds)


def step_table(rounds: int) -> str:
    """The table."""
    video = VideoLevelReward(make(ENV))
    both = GenRewardWrapper(make(ENV))
    models = {model.name: model for model in both.session.models}
    forward = forward_alone(models["video"].encoder)
    nets = nets_alone(models["frame"])
    alone, bare, all_bare = (Walk(make(ENV)) for _ in range(3))
    runs: dict[str, Callable[[], Any]] = {
        "alone": alone,
        "VideoLevelReward, bare": lambda: (bare(), forward()),
        "VideoLevelReward": Walk(video),
        "GenRewardWrapper, bare": lambda: (all_bare(), forward(), nets()),
        "GenRewardWrapper": Walk(both),
    }
    found = cpu_by_turns(runs, rounds)
    rows = []
    for name in ("VideoLevelReward", "GenRewardWrapper"):
        bare_one = found[f"{name}, bare"]
        each = [found["alone"], bare_one, found[name]]
        cells = [f"{1e3 * seconds:.2f}" for seconds in each]
        rows.append([name, *cells, f"{found[name] / bare_one:.2f}x"])
    head = ["reward", "environment and drawing", "and bare forward", "a step", "ratio"]
    return table(f"CPU milliseconds a step, {ENV}, 64x64, one thread", head, rows)


if __name__ == "__main__":
    main()
