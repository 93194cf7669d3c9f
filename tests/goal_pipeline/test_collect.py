"""Collecting episodes: what is recorded, that it goes on, and what is refused."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers.cli.main import main
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.envs.policies import Wander, make_policy
from genreward_wrappers.goal_pipeline import collect as module
from genreward_wrappers.goal_pipeline.collect import FIRST_SEED, Job, collect
from genreward_wrappers.testing import PointMass

ENV = "test/point-mass"


@pytest.fixture(autouse=True, scope="module")
def _registered():
    gym.register(
        ENV, "genreward_wrappers.testing:PointMass", kwargs={"horizon": 6, "size": 16}
    )
    yield
    module._environment.cache_clear()
    del gym.registry[ENV]


def towards(env, seed):
    """A policy of one's own: straight to the target."""
    target = env.unwrapped

    def act(observation):
        return np.clip(target.target - target.position, -1, 1).astype(np.float32)

    return act


def still(env, seed):
    """A policy that hands out the same array over and over, as agents may."""
    action = np.zeros(2, np.float32)

    def act(observation):
        action[:] = (len(env.unwrapped.taken) + seed % 10) / 100
        return action

    return act


class Reuses(PointMass):
    """An environment that draws every frame into the same array."""

    canvas, taken = np.zeros((16, 16, 3), np.uint8), ()

    def render(self):
        self.canvas[:] = super().render()
        return self.canvas

    def step(self, action):
        self.taken = (*self.taken, action.copy())
        return super().step(action)


