"""What an optimiser finds: training runs on one reward alone.

A score that separates recorded episodes can still be farmed, so a reward is also tried
on an agent: soft actor-critic on state observations and the time in the episode, paid
by the reward under test and nothing else. Success is then compared with reward. A run
can be stopped at any time, and resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from genreward_wrappers.data.files import FileError, canonical, write_atomic
from genreward_wrappers.evaluate.learn.checkpoint import restore_agent, save_agent
from genreward_wrappers.evaluate.learn.episodes import Episodes, make_env
from genreward_wrappers.evaluate.learn.runs import HORIZON, Progress, Run, outcome
from genreward_wrappers.workers import workers

#: Episodes between two checkpoints.
CHUNK = 20
#: The suffix of their files.
CHECKPOINT = ".checkpoint.safetensors"


def _never(progress: Progress) -> bool:
    return False


def learn(
    run: Run,
    folder: Path,
    steps: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    enough: Callable[[Progress], bool] = _never,
    chunk: int | None = None,
    device: str = "auto",
) -> Progress:
    """Trains, or resumes training, until the agent has made this many steps.

    Args:
        run: The run.
        folder: The folder of its checkpoint, its progress, and some of its episodes.
        steps: The number of steps, rounded up to whole episodes.
        on_progress: Called with the progress at every checkpoint.
        enough: Called at every checkpoint; True ends the run early.
        chunk: The number of episodes between checkpoints; `CHUNK` by default.
        device: The device of the reward's models.
    """
    total = -(-steps // HORIZON) * HORIZON
    checkpoint = checkpoint_of(run, folder)
    episodes = Episodes(make_env(run, folder / run.name, device), run.seed)
    try:
        # More than a short run fills would only make the checkpoints larger.
        agent = run.learner.make(episodes, run.seed, max(total, 100_000))
        _resume(agent, episodes, checkpoint)
        while agent.num_timesteps < total and not enough(episodes.progress):
            stretch = min((chunk or CHUNK) * HORIZON, total - agent.num_timesteps)
            agent.learn(stretch, reset_num_timesteps=False)
            progress = episodes.progress
            save_agent(agent, checkpoint, asdict(progress))
            write_atomic(
                folder / f"{run.name}.json", canonical(_summary(run, progress)).encode()
            )
            on_progress(progress)
    finally:
        episodes.close()
    return episodes.progress


def learn_all(
    runs: Sequence[Run],
    folder: Path,
    steps: int,
    processes: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    device: str = "auto",
) -> dict[Run, Progress]:
    """Trains several runs in parallel, each in its own process.

    Args:
        runs: The runs.
        folder: The folder of their files.
        steps: The number of steps of each.
        processes: The number of runs at a time.
        on_progress: Called with the number of steps done, over all runs.
        device: The device of the rewards' models.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with workers(processes) as pool:
        one = partial(learn, folder=folder, steps=steps, device=device)
        open_ = {pool.submit(one, run) for run in runs}
        while open_:
            done, open_ = wait(open_, timeout=2, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            made = sum(min(load_progress(run, folder).steps, steps) for run in runs)
            on_progress(made, steps * len(runs))
    return {run: load_progress(run, folder) for run in runs}


def checkpoint_of(run: Run, folder: Path) -> Path:
    """The file of a run's agent."""
    return folder / f"{run.name}{CHECKPOINT}"


def load_progress(run: Run, folder: Path) -> Progress:
    """The progress of a run, from its file; none without a file."""
    path = folder / f"{run.name}.json"
    if not path.is_file():
        return Progress((), ())
    found = json.loads(path.read_text())
    return Progress(
        tuple(found["episode_success"]),
        tuple(found["episode_return"]),
        found["cpu_seconds"],
    )


def _resume(agent: Any, episodes: Episodes, path: Path) -> None:
    if not path.is_file():
        return
    try:
        notes = restore_agent(agent, path)
    except FileError as error:
        raise FileError(f"{error}. Delete it to begin this run again") from error
    episodes.success = list(notes["success"])
    episodes.returns = list(notes["returns"])
    episodes.seconds = notes["seconds"]
    recorder = getattr(episodes.env, "recorder", None)
    if recorder is not None:
        recorder.number = len(episodes.success)


def _summary(run: Run, progress: Progress) -> dict[str, Any]:
    curve = progress.curve()
    return {
        **run.as_dict(),
        "steps": progress.steps,
        "success": {str(step): rate for step, (rate, _) in curve.items()},
        "return": {str(step): total for step, (_, total) in curve.items()},
        "cpu_seconds": progress.seconds,
        "episode_success": list(progress.success),
        "episode_return": list(progress.returns),
        "outcome": outcome(progress)[1],
        "saved": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
