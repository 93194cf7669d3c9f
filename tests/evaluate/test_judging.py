"""One evaluation: what is judged, and what comes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from genreward_wrappers import GenRewardWrapper, GoalError, load_goal
from genreward_wrappers.evaluate.episodes import altered as others
from genreward_wrappers.evaluate.episodes.rollouts import record_rollouts
from genreward_wrappers.evaluate.judge import run
from genreward_wrappers.evaluate.judge.comparisons import epic_distance
from genreward_wrappers.evaluate.judge.curves import ORDINARY
from genreward_wrappers.evaluate.judge.judged_rewards import Maker
from genreward_wrappers.relabel.fold import score_episodes
from genreward_wrappers.rewards.video_level import VideoLevel
from tests.evaluate.shared import (
    COUNTS,
    EMBEDDED,
    ENV,
    HORIZON,
    OPTIONS,
    STEPS,
    H,
    arena,
    judge,
    of_kind,
    scored,
    with_nets,
)

pytest.importorskip("metaworld")
pytest.importorskip("scipy")


def test_what_is_judged(judged, recorded):
    counts = Counter(e.info["kind"] for e in judged.episodes)
    # Three of the other tasks' five are goals of the confusion matrix.
    assert counts == {**COUNTS, "reversed": 2, "shifted": 2, "brightness": 2}
    assert set(counts) <= {*ORDINARY, *others.ALTERED}
    names = [(one.contestant.name, one.contestant.role) for one in judged.scored]
    assert names == [("pixels", "reward"), ("env", "reference")]
    assert judged.horizon == HORIZON
    for one in judged.scored:
        assert len(one.paid) == len(judged.episodes)
    pixels, env = judged.scored
    assert pixels.verdict is not None
    assert pixels.verdict.headline
    assert env.verdict is None
    assert env.metrics["auc_mean"].value > 0.9
    assert pixels.metrics["auc_mean"].value > 0.9
    assert judged.facts["encoder"] == EMBEDDED
    for package in ("torch", "mujoco", "genreward-wrappers"):
        assert package in judged.facts["versions"]


def test_what_pixels_paid(judged, small_goal):
    model = VideoLevel(load_goal(ENV), "pixels", horizon=HORIZON, length=9)
    values = score_episodes(model, judged.episodes)
    for value, paid in zip(values, scored(judged, "pixels").paid, strict=True):
        np.testing.assert_array_equal(value, paid)
        assert (np.flatnonzero(~np.isnan(paid)) + 1).tolist() == list(STEPS[1:])


def test_labels(judged, recorded):
    labels = run.labels(judged.episodes)
    by_kind = {label.kind: (label.success, label.level) for label in labels}
    won, lost = (True, 2), (False, 0)
    assert by_kind.pop("noisy") in (won, lost)
    assert by_kind == {
        **dict.fromkeys(("success", "shifted", "brightness"), won),
        **dict.fromkeys(("near-miss", "random", "static"), lost),
        # Successes of something else, and of what nobody asked for.
        **dict.fromkeys(("other-task", "reversed"), lost),
        "half-way": (False, 1),
    }
    groups = [label.group for label in labels]
    assert len(set(groups)) == len(groups) - 6
    # Whatever their own environment said of them.
    done = of_kind(recorded, "success")[0]
    disguised = replace(done, info={**done.info, "kind": "reversed"})
    for other in (*of_kind(recorded, "other-task"), disguised):
        assert other.succeeded
        (label,) = run.labels([other])
        assert (label.success, label.level) == lost


def test_what_the_environment_said_elsewhere_counts_nothing(judged):
    env = scored(judged, "env")
    for episode, paid in zip(judged.episodes, env.paid, strict=True):
        unknown = episode.info["kind"] in ("other-task", "reversed")
        assert np.isnan(paid).all() == unknown
        assert np.isnan(paid).any() == unknown
        if unknown:
            assert not episode.succeeded


def test_confusion(judged):
    table = scored(judged, "pixels").confusion
    # The third of the other tasks has no episode left beside its goal.
    assert table["tasks"] == [ENV, "metaworld/drawer-close", "metaworld/button-press"]
    matrix = np.array(table["matrix"])
    assert matrix.shape == (3, 3)
    assert np.isfinite(matrix).all()
    assert table["argmax_accuracy"] == 1
    model = VideoLevel(load_goal(ENV), "pixels", horizon=HORIZON, length=9)
    own = score_episodes(model, of_kind(judged.episodes, "success"))
    assert matrix[0, 0] == pytest.approx(np.nanmean(own), rel=1e-6)
    # Rows are what was done, columns the goals.
    others = of_kind(judged.episodes, "other-task")
    assert others[0].info["env_id"] == table["tasks"][1]
    (other,) = score_episodes(model, others[:1])
    assert matrix[1, 0] == pytest.approx(np.nanmean(other), rel=1e-6)
    assert scored(judged, "env").confusion is None


def test_everything_by_default(by_default):
    names = [(one.contestant.name, one.contestant.role) for one in by_default.scored]
    assert names == [
        ("video", "reward"),
        ("frame", "reward"),
        ("genreward", "sum"),
        ("pixels", "control"),
        ("random", "control"),
        ("env", "reference"),
    ]
    for one in by_default.scored:
        judged = one.contestant.role in ("reward", "sum")
        assert (one.verdict is not None) == judged
    assert any(
        "pixels" in line for line in scored(by_default, "video").verdict.findings
    )
    assert by_default.goal.env_id == ENV
    values = [
        scored(by_default, name).paid[0] for name in ("video", "pixels", "random")
    ]
    assert not np.array_equal(values[0], values[1], equal_nan=True)
    assert not np.array_equal(values[0], values[2], equal_nan=True)


def test_the_sum_is_judged_where_all_of_it_is_known(summed):
    video, frame, env, total = (
        scored(summed, name)
        for name in ("video", "frame", "env", "genreward:env_weight=1")
    )
    for i, episode in enumerate(summed.episodes):
        if episode.info["kind"] in ("other-task", "reversed"):
            assert np.isnan(total.paid[i]).all()
            continue
        expected = video.paid[i].astype(np.float64) + 0.25 * frame.paid[i].astype(
            np.float64
        )
        expected += env.paid[i]
        np.testing.assert_array_equal(total.paid[i], expected.astype(np.float32))
    assert video.metrics["reversed_auc"].value is not None
    assert total.metrics["reversed_auc"].value is None
    assert total.metrics["voc_reversed"].value is None
    # Of the nine ordinary episodes two are another task's.
    assert video.metrics["auc_mean"].n == 9
    assert total.metrics["auc_mean"].n == 7
    assert total.metrics["auc_mean"].value > 0.9


def test_a_sum_is_judged_for_what_it_adds(summed):
    """Never good for the merit of the environment's own reward."""
    total = scored(summed, "genreward:env_weight=1")
    assert scored(summed, "env").metrics["auc_mean"].value == 1
    assert total.verdict.level == "weak"
    assert "nothing shows that it adds" in total.verdict.headline
    said = "the environment's own reward, which leaves no room"
    assert any(said in line for line in total.verdict.findings)


