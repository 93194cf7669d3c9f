"""The pages: their code is Python, their links lead somewhere, their table is whole."""

from __future__ import annotations

import json
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
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


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
