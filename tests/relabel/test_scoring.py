"""Recorded episodes earn what a wrapper paid for them, to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from genreward_wrappers import (
    GenRewardWrapper,
    RewardModelWrapper,
    RewardSpec,
    VideoLevelReward,
    load_goal,
    relabel,
)
from genreward_wrappers.core import Score
from genreward_wrappers.encoders import binding
from genreward_wrappers.relabel import Scorer, as_episode, from_frames, score
from genreward_wrappers.testing import Brightness, Traveller
from tests.relabel.recorded import HORIZON, arena, with_nets

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_room_is_public():
    assert all(getattr(relabel, name) is not None for name in relabel.__all__)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("video", {}),
        ("video:score=cosine,length=5", {"score": "cosine", "length": 5}),
        ("video:payment=difference", {"payment": "difference"}),
        ("video:goals=max,score=motion", {"goals": "max", "score": "motion"}),
        ("video:reading=stream,length=9", {"reading": "stream", "length": 9}),
        (
            "video:reading=window,window=6,length=3",
            {"reading": "window", "window": 6, "length": 3},
        ),
        ("video:every=3", {"every": 3}),
    ],
)
def test_the_rewards_of_the_wrapper(goal, text, options):
    wrap = partial(
        VideoLevelReward, goal=goal, encoder="pixels", horizon=HORIZON, **options
    )
    episodes, online = arena(wrap)
    assert len({*map(len, online)}) > 1
    assert {episode.terminated for episode in episodes} == {True, False}
    spec = RewardSpec.parse(text)
    spec = replace(spec, options={**spec.options, "encoder": "pixels"})
    for together in (None, 1, 2):
        found = score(
            from_frames(episodes),
            spec,
            goal=goal,
            horizon=HORIZON,
            batch=together,
        )
        for scored, paid in zip(found, online, strict=True):
            np.testing.assert_array_equal(scored.rewards, paid)
    assert np.unique(np.concatenate(online)).size > 5
    sparse = {"length", "every", "payment"} & {*options}
    assert all(scored.due.all() for scored in found) == (not sparse)


def test_a_sum_with_nets_and_the_environments_own(goal):
    bundle = with_nets(goal)
    weights = {"video_weight": 2.0, "frame_weight": 0.5, "env_weight": 0.25}
    wrap = partial(GenRewardWrapper, goal=bundle, horizon=HORIZON, **weights)
    episodes, online = arena(wrap)
    text = "genreward:video_weight=2.0,frame_weight=0.5,env_weight=0.25"
    found = score(from_frames(episodes), text, goal=bundle, horizon=HORIZON)
    for scored, paid in zip(found, online, strict=True):
        assert {*scored.parts} == {"video", "frame"}
        np.testing.assert_array_equal(scored.rewards, paid)
    # Side by side nets round otherwise.
    found = score(from_frames(episodes), text, goal=bundle, horizon=HORIZON, batch=5)
    for scored, paid in zip(found, online, strict=True):
        np.testing.assert_allclose(scored.rewards, paid, rtol=1e-5, atol=1e-6)


def test_a_learned_encoder():
    """That of the embedded goals: alone to the last bit, side by side to rounding."""
    goal = load_goal("metaworld/pick-place")
    goal = goal.with_(videos=goal.videos[:1, ::16], key_frames=())
    wrap = partial(GenRewardWrapper, goal=goal, horizon=6, frame_weight=0,
                   other_task=True)  # fmt: skip
    episodes, online = arena(wrap, count=3, horizon=6, size=64)
    text = "genreward:frame_weight=0"
    found = score(from_frames(episodes), text, goal=goal, horizon=6)
    for scored, paid in zip(found, online, strict=True):
        np.testing.assert_array_equal(scored.rewards, paid)
    found = score(from_frames(episodes), text, goal=goal, horizon=6, batch=3)
    for scored, paid in zip(found, online, strict=True):
        np.testing.assert_allclose(scored.rewards, paid, atol=1e-5)


def test_actions_steps_ends_and_seeds():
    """Everything that a host can get wrong, in one number."""
    episodes, online = arena(partial(RewardModelWrapper, model=Traveller()))
    for together in (1, 3, 64):
        found = score(from_frames(episodes), Traveller(), batch=together)
        for scored, paid in zip(found, online, strict=True):
            np.testing.assert_array_equal(scored.rewards, paid)
    unseeded = [replace(episode, info={}) for episode in episodes]
    for scored, paid in zip(
        score(from_frames(unseeded), Traveller(), seed=0), online, strict=True
    ):
        np.testing.assert_array_equal(scored.rewards, paid)
    other = score(from_frames(unseeded), Traveller(), seed=7)
    assert (other[0].rewards != online[0]).all()


class Ending(Brightness):
    """Pays for how an episode ended."""

    def step(self, memory, t):
        value = 3 * t.terminated + 7 * t.truncated
        return Score(value.astype(np.float32), t.active), memory


def test_an_episode_ends_as_it_ended():
    episodes, online = arena(partial(RewardModelWrapper, model=Ending()))
    assert {paid[-1] for paid in online} == {3, 7}
    for scored, paid in zip(
        score(from_frames(episodes), Ending(), batch=3), online, strict=True
    ):
        np.testing.assert_array_equal(scored.rewards, paid)


def test_several_rewards_encode_each_frame_once(goal, monkeypatch):
    from genreward_wrappers.encoders.pixels import PooledPixels

    seen = Counter()
    real = PooledPixels.encode_images

    def counting(self, frames):
        seen[id(self)] += len(frames)
        return real(self, frames)

    monkeypatch.setattr(PooledPixels, "control", False)
    monkeypatch.setattr(PooledPixels, "encode_images", counting)
    bundle = with_nets(goal)
    episodes, _ = arena(partial(RewardModelWrapper, model=Brightness()), count=2)
    scorer = Scorer(["video", "video:score=cosine"], goal=bundle, horizon=HORIZON)
    both = dict(scorer.run(from_frames(episodes)))
    (twice,) = (seen[id(memo.encoder)] for memo in scorer._encoders.values())
    seen.clear()
    alone = Scorer(["video"], goal=bundle, horizon=HORIZON)
    one = dict(alone.run(from_frames(episodes)))
    (once,) = (seen[id(memo.encoder)] for memo in alone._encoders.values())
    assert twice == once
    np.testing.assert_array_equal(both[0][0].rewards, one[0][0].rewards)
    assert (both[0][0].rewards != both[0][1].rewards).any()


def test_without_a_horizon_an_episode_takes_the_whole_goal(goal):
    film = goal.videos[0]
    short = film[::4]
    found = score(from_frames([film, short]), "pixels", goal=goal)
    for scored, frames in zip(found, (film, short), strict=True):
        assert len(scored.rewards) == len(frames) - 1
        # It follows the goal exactly.
        np.testing.assert_allclose(scored.rewards, 1, atol=1e-5)
    half = score(from_frames([film[:17]]), "pixels", goal=goal, horizon=32)
    np.testing.assert_allclose(half[0].rewards, 1, atol=1e-5)
    hasty = score(from_frames([film[:17]]), "pixels", goal=goal)
    assert hasty[0].rewards.min() < 0.9


def test_a_known_environments_time_limit_is_the_horizon():
    film = np.zeros((5, 64, 64, 3), np.uint8)
    scorer = Scorer(["pixels"])
    recording = from_frames([as_episode(film, env_id="metaworld/reach")])[0]
    assert scorer._where(recording, recording.read()) == ("metaworld/reach", 256, "")
    (paid,) = score([recording], "pixels")
    assert paid.due.all()


def test_what_is_given_comes_before_what_recordings_say():
    film = as_episode(np.zeros((5, 8, 8, 3), np.uint8), env_id="metaworld/reach")
    (plain,) = from_frames([film])
    said = replace(plain, about={"env_id": "metaworld/push", "horizon": 40})
    assert Scorer(["video"])._where(said, film)[:2] == ("metaworld/push", 40)
    given = Scorer(["video"], env_id="metaworld/pick-place", horizon=9)
    assert given._where(said, film)[:2] == ("metaworld/pick-place", 9)
    unknown = replace(film, info={"env_id": "nobody/knows-v0"})
    assert Scorer(["video"])._where(plain, unknown)[:2] == ("nobody/knows-v0", 4)


def test_the_encoder_is_made_as_it_is_asked_for(goal, monkeypatch):
    asked = []
    real = binding.bind_encoder

    def bind(goal, name, **options):
        asked.append((name, options))
        return real(goal, name, **options)

    monkeypatch.setattr(binding, "bind_encoder", bind)
    told = {"device": "cpu", "dtype": "float32"}
    score(from_frames([goal.videos[0]]), "video:encoder=pixels", goal=goal, **told)
    assert asked == [("pixels", told)]


def test_episodes_of_two_sizes_are_scored_apart(goal):
    films = [np.repeat(np.repeat(goal.videos[0], n, 1), n, 2) for n in (1, 2, 1)]
    found = score(from_frames(films), "pixels", goal=goal)
    np.testing.assert_array_equal(found[0].rewards, found[2].rewards)
    alone = score(from_frames(films[1:2]), "pixels", goal=goal)
    np.testing.assert_array_equal(found[1].rewards, alone[0].rewards)
    assert (found[0].rewards != found[1].rewards).any()


def test_episodes_with_and_without_actions_are_scored_apart():
    film = np.zeros((5, 8, 8, 3), np.uint8)
    film[2:] = 255
    mixed = [as_episode(film, np.zeros((4, 2), np.float32)), film]
    for scored in score(from_frames(mixed), Brightness(), batch=2):
        assert scored.rewards.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(("batch", "together"), [(None, 1), (3, 3)])
def test_no_more_episodes_are_read_than_are_scored(batch, together):
    """Films of a few minutes are gigabytes."""
    films = from_frames([np.zeros((3, 8, 8, 3), np.uint8)] * 7)
    read = []

    def reading(recording):
        return replace(recording, read=lambda: read.append(1) or recording.read())

    scorer, told = Scorer([Brightness()], batch=batch), []
    run = scorer.run([reading(film) for film in films], lambda *x: told.append(x))
    for done, _ in enumerate(run):
        assert len(read) == min(7, together * (done // together + 1))
    assert told == [(n, 7) for n in [*range(together, 7, together), 7]]
    # However unlike they are.
    read.clear()
    films = from_frames([np.zeros((3, 8, 8 + n, 3), np.uint8) for n in range(70)])
    run = Scorer([Brightness()], batch=2).run([reading(film) for film in films])
    assert next(run)[0] == 0
    assert len(read) == 64
    assert len([*run]) == 69


# Bad input


@pytest.mark.parametrize(
    ("frames", "more", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.uint8), {}, "at least 2 frames.*1, 8, 8, 3"),
        (np.zeros((5, 8, 8), np.uint8), {}, "at least 2 frames"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], {}, "have one size"),
        (np.zeros((5, 8, 8, 3)), {}, "uint8.*float64"),
        (
            np.zeros((5, 8, 8, 3), np.uint8),
            {"actions": np.zeros((5, 2))},
            "5 frames are those before and after 4 actions, got 5",
        ),
    ],
)
def test_frames_that_are_no_episode(frames, more, message):
    with pytest.raises(ValueError, match=message):
        as_episode(frames, **more)


def test_what_cannot_be_scored_is_named(goal):
    film = np.zeros((5, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"episode 0: the environment's own.*0\.5"):
        score(from_frames([film]), "genreward:env_weight=0.5,frame_weight=0",
              goal=goal.with_(encoder=with_nets(goal).encoder))  # fmt: skip
    with pytest.raises(ValueError, match="a balanced weight is.*as a number"):
        score(from_frames([film]), "genreward:env_weight=balanced", goal=goal)
    with pytest.raises(ValueError, match="there is no reward 'vidoe'"):
        Scorer(["vidoe"])
    with pytest.raises(TypeError, match="no RewardModel"):
        Scorer([3])
    with pytest.raises(ValueError, match="batch=0"):
        Scorer(["video"], batch=0)
    with pytest.raises(ValueError, match=r"episode 0: .*enlarge"):
        score(from_frames([film[:, :16, :16]]), "pixels", goal=goal)
    with pytest.raises(ValueError, match="no id to look a goal up by"):
        score(from_frames([film]), "pixels")


def test_nets_without_actions(goal):
    film = np.zeros((5, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"episode 0: .*none were recorded"):
        score(from_frames([film]), "frame", goal=with_nets(goal))
