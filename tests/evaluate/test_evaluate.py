"""Evaluation: test episodes of known worth, their scores, and what comes of them."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from genreward_wrappers import (
    GenRewardWrapper,
    GoalError,
    RewardModelWrapper,
    Score,
    VideoLevelReward,
    load_goal,
    load_reward,
)
from genreward_wrappers.cli.main import main
from genreward_wrappers.core import RewardModel
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.data.video_files import write_video
from genreward_wrappers.encoders import registry
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.stream import stream_push, stream_start
from genreward_wrappers.evaluate.episodes import altered as others
from genreward_wrappers.evaluate.episodes import rollouts
from genreward_wrappers.evaluate.episodes.altered import altered
from genreward_wrappers.evaluate.episodes.rollouts import Job, record_rollouts
from genreward_wrappers.evaluate.episodes.user_episodes import load_rollouts
from genreward_wrappers.evaluate.judge import run
from genreward_wrappers.evaluate.judge.comparisons import epic_distance
from genreward_wrappers.evaluate.judge.curves import ORDINARY
from genreward_wrappers.evaluate.judge.judged_rewards import REWARDS, Maker, parse
from genreward_wrappers.evaluate.page.limits import below
from genreward_wrappers.goal_pipeline.pack import pack
from genreward_wrappers.relabel.fold import score_episodes, wanted_steps
from genreward_wrappers.rewards.video_level import VideoLevel
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets

pytest.importorskip("metaworld")
pytest.importorskip("scipy")

ENV = "metaworld/pick-place"
HORIZON = 256
STEPS = sample_steps(9, HORIZON)
OPTIONS = {"size": 64}
COUNTS = {
    "success": 2,
    "near-miss": 1,
    "half-way": 1,
    "noisy": 1,
    "random": 1,
    "static": 1,
    "other-task": 2,
}
H = 40  # steps of an episode in the arena
EMBEDDED = "embedded:video-vae-64"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("rollouts")


@pytest.fixture(scope="module")
def recorded(cache):
    """One small set of test episodes, which the evaluations find in the cache."""
    return record_rollouts(ENV, STEPS, options=OPTIONS, counts=COUNTS, cache=cache)


def judge(cache, rewards, **kwargs):
    arguments = {"frames": 9, "device": "cpu", "resamples": 20, "counts": COUNTS}
    return run.evaluate(ENV, rewards, cache=cache, **{**arguments, **kwargs})


@pytest.fixture(scope="module")
def judged(cache, recorded):
    """The pixel reward alone."""
    return judge(cache, ["pixels"])


@pytest.fixture(scope="module")
def summed(cache, recorded):
    """The sum with the environment's own reward."""
    return judge(cache, ["genreward:env_weight=1"])


@pytest.fixture(scope="module")
def full(cache, recorded):
    """Everything that the command does by default, on fewer episodes and frames."""
    return judge(cache, ["genreward"])


def of_kind(episodes, kind):
    return [episode for episode in episodes if episode.info["kind"] == kind]


def scored(evaluation, name):
    return next(one for one in evaluation.scored if one.contestant.name == name)


def refuse(*args, **kwargs):
    """In the place of what must not be called; no command catches this."""
    raise AssertionError(f"called with {args} {kwargs}")


def same(one, two):
    """Whether two episodes hold the same."""
    return (
        all(
            np.array_equal(getattr(one, field), getattr(two, field))
            for field in ("frames", "frame_steps", "actions", "success")
        )
        and all(
            np.array_equal(one.rewards[name], two.rewards[name])
            for name in {*one.rewards, *two.rewards}
        )
        and (dict(one.info), one.terminated) == (dict(two.info), two.terminated)
    )


# Test episodes


def states(episode):
    """(T + 1, D) the states of an episode of pick-place, played again."""
    info = episode.info
    job = Job(info["env_id"], (), info["kind"], info["seed"], ())
    act = rollouts._policy(job, HORIZON)
    env = gym.make(job.env_id, obs="state")
    state, _ = env.reset(seed=job.seed)
    seen = [state]
    for step in range(1, HORIZON + 1):
        action = act(state, step)
        np.testing.assert_array_equal(action, episode.actions[step - 1])
        state, *_ = env.step(action)
        seen.append(state)
    env.close()
    return np.array(seen)


def way(places):
    """How far from its first place something gets."""
    return np.linalg.norm(places - places[0], axis=1).max()


def change(frames, other):
    return np.abs(frames.astype(int) - other).mean()


def test_kinds_and_counts(recorded):
    # One more of each other task is its goal.
    assert Counter(e.info["kind"] for e in recorded) == {**COUNTS, "other-task": 5}
    tasks = Counter(e.info["env_id"] for e in recorded)
    others = {f"metaworld/{name}": 2 for name in ("drawer-close", "button-press")}
    assert tasks == {ENV: 7, **others, "metaworld/push": 1}
    for episode in recorded:
        assert len(episode) == len(episode.rewards["env"]) == HORIZON
        assert episode.frame_steps.tolist() == list(STEPS)
        assert episode.frames.shape == (9, 64, 64, 3)
        assert not episode.terminated
    assert len({e.info["group"] for e in recorded}) == len(recorded)


