"""A published checkpoint of full size, as far as it goes without its weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from genreward_wrappers.generators.checkpoints import find_pipeline
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model, Sampling
from tests import published

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SIZE = (480, 720)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.write_cogvideox(tmp_path_factory.mktemp("cogvideox-5b-i2v"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return published.on_meta(folder)


def changed(folder, tmp_path, part, **changes):
    """The same folder with another configuration of one part."""
    import shutil

    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    path = copy / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return Model(str(copy), device="cpu")


def test_the_files_are_as_long_as_the_published_ones(folder):
    """By the list of files of the repository; the text encoder's says more there."""
    for name, length in (
        ("model_index.json", 423),
        ("scheduler/scheduler_config.json", 482),
        ("transformer/config.json", 802),
        ("vae/config.json", 839),
    ):
        assert (folder / name).stat().st_size == length


def test_all_checks_before_the_weights_pass(folder):
    found = find_pipeline(str(folder), None)
    assert found.kind.__name__ == "CogVideoXImageToVideoPipeline"
    assert found.compression() == (8, 4)
    generator = Generator(Model(str(folder), device="cpu"))
    assert generator.wants_image
    settings = generator.settings(Sampling("push the disc"))
    assert (settings["height"], settings["width"]) == SIZE
    assert (settings["num_frames"], settings["num_inference_steps"]) == (49, 50)
    assert generator._text_length() == {"max_sequence_length": 226}
    generator.check_image(np.zeros((*SIZE, 3), np.uint8), settings)
    generator.check_image(np.zeros((64, 96, 3), np.uint8), settings)
    with pytest.raises(ValueError, match=r"64x64 .*another aspect ratio"):
        generator.check_image(np.zeros((64, 64, 3), np.uint8), settings)
    for wrong, message in (
        ({"size": (64, 96)}, "learned its positions"),
        ({"frames": 48}, "45 or 49"),
    ):
        with pytest.raises(ValueError, match=message):
            generator.settings(Sampling("push the disc", **wrong))


def test_a_shard_that_is_missing_is_named(folder, tmp_path):
    model = changed(folder, tmp_path, "transformer")
    shard = "diffusion_pytorch_model-00002-of-00002.safetensors"
    (tmp_path / "changed" / "transformer" / shard).unlink()
    with pytest.raises(ValueError, match=f"transformer .*no {shard}"):
        Generator(model)


def test_parts_have_their_published_sizes(pipeline):
    """Two bytes a weight: the sizes that the repository lists, in GiB."""

    def size(model):
        return 2 * sum(weight.numel() for weight in model.parameters()) / 2**30

    # Three files of 4.6, 4.6 and 1.2, two of 4.7 and 4.2, and one of 411.2 MiB.
    assert size(pipeline.transformer) == pytest.approx(10.4, abs=0.15)
    assert size(pipeline.text_encoder) == pytest.approx(8.9, abs=0.1)
    assert size(pipeline.vae) * 1024 == pytest.approx(411.2, abs=0.3)
    assert {w.device.type for w in pipeline.transformer.parameters()} == {"meta"}


@torch.inference_mode()
def test_what_generate_asks_for_fits_through_every_part(folder, pipeline):
    """The shapes of one denoising step, by the pipeline's own preparations."""
    generator = Generator(Model(str(folder), device="cpu"))
    settings = generator.settings(Sampling("push the disc to its target"))
    height, width, frames = (
        settings[name] for name in ("height", "width", "num_frames")
    )
    length = generator._text_length()["max_sequence_length"]
    words, none = pipeline.encode_prompt(
        settings["prompt"], "", True, max_sequence_length=length, device="meta"
    )
    assert words.shape == none.shape == (1, 226, 4096)
    picture = torch.zeros(1, 3, height, width, device="meta")
    latents, beside = pipeline.prepare_latents(
        picture, 1, 16, frames, height, width, words.dtype, torch.device("meta"),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert latents.shape == beside.shape == (1, 13, 16, 60, 90)
    seen = torch.cat([latents, beside], 2)
    assert seen.shape[2] == pipeline.transformer.config.in_channels
    rotary = pipeline._prepare_rotary_positional_embeddings(
        height, width, latents.shape[1], torch.device("meta")
    )
    noise = pipeline.transformer(
        hidden_states=torch.cat([seen] * 2),
        encoder_hidden_states=torch.cat([none, words]),
        timestep=torch.zeros(2, device="meta"),
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]
    assert noise.shape == (2, 13, 16, 60, 90)
    video = pipeline.decode_latents(noise[:1])
    assert video.shape == (1, 3, frames, height, width)


@pytest.mark.parametrize(
    ("part", "changes", "kind", "message"),
    [
        ("transformer", {"in_channels": 16}, "", "continue no picture"),
        ("transformer", {"in_channels": 48}, "", "takes 48 channels.*gives it 32"),
        ("vae", {"latent_channels": 4}, "", "takes 32 channels.*gives it 8"),
        ("vae", {}, "CogVideoXPipeline", "takes 32 channels.*gives it 16.*--pipeline"),
    ],
)
def test_parts_that_do_not_belong_together(
    part, changes, kind, message, folder, tmp_path
):
    model = changed(folder, tmp_path, part, **changes)
    with pytest.raises(ValueError, match=message):
        Generator(Model(model.source, kind=kind, device="cpu"))
