"""Goals that are generated from the frame with which an episode begins."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from genreward_wrappers import (
    FrameLevelReward,
    GeneratedGoals,
    GenRewardWrapper,
    GoalBundle,
    GoalError,
    Session,
    VideoLevelReward,
    load_goal,
    vector,
)
from genreward_wrappers.data import files
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.goal_maker import GoalMaker, Made
from genreward_wrappers.generators import pipeline as generators
from genreward_wrappers.generators.candidates import frame_digest
from genreward_wrappers.generators.checkpoints import find_pipeline
from genreward_wrappers.generators.episode_goals import noise_seed
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model, Sampling
from genreward_wrappers.goal_pipeline.pack import pack_candidates
from genreward_wrappers.rewards.video_level import VideoLevel
from genreward_wrappers.testing import PointMass, check_reward_model
from tests import video_pipelines

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SIZE = (32, 48)
PROMPT = "push the disc to its target"
ASKED = Sampling(PROMPT, steps=2, frames=9)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes each pipeline once: its folder by name."""
    made = {}

    def folder(name, **options):
        key = (name, *options.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp(name)
            getattr(video_pipelines, name)(**options).save_pretrained(made[key])
        return str(made[key])

    return folder


def start(seed=0, size=SIZE):
    return PointMass(size=size).reset(seed=seed)[0]


# Several videos at once


@pytest.mark.parametrize(
    ("name", "options", "kind", "size"),
    [
        ("cogvideox", {}, "", SIZE),
        ("cogvideox", {}, "unlisted", SIZE),
        ("cogvideox", {"scheduler": "CogVideoXDPMScheduler"}, "", SIZE),
        ("cogvideox", {"image": False}, "", SIZE),
        ("ltx", {}, "LTXPipeline", (32, 64)),
        ("ltx", {}, "LTXImageToVideoPipeline", (32, 64)),
    ],
)
def test_a_batch_is_its_videos_one_by_one(
    name, options, kind, size, folders, monkeypatch
):
    if kind == "unlisted":
        # As those that take one picture, Wan's say.
        kind = ""
        monkeypatch.setattr(generators, "LISTS", ())
    generator = Generator(Model(folders(name, **options), kind=kind, device="cpu"))
    calls = []
    call = type(generator.pipeline).__call__

    def counted(self, **arguments):
        calls.append(arguments)
        return call(self, **arguments)

    monkeypatch.setattr(type(generator.pipeline), "__call__", counted)
    sampling = dataclasses.replace(ASKED, size=size, guidance=3.0, negative="away")
    settings = generator.settings(sampling)
    images = [start(i, size) for i in range(3)] if generator.wants_image else None
    prompts = [PROMPT, "the target", "away"]
    ticks = []
    together = generator.batch(
        settings, [5, 6, 5], images, prompts, lambda *tick: ticks.append(tick)
    )
    assert len(calls) == (1 if generators.LISTS else 3)
    assert ticks[-1] == ((2, 2) if generators.LISTS else (6, 6))
    assert len(together) == 3
    for i, video in enumerate(together):
        image = None if images is None else images[i]
        alone = generator({**settings, "prompt": prompts[i]}, [5, 6, 5][i], image)
        assert video.shape == alone.shape == (9, *size, 3)
        assert np.abs(video.astype(int) - alone).max() <= 1
        assert alone.std() > 1
    # Pictures, words and noise are each a row's own.
    assert np.abs(together[0].astype(int) - together[1]).max() > 1
    assert np.abs(together[0].astype(int) - together[2]).max() > 1


def test_a_model_has_the_frames_that_it_was_trained_on(folders):
    """The call's own default is 49 frames, whatever the model."""
    generator = Generator(Model(folders("cogvideox"), device="cpu"))
    asked = dataclasses.replace(ASKED, frames=None)
    assert generator.settings(asked)["num_frames"] == 9
    generator = Generator(Model(folders("ltx"), device="cpu"))
    assert generator.settings(asked)["num_frames"] == 161


def test_a_batch_without_prompts_of_its_own_has_that_of_the_settings(folders):
    generator = Generator(Model(folders("cogvideox"), device="cpu"))
    settings = generator.settings(ASKED)
    one, two = generator.batch(settings, [1, 2], [start(0), start(1)])
    for video, seed in ((one, 1), (two, 2)):
        alone = generator(settings, seed, start(seed - 1))
        assert np.abs(video.astype(int) - alone).max() <= 1
    with pytest.raises(ValueError, match="images: expected one for each of 2 seeds"):
        generator.batch(settings, [1, 2], [start()])
    with pytest.raises(ValueError, match="prompts: expected one for each of 1 seeds"):
        generator.batch(settings, [1], [start()], ["a", "b"])
    with pytest.raises(ValueError, match="continues a picture"):
        generator.batch(settings, [1, 2])
    with pytest.raises(ValueError, match="another aspect"):
        generator.batch(settings, [1, 2], [start(), start(size=(32, 32))])


# Generators that come with the package


def test_embedded_generators_are_found_by_name(folders, tmp_path, monkeypatch):
    folder = folders("cogvideox")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "tiny").symlink_to(folder, target_is_directory=True)
    monkeypatch.setattr(files.resources, "files", lambda _: tmp_path)
    found = find_pipeline("embedded:tiny", None)
    assert found.source == "embedded:tiny"
    assert found.revision == find_pipeline(folder, None).revision
    assert Generator(Model("embedded:tiny", device="cpu")).name.startswith("CogVideoX")
    with pytest.raises(ValueError, match=r"no embedded generator 'big'.*\['tiny'\]"):
        find_pipeline("embedded:big", None)
    with pytest.raises(ValueError, match="is a local folder, which has none"):
        find_pipeline("embedded:tiny", "main")


