"""``genreward train``: one command, its files, and how it resumes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("sbx")

from genreward_wrappers.cli import train
from genreward_wrappers.cli.main import main
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.goals import load_goal
from genreward_wrappers.data.video_files import read_video
from genreward_wrappers.evaluate.learn import play
from genreward_wrappers.evaluate.learn import train as learning
from genreward_wrappers.evaluate.learn.episodes import make_env
from genreward_wrappers.evaluate.learn.runs import Run

TASK = ["train", "--env", "metaworld/coffee-button"]


def test_it_trains_shows_stops_and_resumes(tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    line = [*TASK, "--output", str(output), "--tensorboard", str(tmp_path / "board")]
    line += ["--device", "cpu"]
    drawn = []

    def stop(path, run, progress):
        drawn.append(progress.steps)
        raise KeyboardInterrupt

    draw = train.draw_curve

    def counted(path, run, progress):
        drawn.append(progress.steps)
        draw(path, run, progress)

    monkeypatch.setattr(train, "CHUNK", 1)
    devices = []

    def spied(run, record=None, device="auto"):
        devices.append(device)
        return make_env(run, record, device)

    for module in (learning, play):
        monkeypatch.setattr(module, "make_env", spied)
    with monkeypatch.context() as patched:
        patched.setattr(train, "draw_curve", stop)
        assert main([*line, "--steps", "300"]) == 130
    assert drawn == [128]
    assert "128 decisions are kept: the same command resumes" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(train, "draw_curve", counted)
        assert main([*line, "--steps", "300"]) == 0
    assert drawn == [128, 256, 384], "one picture a checkpoint"
    assert devices == ["cpu"] * 3, "to learn twice and to film"
    printed, shown = capsys.readouterr()
    assert "decisions: 128 of 384" in shown
    assert "success" in shown
    assert "return" in shown
    (path,) = output.glob("coffee-button-pixels-seed-0-*.json")
    found = json.loads(path.read_text())
    assert len(found["episode_success"]) == 3, "of which one was there already"
    assert printed.splitlines()[-1].startswith(
        f"In {sum(found['episode_success'])} of the last 3 episodes"
    )
    assert (output / "success.png").stat().st_size > 10_000
    assert list((tmp_path / "board").iterdir())
    episode = Episode.load(output / "agent.safetensors")
    assert len(episode) == 128
    assert set(episode.rewards) == {"env", "video"}
    assert episode.info["env_id"] == "metaworld/coffee-button"
    # The agent beside the goal.
    assert read_video(output / "agent.mp4").shape == (129, 222, 390, 3)
    # A picture that is older than the last checkpoint is drawn again.
    picture = (output / "success.png").read_bytes()
    (output / "success.png").write_bytes(b"older")
    assert main([*line, "--steps", "300"]) == 0
    assert (output / "success.png").read_bytes() == picture
    capsys.readouterr()
    # The folder is that of this run.
    goal = tmp_path / "goal.safetensors"
    load_goal("metaworld/coffee-button").with_(prompt="another").save(goal)
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    for other in (
        ["--seed", "1"],
        ["--reward", "pixels:payment=hold"],
        ["--goal", str(goal)],
    ):
        assert main([*line, *other]) == 1
        said = capsys.readouterr().err
        assert "holds another run, coffee-button-pixels-seed-0-" in said
        assert "give another folder" in said
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == kept


def test_what_it_is_told_is_what_it_trains_on(tmp_path, monkeypatch, capsys):
    asked = []

    def stop(run, args):
        asked.append((run, args.steps))
        raise ValueError("enough")

    monkeypatch.setattr(train, "_train", stop)
    goal = load_goal("metaworld/coffee-button")
    path = str(tmp_path / "goal.safetensors")
    goal.with_(videos=goal.videos[:2], key_frames=()).save(path)
    more = ["--reward", "video:score=cosine", "--goal", path, "--seed", "3",
            "--steps", "500", "--output", str(tmp_path / "out")]  # fmt: skip
    assert main([*TASK, *more]) == 1
    assert capsys.readouterr().err.endswith("enough\n")
    assert asked == [(Run(TASK[-1], "video:score=cosine", 3, path), 500)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--steps", "0"], "--steps 0: expected at least 1"),
        (["--env", "CartPole-v1"], "learning runs need an environment that offers"),
        (["--goal", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_bad_arguments(change, message, tmp_path, capsys):
    assert main([*TASK, *change, "--output", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reward", ["env", "vidoe", "video:score=no"])
def test_rewards_that_are_none(reward, tmp_path, capsys):
    assert main([*TASK, "--reward", reward, "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert {"env": "looks at no picture"}.get(reward, "no") in said
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there(tmp_path, capsys):
    line = [*TASK, "--device", "cuda:7", "--output", str(tmp_path)]
    assert main(line) == 1
    assert "'cuda:7' was asked for, but torch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "it is said before anything begins"