def test_progress_is_told(cache, recorded):
    told = []
    judge(cache, ["pixels"], on_progress=lambda *what: told.append(what))
    last = {what: (done, total) for what, done, total in told}
    assert list(last) == ["test episodes", "rewards", "figures"]
    assert all(done == total > 0 for done, total in last.values())


def test_the_wrong_camera(cache):
    goal = load_goal(ENV).with_(camera="corner3")
    with pytest.raises(GoalError, match=r"'corner3'.*'corner2'.*--camera corner3"):
        judge(cache, ["pixels"], goal=goal)
    with pytest.raises(GoalError, match="--camera corner2"):
        judge(cache, ["pixels"], camera="corner")
    made = run._options(ENV, goal, "corner3")
    assert made == {"camera": "corner3", "size": 64}
    assert run._options(ENV, goal.with_(camera=""), None) == OPTIONS
    assert run._options(ENV, None, None) == {}


def test_a_goal_that_is_not_square(played, tmp_path):
    goal = load_goal(ENV)
    wide = goal.with_(videos=goal.videos[:, :, 8:56])
    options = run._options(ENV, wide, None)
    assert list(options["size"]) == [48, 64]
    asked = {"options": options, "counts": {"static": 1}, "cache": tmp_path}
    record_rollouts(ENV, (0, 256), **asked)
    record_rollouts(ENV, (0, 256), **asked)
    assert len(played) == 1


