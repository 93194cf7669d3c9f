"""The reward inspector: its data, the page in a real browser, and the live server."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shutil
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from genreward_wrappers import GoalBundle
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.page import live as live_module
from genreward_wrappers.evaluate.page import report as report_module
from genreward_wrappers.evaluate.page.live import serve
from genreward_wrappers.evaluate.page.output import thinned
from genreward_wrappers.evaluate.page.report import (
    GoalVideo,
    Report,
    RewardInfo,
    Shown,
    page,
    report_json,
    sheet,
    write_page,
)

pytest.importorskip("PIL", reason="the report needs Pillow")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page's tests need playwright"
)
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
if BROWSER is None:
    pytest.skip("the page's tests need Chromium or Chrome", allow_module_level=True)

T = 24
HOSTILE = "</script><img src=x onerror=alert(1)> {{style}} & <b>up</b>"
LONG = "an_extremely_long_name_without_any_space_in_it_" * 4
# With these there are as many columns as of the default set.
MORE = ("genreward", "frame:form=difference", "pixels:score=motion", "random")
TASKS = [f"metaworld/{name}" for name in (
    "push", "pull", "drawer-close", "button-press-topdown", "handle-press-side",
)]  # fmt: skip


def film(count, row, background=40, size=(64, 64)):
    """A white square that is 2 pixels further right in each frame."""
    frames = np.full((count, *size, 3), (background, background, 60), np.uint8)
    for t, frame in enumerate(frames):
        frame[row : row + 8, 2 * t : 2 * t + 8] = 255
    return frames


def one(steps=T, frame_steps=None, wins=(), rewards=None, background=40, **more):
    """An episode of the square's film."""
    if frame_steps is None:
        frame_steps = np.arange(steps + 1)
    success = np.zeros(steps, np.bool_)
    success[list(wins)] = True
    if rewards is None:
        ramp = np.linspace(0, 1, steps, dtype=np.float32)
        sparse = np.where(np.arange(steps) % 8 == 7, ramp, np.float32(np.nan))
        rewards = {"video": sparse, "env": 10 * ramp}
    frames = film(len(frame_steps), row=30, background=background)
    return Episode(
        frames,
        np.asarray(frame_steps, np.int64),
        np.zeros((steps, 2), np.float32),
        success,
        {name: np.asarray(curve, np.float32) for name, curve in rewards.items()},
        **more,
    )


NOTHING = np.full(T, np.nan, np.float32)


def entry(value, flag=""):
    return {
        "value": value,
        "low": value - 0.1,
        "high": value + 0.1,
        "n": 6,
        "flag": flag,
    }