def test_episodes_are_what_their_kind_says(recorded):
    expected = {"success": True, "other-task": True}
    expected |= dict.fromkeys(("near-miss", "half-way", "random", "static"), False)
    for kind, succeeded in expected.items():
        assert {e.succeeded for e in of_kind(recorded, kind)} == {succeeded}, kind
    success = of_kind(recorded, "success")[0]
    assert success.rewards["env"][-1] > 5, "the environment pays some ten when done"


def test_a_near_miss_goes_there_and_touches_nothing(recorded):
    (missed,) = map(states, of_kind(recorded, "near-miss"))
    hand, thing = missed[:, :3], missed[:, 4:7]
    assert way(thing) < 0.01
    # Above the object: a hand that stayed away would be no near-miss.
    beside = np.linalg.norm((hand - thing)[:, :2], axis=1)
    assert beside.min() < 0.03
    assert (hand - thing)[beside.argmin(), 2] > 0.1
    for success in map(states, of_kind(recorded, "success")):
        assert way(success[:, 4:7]) > 0.05


def test_half_way_stops_and_stands_still(recorded):
    (episode,) = of_kind(recorded, "half-way")
    seen = states(episode)
    assert way(seen[:, :3]) > 0.05
    assert way(seen[-60:, :3]) < 1e-3
    assert change(episode.frames[-1], episode.frames[-2]) < 0.5
    assert change(episode.frames[0], episode.frames[-1]) > 1
    moved = np.flatnonzero(np.abs(episode.actions[:, :3]).any(1))
    job = Job(ENV, (), "half-way", episode.info["seed"], ())
    share = (moved[-1] + 1) / rollouts._way_to_success(job, HORIZON)
    assert 0.35 < share < 0.65


def test_static_and_random(recorded):
    (static,) = of_kind(recorded, "static")
    # The arm sinks a little under its own weight before it stands.
    assert change(static.frames[1], static.frames[0]) < 3
    assert max(change(frame, static.frames[1]) for frame in static.frames[1:]) < 1
    assert way(states(static)[:, :3]) < 0.01
    (random,) = of_kind(recorded, "random")
    assert max(change(frame, random.frames[1]) for frame in random.frames[1:]) > 3
    assert way(states(random)[:, :3]) > 0.05
    # The noise goes on for a while.
    before, after = random.actions[:-1, 0], random.actions[1:, 0]
    assert np.corrcoef(before, after)[0, 1] > 0.5


def test_kinds_share_no_seeds(recorded):
    seeds = {kind: {e.info["seed"] for e in of_kind(recorded, kind)} for kind in COUNTS}
    assert all(seed in rollouts.SEEDS for found in seeds.values() for seed in found)
    assert len(set.union(*seeds.values())) == sum(map(len, seeds.values()))


# Who chooses the episodes, and the cache, on a game that is cheap to play


def toy(job, succeeded):
    """An episode that holds what it was asked for."""
    rng = np.random.default_rng(job.seed)
    return Episode(
        frames=rng.integers(0, 256, (len(job.frame_steps), 16, 16, 3)).astype(np.uint8),
        frame_steps=np.array(job.frame_steps),
        actions=rng.normal(size=(HORIZON, 4)).astype(np.float32),
        success=np.full(HORIZON, succeeded),
        rewards={"env": rng.normal(size=HORIZON).astype(np.float32)},
        info={"env_id": job.env_id, "kind": job.kind, "seed": job.seed, "group": ""},
    )


@pytest.fixture
def played(monkeypatch):
    """The jobs that were played; seeds in ``played.lost`` do not succeed."""

    class Played(list):
        lost = ()

    jobs = Played()

    def play(job):
        jobs.append(job)
        wins = job.kind in ("success", "other-task")
        return toy(job, wins and job.seed not in jobs.lost)

    monkeypatch.setattr(rollouts, "play", play)
    return jobs


def test_a_warm_cache_plays_nothing(recorded, cache, monkeypatch):
    monkeypatch.setattr(rollouts, "play", refuse)
    again = record_rollouts(ENV, STEPS, options=OPTIONS, counts=COUNTS, cache=cache)
    assert len(again) == len(recorded)
    assert all(map(same, again, recorded))


