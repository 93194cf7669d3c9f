"""VLM-RM: its formula by explicit matrices, its texts, its hosts."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from genreward_wrappers import load_encoder, load_reward
from genreward_wrappers.core import Session
from genreward_wrappers.rewards.peers.vlm_rm import DEFAULT_ENCODER, VLMRM
from genreward_wrappers.testing import PointMass, check_reward_model
from tests.rewards.peers.in_use import check_hosts_agree

open_clip = pytest.importorskip("open_clip")

GOALS = ["a red disc on a green disc", "two discs in one place"]
SCENES = ["a red disc and a green disc", "an arena with two discs", "discs"]


@pytest.fixture(scope="module")
def make(clip_folder):
    return partial(VLMRM, encoder=f"open_clip:{clip_folder}", device="cpu")


@pytest.fixture(scope="module")
def frames():
    """Of the model's own size, so that no scaling blurs the comparison."""
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


def mean_unit(embeddings):
    mean = embeddings.mean(0)
    return mean / np.linalg.norm(mean)


def by_the_formula(x, g, b, alpha):
    """One frame after the other, with P written out."""
    d = g - b
    projection = alpha * np.outer(d, d) / (d @ d) + (1 - alpha) * np.eye(len(d))
    return np.array([1 - np.linalg.norm(projection @ (one - g)) ** 2 / 2 for one in x])


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(
    ("prompt", "baseline"), [(GOALS[:1], SCENES[:1]), (GOALS, SCENES)]
)
def test_the_formula(make, embed, frames, alpha, prompt, baseline):
    g, b = mean_unit(embed(prompt)), mean_unit(embed(baseline))
    expected = by_the_formula(embed(frames), g, b, alpha)
    assert np.ptp(expected) > 1e-3, "it tells the frames apart"
    found = make(prompt, baseline, alpha=alpha).values(frames)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_alpha_0_is_the_plain_cosine(make, embed, frames):
    expected = embed(frames) @ mean_unit(embed(GOALS))
    np.testing.assert_allclose(make(GOALS, alpha=0).values(frames), expected, atol=1e-5)
    np.testing.assert_allclose(
        make(GOALS, SCENES, alpha=0).values(frames), expected, atol=1e-5
    )
    # One text is a list of one.
    one = make(GOALS[0], alpha=0).values(frames)
    np.testing.assert_allclose(one, make(GOALS[:1], alpha=0).values(frames))


def test_alpha_1_sees_the_way_alone(make, embed, frames):
    """What lies across the way from the baseline to the goal changes nothing."""
    g, b = embed(GOALS[:1])[0], embed(SCENES[:1])[0]
    way = (g - b) / np.linalg.norm(g - b)
    expected = 1 - ((embed(frames) - g) @ way) ** 2 / 2
    found = make(GOALS[0], SCENES[0], alpha=1).values(frames)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_frames_that_are_not_square_are_squashed(make, embed):
    """As by the released code; or cut, as by the model's own preparation."""
    rng = np.random.default_rng(2)
    # Smooth, so that Pillow's rounding does not matter.
    small = rng.integers(0, 256, (4, 6, 12, 3)).astype(np.uint8)
    wide = np.stack(
        [np.array(Image.fromarray(f).resize((96, 48), Image.BICUBIC)) for f in small]
    )
    squashed = np.stack(
        [np.array(Image.fromarray(f).resize((32, 32), Image.BICUBIC)) for f in wide]
    )
    goal = mean_unit(embed(GOALS))
    found = make(GOALS, alpha=0).values(wide)
    np.testing.assert_allclose(found, embed(squashed) @ goal, atol=1e-4)
    cut = make(GOALS, alpha=0, resize="model").values(wide)
    np.testing.assert_allclose(cut, embed(wide) @ goal, atol=1e-4)
    assert np.abs(found - cut).max() > 1e-3


def test_only_rounding_parts_it_from_the_released_code(make, monkeypatch):
    """Which resizes numbers from 0 to 1, and does not round them to uint8."""
    from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize

    from genreward_wrappers.encoders import images

    model = make(GOALS, alpha=0)
    looks, clip = model._squash, model.encoder.model
    resize = Resize((32, 32), InterpolationMode.BICUBIC, antialias=True)
    theirs = Compose([resize, Normalize(looks.mean, looks.std)])

    @torch.inference_mode()
    def rewards(prepared):
        unit = torch.nn.functional.normalize(clip.encode_image(prepared))
        return (unit @ model._goal).numpy()

    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (8, 96, 96, 3)).astype(np.uint8)
    film = torch.from_numpy(frames)
    released = rewards(theirs(film.permute(0, 3, 1, 2) / 255))
    off = np.abs(model.values(frames) - released).max()
    assert 1e-6 < off < np.ptp(released) / 20

    def unrounded(planes, size, mode):
        planes = planes.float()
        return torch.nn.functional.interpolate(planes, size, mode=mode, antialias=True)

    monkeypatch.setattr(images, "scale_planes", unrounded)
    found = rewards(looks.normalise(looks.fit(film)))
    np.testing.assert_allclose(found, released, atol=1e-6)


