"""`describe` and the pictures of goals: what is paid, in words that notebooks show."""

from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers import (
    GenRewardWrapper,
    RewardModelWrapper,
    VideoLevelReward,
    describe,
    load_goal,
    make,
    sb3,
    vector,
)
from genreward_wrappers.rewards.combine import Transformed, symlog
from genreward_wrappers.testing import Brightness, PointMass

TASK = "metaworld/pick-place"


def test_who_pays_for_what_at_which_weight():
    env = GenRewardWrapper(make(TASK, max_episode_steps=50), env_weight=2)
    env.set_weights(frame=lambda steps: 0.125)
    found = describe(env)
    env.close()
    assert [(p.name, p.weight) for p in found.parts] == [
        ("video", 1),
        ("frame", 0.125),
        ("env", 2),
    ]
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 88
    said = " ".join(str(found).split())
    assert said.startswith(
        f"GenRewardWrapper around {TASK}, episodes of 50 steps Each step pays the sum "
        "of 1 * reward_video how closely the episode follows the goal video: "
        "score='tracking', reading='frames', payment='level', "
        "encoder='embedded:video-vae-64' 0.125 * reward_frame how likely"
    )
    assert "2 * reward_env the environment's own reward Frames: the observation" in said
    assert "the observation, of the camera 'corner2' Goal:" in said
    assert f"GoalBundle({TASK}" in said
    assert load_goal(TASK).prompt in said
    page = found._repr_html_()
    assert page.count("<tr>") == 4
    assert page.count("data:image/webp;base64,") == 1


@pytest.mark.parametrize("around", ["vector", "sb3", "inside", "wrapped"])
def test_it_is_found_wherever_it_stands(around):
    if around == "vector":
        envs = gym.vector.SyncVectorEnv([PointMass] * 3)
        env = vector.RewardModelWrapper(envs, Brightness())
        expected = "RewardModelWrapper around 3 x PointMass"
    elif around == "sb3":
        from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

        venv = DummyVecEnv([PointMass] * 2)
        env = VecTransposeImage(sb3.VecRewardModel(venv, Brightness()))
        expected = "VecRewardModel around 2 x PointMass"
    else:
        env = RewardModelWrapper(PointMass(), Brightness())
        if around == "inside":
            env = gym.vector.SyncVectorEnv([lambda env=env: env])
        else:
            env = gym.wrappers.TimeLimit(env, 10)
        expected = "RewardModelWrapper around PointMass"
    assert str(describe(env)).splitlines()[0] == expected


@pytest.mark.parametrize(
    ("obs", "frames", "said"),
    [
        ("pixels", "info:seen", "info['seen']"),
        ("pixels", "auto", "the observation"),
        ("dict", "auto", "observation['pixels']"),
        ("state", "render", "what render() draws"),
        ("state", "info:tapped_frame", "what TapFrames draws in each environment"),
    ],
)
def test_frames_in_words(obs, frames, said):
    arena = PointMass(size=8, obs=obs, render_mode="rgb_array")
    model = Transformed(Brightness(), symlog)
    found = describe(RewardModelWrapper(arena, model, frames=frames))
    assert found.frames == said
    assert found.parts[0].about.startswith("Transformed of Pays the mean")
    assert found.parts[1].about == "the environment's own reward, replaced"


def test_what_names_say_is_no_markup():
    model = Brightness()
    model.name = "<i>"
    page = describe(RewardModelWrapper(PointMass(), model, frames="info:<b>"))
    page = page._repr_html_()
    assert "reward_&lt;i&gt;" in page
    assert "info[&#x27;&lt;b&gt;&#x27;]" in page


def test_none_there():
    with pytest.raises(ValueError, match="no reward wrapper.*TimeLimit > PointMass"):
        describe(gym.wrappers.TimeLimit(PointMass(), 5))


def test_goals_generated_for_each_episode_are_named():
    env = make(TASK, max_episode_steps=50)
    env = VideoLevelReward(env, goal="generated", encoder="pixels")
    found = describe(env)
    env.close()
    assert "its own generated goal" in found.parts[0].about
    assert found.goals == ()


def test_a_goal_is_a_picture(goal):
    image = goal.show(columns=3)
    assert image.width > image.height / len(goal.videos)
    assert np.asarray(image).std() > 0
    page = goal.with_(prompt="<b>")._repr_html_()
    assert re.search(r'src="data:image/webp;base64,[A-Za-z0-9+/=]+"', page)
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_a_goal_without_pillow_is_text(goal, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    assert goal._repr_html_().startswith("<p>GoalBundle(")
    with pytest.raises(ImportError, match="pillow"):
        goal.show()


def test_wrappers_are_printed_with_goal_and_weights(goal):
    env = VideoLevelReward(
        PointMass(size=32), goal, encoder="pixels", horizon=50, weight=0.5
    )
    said = f"goal={goal.env_id!r}, env=0, video=0.5"
    assert repr(env) == f"<VideoLevelReward({said}){PointMass(size=32)}>"
    around = gym.wrappers.TimeLimit(env, 10)
    assert str(around) == f"<TimeLimit{env}>"
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv = sb3.VecRewardModel(DummyVecEnv([PointMass]), Brightness())
    assert repr(venv).startswith("<VecRewardModel(env=0, brightness=1)<")


def test_a_wrapper_that_was_not_made_can_be_printed():
    unmade = RewardModelWrapper.__new__(RewardModelWrapper)
    assert repr(unmade) == "<RewardModelWrapper, not attached>"