@pytest.fixture(scope="module")
def full():
    """Episodes that differ in all that the page shows."""
    share = np.linspace(0, 1, 9)
    matrix = 1 - np.abs(share[:, None] - share[None])
    flat = {"video": np.full(T, 0.5), "env": np.zeros(T)}
    episodes = [
        Shown(one(wins=range(15, T)), "a", "scripted", "first", 0, {"video": matrix}),
        Shown(one(background=100), "b", "random", "second", 1, {}, "seed 0 at 10k"),
        Shown(one(rewards={"video": NOTHING, "env": NOTHING}), "c", "random", "third"),
        Shown(one(rewards=flat, wins=[3]), "d", "still", LONG, 0),
        Shown(one(1, rewards={"video": [0.5], "env": [0]}), "e", "still", "short", 0),
        Shown(
            one(T, [0, 8, 16, 24]), "f", "scripted", "sparse", 0, {"video": matrix**2}
        ),
    ]
    episodes.append(Shown(one(0, rewards={"video": []}), "g", "still", "over at once"))
    return Report(
        title="Is the square's goal worth it?",
        facts={"environment": "toy/square", "command": "genreward evaluate " + LONG},
        prompt=HOSTILE,
        goals=[GoalVideo(film(T + 1, 10), T), GoalVideo(film(2 * T // 2 + 1, 50), 3)],
        rewards=[
            RewardInfo("video", "video-level", about="How close it is."),
            RewardInfo("env", "environment", "reference"),
            RewardInfo("missing", LONG, "control"),
            *(RewardInfo(name, name, "control") for name in MORE),
        ],
        episodes=episodes,
        metrics={
            "video": {"separation": entry(0.9), "order": entry(0.7, "few episodes")},
            "env": {"separation": {**entry(0.5, "no failures"), "value": float("nan")}},
            **{
                name: {"separation": entry(0.2), "order": entry(-0.123)}
                for name in MORE
            },
        },
        metric_notes={"separation": "How often a success earns more."},
        metric_groups={
            "Successes": {"separation": "Earns more"},
            "Nothing": {"x": "y"},
        },
        verdicts=[
            {
                "reward": "video",
                "level": level,
                "headline": f"It is {level}.",
                "findings": ["one", HOSTILE],
            }
            for level in ("good", "weak", "misleading", "dead")
        ],
        confusion={
            "video": {
                "tasks": TASKS,
                "goals": TASKS,
                "matrix": [
                    [0.9, 0.1, 0.123, 0.123, 0.123],
                    [0.6, 0.5, 0.123, 0.123, 0.123],
                    *[[0.123, 0.123, 0.234, 0.123, 0.123]] * 3,
                ],
                "diagonal_minus_off": 0.35,
                "argmax_accuracy": 0.5,
            }
        },
        learning=[
            {
                "reward": "video",
                "seed": seed,
                "steps": [0, 1000, 2000],
                "success": [0, 0.5, 1 - seed / 2],
                "return": [0, None, 3.0],
                "verdict": "it rises",
            }
            for seed in range(3)
        ],
        notes=["Only squares."],
    )


# ------------------------------------------------------------------------- the data


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


# ---------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(full, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, full)
    return path


@contextmanager
def opened(chromium, address, width=1280, height=800, theme="light", motion="reduce"):
    """The page, which must not complain or ask for anything but itself."""
    context = chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme=theme,
        reduced_motion=motion,
    )
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    wrong, asked = [], []
    # These tests read the pixels, which the page itself never does.
    tab.on(
        "console",
        lambda m: None if "willReadFrequently" in m.text else wrong.append(m.text),
    )
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.asked = [url for url in asked if not url.startswith("data:")]
    yield tab
    assert wrong == []
    own = address.rstrip("/")
    assert [u for u in asked if not u.startswith(("data:", own))] == []
    context.close()


@pytest.fixture
def tab(chromium, file):
    with opened(chromium, file.as_uri()) as tab:
        drawn(tab, 0)
        yield tab


# The middle of the white square, which says which frame is really drawn.
SQUARE = """id => {
  const c = document.getElementById(id);
  const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
  let sum = 0, n = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i] > 180) { sum += (i / 4) % c.width; n++; }
  return n ? sum / n : -1;
}"""


def frame_of(tab, canvas="agent"):
    return round((tab.evaluate(SQUARE, canvas) - 3.5) / 2)


def until(tab, script, arg=None):
    """Waits for a script to be true. The page's policy forbids Playwright's own way."""
    end = time.monotonic() + 10
    while not tab.evaluate(script, arg):
        assert time.monotonic() < end, f"never came: {script}"
        tab.wait_for_timeout(30)


def drawn(tab, frame, canvas="agent"):
    until(
        tab,
        f"([id, wanted]) => Math.round((({SQUARE})(id) - 3.5) / 2) === wanted",
        arg=[canvas, frame],
    )


def counter(tab):
    return tab.text_content("#counter")


def cursor_step(tab, steps=T):
    """Where the cursor stands on the curves, in steps."""
    return tab.evaluate(
        """steps => {
          const box = document.getElementById('curves').getBoundingClientRect();
          const at = document.querySelector('.cursor').getBoundingClientRect();
          return (at.left - box.left - 52) / (box.width - 64) * steps;
        }""",
        steps,
    )


def choose(tab, name):
    tab.get_by_role("option", name=name).click()
    until(
        tab,
        "name => document.getElementById('episode-label').textContent === name",
        arg=name,
    )


def test_loads_and_says_what_it_knows(tab):
    assert tab.text_content("h1") == "Is the square's goal worth it?"
    assert tab.text_content("#prompt") == f"“{HOSTILE}”"
    assert len(tab.asked) == 1
    for section in ("verdicts", "metrics", "confusion", "learning", "notes"):
        assert tab.is_visible(f"#{section}")
    assert tab.locator("#metrics thead th").all_text_contents() == [
        "video-level",
        "environment reference",
        *(f"{name} control" for name in MORE),
    ]
    assert tab.locator("#metrics .group").all_text_contents() == [
        "Successes",
        "Other figures",
    ]
    named = tab.locator("#metrics tbody tr:not(.group)").first
    # In words, and what files and commands call it where one points.
    assert named.locator("b").text_content() == "Earns more"
    assert named.locator("th").get_attribute("title") == "separation"
    row = named.text_content()
    assert "0.800 to 1" in row
    assert "n = 6" in row
    assert "How often" in row
    assert "few episodes" in tab.text_content("#metrics")
    assert "not measured" in tab.text_content("#metrics")
    assert "undefined: no failures" in tab.text_content("#metrics")
    levels = tab.locator(".level").all_text_contents()
    assert levels == ["good", "weak", "misleading", "dead"]
    # Verdicts come first, and what only a machine reads is folded away.
    above = """(a, b) => document.querySelector(a).getBoundingClientRect().top
      < document.querySelector(b).getBoundingClientRect().top"""
    assert tab.evaluate(f"({above})('#verdicts', '#facts')")
    assert tab.evaluate(f"({above})('#facts', '#inspector')")
    assert not tab.is_visible("#facts dl")
    assert "toy/square" in tab.text_content("#facts")
    assert "0.600 max" in tab.text_content("#confusion")
    assert tab.locator("#learning svg").count() == 2
    # Held still for those who asked for calm.
    assert counter(tab) == f"step 0 of {T}"
    assert tab.text_content("#play") == "▶ Play"


def test_space_plays_and_pauses(tab):
    tab.keyboard.press(" ")
    until(tab, "player.step >= 3")
    tab.keyboard.press(" ")
    held = counter(tab)
    tab.wait_for_timeout(700)
    assert counter(tab) == held
    step = int(held.split()[1])
    assert frame_of(tab) == step
    assert cursor_step(tab) == pytest.approx(step, abs=0.1)


def test_plays_at_once_unless_motion_is_unwanted(chromium, file):
    with opened(chromium, file.as_uri(), motion="no-preference") as tab:
        until(tab, "player.running && player.step > 1")


def test_keys_step_and_everything_follows(tab):
    for keys, step in [
        (["ArrowRight"] * 3, 3),
        (["Shift+ArrowRight"], 13),
        (["ArrowLeft"], 12),
        (["Shift+ArrowRight"] * 3, T),
        (["Shift+ArrowLeft"] * 5, 0),
        (["Shift+ArrowRight"], 10),
    ]:
        for name in keys:
            tab.keyboard.press(name)
        assert counter(tab) == f"step {step} of {T}"
        assert frame_of(tab) == step
        assert frame_of(tab, "goal") == step
        assert cursor_step(tab) == pytest.approx(step, abs=0.1)
    # The latest value that was due.
    assert "0.304 at step 8" in tab.locator(".panel").first.text_content()
    assert frame_of(tab, "key") == T
    tab.focus("#episodes")
    tab.keyboard.press("End")
    assert frame_of(tab) == T
    tab.keyboard.press("Home")
    assert frame_of(tab) == 0


def test_clicking_and_dragging_in_a_curve_move_the_video(tab):
    box = tab.locator("#curves").bounding_box()

    def place(step):
        x = box["x"] + 52 + step / T * (box["width"] - 64)
        return x, box["y"] + 80

    tab.locator("#curves").scroll_into_view_if_needed()
    box = tab.locator("#curves").bounding_box()
    tab.mouse.click(*place(17))
    assert counter(tab) == f"step 17 of {T}"
    assert frame_of(tab) == 17
    assert frame_of(tab, "goal") == 17
    assert "success ✓" in tab.text_content("#agent-note")
    tab.mouse.move(*place(17))
    tab.mouse.down()
    tab.mouse.move(*place(5))
    assert frame_of(tab) == 5
    tab.mouse.move(*place(-9))
    tab.mouse.up()
    assert frame_of(tab) == 0


def test_the_matrix_follows_and_leads(tab):
    tab.locator("#matrix").scroll_into_view_if_needed()
    box = tab.locator("#matrix").bounding_box()
    # The middle of the seventh of nine columns: three quarters of the time.
    tab.mouse.click(box["x"] + 6.5 / 9 * box["width"], box["y"] + 40)
    assert counter(tab) == f"step 18 of {T}"
    assert frame_of(tab) == 18
    assert cursor_step(tab) == pytest.approx(18, abs=0.1)
    assert tab.evaluate("document.querySelector('.across').style.left") == "72.2222%"
    assert tab.evaluate("document.querySelector('.along').style.top") == "27.7778%"
    assert tab.text_content("#matrix-note") == "1 at the cursor"
    tab.keyboard.press("Shift+ArrowLeft")
    assert tab.evaluate("document.querySelector('.across').style.left") == "38.8889%"
    # Agent time to the right, goal time upwards: the diagonal rises.
    dark = """(([x, y]) => document.querySelector('#matrix canvas')
      .getContext('2d').getImageData(x, y, 1, 1).data[0])"""
    assert tab.evaluate(dark, [0, 8]) < 60 < 200 < tab.evaluate(dark, [0, 0])


def test_switching_episodes(tab):
    assert "success from step 16" in tab.text_content("#curves")
    tab.keyboard.press("Shift+ArrowRight")
    curve = "document.querySelector('#curves path')?.getAttribute('d')"
    first = tab.evaluate(curve)
    choose(tab, "second")
    # At the same share of its time, and of its own goal.
    drawn(tab, 10)
    corner = """document.getElementById('agent').getContext('2d')
      .getImageData(60, 60, 1, 1).data[0]"""
    assert tab.evaluate(corner) == pytest.approx(100, abs=12)
    assert "success" not in tab.text_content("#curves")
    assert "no success" in tab.text_content("#episode-facts")
    assert "seed 0 at 10k" in tab.text_content("#episode-facts")
    assert "video 2 of 2" in tab.text_content("#goal-note")
    assert not tab.is_visible("#similarity")
    choose(tab, "third")
    until(
        tab, "document.querySelector('#curves').textContent.includes('nothing was due')"
    )
    assert tab.evaluate(curve) != first
    assert not tab.is_visible("#goal-figure")
    tab.keyboard.press("n")
    until(tab, "document.querySelector('#curves').textContent.includes('✓')")
    assert "success from step 4" in tab.text_content("#curves")
    tab.keyboard.press("p")
    tab.focus("#episodes")
    for _ in range(9):
        tab.keyboard.press("ArrowUp")
    assert tab.text_content("#episode-label") == "first"
    tab.keyboard.press("ArrowDown")
    assert tab.text_content("#episode-label") == "second"
    chosen = tab.locator("#episodes [aria-selected=true]")
    assert chosen.count() == 1
    active = tab.get_attribute("#episodes", "aria-activedescendant")
    assert active == chosen.get_attribute("id")


def test_short_and_sparse_episodes(tab):
    choose(tab, "short")
    until(tab, "document.getElementById('counter').textContent === 'step 0 of 1'")
    tab.keyboard.press("ArrowRight")
    assert frame_of(tab) == 1
    assert frame_of(tab, "goal") == T
    choose(tab, "over at once")
    until(tab, "player.episode.steps === 0")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press(" ")
    assert counter(tab) == "step 0 of 0"
    assert tab.text_content("#play") == "▶ Play"
    choose(tab, "sparse")
    until(tab, "document.getElementById('scrub').max === '24'")
    tab.keyboard.press("Shift+ArrowRight")
    for _ in range(4):
        tab.keyboard.press("ArrowRight")
    # Of frames at 0, 8, 16, 24 the one at 8 is the latest.
    assert counter(tab) == "step 14 of 24"
    assert frame_of(tab) == 1
    assert "seen after step 8" in tab.text_content("#agent-note")
    assert frame_of(tab, "goal") == 14


def test_filters(tab):
    def names():
        return tab.locator("#episodes .name").all_text_contents()

    tab.select_option("#kind", "random")
    assert names() == ["second", "third"]
    assert tab.text_content("#episode-label") == "second"
    assert tab.text_content("#count") == "2 episodes, 0 with success"
    tab.select_option("#outcome", "yes")
    assert names() == []
    assert "no episode" in tab.text_content("#count")
    tab.select_option("#kind", "")
    assert names() == ["first", LONG]
    tab.select_option("#outcome", "no")
    assert names() == ["second", "third", "short", "sparse", "over at once"]


def test_theme_follows_the_system_until_chosen(tab):
    paper = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(paper) == "rgb(251, 250, 247)"
    tab.emulate_media(color_scheme="dark")
    until(tab, f"{paper} === 'rgb(19, 20, 22)'")
    tab.click("#theme")
    assert tab.evaluate(paper) == "rgb(251, 250, 247)"
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        # Long enough for the page to be told, were it to listen.
        tab.wait_for_timeout(200)
    assert tab.evaluate(paper) == "rgb(251, 250, 247)"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_its_screen(chromium, file, width, theme):
    with opened(chromium, file.as_uri(), width, 740, theme) as tab:
        drawn(tab, 0)
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        for name in ("first", LONG):
            choose(tab, name)
            wide = tab.evaluate("document.documentElement.scrollWidth")
            assert wide <= width
        # Neither do its figures: the curves fit the width there is.
        wider = """[...document.querySelectorAll('main > section *')].filter(node =>
          !node.closest('#episodes') &&
          node.getBoundingClientRect().right > innerWidth + 1)
          .map(node => node.outerHTML.slice(0, 200))"""
        assert tab.evaluate(wider) == []
        # Nor is anything cut off inside its own box.
        cut = """[...document.querySelectorAll('.scroll, .figures, .figures td')]
          .filter(node => node.scrollWidth > node.clientWidth + 1)
          .map(node => node.outerHTML.slice(0, 200))"""
        assert tab.evaluate(cut) == []


CONTRAST = """() => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 1;
  const brush = canvas.getContext('2d', { willReadFrequently: true });
  // Through a canvas, which understands every way to write a colour.
  const rgba = colour => {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [x, y, z]) =>
    [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
  const behind = node => {
    if (!node) return [255, 255, 255, 1];
    const own = rgba(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(node.parentElement));
  };
  const light = colour => {
    const [r, g, b] = colour.map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode());) {
    const node = text.parentElement;
    if (!text.data.trim()) continue;
    if (!node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest('script, style, noscript, select, .skip')) continue;
    const style = getComputedStyle(node);
    const ground = behind(node);
    const paint = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(over(rgba(paint), ground)), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    found.push([ratio, large ? 3 : 4.5, text.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_all_text_has_contrast(chromium, file, width, theme):
    with opened(chromium, file.as_uri(), width, theme=theme) as tab:
        drawn(tab, 0)
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        found = tab.evaluate(CONTRAST)
        assert len(found) > 80
        assert [f for f in found if f[0] < f[1]] == []


def test_everything_operable_has_a_name(tab):
    nameless = """[...document.querySelectorAll('button, select, input, canvas, svg')]
      .filter(node => node.checkVisibility())
      .filter(node => node.getAttribute('aria-hidden') !== 'true')
      .filter(node => !(node.getAttribute('aria-label') || node.textContent.trim()
        || node.closest('label')?.textContent.trim()))
      .map(node => node.outerHTML)"""
    assert tab.evaluate(nameless) == []
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    focused = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.evaluate(focused) == "solid"


def test_two_hundred_episodes(chromium, full, tmp_path):
    episodes = [
        Shown(one(4, rewards={"video": np.arange(4)}), str(i), f"kind {i % 5}", f"e{i}")
        for i in range(200)
    ]
    path = tmp_path / "many.html"
    write_page(path, Report("many", rewards=full.rewards, episodes=episodes))
    with opened(chromium, path.as_uri()) as tab:
        drawn(tab, 0)
        assert tab.locator("#episodes li").count() == 200
        for _ in range(30):
            tab.keyboard.press("n")
        assert tab.text_content("#episode-label") == "e30"
        # The list keeps the chosen one in sight.
        inside = """() => {
          const box = query => document.querySelector(query).getBoundingClientRect();
          const list = box('#episodes'), item = box('[aria-selected=true]');
          return item.top >= list.top - 1 && item.bottom <= list.bottom + 1;
        }"""
        assert tab.evaluate(inside)


# ------------------------------------------------------------------ the live server


@contextmanager
def serving(folder):
    server = serve(folder, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(5)


def get(server, path, host=None):
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def record(folder, number, **more):
    one(**more).save(folder / f"episode-{number:08}.safetensors")


def test_new_episodes_appear_by_themselves(chromium, tmp_path):
    with serving(tmp_path) as server, opened(chromium, server.url) as tab:
        tab.wait_for_selector("#waiting:visible")
        assert "Waiting for the first episode" in tab.text_content("#waiting")
        assert f'record="{tmp_path}"' in tab.text_content("#waiting")
        record(tmp_path, 1, info={"kind": "agent"}, wins=[20])
        tab.wait_for_selector("#episodes li")
        drawn(tab, 0)
        assert tab.text_content("#episode-label") == "episode-00000001"
        tab.keyboard.press("Shift+ArrowRight")
        assert frame_of(tab) == 10
        assert "video" in tab.text_content("#curves")
        (tmp_path / "episode-00000002.safetensors").write_bytes(b"half of it")
        record(tmp_path, 3)
        until(tab, "document.querySelectorAll('#episodes li').length === 3")
        label = "document.getElementById('episode-label').textContent"
        until(tab, f"{label} === 'episode-00000003'")
        choose(tab, "episode-00000002")
        assert "no safetensors file" in tab.text_content("#problem")
        assert not tab.is_visible("#playing")
        assert not tab.is_checked("#follow")
        # Whoever looks at an older one is left to it.
        record(tmp_path, 4)
        until(tab, "document.querySelectorAll('#episodes li').length === 4")
        assert tab.text_content("#episode-label") == "episode-00000002"
        # A file that is put right is read again.
        record(tmp_path, 2)
        tab.wait_for_selector("#playing:visible")
        (tmp_path / "episode-00000001.safetensors").unlink()
        until(tab, "document.querySelectorAll('#episodes li').length === 3")


def test_the_goal_of_the_folder_is_shown(chromium, tmp_path):
    videos = np.stack([film(T + 1, 10), film(T + 1, 50)])
    GoalBundle(videos, prompt=HOSTILE, key_frames=(T, 7)).save(
        tmp_path / "goal.safetensors"
    )
    record(tmp_path, 1, info={"goal": 1})
    record(tmp_path, 2, info={"goal": 99})
    with serving(tmp_path) as server, opened(chromium, server.url) as tab:
        until(tab, "document.querySelectorAll('#episodes li').length === 2")
        drawn(tab, 0)
        assert tab.text_content("#prompt") == f"“{HOSTILE}”"
        assert "the episode names none" in tab.text_content("#goal-note")
        choose(tab, "episode-00000001")
        drawn(tab, 7, "key")
        assert "video 2 of 2" in tab.text_content("#goal-note")
        drawn(tab, 0, "goal")
        tab.keyboard.press("ArrowRight")
        assert frame_of(tab, "goal") == 1


def test_a_damaged_goal_is_a_note(tmp_path):
    (tmp_path / "goal.safetensors").write_bytes(b"nothing")
    with serving(tmp_path) as server:
        status, body = get(server, "/")
        assert status == 200
        assert "cannot be shown" in body


def test_only_what_changed_is_sent(tmp_path):
    record(tmp_path, 1)
    with serving(tmp_path) as server:
        first = json.loads(get(server, "/episodes.json?since=0")[1])
        assert [e["id"] for e in first["episodes"]] == ["episode-00000001"]
        again = json.loads(get(server, f"/episodes.json?since={first['since']}")[1])
        assert (again["episodes"], again["gone"], again["more"]) == ([], [], False)
        assert json.loads(get(server, "/episodes.json?since=x")[1])["episodes"]
        (tmp_path / "episode-00000001.safetensors").unlink()
        gone = json.loads(get(server, f"/episodes.json?since={first['since']}")[1])
        assert gone["gone"] == ["episode-00000001"]


def test_a_full_folder_is_read_in_turns_newest_first(tmp_path, monkeypatch):
    for number in range(4):
        record(tmp_path, number)
    monkeypatch.setattr(live_module, "SECONDS_OF_READING", 0)
    monkeypatch.setattr(live_module, "LISTED", 3)
    folder = live_module.Folder(tmp_path)
    since, seen = 0, []
    for turn in range(3):
        news = folder.news(since)
        since = news["since"]
        seen += [entry["id"][-1] for entry in news["episodes"]]
        assert news["more"] == (turn < 2)
        assert news["older"] == 1
    assert seen == ["3", "2", "1"]
    # A page that outlived its server is told everything by the next.
    time.sleep(0.01)
    assert live_module.Folder(tmp_path).news(since)["episodes"]


@pytest.mark.parametrize(
    "path",
    [
        "/episode/../secret.json",
        "/episode/..%2Fsecret.json",
        "/episode/%2e%2e/secret.json",
        "/episode/link.json",
        "/episode/goal.json",
        "/episode/none.json",
        "/../secret.safetensors",
        "/favicon.ico",
        "/episode/",
    ],
)
def test_nothing_outside_the_folder_is_served(tmp_path, path):
    inside = tmp_path / "inside"
    inside.mkdir()
    one().save(tmp_path / "secret.safetensors")
    (inside / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    record(inside, 1)
    with serving(inside) as server:
        status, body = get(server, path)
        assert status == 404
        assert "frame_steps" not in body
        assert get(server, "/episode/episode-00000001.json")[0] == 200


def test_a_goal_is_not_shown_through_a_link(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    GoalBundle(film(T + 1, 10)[None], prompt="a secret").save(
        tmp_path / "goal.safetensors"
    )
    (inside / "goal.safetensors").symlink_to(tmp_path / "goal.safetensors")
    with serving(inside) as server:
        status, body = get(server, "/")
        assert status == 200
        assert "a secret" not in body
        assert "leads out of the folder" in body


def test_a_closed_socket_is_no_error(tmp_path, capsys):
    record(tmp_path, 1)
    with serving(tmp_path) as server:
        port = int(server.url.rstrip("/").rsplit(":", 1)[1])
        for said in (b"", b"GET /episodes.json HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            one_of_them = socket.create_connection(("127.0.0.1", port))
            # Closing resets the connection instead of ending it.
            linger = struct.pack("ii", 1, 0)
            one_of_them.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            one_of_them.sendall(said)
            one_of_them.close()
        assert get(server, "/episodes.json")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_connection_that_says_nothing_is_closed(tmp_path, monkeypatch):
    assert 0 < live_module._Handler.timeout <= 60
    monkeypatch.setattr(live_module._Handler, "timeout", 0.1)
    record(tmp_path, 1)
    with serving(tmp_path) as server:
        port = int(server.url.rstrip("/").rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            assert silent.recv(1) == b"", "closed from the other side"


def test_many_pages_at_once_are_answered(tmp_path):
    record(tmp_path, 1)
    server = serve(tmp_path, port=0)
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    # All of them connect before the server answers anyone.
    waiting = [
        socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(200)
    ]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        for client in waiting:
            client.sendall(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert {client.recv(12) for client in waiting} == {b"HTTP/1.1 404"}
    finally:
        for client in waiting:
            client.close()
        server.close()
        thread.join(5)


def test_a_slow_file_holds_up_nobody(tmp_path, monkeypatch):
    record(tmp_path, 1)
    folder = live_module.Folder(tmp_path)
    folder.news(0)
    record(tmp_path, 2)
    reading, release = threading.Event(), threading.Event()
    real = folder._entry

    def slow(name):
        reading.set()
        assert release.wait(60)
        return real(name)

    monkeypatch.setattr(folder, "_entry", slow)
    found = []
    first = threading.Thread(target=lambda: found.append(folder.news(0)))
    first.start()
    assert reading.wait(60)
    # While one answer waits for the file, another has what is known, and says so.
    meanwhile = folder.news(0)
    assert [entry["id"] for entry in meanwhile["episodes"]] == ["episode-00000001"]
    assert meanwhile["more"]
    release.set()
    first.join(60)
    assert len(found[0]["episodes"]) == 2
    assert not found[0]["more"]


def test_only_this_machine_is_answered(tmp_path):
    record(tmp_path, 1)
    with serving(tmp_path) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert get(server, "/episodes.json", host="evil.example")[0] == 403
        assert get(server, "/episodes.json", host="evil.example:80")[0] == 403
        assert get(server, "/episodes.json", host="localhost:8000")[0] == 200


def test_a_damaged_file_stops_nothing(tmp_path):
    record(tmp_path, 1)
    (tmp_path / "episode-00000002.safetensors").write_bytes(b"x" * 100)
    with serving(tmp_path) as server:
        entries = json.loads(get(server, "/episodes.json")[1])["episodes"]
        errors = {e["id"]: e.get("error", "") for e in entries}
        assert errors["episode-00000001"] == ""
        assert "no safetensors file" in errors["episode-00000002"]
        status, body = get(server, "/episode/episode-00000002.json")
        assert status == 500
        assert "no safetensors file" in json.loads(body)["error"]


def test_a_port_in_use_says_what_to_do(tmp_path):
    server = serve(tmp_path, port=0)
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(OSError, match=rf"port {port} on 127.0.0.1 is in use.*--port"):
        serve(tmp_path, port=port)
    # Closes, though it never served.
    server.close()
    serve(tmp_path, port=port).close()


def test_a_missing_folder_says_what_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="record= makes it"):
        serve(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        serve(tmp_path / "file")
