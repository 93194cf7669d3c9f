"""An `Evaluation` as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import write_atomic
from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.evaluate.judge.metrics import METRICS
from genreward_wrappers.evaluate.judge.run import Evaluation, Scored
from genreward_wrappers.evaluate.learn.runs import Progress, Run, outcome
from genreward_wrappers.evaluate.page.figure_names import GROUPS
from genreward_wrappers.evaluate.page.report import (
    GoalVideo,
    Report,
    RewardInfo,
    Shown,
    report_json,
    write_page,
)
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.rewards.video_level import VideoLevel

EPIC = (
    "How far the reward is from the environment's own once shaping and scale are taken "
    "out: 0 the same, 0.71 unrelated, 1 opposite."
)

Learned = Mapping[Run, Progress]

#: The number of frames of an episode on the page: as many as are scored by default.
SHOWN_FRAMES = 65


def write(
    evaluation: Evaluation,
    folder: Path,
    learned: Learned,
    runs: Path,
    command: str,
    on_progress: OnProgress = no_progress,
) -> list[Path]:
    """Writes ``report.json`` and ``report.html``.

    Args:
        evaluation: The evaluation.
        folder: The folder to write to; it is made if it does not exist.
        learned: The learning runs, if there were any.
        runs: The folder of their episodes.
        command: The command that made the report, for the page.
        on_progress: Called with the number of episodes prepared, and their total.
    """
    report = make_report(evaluation, learned, runs, command, on_progress)
    figures = report_json(report)
    # The page has the episodes' curves; here they would bury the figures.
    figures["episodes"] = [
        {k: v for k, v in episode.items() if k not in ("curves", "matrix")}
        for episode in figures["episodes"]
    ]
    paths = [folder / "report.json", folder / "report.html"]
    write_atomic(paths[0], (json.dumps(figures, indent=1) + "\n").encode())
    write_page(paths[1], report)
    return paths


def make_report(
    evaluation: Evaluation,
    learned: Learned,
    runs: Path,
    command: str,
    on_progress: OnProgress = no_progress,
) -> Report:
    """Everything that the page shows."""
    goal = evaluation.goal
    scored = evaluation.scored
    return Report(
        title=f"{evaluation.env_id}: is this reward worth training on?",
        facts={**evaluation.facts, "command": command},
        prompt=goal.prompt if goal else "",
        goals=[
            GoalVideo(video, key)
            for video, key in zip(goal.videos, goal.key_frames, strict=True)
        ]
        if goal
        else [],
        rewards=[
            RewardInfo(
                one.contestant.name,
                one.contestant.name,
                one.contestant.role,
                one.contestant.about,
            )
            for one in scored
        ],
        episodes=[
            *_shown(evaluation, on_progress),
            *_trained(learned, runs, evaluation),
        ],
        metrics={
            one.contestant.name: {k: v.to_json() for k, v in one.metrics.items()}
            for one in scored
        },
        metric_notes={**METRICS, "epic_distance": EPIC},
        metric_groups=GROUPS,
        verdicts=[
            {"reward": one.contestant.name, **asdict(one.verdict)}
            for one in scored
            if one.verdict is not None
        ],
        confusion={
            one.contestant.name: one.confusion
            for one in scored
            if one.confusion is not None
        },
        learning=[_curve(run, progress) for run, progress in learned.items()],
        notes=[
            "Figures are over recorded episodes. What an optimiser finds is another "
            "matter: genreward evaluate --learn.",
            "Intervals are 95 % percentiles over episodes drawn again, an altered "
            "episode always together with its source.",
            "The shifted camera is a picture moved by some pixels, not a camera that "
            "was moved.",
        ],
    )


def _shown(evaluation: Evaluation, on_progress: OnProgress) -> list[Shown]:
    model = _first_video(evaluation.scored)
    counts: dict[str, int] = {}
    shown = []
    for index, episode in enumerate(evaluation.episodes):
        on_progress(index, len(evaluation.episodes))
        kind = str(episode.info["kind"])
        counts[kind] = counts.get(kind, 0) + 1
        rewards = {one.contestant.name: one.paid[index] for one in evaluation.scored}
        # Scoring backwards or shifted needs more frames than an eye does.
        episode = thinned(episode)
        choice, matrix = -1, {}
        if model is not None:
            name, video = model
            choice = video.nearest(episode.frames[0])
            matrix = {name: video.compare(episode.frames, choice)}
        shown.append(
            Shown(
                replace(episode, rewards=rewards),
                id=f"{kind}-{counts[kind]}",
                kind=kind,
                label=_label(episode, counts[kind]),
                goal=choice,
                matrix=matrix,
            )
        )
    on_progress(len(shown), len(shown))
    return shown


def thinned(episode: Episode) -> Episode:
    """An episode with at most `SHOWN_FRAMES` frames, spread evenly over its time."""
    steps = episode.frame_steps
    if len(steps) <= SHOWN_FRAMES:
        return episode
    wanted = sample_steps(SHOWN_FRAMES, int(steps[-1]))
    kept = np.unique([np.abs(steps - step).argmin() for step in wanted])
    return replace(episode, frames=episode.frames[kept], frame_steps=steps[kept])


def _label(episode: Episode, number: int) -> str:
    kind = str(episode.info["kind"])
    where = str(episode.info.get("env_id", ""))
    said = f"{kind} {number}"
    if kind == "other-task":
        said += f", {where.removeprefix('metaworld/')}"
    return said


def _first_video(scored: Sequence[Scored]) -> tuple[str, VideoLevel] | None:
    for one in scored:
        for model, _ in one.contestant.parts:
            if isinstance(model, VideoLevel) and one.contestant.role == "reward":
                return one.contestant.name, model
    return None


def _trained(learned: Learned, runs: Path, evaluation: Evaluation) -> list[Shown]:
    """Early and late episodes of agents that were trained on the rewards."""
    shown = []
    for run in learned:
        for path in sorted((runs / run.name).glob("episode-*.safetensors")):
            episode = thinned(Episode.load(path))
            number = int(episode.info["episode"])
            where = f"{run.reward}, seed {run.seed}, episode {number}"
            goals = 0 if evaluation.goal is None else len(evaluation.goal.videos)
            choice = int(episode.info.get("goal", -1))
            shown.append(
                Shown(
                    _total(episode, run),
                    id=f"{run.name}-{number}",
                    kind="trained",
                    label=f"trained on {where}",
                    goal=choice if choice < goals else -1,
                    checkpoint=where,
                )
            )
    return shown


def _total(episode: Episode, run: Run) -> Episode:
    """The episode's reward, under the name of the reward that it was trained on."""
    rewards = dict(episode.rewards)
    if "video" in rewards and run.reward not in rewards:
        rewards[run.reward] = rewards.pop("video")
    return replace(episode, rewards=rewards)


def _curve(run: Run, progress: Progress) -> dict[str, Any]:
    curve = progress.curve()
    return {
        "reward": run.reward,
        "seed": run.seed,
        "steps": list(curve),
        "success": [rate for rate, _ in curve.values()],
        "return": [total for _, total in curve.values()],
        "verdict": outcome(progress)[1],
    }
