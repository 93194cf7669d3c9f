"""Recordings that are scored on a real Ray cluster, by workers of which one dies.

Runs where Ray is installed (the extra ray), which the ordinary tests do without.
"""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import numpy as np
import pytest

from genreward_wrappers.cli.main import main
from genreward_wrappers.goal_pipeline.pack import pack
from genreward_wrappers.relabel import Scorer, as_episode, from_frames
from genreward_wrappers.relabel.on_ray import run_on_ray
from genreward_wrappers.testing import Brightness

if find_spec("ray") is None or find_spec("ray.data") is None:
    pytest.skip("needs Ray", allow_module_level=True)
from tests.ray_cluster import cluster  # noqa: F401

# A cluster of its own starts, and processes that import torch.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("cluster", "one_thread"),
    pytest.mark.filterwarnings("ignore:LeRobot keeps no frame"),
]


@pytest.fixture(scope="module")
def recordings():
    rng = np.random.default_rng(0)
    films = [rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for n in (9, 7, 9, 5, 9)]
    return from_frames([as_episode(film, seed=i) for i, film in enumerate(films)])


@pytest.fixture(scope="module")
def goal(tmp_path_factory):
    films = np.random.default_rng(1).integers(0, 256, (2, 9, 64, 64, 3), np.uint8)
    path = tmp_path_factory.mktemp("goal") / "goal.safetensors"
    pack(list(films), length=9).save(path)
    return path


def paid(found):
    return [
        scored.rewards.tolist() for _, (scored,) in sorted(found, key=lambda x: x[0])
    ]


def test_rewards_equal_those_of_one_process(recordings, goal, tmp_path, monkeypatch):
    monkeypatch.chdir(goal.parent)
    rng = np.random.default_rng(2)
    films = [rng.integers(0, 256, (n, 64, 64, 3), np.uint8) for n in (5, 4, 5)]
    seen: list[int] = []
    scorer = Scorer(["video"], goal=goal.name, horizon=8, device="cpu")
    found = run_on_ray(scorer, from_frames(films), 2, lambda done, _: seen.append(done))
    assert paid(found) == paid(scorer.run(from_frames(films)))
    assert seen == [1, 2, 3]


def test_a_worker_that_dies_is_survived(recordings, tmp_path):
    class Fatal(Brightness):
        """Kills the process that it runs in, once."""

        def step(self, memory, transition):
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step(memory, transition)

    found = paid(run_on_ray(Scorer([Fatal()]), recordings, 2))
    assert (tmp_path / "died").exists()
    assert found == paid(Scorer([Brightness()]).run(recordings))


def test_what_is_wrong_with_a_recording_is_said(recordings):
    class Needy(Brightness):
        sees_states = True

    with pytest.raises(ValueError, match=r"episode \d: 'brightness' looks at the env"):
        list(run_on_ray(Scorer([Needy()]), recordings, 1))
    with pytest.raises(ValueError, match="workers=0"):
        list(run_on_ray(Scorer([Brightness()]), recordings, 0))
    assert not list(run_on_ray(Scorer([Brightness()]), [], 1))


def test_a_dataset(tmp_path, capsys):
    from tests.relabel.test_datasets import hashes, with_data

    films = np.random.default_rng(3).integers(0, 256, (1, 9, 32, 48, 3), np.uint8)
    goal = tmp_path / "goal.safetensors"
    pack(list(films), size=(32, 48), encoder=None).save(goal)
    source = str(with_data(tmp_path / "set", "v3.0"))
    told = ["--reward", "video:encoder=pixels:4", "--goal", str(goal)]
    for name, more in (("here", []), ("there", ["--ray", "2"])):
        output = str(tmp_path / name)
        assert main(["relabel", source, *told, "--output", output, *more]) == 0
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")
    assert (
        main(["relabel", source, "--ray", "-1", "--output", str(tmp_path / "x")]) == 1
    )
    assert "--ray -1: expected at least 0" in capsys.readouterr().err
