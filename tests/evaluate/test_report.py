"""The reward inspector's data: what a report holds, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import sys

import numpy as np
import pytest

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.page import report as report_module
from genreward_wrappers.evaluate.page.output import thinned
from genreward_wrappers.evaluate.page.report import (
    Report,
    RewardInfo,
    Shown,
    page,
    report_json,
    sheet,
)
from tests.evaluate.inspector import HOSTILE, film, one

pytest.importorskip("PIL", reason="the report needs Pillow")


def test_json_holds_only_what_was_due(full):
    figures = report_json(full)
    json.dumps(figures, allow_nan=False)
    first, sparse = figures["episodes"][0], figures["episodes"][5]
    assert first["curves"]["video"] == [[8, 0.30435], [16, 0.65217], [24, 1.0]]
    assert first["success_steps"] == [[16, 24]]
    assert first["rewards"]["video"] == {
        "due": 3,
        "sum": 1.9565,
        "low": 0.30435,
        "high": 1.0,
    }
    assert figures["episodes"][2]["curves"]["video"] == []
    assert figures["episodes"][2]["rewards"]["video"]["low"] is None
    assert sparse["frame_steps"] == [0, 8, 16, 24]
    assert figures["metrics"]["env"]["separation"]["value"] is None
    assert figures["goals"][1] == {"frames": 25, "key_frame": 3}


def test_matrices_are_packed_small_and_true():
    matrix = np.arange(200 * 100, dtype=np.float32).reshape(200, 100)
    matrix[0, 0] = np.nan
    shown = Shown(one(), "a", "k", "a", matrix={"m": matrix, "none": matrix[:0]})
    packed = report_json(Report("t", rewards=[RewardInfo("m", "m")], episodes=[shown]))
    assert list(packed["episodes"][0]["matrix"]) == ["m"]
    packed = packed["episodes"][0]["matrix"]["m"]
    cells = np.frombuffer(base64.b64decode(packed["cells"]), np.uint8)
    cells = cells.reshape(packed["shape"])
    assert cells.shape == (65, 65)
    assert cells[0, 0] == 255
    assert cells[-1, -1] == 254
    assert packed["high"] == 19999
    back = packed["low"] + cells[32] / 254 * (packed["high"] - packed["low"])
    np.testing.assert_allclose(
        back, matrix[100][np.linspace(0, 99, 65).round().astype(int)], atol=60
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": []}, "at least one episode"),
        ({"rewards": []}, "at least one reward"),
        ({"goals": []}, "compared with goal 0, the report has 0"),
    ],
)
def test_nothing_to_show_is_an_error(full, changes, message):
    with pytest.raises(ValueError, match=message):
        page(Report(**{**vars(full), **changes}))


def test_without_pillow_the_message_names_the_extra(full, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)
    with pytest.raises(
        ImportError, match=r'pip install "genreward-wrappers\[evaluate\]"'
    ):
        page(full)


def cut(packed, index):
    """A frame of a sheet."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(packed["src"].split(",")[1])))
    (width, height), (wide, tall) = packed["size"], packed["tile"]
    left, top = index % packed["columns"] * wide, index // packed["columns"] * tall
    box = (left, top, left + width, top + height)
    return np.asarray(picture.convert("RGB").crop(box)).astype(int)


@pytest.mark.parametrize(
    ("count", "size"), [(1, (64, 64)), (7, (33, 90)), (25, (70, 64))]
)
def test_sheets_hold_every_frame(count, size):
    frames = film(count, row=10, size=size)
    packed = sheet(frames)
    assert packed["count"] == count
    assert packed["size"] == (size[1], size[0])
    for index, frame in enumerate(frames):
        assert np.abs(cut(packed, index) - frame).mean() < 6


def test_large_videos_are_shrunk(monkeypatch):
    monkeypatch.setattr(report_module, "SHEET_PIXELS", 5000)
    packed = sheet(film(5, row=10))
    assert packed["size"] == (31, 31)
    assert cut(packed, 3)[7, 5].min() > 150


def test_a_hundred_episodes_stay_small():
    rng = np.random.default_rng(0)
    zoom = np.ones((4, 4, 1))
    ramp = np.linspace(0, 1, 64)
    episodes = []
    for i in range(100):
        # A floor with a grain, a body that moves, and the noise of a renderer.
        still = np.kron(rng.normal(120, 18, (16, 16, 3)), zoom)
        frames = np.repeat(still[None], 65, axis=0)
        for t, frame in enumerate(frames):
            frame[20:40, t // 2 : t // 2 + 24] = np.kron(
                rng.normal(180, 6, (5, 6, 3)), zoom
            )
        frames = (frames + rng.normal(0, 7, frames.shape)).clip(0, 255).astype(np.uint8)
        rewards = {name: rng.normal(size=64).astype(np.float32) for name in "abcd"}
        episode = Episode(frames, np.arange(65), np.zeros((64, 4)), ramp > 2, rewards)
        matrix = {name: rng.normal(size=(65, 65)) for name in "ab"}
        episodes.append(Shown(episode, str(i), "kind", str(i), matrix=matrix))
    size = len(page(Report("t", rewards=[RewardInfo("a", "a")], episodes=episodes)))
    # Real renders, of less noise, come to five and a half megabytes.
    assert 4e6 < size < 6e6


def test_a_page_shows_no_more_frames_than_an_eye_needs():
    """And of those that there are the ones that are spread evenly."""
    steps = np.union1d(np.arange(0, 257, 4), np.arange(1, 257, 2))
    episode = one(256, steps, rewards={"video": np.zeros(256)})
    few = thinned(episode)
    assert few.frame_steps.tolist() == list(range(0, 257, 4))
    for step, frame in zip(few.frame_steps, few.frames, strict=True):
        assert (frame == episode.frames[list(steps).index(step)]).all()
    assert len(few) == 256
    assert thinned(few) is few


def test_text_cannot_leave_its_place(full):
    text = page(full)
    assert "<img" not in text
    # One for each: theme, report, pictures, the script itself.
    assert text.count("</script>") == 4
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'"
    )
    assert f'Content-Security-Policy" content="{policy}' in text
    data = text.split('id="report">')[1].split("</script>")[0]
    assert json.loads(data)["prompt"] == HOSTILE