# An episode's own goals


@pytest.fixture
def asked(folders, tmp_path):
    """Goals of the small random pipeline, kept in a folder of the test's own."""
    return GeneratedGoals(
        folders("cogvideox"), PROMPT, steps=2, frames=9, device="cpu",
        cache=str(tmp_path / "cache"),
    )  # fmt: skip


def wrapped(asked, env=None, cls=VideoLevelReward, **options):
    return cls(
        PointMass(SIZE) if env is None else env,
        asked,
        **{"encoder": "pixels", "horizon": H, **options},
    )


H = 16


def play(env, seed, steps=H):
    """The rewards of an episode, and the info of its reset."""
    _, info = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    return [env.step(rng.uniform(-1, 1, 2))[1] for _ in range(steps)], info


def video_by_hand(folder, frame, i=0, seed=0):
    """What the library makes of a frame, called as its documentation says."""
    import diffusers
    import torch
    from PIL import Image

    pipeline = diffusers.CogVideoXImageToVideoPipeline.from_pretrained(folder)
    made = pipeline(
        image=Image.fromarray(frame),
        prompt=PROMPT,
        num_frames=9,
        num_inference_steps=2,
        max_sequence_length=video_pipelines.LENGTH,
        generator=torch.Generator().manual_seed(
            noise_seed(frame_digest(frame), seed, i)
        ),
    )
    return np.stack([np.asarray(picture) for picture in made.frames[0]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score": "centred", "goals": "mean"},
        {"score": "motion", "payment": "difference", "goals": "max"},
        {"reading": "stream", "payment": "hold", "length": 9},
        {"reading": "window", "window": 8, "length": 4, "stride": 4},
    ],
    ids=str,
)
def test_rewards_are_those_of_a_bundle_with_that_very_video(options, asked, folders):
    asked = dataclasses.replace(asked, videos=2)
    rewards, _ = play(wrapped(asked, **options), 3)
    frame = start(3)
    videos = [video_by_hand(asked.generator, frame, i) for i in range(2)]
    assert np.abs(videos[0].astype(int) - videos[1]).max() > 1
    # What was kept is the two that were made together, rounded otherwise if at all.
    maker = asked.maker()
    (made,) = maker(frame[None])
    assert made.cached
    assert np.abs(made.videos.astype(int) - np.stack(videos)).max() <= 1
    for kept in (made.videos, np.stack(videos)):
        expected, info = play(wrapped(GoalBundle(kept), **options), 3)
        assert "goal_seconds" not in info
        tolerance = 0 if kept is made.videos else 2e-3
        np.testing.assert_allclose(rewards, expected, rtol=0, atol=tolerance)
    assert np.ptp(rewards) > 1e-3


