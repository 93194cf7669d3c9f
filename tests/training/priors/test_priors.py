"""VIPER and Diffusion Reward: codec, priors, rewards and training."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genreward_wrappers import RewardModelWrapper, load_reward
from genreward_wrappers.cli.main import main
from genreward_wrappers.core import Session
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import FileError, load_tensors, save_tensors
from genreward_wrappers.rewards.combine import RND, WeightedSum
from genreward_wrappers.rewards.peers.diffusion_reward import (
    DiffusionReward,
    with_novelty,
)
from genreward_wrappers.rewards.peers.viper import Viper
from genreward_wrappers.testing import Brightness, PointMass, check_reward_model
from genreward_wrappers.training.priors import store
from genreward_wrappers.training.priors.settings import PriorTraining
from genreward_wrappers.training.priors.store import Prior
from genreward_wrappers.training.priors.train import LAYOUT as CHECKPOINT
from genreward_wrappers.training.priors.train import PriorTrainer, train
from genreward_wrappers.training.priors.transformer import PriorConfig, VideoTransformer
from genreward_wrappers.training.priors.vq import VQCodec, VQConfig
from genreward_wrappers.training.priors.vq_diffusion import (
    DiffusionConfig,
    Noise,
    VQDiffusion,
    certainty,
    draw,
)
from genreward_wrappers.training.videos import load_videos

KINDS = ("viper", "diffusion-reward")
CODEC = VQConfig(size=(32, 32), codes=16, dim=4, channels=(8, 8, 8, 8))
SHORT = PriorTraining(codec_steps=40, steps=30, codec_batch=8, batch=4, revive=10)
NET = {
    "viper": {"frames": 5, "width": 16, "layers": 2, "heads": 2},
    "diffusion-reward": {"width": 16, "layers": 2, "heads": 2, "hops": 4, "steps": 20},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def trainer(kind, videos, training=SHORT, codec=CODEC, **net):
    return PriorTrainer(
        kind, videos, codec, training, device="cpu", **{**NET[kind], **net}
    )


@pytest.fixture(scope="module")
def priors(goal):
    """A trained prior of each kind, over the small goal's videos."""
    found = {}
    for kind in KINDS:
        made = trainer(kind, list(goal.videos))
        losses = [made.update() for _ in range(made.steps)]
        found[kind] = SimpleNamespace(prior=made.finish(), losses=losses, trainer=made)
    return found


def reward_model(kind, prior, **options):
    if kind == "viper":
        return Viper(prior, **options)
    return DiffusionReward(prior, **options)


# The codec


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


# The causal prior


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


# The diffusion


def matrices(noise):
    """(T + 1, K + 1, K + 1) q(xt = column | x0 = row), by multiplying single steps."""
    k = noise.codes
    found = [np.eye(k + 1)]
    keep, mask = noise.keep.numpy(), noise.mask.numpy()
    for t in range(1, noise.steps + 1):
        kept = keep[t] / keep[t - 1]
        masked = 1 - (1 - mask[t]) / (1 - mask[t - 1])
        step = np.zeros((k + 1, k + 1))
        step[:k, :k] = (1 - kept - masked) / k
        step[:k, :k] += kept * np.eye(k)
        step[:k, k] = masked
        step[k, k] = 1
        assert (step >= -1e-12).all()
        np.testing.assert_allclose(step.sum(1), 1)
        found.append(found[-1] @ step)
    return np.stack(found)


@pytest.mark.parametrize("stray", [0.1, 0.6])
def test_noise_is_the_product_of_its_steps(stray):
    noise = Noise(codes=4, steps=6, stray=stray)
    all_steps = matrices(noise)
    x0 = torch.arange(4)[None].expand(7, -1)
    found = noise.after(x0, torch.arange(7)).numpy()
    np.testing.assert_allclose(found, all_steps[:, :4], atol=1e-12)
    np.testing.assert_allclose(all_steps[-1, :4], noise.last(x0)[None].repeat(4, 1),
                               atol=1e-4)  # fmt: skip


