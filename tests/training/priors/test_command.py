"""`genreward train-viper` and `genreward train-diffusion-reward`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from genreward_wrappers import RewardModelWrapper
from genreward_wrappers.cli.main import main
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.priors.store import Prior
from tests.training.priors.small import KINDS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_trains_on_a_goal(kind, goal, tmp_path, capsys):
    goal.save(tmp_path / "goal.safetensors")
    output = tmp_path / "prior.safetensors"
    command = [
        f"train-{kind}", "--goal", str(tmp_path / "goal.safetensors"), "--size", "32",
        "--codec-steps", "2", "--steps", "2", "--every", "2", "--batch", "2",
        "--device", "cpu", "--output", str(output),
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2/4  codec" in said
    assert "4/4  prior" in said
    prior = Prior.load(output, kind)
    assert f"mean {prior.statistics['mean']:.4g}" in said
    assert prior.provenance["training"]["steps"] == 2
    assert prior.provenance["videos"] == 3
    json.dumps(prior.provenance)
    env = RewardModelWrapper(PointMass(size=32), kind, options={"prior": output})
    env.reset(seed=0)
    assert np.isfinite(env.step(np.ones(2, np.float32))[1])


def test_the_command_takes_another_priors_codec(goal, tmp_path, capsys, priors):
    goal.save(tmp_path / "goal.safetensors")
    priors["viper"].prior.save(tmp_path / "viper.safetensors")
    command = [
        "train-diffusion-reward", "--goal", str(tmp_path / "goal.safetensors"),
        "--codec", str(tmp_path / "viper.safetensors"), "--steps", "2", "--batch", "2",
        "--device", "cpu", "--output", str(tmp_path / "x.safetensors"),
    ]  # fmt: skip
    assert main([*command, "--size", "64"]) == 1
    assert "--size (64, 64): the codec of" in capsys.readouterr().err
    assert main(command) == 0
    made = Prior.load(tmp_path / "x.safetensors", "diffusion-reward").codec
    assert made.config.size == (32, 32)
    assert torch.equal(made.codebook, priors["viper"].prior.codec.codebook)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    for arguments, message in (
        ([], "nothing to train on"),
        ([str(tmp_path)], "neither videos"),
        (["--goal", "metaworld/pick-place", "--size", "60"], "60"),
        (["--goal", "metaworld/pick-place", "--steps", "0"], "steps=0"),
        (["--goal", "metaworld/pick-place", "--every", "0"], "every=0"),
        (["--goal", "metaworld/pick-place", "--batch", "0"], "batch=0"),
    ):
        command = ["train-viper", *arguments, "--output", str(tmp_path / "x")]
        assert main(command) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("genreward train-viper: ")
        assert message in error
        assert not (tmp_path / "x").exists()