def test_a_kept_goal_gives_the_same_rewards_to_the_last_bit(asked, monkeypatch):
    first, info = play(wrapped(asked), 3)
    assert not info["goal_cached"]
    assert info["goal_seconds"] > 0
    monkeypatch.setattr(Generator, "_load", forbidden)
    again, info = play(wrapped(asked), 3)
    assert again == first
    assert info["goal_cached"]
    assert info["goal_seconds"] > 0


def forbidden(*_, **__):
    raise AssertionError("nothing had to be made")


@pytest.mark.slow
def test_other_frames_and_settings_make_other_goals(asked):
    def goal(frame=3, **changes):
        (made,) = dataclasses.replace(asked, **changes).maker()(start(frame)[None])
        return made

    first = goal()
    assert not first.cached
    assert goal().cached
    for changes in ({"frame": 4}, {"steps": 3}, {"seed": 1}, {"prompt": "away"}):
        made = goal(**changes)
        assert not made.cached
        assert not np.array_equal(made.videos, first.videos)
    by_hand = video_by_hand(asked.generator, start(3), seed=1)
    assert np.abs(goal(seed=1).videos[0].astype(int) - by_hand).max() <= 1
    # Neither has taken the place of the first.
    assert goal().cached
    np.testing.assert_array_equal(goal().videos, first.videos)
    # More videos of a frame keep those that are there.
    two = goal(videos=2)
    assert not two.cached
    np.testing.assert_array_equal(two.videos[0], first.videos[0])
    assert not np.array_equal(two.videos[1], first.videos[0])


@pytest.mark.slow
def test_a_batch_of_resets_is_its_resets_one_by_one(asked, tmp_path):
    frames = np.stack([start(i) for i in (1, 2, 1, 3)])
    together = asked.maker()(frames)
    assert [made.cached for made in together] == [False, False, True, False]
    alone = dataclasses.replace(asked, cache=str(tmp_path / "other"), batch=1)
    for frame, made in zip(frames, together, strict=True):
        (single,) = alone.maker()(frame[None])
        assert made.videos.shape == (1, 9, *SIZE, 3)
        assert np.abs(made.videos.astype(int) - single.videos).max() <= 1
    np.testing.assert_array_equal(together[0].videos, together[2].videos)
    total = sum(made.seconds for made in together)
    assert together[2].seconds < total / 4


def test_frame_seed_and_number_each_have_a_noise_of_their_own():
    frames = [frame_digest(start(i)) for i in range(2)]
    seeds = {noise_seed(f, s, i) for f in frames for s in (0, 1) for i in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    # The same pixels in another shape are another picture.
    assert frame_digest(start(0).swapaxes(0, 1)) != frames[0]


def test_no_more_videos_are_made_at_once_than_was_said(asked, monkeypatch):
    sizes = []
    batch = Generator.batch

    def counted(self, settings, seeds, images):
        sizes.append(len(seeds))
        return batch(self, settings, seeds, images)

    monkeypatch.setattr(Generator, "batch", counted)
    maker = dataclasses.replace(asked, batch=2, cache="").maker()
    frames = np.stack([start(i) for i in (1, 2, 3)])
    assert len(maker(frames)) == 3
    assert sizes == [2, 1]
    # Without a cache they are made anew.
    assert maker.folder is None
    assert not any(made.cached for made in maker(frames))


def test_damaged_files_and_those_of_another_kind_are_made_again(asked, tmp_path):
    (first,) = asked.maker()(start(1)[None])
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    asked.maker()(start(2)[None])
    other = next(p for p in tmp_path.rglob("*.safetensors") if p != path)
    for bad in (whole[:300], whole[:-1] + b"x", other.read_bytes()):
        path.write_bytes(bad)
        (made,) = asked.maker()(start(1)[None])
        assert not made.cached
        np.testing.assert_array_equal(made.videos, first.videos)
        assert path.read_bytes() == whole


def test_what_another_process_kept_meanwhile_is_taken(asked, monkeypatch):
    """Two that make one video at once, rounded otherwise, go on with one of them."""
    batch = Generator.batch
    theirs = []

    def slow(self, settings, seeds, images):
        monkeypatch.setattr(Generator, "batch", batch)
        theirs.extend(asked.maker()(images[0][None]))
        return [video ^ 1 for video in batch(self, settings, seeds, images)]

    monkeypatch.setattr(Generator, "batch", slow)
    (ours,) = asked.maker()(start(1)[None])
    np.testing.assert_array_equal(ours.videos, theirs[0].videos)


def test_kept_goals_pack_into_a_bank(asked):
    maker = asked.maker()
    frames = np.stack([start(i) for i in range(3)])
    made = maker(frames)
    bank = pack_candidates([maker.folder], size=SIZE, length=9, encoder="pixels")
    assert bank.videos.shape == (3, 9, *SIZE, 3)
    packed = {video.tobytes() for video in bank.videos}
    assert packed == {one.videos[0].tobytes() for one in made}
    assert bank.prompt == PROMPT


# Rows that begin at different times


class Rolling(GoalMaker):
    """Goals without a generator: the first frame, rolled to one side or the other."""

    frames, frame_size, encoder = 5, SIZE, {}

    def __init__(self):
        self.batches = []

    def __call__(self, frames):
        self.batches.append(len(frames))
        return [
            Made(
                np.stack(
                    [[np.roll(frame, way * t, 1) for t in range(5)] for way in (2, -3)]
                ),
                0.5,
                bool(frame[0, 0, 0] % 2),
            )
            for frame in frames
        ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score": "last_change"},
        {"goals": "mean", "score": "centred", "payment": "difference"},
    ],
    ids=str,
)
def test_contracts(options):
    """Batching, restarts at different times, inactive rows, old memories."""
    model = VideoLevel(Rolling(), "pixels", horizon=40, **options)
    check_reward_model(model, size=SIZE, steps=40)