@pytest.mark.parametrize(
    "different",
    [
        {"frame_steps": (0, 128, 256)},
        {"options": {"size": 64, "camera": "corner"}},
        {"options": {}},
        {"env_id": "metaworld/push"},
        {"counts": {"static": 2}},
        {"counts": {"random": 1}},
    ],
    ids=str,
)
def test_another_job_is_another_file(different, played, tmp_path):
    asked = {"env_id": ENV, "frame_steps": (0, 256), "counts": {"static": 1}}
    asked |= {"options": OPTIONS, "cache": tmp_path}
    record_rollouts(**asked)
    record_rollouts(**asked)
    assert len(played) == 1
    record_rollouts(**asked | different)
    assert len(played) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_other_code_or_packages_are_another_file(played, tmp_path, monkeypatch):
    asked = {"counts": {"static": 1}, "cache": tmp_path}
    record_rollouts(ENV, (0, 256), **asked)
    makers = rollouts._makers.__wrapped__
    before = makers()
    assert before == rollouts._makers()
    with monkeypatch.context() as patch:
        patch.setattr(rollouts.importlib.metadata, "version", lambda name: "0")
        changed = {k for k, v in makers().items() if v != before[k]}
        # Simplified meshes are drawn where the package for them is installed.
        assert changed - {"fast-simplification"} == {"metaworld", "mujoco", "numpy"}
    source = tmp_path / "elsewhere" / "rollouts.py"
    source.parent.mkdir()
    with open(rollouts.__file__, "rb") as file:
        source.write_bytes(file.read() + b"\n")
    monkeypatch.setattr(rollouts, "__file__", str(source))
    assert makers()["code"] != before["code"]
    monkeypatch.setattr(rollouts, "_makers", makers)
    record_rollouts(ENV, (0, 256), **asked)
    assert len(played) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"something else",
        lambda data: data[: len(data) // 2],
        # Inside the packed frames, which are the end of the file.
        lambda data: data[:-900] + bytes(100) + data[-800:],
    ],
    ids=["empty", "other", "cut", "overwritten"],
)
def test_a_damaged_file_is_made_again(damage, played, tmp_path):
    asked = {"counts": {"static": 1}, "cache": tmp_path}
    (first,) = record_rollouts(ENV, (0, 256), **asked)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes(damage(data))
    (again,) = record_rollouts(ENV, (0, 256), **asked)
    assert len(played) == 2
    assert same(first, again)
    assert path.read_bytes() == data


def test_the_first_seeds_that_turn_out_as_wanted(played):
    first = rollouts._seed("success", 0)
    played.lost = {first, first + 1, first + 5}
    episodes = record_rollouts(ENV, (0, 256), counts={"success": 4})
    assert [e.info["seed"] - first for e in episodes] == [2, 3, 4, 6]
    assert all(e.succeeded for e in episodes)


def test_patience_ends(played):
    played.lost = rollouts.SEEDS
    assert record_rollouts(ENV, (0, 256), counts={"success": 2}) == []
    assert len(played) == 2 * rollouts.PATIENCE


def test_other_tasks_never_hold_the_task_itself(played):
    for env_id in (ENV, "metaworld/push"):
        episodes = record_rollouts(env_id, (0, 256), counts={"other-task": 6})
        tasks = Counter(e.info["env_id"] for e in episodes)
        assert env_id not in tasks
        assert list(tasks.values()) == [3, 3, 3]


def test_ticks(played):
    ticks = []
    counts = {"success": 2, "static": 1, "other-task": 4}
    record_rollouts(
        ENV, (0, 9), counts=counts, on_progress=lambda *at: ticks.append(at)
    )
    assert ticks == [(i, 10) for i in range(1, 11)]


def test_processes_make_no_difference():
    one, two = (
        record_rollouts(ENV, (0, 256), counts={"static": 2}, processes=processes)
        for processes in (1, 2)
    )
    assert len(one) == 2
    assert all(map(same, one, two))
    assert not same(*one)


def test_rollouts_of_nothing_known():
    with pytest.raises(ValueError, match=r"\['dance'\].*'near-miss'"):
        record_rollouts(ENV, STEPS, counts={"dance": 1})
    for env_id in ("CartPole-v1", "metaworld/nothing", "pick-place"):
        with pytest.raises(ValueError, match=rf"'{env_id}'.*--rollouts FOLDER"):
            record_rollouts(env_id, STEPS)


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tmp_path in rollouts.default_cache().parents
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tmp_path / "home" / ".cache" in rollouts.default_cache().parents


# Altered episodes


def test_altered_kinds_and_groups(recorded):
    before = [episode.frames.copy() for episode in recorded]
    changed = altered(recorded)
    sources = of_kind(recorded, "success")
    assert [e.info["kind"] for e in changed] == [*others.ALTERED] * len(sources)
    for source, three in zip(
        sources, zip(*[iter(changed)] * 3, strict=True), strict=True
    ):
        for episode in three:
            assert episode.info["group"] == source.info["group"]
            assert source.info["kind"] == "success"
            assert episode.frames.shape == source.frames.shape
    assert all(map(np.array_equal, before, (e.frames for e in recorded)))


def test_reversed_is_backwards(recorded):
    sources = of_kind(recorded, "success")
    backwards = of_kind(altered(sources), "reversed")
    for source, episode in zip(sources, backwards, strict=True):
        np.testing.assert_array_equal(episode.frames, source.frames[::-1])
        assert episode.frame_steps.tolist() == [HORIZON - s for s in STEPS[::-1]]
        assert episode.rewards == {}
        assert not episode.succeeded
        assert len(episode) == HORIZON


