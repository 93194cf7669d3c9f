"""What is judged: rewards by their texts, their parts and controls."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers import GenRewardWrapper, GoalError, VideoLevelReward
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.evaluate.judge import run
from genreward_wrappers.evaluate.judge.judged_rewards import REWARDS, Maker, parse
from genreward_wrappers.goal_pipeline.pack import pack
from genreward_wrappers.relabel.fold import wanted_steps
from tests.evaluate.shared import EMBEDDED, H, arena, with_nets

pytest.importorskip("metaworld")
pytest.importorskip("scipy")


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("video", "video", {}),
        ("video:", "video", {}),
        (
            "video:score=motion,contrast=2.5,length=17",
            "video",
            {"score": "motion", "contrast": 2.5, "length": 17},
        ),
        ("video:encoder=hf://a/b@c", "video", {"encoder": "hf://a/b@c"}),
        ("frame:form=value", "frame", {"form": "value"}),
        (
            "genreward:env_weight=0,preset=paper",
            "genreward",
            {"env_weight": 0, "preset": "paper"},
        ),
    ],
)
def test_parse(spec, name, options):
    assert parse(spec) == (name, options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vidoe", r"no reward 'vidoe'"),
        ("", r"no reward ''"),
        ("video:motion", r"'video:motion'.*key=value, got 'motion'"),
        ("video:colour=red", r"no option 'colour'.*reading, length.*encoder"),
        ("video:form=value", r"no option 'form'"),
        ("video:env_weight=1", r"no option 'env_weight'"),
        ("frame:score=motion", r"no option 'score'.*form, heads, discount"),
        ("env:weight=2", r"no option 'weight', expected one of none"),
    ],
)
def test_parse_bad_specs(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(spec)
    if "no reward" in message:
        assert all(f"'{name}'" in str(caught.value) for name in REWARDS)


@pytest.mark.parametrize(
    "spec",
    [
        "video:encoder=pixels:4,score=tracking,contrast=2",
        "video:reading=stream,length=17,payment=hold",
        "paper",
        "paper:window=64,goals=max",
        "genreward:score=last_change,env_weight=0",
        "genreward:preset=paper",
    ],
)
def test_controls_differ_in_the_encoder_alone(small_goal, spec):
    maker = Maker(small_goal, 64, 9, "cpu")
    judged = maker.make(spec)[0]
    controls = maker.controls(spec)
    assert judged.role == "reward"
    assert {c.role for c in controls} == {"control"}
    sources = [c.parts[0][0].encoder.source for c in controls]
    assert sources == ["pixels:8", f"random:{EMBEDDED}"]
    for control in controls:
        assert control.parts[0][0].options == judged.parts[0][0].options
    for control, name in zip(controls, ("pixels", "random"), strict=True):
        # Their names say how to ask for them.
        (again,) = maker.make(control.name)
        assert control.name.startswith(name)
        assert again.parts[0][0].options == control.parts[0][0].options


def test_other_rewards_have_no_controls(small_goal):
    maker = Maker(small_goal, 64, 9, "cpu")
    for spec in ("pixels", "random", "env", "frame"):
        assert maker.controls(spec) == []


def test_a_payment_by_differences_looks_at_every_step(small_goal):
    maker = Maker(small_goal, 64, 9, "cpu")
    (contestant,) = maker.make("pixels:payment=difference")
    assert len(wanted_steps([contestant.parts[0][0]], 64)) == 65


def test_options_of_the_wrong_kind_name_their_reward(small_goal):
    maker = Maker(small_goal, 64, 9, "cpu")
    with pytest.raises(ValueError, match="reward 'pixels:length=soon'"):
        maker.make("pixels:length=soon")


def test_an_untrained_twin_needs_a_trained_model(small_goal):
    with pytest.raises(GoalError, match='encoder="random".*names no encoder'):
        VideoLevelReward(
            gym.make("metaworld/pick-place"),
            small_goal.with_(encoder={}),
            encoder="random",
        )


def test_contestants_share_encoders(small_goal):
    maker = Maker(small_goal, 64, 9, "cpu")
    one, two = (
        maker.make(spec)[0].parts[0][0] for spec in ("pixels", "pixels:score=motion")
    )
    assert one.encoder is two.encoder
    assert isinstance(one.encoder, Memo)


def test_the_frames_of_the_per_frame_reading(small_goal):
    for frames, length in ((9, 9), (65, 65), (300, 65)):
        maker = Maker(small_goal, 64, frames, "cpu")
        (contestant,) = maker.make("pixels")
        assert len(wanted_steps([contestant.parts[0][0]], 64)) == length
    (contestant,) = maker.make("pixels:length=5")
    assert len(wanted_steps([contestant.parts[0][0]], 64)) == 5


def test_without_a_goal(small_goal):
    maker = Maker(None, 64, 9, "cpu")
    (env,) = maker.make("env")
    # Asked for, it is judged like any other; else it stands beside them.
    assert (env.parts, env.env_weight, env.role) == ((), 1.0, "reward")
    assert maker.environment().role == "reference"
    with pytest.raises(ValueError, match="'pixels:score=motion' needs a goal.*--goal"):
        maker.make("pixels:score=motion")
    assert not small_goal.nets
    with pytest.raises(GoalError, match="no frame-level part"):
        Maker(small_goal, 64, 9, "cpu").make("frame")


def test_a_goal_without_an_encoder_of_its_own(goal):
    """Pixels serve such a goal; what would be the same untrained is left out."""
    for bundle in (goal, pack([goal.videos[0]], size=32, encoder="pixels", length=9)):
        maker = Maker(bundle, H, 9, "cpu")
        (made,) = maker.make("video:encoder=pixels")
        assert made.parts[0][0].encoder.source == "pixels:8"
        sources = [
            c.parts[0][0].encoder.source for c in maker.controls("video:encoder=pixels")
        ]
        assert sources == ["pixels:8"]


def test_two_of_a_name_are_both_judged(small_goal):
    maker = Maker(small_goal, 64, 9, "cpu")
    specs = ["genreward:encoder=pixels", "genreward:encoder=pixels,score=motion"]
    made = run._contestants(maker, specs)
    videos = [c.parts[0][0] for c in made if c.role == "reward"]
    assert sorted(v.options.score for v in videos) == ["motion", "tracking"]


def test_an_unknown_preset(small_goal):
    with pytest.raises(ValueError, match="preset='big': expected.*'paper'"):
        Maker(small_goal, 64, 9, "cpu").make("genreward:preset=big,encoder=pixels")


def test_the_sum_is_what_the_wrapper_paid(goal, tmp_path):
    """All three parts, with weights."""
    bundle = with_nets(goal, statistics={"mean": 0.5, "std": 2.0})
    weights = {"video_weight": 0.5, "frame_weight": 2, "env_weight": 0.25}
    wrap = partial(GenRewardWrapper, goal=bundle, horizon=H, length=9, **weights)
    episodes, online = arena(wrap, tmp_path)
    # The frame-level part looks at all frames.
    assert [len(e.frames) for e in episodes] == [len(e) + 1 for e in episodes]
    tail = ",".join(f"{key}={value}" for key, value in weights.items())
    *parts, total = Maker(bundle, H, 9, "cpu").make(f"genreward:length=9,{tail}")
    assert [part.name for part in parts] == ["video:length=9", "frame"]
    assert (total.role, total.about) == ("sum", "0.5 video + 2 frame + 0.25 env")
    for value, expected in zip(run._pay(total, episodes), online, strict=True):
        # The environment's own was recorded in float32.
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    for part in parts:
        for value, episode in zip(run._pay(part, episodes), episodes, strict=True):
            # The last digit of a net's output depends on the size of the batch.
            paid = episode.rewards[part.name.partition(":")[0]]
            np.testing.assert_allclose(value, paid, atol=1e-6)
    # A weight of 0 leaves a part out.
    assert [one.name for one in Maker(bundle, H, 9, "cpu").make(
        "genreward:frame_weight=0")] == ["video"], "a sum of one is none"  # fmt: skip
    *parts, total = Maker(bundle, H, 9, "cpu").make(
        "genreward:frame_weight=0,env_weight=1"
    )
    assert [part.name for part in parts] == ["video"]
    for value, episode in zip(run._pay(total, episodes), episodes, strict=True):
        # Steps without the video part would have one in training: there is no sum.
        paid = episode.rewards["video"] + episode.rewards["env"]
        np.testing.assert_array_equal(value, paid)
        assert 0 < np.isnan(value).sum() < len(value)
