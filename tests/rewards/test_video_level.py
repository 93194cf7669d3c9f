"""The video-level reward against independent computations, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genreward_wrappers import GoalBundle, GoalError, Session
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.rewards.clip_readers import WindowReading
from genreward_wrappers.rewards.similarity import SIMILARITIES
from genreward_wrappers.rewards.video_level import VideoLevel
from genreward_wrappers.rewards.video_options import (
    PRESETS,
    SHARPENED,
    VideoOptions,
)
from genreward_wrappers.testing import check_reward_model

H = 32  # steps of an episode
SIZE = (32, 32)


@pytest.fixture(scope="module")
def episode() -> np.ndarray:
    """(H + 1, 32, 32, 3) an episode that is like the second goal, but not quite."""
    rng = np.random.default_rng(7)
    frames = np.full((H + 1, *SIZE, 3), 90, np.uint8)
    for t, frame in enumerate(frames):
        column = round(t / H * 20)
        frame[13:21, column : column + 8] = (240, 150, 70)
        frame[28:] = rng.integers(0, 40, (4, 32, 3))
    return frames


def play(model, frames, copies=1):
    """(steps, copies) values, NaN where nothing was due."""
    session = Session([model], copies)
    session.begin(np.stack([frames[0]] * copies), seed=0)
    no = np.zeros(copies, bool)
    values = []
    for frame in frames[1:]:
        batch = np.stack([frame] * copies)
        score = session.score(np.zeros((copies, 1)), batch, no, no)[model.name]
        values.append(np.where(score.due, score.value, np.nan))
    return np.array(values)


def pooled(frames):
    """8x8 block means in [0, 1], by a loop over blocks."""
    frames = np.asarray(frames, np.float64) / 255
    side = frames.shape[-2] // 8
    cells = [
        frames[..., r * side : (r + 1) * side, c * side : (c + 1) * side, :].mean(
            (-3, -2)
        )
        for r in range(8)
        for c in range(8)
    ]
    # Channels first, as the encoder lays them out; the order does not matter to scores.
    return np.stack(cells, -1).reshape(*frames.shape[:-3], -1)


def cos(a, b):
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def expected_score(name, agent, goal, all_goals, contrast=1.0):
    """agent, goal: (T, D) stretches from the clip's first latent on; golden formulas.

    The newest latent alone is compared for the frames reading, where T counts from the
    first; a stretch for the stream.
    """
    change, goal_change = agent[1:] - agent[:1], goal["so far"][1:] - goal["so far"][:1]
    if name == "tracking":
        changes = all_goals[:, 1:] - all_goals[:, :1]
        still = np.mean(np.sqrt((changes**2).mean(-1)))
        k = contrast / still
        return float(np.exp(-k * np.sqrt(((change - goal_change) ** 2).mean())))
    if name == "motion":
        return cos(change, goal_change)
    if name == "last_change":
        return cos(change[-1], goal["whole"][-1] - goal["whole"][0])
    if name == "cosine":
        return cos(agent[1:], goal["so far"][1:])
    mean = all_goals.reshape(-1, all_goals.shape[-1]).mean(0)
    return cos(agent[1:] - mean, goal["so far"][1:] - mean)


def sharp(score, contrast):
    """The contrast, where a score has one."""
    return {"contrast": contrast} if score in SHARPENED else {}


@pytest.mark.parametrize("score", sorted(SIMILARITIES))
def test_frames_reading_against_numpy(goal, episode, score):
    model = VideoLevel(goal, "pixels", horizon=H, score=score, **sharp(score, 1.5))
    values = play(model, episode)[:, 0]
    latents, goals = pooled(episode), pooled(goal.videos)
    nearest = int(np.argmin(((goals[:, 0] - latents[0]) ** 2).sum(-1)))
    assert nearest == 1, "the episode was made to begin like the second goal"
    for t in range(1, H + 1):
        agent = np.stack([latents[0], latents[t]])
        so_far = np.stack([goals[nearest, 0], goals[nearest, t]])
        expected = expected_score(
            score, agent, {"so far": so_far, "whole": goals[nearest]}, goals, 1.5
        )
        assert values[t - 1] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("score", sorted(SIMILARITIES))
def test_stream_reading_against_the_library(vae, goal, episode, score):
    """Each score of the stream is that of a prefix encoded whole by diffusers."""
    options = {"reading": "stream", "length": 17, **sharp(score, 0.7)}
    model = VideoLevel(goal, vae, horizon=H, score=score, **options)
    values = play(model, episode)[:, 0]
    index = np.rint(np.linspace(0, H, 17)).astype(int)
    clip = episode[index]

    def encode(frames):
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            z = vae.model.encoder(video[:, :, :9])
            latents, cache = z
            parts = [latents]
            if len(frames) == 17:
                latents, _ = vae.model.encoder(video[:, :, 9:], conv_cache=cache)
                parts.append(latents)
        moments = torch.cat(parts, 2)
        mode = moments.chunk(2, dim=1)[0][0]
        return mode.permute(1, 0, 2, 3).flatten(1).double().numpy()

    goal_clips = goal.videos[:, np.rint(np.linspace(0, 32, 17)).astype(int)]
    goals = np.stack([encode(video) for video in goal_clips])
    # Chunks complete with the 9th and 17th frame of the clip.
    due = {int(index[8]): 3, int(index[16]): 5}
    assert set(np.flatnonzero(~np.isnan(values)) + 1) == set(due)
    for step, count in due.items():
        agent = encode(clip[: 9 if count == 3 else 17])
        assert agent.shape[0] == count
        value = full_stretch_score(score, agent, goals[1][:count], goals, 0.7)
        assert values[step - 1] == pytest.approx(value, rel=1e-4, abs=1e-5)


def full_stretch_score(name, agent, goal, all_goals, contrast):
    """As `expected_score`, over a stretch that includes the first latent itself."""
    change, goal_change = agent - agent[:1], goal - goal[:1]
    if name == "tracking":
        changes = all_goals[:, 1:] - all_goals[:, :1]
        k = contrast / np.mean(np.sqrt((changes**2).mean(-1)))
        return float(np.exp(-k * np.sqrt(((change - goal_change) ** 2).mean())))
    if name == "motion":
        return cos(change, goal_change)
    if name == "last_change":
        return cos(change[-1], all_goals[1][-1] - all_goals[1][0])
    mean = all_goals.reshape(-1, all_goals.shape[-1]).mean(0)
    shift = mean if name == "centred" else 0
    return cos(agent - shift, goal - shift)


def test_paper_preset_against_a_loop(vae, goal, episode):
    """Two windows, 16 frames of each, one cosine with the whole goal, weight 0.01."""
    options = {**PRESETS["paper"], "window": 16, "stride": 16, "length": 16}
    long = np.concatenate([episode, episode[1:]])
    model = VideoLevel(goal, vae, **options)
    values = play(model, long)[:, 0]
    assert (np.flatnonzero(~np.isnan(values)) + 1).tolist() == [16, 32, 48, 64]

    def encode(frames):
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            encoder = vae.model.encoder
            first, cache = encoder(video[:, :, :8])
            rest, _ = encoder(video[:, :, 8:], conv_cache=cache)
        return torch.cat([first, rest], 2).chunk(2, 1)[0].double().numpy()

    clip = goal.videos[1][np.rint(np.linspace(0, 32, 16)).astype(int)]
    for end in (16, 32, 48, 64):
        window = encode(long[end - 15 : end + 1])
        assert values[end - 1] == pytest.approx(cos(window, encode(clip)), rel=1e-4)


@pytest.mark.parametrize(
    ("window", "length", "every"),
    [(128, 16, 128), (8, 4, 1), (8, 8, 3), (10, 3, 4), (5, 2, 12)],
)
def test_window_ring_holds_the_right_frames(goal, window, length, every):
    """Frames whose brightness is their step, so that a wrong one shows."""
    encoder = PooledPixels(SIZE, 8, device="cpu")
    seen = []

    class Spy(PooledPixels):
        def encode_clips(self, frames):
            if len(frames) == 1:
                seen.append(torch.as_tensor(frames)[0, :, 0, 0, 0].tolist())
            return encoder.encode_clips(frames)

    reading = WindowReading(Spy(SIZE, 8, device="cpu"), window, length, every)
    count = min(250, 3 * window + 2 * every)
    model = VideoLevel(goal, "pixels", reading="window", window=window, length=length)
    model.reading = reading
    frames = np.zeros((count + 1, *SIZE, 3), np.uint8)
    frames += np.arange(count + 1, dtype=np.uint8)[:, None, None, None]
    play(model, frames)
    offsets = np.linspace(0, window - 1, length).astype(int)
    ends = range(window, count + 1, every)
    assert seen == [(end - window + 1 + offsets).tolist() for end in ends]
    assert seen


def test_window_reads_only_what_it_wants():
    reading = WindowReading(PooledPixels(SIZE), 128, 16, 128)
    wanted = reading.wants(np.arange(1, 257))
    assert wanted.sum() == 32
    assert reading._slots == 16


@pytest.mark.parametrize("payment", ["level", "hold", "difference"])
def test_payments(goal, episode, payment):
    level = play(VideoLevel(goal, "pixels", horizon=H, length=9), episode)[:, 0]
    ticks = np.flatnonzero(~np.isnan(level))
    assert (ticks + 1).tolist() == list(range(4, H + 1, 4))
    options = {"length": 9, "payment": payment}
    if payment == "difference":
        options["discount"] = 0.9
    paid = play(VideoLevel(goal, "pixels", horizon=H, **options), episode)[:, 0]
    if payment == "level":
        np.testing.assert_array_equal(paid, level)
    elif payment == "hold":
        assert np.isnan(paid[:3]).all()
        newest = [level[ticks[ticks <= t][-1]] for t in range(3, H)]
        np.testing.assert_array_equal(paid[3:], newest)
    else:
        assert (np.flatnonzero(~np.isnan(paid))).tolist() == ticks[1:].tolist()
        expected = 0.9 * level[ticks[1:]] - level[ticks[:-1]]
        np.testing.assert_allclose(paid[ticks[1:]], expected, rtol=1e-5, atol=1e-6)


def test_several_goals(goal, episode):
    each = [
        play(
            VideoLevel(
                goal.with_(videos=goal.videos[k : k + 1], key_frames=()),
                "pixels",
                horizon=H,
                score="motion",
            ),
            episode,
        )
        for k in range(3)
    ]
    for choice, expected in [
        ("mean", np.mean(each, 0)),
        ("max", np.max(each, 0)),
        ("nearest", each[1]),
    ]:
        model = VideoLevel(goal, "pixels", horizon=H, score="motion", goals=choice)
        np.testing.assert_allclose(play(model, episode), expected, rtol=1e-5, atol=1e-6)


def test_standing_still_earns_what_contrast_says(goal):
    """By the definition of the calibration, averaged over the goals in log space."""
    for contrast in (0.5, 1.0, 3.0):
        logs = []
        for video in goal.videos:
            model = VideoLevel(goal, "pixels", horizon=H, contrast=contrast)
            still = np.repeat(video[:1], H + 1, axis=0)
            logs.append(np.log(play(model, still)[:, 0]))
        assert -np.mean(logs) == pytest.approx(contrast, rel=1e-3)


def test_following_the_goal_exactly_earns_one(goal):
    model = VideoLevel(goal, "pixels", horizon=H)
    for video in goal.videos:
        np.testing.assert_allclose(play(model, video)[:, 0], 1, atol=1e-5)


def test_a_longer_goal_is_resampled_in_time(goal, episode):
    twice = goal.with_(videos=goal.videos.repeat(2, axis=1)[:, :-1], key_frames=())
    assert twice.videos.shape[1] == 65
    values = play(VideoLevel(twice, "pixels", horizon=H), episode)
    # Sharpness is the mean over the goal's own frames, so compare with it divided out.
    model, plain = (VideoLevel(g, "pixels", horizon=H) for g in (twice, goal))
    np.testing.assert_allclose(
        np.log(values) / float(model.targets.sharpness[0]),
        np.log(play(plain, episode)) / float(plain.targets.sharpness[0]),
        rtol=1e-4,
        atol=1e-6,
    )


def test_between_its_frames_a_goal_moves_straight(goal, episode):
    """A goal of half the frames: at odd steps, the middle of the two beside them."""
    half = goal.with_(videos=goal.videos[:, ::2], key_frames=())
    model = VideoLevel(half, "pixels", horizon=H)
    values = play(model, episode)[:, 0]
    latents, goals = pooled(episode), pooled(half.videos)
    for t in range(1, H + 1):
        beside = goals[1, [t // 2, (t + 1) // 2]].mean(0)
        apart = (latents[t] - latents[0]) - (beside - goals[1, 0])
        distance = float(model.targets.sharpness[0]) * np.sqrt((apart**2).mean())
        assert values[t - 1] == pytest.approx(np.exp(-distance), rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"reading": "frames"},
        {"reading": "frames", "payment": "hold", "length": 9},
        {"reading": "frames", "payment": "difference", "goals": "mean"},
        {"reading": "stream", "length": 17},
        {"reading": "stream", "length": 33, "payment": "hold", "goals": "max"},
        {"reading": "window", "window": 12, "length": 9, "stride": 3},
    ],
    ids=str,
)
def test_contracts(vae, goal, options):
    """Batching, restarts at different times, inactive rows, old memories."""
    model = VideoLevel(goal, vae, horizon=40, **options)
    check_reward_model(model, size=SIZE, steps=40, tolerance=2e-4)


def test_larger_frames_are_shrunk_by_the_model(goal, episode):
    large = episode.repeat(3, 1).repeat(3, 2)
    model = VideoLevel(goal, "pixels", horizon=H)
    np.testing.assert_allclose(play(model, large), play(model, episode), atol=0.02)


def test_no_memory_crosses_an_episode(goal, episode):
    model = VideoLevel(goal, "pixels", horizon=H, payment="hold", length=9)
    session = Session([model], 1)
    no = np.zeros(1, bool)

    def run():
        session.begin(episode[:1])
        return [
            session.score(np.zeros(1), frame[None], no, no)["video"]
            for frame in episode[1:]
        ]

    first, second = run(), run()
    assert [s.value[0] for s in first] == [s.value[0] for s in second]
    assert not second[0].due[0], "the last score of the old episode was held over"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 64}, "window=64 does nothing with reading='frames'.*'window'"),
        ({"stride": 4}, "stride=4 does nothing with reading='frames'"),
        ({"reading": "stream", "length": 17, "window": 9}, "window=9 does nothing"),
        ({"discount": 0.9}, "discount=0.9 does nothing with payment='level'"),
        ({"payment": "hold", "discount": 0.9}, "discount=0.9.*to be 'difference'"),
        ({"score": "cosine", "contrast": 2}, "contrast=2 does nothing with score='cos"),
    ],
)
def test_an_option_that_does_nothing_is_an_error(goal, options, message):
    with pytest.raises(ValueError, match=message):
        VideoLevel(goal, "pixels", horizon=H, **options)


def test_a_preset_gives_way_to_what_is_said():
    made = VideoOptions.of_preset("paper", {"reading": "frames"}, "x")
    assert (made.window, made.stride, made.score) == (None, None, "cosine")
    assert VideoOptions.of_preset("paper", {"window": 64}, "x").stride == 128
    with pytest.raises(ValueError, match="window=64 does nothing"):
        VideoOptions.of_preset("paper", {"reading": "frames", "window": 64}, "x")
    with pytest.raises(TypeError, match=r"x: no option 'widnow' \(did you mean 'win"):
        VideoOptions.of_preset("paper", {"widnow": 64}, "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reading": "movie"}, r"'movie': expected one of 'frames', 'stream'"),
        ({"score": "best"}, r"score='best': expected one of 'tracking'"),
        ({"payment": "cash"}, r"payment='cash'"),
        ({"goals": "all"}, r"goals='all'"),
        ({"horizon": None}, r"horizon="),
        ({"length": 40}, r"between 2 and 33"),
        ({"reading": "window", "length": 1}, r"between 2 and 128"),
        ({"reading": "window", "stride": 0}, r"stride=0"),
        ({"encoder": "pixles"}, r"unknown encoder 'pixles'"),
        ({"device": "cuda:7"}, r"cuda:7"),
    ],
)
def test_bad_options(goal, options, message):
    arguments = {"encoder": "pixels", "horizon": H, **options}
    encoder = arguments.pop("encoder")
    with pytest.raises(ValueError, match=message):
        VideoLevel(goal, encoder, **arguments)


def test_stream_lengths_follow_the_grammar(vae, goal):
    with pytest.raises(ValueError, match=r"9 \+ 8k frames, got 16.*9 and 17"):
        VideoLevel(goal, vae, horizon=H, reading="stream", length=16)


def test_a_goal_of_another_encoder_shows_both_fingerprints(vae, goal):
    card = encoder_card(vae)
    bound = goal.with_(encoder=card)
    VideoLevel(bound, vae, horizon=H)
    other = {**card["fingerprint"], "sha256": "0" * 64}
    stranger = goal.with_(encoder={**card, "fingerprint": other})
    with pytest.raises(GoalError) as caught:
        VideoLevel(stranger, vae, horizon=H)
    assert "0" * 64 in str(caught.value)
    assert card["fingerprint"]["sha256"] in str(caught.value)
    # Precision is no other encoder, and the control is always welcome.
    rounded = {**card["fingerprint"], "dtype": "bfloat16"}
    VideoLevel(goal.with_(encoder={**card, "fingerprint": rounded}), vae, horizon=H)
    VideoLevel(stranger, "pixels", horizon=H)


def test_a_goal_without_an_encoder_asks_for_one(goal):
    with pytest.raises(GoalError, match="names no encoder"):
        VideoLevel(goal, horizon=H)


def test_frames_of_another_shape_are_refused(goal):
    model = VideoLevel(goal, PooledPixels(SIZE), horizon=H)
    for shape, message in [((16, 16), "enlarge"), ((32, 64), "aspect")]:
        with pytest.raises(ValueError, match=message):
            Session([model], 1).begin(np.zeros((1, *shape, 3), np.uint8))


def test_a_still_goal_is_refused():
    still = GoalBundle(np.zeros((1, 5, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="nothing moves"):
        VideoLevel(still, "pixels", horizon=H)


def test_wrappers_alike_encode_their_goal_once(vae, goal):
    one, two, other = (
        VideoLevel(g, vae, horizon=h, score=score)
        for g, h, score in [
            (goal, H, "tracking"),
            (goal.with_(), H, "motion"),
            (goal, H - 1, "tracking"),
        ]
    )
    assert one.reading is two.reading
    assert one.reading is not other.reading
    changed = goal.with_(videos=goal.videos[:, ::-1], key_frames=())
    assert VideoLevel(changed, vae, horizon=H).reading is not one.reading
