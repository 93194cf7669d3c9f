"""Judge a reward of your own beside GenReward's, before training on either.

    python examples/evaluate_your_reward.py

The reward here pays for red in the picture, which a red arm that waves is as good for
as a red puck in the air. The verdict says so in a minute; a training run takes days.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from genreward_wrappers.core import RewardModel, Score
from genreward_wrappers.evaluate.judge.run import evaluate
from genreward_wrappers.evaluate.page.output import write


class Redness(RewardModel):
    """Pays the share of red pixels in what came of the action."""

    name = "redness"

    def wants(self, steps):
        """Looks at every fourth frame."""
        return steps % 4 == 0

    def reset(self, memory, frames, mask, seeds):
        """Remembers nothing."""
        return ()

    def step(self, memory, transition):
        """Pays at the steps that it looks at."""
        red, green, blue = np.moveaxis(transition.next_frames.astype(np.int16), -1, 0)
        share = ((red > 120) & (red > 2 * green) & (red > 2 * blue)).mean((1, 2))
        due = transition.active & self.wants(transition.steps)
        return Score(np.where(due, share, 0).astype(np.float32), due), memory


def main() -> None:
    """Evaluates, prints the verdicts, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--output", type=Path, default=Path("genreward_report"))
    parser.add_argument("--episodes", type=int, default=10, help="of each kind")
    args = parser.parse_args()
    kinds = ("success", "near-miss", "half-way", "noisy", "random", "static")
    found = evaluate(
        args.env,
        [Redness(), "pixels"],
        counts=dict.fromkeys(kinds, args.episodes),
    )
    for one in found.scored:
        if one.verdict:
            print(f"{one.contestant.name}: {one.verdict.level}, {one.verdict.headline}")
    page = write(found, args.output, {}, args.output, "evaluate_your_reward.py")[1]
    print(page.resolve())


if __name__ == "__main__":
    main()
