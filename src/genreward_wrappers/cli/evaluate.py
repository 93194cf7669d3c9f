"""``genreward evaluate``: the terminal's side of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genreward_wrappers.evaluate.page.report import EXTRA


def run_evaluate(
    env_id: str,
    rewards: Sequence[str],
    *,
    goal: str | None,
    rollouts: str | None,
    camera: str | None,
    frames: int,
    output: Path,
    cache: Path | None,
    processes: int,
    device: str,
    dtype: str | None,
    limits: Mapping[str, float],
    learn_steps: int | None,
    seeds: int,
    command: str,
) -> int:
    """Evaluates, shows and writes; the exit status is 1 if a limit was missed.

    Args:
        env_id: The environment.
        rewards: Names and options; see `contestants.REWARDS`.
        goal: A goal bundle; None is the embedded one.
        rollouts: Test episodes of one's own.
        camera: The environment's.
        frames: Scored in an episode.
        output: The folder for the report, and for learning runs.
        cache: The folder for test episodes.
        processes: How many at a time.
        device: Of the encoders.
        dtype: What they compute in.
        limits: Figures that must not be lower.
        learn_steps: Of each learning run; None for none.
        seeds: Learning runs of each reward.
        command: What the user wrote.
    """
    try:
        import PIL  # noqa: F401
        import scipy  # noqa: F401
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError as error:
        raise ImportError(
            f"evaluate needs scipy, pillow and rich: {EXTRA} ({error})"
        ) from error
    from genreward_wrappers.evaluate.judge.run import evaluate
    from genreward_wrappers.evaluate.learn.runs import Run, outcome
    from genreward_wrappers.evaluate.learn.train import learn_all
    from genreward_wrappers.evaluate.page.output import (
        below,
        check_limits,
        table,
        write,
    )

    # What can be wrong is found out before minutes have been spent.
    check_limits(limits)
    for name, number, least in (("frames", frames, 2), ("seeds", seeds, 1)):
        if number < least:
            raise ValueError(f"--{name} {number}: expected at least {least}")
    _check_writable(output)
    _leave_room()
    console = Console()
    with Bar(console=console) as bar:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        evaluation = evaluate(
            env_id,
            rewards,
            goal,
            rollouts=rollouts,
            frames=frames,
            cache=cache,
            processes=processes,
            camera=camera,
            device=device,
            dtype=dtype,
            tell=tell,
        )
        learned = {}
        runs = output / "learning"
        if learn_steps is not None:
            plan = [
                Run(env_id, reward, seed, goal)
                for reward in rewards
                for seed in range(seeds)
            ]
            learned = learn_all(
                plan,
                runs,
                learn_steps,
                min(processes, len(plan)),
                lambda done, total: tell("learning runs", done, total),
            )
        paths = write(evaluation, output, learned, runs, command)
    console.print(table(evaluation))
    for one in evaluation.scored:
        if one.verdict is not None:
            console.print(
                f"\n[bold]{one.contestant.name}: {one.verdict.level}[/bold], "
                f"{one.verdict.headline}",
                highlight=False,
            )
            for finding in one.verdict.findings:
                console.print(f"  - {finding}", highlight=False, markup=False)
    for run, progress in learned.items():
        console.print(
            f"\n[bold]{run.reward}, seed {run.seed}[/bold] {outcome(progress)[1]}",
            highlight=False,
        )
    console.print()
    for path in paths:
        console.print(f"{path.resolve()}", soft_wrap=True)
    missed = below(evaluation, limits)
    for line in missed:
        console.print(f"[red]below the limit[/red] {line}", highlight=False)
    return 1 if missed else 0


def _leave_room() -> None:
    """Takes the cores that are free.

    On more threads than that the encoder waits for itself many times longer than it
    works.
    """
    import torch

    if hasattr(os, "getloadavg"):
        free = max(1, (os.cpu_count() or 1) - round(os.getloadavg()[0]))
        torch.set_num_threads(min(torch.get_num_threads(), free))


def _check_writable(folder: Path) -> None:
    """Raises if nothing can be written to the folder, before anything is computed."""
    probe = folder / ".probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"--output {folder} cannot be written to ({error.strerror}): give another "
            "folder"
        ) from error
