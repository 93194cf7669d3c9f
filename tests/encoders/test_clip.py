"""Encoders of pictures: as their own libraries have them, batched, and nothing cut."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from genreward_wrappers import load_encoder
from genreward_wrappers.encoders.clip import ClipEncoder, load_clip
from genreward_wrappers.encoders.images import Pictures
from genreward_wrappers.encoders.names import CLIP_CONFIG as CONFIG
from genreward_wrappers.encoders.names import CLIP_WEIGHTS as WEIGHTS
from genreward_wrappers.encoders.stream import stream_push, stream_start
from genreward_wrappers.encoders.texts import as_texts, text_tower
from genreward_wrappers.encoders.vision import load_vision, pictures_of
from genreward_wrappers.rewards.video_level import VideoLevel
from genreward_wrappers.testing import check_reward_model

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

#: What Pillow's fixed-point arithmetic may cost against floats, in levels of 255: one
#: for each of two roundings.
LEVELS = 2.001


def pictures(height, width, count=3, seed=0):
    """Noise, which shows every difference, and a slope, which shows shifts."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8)
    frames[0] = np.linspace(0, 255, width)[None, :, None].astype(np.uint8)
    return frames


@pytest.fixture(scope="module")
def encoder(clip_folder):
    return load_clip(str(clip_folder), device="cpu")


# How pictures are prepared


@pytest.mark.parametrize(
    ("size", "resize", "interpolation"),
    [
        ((32, 32), "shortest", "bicubic"),
        ((32, 32), "shortest", "bilinear"),
        ((32, 32), "squash", "bicubic"),
        ((32, 32), "longest", "bicubic"),
        ((24, 40), "shortest", "bicubic"),
        ((24, 40), "longest", "bilinear"),
    ],
)
@pytest.mark.parametrize("shape", [(64, 64), (20, 30), (33, 47), (50, 16), (32, 32)])
def test_pictures_are_prepared_as_open_clip_does(size, resize, interpolation, shape):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(
            size, "RGB", mean, std, interpolation, resize, fill_color=7
        ),
        is_train=False,
    )
    frames = pictures(*shape)
    expected = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    ours = Pictures(size, resize, None, interpolation, mean, std, fill=7)
    found = ours.normalise(ours.fit(torch.from_numpy(frames)))
    assert found.shape == expected.shape == (3, 3, *size)
    apart = (found - expected).abs() * 255 * torch.tensor(std)[:, None, None]
    assert apart.mean() < 0.5
    # Of tall pictures Pillow may do the other side first, which shows in noise.
    assert (apart[:1] if shape[0] > shape[1] else apart).max() < LEVELS


@pytest.mark.parametrize("level", [0, 1, 9, 128, 255])
def test_the_range_does_not_hang_on_the_picture(encoder, level):
    """A dark frame is a dark frame, alone, beside bright ones, and as the first."""
    plain = np.full((1, 64, 64, 3), level, np.uint8)
    mean, std = np.array([0.48, 0.45, 0.4]), np.array([0.26, 0.25, 0.27])
    seen = encoder.pictures.normalise(encoder.prepare(torch.from_numpy(plain)))
    expected = (level / 255 - mean) / std
    np.testing.assert_allclose(seen[0].mean((1, 2)), expected, atol=1e-5)
    others = pictures(64, 64, 4)
    alone = encoder.encode_images(plain)
    for batch in (np.concatenate([plain, others]), np.concatenate([others, plain])):
        row = 0 if batch[0, 0, 0, 0] == level and (batch[0] == level).all() else -1
        torch.testing.assert_close(
            encoder.encode_images(batch)[row], alone[0], atol=1e-5, rtol=1e-5
        )


def test_fitted_pictures_stay(encoder):
    frames = torch.from_numpy(pictures(64, 48))
    once = encoder.prepare(frames)
    assert once.shape == (3, 32, 32, 3)
    assert once.dtype == torch.uint8
    assert torch.equal(encoder.prepare(once), once)


# CLIP's pictures


