"""Every option of score, relabel and serve reaches what it is for."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from genreward_wrappers import relabel
from genreward_wrappers.cli import serve
from genreward_wrappers.cli.main import main
from genreward_wrappers.rewards.served import connection

SCORING = ["--goal", "metaworld/reach", "--env", "metaworld/reach", "--horizon", "7",
           "--batch", "3", "--device", "cpu", "--dtype", "bfloat16"]  # fmt: skip
REACHED = {
    "goal": "metaworld/reach",
    "env_id": "metaworld/reach",
    "horizon": 7,
    "batch": 3,
    "device": "cpu",
    "dtype": "bfloat16",
}


class Asked:
    """Stops a command, and keeps what it asked for."""

    def __call__(self, *args, **options):
        self.args, self.options = args, options
        raise ValueError("enough")


@pytest.fixture
def asked():
    return Asked()


def test_score(asked, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(relabel, "Scorer", asked)
    monkeypatch.setattr(relabel, "find_recordings", lambda source, camera: [source])
    output = ["--output", str(tmp_path / "t.parquet")]
    assert main(["score", "a.npy", "--reward", "video", *SCORING, *output]) == 1
    assert capsys.readouterr().err.endswith("enough\n")
    assert asked.args == (["video"],)
    assert asked.options == REACHED


def test_relabel(asked, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(relabel, "relabel_dataset", asked)
    command = ["relabel", "set", "--output", "new", "--reward", "pixels", "--weights",
               "--column", "paid", "--camera", "top", "--ray", "2"]  # fmt: skip
    assert main([*command, *SCORING]) == 1
    assert capsys.readouterr().err.endswith("enough\n")
    assert asked.args == ("set", "pixels", "new")
    asked.options.pop("on_progress")
    more = {"weights": True, "column": "paid", "camera": "top", "workers": 2}
    assert asked.options == {**REACHED, **more}


def test_serve(asked, goal, tmp_path, monkeypatch, capsys):
    goal.save(tmp_path / "goal.safetensors")
    ray = SimpleNamespace(
        cluster_resources=lambda: {"GPU": gpus}, shutdown=lambda: ended.append(1)
    )
    joined, ended = [], []

    def join(address):
        joined.append(address)
        return False

    deployment = "genreward_wrappers.rewards.served.deployment"
    monkeypatch.setitem(
        sys.modules, deployment, SimpleNamespace(deploy=asked, withdraw=None)
    )
    monkeypatch.setattr(serve, "require", lambda *_: ray)
    monkeypatch.setattr(connection, "find_cluster", join)
    command = ["serve", "--reward", "video:score=cosine", "--name", "cup", "--goal",
               str(tmp_path / "goal.safetensors"), "--replicas", "3", "--batch", "4",
               "--address", "host:6379", "--dtype", "bfloat16"]  # fmt: skip
    gpus = 2
    assert main([*command, "--env", "metaworld/reach"]) == 1
    assert capsys.readouterr().err.endswith("enough\n")
    assert (joined, ended) == (["host:6379"], [1])
    spec, facts, name = asked.args
    assert (spec.name, spec.options, name) == ("video", {"score": "cosine"}, "cup")
    assert (facts.env_id, facts.horizon) == ("metaworld/reach", 256)
    assert facts.action_space.shape == (4,)
    assert facts.goal.digest == goal.digest
    assert (facts.device, facts.dtype) == ("auto", "bfloat16")
    assert asked.options == {"replicas": 3, "batch": 4, "gpus": 1}
    more = ["--env", "metaworld/reach", "--horizon", "9", "--device", "cpu"]
    assert main([*command, *more]) == 1
    assert (asked.args[1].horizon, asked.args[1].device) == (9, "cpu")
    assert asked.options["gpus"] == 0
    np.save(tmp_path / "goal.npy", np.zeros((5, 64, 64, 3), np.uint8))
    command[command.index("--goal") + 1] = str(tmp_path / "goal.npy")
    with pytest.warns(UserWarning, match="has never seen any of 'CartPole-v1'"):
        assert main([*command, "--env", "CartPole-v1"]) == 1
    _, facts, _ = asked.args
    assert facts.goal.videos.shape == (1, 5, 64, 64, 3)
    assert (facts.env_id, facts.goal.env_id) == ("CartPole-v1", "CartPole-v1")
    assert facts.goal.encoder["source"] == "embedded:video-vae-64"
    gpus = 0
    capsys.readouterr()
    assert main([*command, "--device", "cuda"]) == 1
    assert "--device cuda: the Ray cluster has no GPU" in capsys.readouterr().err