def test_bayes_rule_against_matrices():
    noise = Noise(codes=4, steps=6, stray=0.2)
    q = matrices(noise)
    rng = np.random.default_rng(0)
    for s, t in ((0, 1), (0, 6), (2, 3), (1, 5), (4, 6)):
        between = np.linalg.inv(q[s]) @ q[t]
        xt = torch.arange(5)[None]
        believed = rng.dirichlet(np.ones(4), (1, 5))
        found = noise.before(
            torch.from_numpy(believed), xt, torch.tensor([s]), torch.tensor([t])
        )[0].numpy()
        for x in range(5):
            expected = np.zeros(5)
            for x0 in range(4):
                joint = q[s][x0] * between[:, x]
                expected += believed[0, x, x0] * joint / joint.sum()
            np.testing.assert_allclose(found[x], expected, atol=1e-9)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


def test_a_noisy_code_tells_of_its_own_clean_one():
    """The net's logits are what it believes before it looks at the code itself."""
    net = small_diffusion(codes=4)
    q = matrices(net.noise)
    xt = torch.tensor([[0, 4], [2, 2]])
    t = torch.tensor([3, 6])
    context = torch.zeros(2, 2, 2, dtype=torch.int64)
    with torch.no_grad():
        found = net(xt, t, context).double().softmax(-1)
        net.noise.evidence = lambda xt, t: torch.ones(1, dtype=torch.float64)
        own = net(xt, t, context).double().softmax(-1)
    for n, i in itertools.product(range(2), range(2)):
        expected = own[n, i].numpy() * q[int(t[n]), :4, int(xt[n, i])]
        np.testing.assert_allclose(found[n, i], expected / expected.sum(), rtol=1e-4)


def test_draws_follow_the_probabilities():
    p = torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0]).expand(1, 10_000, 5)
    u = (torch.arange(10_000) / 10_000)[None]
    found = np.bincount(draw(p, u)[0], minlength=5) / 10_000
    np.testing.assert_allclose(found, [0.2, 0, 0.5, 0.3, 0], atol=2e-4)
    top = np.nextafter(np.float32(1), np.float32(0))
    assert draw(p[:, :1], torch.tensor([[top]])).item() == 3