def test_embeddings_are_open_clips(encoder, clip_folder):
    model, transform = open_clip.create_model_from_pretrained(
        f"local-dir:{clip_folder}"
    )
    model.double().eval()
    for shape, tolerance in (((32, 32), 1e-5), ((64, 80), 5e-3), ((20, 20), 5e-3)):
        frames = pictures(*shape)
        images = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
        with torch.no_grad():
            expected = model.encode_image(images.double())
        assert expected.std(0).max() > 10 * tolerance, "it sees the pictures"
        found = encoder.encode_images(frames)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0)
        assert (found.norm(dim=1) - 1).abs().min() > 0.1, "not brought to unit length"


def test_batches_do_not_matter(encoder, monkeypatch):
    frames = pictures(40, 40, 7)
    whole = encoder.encode_images(frames)
    monkeypatch.setattr(ClipEncoder, "pixel_budget", 2 * 32 * 32)
    parts = encoder.encode_images(frames)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert encoder.encode_images(frames[:0]).shape == (0, 16)
    clips = encoder.encode_clips(frames[None, :6].reshape(2, 3, 40, 40, 3))
    torch.testing.assert_close(clips.reshape(6, 16), whole[:6], atol=1e-5, rtol=1e-5)


def test_it_streams_and_serves_other_rewards(encoder, goal):
    state = stream_start(encoder, 2)
    frames = pictures(64, 64, 2)
    _, (emitted,) = stream_push(encoder, state, frames)
    torch.testing.assert_close(
        emitted.latents[:, 0], encoder.encode_images(frames), atol=1e-5, rtol=1e-5
    )
    small = goal.with_(videos=goal.videos[:, ::8], key_frames=())
    check_reward_model(VideoLevel(small, encoder, horizon=40), size=(32, 32))


def test_one_object_a_model_and_another_for_other_weights(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    spec = f"open_clip:{folder}"
    first = load_encoder(spec, device="cpu")
    assert load_encoder(spec, device="cpu") is first
    by_file = load_encoder(f"{spec}/{WEIGHTS}", device="cpu")
    assert by_file.fingerprint == first.fingerprint
    assert first.source == spec
    assert json.loads(json.dumps(first.fingerprint)) == first.fingerprint
    weights = load_file(folder / WEIGHTS)
    text = {**weights, "ln_final.bias": weights["ln_final.bias"] + 1}
    save_file(text, folder / WEIGHTS)
    other = load_encoder(spec, device="cpu")
    assert other is not first
    assert other.fingerprint == first.fingerprint, "pictures know no text tower"
    save_file(
        {**weights, "visual.ln_post.bias": weights["visual.ln_post.bias"] + 1},
        folder / WEIGHTS,
    )
    third = load_encoder(spec, device="cpu")
    assert third.fingerprint["sha256"] != first.fingerprint["sha256"]
    card = json.loads((folder / CONFIG).read_text())
    card["preprocess_cfg"]["mean"] = [0.0, 0.0, 0.0]
    (folder / CONFIG).write_text(json.dumps(card))
    assert load_encoder(spec, device="cpu").fingerprint != third.fingerprint


def test_half_precision_is_the_same_encoder_rounded(clip_folder, encoder):
    half = load_clip(str(clip_folder), device="cpu", dtype="bfloat16")
    frames = pictures(32, 32)
    apart = (half.encode_images(frames) - encoder.encode_images(frames)).abs()
    assert 0 < apart.max() < 0.1
    assert half.fingerprint["sha256"] == encoder.fingerprint["sha256"]
    assert half.encode_texts("a disc").dtype == torch.float32


# CLIP's texts


def test_texts_are_open_clips_and_of_unit_length(encoder, clip_folder, recwarn):
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    texts = ["push the red button", "close the drawer"]
    with torch.no_grad():
        expected = model.double().encode_text(tokenizer(texts), normalize=True)
    found = encoder.encode_texts(texts)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).norm() > 0.1
    torch.testing.assert_close(encoder.encode_texts(texts[0]), found[:1])
    assert not [w for w in recwarn if "model reads" in str(w.message)]


def test_a_long_text_says_what_is_read(encoder):
    words = "one two three four five six seven eight nine ten eleven twelve"
    kept = " ".join(words.split()[:10])
    with pytest.warns(UserWarning, match=f"10 tokens.*'{words}' it sees '{kept}'"):
        long = encoder.encode_texts(words)
    torch.testing.assert_close(long, encoder.encode_texts(kept))


