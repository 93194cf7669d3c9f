"""Fixtures of the evaluation: test episodes, played once, and judgements of them."""

from __future__ import annotations

import numpy as np
import pytest

from genreward_wrappers import load_goal
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.episodes import rollouts
from genreward_wrappers.evaluate.episodes.rollouts import record_rollouts
from tests.evaluate.shared import COUNTS, ENV, HORIZON, OPTIONS, STEPS, judge, of_kind


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("rollouts")


@pytest.fixture(scope="session")
def recorded(cache):
    """One small set of test episodes, which the evaluations find in the cache."""
    return record_rollouts(ENV, STEPS, options=OPTIONS, counts=COUNTS, cache=cache)


@pytest.fixture(scope="session")
def judged(cache, recorded):
    """The pixel reward alone."""
    return judge(cache, ["pixels"])


@pytest.fixture(scope="session")
def summed(cache, recorded):
    """The sum with the environment's own reward."""
    return judge(cache, ["genreward:env_weight=1"])


@pytest.fixture(scope="session")
def full(cache, recorded):
    """Everything that the command does by default, on fewer episodes and frames."""
    return judge(cache, ["genreward"])


@pytest.fixture(scope="session")
def small_goal():
    """The embedded goal, so short that encoding it takes no time."""
    goal = load_goal(ENV)
    return goal.with_(
        videos=goal.videos[:2, ::4], key_frames=(), nets={}, nets_config={}
    )


@pytest.fixture
def played(monkeypatch):
    """The jobs that were played; seeds in ``played.lost`` do not succeed."""

    class Played(list):
        lost = ()

    jobs = Played()

    def play(job):
        jobs.append(job)
        wins = job.kind in ("success", "other-task")
        return toy(job, wins and job.seed not in jobs.lost)

    monkeypatch.setattr(rollouts, "play", play)
    return jobs


@pytest.fixture
def videos(recorded, tmp_path):
    """A folder of videos, by kind."""
    for kind, folder in (("success", "success"), ("random", "failure")):
        (tmp_path / folder).mkdir()
        for i, episode in enumerate(of_kind(recorded, kind)):
            np.save(tmp_path / folder / f"{i}.npy", episode.frames)
    np.save(tmp_path / "failure" / "still.npy", of_kind(recorded, "static")[0].frames)
    return tmp_path


def toy(job, succeeded):
    """An episode that holds what it was asked for."""
    rng = np.random.default_rng(job.seed)
    return Episode(
        frames=rng.integers(0, 256, (len(job.frame_steps), 16, 16, 3)).astype(np.uint8),
        frame_steps=np.array(job.frame_steps),
        actions=rng.normal(size=(HORIZON, 4)).astype(np.float32),
        success=np.full(HORIZON, succeeded),
        rewards={"env": rng.normal(size=HORIZON).astype(np.float32)},
        info={"env_id": job.env_id, "kind": job.kind, "seed": job.seed, "group": ""},
    )
