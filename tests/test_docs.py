"""The pages: their code is Python, their links lead somewhere, their table is whole."""

from __future__ import annotations

import json
import pkgutil
import re
import sys
from importlib import import_module

import pytest

import genreward_wrappers
from genreward_wrappers import sb3, vector
from tests import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "scripts").rglob("*.md")),
    ROOT / "models" / "README.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_compiles_and_links_exist(page):
    text = page.read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        compile(block, str(page), "exec")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link
    for file, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", text):
        if not file.startswith("http"):
            target = page.parent / file if file else page
            assert anchor in anchors(target), f"{file}#{anchor}"


def anchors(page):
    """Of the headings of a page, as MyST makes them."""
    return {
        slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    }


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_names_of_the_package_are_real():
    """With the package in front, or with one of its rooms."""
    rooms = "data|encoders|generators|training|rewards|relabel|evaluate|goal_pipeline"
    found = rf"`(?:genreward_wrappers\.)?((?:{rooms})(?:\.\w+)+)"
    named = {name for page in PAGES for name in re.findall(found, page.read_text())}
    assert len(named) > 20
    files = (".png", ".py", ".md", ".json", ".parquet", ".safetensors")
    for name in sorted(name for name in named if not name.endswith(files)):
        pkgutil.resolve_name(f"genreward_wrappers.{name}")


def test_readme_names_every_wrapper():
    text = (ROOT / "README.md").read_text()
    for name in vector.__all__:
        assert f"`{name}`" in text
        assert hasattr(genreward_wrappers, name)
        assert f"`vector.{name}`" in text
    for name in sb3.__all__:
        assert f"`sb3.{name}`" in text


def test_code_about_vectors_and_own_rewards_runs():
    """The blocks about vectors and one's own model, as they stand there."""
    import gymnasium as gym

    envs = gym.make_vec("metaworld/pick-place", num_envs=2)
    envs = vector.GenRewardWrapper(envs, frame_weight=0)
    envs.reset(seed=0)
    _, rewards, *_, infos = envs.step(envs.action_space.sample())
    assert rewards.tolist() == pytest.approx(infos["reward_video"].tolist())
    assert infos["reward_env"].all()
    envs.close()
    page = (ROOT / "docs" / "own_reward.md").read_text()
    block = next(
        b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "Stays" in b
    )
    from genreward_wrappers.testing import PointMass

    scope = {"env": PointMass()}
    exec(block, scope)
    scope["env"].reset(seed=0)
    assert "reward_bright" in scope["env"].step(scope["env"].action_space.sample())[4]


def test_the_smallest_bundle_is_as_documented(tmp_path, monkeypatch):
    """Its bytes, its header, and what is in it."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "files.md").read_text()
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], {})
    data = (tmp_path / "goal.safetensors").read_bytes()
    assert f"is {len(data)} bytes" in page
    lines = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} )+) *(\S+)$", page, re.M)
    assert len(lines) == 5
    for offset, digits, shown in lines:
        found = data[int(offset, 16) :][:16]
        assert found.hex(" ") == digits.strip()
        seen = "".join(chr(c) if 33 <= c < 127 else "." for c in found)
        assert seen == shown
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])["__metadata__"]["genreward"]
    documented = re.search(r"```json\n(.*?)```", page, re.S)[1]
    assert json.loads(header) == json.loads(documented)


def test_messages_in_troubleshooting_are_real():
    """Each is in the source, but for the words that stand for a value."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    # Neighbouring literals are one message.
    source = " ".join(
        re.sub(r"[\"']\s+f?r?[\"']", "", file.read_text())
        for file in (ROOT / "src").rglob("*.py")
    )
    rows = re.findall(r"^\| (.*?) \| ", page, re.M)
    messages = [m for row in rows for m in re.findall(r"`([^`]{12,})`", row)]
    assert len(messages) > 20
    foreign = {
        "An attempt has been made to start a new process",
        "an OpenGL platform library has not been loaded",
    }
    for message in set(messages) - foreign:
        assert message.replace("hf://", "") in source or message in source, message


def test_the_version_stands_in_one_place():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    assert cited == genreward_wrappers.__version__


def test_every_wrapper_argument_is_described():
    """The options table has no empty cell."""
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from tables import options_of
    finally:
        sys.path.pop(0)
    page = (ROOT / "docs" / "wrappers.md").read_text()
    for name in re.findall(r"```\{options-table\} (\S+)", page):
        module, _, cls = name.partition(":")
        options = list(options_of(getattr(import_module(module), cls)))
        assert options
        assert not [option for option, _, said in options if not said], name


#: What a newcomer asks, where the documentation answers, and a piece of the answer.
QUESTIONS = {
    "Which camera?": ("faq.md#which-camera-does-the-reward-look-through", "`corner2`"),
    "Why 0 at some steps?": ("faq.md#why-is-the-reward-0-at-some-steps", "_due"),
    "How do I turn the environment's reward on?": (
        "shaping.md#the-environments-own-reward-beside-the-goal-videos",
        "`env_weight=1`",
    ),
    "How do I use my own video?": ("first_goal.md", "genreward pack"),
    "What is missing in my container?": ("install.md#drawing", "apt-get install"),
    "How big is the installation?": ("install.md", "4.7 GB"),
    "How long will it take?": ("train.md#what-to-expect", "three minutes"),
    "How do I see what the agent does?": ("first_training.md#is-it-learning", "live"),
    "Why does it earn more and not do the task?": (
        "concepts.md#what-can-be-farmed",
        "standing still",
    ),
    "How do I use many environments?": ("many_environments.md", "make_vec"),
}


def test_a_newcomers_questions_are_two_clicks_from_the_front_page():
    docs = ROOT / "docs"
    distance = {"index.md": 0}
    for page in distance_order(distance, docs):
        for link in links_of(docs / page):
            distance.setdefault(link, distance[page] + 1)
    for question, (place, answer) in QUESTIONS.items():
        page, _, anchor = place.partition("#")
        # A heading is a click on the page's own contents, where nothing leads to it.
        clicks = distance.get(place, distance[page] + bool(anchor))
        assert clicks <= 2, f"{question} {place} is {clicks} clicks away"
        assert not anchor or anchor in anchors(docs / page), place
        assert answer in section_of(docs / page, anchor), question


def test_the_front_page_speaks_of_every_page():
    text = (ROOT / "docs" / "index.md").read_text()
    said, trees = text.split("```{toctree}", 1)
    pages = re.findall(r"^([\w/]+)$", trees, re.M)
    assert not [page for page in pages if f"]({page}.md)" not in said]
    assert len(pages) > 30


def distance_order(distance, docs):
    """Pages by their distance, while links that lead to more of them are added."""
    done = set()
    while waiting := [p for p in distance if p not in done and (docs / p).is_file()]:
        page = min(waiting, key=distance.__getitem__)
        done.add(page)
        yield page


def links_of(page):
    """The pages and headings that a page leads to, its toctrees included."""
    text = page.read_text()
    yield from re.findall(r"\]\(([\w/]+\.md(?:#[^)]+)?)\)", text)
    for tree in re.findall(r"```\{toctree\}\n(.*?)```", text, re.S):
        yield from (f"{name}.md" for name in re.findall(r"^([\w/]+)$", tree, re.M))


def section_of(page, anchor):
    """The text below a heading, or the whole page."""
    parts = re.split(r"^(?=#+ )", page.read_text(), flags=re.M)
    if not anchor:
        return "".join(parts)
    found = (p for p in parts if slug(p.partition("\n")[0].lstrip("# ")) == anchor)
    return next(found)
