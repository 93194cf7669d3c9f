"""Training of priors: losses, statistics, interruptions."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from genreward_wrappers.data.files import FileError, load_tensors, save_tensors
from genreward_wrappers.training.priors.train import LAYOUT as CHECKPOINT
from genreward_wrappers.training.priors.train import train
from genreward_wrappers.training.priors.vq_diffusion import certainty
from tests.training.priors.small import KINDS, SHORT, play, reward_model, trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_both_losses(kind, priors):
    losses = priors[kind].losses
    codec = [each["pixels"] for each in losses[: SHORT.codec_steps]]
    net = [each["loss"] for each in losses[SHORT.codec_steps :]]
    assert np.mean(codec[-5:]) < 0.7 * np.mean(codec[:5])
    assert np.mean(net[-10:]) < 0.9 * np.mean(net[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_the_reward_over_the_videos(kind, priors, goal):
    prior = priors[kind].prior
    frames = goal.videos.swapaxes(0, 1)
    options = {"standardised": False} if kind == "diffusion-reward" else {}
    paid = play(reward_model(kind, prior, **options), frames)
    mean, std = prior.statistics["mean"], prior.statistics["std"]
    assert prior.statistics["windows"] == paid.size == 96
    if kind == "viper":
        assert mean == pytest.approx(paid.mean(), rel=1e-4)
        assert std == pytest.approx(paid.std(), rel=1e-4)
    else:
        # Frames t and t + 1 are asked for what follows, by chains of their own.
        written = priors[kind].trainer.codes
        pairs = [codes[[t, t + 1]] for codes in written for t in range(len(codes) - 1)]
        keys = [np.random.default_rng([SHORT.seed, index]) for index in range(96)]
        own = certainty(prior.net, torch.stack(pairs), keys)
        assert mean == pytest.approx(own.mean(), rel=1e-4)
        assert std == pytest.approx(own.std(), rel=1e-4)
        # Those of an agent's episode: equal up to what chance makes of 96 of them.
        assert abs(mean - paid.mean()) < 4 * std / np.sqrt(paid.size)
        assert std == pytest.approx(paid.std(), rel=0.4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_of_the_weights(kind, goal):
    training = dataclasses.replace(SHORT, codec_steps=3, steps=14, average=0.6)
    made = trainer(kind, list(goal.videos), training)
    for _ in range(3):
        made.update()
    expected = {k: v.clone() for k, v in made.net_average.named_parameters()}
    for step in range(14):
        made.update()
        keep = min(0.6, (step + 1) / (step + 10))
        for name, new in made.net.named_parameters():
            expected[name] = keep * expected[name] + (1 - keep) * new.detach()
    for name, found in made.net_average.named_parameters():
        torch.testing.assert_close(found, expected[name])
    prior = made.finish()
    name = "head.weight"
    assert torch.equal(prior.net.state_dict()[name], expected[name]) or torch.allclose(
        prior.net.state_dict()[name], expected[name], atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [13, 40, 47], ids=["codec", "between", "prior"])
def test_a_killed_run_resumes_bit_for_bit(kind, stop, goal, tmp_path, priors):
    videos = list(goal.videos)
    first = trainer(kind, videos)
    for _ in range(stop):
        first.update()
    first.save(tmp_path / "x")
    second = trainer(kind, videos)
    second.restore(tmp_path / "x")
    assert second.step == stop
    # Which codes were used decides, later, which rows are put elsewhere.
    assert torch.equal(second._used, first._used)
    if stop == 13:
        assert second._used.sum() > 0
    losses = [second.update() for _ in range(second.steps - stop)]
    assert losses == priors[kind].losses[stop:]
    whole, parts = priors[kind].prior, second.finish()
    assert parts.statistics == whole.statistics
    for module in ("codec", "net"):
        one, two = (getattr(p, module).state_dict() for p in (whole, parts))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_unused_codes_are_put_where_frames_are(goal):
    training = dataclasses.replace(SHORT, codec_steps=40)
    made = trainer("viper", list(goal.videos), training)
    made.update()
    # After the first update all rows are latents of frames, and near each other.
    assert made.codec.codebook.std() > 1e-3
    with torch.no_grad():
        made.codec.codebook[5] = 1000.0
    # It may have been used before; the next time round it has not.
    for _ in range(19):
        made.update()
    assert made.codec.codebook.abs().max() < 100


def test_training_says_how_far_it_is_and_resumes(goal, tmp_path):
    said = []
    training = dataclasses.replace(SHORT, codec_steps=6, steps=6)
    output = tmp_path / "viper.safetensors"
    checkpoint = tmp_path / "viper.safetensors.checkpoint"

    class Killed(Exception):
        pass

    def die(line):
        said.append(line)
        if line.startswith("8/12"):
            raise Killed

    videos = list(goal.videos)
    with pytest.raises(Killed):
        train(trainer("viper", videos, training), output, every=4, log=die)
    assert checkpoint.exists()
    assert not output.exists()
    with pytest.raises(FileError, match="checkpoint of another run"):
        train(trainer("viper", videos[:2], training), output)
    with pytest.raises(FileError, match="(?s)another run.*'width': 16.*'width': 8"):
        train(trainer("viper", videos, training, width=8), output)
    prior = train(trainer("viper", videos, training), output, every=4, log=said.append)
    assert [line.split()[0] for line in said] == [
        "4/12", "8/12", "resumes", "8/12", "12/12",
    ]  # fmt: skip
    assert "codec  pixels" in said[0]
    assert "prior  loss" in said[-1]
    assert not checkpoint.exists()
    whole = trainer("viper", videos, training)
    for _ in range(12):
        whole.update()
    assert whole.finish().statistics == prior.statistics
    # What is there stays there, and what a killed process left beside it goes.
    checkpoint.write_bytes(b"left behind")
    again = train(trainer("viper", videos, training), output, log=said.append)
    assert again.statistics == prior.statistics
    assert not checkpoint.exists()
    with pytest.raises(ValueError, match="exists already, from another run"):
        train(trainer("viper", videos[:1], training), output)
    # A checkpoint that is damaged is not gone on with.
    output.unlink()
    checkpoint.write_bytes(b"half of it")
    with pytest.raises(FileError, match="no safetensors file"):
        train(trainer("viper", videos, training), output)


@pytest.mark.parametrize("kind", KINDS)
def test_the_codec_of_another_prior_is_taken_as_it_is(kind, goal, tmp_path, priors):
    given = priors["viper"].prior.codec
    videos = list(goal.videos)
    training = dataclasses.replace(SHORT, steps=6)
    output = tmp_path / "x.safetensors"
    said = []
    prior = train(
        trainer(kind, videos, training, given), output, every=2, log=said.append
    )
    assert [line.split()[:2] for line in said] == [
        ["2/6", "prior"], ["4/6", "prior"], ["6/6", "prior"],
    ]  # fmt: skip
    own = prior.codec.state_dict()
    for name, tensor in given.state_dict().items():
        assert torch.equal(own[name], tensor), name
    # Another codec is another run, and so is none.
    other = copy.deepcopy(given)
    with torch.no_grad():
        other.codebook[0] += 1
    for codec in (other, given.config):
        with pytest.raises(ValueError, match="from another run"):
            train(trainer(kind, videos, training, codec), output)


def test_a_run_on_a_given_codec_resumes_bit_for_bit(goal, tmp_path, priors):
    codec, videos = priors["viper"].prior.codec, list(goal.videos)
    whole, part = (trainer("viper", videos, codec=codec) for _ in range(2))
    for made, count in ((whole, 5), (part, 3)):
        for _ in range(count):
            made.update()
    part.save(tmp_path / "x")
    again = trainer("viper", videos, codec=codec)
    again.restore(tmp_path / "x")
    assert again.step == 3
    assert [again.update() for _ in range(2)] == [part.update() for _ in range(2)]
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], tensor), name


def test_a_checkpoint_with_other_weights_is_refused(goal, tmp_path):
    made = trainer("viper", list(goal.videos))
    made.update()
    made.save(tmp_path / "x")
    tensors, header = load_tensors(tmp_path / "x", CHECKPOINT)
    moment = next(name for name in tensors if "codec_adam/3/exp_avg" in name)
    for change, message in (
        ({"net/head.bias": None}, "(?s)other names.*missing.*net/head.bias"),
        ({"net/head.bias": np.zeros(3)}, "'net/head.bias' is \\(3,\\)"),
        ({"net/extra": np.zeros(3)}, "(?s)unexpected:.*net/extra"),
        ({moment: None}, "codec_adam has .* for parameter 3"),
        ({"generator": None}, "'generator'"),
    ):
        changed = {k: v for k, v in {**tensors, **change}.items() if v is not None}
        save_tensors(tmp_path / "y", changed, CHECKPOINT, header)
        with pytest.raises(FileError, match=message):
            trainer("viper", list(goal.videos)).restore(tmp_path / "y")
