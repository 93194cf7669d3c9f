"""The encoder that remembers, and the untrained control."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from genreward_wrappers import VideoLevelReward, load_goal
from genreward_wrappers.encoders import registry
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.stream import stream_push, stream_start
from genreward_wrappers.testing import PointMass
from tests.evaluate.shared import EMBEDDED, ENV

pytest.importorskip("metaworld")
pytest.importorskip("scipy")


class Counting(PooledPixels):
    """Knows how many frames it was given."""

    count = 0

    def encode_images(self, frames):
        self.count += len(frames)
        return super().encode_images(frames)


def test_memo_encodes_nothing_twice():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    plain = PooledPixels((32, 32), 8, device="cpu")
    encoder = Counting((32, 32), 8, device="cpu")
    memo = Memo(encoder)
    batch = frames[[0, 1, 0, 2, 1]]
    assert torch.equal(memo.encode_images(batch), plain.encode_images(batch))
    assert (encoder.count, len(memo)) == (3, 3)
    assert torch.equal(
        memo.encode_images(batch[::-1]), plain.encode_images(batch[::-1])
    )
    assert encoder.count == 3
    tensor = torch.from_numpy(frames)
    assert torch.equal(memo.encode_images(tensor), plain.encode_images(frames))
    assert (encoder.count, len(memo)) == (6, 6)
    # One pixel is enough to be another frame.
    frames[3, 31, 31, 2] ^= 1
    assert torch.equal(memo.encode_images(frames), plain.encode_images(frames))
    assert encoder.count == 7


def test_memo_is_otherwise_the_encoder(vae):
    memo = Memo(vae)
    for name in ("control", "grammar", "size", "device", "dtype", "latent_shape"):
        assert getattr(memo, name) == getattr(vae, name)
    assert memo.fingerprint == vae.fingerprint
    assert memo.source == vae.source
    assert Memo(PooledPixels((32, 32))).control
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, 17, 32, 32, 3)).astype(np.uint8)
    assert torch.equal(memo.encode_clips(clips), vae.encode_clips(clips))
    outcomes = []
    for encoder in (memo, vae):
        state, latents = stream_start(encoder, 2), []
        for t in range(17):
            state, emitted = stream_push(encoder, state, clips[:, t])
            latents += [part.latents for part in emitted]
        outcomes.append(torch.cat(latents, 1))
    assert torch.equal(*outcomes)
    assert torch.equal(memo.encode_images(clips[0]), vae.encode_images(clips[0]))
    assert len(memo) == 17


def test_the_random_encoder_is_a_control(monkeypatch):
    def load(spec):
        monkeypatch.setattr(registry, "_loaded", weakref.WeakValueDictionary())
        return load_encoder(spec, device="cpu")

    frames = load_goal(ENV).videos[0, ::4]
    torch.manual_seed(5)
    expected = torch.rand(3)
    trained = load(EMBEDDED)
    torch.manual_seed(5)
    one = load(f"random:{EMBEDDED}")
    assert torch.equal(torch.rand(3), expected), "it drew from everyone's numbers"
    two = load(f"random:{EMBEDDED}")
    assert one is not two
    assert one.control
    assert not trained.control
    assert one.source == f"random:{EMBEDDED}"
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint["sha256"] != trained.fingerprint["sha256"]
    latents = [encoder.encode_images(frames) for encoder in (one, two, trained)]
    assert torch.equal(latents[0], latents[1])
    assert latents[0].shape == latents[2].shape
    assert not torch.allclose(latents[0], latents[2], atol=0.1)
    assert latents[0].std(0).max() > 1e-3, "it does see the frames"


def test_the_random_encoder_in_a_wrapper():
    goal = load_goal(ENV)
    small = goal.with_(videos=goal.videos[:1, ::4], key_frames=())
    env = VideoLevelReward(
        PointMass(size=64, horizon=8), small, encoder="random", horizon=8, device="cpu"
    )
    assert env.session.models[0].encoder.source == f"random:{EMBEDDED}"
    env.reset(seed=0)
    rewards = [env.step(np.ones(2, np.float32))[1] for _ in range(8)]
    assert len(set(rewards)) > 1
    assert np.isfinite(rewards).all()
