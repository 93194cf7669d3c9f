"""The small models that come with the package: that they load, and see what is there.

Each is judged on episodes of seeds that it was not trained on; scripts/ has the judges
that say how well.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from genreward_wrappers import load_encoder
from genreward_wrappers.data.files import embedded_folder, embedded_folders
from genreward_wrappers.encoders.names import MARKERS
from genreward_wrappers.goal_pipeline.collect import Job, record

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("metaworld")

#: Far from all seeds that anything was trained on.
SEED = 7_000_000
DRAWER = "a robot arm pushes the drawer shut"


@pytest.fixture(scope="module")
def episode():
    """A drawer that is shut in front of nobody's eyes yet."""
    found = record(
        Job("metaworld/drawer-close", (("obs", "state"),), "scripted", SEED, 256, 17)
    )
    assert found.succeeded
    return found


def clip_of(frames):
    """(1, 3, T, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(frames).float() / 127.5 - 1
    return pixels.permute(3, 0, 1, 2)[None]


def test_every_embedded_model_says_what_it_was_trained_on():
    for folder in embedded_folders(MARKERS).values():
        training = json.loads((folder / "training.json").read_text())
        low, high = training["seeds"]
        # Goals, test episodes and learning runs have other seeds.
        assert 4_000_000 <= low <= high < 8_000_000
        assert not low <= SEED <= high
        assert training["steps"] > 0


def test_the_vae_gives_back_what_moves(episode):
    from diffusers import AutoencoderKLCogVideoX

    folder = embedded_folder("embedded:video-vae-64", MARKERS, "encoder")
    vae = AutoencoderKLCogVideoX.from_pretrained(folder).eval()
    pixels = clip_of(episode.frames)
    with torch.inference_mode():
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    usual = pixels.median(2, keepdim=True).values
    moving = (pixels - usual).abs().amax(1, keepdim=True) > 0.125
    error, lost = (
        float(((other - pixels).square() * moving).sum()) for other in (back, usual)
    )
    # A network that lost the arm would be as far off as a picture without it.
    assert error < lost / 4
    # Its latents are of the spread that diffusion takes them to have.
    with torch.inference_mode():
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    assert 0.5 < float(latents.std()) < 2


def test_clip_reads_the_drawer(episode):
    pytest.importorskip("open_clip")
    clip = load_encoder("embedded:clip-64", device="cpu")
    said = clip.encode_texts(["the robot arm is away from the drawer", DRAWER])
    seen = clip.encode_images(episode.frames[[0, -1]]).reshape(2, -1).float()
    fit = (torch.nn.functional.normalize(seen, dim=-1) @ said.T).numpy()
    assert fit.argmax(1).tolist() == [0, 1]
    with pytest.warns(UserWarning, match="does not know 'eats' in"):
        clip.encode_texts("a robot arm eats the drawer")


def test_names_that_are_not_embedded_are_told():
    with pytest.raises(ValueError, match="no embedded encoder 'dall-e'; there are"):
        load_encoder("embedded:dall-e")
    assert {*embedded_folders(MARKERS)} == {"clip-64", "pose-64", "video-vae-64"}


@pytest.fixture(scope="module")
def generator():
    from genreward_wrappers.generators.pipeline import Generator
    from genreward_wrappers.generators.settings import Model

    return Generator(Model("embedded:goal-generator-64", device="cpu"))


def test_the_generator_shuts_a_drawer(episode, generator):
    """It continues the frame, and CLIP, which it knows nothing of, sees the end."""
    pytest.importorskip("open_clip")
    from genreward_wrappers.generators.settings import Sampling

    settings = generator.settings(Sampling(DRAWER, steps=8, guidance=1.0))
    video = generator(settings, 0, episode.frames[0], lambda step, of: None)
    assert video.shape == (17, 64, 64, 3)
    begins, ends = (
        np.square(video[0].astype(float) - episode.frames[t]).mean() for t in (0, -1)
    )
    assert begins < ends
    clip = load_encoder("embedded:clip-64", device="cpu")
    said = clip.encode_texts(["the robot arm is away from the drawer", DRAWER])
    seen = clip.encode_images(video[[0, -1]]).reshape(2, -1).float()
    fit = (torch.nn.functional.normalize(seen, dim=-1) @ said.T).numpy()
    assert fit.argmax(1).tolist() == [0, 1]


def test_the_generator_is_a_pipeline_of_diffusers(generator):
    """Loaded as anybody would, without this package."""
    from diffusers import CogVideoXImageToVideoPipeline

    folder = embedded_folders(("model_index.json",))["goal-generator-64"]
    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(folder)
    assert pipeline.transformer.config.sample_frames == 17
    ours = generator.pipeline.transformer.state_dict()
    for name, weight in pipeline.transformer.state_dict().items():
        torch.testing.assert_close(weight, ours[name])