def test_shifted_moves_every_frame_alike(recorded):
    sources = of_kind(recorded, "success")
    moves = []
    shifted = of_kind(altered(sources), "shifted")
    for source, episode in zip(sources, shifted, strict=True):
        found = [
            (down, right)
            for down in range(-4, 5)
            for right in range(-4, 5)
            if np.array_equal(
                np.roll(source.frames, (down, right), (1, 2))[:, 4:-4, 4:-4],
                episode.frames[:, 4:-4, 4:-4],
            )
        ]
        ((down, right),) = found
        assert (down, right) != (0, 0)
        moves.append((down, right))
        # The edge is drawn out; nothing comes in again from the other side.
        wide = np.pad(source.frames, ((0, 0), (4, 4), (4, 4), (0, 0)), "edge")
        expected = wide[:, 4 - down : 68 - down, 4 - right : 68 - right]
        np.testing.assert_array_equal(episode.frames, expected)
        assert episode.succeeded
        np.testing.assert_array_equal(episode.rewards["env"], source.rewards["env"])
        np.testing.assert_array_equal(episode.frame_steps, source.frame_steps)
    assert len(set(moves)) == len(moves)


def test_shifts_reach_a_sixteenth_and_no_farther():
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    frames[0, 32, 32] = 255
    moves = [
        np.argwhere(others._shift(frames, np.random.default_rng(seed))[0, ..., 0])[0]
        - 32
        for seed in range(300)
    ]
    assert np.min(moves) == -4
    assert np.max(moves) == 4
    assert np.abs(moves).sum(1).min() > 0


def test_brightness_is_one_factor():
    frames = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    factors = []
    for seed in range(40):
        changed = others._brighten(frames, np.random.default_rng(seed))
        unclipped = changed < 255
        factor = changed[unclipped].sum() / frames[unclipped].sum()
        assert np.abs(changed - np.clip(frames * factor, 0, 255)).max() < 2
        factors.append(factor)
    factors = np.array(factors)
    assert (((factors > 0.49) & (factors < 0.8)) | (factors > 1.13)).all()
    assert factors.max() < 1.3
    assert 5 < (factors < 1).sum() < 35


# Seeds


@pytest.mark.parametrize(
    ("seeds", "raises"),
    [
        ([2_000_000, 2_000_003], True),
        ([1_999_990, 2_000_000], True),
        ([2_999_999, 3_000_000], True),
        ([0, 5_000_000], True),
        ([1_000_000, 1_999_999], False),
        ([3_000_000, 3_000_010], False),
    ],
)
@pytest.mark.parametrize("where", ["goal", "encoder"])
def test_test_seeds_made_nothing(goal, seeds, raises, where):
    steps = ({"step": "pack"}, {"step": "train", "seeds": seeds})
    arguments = (goal.with_(provenance=steps), [])
    if where == "encoder":
        arguments = (goal, steps)
    if not raises:
        rollouts.check_seeds(*arguments)
        return
    low, high = seeds
    said = rf"'train' used the seeds {low} to {high}.* 2000000 to 2999999"
    with pytest.raises(ValueError, match=said):
        rollouts.check_seeds(*arguments)


def test_the_embedded_goal_and_its_encoder_saw_no_test_seeds(cache):
    goal = load_goal(ENV)
    training = run.training_of(goal)
    assert [step["seeds"][0] for step in training] == [4_000_000]
    assert any("seeds" in step for step in goal.provenance)
    rollouts.check_seeds(goal, training)
    # Likewise of generated goals, whose first frames had seeds.
    drawn = {"step": "generate", "candidates": [{"start_seed": 2_000_003}]}
    with pytest.raises(ValueError, match="'generate' used the seeds 2000003 to"):
        rollouts.check_seeds(goal.with_(provenance=(drawn,)), ())
    # And `evaluate` asks.
    seen = {"step": "record", "seeds": [2_000_000, 2_000_001]}
    with pytest.raises(ValueError, match="must not be judged on what made it"):
        judge(cache, ["pixels"], goal=goal.with_(provenance=(seen,)))


# Scores


class Ends(RewardModel[None]):
    """Pays for what is easily lost: how an episode ends, the action, the last frame."""

    name = "ends"

    def reset(self, memory, frames, mask, seeds):
        return None

    def step(self, memory, t):
        value = t.actions.sum(1) + t.terminated + 2 * t.truncated + t.steps
        value = value + (t.next_frames.mean((1, 2, 3)) - t.frames.mean((1, 2, 3)))
        return Score(value.astype(np.float32), t.active), None


def with_nets(goal, **more):
    """The goal with untrained nets over pooled pixels."""
    torch.manual_seed(0)
    nets, config = FBNets(FBConfig(features=192, actions=2, z=8, hidden=16)).to_arrays()
    return goal.with_(
        encoder=encoder_card(PooledPixels((32, 32), device="cpu")),
        nets=nets,
        nets_config={**config, **more},
    )


def arena(wrap, tmp_path, **kwargs):
    """The episodes 0, 1 and 8 as a wrapper recorded them; two of them end early."""
    env = wrap(PointMass(size=32, horizon=H), record=tmp_path, **kwargs)
    rng = np.random.default_rng(3)
    paid = []
    for number in range(9):
        places = {"position": [-0.9, 0.1 * number], "target": [0.5, 0.5]}
        env.reset(seed=number, options=places)
        done, rewards = False, []
        while not done:
            away = env.unwrapped.target - env.unwrapped.position
            action = rng.uniform(-1, 1, 2).astype(np.float32)
            if number in (0, 8):
                action = (10 * away / (2 + number / 4)).clip(-1, 1).astype(np.float32)
            _, reward, terminated, truncated, _ = env.step(action)
            rewards.append(reward)
            done = terminated or truncated
        if number in (0, 1, 8):
            paid.append(rewards)
    episodes = [Episode.load(path) for path in sorted(tmp_path.glob("episode-*"))]
    assert [e.info["episode"] for e in episodes] == [0, 1, 8]
    assert [e.terminated for e in episodes] == [True, False, True]
    assert len({len(e) for e in episodes}) == 3
    return episodes, paid


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