def random_frames(*shape):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (*shape, *SIZE, 3)).astype(np.uint8)


def scores(session, frames):
    """(steps, N) what frames (steps, N, H, W, 3) earn one after the other."""
    no = np.zeros(session.num_envs, bool)
    actions = np.zeros((session.num_envs, 1))
    return np.array(
        [session.score(actions, each, no, no)["video"].value for each in frames]
    )


def test_rows_keep_their_own_goals_when_others_begin():
    frames = random_frames(9, 2)
    session = Session([VideoLevel(Rolling(), "pixels", horizon=12)], 2)
    session.begin(frames[0])
    first = scores(session, frames[1:5])
    session.begin(frames[4], np.array([False, True]))
    found = np.concatenate([first, scores(session, frames[5:])])
    for row, begun, end in ((0, 0, 8), (1, 0, 4), (1, 4, 8)):
        (made,) = Rolling()(frames[[begun], row])
        bundle = GoalBundle(made.videos)
        alone = Session([VideoLevel(bundle, "pixels", horizon=12)], 1)
        alone.begin(frames[begun][[row]])
        expected = scores(alone, frames[begun + 1 : end + 1, [row]])[:, 0]
        np.testing.assert_allclose(found[begun:end, row], expected, rtol=1e-6)


def limited(steps):
    return gym.wrappers.TimeLimit(PointMass(SIZE, speed=0.02), steps)


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_the_vector_wrapper_is_the_single_ones_inside(mode):
    limits, count = (4, 6, 4), 15
    options = {"encoder": "pixels", "horizon": 6}
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (count, 3, 2)).astype(np.float32)
    maker = Rolling()
    inside = SyncVectorEnv(
        [
            lambda n=n: VideoLevelReward(limited(n), Rolling(), **options)
            for n in limits
        ],
        autoreset_mode=mode,
    )
    outside = vector.VideoLevelReward(
        SyncVectorEnv([lambda n=n: limited(n) for n in limits], autoreset_mode=mode),
        maker,
        **options,
    )
    streams = []
    for envs in (inside, outside):
        _, info = envs.reset(seed=7)
        begun, rewards = [np.ones(3, bool)], []
        assert info["goal_seconds"].min() >= 0.5
        ended = np.zeros(3, bool)
        for action in actions:
            if mode == AutoresetMode.DISABLED and ended.any():
                _, info = envs.reset(options={"reset_mask": ended.copy()})
                begun.append(ended)
            over = ended
            _, reward, terminated, truncated, info = envs.step(action)
            ended = terminated | truncated
            rewards.append(reward)
            # What the goals of the running episodes cost is in every step's info.
            assert info["_goal_cached"].all()
            assert info["goal_seconds"].min() >= 0.5
            if mode != AutoresetMode.DISABLED:
                begun.append(over if mode == AutoresetMode.NEXT_STEP else ended)
        streams.append((np.array(rewards), np.array(begun)))
    (one, begun), (two, also) = streams
    np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_array_equal(begun, also)
    assert np.ptp(one) > 1e-3
    # Rows that begin together are one batch.
    assert maker.batches == [int(rows.sum()) for rows in begun if rows.any()]
    assert maker.batches[:2] == [3, 2]