def same(one, other):
    for name in ("frames", "actions", "success", "states"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    return one.info == other.info


def test_every_step_is_recorded_as_it_was(tmp_path):
    paths = collect(ENV, tmp_path, episodes=3, options={"obs": "dict"})
    assert [path.name for path in paths] == [
        f"random-{FIRST_SEED + i}.safetensors" for i in range(3)
    ]
    for i, path in enumerate(paths):
        episode = Episode.load(path)
        assert episode.frame_steps.tolist() == list(range(len(episode) + 1))
        assert episode.info["policy"] == "random"
        assert episode.info["seed"] == FIRST_SEED + i
        # Played again by hand.
        env = PointMass(size=16, horizon=6, obs="dict")
        observation, _ = env.reset(seed=FIRST_SEED + i)
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(episode.frames[t], observation["pixels"])
            np.testing.assert_array_equal(episode.states[t], observation["state"])
            observation, reward, terminated, _, info = env.step(action)
            assert episode.rewards["env"][t] == np.float32(reward)
            assert episode.success[t] == info["is_success"]
        np.testing.assert_array_equal(episode.frames[-1], observation["pixels"])
        assert episode.terminated == terminated
    assert len({Episode.load(p).actions[0].tobytes() for p in paths}) == 3


def test_success_and_how_an_episode_ended_are_recorded(tmp_path):
    paths = collect(
        ENV,
        tmp_path,
        episodes=8,
        policy=f"{__name__}:towards",
        options={"speed": 0.2},
    )
    there = [Episode.load(path) for path in paths]
    for episode in there:
        # It ends where it succeeds, or after six steps.
        reached = episode.terminated
        assert episode.success.tolist() == [False] * (len(episode) - 1) + [reached]
        assert reached or len(episode) == 6
    assert {episode.terminated for episode in there} == {True, False}


def test_arrays_that_are_used_again_are_copied():
    gym.register("test/reuses", Reuses, kwargs={"size": 16, "horizon": 6})
    try:
        job = Job("test/reuses", (("obs", "pixels"),), f"{__name__}:still", 3, 6)
        episode = module.record(job)
    finally:
        module._environment.cache_clear()
        del gym.registry["test/reuses"]
    env = PointMass(size=16, horizon=6)
    np.testing.assert_array_equal(episode.frames[0], env.reset(seed=3)[0])
    # A policy of one's own is given the seed.
    expected = (np.arange(6) + 3) / 100
    np.testing.assert_allclose(episode.actions, np.stack([expected] * 2, 1))
    for action, frame in zip(episode.actions, episode.frames[1:], strict=True):
        np.testing.assert_array_equal(frame, env.step(action)[0])


def test_what_is_there_is_not_played_again_and_what_is_damaged_is(tmp_path):
    first = collect(ENV, tmp_path, episodes=2)
    kept = first[0].stat().st_mtime_ns
    whole = Episode.load(first[1])
    first[1].write_bytes(first[1].read_bytes()[:100])
    ticks = []
    again = collect(
        ENV,
        tmp_path,
        episodes=3,
        on_progress=lambda done, total: ticks.append((done, total)),
    )
    assert first == again[:2]
    assert first[0].stat().st_mtime_ns == kept
    assert same(whole, Episode.load(again[1]))
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    # Another policy's episodes may lie beside them, another size's may not.
    collect(ENV, tmp_path, episodes=1, policy=f"{__name__}:towards")
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    with pytest.raises(ValueError, match=r"options=\{\}.*these have \{'size': 8\}"):
        collect(ENV, tmp_path, episodes=1, options={"size": 8})
    gym.register("test/other", "genreward_wrappers.testing:PointMass")
    try:
        with pytest.raises(ValueError, match=f"env_id='{ENV}'.*have 'test/other'"):
            collect("test/other", tmp_path, episodes=1)
    finally:
        del gym.registry["test/other"]


def test_an_interrupted_collection_leaves_whole_files(tmp_path, monkeypatch):
    record, count = module.record, 0

    def interrupted(job):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return record(job)

    monkeypatch.setattr(module, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(ENV, tmp_path, episodes=4)
    assert len([Episode.load(p) for p in tmp_path.iterdir()]) == 2
    collect(ENV, tmp_path, episodes=4)
    assert count == 5, "two were there"


def test_processes_record_the_same(tmp_path):
    pytest.importorskip("metaworld")
    options = {"steps": 3, "episodes": 2, "policy": "noisy"}
    alone = collect("metaworld/reach", tmp_path / "a", **options)
    beside = collect("metaworld/reach", tmp_path / "b", processes=2, **options)
    for one, other in zip(alone, beside, strict=True):
        assert same(Episode.load(one), Episode.load(other))
    episode = Episode.load(alone[0])
    # Pictures and states, without being asked.
    assert episode.frames.shape == (4, 64, 64, 3)
    assert episode.states.shape == (4, 39)
    assert episode.info["options"] == {"obs": "dict"}


def test_scripted_policies_solve_the_task_and_noise_is_noise():
    pytest.importorskip("metaworld")
    env = gym.make("metaworld/drawer-close", obs="dict")
    observation, _ = env.reset(seed=0)
    script, noisy, again = (
        make_policy(name, env, "metaworld/drawer-close", 0)(observation)
        for name in ("scripted", "noisy", "noisy")
    )
    assert not np.array_equal(script, noisy)
    np.testing.assert_array_equal(noisy, again)
    act = make_policy("noisy", env, "metaworld/drawer-close", 1)
    assert not np.array_equal(noisy, act(observation))
    loud = np.array([act(observation) for _ in range(300)])
    assert np.abs(loud).max() == 1
    env.close()
    wander = Wander(np.random.default_rng(0), 3)
    walk = np.array([wander() for _ in range(5000)])
    assert walk[100:].std() == pytest.approx(1, abs=0.1)
    neighbours = np.corrcoef(walk[100:-1, 0], walk[101:, 0])[0, 1]
    assert neighbours == pytest.approx(0.9, abs=0.03)


def test_random_actions_fill_a_space_of_any_bounds():
    env = gym.make(ENV)
    env.action_space = gym.spaces.Box(
        np.array([-3, 10], np.float32), np.array([1, 12], np.float32)
    )
    act = make_policy("random", env, ENV, 0)
    actions = np.array([act(None) for _ in range(500)])
    assert all(env.action_space.contains(a) for a in actions)
    assert (actions.min(0) == [-3, 10]).all()
    assert (actions.max(0) == [1, 12]).all()
    env.action_space = gym.spaces.Discrete(3)
    drawn = [int(make_policy("random", env, ENV, s)(None)) for s in range(30)]
    assert set(drawn) == {0, 1, 2}


def test_few_frames_are_those_of_an_episode_with_all_of_them(tmp_path):
    whole, few = (
        Episode.load(collect(ENV, tmp_path / str(n), episodes=1, steps=6, frames=n)[0])
        for n in (0, 4)
    )
    assert few.frame_steps.tolist() == [0, 2, 4, 6]
    np.testing.assert_array_equal(few.frames, whole.frames[few.frame_steps])
    np.testing.assert_array_equal(few.actions, whole.actions)
    # Cut after five steps: the grid is that of five, and the last one is there.
    cut = Episode.load(collect(ENV, tmp_path / "5", episodes=1, frames=2, steps=5)[0])
    assert cut.frame_steps.tolist() == [0, 5]


def test_an_episode_that_ends_early_keeps_its_last_frame(tmp_path):
    options = {"obs": "dict", "speed": 2.0}
    path = collect(
        ENV,
        tmp_path,
        episodes=1,
        policy=f"{__name__}:towards",
        frames=3,
        steps=5,
        options=options,
    )[0]
    episode = Episode.load(path)
    assert episode.frame_steps[-1] == len(episode)


def test_few_frames_do_not_go_into_a_folder_of_others(tmp_path):
    collect(ENV, tmp_path, episodes=1)
    with pytest.raises(ValueError, match="frames=0.*these have 3"):
        collect(ENV, tmp_path, episodes=1, frames=3)


def test_episodes_say_what_happens_in_them():
    few = module.record(
        Job("metaworld/reach", (("obs", "state"),), "scripted", 7, 256, 9, "reach it")
    )
    assert few.info["prompt"] == "reach it"
    assert len(few.frames) == 9
    assert few.states.shape == (257, 39)
    told = [text for _, text in few.info["captions"]]
    assert told == [
        "the robot arm is away from the goal",
        "the robot arm is near the goal",
        "the robot arm is at the goal",
    ]
    steps = [step for step, _ in few.info["captions"]]
    assert steps[0] == 0
    assert few.success.argmax() + 1 == steps[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "expert"}, "'expert': expected one of 'random'"),
        ({"policy": "noisy"}, "'test/point-mass' has no scripted policy"),
        ({"policy": "no_such_module:act"}, "cannot be loaded: No module"),
        ({"policy": "json:act"}, "cannot be loaded: .*'act'"),
        ({"episodes": 0}, "episodes=0: expected at least 1"),
        ({"steps": 0}, "steps=0: expected at least 1"),
    ],
)
def test_collections_that_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        collect(ENV, tmp_path, **{"episodes": 1, **change})
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys):
    folder = tmp_path / "new"
    line = ["collect", "--env", ENV, "--episodes", "2", "--steps", "4"]
    line += ["--env-arg", "obs=dict", "--processes", "1", "--output", str(folder)]
    assert main(line) == 0
    assert f"{folder}: 2 episodes of the policy 'random'" in capsys.readouterr().out
    assert len(Episode.load(next(folder.iterdir()))) == 4
    assert main([*line, "--env-arg", "obs"]) == 1
    assert "expected KEY=VALUE" in capsys.readouterr().err
