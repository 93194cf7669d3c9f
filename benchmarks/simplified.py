"""What simplified meshes change in rewards that were made on whole ones.

    python -m benchmarks.simplified

The same episodes are drawn both ways: physics does not see which meshes are drawn, so
states and actions are equal. Each reward of the embedded goals scores both films; in
the table stand the range of its scores over the task's episodes, by how much the
scores of a step differ on average and at most, and by how much an episode's mean
differs at most. The last column is the gap between the mean of the scripted episodes
and that of the random ones, against which such a difference has to be held.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.compare import FRAMES, HORIZON, specs
from benchmarks.overhead import table
from genreward_wrappers import load_goal
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.episodes.rollouts import Job, play
from genreward_wrappers.evaluate.judge.judged_rewards import Maker
from genreward_wrappers.relabel.fold import score_episodes

TASKS = ("metaworld/coffee-button", "metaworld/pick-place", "metaworld/door-open")
REWARDS = ("video", "frame", "vlm-rm", "liv")
KINDS = ("success", "random")
#: Seeds of test episodes begin here.
SEED = 2_000_000


def films(env_id: str, count: int, whole: bool) -> list[Episode]:
    """Episodes of each of `KINDS`, with whole meshes or simplified ones."""
    options = (("render_quality", _Quality(whole_meshes=whole)),)
    steps = tuple(range(HORIZON + 1))
    return [
        play(Job(env_id, options, kind, SEED + 1000 * place + index, steps))
        for place, kind in enumerate(KINDS)
        for index in range(count)
    ]


class _Quality(dict[str, bool]):
    """Options that can be the key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def differences(model: Any, whole: list[Episode], simple: list[Episode]) -> list[float]:
    """Numbers of the table; the first half of the episodes is scripted.

    Returns:
        The lowest score, the highest, the mean difference of a step's, the largest,
        the largest difference of an episode's mean, and the gap between the kinds.
    """
    before, after = (np.stack(score_episodes(model, some)) for some in (whole, simple))
    change = np.abs(after - before)
    means = np.nanmean(before, 1)
    half = len(means) // 2
    return [
        float(number)
        for number in (
            np.nanmin(before),
            np.nanmax(before),
            np.nanmean(change),
            np.nanmax(change),
            np.abs(np.nanmean(after, 1) - means).max(),
            means[:half].mean() - means[half:].mean(),
        )
    ]


def simplified_table(tasks: Sequence[str], rewards: Sequence[str], count: int) -> str:
    """The table."""
    rows = []
    for env_id in tasks:
        whole, simple = (films(env_id, count, whole) for whole in (True, False))
        maker = Maker(load_goal(env_id), HORIZON, FRAMES, "cpu")
        for reward in rewards:
            contestant, *_ = maker.make(specs(env_id)[reward])
            low, high, *rest = differences(contestant.parts[0][0], whole, simple)
            cells = [f"{low:.2f} to {high:.2f}", *(f"{x:.4f}" for x in rest)]
            rows.append([env_id.partition("/")[2], reward, *cells])
    step = "of a step, mean"
    head = ["task", "reward", "range", step, "most", "of an episode's mean", "gap"]
    return table("What simplified meshes change in a reward", head, rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--rewards", nargs="+", default=list(REWARDS))
    parser.add_argument("--episodes", type=int, default=2, help="of each kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    simplified_table(args.tasks, args.rewards, args.episodes)


if __name__ == "__main__":
    main()
