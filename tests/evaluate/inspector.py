"""A report of white squares, and what the tests of its page do in a browser."""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np

from genreward_wrappers.data.episodes import Episode

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
