"""A reward as a value: text and JSON, what it refuses, and one assembly for all."""

from __future__ import annotations

import json
import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from genreward_wrappers import (
    FrameLevelReward,
    GeneratedGoals,
    GenRewardWrapper,
    GoalError,
    RewardModelWrapper,
    VideoLevelReward,
)
from genreward_wrappers.evaluate.judge.judged_rewards import Maker
from genreward_wrappers.rewards.facts import Facts
from genreward_wrappers.rewards.options import Options, option
from genreward_wrappers.rewards.spec import VERSION, RewardSpec
from genreward_wrappers.rewards.video_options import PRESETS, VideoOptions
from genreward_wrappers.testing import Brightness, PointMass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("video", RewardSpec("video")),
        (
            "video:score=cosine,length=65",
            RewardSpec("video", {"score": "cosine", "length": 65}),
        ),
        ("paper:window=64", RewardSpec("video", {"window": 64}, preset="paper")),
        ("pixels:length=9", RewardSpec("video", {"length": 9, "encoder": "pixels"})),
        ("generated", RewardSpec("video", goal="generated")),
        (
            "generated:videos=2,length=9",
            RewardSpec("video", {"length": 9}, goal={"videos": 2}),
        ),
        (
            "genreward:env_weight=balanced,video_weight=2,preset=paper,frame_form=value",
            RewardSpec(
                "genreward",
                {"frame": {"form": "value"}},
                {"video": 2, "env": "balanced"},
                preset="paper",
            ),
        ),
        (
            "liv:prompt=a,encoder=pixels,every=4",
            RewardSpec("liv", {"prompt": "a", "encoder": "pixels", "every": 4}),
        ),
        ("env", RewardSpec("env")),
    ],
)
def test_text_and_json_both_ways(text, expected):
    spec = RewardSpec.parse(text)
    assert spec == expected
    assert RewardSpec.from_json(spec.to_json()) == spec
    assert RewardSpec.from_json(json.dumps(spec.to_json())) == spec


def test_json_holds_names(goal, tmp_path):
    path = tmp_path / "goal.safetensors"
    goal.save(path)
    assert RewardSpec(goal=path).to_json()["goal"] == str(path)
    settings = GeneratedGoals(videos=2)
    assert RewardSpec(goal=settings).to_json()["goal"] == {"videos": 2}
    for spec in (RewardSpec(goal=goal), RewardSpec("video", {"encoder": object()})):
        with pytest.raises(ValueError, match="something that has no name.*its path"):
            spec.to_json()
    assert RewardSpec("video").to_json() == {"version": VERSION, "name": "video"}


@pytest.mark.parametrize("version", [VERSION + 1, None, "1"])
def test_another_version_is_refused(version):
    found = {**RewardSpec("video").to_json(), "version": version}
    with pytest.raises(
        ValueError, match=f"version {version!r}, and this package.*upda"
    ):
        RewardSpec.from_json(found)
    with pytest.raises(ValueError, match="update genreward-wrappers"):
        GenRewardWrapper(PointMass(size=32), reward=found)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RewardSpec("vidoe"), ValueError, "no reward 'vidoe'.*mean 'video'"),
        (lambda: RewardSpec("video", {"form": "value"}), TypeError,
         "reward 'video': no option 'form'.*'?length"),
        (lambda: RewardSpec("genreward", {"frame": {"score": 1}}), TypeError,
         "frame-level: no option 'score', expected one of form"),
        (lambda: RewardSpec(preset="papr"), ValueError, "preset='papr': expected one"),
        (lambda: RewardSpec("liv", preset="paper"), ValueError, "does nothing with"),
        (lambda: RewardSpec(weights={"video": float("nan")}), ValueError,
         "the weight of 'video' is nan: expected a finite number$"),
        (lambda: RewardSpec(weights={"env": float("inf")}), ValueError,
         "'env' is inf: expected a finite number, or 'balanced'"),
        (lambda: RewardSpec(weights={"video": "balanced"}), ValueError, "finite numb"),
        (lambda: RewardSpec(weights={"sound": 1}), ValueError,
         "weight for 'sound', and the reward has the parts 'env', 'frame', 'video'"),
        (lambda: RewardSpec("video", weights={"frame": 1}), ValueError, "parts .env"),
        (lambda: RewardSpec.from_json({"version": 1, "nmae": "video"}), TypeError,
         "no option 'nmae' \\(did you mean 'name'"),
    ],
)  # fmt: skip
def test_bad_specs(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(GenRewardWrapper, vido_weight=2),
         "GenRewardWrapper: no option 'vido_weight' \\(did you mean 'video_weight'"),
        (partial(GenRewardWrapper, horizn=2), "mean 'horizon'"),
        (partial(VideoLevelReward, widnow=2), "VideoLevelReward: .*mean 'window'"),
        (partial(FrameLevelReward, from_="value"), "FrameLevelReward: .*mean 'form'"),
        (partial(RewardModelWrapper, model="video", weights=2),
         "RewardModelWrapper: no option 'weights' \\(did you mean 'weight'"),
    ],
)  # fmt: skip
def test_an_unknown_option_names_the_closest_and_the_users_class(make, message):
    with pytest.raises(TypeError, match=message):
        make(PointMass(size=32))


def paid(env, steps=6):
    env.reset(seed=2)
    env.action_space.seed(2)
    return [env.step(env.action_space.sample())[1] for _ in range(steps)]


