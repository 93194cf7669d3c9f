"""Reading a pose from a picture, and the reader as an encoder of the rewards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from genreward_wrappers import load_goal
from genreward_wrappers.encoders.pose import (
    PoseConfig,
    PoseNet,
    PoseReader,
    load_pose,
    save_pose,
)
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.weight_files import WeightsError
from genreward_wrappers.rewards.video_level import VideoLevel

CONFIG = PoseConfig((3, 0), (16, 24), (4, 4, 4), 8)


def net() -> PoseNet:
    """A small one with a mean and units of its own."""
    torch.manual_seed(3)
    made = PoseNet(CONFIG)
    made.mean.copy_(torch.tensor([0.5, -2.0]))
    made.unit.copy_(torch.tensor([0.1, 4.0]))
    return made


@pytest.fixture
def folder(tmp_path):
    """A saved reader."""
    save_pose(tmp_path / "pose", net(), CONFIG, {"step": "train-pose"})
    return tmp_path / "pose"


def pictures(n=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 16, 24, 3), dtype=np.uint8)


class TestReader:
    def test_a_latent_is_what_the_layers_say_of_the_centred_picture(self):
        frames = pictures()
        images = torch.from_numpy(frames.transpose(0, 3, 1, 2) / 255 - 0.5).float()
        expected = net().layers(images).detach()
        found = PoseReader(net(), CONFIG, device="cpu").encode_images(frames)
        torch.testing.assert_close(found, expected)

    def test_a_pose_is_in_its_own_units(self):
        reader = PoseReader(net(), CONFIG, device="cpu")
        latents = reader.encode_images(pictures()).numpy()
        expected = np.array([0.5, -2.0]) + latents * np.array([0.1, 4.0])
        np.testing.assert_allclose(reader.read(pictures()), expected, rtol=1e-6)

    def test_a_saved_reader_reads_the_same(self, folder):
        before, after = PoseReader(net(), CONFIG, device="cpu"), load_pose(folder)
        assert after.fingerprint == before.fingerprint
        assert torch.equal(after.read(pictures()).cpu(), before.read(pictures()))

    def test_it_is_loaded_by_name(self, folder):
        loaded = load_encoder(str(folder), device="cpu")
        assert isinstance(loaded, PoseReader)
        assert loaded.source == str(folder)
        untrained = load_encoder(f"random:{folder}", device="cpu")
        assert untrained.control
        assert untrained.fingerprint["sha256"] != loaded.fingerprint["sha256"]

    def test_it_reads_goals_that_were_made_with_another_encoder(self):
        goal = load_goal("metaworld/reach")
        assert goal.encoder["source"] != "embedded:pose-64"
        model = VideoLevel(goal, "embedded:pose-64", horizon=16, device="cpu")
        assert model.encoder.latent_shape == (4,)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"columns": ()}, "at least one number"),
            ({"columns": (1, 1)}, "each of them once"),
            ({"columns": (-1,)}, "numbers from 0 on"),
            ({"columns": (0,), "size": (64, 60)}, "two multiples of 8"),
            ({"columns": (0,), "widths": (1, 0, 1)}, "three positive"),
        ],
    )
    def test_of_configurations(self, options, said):
        with pytest.raises(ValueError, match=said):
            PoseConfig(**options)

    def test_weights_of_another_shape_are_named(self, folder):
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, "hidden": 9}))
        with pytest.raises(WeightsError, match=r"layers\.11\.weight"):
            load_encoder(str(folder), device="cpu")

    def test_unknown_settings(self, folder):
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, "depth": 9}))
        with pytest.raises(WeightsError, match=r"no configuration of a pose.*depth"):
            load_encoder(str(folder), device="cpu")

    def test_weights_that_are_cut_short(self, folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(WeightsError, match="damaged or cut short"):
            load_encoder(str(folder), device="cpu")

    def test_another_size_than_the_readers(self, folder):
        with pytest.raises(ValueError, match=r"pictures of \(16, 24\)"):
            load_encoder(str(folder), device="cpu", size=(64, 64))