# The encoder that remembers


class Counting(PooledPixels):
    """Knows how many frames it was given."""

    count = 0

    def encode_images(self, frames):
        self.count += len(frames)
        return super().encode_images(frames)


def test_memo_encodes_nothing_twice():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    plain = PooledPixels((32, 32), 8, device="cpu")
    encoder = Counting((32, 32), 8, device="cpu")
    memo = Memo(encoder)
    batch = frames[[0, 1, 0, 2, 1]]
    assert torch.equal(memo.encode_images(batch), plain.encode_images(batch))
    assert (encoder.count, len(memo)) == (3, 3)
    assert torch.equal(
        memo.encode_images(batch[::-1]), plain.encode_images(batch[::-1])
    )
    assert encoder.count == 3
    tensor = torch.from_numpy(frames)
    assert torch.equal(memo.encode_images(tensor), plain.encode_images(frames))
    assert (encoder.count, len(memo)) == (6, 6)
    # One pixel is enough to be another frame.
    frames[3, 31, 31, 2] ^= 1
    assert torch.equal(memo.encode_images(frames), plain.encode_images(frames))
    assert encoder.count == 7


def test_memo_is_otherwise_the_encoder(vae):
    memo = Memo(vae)
    for name in ("control", "grammar", "size", "device", "dtype", "latent_shape"):
        assert getattr(memo, name) == getattr(vae, name)
    assert memo.fingerprint == vae.fingerprint
    assert memo.source == vae.source
    assert Memo(PooledPixels((32, 32))).control
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, 17, 32, 32, 3)).astype(np.uint8)
    assert torch.equal(memo.encode_clips(clips), vae.encode_clips(clips))
    outcomes = []
    for encoder in (memo, vae):
        state, latents = stream_start(encoder, 2), []
        for t in range(17):
            state, emitted = stream_push(encoder, state, clips[:, t])
            latents += [part.latents for part in emitted]
        outcomes.append(torch.cat(latents, 1))
    assert torch.equal(*outcomes)
    assert torch.equal(memo.encode_images(clips[0]), vae.encode_images(clips[0]))
    assert len(memo) == 17


def test_the_random_encoder_is_a_control(monkeypatch):
    def load(spec):
        monkeypatch.setattr(registry, "_loaded", weakref.WeakValueDictionary())
        return load_encoder(spec, device="cpu")

    frames = load_goal(ENV).videos[0, ::4]
    torch.manual_seed(5)
    expected = torch.rand(3)
    trained = load(EMBEDDED)
    torch.manual_seed(5)
    one = load(f"random:{EMBEDDED}")
    assert torch.equal(torch.rand(3), expected), "it drew from everyone's numbers"
    two = load(f"random:{EMBEDDED}")
    assert one is not two
    assert one.control
    assert not trained.control
    assert one.source == f"random:{EMBEDDED}"
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint["sha256"] != trained.fingerprint["sha256"]
    latents = [encoder.encode_images(frames) for encoder in (one, two, trained)]
    assert torch.equal(latents[0], latents[1])
    assert latents[0].shape == latents[2].shape
    assert not torch.allclose(latents[0], latents[2], atol=0.1)
    assert latents[0].std(0).max() > 1e-3, "it does see the frames"


def test_the_random_encoder_in_a_wrapper():
    goal = load_goal(ENV)
    small = goal.with_(videos=goal.videos[:1, ::4], key_frames=())
    env = VideoLevelReward(
        PointMass(size=64, horizon=8), small, encoder="random", horizon=8, device="cpu"
    )
    assert env.session.models[0].encoder.source == f"random:{EMBEDDED}"
    env.reset(seed=0)
    rewards = [env.step(np.ones(2, np.float32))[1] for _ in range(8)]
    assert len(set(rewards)) > 1
    assert np.isfinite(rewards).all()


# Contestants


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


@pytest.fixture(scope="module")
def small_goal():
    """The embedded goal, so short that encoding it takes no time."""
    goal = load_goal(ENV)
    return goal.with_(
        videos=goal.videos[:2, ::4], key_frames=(), nets={}, nets_config={}
    )


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


# All of it


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


def test_everything_by_default(full):
    names = [(one.contestant.name, one.contestant.role) for one in full.scored]
    assert names == [
        ("video", "reward"),
        ("frame", "reward"),
        ("genreward", "sum"),
        ("pixels", "control"),
        ("random", "control"),
        ("env", "reference"),
    ]
    for one in full.scored:
        judged = one.contestant.role in ("reward", "sum")
        assert (one.verdict is not None) == judged
    assert any("pixels" in line for line in scored(full, "video").verdict.findings)
    assert full.goal.env_id == ENV
    values = [scored(full, name).paid[0] for name in ("video", "pixels", "random")]
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


