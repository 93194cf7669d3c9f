"""``genreward score``: a table, a parquet file, JSON, and a film with curves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genreward_wrappers.cli.main import main
from genreward_wrappers.data.video_files import read_video, write_video
from genreward_wrappers.relabel import find_recordings, score
from tests import lerobot_sets

parquet = pytest.importorskip("pyarrow.parquet")

REWARDS = ("pixels", "pixels:score=cosine,length=9")


@pytest.fixture
def films(goal, tmp_path):
    """A goal, a film that follows it and one that goes back; and both their paths."""
    goal.save(tmp_path / "goal.safetensors")
    np.save(tmp_path / "good.npy", goal.videos[0])
    write_video(tmp_path / "back.mp4", goal.videos[0][::-2], 10)
    return tmp_path


def run(folder, *more):
    sources = [str(folder / "good.npy"), str(folder / "back.mp4")]
    told = [f"--reward={reward}" for reward in REWARDS]
    output = folder / "scores.parquet"
    goal = f"--goal={folder / 'goal.safetensors'}"
    status = main(["score", *sources, goal, *told, "--output", str(output), *more])
    return status, output


def test_table_file_and_film(films, capsys):
    status, output = run(films, "--overlay", str(films / "film.mp4"))
    assert status == 0
    said = capsys.readouterr()
    assert all(len(line) <= 80 for line in said.out.splitlines()[:-2])
    rows = [line.split() for line in said.out.splitlines() if "good.npy" in line]
    assert rows[0][1:] == ["33", "1", "1", "1", "1"]
    assert "mean of all" in said.out
    table = parquet.read_table(output)
    assert table.column_names == [
        "index", "episode_index", "frame_index", "timestamp", "source", *REWARDS
    ]  # fmt: skip
    data = table.to_pydict()
    assert len(data["index"]) == 33 + 17
    assert data["frame_index"][31:35] == [31, 32, 0, 1]
    assert data["episode_index"][31:35] == [0, 0, 1, 1]
    # The array does not say how fast it is; the video does.
    assert data["timestamp"][32] is None
    assert data["timestamp"][34] == pytest.approx(0.1)
    # A frame has the reward of the step that led to it; now and then none is due.
    goal = str(films / "goal.safetensors")
    (good,) = score(find_recordings(films / "good.npy"), "pixels", goal=goal)
    assert data["pixels"][0] is None
    np.testing.assert_array_equal(data["pixels"][1:33], good.rewards)
    assert sum(value is not None for value in data[REWARDS[1]][:33]) == 8
    about = json.loads(table.schema.metadata[b"genreward"])
    assert about["horizons"] == [16, 32]
    assert about["rewards"][1]["options"] == {
        "score": "cosine", "length": 9, "encoder": "pixels"
    }  # fmt: skip
    assert len(about["goals"][0]) == 64
    film = read_video(films / "film.mp4")
    assert film.shape == (50, 384, 384 + 512, 3)
    # The marker is where the time is: left at first, right at the end.
    redness = film[:, 100:300, 400:, 0].astype(int) - film[:, 100:300, 400:, 2]
    places = redness.mean(1).argmax(1)
    assert places[1] + 300 < places[32]
    assert (np.diff(places[1:33]) > 0).all()


def test_json(films, capsys):
    status, output = run(films, "--json", "--fps", "5", "--quiet")
    assert status == 0
    report = json.loads(capsys.readouterr().out)
    assert report["file"] == str(output)
    one, other = report["episodes"]
    assert one["rewards"]["pixels"]["mean"] == pytest.approx(1)
    assert other["rewards"]["pixels"]["last"] < 0.9
    assert other["frames"] == 17
    assert parquet.read_table(output).to_pydict()["timestamp"][32] == 32 / 5


def test_a_lerobot_dataset_keeps_its_numbers(goal, tmp_path, capsys):
    folder = lerobot_sets.write_dataset(tmp_path / "set", kind="image")
    goal = goal.with_(videos=np.repeat(goal.videos, 2, 3)[:, :, :, :48])
    goal.save(tmp_path / "goal.safetensors")
    command = ["score", str(folder), "--camera", "top", "--reward", "pixels", "--goal",
               str(tmp_path / "goal.safetensors"), "--quiet"]  # fmt: skip
    output = tmp_path / "scores.parquet"
    assert main([*command, "--output", str(output)]) == 0
    data = parquet.read_table(output).to_pydict()
    assert len(data["index"]) == sum(lerobot_sets.LENGTHS)
    assert data["timestamp"][5] == 5 / lerobot_sets.FPS
    assert {*data["episode_index"]} == {0, 1, 2}
    assert main([*command[:2], *command[4:], "--output", str(tmp_path / "x.parquet")])
    assert "several cameras" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--horizon", "0"], "--horizon 0: expected at least 1"),
        (["--batch", "0"], "--batch 0: expected at least 1"),
        (["--fps", "0"], "--fps 0.0: expected a number above 0"),
        (["--reward", "vidoe"], "there is no reward 'vidoe'"),
        (["--reward", "pixels"], "--reward was given twice"),
        (["--camera", "top"], "no dataset of several cameras"),
    ],
)
def test_bad_arguments(films, change, message, capsys):
    assert run(films, *change)[0] == 1
    assert message in capsys.readouterr().err


def test_files_that_are_there_are_kept(films, capsys):
    assert run(films)[0] == 0
    before = (films / "scores.parquet").read_bytes()
    assert run(films)[0] == 1
    assert "is there already: --overwrite replaces it" in capsys.readouterr().err
    assert run(films, "--overwrite")[0] == 0
    assert (films / "scores.parquet").read_bytes() == before
    (films / "film.mp4").touch()
    assert run(films, "--output", str(films / "b.parquet"),
               "--overlay", str(films / "film.mp4"))[0] == 1  # fmt: skip


def test_a_broken_video_is_named_and_nothing_is_written(films, capsys):
    (films / "back.mp4").write_bytes((films / "back.mp4").read_bytes()[:500])
    assert run(films)[0] == 1
    assert "back.mp4 does not decode as a video" in capsys.readouterr().err
    assert not (films / "scores.parquet").exists()
