"""Checkpoints that lack weights, have others, or of another shape."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from genreward_wrappers.encoders import strict_loading
from genreward_wrappers.encoders.clip import load_clip
from genreward_wrappers.encoders.strict_loading import (
    NAMED,
    WeightsError,
    check_weights,
)
from genreward_wrappers.encoders.vae_checkpoint import load_video_vae
from genreward_wrappers.encoders.vision import load_vision
from genreward_wrappers.generators.checkpoints import find_pipeline, load_pipeline
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model
from genreward_wrappers.rewards.peers.denoiser import Denoiser
from tests import pipelines, video_pipelines

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

#: A weight of each part of the small CogVideoX.
WEIGHTS = {
    "transformer": "transformer_blocks.0.ff.net.2.weight",
    "vae": "decoder.conv_in.conv.weight",
    "text_encoder": "encoder.block.0.layer.0.SelfAttention.q.weight",
}


def lost(weights, name):
    del weights[name]
    return f"missing: {name}$"


def renamed(weights, name):
    weights["stranger"] = weights.pop(name)
    return f"missing: {name}; unknown: stranger$"


def added(weights, name):
    weights["stranger"] = torch.zeros(2)
    return "configuration; unknown: stranger$"


def misshaped(weights, name):
    was = tuple(weights[name].shape)
    weights[name] = weights[name][:-1].clone()
    now = tuple(weights[name].shape)
    return re.escape(f"of another shape: {name} {now}, expected {was}") + "$"


def changed(path, change, name):
    """Changes a file, and says what the error then says."""
    weights = safetensors.load_file(path)
    said = change(weights, name)
    safetensors.save_file(weights, path, {"format": "pt"})
    return said.removesuffix("$")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Makes each pipeline once: a copy of its folder, to change."""
    made = {}

    def copy(name, target, **options):
        key = (name, *options.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp(name)
            where = pipelines if hasattr(pipelines, name) else video_pipelines
            getattr(where, name)().save_pretrained(made[key], **options)
        return shutil.copytree(made[key], target / "copy")

    return copy


def weights_of(folder):
    (found,) = folder.glob("*.safetensors")
    return found


def load(folder, **options):
    return Generator(Model(str(folder), device="cpu", **options)).pipeline


# Pipelines


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("change", [lost, renamed, added, misshaped])
def test_every_weight_of_every_part_counts(part, change, saved, tmp_path):
    folder = saved("cogvideox", tmp_path)
    message = changed(weights_of(folder / part), change, WEIGHTS[part])
    with pytest.raises(ValueError, match=rf"copy/{part} \(.*{message}"):
        load(folder)
    found = find_pipeline(str(folder), None)
    # What is not loaded is not looked at.
    assert getattr(load_pipeline(found, None, without=[part]), part) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cogvideox", "wan", "ltx", "stable_diffusion", "sdxl", "animatediff"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_ones_are_what_their_library_loads(name, dtype, saved, tmp_path):
    if name == "wan":
        # Its layers that stay in float32 load no other way.
        pytest.importorskip("accelerate")
    folder = saved(name, tmp_path)
    found = find_pipeline(str(folder), None)
    ours = load_pipeline(found, dtype)
    theirs = found.kind.from_pretrained(folder, torch_dtype=dtype)
    assert type(ours) is type(theirs)
    assert ours.components.keys() == theirs.components.keys()
    seen = 0
    for part, model in theirs.components.items():
        own = ours.components[part]
        assert type(own) is type(model)
        if not isinstance(model, torch.nn.Module):
            continue
        weights = own.state_dict()
        assert weights.keys() == model.state_dict().keys()
        for key, weight in model.state_dict().items():
            assert weights[key].dtype == weight.dtype
            assert torch.equal(weights[key], weight)
            seen += 1
        assert not own.training
    assert seen > 20


def test_another_class_may_do_without_some_parts(saved, tmp_path):
    from diffusers import LTXPipeline

    folder = saved("ltx", tmp_path)
    kind = "LTXImageToVideoPipeline"
    assert type(load(folder, kind=kind)).__name__ == kind
    index = folder / "model_index.json"
    listed = json.loads(index.read_text())
    # It is not even there.
    listed["image_encoder"] = ["transformers", "T5EncoderModel"]
    index.write_text(json.dumps(listed))
    found = strict_loading.load_pipeline(LTXPipeline, folder)
    assert type(found.transformer).__name__ == listed["transformer"][1]


def test_shared_embeddings_may_have_either_name(saved, tmp_path):
    folder = saved("cogvideox", tmp_path)
    path = weights_of(folder / "text_encoder")
    weights = safetensors.load_file(path)
    table = weights.pop("shared.weight")
    assert "encoder.embed_tokens.weight" not in weights
    safetensors.save_file(
        {**weights, "encoder.embed_tokens.weight": table}, path, {"format": "pt"}
    )
    assert torch.equal(load(folder).text_encoder.shared.weight, table)
    safetensors.save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match="text_encoder .*missing: .*shared.weight"):
        load(folder)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_shards(part, saved, tmp_path):
    """Of several files, both what the index says and what is in them counts."""
    folder = saved("cogvideox", tmp_path, max_shard_size="6KB")
    (index,) = (folder / part).glob("*.index.json")
    listed = json.loads(index.read_text())
    name = WEIGHTS[part]
    shard = folder / part / listed["weight_map"][name]
    assert len(set(listed["weight_map"].values())) > 1
    load(folder)
    before = shard.read_bytes()
    changed(shard, lost, name)
    with pytest.raises(ValueError, match=f"copy/{part} .*missing: {name}"):
        load(folder)
    del listed["weight_map"][name]
    index.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=f"copy/{part} .*missing: {name}"):
        load(folder)
    shard.write_bytes(before[:-8])
    with pytest.raises(ValueError, match="does not load"):
        load(folder)