# Test episodes of one's own


@pytest.fixture
def videos(recorded, tmp_path):
    """A folder of videos, by kind."""
    for kind, folder in (("success", "success"), ("random", "failure")):
        (tmp_path / folder).mkdir()
        for i, episode in enumerate(of_kind(recorded, kind)):
            np.save(tmp_path / folder / f"{i}.npy", episode.frames)
    np.save(tmp_path / "failure" / "still.npy", of_kind(recorded, "static")[0].frames)
    return tmp_path


def test_a_folder_of_videos(videos, recorded):
    large = recorded[0].frames.repeat(2, 1).repeat(2, 2).repeat(3, 0)
    write_video(videos / "success" / "film.MP4", large)
    (videos / "success" / "notes.txt").write_text("no video")
    (videos / "README.md").write_text("no folder")
    episodes = load_rollouts(str(videos), frames=9, size=(64, 64))
    kinds = Counter((e.info["kind"], e.succeeded) for e in episodes)
    assert kinds == {("failure", False): 2, ("success", True): 3}
    assert len({e.info["group"] for e in episodes}) == 5
    for episode in episodes:
        assert episode.frames.shape == (9, 64, 64, 3)
        assert len(episode) == 8
        assert episode.rewards == {}
    arrays = [e for e in episodes if e.info["group"].endswith(".npy")]
    np.testing.assert_array_equal(arrays[-1].frames, recorded[1].frames)
    (film,) = (e for e in episodes if e.info["group"].endswith(".MP4"))
    # Video codecs lose a little.
    assert change(film.frames[[0, -1]], recorded[0].frames[[0, -1]]) < 8
    assert {len(e) for e in load_rollouts(str(videos), 17)[:2]} == {16}


def test_a_folder_of_videos_is_judged(videos):
    judged = judge(None, ["pixels"], rollouts=str(videos))
    assert judged.horizon == 8
    assert Counter(e.info["kind"] for e in judged.episodes) == {
        "success": 2,
        "failure": 2,
        **dict.fromkeys(others.ALTERED, 2),
    }
    pixels, env = judged.scored
    assert pixels.verdict is not None
    assert pixels.metrics["auc_mean"].value == 1
    assert all(np.isfinite(paid).all() for paid in pixels.paid)
    assert pixels.confusion is None
    assert env.metrics["auc_mean"].value is None
    assert all(np.isnan(paid).all() for paid in env.paid)


def test_a_video_is_a_goal(videos):
    goal = str(next(videos.glob("success/*.npy")))
    judged = judge(None, ["pixels"], goal=goal, rollouts=str(videos))
    # For the encoder that the rewards look through.
    assert judged.goal == pack([goal], env_id=ENV, encoder=None)
    assert judged.scored[0].metrics["auc_mean"].value == 1


def test_given_episodes_need_no_scripted_policy_and_no_goal(videos):
    judged = run.evaluate("CartPole-v1", ["env"], rollouts=str(videos), resamples=9)
    assert judged.goal is None
    assert [one.contestant.name for one in judged.scored] == ["env"]


def test_given_episodes_of_another_task(videos, recorded):
    (videos / "other-task").mkdir()
    for i, episode in enumerate(of_kind(recorded, "other-task")[:2]):
        np.save(videos / "other-task" / f"{i}.npy", episode.frames)
    judged = judge(None, ["pixels"], rollouts=str(videos))
    # Nobody said which task it is, so it cannot be a goal either.
    assert len(of_kind(judged.episodes, "other-task")) == 2
    assert judged.scored[0].confusion is None


def test_recorded_episodes_are_judged_as_they_were_paid(goal, tmp_path):
    wrap = partial(VideoLevelReward, goal=goal, encoder="pixels", horizon=H)
    episodes, _ = arena(wrap, tmp_path)
    assert (tmp_path / "goal.safetensors").is_file()
    judged = run.evaluate(
        "toy/square",
        ["pixels"],
        tmp_path / "goal.safetensors",
        rollouts=str(tmp_path),
        frames=H + 1,
        device="cpu",
        resamples=9,
    )
    kinds = [e.info["kind"] for e in judged.episodes]
    assert kinds == ["success", "failure", "success", *others.ALTERED * 2]
    for one, name in zip(judged.scored, ("video", "env"), strict=True):
        for paid, episode in zip(one.paid, episodes, strict=False):
            np.testing.assert_array_equal(paid, episode.rewards[name])


def test_sparse_episodes_that_end_early(goal, tmp_path):
    """Played backwards they would need frames that nobody kept."""
    wrap = partial(VideoLevelReward, goal=goal, encoder="pixels", horizon=H, length=9)
    episodes, _ = arena(wrap, tmp_path)
    assert episodes[0].frame_steps[-1] < len(episodes[0])
    judged = run.evaluate(
        "toy/square",
        ["pixels"],
        goal,
        rollouts=str(tmp_path),
        frames=9,
        device="cpu",
        resamples=9,
    )
    assert len(of_kind(judged.episodes, "shifted")) == 2
    for paid, episode in zip(judged.scored[0].paid, episodes, strict=False):
        np.testing.assert_array_equal(paid, episode.rewards["video"])


