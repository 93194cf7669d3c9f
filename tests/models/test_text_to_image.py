"""The small text-to-image pipeline in models/: that TADPoLe runs on it, and sees."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from genreward_wrappers import load_goal, load_reward
from genreward_wrappers.data.files import embedded_folder
from genreward_wrappers.envs.stages import sentences
from tests.beside import MODELS, TASKS, needs_models

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

FOLDER = MODELS / "text-to-image-64"
#: Noise that is drawn for each picture.
DRAWS = 4

pytestmark = [needs_models, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def untrained(pipeline):
    """The same VAE, with a U-net and a text model of the same shape at random."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    return StableDiffusionPipeline(
        vae=pipeline.vae,
        text_encoder=CLIPTextModel(pipeline.text_encoder.config),
        tokenizer=pipeline.tokenizer,
        unet=UNet2DConditionModel.from_config(pipeline.unet.config),
        scheduler=pipeline.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tadpole(source, prompt, **options):
    return load_reward(
        "tadpole", prompt=prompt, pipeline=source, device="cpu", **options
    )


def preferences(pipeline, env_id, frames):
    """(n,) how much better the task's last sentence explains the noise than its first.

    At the noise of TADPoLe, the same noise for both.
    """
    begins, *_, ends = sentences(env_id)
    denoiser = tadpole(pipeline, ends, negative=begins).denoiser
    rng = np.random.default_rng(0)
    latents = denoiser.encode(frames).repeat_interleave(DRAWS, 0)
    drawn = rng.standard_normal(latents.shape, dtype=np.float32)
    noise = torch.from_numpy(drawn)
    t = torch.from_numpy(rng.integers(400, 500, len(latents)))
    of_end, of_begin = (
        (seen - noise).square().mean((1, 2, 3))
        for seen in denoiser.believe(latents, noise, t)
    )
    return (of_begin - of_end).reshape(-1, DRAWS).mean(1).numpy()


def test_it_is_small_and_holds_no_pickle():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 3.5e6


def test_it_says_what_it_was_trained_on():
    training = json.loads((FOLDER / "training.json").read_text())
    low, high = training["seeds"]
    # Goals, test episodes and held-out ones have other seeds.
    assert 4_000_000 <= low <= high < 5_900_000
    assert 0 < training["steps"] <= training["steps_planned"]


def test_tadpole_loads_it_and_says_which_words_it_does_not_know():
    frames = load_goal("metaworld/drawer-close").videos[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = tadpole(str(FOLDER), sentences("metaworld/drawer-close")[-1])
    assert model.denoiser.shape(frames) == (8, 16, 16)
    with pytest.warns(UserWarning, match="does not know 'eats' in"):
        tadpole(str(FOLDER), "the robot arm eats the drawer")


def test_its_encoder_is_the_video_vaes(pipeline):
    from diffusers import AutoencoderKLCogVideoX

    from genreward_wrappers.encoders.names import MARKERS

    folder = embedded_folder("embedded:video-vae-64", MARKERS, "encoder")
    video = AutoencoderKLCogVideoX.from_pretrained(folder, torch_dtype=torch.float32)
    frames = np.concatenate([load_goal(env_id).videos[:2, 0] for env_id in TASKS])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        expected = video.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0]
        found = pipeline.vae.float().encode(pixels).latent_dist.mode()
    # The weights were rounded once more.
    assert float((found - expected).norm() / expected.norm()) < 0.01
    # Of the spread that diffusion takes them to have.
    assert float(found.std()) * pipeline.vae.config.scaling_factor == pytest.approx(
        1, abs=0.05
    )


def reading(pipeline):
    """How it reads goal videos, on average over tasks.

    Of first and key frames, the share for which the right one of the two sentences is
    preferred; of videos, the share whose key frame prefers the last sentence more than
    its first frame does.
    """
    named, ordered = [], []
    for env_id in TASKS:
        goal = load_goal(env_id)
        frames = np.concatenate([goal.videos[:, 0], goal.key_pictures])
        first, last = np.split(preferences(pipeline, env_id, frames), 2)
        named.append(((first < 0).mean() + (last > 0).mean()) / 2)
        ordered.append((last > first).mean())
    return float(np.mean(named)), float(np.mean(ordered))


def test_it_sees_that_goal_videos_end_with_the_task_done(pipeline, untrained):
    """Half would be chance; it has 0.83 and 0.94, at random 0.51 and 0.51.

    Of three ways to count these two were kept, and the bars set, when the numbers were
    known: the test guards the files, and is no evidence of how good they are.
    """
    named, ordered = reading(pipeline)
    assert named > 0.65
    assert ordered > 0.75
    named, ordered = reading(untrained)
    assert named < 0.65
    assert ordered < 0.65