def test_sb3_says_what_goals_cost_in_reset_infos():
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv

    from genreward_wrappers.sb3 import VecVideoLevelReward

    maker = Rolling()
    venv = VecVideoLevelReward(
        DummyVecEnv([lambda: limited(3), lambda: limited(5)]),
        maker,
        encoder="pixels",
        horizon=5,
    )
    venv.seed(7)
    venv.reset()
    reset_infos = venv.unwrapped.reset_infos
    assert all(info["goal_seconds"] >= 0.5 for info in reset_infos)
    for info in reset_infos:
        info.clear()
    actions = np.full((2, 2), 0.5, np.float32)
    values = []
    for _ in range(4):
        _, reward, _, infos = venv.step(actions)
        assert all("goal_seconds" in info for info in infos)
        values.append(reward)
    begun = ["goal_seconds" in info for info in venv.unwrapped.reset_infos]
    assert begun == [True, False]
    assert maker.batches == [2, 1]
    for row, steps in ((0, 3), (1, 4)):
        single = VideoLevelReward(limited(5), Rolling(), encoder="pixels", horizon=5)
        single.reset(seed=7 + row)
        expected = [single.step(actions[row])[1] for _ in range(steps)]
        np.testing.assert_allclose(np.array(values)[:steps, row], expected, rtol=1e-6)


def test_a_restored_session_keeps_its_goals():
    frames = random_frames(9, 2)
    maker = Rolling()
    session = Session([VideoLevel(maker, "pixels", horizon=8)], 2)
    assert session.notes() == {}
    session.begin(frames[0], seed=0)
    scores(session, frames[1:2])
    kept = pickle.dumps(session.snapshot())
    expected = scores(session, frames[2:])
    session.begin(frames[5], np.array([True, False]))
    session.restore(pickle.loads(kept))
    np.testing.assert_array_equal(scores(session, frames[2:]), expected)
    other = Session([VideoLevel(maker, "pixels", horizon=8)], 2)
    other.restore(pickle.loads(kept))
    np.testing.assert_array_equal(scores(other, frames[2:]), expected)
    odd = frames[0, :, 0, 0, 0] % 2 == 1
    np.testing.assert_array_equal(other.notes()["goal_cached"], odd)
    assert maker.batches == [2, 1]


# The wrappers


@pytest.fixture
def _registered():
    gym.register(
        "test/own-v0",
        "genreward_wrappers.testing:PointMass",
        max_episode_steps=H,
        kwargs={"size": list(SIZE)},
    )
    yield
    del gym.registry["test/own-v0"]


@pytest.mark.usefixtures("_registered")
def test_specs_and_pickles_give_the_same_goals(asked):
    asked = dataclasses.replace(asked, size=SIZE, cache=Path(asked.cache))
    env = wrapped(asked, gym.make("test/own-v0"), horizon=None)
    expected, _ = play(env, 5)
    text = env.spec.to_json()
    remade = gym.make(EnvSpec.from_json(text))
    assert remade.spec == env.spec
    for copy in (remade, pickle.loads(pickle.dumps(env))):
        rewards, info = play(copy, 5)
        assert rewards == expected
        assert info["goal_cached"]
    goal = json.loads(text)["additional_wrappers"][-1]["kwargs"]["reward"]["goal"]
    assert goal == asked.as_mapping()
    assert GeneratedGoals.of(goal) == dataclasses.replace(asked, cache=goal["cache"])
    # What differs from the defaults.
    plain = GeneratedGoals(prompt="away", steps=3, cache=None)
    assert plain.as_mapping() == {"prompt": "away", "steps": 3}
    # A mapping does as well.
    assert play(wrapped(goal), 5)[0] == expected


def test_only_the_embedded_generator_takes_one_step_by_itself():
    assert GeneratedGoals().denoising() == 1
    assert GeneratedGoals(steps=8).denoising() == 8
    assert GeneratedGoals("models/mine").denoising() is None
    assert GeneratedGoals("models/mine", steps=4).denoising() == 4