def test_recorded_kinds_are_kept(recorded, tmp_path):
    for i, episode in enumerate(recorded[:4]):
        episode.save(tmp_path / f"{i}.safetensors")
    again = load_rollouts(str(tmp_path))
    assert all(map(same, again, recorded[:4]))
    assert {e.info["kind"] for e in again} == {"success", "near-miss", "half-way"}


def save_videos(folder, frames=20, size=(64, 64)):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / "0.npy", rng.integers(0, 256, (frames, *size, 3)).astype(np.uint8))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, r"neither recorded episodes.*nor folders such as \"success\".*\.mp4"),
        ({"success": {}}, r"1 of its 1 episodes.*\['success'\].*give both"),
        (
            {"failure": {}, "static": {}},
            r"0 of its 2 episodes.*\['failure', 'static'\]",
        ),
        (
            {"success": {}, "fail": {}},
            r"'fail' is no kind.*failure, success, near-miss",
        ),
        ({"success": {}, "reversed": {}}, r"'reversed' is no kind"),
        ({"success": {"frames": 8}, "failure": {}}, r"0\.npy has 8 frames.*at least 9"),
        ({"success": {}, "failure": {"size": (32, 32)}}, r"0\.npy.*32x32.*enlarge"),
        ({"success": {}, "failure": {"size": (64, 96)}}, r"0\.npy.*64x96.*aspect"),
    ],
    ids=["empty", "won", "lost", "unknown", "derived", "short", "small", "wide"],
)
def test_folders_that_will_not_do(folders, message, tmp_path):
    for name, how in folders.items():
        save_videos(tmp_path / name, **how)
    with pytest.raises(ValueError, match=message):
        load_rollouts(str(tmp_path), 9, (64, 64))