def test_words_that_a_tokenizer_does_not_know(encoder, tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["<unk>", "<pad>", "push", "the", "button"]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>"
    )
    fast.save_pretrained(tmp_path)
    model = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=12)
    other = ClipEncoder(
        encoder.model,
        {"embed_dim": 16, "vision_cfg": {}},
        lambda: model,
        device="cpu",
    )
    with pytest.warns(UserWarning, match="does not know 'flurble' in 'push the flur"):
        other.encode_texts("push the flurble")
    with pytest.warns(UserWarning, match="12 tokens.*it sees 'push push"):
        other.encode_texts("push " * 13)


def test_texts_that_are_none():
    assert as_texts("a") == ["a"]
    assert as_texts(("a", "b")) == ["a", "b"]
    for bad in ("", "  ", [], ["a", ""]):
        with pytest.raises(ValueError, match="prompt=.*none empty"):
            as_texts(bad, "prompt")
    for bad in (None, 3, ["a", 3]):
        with pytest.raises(TypeError, match="prompt=.*expected"):
            as_texts(bad, "prompt")
    pixels = load_encoder("pixels", device="cpu")
    with pytest.raises(ValueError, match="PooledPixels.*no text tower.*open_clip:"):
        text_tower(pixels)


# Loading CLIP


def test_weights_with_other_keys_are_refused(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    weights = load_file(folder / WEIGHTS)
    weights["stranger"] = weights.pop("ln_final.weight")
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match="missing: ln_final.weight; unknown: stranger"):
        load_clip(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", FileNotFoundError,
         "open_clip_model.safetensors of 'laion/.*(?s:.*)hf download laion/"),
        ("ViT-B-33/openai", ValueError, "no model 'ViT-B-33'.*'ViT-B-32'"),
        ("ViT-B-32/opnai", ValueError, "tags 'openai'.*got 'opnai'"),
        ("ViT-B-32", ValueError, "tags 'openai'.*got ''"),
        ("nowhere/a.safetensors", FileNotFoundError, "no open_clip_config.json"),
    ],
)  # fmt: skip
def test_models_that_are_not_there(spec, error, message):
    with pytest.raises(error, match=message):
        load_encoder(f"open_clip:{spec}", device="cpu")


def test_a_pickle_is_not_taken_for_weights(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    torch.save(load_file(folder / WEIGHTS), folder / "open_clip_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {WEIGHTS}.*can run code"):
        load_clip(str(folder), device="cpu")


def test_a_tag_is_taken_with_its_own_numbers(monkeypatch, tmp_path, clip_folder):
    """Its mean, its way to resize, its activation, its repository; not the model's."""
    import huggingface_hub

    config = json.loads((clip_folder / CONFIG).read_text())["model_cfg"]
    (tmp_path / "tiny-for-tests.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    open_clip.add_model_config(tmp_path / "tiny-for-tests.json")
    card = {
        "hf_hub": "someone/tiny/", "quick_gelu": True, "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5), "interpolation": "bilinear", "resize_mode": "squash",
    }  # fmt: skip
    tags = {"one": card, "two": {**card, "hf_hub": "someone/tiny/other.bin"}}
    known = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(known, "tiny-for-tests", tags)
    asked = []

    def fetch(repository, file, local_files_only):
        assert not local_files_only
        asked.append((repository, file))
        return str(clip_folder / WEIGHTS)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    encoder = load_encoder("open_clip:tiny-for-tests/one", device="cpu")
    load_encoder("open_clip:tiny-for-tests/two", device="cpu")
    assert asked == [
        ("someone/tiny", WEIGHTS), ("someone/tiny", "other.safetensors"),
    ]  # fmt: skip
    assert encoder.source == "open_clip:tiny-for-tests/one"
    assert encoder.fingerprint["config"]["quick_gelu"] is True
    kind = type(encoder.model.transformer.resblocks[0].mlp.gelu).__name__
    assert kind == "QuickGELU"
    ours = encoder.pictures
    assert (ours.size, ours.resize, ours.interpolation) == (
        (32, 32), "squash", "bilinear",
    )  # fmt: skip
    assert ours.mean == ours.std == (0.5, 0.5, 0.5)


def test_another_size_is_refused(clip_folder):
    assert load_clip(str(clip_folder), device="cpu", size=(32, 32)).size == (32, 32)
    with pytest.raises(ValueError, match=r"sees pictures of \(32, 32\).*\(64, 64\)"):
        load_clip(str(clip_folder), device="cpu", size=(64, 64))


@pytest.mark.parametrize(
    ("module", "extra", "spec"),
    [("open_clip", "clip", "open_clip:a/b"), ("transformers", "features",
      "transformers:a/b")],
)  # fmt: skip
def test_a_missing_library_names_its_extra(monkeypatch, module, extra, spec):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"genreward-wrappers\[{extra}\]"):
        load_encoder(spec, device="cpu")


# Vision models of transformers


def vit():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, image_size=32, patch_size=8,
    )  # fmt: skip
    return transformers.ViTModel(config), transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}
    )