def small_diffusion(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"codes": 3, "positions": 2, "steps": 6, "hops": 3, "width": 8}
    net = VQDiffusion(DiffusionConfig(**{**shape, "layers": 2, "heads": 2, **changes}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net.eval()


def test_the_bound_against_loops():
    net = small_diffusion()
    q = matrices(net.noise)
    assert net.times == [6, 4, 2, 0]
    rng = np.random.default_rng(0)
    context = torch.from_numpy(rng.integers(0, 3, (5, 2, 2)))
    u = rng.random((5, 4, 2), dtype=np.float32)
    found = net.bound(context, torch.from_numpy(u)).numpy()

    def pick(p, u):
        return int(np.searchsorted(np.cumsum(p) / np.sum(p), u, "right"))

    def reverse(believed, xt, s, t):
        between = np.linalg.inv(q[s]) @ q[t]
        total = np.zeros(4)
        for x0 in range(3):
            joint = q[s][x0] * between[:, xt]
            total += believed[x0] * joint / joint.sum()
        return total

    for n in range(5):
        x = [pick(net.noise.last(context).numpy(), u[n, 0, i]) for i in range(2)]
        walked, score = [], 0.0
        for hop, (t, s) in enumerate(((6, 4), (4, 2), (2, 0)), 1):
            with torch.no_grad():
                logits = net(torch.tensor([x]), torch.tensor([t]), context[n : n + 1])
            believed = logits[0].double().softmax(-1).numpy()
            guesses = [reverse(believed[i], x[i], s, t) for i in range(2)]
            walked.append((x, s, t, guesses))
            x = [pick(guesses[i], u[n, hop, i]) for i in range(2)]
        for i in range(2):
            score += np.log(walked[-1][3][i][x[i]])
            for before, s, t, guesses in walked[:-1]:
                truth = reverse(np.eye(3)[x[i]], before[i], s, t)
                some = truth > 1e-12
                ratio = np.log(truth[some] / guesses[i][some])
                score -= (truth[some] * ratio).sum()
        assert found[n] == pytest.approx(score, rel=1e-5)
    assert found.std() > 0.1
    assert (found < 0).all()


@pytest.mark.parametrize("p", [[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
def test_an_exact_model_is_as_certain_as_the_data(p):
    """Given p(x0 | xt) itself, the bound's mean is minus the entropy of the data."""
    net = small_diffusion(positions=1, steps=40, hops=8)
    q = matrices(net.noise)

    def exact(xt, t, context):
        joint = np.array(p) * q[t.numpy()[:, None], :3, xt.numpy()]
        return torch.from_numpy(np.log(joint + 1e-300))

    net.forward = exact
    u = torch.rand(4000, 9, 1, generator=torch.Generator().manual_seed(0))
    found = net.bound(torch.zeros(4000, 2, 1, dtype=torch.int64), u).numpy()
    entropy = -sum(x * np.log(x) for x in p if x > 0)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() + entropy) < 4 * error + 1e-3


def test_a_model_that_contradicts_itself_is_not_certain():
    """Sure of something else at every hop: no chain of it explains its own end."""
    net = small_diffusion(positions=1, steps=40, hops=8)
    flip = itertools.cycle([0, 1])

    def sure(xt, t, context):
        logits = torch.full((len(xt), 1, 3), -20.0)
        logits[..., next(flip)] = 20
        return logits

    net.forward = sure
    u = torch.rand(200, 9, 1, generator=torch.Generator().manual_seed(0))
    found = net.bound(torch.zeros(200, 2, 1, dtype=torch.int64), u)
    # A model that knows nothing has minus the logarithm of 3.
    assert found.mean() < -np.log(3)


def test_the_loss_is_the_bound_of_a_step_and_the_cross_entropy():
    net = small_diffusion()
    q = matrices(net.noise)
    rng = np.random.default_rng(1)
    x0 = torch.from_numpy(rng.integers(0, 3, (6, 2)))
    context = torch.from_numpy(rng.integers(0, 3, (6, 2, 2)))
    t = torch.tensor([1, 2, 3, 4, 5, 6])
    u = torch.from_numpy(rng.random((6, 2)))
    with torch.no_grad():
        found = net.loss(x0, context, t, u).item()
        xt = draw(net.noise.after(x0, t), u)
        believed = net(xt, t, context).double().softmax(-1).numpy()
    bound, plain = [], []
    for n, i in itertools.product(range(6), range(2)):
        s, end, x = int(t[n]) - 1, int(t[n]), int(xt[n, i])
        between = np.linalg.inv(q[s]) @ q[end]
        every = []
        for start in range(3):
            joint = q[s][start] * between[:, x]
            every.append(joint / joint.sum())
        truth = every[int(x0[n, i])]
        guess = sum(b * e for b, e in zip(believed[n, i], every, strict=True))
        some = truth > 1e-12
        bound.append((truth[some] * np.log(truth[some] / guess[some])).sum())
        plain.append(-np.log(believed[n, i, int(x0[n, i])]))
    expected = 6 * np.mean(bound) + np.mean(plain)
    assert found == pytest.approx(expected, rel=1e-4)


# The rewards


def film(seed=0, steps=9, rows=2, size=32):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (steps + 1, rows, size, size, 3)).astype(np.uint8)


def play(model, frames, restart=None, seed=0):
    """(steps, rows) scores; row 1 begins anew after one of the steps."""
    session = Session([model], frames.shape[1])
    session.begin(frames[0], seed=seed)
    no = np.zeros(frames.shape[1], bool)
    found = []
    for t in range(len(frames) - 1):
        score = session.score(np.zeros((len(no), 2)), frames[t + 1], no, no)
        assert score[model.name].due.all()
        found.append(score[model.name].value)
        if t == restart:
            session.begin(frames[t + 1], np.arange(len(no)) == 1)
    return np.array(found)


def windows(frames, row, restart, length):
    """The frames that each step looks at, the episode's first repeated in front."""
    for t in range(len(frames) - 1):
        first = 0 if row == 0 or t <= restart else restart + 1
        times = [max(first, t + 1 - length + 1 + i) for i in range(length)]
        yield frames[times, row]


@pytest.mark.parametrize("likelihood", ["last", "joint"])
def test_viper_pays_the_likelihood_of_the_window(priors, likelihood):
    prior = priors["viper"].prior
    frames = film()
    found = play(Viper(prior, likelihood=likelihood), frames, restart=3)
    for row in range(2):
        for t, clip in enumerate(windows(frames, row, 3, 5)):
            codes = prior.codec.encode(clip)[None]
            each = prior.net.log_likelihood(codes)[0]
            expected = each[-1] if likelihood == "last" else each.sum()
            assert found[t, row] == pytest.approx(expected.item(), rel=1e-4)
    assert len(np.unique(found)) > 10


@pytest.mark.parametrize("chains", [1, 3])
def test_diffusion_reward_pays_the_certainty_after_two_frames(priors, chains):
    prior = priors["diffusion-reward"].prior
    frames = film()
    raw = DiffusionReward(prior, standardised=False, chains=chains)
    found = play(raw, frames, restart=3)
    session = Session([raw], 2)
    session.begin(frames[0], seed=0)
    first = session.snapshot().memories[0].seeds
    session.begin(frames[0])
    second = session.snapshot().memories[0].seeds
    for row in range(2):
        for t, clip in enumerate(windows(frames, row, 3, 2)):
            begun = row == 1 and t > 3
            seed, step = (second[1], t - 3) if begun else (first[row], t + 1)
            key = np.random.default_rng([int(seed), step])
            u = key.random((chains, 5, 16), dtype=np.float32)
            context = prior.codec.encode(clip)[None].repeat(chains, 1, 1)
            expected = prior.net.bound(context, torch.from_numpy(u)).mean().item()
            assert found[t, row] == pytest.approx(expected, rel=1e-4)
    mean, std = prior.statistics["mean"], prior.statistics["std"]
    scaled = play(DiffusionReward(prior, chains=chains), frames, restart=3)
    np.testing.assert_allclose(scaled, (found - mean) / std, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_priors_keep_the_contracts_of_a_reward(kind, priors):
    model = reward_model(kind, priors[kind].prior)
    check_reward_model(model, size=(32, 32), steps=14, tolerance=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_second_step_is_an_episode_of_every_second_frame(kind, priors):
    model = reward_model(kind, priors[kind].prior, every=2)
    frames = film(steps=8)
    steps = np.arange(1, 9)
    assert model.wants(steps).tolist() == [False, True] * 4
    session = Session([model], 2)
    session.begin(frames[0], seed=0)
    no, found = np.zeros(2, bool), []
    for t in range(8):
        # What nobody wants may hold anything.
        seen = frames[t + 1] if t % 2 else np.zeros_like(frames[0])
        score = session.score(no, seen, no, no)[model.name]
        assert score.due.all() == bool(t % 2)
        if t % 2:
            found.append(score.value)
    expected = play(reward_model(kind, priors[kind].prior), frames[::2])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="every=0"):
        reward_model(kind, priors[kind].prior, every=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_an_episode_is_paid_as_any_step(kind, priors):
    frames = film(steps=3)
    model = reward_model(kind, priors[kind].prior)
    expected = play(model, frames)[-1]
    session = Session([model], 2)
    session.begin(frames[0], seed=0)
    no = np.zeros(2, bool)
    for t in range(3):
        ends = np.array([t == 2, False]), np.array([False, t == 2])
        score = session.score(no, frames[t + 1], *ends)[model.name]
    np.testing.assert_array_equal(score.value, expected)


def test_alpha_weighs_certainty_against_novelty(priors):
    model = DiffusionReward(priors["diffusion-reward"].prior)
    assert with_novelty(model, 0.0).parts == ((model, 1.0),)
    novelty = RND(device="cpu")
    assert with_novelty(model, 1.0, novelty).parts == ((novelty, 1.0),)
    both = with_novelty(model, novelty=novelty)
    assert both.parts == ((model, pytest.approx(0.05)), (novelty, 0.95))
    frames = film(steps=3)
    expected = 0.05 * play(model, frames) + 0.95 * play(RND(device="cpu"), frames)
    np.testing.assert_allclose(play(both, frames), expected, rtol=1e-4)
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"alpha={alpha}"):
            with_novelty(model, alpha)


# Training


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_both_losses(kind, priors):
    losses = priors[kind].losses
    codec = [each["pixels"] for each in losses[: SHORT.codec_steps]]
    net = [each["loss"] for each in losses[SHORT.codec_steps :]]
    assert np.mean(codec[-5:]) < 0.7 * np.mean(codec[:5])
    assert np.mean(net[-10:]) < 0.9 * np.mean(net[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_the_reward_over_the_videos(kind, priors, goal):
    prior = priors[kind].prior
    frames = goal.videos.swapaxes(0, 1)
    options = {"standardised": False} if kind == "diffusion-reward" else {}
    paid = play(reward_model(kind, prior, **options), frames)
    mean, std = prior.statistics["mean"], prior.statistics["std"]
    assert prior.statistics["windows"] == paid.size == 96
    if kind == "viper":
        assert mean == pytest.approx(paid.mean(), rel=1e-4)
        assert std == pytest.approx(paid.std(), rel=1e-4)
    else:
        # Frames t and t + 1 are asked for what follows, by chains of their own.
        written = priors[kind].trainer.codes
        pairs = [codes[[t, t + 1]] for codes in written for t in range(len(codes) - 1)]
        keys = [np.random.default_rng([SHORT.seed, index]) for index in range(96)]
        own = certainty(prior.net, torch.stack(pairs), keys)
        assert mean == pytest.approx(own.mean(), rel=1e-4)
        assert std == pytest.approx(own.std(), rel=1e-4)
        # Those of an agent's episode: equal up to what chance makes of 96 of them.
        assert abs(mean - paid.mean()) < 4 * std / np.sqrt(paid.size)
        assert std == pytest.approx(paid.std(), rel=0.4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_of_the_weights(kind, goal):
    training = dataclasses.replace(SHORT, codec_steps=3, steps=14, average=0.6)
    made = trainer(kind, list(goal.videos), training)
    for _ in range(3):
        made.update()
    expected = {k: v.clone() for k, v in made.net_average.named_parameters()}
    for step in range(14):
        made.update()
        keep = min(0.6, (step + 1) / (step + 10))
        for name, new in made.net.named_parameters():
            expected[name] = keep * expected[name] + (1 - keep) * new.detach()
    for name, found in made.net_average.named_parameters():
        torch.testing.assert_close(found, expected[name])
    prior = made.finish()
    name = "head.weight"
    assert torch.equal(prior.net.state_dict()[name], expected[name]) or torch.allclose(
        prior.net.state_dict()[name], expected[name], atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [13, 40, 47], ids=["codec", "between", "prior"])
def test_a_killed_run_resumes_bit_for_bit(kind, stop, goal, tmp_path, priors):
    videos = list(goal.videos)
    first = trainer(kind, videos)
    for _ in range(stop):
        first.update()
    first.save(tmp_path / "x")
    second = trainer(kind, videos)
    second.restore(tmp_path / "x")
    assert second.step == stop
    # Which codes were used decides, later, which rows are put elsewhere.
    assert torch.equal(second._used, first._used)
    if stop == 13:
        assert second._used.sum() > 0
    losses = [second.update() for _ in range(second.steps - stop)]
    assert losses == priors[kind].losses[stop:]
    whole, parts = priors[kind].prior, second.finish()
    assert parts.statistics == whole.statistics
    for module in ("codec", "net"):
        one, two = (getattr(p, module).state_dict() for p in (whole, parts))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_unused_codes_are_put_where_frames_are(goal):
    training = dataclasses.replace(SHORT, codec_steps=40)
    made = trainer("viper", list(goal.videos), training)
    made.update()
    # After the first update all rows are latents of frames, and near each other.
    assert made.codec.codebook.std() > 1e-3
    with torch.no_grad():
        made.codec.codebook[5] = 1000.0
    # It may have been used before; the next time round it has not.
    for _ in range(19):
        made.update()
    assert made.codec.codebook.abs().max() < 100


def test_training_says_how_far_it_is_and_resumes(goal, tmp_path):
    said = []
    training = dataclasses.replace(SHORT, codec_steps=6, steps=6)
    output = tmp_path / "viper.safetensors"
    checkpoint = tmp_path / "viper.safetensors.checkpoint"

    class Killed(Exception):
        pass

    def die(line):
        said.append(line)
        if line.startswith("8/12"):
            raise Killed

    videos = list(goal.videos)
    with pytest.raises(Killed):
        train(trainer("viper", videos, training), output, every=4, log=die)
    assert checkpoint.exists()
    assert not output.exists()
    with pytest.raises(FileError, match="checkpoint of another run"):
        train(trainer("viper", videos[:2], training), output)
    with pytest.raises(FileError, match="(?s)another run.*'width': 16.*'width': 8"):
        train(trainer("viper", videos, training, width=8), output)
    prior = train(trainer("viper", videos, training), output, every=4, log=said.append)
    assert [line.split()[0] for line in said] == [
        "4/12", "8/12", "resumes", "8/12", "12/12",
    ]  # fmt: skip
    assert "codec  pixels" in said[0]
    assert "prior  loss" in said[-1]
    assert not checkpoint.exists()
    whole = trainer("viper", videos, training)
    for _ in range(12):
        whole.update()
    assert whole.finish().statistics == prior.statistics
    # What is there stays there, and what a killed process left beside it goes.
    checkpoint.write_bytes(b"left behind")
    again = train(trainer("viper", videos, training), output, log=said.append)
    assert again.statistics == prior.statistics
    assert not checkpoint.exists()
    with pytest.raises(ValueError, match="exists already, from another run"):
        train(trainer("viper", videos[:1], training), output)
    # A checkpoint that is damaged is not gone on with.
    output.unlink()
    checkpoint.write_bytes(b"half of it")
    with pytest.raises(FileError, match="no safetensors file"):
        train(trainer("viper", videos, training), output)


@pytest.mark.parametrize("kind", KINDS)
def test_the_codec_of_another_prior_is_taken_as_it_is(kind, goal, tmp_path, priors):
    given = priors["viper"].prior.codec
    videos = list(goal.videos)
    training = dataclasses.replace(SHORT, steps=6)
    output = tmp_path / "x.safetensors"
    said = []
    prior = train(
        trainer(kind, videos, training, given), output, every=2, log=said.append
    )
    assert [line.split()[:2] for line in said] == [
        ["2/6", "prior"], ["4/6", "prior"], ["6/6", "prior"],
    ]  # fmt: skip
    own = prior.codec.state_dict()
    for name, tensor in given.state_dict().items():
        assert torch.equal(own[name], tensor), name
    # Another codec is another run, and so is none.
    other = copy.deepcopy(given)
    with torch.no_grad():
        other.codebook[0] += 1
    for codec in (other, given.config):
        with pytest.raises(ValueError, match="from another run"):
            train(trainer(kind, videos, training, codec), output)


def test_a_run_on_a_given_codec_resumes_bit_for_bit(goal, tmp_path, priors):
    codec, videos = priors["viper"].prior.codec, list(goal.videos)
    whole, part = (trainer("viper", videos, codec=codec) for _ in range(2))
    for made, count in ((whole, 5), (part, 3)):
        for _ in range(count):
            made.update()
    part.save(tmp_path / "x")
    again = trainer("viper", videos, codec=codec)
    again.restore(tmp_path / "x")
    assert again.step == 3
    assert [again.update() for _ in range(2)] == [part.update() for _ in range(2)]
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], tensor), name


def test_a_checkpoint_with_other_weights_is_refused(goal, tmp_path):
    made = trainer("viper", list(goal.videos))
    made.update()
    made.save(tmp_path / "x")
    tensors, header = load_tensors(tmp_path / "x", CHECKPOINT)
    moment = next(name for name in tensors if "codec_adam/3/exp_avg" in name)
    for change, message in (
        ({"net/head.bias": None}, "(?s)other names.*missing.*net/head.bias"),
        ({"net/head.bias": np.zeros(3)}, "'net/head.bias' is \\(3,\\)"),
        ({"net/extra": np.zeros(3)}, "(?s)unexpected:.*net/extra"),
        ({moment: None}, "codec_adam has .* for parameter 3"),
        ({"generator": None}, "'generator'"),
    ):
        changed = {k: v for k, v in {**tensors, **change}.items() if v is not None}
        save_tensors(tmp_path / "y", changed, CHECKPOINT, header)
        with pytest.raises(FileError, match=message):
            trainer("viper", list(goal.videos)).restore(tmp_path / "y")


# Files and bad input


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_comes_back_from_its_file(kind, priors, tmp_path):
    prior = priors[kind].prior
    prior.save(tmp_path / "prior.safetensors")
    model = load_reward(kind, prior=tmp_path / "prior.safetensors", device="cpu")
    assert model.prior.statistics == prior.statistics
    assert model.prior.provenance == prior.provenance
    expected = play(reward_model(kind, prior), film())
    np.testing.assert_array_equal(play(model, film()), expected)
    other = KINDS[1 - KINDS.index(kind)]
    with pytest.raises(FileError, match=f"prior of '{kind}'.*genreward train-{other}"):
        load_reward(other, prior=tmp_path / "prior.safetensors")
    with pytest.raises(ValueError, match=f"prior of '{other}', got one of '{kind}'"):
        reward_model(other, prior)


def test_files_that_are_no_prior(priors, tmp_path, goal):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileError, match="no video prior at"):
        Viper(tmp_path / "nowhere")
    goal.save(path)
    with pytest.raises(FileError, match="safetensors file but no video prior"):
        Viper(path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(FileError, match="a pickle, which is never read"):
        Viper(tmp_path / "x.pt")
    priors["viper"].prior.save(path)
    tensors, header = load_tensors(path, store.LAYOUT)
    renamed = {k.replace("net/head", "net/top"): v for k, v in tensors.items()}
    infinite = {**tensors, "net/head.bias": np.full(16, np.inf, np.float32)}
    for changed, about, message in (
        (renamed, header, "(?s)missing:.*net/head.bias.*unexpected:.*net/top.bias"),
        (infinite, header, "'net/head.bias' holds NaN"),
        (tensors, {**header, "kind": "sonnet"}, "prior of 'sonnet'"),
        (tensors, {**header, "net": {**header["net"], "legs": 4}}, "legs"),
        (tensors, {**header, "net": {**header["net"], "codes": 8}}, "is \\(17, 16\\)"),
        (tensors, {**header, "codec": {**header["codec"], "dim": 9**6}}, "codec"),
        (tensors, {**header, "net": {**header["net"], "width": 4**9}}, "is \\("),
        (tensors, {**header, "schema": 9}, "schema 9"),
    ):
        layout = dataclasses.replace(store.LAYOUT, schema=about["schema"])
        save_tensors(path, changed, layout, about)
        with pytest.raises(FileError, match=message):
            Viper(path)


def test_bad_options(priors):
    viper, diffusion = (priors[kind].prior for kind in KINDS)
    with pytest.raises(ValueError, match="likelihood='first': expected one of 'last'"):
        Viper(viper, likelihood="first")
    with pytest.raises(ValueError, match="chains=0"):
        DiffusionReward(diffusion, chains=0)
    bare = dataclasses.replace(diffusion, statistics={"mean": 0.0})
    with pytest.raises(ValueError, match="no std of the reward.*standardised=False"):
        DiffusionReward(bare)
    assert DiffusionReward(bare, standardised=False)
    with pytest.raises(ValueError, match="of 16 codes at 16 .* of 8 at 16"):
        Prior("viper", viper.codec, VideoTransformer(PriorConfig(8, 16)))
    with pytest.raises(ValueError, match="kind='sonnet': expected one of viper"):
        Prior("sonnet", viper.codec, viper.net)
    with pytest.raises(ValueError, match="frames=1"):
        PriorConfig(8, 16, frames=1)
    with pytest.raises(ValueError, match="that the heads divide"):
        PriorConfig(8, 16, width=10, heads=3)
    for changes, message in (
        ({"hops": 200}, "from 1 to steps hops"),
        ({"context": 0}, "context=0"),
        ({"stray": 0.0}, "stray=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            DiffusionConfig(8, 16, **changes)
    for changes, message in (
        ({"batch": 0}, "batch=0"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"average": 1.0}, "average=1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            PriorTraining(**changes)


def test_bad_videos():
    fine = np.zeros((5, 32, 32, 3), np.uint8)
    for videos, message in (
        ([], "no videos"),
        ([fine, fine[:1]], "video 1: .*at least 2"),
        ([fine.astype(np.float32)], "got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer("viper", videos)
    made = trainer("viper", [fine])
    with pytest.raises(ValueError, match="0 of 70 updates"):
        made.finish()
    with pytest.raises(ValueError, match="still being trained"):
        _ = made.codes


def test_videos_come_from_files_folders_episodes_and_goals(goal, tmp_path):
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    np.save(tmp_path / "deep" / "er" / "a.npy", large)
    Episode(
        frames=large[:4, ::2, ::2],
        frame_steps=np.array([0, 2, 4, 6]),
        actions=np.zeros((6, 2)),
        success=np.zeros(6, bool),
    ).save(tmp_path / "deep" / "b.safetensors")
    goal.save(tmp_path / "deep" / "goal.safetensors")
    (tmp_path / "deep" / "notes.txt").write_text("no video")
    found = load_videos([tmp_path / "deep"], [tmp_path / "deep/goal.safetensors"], 32)
    assert [len(video) for video in found] == [4, 6, 33, 33, 33]
    np.testing.assert_array_equal(found[0], large[:4, ::2, ::2])
    blocks = large.reshape(6, 32, 2, 32, 2, 3).mean((2, 4))
    np.testing.assert_allclose(found[1], blocks, atol=0.51)
    np.testing.assert_array_equal(found[2], goal.videos[0])
    (tmp_path / "empty").mkdir()
    for sources, goals, size, message in (
        ([], [], 32, "nothing to train on"),
        ([tmp_path / "empty"], [], 32, "neither videos .*nor recorded episodes"),
        ([tmp_path / "no.mp4"], [], 32, "no video at"),
        ([tmp_path / "deep"], [], 48, "would have to be enlarged"),
        ([tmp_path / "deep"], [], (32, 16), "another aspect ratio"),
        ([], ["metaworld/nothing"], 64, "no embedded goal"),
    ):
        with pytest.raises(ValueError, match=message):
            load_videos(sources, goals, size)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_trains_on_a_goal(kind, goal, tmp_path, capsys):
    goal.save(tmp_path / "goal.safetensors")
    output = tmp_path / "prior.safetensors"
    command = [
        f"train-{kind}", "--goal", str(tmp_path / "goal.safetensors"), "--size", "32",
        "--codec-steps", "2", "--steps", "2", "--every", "2", "--batch", "2",
        "--device", "cpu", "--output", str(output),
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2/4  codec" in said
    assert "4/4  prior" in said
    prior = Prior.load(output, kind)
    assert f"mean {prior.statistics['mean']:.4g}" in said
    assert prior.provenance["training"]["steps"] == 2
    assert prior.provenance["videos"] == 3
    json.dumps(prior.provenance)
    env = RewardModelWrapper(PointMass(size=32), kind, options={"prior": output})
    env.reset(seed=0)
    assert np.isfinite(env.step(np.ones(2, np.float32))[1])


def test_the_command_takes_another_priors_codec(goal, tmp_path, capsys, priors):
    goal.save(tmp_path / "goal.safetensors")
    priors["viper"].prior.save(tmp_path / "viper.safetensors")
    command = [
        "train-diffusion-reward", "--goal", str(tmp_path / "goal.safetensors"),
        "--codec", str(tmp_path / "viper.safetensors"), "--steps", "2", "--batch", "2",
        "--device", "cpu", "--output", str(tmp_path / "x.safetensors"),
    ]  # fmt: skip
    assert main([*command, "--size", "64"]) == 1
    assert "--size (64, 64): the codec of" in capsys.readouterr().err
    assert main(command) == 0
    made = Prior.load(tmp_path / "x.safetensors", "diffusion-reward").codec
    assert made.config.size == (32, 32)
    assert torch.equal(made.codebook, priors["viper"].prior.codec.codebook)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    for arguments, message in (
        ([], "nothing to train on"),
        ([str(tmp_path)], "neither videos"),
        (["--goal", "metaworld/pick-place", "--size", "60"], "60"),
        (["--goal", "metaworld/pick-place", "--steps", "0"], "steps=0"),
        (["--goal", "metaworld/pick-place", "--every", "0"], "every=0"),
        (["--goal", "metaworld/pick-place", "--batch", "0"], "batch=0"),
    ):
        command = ["train-viper", *arguments, "--output", str(tmp_path / "x")]
        assert main(command) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("genreward train-viper: ")
        assert message in error
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_trains_on_it(kind, priors):
    from stable_baselines3 import PPO

    model = reward_model(kind, priors[kind].prior)
    if kind == "diffusion-reward":
        model = with_novelty(model, 0.5, RND(grid=8, device="cpu"))
    env = RewardModelWrapper(PointMass(size=64, horizon=25), model)
    agent = PPO("CnnPolicy", env, n_steps=100, batch_size=50, n_epochs=1, device="cpu")
    agent.learn(500)
    rewards = agent.rollout_buffer.rewards
    assert np.isfinite(rewards).all()
    assert rewards.std() > 0


def test_untrained_certainty_is_finite_and_its_own_seeds():
    net = small_diffusion(codes=16, positions=4)
    context = torch.zeros(3, 2, 4, dtype=torch.int64)
    keys = [np.random.default_rng(seed) for seed in (0, 1, 0)]
    found = certainty(net, context, keys)
    assert found[0] == pytest.approx(found[2])
    assert found[0] != pytest.approx(found[1])
    assert np.isfinite(found).all()


def test_sums_hold_priors_beside_others(priors):
    model = WeightedSum([(Viper(priors["viper"].prior), 0.01), (Brightness(), 1.0)])
    frames = film(steps=2)
    expected = 0.01 * play(Viper(priors["viper"].prior), frames)
    expected += frames[1:].mean((2, 3, 4)) / 255
    np.testing.assert_allclose(play(model, frames), expected, rtol=1e-4)
