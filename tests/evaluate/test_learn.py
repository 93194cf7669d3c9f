"""Learning runs: what they say, and that they resume exactly where they were."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sbx")

from safetensors.numpy import load_file

from benchmarks.robust.files import signed, split
from genreward_wrappers import GoalBundle
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import FileError
from genreward_wrappers.evaluate.learn import episodes, runs, train
from genreward_wrappers.evaluate.learn.checkpoint import (
    LAYOUT,
    restore_agent,
    save_agent,
)
from genreward_wrappers.evaluate.learn.episodes import FIRST_SEED, Episodes, make_env
from genreward_wrappers.evaluate.learn.learner import Learner
from genreward_wrappers.evaluate.learn.runs import HORIZON, Progress, Run, outcome
from genreward_wrappers.evaluate.learn.train import learn, learn_all, load_progress
from genreward_wrappers.generators.own_videos import pack
from genreward_wrappers.testing import PointMass
from genreward_wrappers.workers import workers

#: Learns after two of the fixture's episodes.
EARLY = Learner(warm_up=32)
PIXELS = Run("metaworld/pick-place", "pixels", seed=0, learner=EARLY)


@pytest.fixture(autouse=True, scope="module")
def _compile_once(tmp_path_factory):
    """Agents alike share what jax compiles, which is most of the time of a short run.

    Afterwards it is as before.
    """
    import jax

    folder = str(tmp_path_factory.mktemp("jax"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", folder)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def short(monkeypatch):
    """Runs of a few short episodes, of which the first two are random."""
    for module in (runs, episodes, train):
        monkeypatch.setattr(module, "HORIZON", 16)
    monkeypatch.setattr(train, "CHUNK", 1)


# What a run says


def curve(low, high, count=100):
    return np.linspace(low, high, count)


def made(rate, paid, count=100, seed=0):
    rng = np.random.default_rng(seed)
    success = rng.random(count) < np.asarray(rate)
    return Progress(
        tuple(success.tolist()), tuple(np.asarray(paid) + rng.normal(0, 1, count))
    )


@pytest.mark.parametrize(
    ("rate", "paid", "word"),
    [
        (curve(0, 1), curve(0, 10), "teaches"),
        # Solved from the start counts, too; there is nowhere left to rise to.
        (curve(1, 1), curve(5, 5), "teaches"),
        # The reward rises and the task is not done: the farm.
        (curve(0, 0), curve(0, 10), "farmed"),
        # Success is lost while the pay rises.
        (curve(0.6, 0), curve(0, 10), "farmed"),
        (curve(0, 0), curve(5, 5), "nothing"),
        (curve(0.3, 0.3), curve(5, -5), "nothing"),
    ],
)
def test_each_outcome_gets_its_name(rate, paid, word):
    found, said = outcome(made(rate, paid))
    assert found == word
    assert "success" in said
    assert "return" in said


def test_outcomes_do_not_hang_on_the_noise_of_one_seed():
    flat = [outcome(made(curve(0, 0), curve(5, 5), seed=s))[0] for s in range(30)]
    assert flat == ["nothing"] * 30


@pytest.mark.parametrize("rate", [0, 1])
def test_a_few_episodes_say_nothing(rate):
    """However large the rise: 12 episodes were once enough for "farmed"."""
    for count in (4, 12, 19):
        assert "too few" in outcome(made(rate, curve(0, 99, count), count))[1]


def test_farmed_needs_a_rise_in_success_to_be_ruled_out():
    """Without one success in 10 episodes a rate of .2 is no surprise, in 12 it is."""
    words = [outcome(made(0, curve(0, 9, n), n))[0] for n in (20, 22, 24, 80)]
    assert words == ["nothing", "nothing", "farmed", "farmed"]
    # One of 40 and then five of 40, whose interval reaches to .22.
    some = np.isin(np.arange(80), [3, 42, 50, 58, 66, 74])
    assert outcome(made(some, curve(0, 9, 80), 80))[0] == "nothing"


def test_teaches_needs_a_rise_beyond_the_error_of_its_rates():
    flat = np.zeros(100)
    few = np.isin(np.arange(20), [12, 17])
    assert outcome(made(few, flat[:20], 20))[0] == "nothing", "two of ten, after none"
    many = np.isin(np.arange(80), range(42, 80, 4))
    assert outcome(made(many, flat[:80], 80))[0] == "teaches", "ten of 40, after none"


def test_the_curve_is_over_the_last_episodes():
    count = 20_480 // HORIZON
    success = tuple(i >= count - 20 for i in range(count))
    found = Progress(success, tuple(map(float, range(count)))).curve()
    assert list(found) == [5_000, 10_000, 15_000, 20_000, 20_480]
    assert found[5_000] == (0.0, np.mean(range(39)))
    assert found[20_480] == (0.5, np.mean(range(count - 40, count)))


# The runs themselves


def test_a_stopped_run_resumes_bit_for_bit(short, tmp_path):
    whole = learn(PIXELS, tmp_path / "whole", 16 * 6)
    # Stopped once among the random actions, and once after the first updates.
    learn(PIXELS, tmp_path / "parts", 16)
    learn(PIXELS, tmp_path / "parts", 16 * 4)
    told = []
    parts = learn(PIXELS, tmp_path / "parts", 16 * 6, told.append)
    assert len(told) == 2, "it began again"
    assert parts.returns == whole.returns
    assert len(set(whole.returns)) == 6, "its episodes are not all alike"
    assert parts.seconds > told[0].seconds > 0
    assert load_progress(PIXELS, tmp_path / "parts") == parts
    # A run that is done is done.
    assert learn(PIXELS, tmp_path / "parts", 16 * 6, told.append) == parts
    assert len(told) == 2
    # Returns alone may hide what only later updates would show.
    name = f"{PIXELS.name}.checkpoint.safetensors"
    one, other = (load_file(tmp_path / way / name) for way in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert {"policy.key", "policy.noise_key", "agent.key"} < one.keys()
    assert any(key.startswith("policy.qf_state.target_params") for key in one)
    assert any(key.startswith("policy.actor_state.opt_state") for key in one)
    assert any(key.startswith("agent.ent_coef_state.opt_state") for key in one)
    for key, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[key], err_msg=key)


def test_a_run_ends_when_it_is_enough(short, tmp_path):
    progress = learn(
        PIXELS, tmp_path, 16 * 5, enough=lambda progress: progress.steps >= 32
    )
    assert progress.steps == 32


def test_an_agent_of_another_shape_is_refused(short, tmp_path):
    learn(PIXELS, tmp_path, 16)
    path = tmp_path / f"{PIXELS.name}.checkpoint.safetensors"
    agent = EARLY.make(PointMass(size=16, obs="state", horizon=2), 0, 100)
    with pytest.raises(FileError, match=r"another agent: .* should be float32"):
        restore_agent(agent, path)


def test_lies_in_a_checkpoint_are_refused(tmp_path):
    agent = EARLY.make(PointMass(size=16, obs="state", horizon=2), 0, 8)
    path = tmp_path / "agent.safetensors"
    save_agent(agent, path, {})
    good = path.read_bytes()
    about = json.loads(split(good)[0]["__metadata__"][LAYOUT.key])
    lies = {
        "buffer": [8, False],
        "numpy": ["MT", *about["numpy"][1:]],
        "actions": {**about["actions"], "state": {"state": "x", "inc": 1}},
    }
    for field, value in lies.items():
        path.write_bytes(signed(LAYOUT, {**about, field: value}, good))
        with pytest.raises(FileError, match="no valid checkpoint of a learning run"):
            restore_agent(agent, path)
    path.write_bytes(good)
    assert restore_agent(agent, path) == {}


def test_settings_reach_the_agent():
    env = PointMass(size=16, obs="state", horizon=2)
    agent = Learner(n_steps=2, discount=0.9, critic_rate=2e-3, batch=64).make(env, 0, 9)
    assert (agent.gamma, agent.batch_size, agent.qf_learning_rate) == (0.9, 64, 2e-3)
    assert float(agent.ent_coef_state.params["log_ent_coef"]) == pytest.approx(
        np.log(Learner().entropy)
    )
    assert (agent.replay_buffer.n_steps, agent.replay_buffer.gamma) == (2, 0.9)


def test_another_learner_is_another_run():
    assert replace(PIXELS, learner=Learner(n_steps=1)).name != PIXELS.name


def test_files_stand_in_the_folder_whatever_the_reward_says(tmp_path, monkeypatch):
    (tmp_path / "my/vae").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    reward = "video:encoder=../my/vae,score=cosine"
    name = Run("metaworld/pick-place", reward, 0).name
    assert name.startswith("pick-place-video-encoder-..-my-vae-score-cosine-seed-0-")


def test_without_sbx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sbx", None)
    with pytest.raises(ImportError, match=r"sbx-rl.*genreward-wrappers\[learn\]"):
        Learner().make(PointMass(), 0, 100)


def test_episodes_are_seeded_by_their_number():
    """Whatever the agent asks for, the third episode is the third episode."""
    env = PointMass(size=16, obs="state", horizon=2)
    expected = [env.reset(seed=FIRST_SEED + 10_000 + i)[0] for i in range(3)]
    found = Episodes(env, seed=1)
    for first in expected:
        np.testing.assert_array_equal(found.reset(seed=7)[0], first)
        # One that is not finished is begun again.
        np.testing.assert_array_equal(found.reset()[0], first)
        for _ in range(2):
            found.step(np.zeros(2, np.float32))
    assert len(found.progress.success) == 3


def test_runs_write_their_progress_and_some_episodes(short, tmp_path):
    progress = learn(PIXELS, tmp_path, 16 * 2)
    found = json.loads((tmp_path / f"{PIXELS.name}.json").read_text())
    assert found["reward"] == "pixels"
    assert found["episode_return"] == list(progress.returns)
    paths = sorted((tmp_path / PIXELS.name).glob("episode-*"))
    assert [path.name[:17] for path in paths] == [
        "episode-00000000-",
        "episode-00000001-",
    ]
    for path, paid in zip(paths, progress.returns, strict=True):
        assert Episode.load(path).rewards["video"].sum() == pytest.approx(paid, 1e-5)


def test_runs_side_by_side_are_the_runs_one_by_one(tmp_path):
    # In processes of their own nothing is patched, so these have their real length.
    two = [Run("metaworld/pick-place", "env", seed) for seed in (0, 1)]
    together = learn_all(two, tmp_path / "together", HORIZON, 2)
    alone = learn(two[1], tmp_path / "alone", HORIZON)
    assert together[two[1]].returns == alone.returns
    assert together[two[0]].returns != alone.returns


def test_a_damaged_checkpoint_says_what_to_do(short, tmp_path):
    learn(PIXELS, tmp_path, 16)
    (tmp_path / f"{PIXELS.name}.checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(FileError, match="Delete it to begin this run again"):
        learn(PIXELS, tmp_path, 32)


def test_another_goal_is_another_run(tmp_path, goal):
    path = tmp_path / "goal.safetensors"
    goal.save(path)
    run = Run("metaworld/pick-place", "pixels", 0, str(path))
    before = run.name
    assert before != PIXELS.name
    goal.with_(prompt="something else").save(path)
    assert Run("metaworld/pick-place", "pixels", 0, str(path)).name != before


def test_a_video_is_a_goal(tmp_path, goal):
    video, packed = tmp_path / "goal.npy", tmp_path / "goal.safetensors"
    frames = np.repeat(np.repeat(goal.videos[0], 2, axis=1), 2, axis=2)
    np.save(video, frames)
    pack([video], env_id="metaworld/pick-place", encoder=None).save(packed)
    run = Run("metaworld/pick-place", "pixels", 0, str(video))
    assert run.find_goal() == GoalBundle.load(packed)
    assert (
        paid_by("pixels", goal=str(video))[1]
        == (paid_by("pixels", goal=str(packed))[1])
    )
    name = run.name
    np.save(video, frames[:-1])
    assert Run(run.env_id, run.reward, 0, run.goal).name != name


# What the agent sees and is paid


def paid_by(reward, steps=40, **changes):
    env = make_env(Run("metaworld/pick-place", reward, 0, **changes))
    env.reset(seed=0)
    env.action_space.seed(0)
    rows = [env.step(env.action_space.sample()) for _ in range(steps)]
    space = env.observation_space
    env.close()
    return space, [row[1] for row in rows], [row[4] for row in rows]


def test_the_agent_is_paid_by_the_reward_under_test_alone():
    for reward, weight in (("pixels", 0.0), ("genreward:encoder=pixels", 0.25)):
        space, paid, infos = paid_by(reward)
        frame = [weight * i.get("reward_frame", 0.0) for i in infos]
        assert bool(np.any(frame)) == bool(weight)
        video = [i["reward_video"] for i in infos]
        np.testing.assert_allclose(paid, np.add(video, frame))
        assert space.shape == (40,), "39 numbers of the state and the time"
    space, paid, infos = paid_by("env")
    assert space.shape == (40,)
    assert "reward_video" not in infos[0]
    # Dense rewards of two steps each.
    assert max(paid) < 20
    assert paid[0] != 0


def test_options_reach_the_reward():
    _, sharp, _ = paid_by("pixels:contrast=4")
    _, plain, _ = paid_by("pixels")
    np.testing.assert_allclose(sharp, np.power(plain, 4), rtol=1e-4)
    _, paper, infos = paid_by("paper:encoder=pixels,window=16,stride=16", steps=32)
    assert [bool(i["reward_video_due"]) for i in infos].count(True) == 2
    assert np.count_nonzero(paper) == 2


def test_only_environments_with_a_state_can_be_learned():
    with pytest.raises(ValueError, match=r"'CartPole-v1'.*metaworld/<task>"):
        make_env(Run("CartPole-v1", "env", 0))


def test_evaluations_and_learning_do_not_share_seeds():
    from genreward_wrappers.evaluate.episodes import rollouts

    assert rollouts.SEEDS.stop <= FIRST_SEED


# Stopping


def test_an_interrupt_ends_the_workers_and_what_they_do():
    before = set(multiprocessing.active_children())
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), workers(2) as pool:  # noqa: PT012
        futures = [pool.submit(time.sleep, seconds) for seconds in (0, *[500] * 9)]
        futures[0].result()
        raise KeyboardInterrupt
    assert time.monotonic() - started < 250, "it waited for them"
    assert set(multiprocessing.active_children()) == before
    assert futures[-1].cancelled()


def test_workers_that_are_done_give_their_results():
    with workers(2) as pool:
        futures = [pool.submit(abs, -i) for i in range(5)]
    assert [future.result() for future in futures] == [0, 1, 2, 3, 4]