def test_a_goal_that_does_not_say_what_it_is_for(cache, recorded, judged):
    goal = load_goal(ENV).with_(env_id="")
    table = scored(judge(cache, ["pixels"], goal=goal), "pixels").confusion
    assert table == scored(judged, "pixels").confusion


def test_a_reward_that_looks_at_uneven_steps(cache, recorded):
    """Backwards, it looks at the steps at the other end."""
    reward = "pixels:reading=window,window=100,length=3,stride=100"
    judged = judge(cache, [reward], counts={"success": 1, "static": 1})
    for paid in judged.scored[0].paid:
        assert (np.flatnonzero(~np.isnan(paid)) + 1).tolist() == [100, 200]


def test_rewards_do_not_change_each_other(cache, judged):
    """One that looks at other frames changes no figure of one that does not."""
    other = "pixels:reading=stream,length=12"
    both = judge(cache, ["pixels", other], counts={"success": 2, "other-task": 2})
    assert len(both.episodes[0].frames) > len(STEPS)
    for i in range(2):
        values = [scored(one, "pixels").paid[i] for one in (judged, both)]
        np.testing.assert_array_equal(*values)
    table = scored(both, "pixels").confusion
    np.testing.assert_allclose(
        table["matrix"], scored(judged, "pixels").confusion["matrix"], rtol=1e-5
    )


def test_the_epic_distance_of_the_frame_level_part(goal, tmp_path):
    """It does not see scale and constants, and takes the opposite for the opposite."""
    bundle = with_nets(goal)
    wrap = partial(
        GenRewardWrapper, goal=bundle, horizon=H, frame_options={"form": "value"}
    )
    episodes, _ = arena(wrap, tmp_path)
    episodes = [replace(e, info={**e.info, "kind": "noisy"}) for e in episodes]
    (frame,) = Maker(bundle, H, 9, "cpu").make("frame:form=value")

    def distance(change):
        changed = [
            replace(e, rewards={**e.rewards, "env": change(e.rewards["env"])})
            for e in episodes
        ]
        return epic_distance(frame, changed)["epic_distance"].value

    plain = distance(lambda r: r)
    assert 0 < plain < 1
    assert distance(lambda r: 3 * r + 1) == pytest.approx(plain, rel=1e-5)
    # d = sqrt((1 - rho) / 2), and rho turns its sign.
    assert distance(lambda r: -r) == pytest.approx(np.sqrt(1 - plain**2), rel=1e-5)
    flat = epic_distance(frame, [replace(e, rewards={}) for e in episodes])[
        "epic_distance"
    ]
    assert flat.value is None
    assert "no transitions" in flat.flag


def test_epic_is_refused_with_the_reason(small_goal):
    maker = Maker(small_goal, 64, 9, "cpu")
    refused = epic_distance(maker.make("pixels")[0], [])["epic_distance"]
    assert refused.value is None
    assert "refused: it compares the change since the episode's first" in refused.flag
    assert epic_distance(maker.environment(), []) == {}


def test_the_environments_own_reward_has_no_controls(judged):
    pixels, env = judged.scored
    asked = replace(env.contestant, role="reward")
    found = [(asked, env.paid), (pixels.contestant, pixels.paid)]
    one = run._judge(found, judged.episodes, resamples=50)[0]
    assert one.verdict.headline
    assert not any("beat" in said.lower() for said in one.verdict.findings)
