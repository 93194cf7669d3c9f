"""Generators in fewer bits: which parts, how well they fit, and what is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from genreward_wrappers.generators import quantisation as module
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.quantisation import check_quantised
from genreward_wrappers.generators.settings import Model, Sampling
from tests import video_pipelines

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

ASKED = Sampling("push the disc to its target", steps=2, frames=9)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cogvideox")
    video_pipelines.cogvideox().save_pretrained(folder)
    return Model(str(folder), device="cpu")


def missing(package):
    return lambda name: None if name == package else object()


def test_what_is_refused(monkeypatch):
    check_quantised("none", "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_quantised("int8", "cpu")
    check_quantised("nf4", "cuda")
    with pytest.raises(ValueError, match="'int3': expected one of none, int8, nf4"):
        check_quantised("int3", "cuda")
    with pytest.raises(ValueError, match="needs a GPU.*take 'int8'"):
        check_quantised("nf4", "cpu")
    for kind, package in (
        ("int8", "torchao"),
        ("int8", "accelerate"),
        ("nf4", "bitsandbytes"),
    ):
        monkeypatch.setattr(importlib.util, "find_spec", missing(package))
        with pytest.raises(ImportError, match=f"--quantise {kind} needs {package}: "):
            check_quantised(kind, "cuda")


def test_a_generator_asks_before_it_looks_for_anything(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", missing("torchao"))
    with pytest.raises(ImportError, match=r"genreward-wrappers\[quantise\]"):
        Generator(Model("nowhere/at-all", device="cpu", quantise="int8"))


def test_four_bits_are_asked_of_the_large_parts_alone(monkeypatch):
    """What is handed to diffusers; it has not been run, since it needs a GPU."""
    pytest.importorskip("bitsandbytes")
    import diffusers
    import transformers

    parts = ["vae", "transformer", "text_encoder", "tokenizer", "scheduler"]
    asked = module.quantisation("nf4", parts, torch.bfloat16).quant_mapping
    assert set(asked) == {"transformer", "text_encoder"}
    assert type(asked["transformer"]) is diffusers.BitsAndBytesConfig
    assert type(asked["text_encoder"]) is transformers.BitsAndBytesConfig
    for config in asked.values():
        assert config.load_in_4bit
        assert config.bnb_4bit_quant_type == "nf4"
        assert config.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eight_bits_are_the_nearest_of_each_row(model, dtype):
    pytest.importorskip("torchao")
    pytest.importorskip("accelerate")
    import dataclasses

    plain = Generator(dataclasses.replace(model, dtype=dtype))
    small = Generator(dataclasses.replace(model, dtype=dtype, quantise="int8"))
    assert small.identity == {**plain.identity, "quantise": "int8"}
    for name, matrix in (
        ("transformer", "transformer_blocks.0.attn1.to_q"),
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.q"),
    ):
        parts = (getattr(g.pipeline, name) for g in (plain, small))
        whole, kept = (part.get_submodule(matrix).weight for part in parts)
        assert type(kept).__name__ == "Int8Tensor"
        steps = whole.detach().float().abs().amax(1, keepdim=True) / 127.5
        apart = (kept.dequantize().float() - whole.float()).abs()
        # Half a step, and where the largest of a row is at the end of the range.
        slack = 0.51 if dtype == "float32" else 1.1
        assert (apart <= slack * steps + 1e-7).all()
        assert apart.max() > 0
    # The VAE stays.
    assert small.pipeline.vae.decoder.conv_in.conv.weight.dtype == plain.dtype
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    videos = [g(g.settings(ASKED), 1, image).astype(int) for g in (plain, small)]
    assert videos[1].shape == (9, 32, 48, 3)
    assert 0 < np.abs(videos[1] - videos[0]).mean() < 4
