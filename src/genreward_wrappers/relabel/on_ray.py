"""Scores recordings on a Ray cluster, for what outgrows one machine.

Episodes are the items of a Ray Data set, and every actor has the models once. An actor
that dies is started again, and what it was at is scored anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from genreward_wrappers.checks import at_least
from genreward_wrappers.data.goals import load_goal
from genreward_wrappers.data.video_files import is_videos
from genreward_wrappers.extras import require
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.relabel.recordings import Recording
from genreward_wrappers.relabel.scoring import Scored, Scorer
from genreward_wrappers.rewards.served.connection import find_cluster

NEEDS = "scoring on a cluster needs Ray Data"


class Worker:
    """Scores the recordings that it is told, with models of its own."""

    def __init__(self, scorer: Scorer, recordings: Sequence[Recording]) -> None:
        self._scorer, self._recordings = scorer, recordings

    def __call__(self, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The scores of some recordings, a row each; or what is wrong with one."""
        rows = [int(row) for row in item["rows"]]
        try:
            found = list(self._scorer.run([self._recordings[row] for row in rows]))
        except Exception as error:
            # Ray Data would wrap it into others.
            return [{"index": rows[0], "scored": error}]
        return [{"index": rows[i], "scored": scored} for i, scored in found]


def run_on_ray(
    scorer: Scorer,
    recordings: Sequence[Recording],
    workers: int,
    on_progress: OnProgress = no_progress,
) -> Iterator[tuple[int, list[Scored]]]:
    """Scores recordings as `Scorer.run` does, on a cluster.

    The process joins the Ray cluster that it finds on this machine, or starts one for
    as long as it takes. Recordings are read where they are scored: their files have to
    be there.

    Args:
        scorer: The rewards. Its ``batch`` is the number of episodes of an item; None is
            one.
        recordings: What to score.
        workers: How many actors score.
        on_progress: Called with the number of episodes that are scored, and of all.

    Yields:
        The index of a recording, and what each reward pays for it, in any order.

    Raises:
        ValueError: As `Scorer.run`.
    """
    at_least(1, workers=workers)
    ray = require("ray", "ray", NEEDS)
    data = require("ray.data", "ray", NEEDS)
    count, size = len(recordings), scorer.batch or 1
    items = [
        {"rows": [*range(first, min(first + size, count))]}
        for first in range(0, count, size)
    ]
    if not items:
        return
    goal = scorer.goal
    if isinstance(goal, (str, PathLike)) and not is_videos(fspath(goal)):
        # The file is here, and perhaps not where the workers are.
        goal = load_goal(goal)
    # The models are made where they are used.
    sent = replace(scorer, goal=goal, _built={}, _encoders={})
    started = not ray.is_initialized() and find_cluster()
    data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    gpus = ray.cluster_resources().get("GPU", 0) and scorer.device != "cpu"
    try:
        scored = data.from_items(items, override_num_blocks=len(items)).flat_map(
            Worker,
            fn_constructor_args=(sent, recordings),
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        for done, row in enumerate(scored.iter_rows(), 1):
            if isinstance(row["scored"], Exception):
                raise row["scored"]
            on_progress(done, count)
            yield int(row["index"]), row["scored"]
    finally:
        if started:
            ray.shutdown()
