"""The page of the reward inspector in a real browser."""

from __future__ import annotations

import numpy as np
import pytest

from genreward_wrappers.evaluate.page.report import Report, Shown, write_page
from tests.evaluate.inspector import (
    HOSTILE,
    LONG,
    MORE,
    T,
    choose,
    counter,
    cursor_step,
    drawn,
    frame_of,
    one,
    opened,
    until,
)

pytest.importorskip("PIL", reason="the report needs Pillow")


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