def test_it_pays_for_the_frame_that_came_of_the_action(make, frames):
    model = make(GOALS[0], SCENES[0])
    values = model.values(frames)
    session = Session([model], 2)
    session.begin(frames[:2])
    active = np.array([True, False])
    yes, no = np.ones(2, bool), np.zeros(2, bool)
    score = session.score(np.zeros(2), frames[2:4], no, no, active)["vlm-rm"]
    np.testing.assert_allclose(score.value, [values[2], 0], atol=1e-6)
    assert score.due.tolist() == [True, False]
    # On the last step as on any other; and another episode changes nothing.
    score = session.score(np.zeros(2), frames[3:5], yes, no)["vlm-rm"]
    np.testing.assert_allclose(score.value, values[3:5], atol=1e-6)
    session.begin(frames[:2], yes)
    score = session.score(np.zeros(2), frames[4:6], no, yes)["vlm-rm"]
    np.testing.assert_allclose(score.value, values[4:6], atol=1e-6)


def test_contracts(make):
    check_reward_model(make(GOALS, SCENES))


def test_a_dark_frame_is_one_whatever_else_is_there(make):
    model = make(GOALS[0], SCENES[0])
    dark = np.full((1, 64, 64, 3), 3, np.uint8)
    dark[0, 20:40, 20:40] = 9
    alone = model.values(dark)[0]
    bright = np.full((3, 64, 64, 3), 250, np.uint8)
    assert model.values(np.concatenate([bright, dark]))[-1] == pytest.approx(
        alone, abs=1e-6
    )
    black, white = model.values(np.stack([dark[0] * 0, dark[0] * 0 + 255]))
    assert len({round(float(v), 4) for v in (alone, black, white)}) == 3


def test_hosts_agree(make):
    def check(reward, over, info):
        assert info["reward_vlm-rm"] == pytest.approx(reward)

    for own, _ in check_hosts_agree(make(GOALS[0], SCENES[0]), 12, check):
        assert len(np.unique(own)) > 6


@pytest.mark.slow
def test_an_agent_trains_on_it(make):
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

    from genreward_wrappers import TapFrames
    from genreward_wrappers.sb3 import VecRewardModel

    def env():
        inner = PointMass(size=32, obs="state", horizon=25, render_mode="rgb_array")
        return TapFrames(inner, size=32)

    venv = VecMonitor(VecRewardModel(DummyVecEnv([env] * 2), make(GOALS, SCENES)))
    agent = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0, device="cpu")
    before = [p.clone() for p in agent.policy.parameters()]
    agent.learn(500)
    assert agent.num_timesteps >= 500
    returns = [episode["r"] for episode in agent.ep_info_buffer]
    assert len(returns) >= 10
    assert np.isfinite(returns).all()
    assert np.ptp(returns) > 0
    after = list(agent.policy.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_another_encoder_object(clip_folder, make, frames):
    encoder = load_encoder(f"open_clip:{clip_folder}", device="cpu")
    by_object = VLMRM(GOALS, SCENES, encoder=encoder)
    np.testing.assert_array_equal(
        by_object.values(frames), make(GOALS, SCENES).values(frames)
    )
    assert make(GOALS, SCENES).encoder is encoder, "one model for all"


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": GOALS}, ValueError, r"alpha=0.5.*baseline=.*or alpha=0"),
        ({"prompt": ""}, ValueError, "prompt=''.*none empty"),
        ({"prompt": []}, ValueError, "prompt=.*at least one text"),
        ({"prompt": 3}, TypeError, "prompt=3.*expected a text"),
        ({"prompt": "a", "baseline": ["b", " "]}, ValueError, "baseline=.*none empty"),
        ({"prompt": "a", "baseline": "a"}, ValueError, "the same embedding"),
        ({"prompt": "a", "alpha": 0, "resize": "crop"}, ValueError, "one of 'squash'"),
        ({"prompt": "a", "baseline": "b", "alpha": 1.5}, ValueError, "from 0 to 1"),
        ({"prompt": "a", "baseline": "b", "alpha": -0.1}, ValueError, "from 0 to 1"),
    ],
)
def test_bad_options(make, options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_an_encoder_without_texts():
    with pytest.raises(ValueError, match="PooledPixels.*no text tower"):
        load_reward("vlm-rm", prompt="a", baseline="b", encoder="pixels", device="cpu")


def test_the_papers_model_is_fetched_or_says_how():
    assert DEFAULT_ENCODER == "open_clip:ViT-bigG-14/laion2b_s39b_b160k"
    with pytest.raises(FileNotFoundError, match="hf download laion/CLIP-ViT-bigG-14"):
        load_reward("vlm-rm", prompt="a", baseline="b", device="cpu")


def test_a_long_prompt_is_reported(make):
    with pytest.warns(UserWarning, match="it sees 'one two three four five six seven"):
        make("one two three four five six seven eight nine ten eleven", alpha=0)
