"""Files of priors, bad input, and the videos that they are trained on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from genreward_wrappers import load_reward
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import FileError, load_tensors, save_tensors
from genreward_wrappers.rewards.peers.diffusion_reward import DiffusionReward
from genreward_wrappers.rewards.peers.viper import Viper
from genreward_wrappers.training.priors import store
from genreward_wrappers.training.priors.settings import PriorTraining
from genreward_wrappers.training.priors.store import Prior
from genreward_wrappers.training.priors.transformer import PriorConfig, VideoTransformer
from genreward_wrappers.training.priors.vq_diffusion import DiffusionConfig
from genreward_wrappers.training.videos import load_videos
from tests.training.priors.small import KINDS, film, play, reward_model, trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_comes_back_from_its_file(kind, priors, tmp_path):
    prior = priors[kind].prior
    prior.save(tmp_path / "prior.safetensors")
    model = load_reward(kind, prior=tmp_path / "prior.safetensors", device="cpu")
    assert model.prior.statistics == prior.statistics
    assert model.prior.provenance == prior.provenance
    expected = play(reward_model(kind, prior), film())
    np.testing.assert_array_equal(play(model, film()), expected)
    other = KINDS[1 - KINDS.index(kind)]
    with pytest.raises(FileError, match=f"prior of '{kind}'.*genreward train-{other}"):
        load_reward(other, prior=tmp_path / "prior.safetensors")
    with pytest.raises(ValueError, match=f"prior of '{other}', got one of '{kind}'"):
        reward_model(other, prior)


def test_files_that_are_no_prior(priors, tmp_path, goal):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileError, match="no video prior at"):
        Viper(tmp_path / "nowhere")
    goal.save(path)
    with pytest.raises(FileError, match="safetensors file but no video prior"):
        Viper(path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(FileError, match="a pickle, which is never read"):
        Viper(tmp_path / "x.pt")
    priors["viper"].prior.save(path)
    tensors, header = load_tensors(path, store.LAYOUT)
    renamed = {k.replace("net/head", "net/top"): v for k, v in tensors.items()}
    infinite = {**tensors, "net/head.bias": np.full(16, np.inf, np.float32)}
    for changed, about, message in (
        (renamed, header, "(?s)missing:.*net/head.bias.*unexpected:.*net/top.bias"),
        (infinite, header, "'net/head.bias' holds NaN"),
        (tensors, {**header, "kind": "sonnet"}, "prior of 'sonnet'"),
        (tensors, {**header, "net": {**header["net"], "legs": 4}}, "legs"),
        (tensors, {**header, "net": {**header["net"], "codes": 8}}, "is \\(17, 16\\)"),
        (tensors, {**header, "codec": {**header["codec"], "dim": 9**6}}, "codec"),
        (tensors, {**header, "net": {**header["net"], "width": 4**9}}, "is \\("),
        (tensors, {**header, "schema": 9}, "schema 9"),
    ):
        layout = dataclasses.replace(store.LAYOUT, schema=about["schema"])
        save_tensors(path, changed, layout, about)
        with pytest.raises(FileError, match=message):
            Viper(path)


def test_bad_options(priors):
    viper, diffusion = (priors[kind].prior for kind in KINDS)
    with pytest.raises(ValueError, match="likelihood='first': expected one of 'last'"):
        Viper(viper, likelihood="first")
    with pytest.raises(ValueError, match="chains=0"):
        DiffusionReward(diffusion, chains=0)
    bare = dataclasses.replace(diffusion, statistics={"mean": 0.0})
    with pytest.raises(ValueError, match="no std of the reward.*standardised=False"):
        DiffusionReward(bare)
    assert DiffusionReward(bare, standardised=False)
    with pytest.raises(ValueError, match="of 16 codes at 16 .* of 8 at 16"):
        Prior("viper", viper.codec, VideoTransformer(PriorConfig(8, 16)))
    with pytest.raises(ValueError, match="kind='sonnet': expected one of viper"):
        Prior("sonnet", viper.codec, viper.net)
    with pytest.raises(ValueError, match="frames=1"):
        PriorConfig(8, 16, frames=1)
    with pytest.raises(ValueError, match="that the heads divide"):
        PriorConfig(8, 16, width=10, heads=3)
    for changes, message in (
        ({"hops": 200}, "from 1 to steps hops"),
        ({"context": 0}, "context=0"),
        ({"stray": 0.0}, "stray=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            DiffusionConfig(8, 16, **changes)
    for changes, message in (
        ({"batch": 0}, "batch=0"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"average": 1.0}, "average=1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            PriorTraining(**changes)


def test_bad_videos():
    fine = np.zeros((5, 32, 32, 3), np.uint8)
    for videos, message in (
        ([], "no videos"),
        ([fine, fine[:1]], "video 1: .*at least 2"),
        ([fine.astype(np.float32)], "got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer("viper", videos)
    made = trainer("viper", [fine])
    with pytest.raises(ValueError, match="0 of 70 updates"):
        made.finish()
    with pytest.raises(ValueError, match="still being trained"):
        _ = made.codes


def test_videos_come_from_files_folders_episodes_and_goals(goal, tmp_path):
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    np.save(tmp_path / "deep" / "er" / "a.npy", large)
    Episode(
        frames=large[:4, ::2, ::2],
        frame_steps=np.array([0, 2, 4, 6]),
        actions=np.zeros((6, 2)),
        success=np.zeros(6, bool),
    ).save(tmp_path / "deep" / "b.safetensors")
    goal.save(tmp_path / "deep" / "goal.safetensors")
    (tmp_path / "deep" / "notes.txt").write_text("no video")
    found = load_videos([tmp_path / "deep"], [tmp_path / "deep/goal.safetensors"], 32)
    assert [len(video) for video in found] == [4, 6, 33, 33, 33]
    np.testing.assert_array_equal(found[0], large[:4, ::2, ::2])
    blocks = large.reshape(6, 32, 2, 32, 2, 3).mean((2, 4))
    np.testing.assert_allclose(found[1], blocks, atol=0.51)
    np.testing.assert_array_equal(found[2], goal.videos[0])
    (tmp_path / "empty").mkdir()
    for sources, goals, size, message in (
        ([], [], 32, "nothing to train on"),
        ([tmp_path / "empty"], [], 32, "neither videos .*nor recorded episodes"),
        ([tmp_path / "no.mp4"], [], 32, "no video at"),
        ([tmp_path / "deep"], [], 48, "would have to be enlarged"),
        ([tmp_path / "deep"], [], (32, 16), "another aspect ratio"),
        ([], ["metaworld/nothing"], 64, "no embedded goal"),
    ):
        with pytest.raises(ValueError, match=message):
            load_videos(sources, goals, size)