def test_no_folder_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder.*minari:"):
        load_rollouts(str(tmp_path / "nowhere"))
    (tmp_path / "episode-0.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"episode-0\.safetensors is no safetensors"):
        load_rollouts(str(tmp_path))


def minari_buffer(target, with_reset, key="is_success"):
    """One episode in the arena, as minari's collector keeps it."""
    from minari.data_collector import EpisodeBuffer

    env = PointMass(size=64, horizon=12)
    places = {"position": [0, 0], "target": target}
    observation, _ = env.reset(seed=0, options=places)
    kept = {name: [] for name in ("actions", "rewards", "terminations", "truncations")}
    observations, flags = [observation], [False] if with_reset else []
    done = False
    while not done:
        action = np.array([1, 0], np.float32)
        observation, *rest, info = env.step(action)
        observations.append(observation)
        flags.append(info["is_success"])
        for part, value in zip(kept.values(), (action, *rest), strict=True):
            part.append(value)
        done = rest[1] or rest[2]
    return EpisodeBuffer(observations=observations, infos={key: flags}, **kept)


def minari_dataset(minari, name, buffers, space):
    minari.create_dataset_from_buffers(
        dataset_id=name,
        buffer=buffers,
        observation_space=space,
        action_space=gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
        algorithm_name="none",
        author="nobody",
        author_email="nobody",
        code_permalink="none",
        description="two episodes",
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari(small_goal, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    space = PointMass(size=64).observation_space
    for with_reset in (True, False):
        name = f"toy/point-v{int(with_reset)}"
        # Success ends an episode.
        targets = ([0.5, 0], [-0.8, 0])
        buffers = [minari_buffer(target, with_reset) for target in targets]
        minari_dataset(minari, name, buffers, space)
        won, lost = load_rollouts(f"minari:{name}")
        assert (won.info["kind"], lost.info["kind"]) == ("success", "failure")
        assert won.success.tolist() == [False, False, False, False, True][-len(won) :]
        assert won.terminated
        assert not lost.terminated
        assert len(lost) == 12
        for episode, buffer in zip((won, lost), buffers, strict=True):
            assert episode.frames.shape == (len(episode) + 1, 64, 64, 3)
            assert change(episode.frames, np.array(buffer.observations)) < 8
            np.testing.assert_allclose(episode.rewards["env"], buffer.rewards)
            np.testing.assert_array_equal(episode.actions, buffer.actions)
    judged = run.evaluate(
        "toy/point",
        ["pixels"],
        small_goal,
        rollouts="minari:toy/point-v1",
        frames=13,
        device="cpu",
        resamples=9,
    )
    assert judged.horizon == 12
    assert [len(p) for p in judged.scored[0].paid[:2]] == [len(won), 12]
    assert judged.scored[1].metrics["auc_mean"].value is not None
    silent = [minari_buffer(target, True, "luck") for target in targets]
    minari_dataset(minari, "toy/silent-v0", silent, space)
    with pytest.raises(ValueError, match=r'"success" or "is_success".*luck'):
        load_rollouts("minari:toy/silent-v0")
    with pytest.raises(OSError, match="none-v0"):
        load_rollouts("minari:toy/none-v0")
    blind = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    for buffer in buffers:
        buffer.observations[:] = [np.zeros(4, np.float32)] * len(buffer.observations)
    minari_dataset(minari, "toy/blind-v0", buffers, blind)
    with pytest.raises(ValueError, match=r"uint8 RGB pictures.*found 0.*float32"):
        load_rollouts("minari:toy/blind-v0")


# The command


@pytest.fixture
def command(cache, recorded, monkeypatch, tmp_path):
    """Runs the command on the small set; nothing may be played for it."""
    few = partial(run.evaluate, counts=COUNTS, resamples=20)
    monkeypatch.setattr(run, "evaluate", few)
    monkeypatch.setattr(rollouts, "play", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments, reward="pixels", env=ENV):
        common = ["--env", env, "--reward", reward, "--frames", "9", "--device", "cpu"]
        common += ["--processes", "1", "--cache", str(cache)]
        return main(["evaluate", *common, *arguments])

    return call


def strict_json(path):
    return json.loads(path.read_text(), parse_constant=refuse)


def test_command(command, tmp_path, capsys):
    assert command("--output", "made/here", "--fail-below", "auc=0.5") == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "made" / "here"
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.json",
    ]
    for path in folder.iterdir():
        assert str(path) in printed
    for word in ("auc_mean", "pixels", "env", "pixels: "):
        assert word in printed
    report = strict_json(folder / "report.json")
    assert {"title", "facts", "rewards", "episodes", "metrics", "verdicts"} <= set(
        report
    )
    assert [one["name"] for one in report["rewards"]] == ["pixels", "env"]
    assert len(report["episodes"]) == 15
    assert report["metrics"]["pixels"]["auc_mean"]["value"] == 1
    assert report["verdicts"][0]["headline"] in " ".join(printed.split())
    assert len(report["confusion"]["pixels"]["matrix"]) == 3
    assert not {"curves", "matrix"} & set(report["episodes"][0])
    page = (folder / "report.html").read_text()
    assert ENV in page
    assert report["verdicts"][0]["headline"] in page


def test_fail_below(command, capsys):
    limits = ["--fail-below", "auc=1.5", "--fail-below", "near_share=-9"]
    assert command(*limits, "--fail-below", "voc_spearman=7") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "pixels: auc_mean is 1.0, wanted 1.5" in printed
    assert "pixels: voc_spearman is" in printed
    assert "near_share is" not in printed
    # The environment's own reward is not under test.
    assert "env: auc_mean" not in printed


def test_undefined_is_below(judged):
    one = scored(judged, "pixels")
    unknown = replace(one.metrics["auc_mean"], value=None)
    figures = {**one.metrics, "auc_mean": unknown}
    holed = replace(judged, scored=[replace(one, metrics=figures)])
    assert below(holed, {"auc": 0.1}) == ["pixels: auc_mean is undefined, wanted 0.1"]
    assert below(judged, {"auc": 1.0}) == []


def test_a_reward_that_is_never_due(command, videos, capsys):
    """A window that is longer than an episode."""
    reward = "pixels:reading=window,window=30,length=2"
    limit = ["--fail-below", "auc=0", "--output", "out"]
    assert command("--rollouts", str(videos), *limit, reward=reward) == 1
    assert "auc_mean is undefined" in " ".join(capsys.readouterr().out.split())
    report = strict_json(videos / "out" / "report.json")
    assert report["metrics"][reward]["auc_mean"]["value"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-below", "nonsense=1"], "nonsense: there is no such figure"),
        (["--fail-below", "nonsense=1"], "auc_mean"),
        (["--fail-below", "auc=abc"], "'auc=abc': expected FIGURE=VALUE"),
        (["--fail-below", "auc"], "'auc': expected FIGURE=VALUE"),
        (["--frames", "1"], "--frames 1: expected at least 2"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--output", "taken"], "taken cannot be written to"),
        (["--output", "taken/below"], "taken/below cannot be written to"),
    ],
)
def test_bad_arguments_cost_nothing(
    arguments, message, command, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(run, "evaluate", refuse)
    (tmp_path / "taken").write_text("a file")
    assert command(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("genreward evaluate: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"reward": "vidoe"}, "there is no reward 'vidoe'"),
        ({"reward": "video:score=best"}, "score='best'"),
        ({"reward": "frame:form=best"}, "form='best'"),
        ({"reward": "pixels:length=1"}, "between 2 and 257"),
        ({"env": "CartPole-v1"}, "no embedded goal for 'CartPole-v1'"),
        ({"env": "CartPole-v1", "reward": "env"}, "--rollouts FOLDER"),
    ],
    ids=str,
)
def test_what_cannot_be_judged_is_one_line(how, message, command, capsys):
    assert command(**how) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_the_report_says_which_command_made_it(command, tmp_path):
    assert command("--output", "out") == 0
    report = strict_json(tmp_path / "out" / "report.json")
    said = report["facts"]["command"]
    assert said.startswith("genreward evaluate --env metaworld/pick-place ")


def test_an_environment_has_to_be_named(capsys):
    for arguments in (["evaluate"], ["evaluate", "--env"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "--env" in capsys.readouterr().err


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