def test_the_whole_reward_as_one_value(goal):
    spec = RewardSpec("video", {"encoder": "pixels", "score": "motion"}, goal=goal)
    own = {"encoder": "pixels", "score": "motion", "horizon": 50}
    expected = paid(VideoLevelReward(PointMass(size=32), goal, **own))
    for make in (
        partial(GenRewardWrapper, reward=spec),
        partial(VideoLevelReward, reward=spec.as_mapping()),
        partial(RewardModelWrapper, model=spec),
    ):
        assert paid(make(PointMass(size=32), horizon=50)) == expected
    with pytest.raises(TypeError, match="reward= is the whole reward.*'preset'"):
        GenRewardWrapper(PointMass(size=32), reward=spec, preset="paper")


def test_a_specs_text_makes_an_environment_that_comes_back():
    env = gym.make("metaworld/pick-place", max_episode_steps=32)
    text = "genreward:encoder=pixels,length=5,frame_weight=0,env_weight=0.5"
    env = GenRewardWrapper(env, reward=text, observe="progress")
    recorded = env.spec.additional_wrappers[-1].kwargs
    assert RewardSpec.from_json(recorded["reward"]) == RewardSpec.parse(text)
    assert recorded["observe"] == "progress"
    expected = paid(env)
    for again in (
        gym.make(EnvSpec.from_json(env.spec.to_json())),
        pickle.loads(pickle.dumps(env)),
    ):
        assert paid(again) == expected
        again.close()
    env.close()


def test_wrapper_and_evaluator_build_the_same(goal):
    text = "video:encoder=pixels,score=motion,length=9,payment=hold"
    built = RewardSpec.parse(text).build(Facts(horizon=40, goal=goal))
    (one,) = Maker(goal, 40, 9, "cpu").make(text)
    assert built.parts[0].model.identity == one.parts[0][0].identity
    env = RewardModelWrapper(PointMass(size=32), "video", horizon=40, options={
        "goal": goal, "encoder": "pixels", "score": "motion", "length": 9,
        "payment": "hold",
    })  # fmt: skip
    assert env.session.models[0].identity == one.parts[0][0].identity


def test_every_stretches_the_goal_over_what_is_asked(goal):
    """every=4 of 32 steps sees what length=9 does."""
    facts = Facts(horizon=32, goal=goal)

    def play(text):
        ((model, _),) = RewardSpec.parse(text).build(facts).parts
        env = RewardModelWrapper(PointMass(size=32), model)
        env.reset(seed=0, options={"target": (5, 5)})
        env.action_space.seed(0)
        steps = [env.step(env.action_space.sample())[4] for _ in range(32)]
        return [i["reward_video"] if i["reward_video_due"] else None for i in steps]

    sampled = play("pixels:length=9")
    assert play("pixels:every=4") == sampled
    assert [t + 1 for t, v in enumerate(sampled) if v] == list(range(4, 33, 4))
    with pytest.raises(ValueError, match="every=5 does not divide an episode of 32"):
        play("pixels:every=5")


def test_the_options_of_a_model_stand_in_one_place():
    names = [name for name, _, about in VideoOptions.table() if about]
    assert tuple(names) == VideoOptions.names()
    for preset in PRESETS.values():
        assert set(preset) <= set(names)

    class Own(Options):
        pass

    assert Own.names() == ()
    assert option(3, "x").metadata["about"] == "x"


def test_goals_that_are_none_for_the_frame_level():
    with pytest.raises(GoalError, match="neither: give a bundle, or use VideoLevelRe"):
        FrameLevelReward(PointMass(size=32), "generated")


def test_a_goal_of_another_task_is_told():
    env = gym.make("metaworld/reach")
    facts = Facts(env_id="metaworld/reach", horizon=256)
    spec = RewardSpec("video", {"encoder": "pixels"}, goal="metaworld/pick-place")
    with pytest.warns(UserWarning, match="'metaworld/pick-place'.*'metaworld/reach'"):
        VideoLevelReward(env, "metaworld/pick-place", encoder="pixels")
    with pytest.warns(UserWarning, match="other_task=True silences") as caught:
        spec.build(facts)
    assert caught[0].filename == __file__, "the warning points at the caller"
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VideoLevelReward(env, "metaworld/pick-place", encoder="pixels", other_task=True)
        # A distracting task, and another version, are the same task.
        found = Facts(env_id="distracting/walker-walk").find_bundle("dmc/walker-walk")
        assert found.env_id == "dmc/walker-walk"
    # It is told before what does not fit because of it.
    facts = Facts(env_id="dmc/walker-walk", camera="fixed")
    with (
        pytest.warns(UserWarning, match="'metaworld/pick-place'.*'dmc/walker-walk'"),
        pytest.raises(GoalError, match="filmed by the camera 'corner2'"),
    ):
        facts.find_bundle("metaworld/pick-place")


def test_a_model_that_is_none_is_refused_by_name():
    class Redness:
        name = "redness"

        def reset(self, memory, frames, mask, seeds):
            return ()

    with pytest.raises(
        TypeError, match="Redness is no RewardModel: it has no step; .*"
    ):
        RewardModelWrapper(PointMass(size=8), Redness())
    with pytest.raises(TypeError, match="got the class Brightness: make an instance"):
        RewardModelWrapper(PointMass(size=8), Brightness)
    assert np.isfinite(paid(RewardModelWrapper(PointMass(size=8), Brightness()))).all()