def test_the_short_form_takes_what_comes_with_the_package(folders, monkeypatch):
    own = {"goal-generator-64": Path(folders("cogvideox"))}
    there = files.embedded_folders
    monkeypatch.setattr(
        files,
        "embedded_folders",
        lambda marker: own if marker == "model_index.json" else there(marker),
    )
    goals = GeneratedGoals.of("generated")
    assert goals == GeneratedGoals()
    known = load_goal("metaworld/reach")
    maker = goals.maker("metaworld/reach")
    assert repr(known.prompt) in repr(maker)
    assert maker.encoder == known.encoder
    assert repr("away") in repr(GeneratedGoals(prompt="away").maker("metaworld/reach"))
    with pytest.raises(ValueError, match="no embedded goal of None to take one from"):
        VideoLevelReward(PointMass(SIZE), "generated")
    with pytest.raises(ValueError, match="no embedded goal of 'toy/none' to take"):
        goals.maker("toy/none")
    # Without an embedded goal nobody knows the encoder.
    with pytest.raises(GoalError, match="names no encoder: give encoder="):
        wrapped(GeneratedGoals(prompt="away"), encoder=None)


def test_both_rewards_and_the_key_frames(asked, tmp_path):
    with pytest.warns(UserWarning, match="OwnGoals.* has no frame-level part"):
        wrapped(asked, cls=GenRewardWrapper)
    record = tmp_path / "record"
    env = wrapped(
        asked,
        PointMass(SIZE, horizon=H),
        cls=GenRewardWrapper,
        frame_weight=0,
        record=str(record),
    )
    rewards, info = play(env, 3)
    assert "goal_seconds" in info
    alone, _ = play(wrapped(asked), 3)
    dense, _ = play(PointMass(SIZE), 3)
    np.testing.assert_array_equal(rewards, alone)
    beside, _ = play(
        wrapped(asked, cls=GenRewardWrapper, frame_weight=0, env_weight=1), 3
    )
    np.testing.assert_allclose(beside, np.array(alone) + dense, rtol=1e-6)
    # No bundle holds the goals, so none is shown beside the recorded episodes.
    assert not (record / "goal.safetensors").exists()
    (path,) = record.glob("*.safetensors")
    assert "goal" not in Episode.load(path).info
    with pytest.raises(GoalError, match="the frame-level reward asks nets"):
        wrapped(asked, cls=FrameLevelReward)
    with pytest.raises(ValueError, match="every episode has goals of its own"):
        env.session.models[0].nearest(start())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, r'no prompt, .*GeneratedGoals\(prompt="..."\)'),
        ({"videos": 0}, "videos=0: expected a whole number, at least 1"),
        ({"batch": 1.5}, "batch=1.5: expected a whole number"),
        ({"seed": -1}, "seed=-1"),
        ({"prompt": ["a"]}, r"prompt=\['a'\]"),
        ({"steps": 0}, "steps=0: expected at least 1"),
        ({"frames": 10}, r"makes 4k \+ 1 frames, 9 or 13"),
        ({"more": {"eeta": 1}}, "takes no eeta"),
        ({"model": {"lorra": "x"}}, "model= has no 'lorra' .*'lora'.*it takes kind"),
        ({"model": {"device": "cpu"}}, "model= has no 'device'"),
        ({"promt": "x"}, "goal= has no 'promt' .did you mean 'prompt'.*it takes"),
        ({"generator": "./none"}, "no folder ./none"),
        ({"generator": "embedded:none"}, "no embedded generator 'none'; there are"),
        ({"dtype": "int8"}, "dtype must be"),
    ],
)
def test_what_is_refused(change, message, asked, monkeypatch):
    monkeypatch.setattr(Generator, "_load", forbidden)
    goal = {**asked.as_mapping(), **change}
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        wrapped(goal)


def test_generators_and_environments_that_do_not_fit(asked, folders):
    text = dataclasses.replace(asked, generator=folders("cogvideox", image=False))
    with pytest.raises(ValueError, match="a prompt alone: it cannot see an episode's"):
        wrapped(text)
    square = wrapped(asked, PointMass(size=48))
    with pytest.raises(ValueError, match="48x48 .*another aspect ratio than the 32x48"):
        square.reset(seed=0)
    with pytest.raises(ValueError, match="no pixels anywhere"):
        wrapped(asked, PointMass(SIZE, obs="state"))


