"""The codec of VIPER and Diffusion Reward."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from genreward_wrappers.training.priors.vq import VQCodec
from tests.training.priors.small import CODEC

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("top", [255, 30, 1])
def test_pixels_never_depend_on_how_bright_the_frame_is(top):
    """0 is -1 and 255 is 1, in a bright, a dark and an almost black frame."""
    frames = np.random.default_rng(0).integers(0, top + 1, (3, 32, 32, 3))
    frames = frames.astype(np.uint8)
    codec = VQCodec(CODEC)
    expected = frames.transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(codec.pixels(frames), expected, atol=1e-6)
    large = frames.repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(codec.pixels(large).mean(), expected.mean(), atol=0.01)
    np.testing.assert_array_equal(codec.encode(frames[:2]), codec.encode(frames)[:2])


def test_codes_and_reconstructions_are_those_of_the_library(goal):
    torch.manual_seed(0)
    codec = VQCodec(CODEC)
    with torch.no_grad():
        codec.codebook.normal_()
    frames = goal.videos[0][:70]
    pictures = torch.from_numpy(frames.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    with torch.no_grad():
        latents = codec.model.encode(pictures).latents
        _, _, (_, _, nearest) = codec.model.quantize(latents)
        decoded = codec.model(pictures).sample
    codes = codec.encode(frames)
    assert len(codes.unique()) > 2
    np.testing.assert_array_equal(codes.flatten(), nearest.flatten())
    expected = ((decoded + 1) * 127.5).round().clamp(0, 255).movedim(1, -1)
    again = codec.decode(codes)
    assert again.dtype == torch.uint8
    np.testing.assert_allclose(again.float(), expected, atol=1)
    found = codec.loss(frames[:5])
    pixels = (decoded[:5] - pictures[:5]).square().mean()
    assert found.pixels.item() == pytest.approx(pixels.item(), rel=1e-5)
    assert found.total.item() > found.pixels.item()
    np.testing.assert_array_equal(found.codes, codes[:5].flatten())


def test_bad_codecs_and_frames():
    for changes, message in (
        ({"size": (32, 30)}, "multiples of 8"),
        ({"size": (4, 4)}, "multiples of 8"),
        ({"codes": 0}, "positive"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(CODEC, **changes)
    codec = VQCodec(CODEC)
    for shape, message in (
        ((2, 16, 16, 3), "would enlarge"),
        ((2, 64, 32, 3), "another aspect ratio"),
        ((2, 3, 32, 32), "uint8 \\(n, H, W, 3\\)"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.encode(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="got float32"):
        codec.encode(np.zeros((1, 32, 32, 3), np.float32))
