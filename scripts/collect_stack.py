"""Collects what the embedded video VAE, CLIP and goal generator are trained on.

Seventeen tasks of Meta-World and three of dm_control, 33 frames an episode:

    python scripts/collect_stack.py runs/stack

A folder a task, of episodes as `genreward collect` writes them. Most of Meta-World's
follow the scripted policy, which is what the generator learns; some follow it with
noise and some nothing at all, since an encoder that has only seen success cannot tell
a failure apart. A second folder holds episodes of other seeds out, for the figures.
Interrupted, the same command goes on: about forty minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prompts import PROMPTS

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers.goal_pipeline.collect import collect
from genreward_wrappers.progress import told

FRAMES = 33
#: Of the first training episode and of the first that is held out. Goals begin at one
#: million, test episodes at two, learning runs at three, nets' data at four.
TRAINING, HELD_OUT = 5_000_000, 5_900_000

#: How many episodes of each policy are for training, and how many are held out.
SCRIPTED = {"scripted": (48, 8), "noisy": (12, 4), "random": (6, 2)}
#: Planning takes its time: walker-walk's episodes take a minute each.
PLANNED = {
    "dmc/cartpole-swingup": {"planned": (10, 2), "random": (4, 1)},
    "dmc/reacher-easy": {"planned": (16, 3), "random": (4, 1)},
    "dmc/walker-walk": {"planned": (6, 1), "random": (4, 1)},
}


def main() -> None:
    """Collects what is missing, the most useful first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="a folder")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    for policy in ("scripted", "planned", "noisy", "random"):
        for env_id, prompt in PROMPTS.items():
            counts = PLANNED.get(env_id, SCRIPTED).get(policy, (0, 0))
            for part, seed, count in zip(
                ("training", "held-out"), (TRAINING, HELD_OUT), counts, strict=True
            ):
                if not count:
                    continue
                folder = args.output / part / env_id.replace("/", "--")
                with told(f"{env_id} {policy}") as tick:
                    collect(
                        env_id,
                        folder,
                        policy=policy,
                        episodes=count,
                        seed=seed,
                        frames=FRAMES,
                        prompt=prompt,
                        processes=args.processes,
                        tick=tick,
                    )


if __name__ == "__main__":
    main()
