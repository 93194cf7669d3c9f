"""The scores of recorded episodes are what the wrappers paid."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from genreward_wrappers import (
    GoalError,
    RewardModelWrapper,
    VideoLevelReward,
    load_goal,
    load_reward,
)
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.evaluate.judge.judged_rewards import Maker
from genreward_wrappers.relabel.fold import score_episodes, wanted_steps
from genreward_wrappers.rewards.video_level import VideoLevel
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets
from tests.evaluate.shared import (
    ENV,
    HORIZON,
    Ends,
    H,
    arena,
    judge,
    of_kind,
    scored,
    with_nets,
)

pytest.importorskip("metaworld")
pytest.importorskip("scipy")


@pytest.mark.parametrize(
    "options",
    [
        {"length": 17},
        {},
        {"length": 9, "payment": "difference", "goals": "max"},
        {"reading": "stream", "length": 17, "payment": "hold"},
        {"reading": "window", "window": 12, "length": 5, "stride": 3},
    ],
    ids=str,
)
def test_scores_are_what_the_wrapper_paid(goal, options, tmp_path):
    """To the last bit, in a batch of episodes of several lengths."""
    wrap = partial(VideoLevelReward, goal=goal, encoder="pixels", horizon=H, **options)
    episodes, _ = arena(wrap, tmp_path)
    online = [episode.rewards["video"] for episode in episodes]
    model = VideoLevel(goal, "pixels", horizon=H, **options)
    for batch in (episodes, episodes[::-1], episodes[:1]):
        values = score_episodes(model, batch)
        for value, episode in zip(values, batch, strict=True):
            assert value.dtype == np.float32
            # NaN where nothing was due, and only there.
            np.testing.assert_array_equal(value, episode.rewards["video"])
    heard = np.concatenate(online)
    assert np.isnan(heard).any() == (options != {})
    assert np.unique(heard[~np.isnan(heard)]).size > 5
    memo = Memo(load_encoder("pixels", device="cpu", size=(32, 32)))
    model = VideoLevel(goal, memo, horizon=H, **options)
    for value, expected in zip(score_episodes(model, episodes), online, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_models_are_told_what_the_wrapper_told_them(tmp_path):
    episodes, _ = arena(partial(RewardModelWrapper, model=Ends()), tmp_path)
    for value, episode in zip(score_episodes(Ends(), episodes), episodes, strict=True):
        np.testing.assert_array_equal(value, episode.rewards["ends"])


def on_states(goal, numbers, actions):
    """The goal with untrained nets over the environment's own numbers."""
    torch.manual_seed(0)
    config = FBConfig(features=numbers, actions=actions, z=8, hidden=16)
    nets, config = FBNets(config).to_arrays()
    card = {"encoder": {}, "stack": 1, "goal_states": [[0.1] * numbers]}
    statistics = {"mean": 0.0, "std": 1.0}
    config = {**config, "input": card, "statistics": statistics}
    return goal.with_(nets=nets, nets_config=config)


@pytest.mark.parametrize("options", [{}, {"every": 2}, {"form": "difference"}], ids=str)
def test_nets_on_states_are_judged_as_they_pay(goal, options):
    """Trained on states, they see states here too; in a wrapper at every k-th step."""
    bundle = on_states(goal, 4, 2)
    model = load_reward("frame", goal=bundle, device="cpu", **options)
    assert model.sees_states
    env = RewardModelWrapper(PointMass(size=32, obs="dict", horizon=9), model)
    episodes, online = [], []
    for seed in range(2):
        observation, _ = env.reset(seed=seed, options={"target": (5, 5)})
        env.action_space.seed(seed)
        states, actions, paid = [observation["state"]], [], []
        for _ in range(9 - seed):
            actions.append(env.action_space.sample())
            observation, _, _, _, info = env.step(actions[-1])
            states.append(observation["state"])
            due = info["reward_frame_due"]
            paid.append(info["reward_frame"] if due else np.nan)
        frames = np.zeros((1, 32, 32, 3), np.uint8)
        done = np.zeros(len(actions), bool)
        episodes.append(Episode(frames, np.zeros(1, np.int64), np.stack(actions), done,
                                states=np.stack(states)))  # fmt: skip
        online.append(paid)
    for values, paid in zip(score_episodes(model, episodes), online, strict=True):
        np.testing.assert_allclose(values, paid, rtol=1e-5, atol=1e-6)
        assert np.isfinite(values).any()
    with pytest.raises(ValueError, match="'frame' looks at.*states, and the episode"):
        score_episodes(model, [replace(episodes[0], states=None)])


