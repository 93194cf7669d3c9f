"""The discrete diffusion of Diffusion Reward, against matrices and loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from genreward_wrappers.training.priors.vq_diffusion import Noise, draw
from tests.training.priors.small import small_diffusion

pytestmark = pytest.mark.usefixtures("one_thread")


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
