"""LIV: its cosine and its difference, for texts and pictures."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from genreward_wrappers import load_reward
from genreward_wrappers.core import Session
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.rewards.peers.liv import LIV
from genreward_wrappers.testing import check_reward_model
from tests.rewards.peers.in_use import check_an_agent_trains

open_clip = pytest.importorskip("open_clip")

TEXTS = ["open the microwave", "push the red disc"]


@pytest.fixture(scope="module")
def make(clip_folder):
    return partial(LIV, encoder=f"open_clip:{clip_folder}", device="cpu")


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)


@pytest.fixture
def cosines(embed):
    """(frames, goals) cosines in float64, by open_clip and numpy alone."""
    return lambda frames, goals: embed(frames) @ embed(goals).T


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS])
def test_the_cosine_with_texts(make, cosines, frames, texts):
    expected = cosines(frames, texts).mean(1)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(make(texts).values(frames), expected, atol=1e-5)


def test_the_cosine_with_pictures(make, cosines, frames, goal, tmp_path):
    model = make(goal=frames[0])
    expected = cosines(frames, frames[:1])[:, 0]
    np.testing.assert_allclose(model.values(frames), expected, atol=1e-5)
    assert model.values(frames[:1])[0] == pytest.approx(1, abs=1e-5)
    # A bundle's key frames, and their mean.
    bundle = goal.with_(key_frames=(3, 20, 32))
    keys = np.stack([goal.videos[0, 3], goal.videos[1, 20], goal.videos[2, 32]])
    expected = cosines(frames, keys).mean(1)
    np.testing.assert_allclose(make(goal=bundle).values(frames), expected, atol=1e-5)
    bundle.save(tmp_path / "goal.safetensors")
    by_path = make(goal=str(tmp_path / "goal.safetensors"))
    np.testing.assert_allclose(by_path.values(frames), expected, atol=1e-5)


def test_a_picture_needs_no_text_tower(frames):
    pixels = PooledPixels((32, 32), 8, device="cpu")
    model = load_reward("liv", goal=frames[0], encoder=pixels)
    assert model.values(np.repeat(frames[:1], 2, 0)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("form", ["plain", "difference"])
def test_two_environments_that_begin_at_different_times(make, cosines, frames, form):
    """By explicit loops: what each row earns, over resets, rests and ends."""
    s = cosines(frames, TEXTS[:1])[:, 0]
    session = Session([make(TEXTS[0], form=form)], 2)
    session.begin(frames[[0, 1]])
    no = np.zeros(2, bool)
    # Frames of each row, which of them act, and who begins anew afterwards, where.
    script = [
        ([2, 3], [True, True], None),
        ([4, 4], [True, False], None),
        ([5, 6], [True, True], (0, 7)),
        ([1, 2], [True, True], None),
    ]
    last = [0, 1]
    for chosen, active, restart in script:
        ends = np.array([restart is not None and restart[0] == r for r in (0, 1)])
        score = session.score(np.zeros(2), frames[chosen], ends, no, np.array(active))[
            "liv"
        ]
        for row, (frame, acts) in enumerate(zip(chosen, active, strict=True)):
            expected = s[frame] - (s[last[row]] if form == "difference" else 0)
            assert score.due[row] == acts
            assert score.value[row] == pytest.approx(expected if acts else 0, abs=1e-5)
            last[row] = frame if acts else last[row]
        if restart is not None:
            row, frame = restart
            last[row] = frame
            session.begin(frames[[frame, frame]], np.arange(2) == row)


def test_differences_add_up(make, frames):
    model = make(TEXTS[0], form="difference")
    session = Session([model], 1)
    session.begin(frames[:1])
    no = np.zeros(1, bool)
    total = sum(
        session.score(np.zeros(1), frames[[i]], no, no)["liv"].value[0]
        for i in range(1, 8)
    )
    first, last = model.values(frames[[0, 7]])
    assert total == pytest.approx(last - first, abs=1e-5)


@pytest.mark.parametrize("form", ["plain", "difference"])
def test_contracts(make, form):
    check_reward_model(make(TEXTS, form=form))


def test_an_almost_black_frame_is_one_whatever_else_is_there(make):
    """Numbers up to 10 are dark pixels, not a picture in [0, 1]."""
    model = make(TEXTS[0])
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 11, (1, 64, 64, 3)).astype(np.uint8)
    alone = model.values(dark)[0]
    bright = rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    beside = model.values(np.concatenate([bright, dark]))[-1]
    assert beside == pytest.approx(alone, abs=1e-6)
    # Were it read as [0, 10/255] and as [0, 10], this would tell.
    one_pixel = dark.copy()
    one_pixel[0, 0, 0] = 255
    assert model.values(one_pixel)[0] == pytest.approx(alone, abs=0.02)
    scaled = (dark.astype(int) * 25).clip(0, 255).astype(np.uint8)
    assert abs(model.values(scaled)[0] - alone) > 0.02


def test_an_agent_trains_on_it(make):
    check_an_agent_trains(make(TEXTS, form="difference"))


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "one of prompt=.*and goal=.*got prompt=None and goal=None"),
        ({"prompt": "a", "goal": "b"}, ValueError, "one of prompt="),
        ({"prompt": ""}, ValueError, "prompt=''.*none empty"),
        ({"prompt": "a", "form": "sum"}, ValueError, "form='sum': expected one of"),
        ({"goal": np.zeros((4, 4, 3))}, ValueError, r"uint8 picture.*float64 \(4, 4"),
        ({"goal": np.zeros((2, 4, 4, 3), np.uint8)}, ValueError, r"picture.*\(2, 4"),
        ({"goal": "no/such/goal"}, ValueError, "no embedded goal"),
    ],
)
def test_bad_options(make, options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_a_goal_text_for_a_model_without_a_text_tower():
    with pytest.raises(ValueError, match="PooledPixels.*no text tower"):
        load_reward("liv", prompt="a", encoder="pixels", device="cpu")
