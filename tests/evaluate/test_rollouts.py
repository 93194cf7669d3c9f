"""Test episodes of known worth: their kinds, their seeds, and the cache."""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers import load_goal
from genreward_wrappers.evaluate.episodes import rollouts
from genreward_wrappers.evaluate.episodes.rollouts import Job, record_rollouts
from genreward_wrappers.evaluate.judge import run
from tests.evaluate.shared import (
    COUNTS,
    ENV,
    HORIZON,
    OPTIONS,
    STEPS,
    change,
    judge,
    of_kind,
    refuse,
    same,
)

pytest.importorskip("metaworld")
pytest.importorskip("scipy")


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
