"""Is the frame-level reward right? Nets against worlds whose truth is known.

    python -m benchmarks.forward_backward worlds
    python -m benchmarks.forward_backward points
    python -m benchmarks.forward_backward seeds
    python -m benchmarks.forward_backward --table

``worlds``: finite worlds with a known successor measure. ``points``: a point mass seen
as a picture, from random actions alone, with the action and without it. ``seeds``: ten
runs of each variant and of two ways to go wrong, and whether the diagnostics tell the
bad runs from the good ones. Every result is a line in results/forward_backward.jsonl;
what is there already is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.worlds import WORLDS, correlation, learn, of_goals, reached
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.forward_backward import losses
from genreward_wrappers.training.forward_backward.data import Trajectory, Transitions
from genreward_wrappers.training.forward_backward.features import Features
from genreward_wrappers.training.forward_backward.judge import (
    rank_correlation,
    time_rank,
)
from genreward_wrappers.training.forward_backward.nets import FBConfig
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.train import FBTrainer

RESULTS = Path(__file__).parent / "results" / "forward_backward.jsonl"
#: What scripts/models/make_embedded_nets.py found.
EMBEDDED = RESULTS.with_name("frame_level.jsonl")
VARIANTS = {"standard": True, "one-step": False}

# Finite worlds


def worlds() -> Iterator[dict[str, Any]]:
    """Both variants in every world."""
    for name in WORLDS:
        for variant in VARIANTS:
            yield {"what": "worlds", "world": name, "variant": variant}


def run_world(job: dict[str, Any]) -> dict[str, Any]:
    """Correlation with the truth for each goal, and where the argmax policy ends."""
    world = WORLDS[job["world"]]()
    conditioned = VARIANTS[job["variant"]]
    large = world.states > 20
    if large:
        # Four rooms: further to go, and more to tell apart. A random walk, which is
        # what the one-step variant measures, gets about more slowly than a policy.
        discount = 0.95 if conditioned else 0.98
        world = dataclasses.replace(world, discount=discount)
    policy = world.uniform()
    data, share = world.transitions(policy, count=100_000)
    # A random chain's states are alike in nothing: that takes longer.
    updates = {"four rooms": 3_000, "random chain": 4_000}.get(job["world"], 1_500)
    # Forty policies do not fit into nets of 128: with those the mean ends at 0.976.
    hidden = 384 if conditioned else 256
    shape = {"z": 64, "hidden": hidden, "backward_hidden": 128} if large else None
    trainer, _ = learn(
        world,
        conditioned,
        data,
        updates,
        shape=shape,
        batch=512,
        target_rate=0.1,
        anneal_share=1 / 3 if large else 0.0,
    )
    mine = of_goals(trainer.nets, world, share)
    truth = (
        np.stack([world.best(goal) for goal in range(world.states)])
        if conditioned
        else np.moveaxis(world.successors(policy), -1, 0)
    )
    found = [correlation(m, t) for m, t in zip(mine, truth, strict=True)]
    ways = [
        reached(world, of_goal.argmax(0), goal) for goal, of_goal in enumerate(mine)
    ]
    best = [reached(world, t.argmax(0), goal) for goal, t in enumerate(truth)]
    return {
        "updates": updates,
        "correlation": float(np.mean(found)),
        "worst": float(np.min(found)),
        "reached": float(np.mean(ways)),
        "reached by the truth": float(np.mean(best)),
    }


# A point mass, seen as a picture

SIZE, SPEED = 64, 0.1
#: Opposite actions are told apart where their outcomes differ by 5 % of the arena.
CLEAR = 0.1


def wander(episodes: int, seed: int, encoder: PooledPixels) -> tuple[Any, Any]:
    """Trajectories of random actions, and where the disc was at every transition."""
    env = PointMass(size=SIZE, horizon=50, speed=SPEED)
    env.action_space.seed(seed)
    features, trajectories, places = Features(encoder), [], []
    for episode in range(episodes):
        # The green disc is out of sight: any place may be a goal.
        env.reset(seed=100_000 * seed + episode, options={"target": (5.0, 5.0)})
        frames, actions = [env.render()], []
        for _ in range(env.horizon):
            places.append(env.position.copy())
            actions.append(env.action_space.sample())
            env.step(actions[-1])
            frames.append(env.render())
        trajectories.append(
            Trajectory(features.encode(np.stack(frames)), np.stack(actions), False)
        )
    return Transitions(trajectories), np.array(places)


def points() -> Iterator[dict[str, Any]]:
    """Both variants, and the standard one without the action."""
    for variant, discount, sees_action in (
        ("standard", 0.98, True),
        ("standard", 0.98, False),
        ("one-step", 0.98, True),
    ):
        yield {
            "what": "points",
            "variant": variant,
            "discount": discount,
            "action": sees_action,
        }


def run_points(
    job: dict[str, Any], updates: int = 8_000, episodes: int = 600, **training: Any
) -> dict[str, Any]:
    """How well the measure of a place ranks (s, a) by the distance that is left."""
    encoder = PooledPixels((SIZE, SIZE), 8, device="cpu")
    begun = time.perf_counter()
    data, _ = wander(episodes, 1, encoder)
    blind = not job.get("action", True)
    config = FBConfig(
        data.features,
        2,
        z=32,
        hidden=job.get("hidden", 128),
        backward_hidden=128,
        conditioned=VARIANTS[job["variant"]],
        discount=job.get("discount", 0.98),
    )
    given = {"batch": 256, "learning_rate": 1e-3, "target_rate": 0.05, **training}
    trainer = FBTrainer(config, FBTraining(**given), device="cpu")
    if job.get("standardised", True):
        trainer.standardise(data.spread(5_000).state)
    failed = ""
    one_step = not config.conditioned
    try:
        for _ in range(updates):
            batch = data.draw(
                given["batch"], one_step, (trainer.training.seed, trainer.step)
            )
            trainer.update(_blinded(batch) if blind else batch)
    except FloatingPointError as error:
        failed = str(error)
    trained = time.perf_counter() - begun
    held, places = wander(40, 2, encoder)
    figures = trainer.diagnose(held.spread(1024))
    figures["time_rank"] = time_rank(trainer, held)
    wrong = [failed] if failed else list(losses.complaints(figures))
    rank, named = judged(trainer, held, places, blind)
    return {
        "updates": trainer.step,
        "seconds": round(trained),
        "rank": rank,
        "named": named,
        "time_rank": figures["time_rank"],
        "complaints": wrong,
    }


def judged(
    trainer: FBTrainer, held: Transitions, places: Any, blind: bool
) -> tuple[float, float]:
    """Spearman with minus the distance after the action; the better of two named."""
    rng = np.random.default_rng(1)
    rows = rng.choice(len(held), 500, replace=False)
    goals = rng.choice(len(held), 40, replace=False)
    batch = held.batch(rows)
    action = np.zeros_like(batch.action) if blind else batch.action
    keys = held.batch(goals).state

    def distance(move: Any) -> Any:
        after = np.clip(places[rows] + SPEED * move, -1, 1)
        return np.linalg.norm(after - places[goals][:, None], axis=-1)

    value = trainer.values(keys, batch.state, action)
    other = trainer.values(keys, batch.state, -action)
    near, far = distance(batch.action), distance(-batch.action)
    ranks = [rank_correlation(v, -d) for v, d in zip(value, near, strict=True)]
    clear = np.abs(near - far) > CLEAR
    # Without the action both are the same number: half of a right answer.
    right = np.where(value == other, 0.5, (value > other) == (near < far))
    return float(np.mean(ranks)), float(right[clear].mean())


def _blinded(batch: Any) -> Any:
    none = np.zeros_like(batch.action)
    return dataclasses.replace(batch, action=none, next_action=none)


# Ten seeds

#: What is wanted, and two ways to go wrong: features that are not standardised, and a
#: learning rate thirty times too large.
WAYS: dict[str, dict[str, Any]] = {
    "as it should be": {},
    "features not standardised": {"standardised": False},
    "learning rate 0.03": {"learning_rate": 0.03},
}
#: A rank correlation below this is called a failure: the reward points nowhere.
FAILED = 0.3


def seeds() -> Iterator[dict[str, Any]]:
    """Ten runs of each variant, and five of each way to go wrong."""
    for way in WAYS:
        for variant in VARIANTS:
            for seed in range(5 if WAYS[way] else 10):
                yield {"what": "seeds", "way": way, "variant": variant, "seed": seed}


def run_seed(job: dict[str, Any]) -> dict[str, Any]:
    """A short run, and whether its diagnostics say what it is worth."""
    way = dict(WAYS[job["way"]])
    shape = {
        "hidden": 64,
        "discount": 0.95,
        "standardised": way.pop("standardised", True),
    }
    found = run_points({**job, **shape}, 800, 200, seed=job["seed"], **way)
    return {
        **found,
        "failed": bool(found["rank"] < FAILED or not np.isfinite(found["rank"])),
    }


RUNS = {
    "worlds": (worlds, run_world),
    "points": (points, run_points),
    "seeds": (seeds, run_seed),
}


def results() -> list[dict[str, Any]]:
    """All that has been run."""
    return _lines(RESULTS)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| world | variant | correlation of a goal's column | worst | goal reached |",
        "|---|---|---|---|---|",
    ]
    for row in (r for r in rows if r["what"] == "worlds"):
        ways = f"{row['reached']:.0%}"
        if row["reached by the truth"] < 1:
            ways += f" (the truth: {row['reached by the truth']:.0%})"
        lines.append(
            f"| {row['world']} | {row['variant']} | {row['correlation']:.3f} | "
            f"{row['worst']:.3f} | {ways} |"
        )
    lines += [
        "",
        "| variant | gamma | sees the action | rank correlation | better action | "
        "rank with time |",
        "|---|---|---|---|---|---|",
    ]
    for row in (r for r in rows if r["what"] == "points"):
        lines.append(
            f"| {row['variant']} | {row['discount']} | "
            f"{'yes' if row['action'] else 'no'} | {row['rank']:.2f} | "
            f"{row['named']:.0%} | {row['time_rank']:.2f} |"
        )
    lines += [
        "",
        "| training | variant | runs | failed | of these warned | others warned | "
        "rank correlation |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        for variant in VARIANTS:
            of = [
                r
                for r in rows
                if r["what"] == "seeds" and (r["way"], r["variant"]) == (way, variant)
            ]
            if not of:
                continue
            bad = [r for r in of if r["failed"]]
            told = sum(bool(r["complaints"]) for r in bad)
            false = sum(bool(r["complaints"]) for r in of if not r["failed"])
            ranks = [r["rank"] for r in of if np.isfinite(r["rank"])]
            span = f"{min(ranks):.2f} to {max(ranks):.2f}" if ranks else "none"
            lines.append(
                f"| {way} | {variant} | {len(of)} | {len(bad)} | {told} | {false} | "
                f"{span} |"
            )
    lines += [
        "",
        "| task | features | variant | updates | value: rank | lowest | AUC | "
        "difference: rank | AUC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in _lines(EMBEDDED):
        lines.append(
            f"| {row['task']} | {row['features']} | {row['variant']} | "
            f"{row['updates']} | {row['value rank']:.2f} | "
            f"{row['value lowest rank']:.2f} | {row['value auc']:.2f} | "
            f"{row['difference rank']:.2f} | {row['difference auc']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*RUNS, []])
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for what in args.what:
        jobs, run = RUNS[what]
        for job in jobs():
            if any(job.items() <= row.items() for row in results()):
                continue
            row = {**job, **run(job)}
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    if args.table:
        print(table(results()))


if __name__ == "__main__":
    main()
