"""The causal prior of VIPER, against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from genreward_wrappers.training.priors.transformer import PriorConfig, VideoTransformer

pytestmark = pytest.mark.usefixtures("one_thread")


def small_prior(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"codes": 3, "positions": 2, "frames": 3, "width": 8, "layers": 2}
    net = VideoTransformer(PriorConfig(**{**shape, "heads": 2, **changes}))
    with torch.no_grad():
        # As initialised, it hardly looks at anything.
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net.double().eval()


def numpy_log_likelihood(net, codes):
    """The same transformer in loops over tokens: (n, frames)."""
    w = {name: p.detach().numpy() for name, p in net.named_parameters()}
    config = net.config

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(x):
        from scipy.special import erf

        return x * 0.5 * (1 + erf(x / np.sqrt(2)))

    found = np.zeros((len(codes), config.frames))
    half = config.width // config.heads
    for n, clip in enumerate(codes.reshape(len(codes), -1)):
        read = [config.codes, *clip[:-1]]
        x = np.stack(
            [
                w["code.weight"][c]
                + w["frame"][i // config.positions, 0]
                + w["position"][0, i % config.positions]
                for i, c in enumerate(read)
            ]
        )
        for layer in range(config.layers):
            name = f"blocks.layers.{layer}"
            q, k, v = np.split(
                linear(norm(x, f"{name}.before_attention"), f"{name}.mix"), 3, -1
            )
            mixed = np.zeros_like(x)
            for head in range(config.heads):
                part = slice(head * half, (head + 1) * half)
                for i in range(len(x)):
                    scores = np.array(
                        [q[i, part] @ k[j, part] / np.sqrt(half) for j in range(i + 1)]
                    )
                    share = np.exp(scores - scores.max())
                    share /= share.sum()
                    mixed[i, part] = sum(s * v[j, part] for j, s in enumerate(share))
            x = x + linear(mixed, f"{name}.join")
            fed = linear(norm(x, f"{name}.feed.0"), f"{name}.feed.1")
            x = x + linear(gelu(fed), f"{name}.feed.3")
        logits = linear(norm(x, "blocks.norm"), "head")
        for i, c in enumerate(clip):
            likely = logits[i, c] - np.log(np.exp(logits[i]).sum())
            found[n, i // config.positions] += likely
    return found


def test_the_transformer_against_loops():
    net = small_prior()
    codes = np.random.default_rng(0).integers(0, 3, (4, 3, 2))
    with torch.no_grad():
        found = net.log_likelihood(torch.from_numpy(codes))
        last = net.log_likelihood(torch.from_numpy(codes), last=1)
    np.testing.assert_allclose(found, numpy_log_likelihood(net, codes), rtol=1e-9)
    np.testing.assert_allclose(last[:, 0], found[:, -1], rtol=1e-12)


def test_likelihoods_add_up_to_one():
    """Over all frames that could come next, and over all clips that could be."""
    net = small_prior(1)
    clips = torch.tensor(list(itertools.product(range(3), repeat=6))).view(-1, 3, 2)
    with torch.no_grad():
        each = net.log_likelihood(clips)
    assert each.sum(1).exp().sum().item() == pytest.approx(1, rel=1e-9)
    # Clips that begin alike stand together.
    of_last = each[:, -1].exp().view(-1, 9).sum(1)
    np.testing.assert_allclose(of_last, 1, rtol=1e-9)
    assert each[:, -1].std() > 0.1
