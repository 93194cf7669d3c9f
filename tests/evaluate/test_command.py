"""The command `genreward evaluate`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from genreward_wrappers.cli.main import main
from genreward_wrappers.evaluate.episodes import rollouts
from genreward_wrappers.evaluate.judge import run
from genreward_wrappers.evaluate.page.limits import below
from tests.evaluate.shared import COUNTS, ENV, refuse, scored, strict_json

pytest.importorskip("metaworld")
pytest.importorskip("scipy")


@pytest.fixture
def command(cache, recorded, monkeypatch, tmp_path):
    """Runs the command on the small set; nothing may be played for it."""
    few = partial(run.evaluate, counts=COUNTS, resamples=20)
    monkeypatch.setattr(run, "evaluate", few)
    monkeypatch.setattr(rollouts, "play", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments, reward="pixels", env=ENV):
        common = ["--env", env, "--reward", reward, "--frames", "9", "--device", "cpu"]
        common += ["--processes", "1", "--cache", str(cache)]
        return main(["evaluate", *common, *arguments])

    return call


def test_command(command, tmp_path, capsys):
    assert command("--output", "made/here", "--fail-below", "auc=0.5") == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "made" / "here"
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.json",
    ]
    for path in folder.iterdir():
        assert str(path) in printed
    for word in ("auc_mean", "pixels", "env", "pixels: "):
        assert word in printed
    report = strict_json(folder / "report.json")
    assert {"title", "facts", "rewards", "episodes", "metrics", "verdicts"} <= set(
        report
    )
    assert [one["name"] for one in report["rewards"]] == ["pixels", "env"]
    assert len(report["episodes"]) == 15
    assert report["metrics"]["pixels"]["auc_mean"]["value"] == 1
    assert report["verdicts"][0]["headline"] in " ".join(printed.split())
    assert len(report["confusion"]["pixels"]["matrix"]) == 3
    assert not {"curves", "matrix"} & set(report["episodes"][0])
    page = (folder / "report.html").read_text()
    assert ENV in page
    assert report["verdicts"][0]["headline"] in page


def test_fail_below(command, capsys):
    limits = ["--fail-below", "auc=1.5", "--fail-below", "near_share=-9"]
    assert command(*limits, "--fail-below", "voc_spearman=7") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "pixels: auc_mean is 1.0, wanted 1.5" in printed
    assert "pixels: voc_spearman is" in printed
    assert "near_share is" not in printed
    # The environment's own reward is not under test.
    assert "env: auc_mean" not in printed


def test_undefined_is_below(judged):
    one = scored(judged, "pixels")
    unknown = replace(one.metrics["auc_mean"], value=None)
    figures = {**one.metrics, "auc_mean": unknown}
    holed = replace(judged, scored=[replace(one, metrics=figures)])
    assert below(holed, {"auc": 0.1}) == ["pixels: auc_mean is undefined, wanted 0.1"]
    assert below(judged, {"auc": 1.0}) == []


def test_a_reward_that_is_never_due(command, videos, capsys):
    """A window that is longer than an episode."""
    reward = "pixels:reading=window,window=30,length=2"
    limit = ["--fail-below", "auc=0", "--output", "out"]
    assert command("--rollouts", str(videos), *limit, reward=reward) == 1
    assert "auc_mean is undefined" in " ".join(capsys.readouterr().out.split())
    report = strict_json(videos / "out" / "report.json")
    assert report["metrics"][reward]["auc_mean"]["value"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-below", "nonsense=1"], "nonsense: there is no such figure"),
        (["--fail-below", "nonsense=1"], "auc_mean"),
        (["--fail-below", "auc=abc"], "'auc=abc': expected FIGURE=VALUE"),
        (["--fail-below", "auc"], "'auc': expected FIGURE=VALUE"),
        (["--frames", "1"], "--frames 1: expected at least 2"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--output", "taken"], "taken cannot be written to"),
        (["--output", "taken/below"], "taken/below cannot be written to"),
    ],
)
def test_bad_arguments_cost_nothing(
    arguments, message, command, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(run, "evaluate", refuse)
    (tmp_path / "taken").write_text("a file")
    assert command(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("genreward evaluate: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"reward": "vidoe"}, "there is no reward 'vidoe'"),
        ({"reward": "video:score=best"}, "score='best'"),
        ({"reward": "frame:form=best"}, "form='best'"),
        ({"reward": "pixels:length=1"}, "between 2 and 257"),
        ({"env": "CartPole-v1"}, "no embedded goal for 'CartPole-v1'"),
        ({"env": "CartPole-v1", "reward": "env"}, "--rollouts FOLDER"),
    ],
    ids=str,
)
def test_what_cannot_be_judged_is_one_line(how, message, command, capsys):
    assert command(**how) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_the_report_says_which_command_made_it(command, tmp_path):
    assert command("--output", "out") == 0
    report = strict_json(tmp_path / "out" / "report.json")
    said = report["facts"]["command"]
    assert said.startswith("genreward evaluate --env metaworld/pick-place ")


def test_an_environment_has_to_be_named(capsys):
    for arguments in (["evaluate"], ["evaluate", "--env"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "--env" in capsys.readouterr().err
