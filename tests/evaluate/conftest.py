"""Fixtures of the evaluation: test episodes, played once, and judgements of them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from genreward_wrappers import load_goal
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.episodes import rollouts
from genreward_wrappers.evaluate.episodes.rollouts import record_rollouts
from genreward_wrappers.evaluate.page.report import (
    GoalVideo,
    Report,
    RewardInfo,
    Shown,
    write_page,
)
from tests.evaluate.inspector import (
    HOSTILE,
    LONG,
    MORE,
    NOTHING,
    TASKS,
    T,
    drawn,
    entry,
    film,
    one,
    opened,
)
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
def by_default(cache, recorded):
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


@pytest.fixture(scope="module")
def full():
    """Episodes that differ in all that the page shows."""
    share = np.linspace(0, 1, 9)
    matrix = 1 - np.abs(share[:, None] - share[None])
    flat = {"video": np.full(T, 0.5), "env": np.zeros(T)}
    episodes = [
        Shown(one(wins=range(15, T)), "a", "scripted", "first", 0, {"video": matrix}),
        Shown(one(background=100), "b", "random", "second", 1, {}, "seed 0 at 10k"),
        Shown(one(rewards={"video": NOTHING, "env": NOTHING}), "c", "random", "third"),
        Shown(one(rewards=flat, wins=[3]), "d", "still", LONG, 0),
        Shown(one(1, rewards={"video": [0.5], "env": [0]}), "e", "still", "short", 0),
        Shown(
            one(T, [0, 8, 16, 24]), "f", "scripted", "sparse", 0, {"video": matrix**2}
        ),
    ]
    episodes.append(Shown(one(0, rewards={"video": []}), "g", "still", "over at once"))
    return Report(
        title="Is the square's goal worth it?",
        facts={"environment": "toy/square", "command": "genreward evaluate " + LONG},
        prompt=HOSTILE,
        goals=[GoalVideo(film(T + 1, 10), T), GoalVideo(film(2 * T // 2 + 1, 50), 3)],
        rewards=[
            RewardInfo("video", "video-level", about="How close it is."),
            RewardInfo("env", "environment", "reference"),
            RewardInfo("missing", LONG, "control"),
            *(RewardInfo(name, name, "control") for name in MORE),
        ],
        episodes=episodes,
        metrics={
            "video": {"separation": entry(0.9), "order": entry(0.7, "few episodes")},
            "env": {"separation": {**entry(0.5, "no failures"), "value": float("nan")}},
            **{
                name: {"separation": entry(0.2), "order": entry(-0.123)}
                for name in MORE
            },
        },
        metric_notes={"separation": "How often a success earns more."},
        metric_groups={
            "Successes": {"separation": "Earns more"},
            "Nothing": {"x": "y"},
        },
        verdicts=[
            {
                "reward": "video",
                "level": level,
                "headline": f"It is {level}.",
                "findings": ["one", HOSTILE],
            }
            for level in ("good", "weak", "misleading", "dead")
        ],
        confusion={
            "video": {
                "tasks": TASKS,
                "goals": TASKS,
                "matrix": [
                    [0.9, 0.1, 0.123, 0.123, 0.123],
                    [0.6, 0.5, 0.123, 0.123, 0.123],
                    *[[0.123, 0.123, 0.234, 0.123, 0.123]] * 3,
                ],
                "diagonal_minus_off": 0.35,
                "argmax_accuracy": 0.5,
            }
        },
        learning=[
            {
                "reward": "video",
                "seed": seed,
                "steps": [0, 1000, 2000],
                "success": [0, 0.5, 1 - seed / 2],
                "return": [0, None, 3.0],
                "verdict": "it rises",
            }
            for seed in range(3)
        ],
        notes=["Only squares."],
    )


@pytest.fixture(scope="module")
def chromium():
    """A browser; the tests of the page are skipped where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the page's tests need playwright"
    )
    places = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    browser = next(filter(None, places), None)
    if browser is None:
        pytest.skip("the page's tests need Chromium or Chrome")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(full, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, full)
    return path


@pytest.fixture
def tab(chromium, file):
    with opened(chromium, file.as_uri()) as tab:
        drawn(tab, 0)
        yield tab