def test_environments_of_one_process_share_the_generator(asked):
    one, two = asked.maker(), asked.maker()
    assert one._generator is two._generator
    other = dataclasses.replace(asked, dtype="bfloat16").maker()
    assert other._generator is not one._generator


# Short videos, and many of them


def test_clips_are_no_longer_than_the_goal(vae):
    """17 frames are 9 + 8, which is the grammar of CogVideoX."""
    rng = np.random.default_rng(0)
    short = GoalBundle(rng.integers(0, 256, (2, 17, 32, 32, 3)).astype(np.uint8))
    model = VideoLevel(short, vae, horizon=64, reading="stream")
    wanted = np.flatnonzero(model.reading.wants(np.arange(65)))
    assert wanted.tolist() == list(range(0, 65, 4))
    whole = vae.encode_clips(short.videos).flatten(2)
    np.testing.assert_array_equal(model.targets.latents[0], whole)
    # One of fewer frames than the first chunk has to stand still in between.
    tiny = GoalBundle(short.videos[:, :5])
    model = VideoLevel(tiny, vae, horizon=64, reading="stream")
    assert model.reading.wants(np.arange(65)).sum() == 65


def test_a_bank_of_many_goals_is_followed_by_its_nearest():
    """Features once for all wrappers; an episode's memory does not grow with them."""
    count = 200
    videos = np.full((count, 17, 32, 32, 3), 90, np.uint8)
    for k, video in enumerate(videos):
        row, column = divmod(k, 20)
        for t, frame in enumerate(video):
            # A target that stands somewhere, and a thing that goes there.
            frame[3 * row : 3 * row + 3, column : column + 3] = (250, 40, 40)
            frame[31 - t * (30 - 3 * row) // 16, column + 1] = (20, 250, 20)
    bank = GoalBundle(videos)
    model = VideoLevel(bank, "pixels", horizon=16)
    again = VideoLevel(bank, "pixels", horizon=16, score="motion")
    assert again._read is model._read
    chosen = np.array([0, 7, 131, 199])
    session = Session([model], len(chosen))
    session.begin(videos[chosen, 0])
    (memory,) = session.snapshot().memories
    np.testing.assert_array_equal(model.chosen(memory), chosen)
    few = Session([VideoLevel(GoalBundle(videos[:2]), "pixels", horizon=16)], 4)
    few.begin(videos[chosen, 0])
    sizes = [len(pickle.dumps(s.snapshot().memories)) for s in (session, few)]
    assert sizes[0] == sizes[1]
    found = scores(session, videos[chosen, 1:].swapaxes(0, 1))
    np.testing.assert_allclose(found, 1, atol=1e-5)


def test_the_evaluator_knows_them_by_name(asked):
    from genreward_wrappers.evaluate.judge.judged_rewards import Maker
    from genreward_wrappers.evaluate.learn.runs import Run

    # The bundle gives the prompt; its videos are not looked at.
    still = np.repeat(start(0)[None, None], 9, 1)
    still[:, 1:, :4] = 200
    bundle = GoalBundle(still, prompt=PROMPT, encoder={"source": "pixels"})
    spec = f"generated:generator='{asked.generator}',steps=2,cache='{asked.cache}'"
    (made,) = Maker(bundle, H, H + 1, device="cpu").make(f"{spec},score=motion")
    ((model, weight),) = made.parts
    assert weight == 1
    own = VideoLevel(asked.maker(), "pixels", horizon=H, score="motion")
    session, expected = Session([model], 1), Session([own], 1)
    env, no = PointMass(SIZE), np.zeros(1, bool)
    frame, _ = env.reset(seed=1)
    for one in (session, expected):
        one.begin(frame[None])
    for _ in range(H):
        action = env.action_space.sample()
        frame, *_ = env.step(action)
        scores = [
            one.score(action[None], frame[None], no, no)["video"].value
            for one in (session, expected)
        ]
        np.testing.assert_array_equal(*scores)
    with pytest.raises(ValueError, match="no option 'step' .*expected one of"):
        Maker(bundle, H, H + 1).make("generated:step=2")
    # A run belongs to what makes its goals, not to the bundle alone.
    names = {
        Run("metaworld/reach", f"{spec.replace('steps=2', f'steps={n}')}", 0).name
        for n in (2, 3)
    }
    assert len({name[-8:] for name in names}) == 2
