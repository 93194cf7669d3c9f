"""Collects what the embedded video VAE, CLIP and goal generator are trained on.

Seventeen tasks of Meta-World and three of dm_control, 33 frames an episode:

    python scripts/models/collect_stack.py runs/stack
    python scripts/models/collect_stack.py runs/more --more

A folder a task, of episodes as `genreward collect` writes them. Most of Meta-World's
follow the scripted policy, which is what the generator learns; some follow it with
noise and some nothing at all, since an encoder that has only seen success cannot tell
a failure apart. dm_control's follow controllers and a planner (`controllers.py`). A
second folder holds episodes of other seeds out, for the figures. Interrupted, the same
command goes on: about seventy minutes on one core. ``--more`` collects what the
generator was trained further on: successes alone, most of them of reach and door-open,
in which more depends on the first frame than in the others; twenty minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from prompts import PROMPTS

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers.goal_pipeline.collect import collect
from genreward_wrappers.progress import progress_bar

FRAMES = 33
#: Of the first training episode and of the first that is held out. Goals begin at one
#: million, test episodes at two, learning runs at three, nets' data at four.
TRAINING, HELD_OUT = 5_000_000, 5_900_000

#: How many episodes of each policy are for training, and how many are held out.
SCRIPTED = {"scripted": (96, 8), "noisy": (12, 4), "random": (6, 2)}
#: Planning takes its time: half a minute an episode of walker-walk.
CONTROLLED = {
    "dmc/cartpole-swingup": {"controllers:swing_up": (96, 8), "random": (6, 2)},
    "dmc/reacher-easy": {"controllers:point": (192, 8), "random": (6, 2)},
    "dmc/walker-walk": {"controllers:walk": (25, 3), "random": (6, 2)},
}


#: Of the further episodes, 17 frames each: their first seed, and how many of each task.
FURTHER, FURTHER_FRAMES = 6_000_000, 17
FURTHER_COUNTS = {
    **dict.fromkeys(PROMPTS, 48),
    **{
        f"metaworld/{task}": count
        for count, tasks in (
            (600, ("reach",)),
            (300, ("door-open",)),
            (64, ("bin-picking", "coffee-button", "disassemble", "drawer-close")),
            (64, ("handle-press", "pick-out-of-hole", "pick-place", "shelf-place")),
        )
        for task in tasks
    },
    "dmc/walker-walk": 10,
}

#: How the names of policies begin that show how a task is done, and the others.
SHOWS, OTHERS = ("scripted", "controllers:"), ("noisy", "random")


def main() -> None:
    """Collects what is missing, the most useful first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="a folder")
    parser.add_argument("--only", default="", help="ids that begin like this")
    parser.add_argument("--more", action="store_true", help="the further episodes")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    if args.more:
        further(args)
        return
    for kind in (*SHOWS, *OTHERS):
        for env_id in PROMPTS:
            if not env_id.startswith(args.only):
                continue
            for policy, counts in CONTROLLED.get(env_id, SCRIPTED).items():
                if not policy.startswith(kind):
                    continue
                both = zip((TRAINING, HELD_OUT), counts, strict=True)
                gather(args, env_id, policy, both, FRAMES)


def further(args: argparse.Namespace) -> None:
    """Collects what the generator was trained further on, and six of each held out."""
    for env_id, count in FURTHER_COUNTS.items():
        if not env_id.startswith(args.only):
            continue
        policies = CONTROLLED.get(env_id, SCRIPTED)
        (policy,) = (name for name in policies if name.startswith(SHOWS))
        out = 3 if env_id == "dmc/walker-walk" else 6
        both = (FURTHER, count), (HELD_OUT, out)
        gather(args, env_id, policy, both, FURTHER_FRAMES)


def gather(
    args: argparse.Namespace,
    env_id: str,
    policy: str,
    both: Iterable[tuple[int, int]],
    frames: int,
) -> None:
    """Collects the episodes of one policy.

    Args:
        args: The command line's.
        env_id: The environment's id.
        policy: The policy.
        both: The first seed and the number of the episodes for training, and of those
            that are held out.
        frames: The number of frames of an episode.
    """
    for part, (seed, count) in zip(("training", "held-out"), both, strict=True):
        with progress_bar(f"{env_id} {policy}, {part}") as on_progress:
            collect(
                env_id,
                args.output / part / env_id.replace("/", "--"),
                policy=policy,
                episodes=count,
                seed=seed,
                frames=frames,
                prompt=PROMPTS[env_id],
                processes=args.processes,
                on_progress=on_progress,
            )


if __name__ == "__main__":
    main()
