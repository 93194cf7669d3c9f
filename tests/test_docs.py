"""The pages: their code is Python, their links lead somewhere, their table is whole."""

from __future__ import annotations

import re

import pytest

import genreward_wrappers
from genreward_wrappers import sb3, vector
from tests import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_compiles_and_links_exist(page):
    text = page.read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        compile(block, str(page), "exec")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_readme_names_every_wrapper():
    text = (ROOT / "README.md").read_text()
    for name in vector.__all__:
        assert f"`{name}`" in text
        assert hasattr(genreward_wrappers, name)
        assert f"`vector.{name}`" in text
    for name in sb3.__all__:
        assert f"`sb3.{name}`" in text


def test_code_in_the_readme_and_guide_runs():
    """The blocks about vectors and one's own model, as they stand there."""
    import gymnasium as gym

    envs = gym.make_vec("metaworld/pick-place", num_envs=2)
    envs = vector.GenRewardWrapper(envs, frame_weight=0)
    envs.reset(seed=0)
    _, rewards, *_, infos = envs.step(envs.action_space.sample())
    expected = infos["reward_env"] + infos["reward_video"]
    assert rewards.tolist() == pytest.approx(expected.tolist())
    envs.close()
    guide = (ROOT / "docs" / "guide.md").read_text()
    block = next(
        b for b in re.findall(r"```python\n(.*?)```", guide, re.S) if "Stays" in b
    )
    from genreward_wrappers.testing import PointMass

    scope = {"env": PointMass()}
    exec(block, scope)
    scope["env"].reset(seed=0)
    assert "reward_bright" in scope["env"].step(scope["env"].action_space.sample())[4]