@pytest.mark.parametrize("change", [lost, renamed, misshaped])
def test_a_denoiser_of_the_text_reward(change, saved, tmp_path):
    folder = saved("stable_diffusion", tmp_path)
    Denoiser(str(folder), "a red disc")
    name = "mid_block.attentions.0.proj_in.weight"
    message = changed(weights_of(folder / "unet"), change, name)
    with pytest.raises(WeightsError, match=rf"copy/unet \(.*{message}"):
        Denoiser(str(folder), "a red disc")


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize("change", [lost, renamed, misshaped])
def test_in_fewer_bits(part, change, saved, tmp_path):
    pytest.importorskip("torchao")
    pytest.importorskip("accelerate")
    folder = saved("cogvideox", tmp_path)
    load(folder, quantise="int8")
    message = changed(weights_of(folder / part), change, WEIGHTS[part])
    with pytest.raises(ValueError, match=rf"copy/{part} \(.*{message}"):
        load(folder, quantise="int8")


# Encoders


@pytest.mark.parametrize("change", [lost, renamed, added, misshaped])
def test_the_encoder_of_a_video_vae(change, saved, tmp_path):
    folder = saved("cogvideox", tmp_path) / "vae"
    load_video_vae(folder, device="cpu", size=(32, 48))
    message = changed(weights_of(folder), change, "encoder.conv_out.conv.bias")
    with pytest.raises(WeightsError, match=rf"copy/vae \(.*{message}"):
        load_video_vae(folder, device="cpu", size=(32, 48))


def test_a_decoder_that_is_not_loaded_may_be_missing(saved, tmp_path):
    folder = saved("cogvideox", tmp_path) / "vae"
    changed(weights_of(folder), lost, WEIGHTS["vae"])
    load_video_vae(folder, device="cpu", size=(32, 48))
    with pytest.raises(WeightsError, match=f"missing: {WEIGHTS['vae']}"):
        load_video_vae(folder, device="cpu", size=(32, 48), keep_decoder=True)


@pytest.mark.parametrize(
    "name", ["visual.transformer.resblocks.0.mlp.c_fc.weight", "positional_embedding"]
)
@pytest.mark.parametrize("change", [lost, renamed, added, misshaped])
def test_clip(name, change, clip_folder, tmp_path):
    """Positions of another number open_clip stretches, and says nothing."""
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    load_clip(str(folder), device="cpu")
    message = changed(weights_of(folder), change, name)
    with pytest.raises(WeightsError, match=message):
        load_clip(str(folder), device="cpu")


@pytest.fixture
def vision(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    ViTModel(config).save_pretrained(tmp_path)
    size = {"height": 16, "width": 16}
    ViTImageProcessor(size=size).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("change", [lost, renamed, misshaped])
def test_a_vision_model(change, vision):
    name = "layernorm.weight"
    path = weights_of(vision)
    # What a head was for is of no use, and what a pooler lacks makes no difference.
    changed(path, added, "")
    changed(path, lost, "pooler.dense.bias")
    load_vision(str(vision), device="cpu")
    message = changed(path, change, name)
    with pytest.raises(WeightsError, match=message):
        load_vision(str(vision), device="cpu")


def test_files_that_were_cut_short(saved, vision, clip_folder, tmp_path):
    folder = saved("cogvideox", tmp_path)
    clip = shutil.copytree(clip_folder, tmp_path / "clip")
    for path, begin in (
        (folder / "vae", lambda f: load_video_vae(f, device="cpu", size=(32, 48))),
        (folder / "transformer", lambda f: load(f.parent)),
        (clip, lambda f: load_clip(str(f), device="cpu")),
        (vision, lambda f: load_vision(str(f), device="cpu")),
    ):
        file = weights_of(path)
        file.write_bytes(file.read_bytes()[:-8])
        with pytest.raises(ValueError, match="(?s)cut short|does not load"):
            begin(path)


# What is said


def test_no_more_than_a_few_are_named():
    names = [f"w{i}" for i in range(NAMED + 3)]
    check_weights("nothing", [])
    with pytest.raises(WeightsError, match="missing: w0, w1, w2, w3 and 3 more;"):
        check_weights("a.safetensors", reversed(names), ["z"])
    with pytest.raises(WeightsError, match="unknown: w0, w1, w2, w3$"):
        check_weights("a.safetensors", [], names[:NAMED])
