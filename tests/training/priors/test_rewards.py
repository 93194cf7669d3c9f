"""VIPER and Diffusion Reward, as rewards of their priors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genreward_wrappers import RewardModelWrapper
from genreward_wrappers.core import Session
from genreward_wrappers.rewards.combine import RND, WeightedSum
from genreward_wrappers.rewards.peers.diffusion_reward import (
    DiffusionReward,
    with_novelty,
)
from genreward_wrappers.rewards.peers.viper import Viper
from genreward_wrappers.testing import Brightness, PointMass, check_reward_model
from genreward_wrappers.training.priors.vq_diffusion import certainty
from tests.training.priors.small import KINDS, film, play, reward_model, small_diffusion

pytestmark = pytest.mark.usefixtures("one_thread")


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