def dinov2():
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28,
        patch_size=14,
    )  # fmt: skip
    return transformers.Dinov2Model(config), transformers.BitImageProcessor(
        size={"shortest_edge": 36},
        crop_size={"height": 28, "width": 28},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )


def dinov3():
    config = transformers.DINOv3ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, image_size=32, patch_size=8,
    )  # fmt: skip
    return transformers.DINOv3ViTModel(config), transformers.DINOv3ViTImageProcessor(
        size={"height": 32, "width": 32}
    )


def resnet():
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]
    )
    return transformers.ResNetModel(config), transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, do_normalize=False
    )


def saved(make, folder):
    torch.manual_seed(0)
    model, processor = make()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), processor


@pytest.mark.parametrize("make", [vit, dinov2, dinov3, resnet])
def test_vision_models_are_those_of_transformers(make, tmp_path):
    model, processor = saved(make, tmp_path)
    spec = f"transformers:{tmp_path}"
    encoder = load_encoder(spec, device="cpu")
    assert load_encoder(spec, device="cpu") is encoder
    assert encoder.latent_shape == (16,)
    for shape in ((64, 64), (40, 60)):
        frames = pictures(*shape)
        images = [Image.fromarray(frame) for frame in frames]
        inputs = processor(images=images, return_tensors="pt")
        ours = encoder.pictures
        found = ours.normalise(ours.fit(torch.from_numpy(frames)))
        scale = 255 * torch.tensor(ours.std)[:, None, None]
        assert ((found - inputs.pixel_values).abs() * scale).max() < LEVELS
        with torch.no_grad():
            output = model.double()(pixel_values=found.double())
            close = model.double()(pixel_values=inputs.pixel_values.double())
        expected = (
            output.pooler_output.flatten(1)
            if make is resnet
            else output.last_hidden_state[:, 0]
        )
        latents = encoder.encode_images(frames).double()
        torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)
        assert (expected[0] - expected[1]).abs().max() > 1e-3
        rounded = close.last_hidden_state - output.last_hidden_state
        assert rounded.abs().max() < 0.1


def test_the_pooler_is_chance_and_has_no_part(tmp_path):
    saved(vit, tmp_path)
    first = load_vision(str(tmp_path), device="cpu")
    weights = load_file(tmp_path / "model.safetensors")
    headless = {k: v for k, v in weights.items() if not k.startswith("pooler.")}
    save_file(headless, tmp_path / "model.safetensors", {"format": "pt"})
    second = load_vision(str(tmp_path), device="cpu")
    frames = pictures(32, 32)
    assert torch.equal(first.encode_images(frames), second.encode_images(frames))
    assert first.fingerprint == second.fingerprint
    assert json.loads(json.dumps(first.fingerprint)) == first.fingerprint


def test_vision_weights_that_do_not_fit(tmp_path):
    saved(vit, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["stranger"] = weights.pop("layernorm.bias")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="missing: layernorm.bias; unknown: stranger"):
        load_vision(str(tmp_path), device="cpu")


def test_vision_models_that_are_not_there():
    with pytest.raises(FileNotFoundError, match="(?s)'a/b'.*hf download a/b"):
        load_encoder("transformers:a/b", device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "does not resize"),
        ({"do_rescale": False}, "or not rescale"),
        ({"rescale_factor": 1 / 128}, "rescales by 0.0078"),
        ({"resample": 0}, "resamples by"),
        ({"size": {"shortest_edge": 40}}, "its crop None"),
    ],
)
def test_image_processors_that_do_something_else(change, message):
    processor = transformers.ViTImageProcessor(**change)
    with pytest.raises(ValueError, match=f"ViTImageProcessor.*{message}"):
        pictures_of(processor)