def test_evaluate_judges_nets_on_states(cache, recorded):
    assert all(len(e.states) == len(e) + 1 for e in recorded)
    bundle = on_states(load_goal(ENV), 39, 4)
    found = judge(cache, ["frame"], goal=bundle)
    frame = scored(found, "frame")
    assert frame.verdict is not None
    assert frame.metrics["auc_mean"].value is not None
    assert frame.metrics["epic_distance"].value is not None
    backwards = of_kind(found.episodes, "reversed")[0]
    forwards = of_kind(found.episodes, "success")[0]
    np.testing.assert_array_equal(backwards.states, forwards.states[::-1])
    with pytest.raises(GoalError, match="take 3 action entries"):
        judge(cache, ["frame"], goal=on_states(load_goal(ENV), 39, 3))


def test_the_sums_frame_level_part_has_options_and_is_checked(goal):
    bundle = with_nets(goal, statistics={"mean": 0.0, "std": 1.0})
    maker = Maker(bundle, H, 9, "cpu")
    *_, frame, total = maker.make("genreward:frame_form=difference,frame_discount=0.5")
    assert frame.name == "frame:form=difference,discount=0.5"
    model = frame.parts[0][0]
    assert (model.options.form, model.options.discount) == ("difference", 0.5)
    assert total.parts[1][0].options == model.options
    (again,) = maker.make(frame.name)
    assert again.parts[0][0].options == model.options
    other = Maker(bundle, H, 9, "cpu", action_space=gym.spaces.Discrete(3))
    for text in ("frame", "genreward"):
        with pytest.raises(GoalError, match=r"take 2 action entries.*Discrete\(3\)"):
            other.make(text)


def test_a_missing_frame_is_named(goal, recorded):
    model = VideoLevel(load_goal(ENV), "pixels", horizon=HORIZON, length=9)
    episode = recorded[0]
    kept = np.array([True, True, True, False, True, False, True, True, True])
    holed = replace(
        episode, frames=episode.frames[kept], frame_steps=episode.frame_steps[kept]
    )
    score_episodes(model, [episode])
    with pytest.raises(ValueError, match=r"2 of them.*step 96\).*'kind': 'success'"):
        score_episodes(model, [episode, holed])
    dense = VideoLevel(load_goal(ENV), "pixels", horizon=HORIZON)
    with pytest.raises(ValueError, match=r"257 frames.*248 of them.*step 1\).*length="):
        score_episodes(dense, [episode])


def test_frames_that_nobody_looks_at_do_not_matter(goal):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (H + 1, 32, 32, 3)).astype(np.uint8)
    model = VideoLevel(goal, "pixels", horizon=H, length=5)
    dense = Episode(frames, np.arange(H + 1), np.zeros((H, 2)), np.zeros(H, bool))
    kept = np.array(sample_steps(5, H))
    sparse = replace(dense, frames=frames[kept], frame_steps=kept)
    np.testing.assert_array_equal(*score_episodes(model, [dense, dense]))
    np.testing.assert_array_equal(
        score_episodes(model, [dense]), score_episodes(model, [sparse])
    )


def test_episodes_of_two_sizes(goal):
    episodes = [
        Episode(
            np.zeros((2, side, side, 3), np.uint8),
            np.arange(2),
            np.zeros((1, 2)),
            np.zeros(1, bool),
        )
        for side in (32, 64)
    ]
    model = VideoLevel(goal, "pixels", horizon=1)
    with pytest.raises(ValueError, match=r"\(32, 32, 3\), \(64, 64, 3\)"):
        score_episodes(model, episodes)


def test_wanted_steps(goal):
    frames = VideoLevel(goal, "pixels", horizon=H, length=5)
    window = VideoLevel(
        goal, "pixels", reading="window", window=8, length=2, stride=8, horizon=H
    )
    assert wanted_steps([], H).tolist() == [0]
    assert wanted_steps([frames], H).tolist() == [0, 10, 20, 30, 40]
    of_window = [step for step in range(1, H + 1) if step % 8 in (0, 1)]
    assert wanted_steps([window], H).tolist() == [0, *of_window]
    both = wanted_steps([frames, window], H).tolist()
    assert both == sorted({0, 10, 20, 30, 40, *of_window})
    assert wanted_steps([frames, Ends()], H).tolist() == list(range(H + 1))
