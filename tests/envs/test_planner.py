"""The planner: honest about rewards, repeatable, harmless, better than chance."""

from __future__ import annotations

import importlib.util

import gymnasium as gym
import numpy as np
import pytest

import genreward_wrappers
from genreward_wrappers import GenRewardWrapper, GoalError, load_goal
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.envs.planner import Planner, _lines
from genreward_wrappers.envs.policies import check_policy, make_policy
from genreward_wrappers.goal_pipeline.collect import collect
from genreward_wrappers.testing import PointMass

# Not importorskip: who imports dm_control chooses how it draws.
if any(importlib.util.find_spec(name) is None for name in ("dm_control", "shimmy")):
    pytest.skip("no dm_control", allow_module_level=True)

SMALL = {"samples": 12, "horizon": 0.5, "moments": 8}


@pytest.fixture
def make(request):
    """Makes environments that are closed when the test is over."""

    def make(env_id, seed=0, **kwargs):
        env = gym.make(env_id, **{"obs": "state", **kwargs})
        request.addfinalizer(env.close)
        env.reset(seed=seed)
        return env

    return make


def within(space, rng, shape):
    """Actions that float32 holds exactly."""
    low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
    drawn = rng.uniform(low, high, (*shape, *space.shape)).astype(np.float32)
    return drawn.astype(np.float64)


# The model


@pytest.mark.parametrize(
    ("task", "repeat"),
    [
        ("walker-walk", 1),  # contacts, ten substeps, a velocity sensor
        ("cartpole-swingup", 3),  # a reward of the control
        ("reacher-easy", 2),  # a target in the model
        ("quadruped-walk", 1),  # accelerations, states of actuators
        ("lqr-lqr_2_1", 1),  # actions without bounds
    ],
)
def test_rewards_of_plans_are_those_of_the_environment(make, task, repeat):
    """To the last bit, from the middle of an episode."""
    env, rng = (
        make(f"dmc/{task}", seed=3, action_repeat=repeat),
        np.random.default_rng(1),
    )
    # Made before the episode that it plans in, as collecting does.
    planner = Planner(env, 0, horizon=1.0, moments=7)
    env.reset(seed=5)
    for action in within(env.action_space, rng, (9,)):
        env.step(action)
    plans = within(env.action_space, rng, (3, planner.steps))
    found = planner.rewards(plans)
    assert found.shape == (3, 7)
    assert planner.scored[-1] == planner.steps - 1
    sim, paid = env.unwrapped._sim, []
    for action in plans[1]:
        for _ in range(repeat):
            reward = sim.step(action)[1]
        paid.append(reward)
    np.testing.assert_array_equal(found[1], np.array(paid)[planner.scored])
    assert len(set(found.ravel())) > 3 or task == "reacher-easy"


def test_sensors_of_forces_are_those_of_the_environment(make):
    """They belong to the last substep; no other sample's are left over."""
    env, rng = make("dmc/hopper-stand", seed=3), np.random.default_rng(1)
    planner = Planner(env, 0, horizon=0.6, moments=10)
    planner._sim.task.get_reward = lambda physics: float(physics.touch().sum())
    plans = within(env.action_space, rng, (2, planner.steps))
    found = planner.rewards(plans)
    paid = np.array([env.step(action)[1] for action in plans[0]])
    np.testing.assert_array_equal(found[0], paid[planner.scored])
    assert found.max() > 0


def test_reachers_target_is_this_episodes(make):
    """The target is in the model, and moves when an episode begins."""
    env = make("dmc/reacher-easy", seed=0)
    planner = Planner(env, 0)
    for seed in (1, 2):
        env.reset(seed=seed)
        physics = env.unwrapped._sim.physics
        planner.rewards(np.zeros((1, planner.steps, 2)))
        here, there = (
            p.named.model.geom_pos["target"] for p in (physics, planner._scratch)
        )
        np.testing.assert_array_equal(here, there)


def test_the_environment_is_not_disturbed(make):
    """Planning along the way changes nothing, with distractions or without."""
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 6)).astype(np.float32)
    for env_id in ("dmc/walker-walk", "distracting/walker-walk"):
        seen = []
        for planned in (False, True):
            env = make(env_id, seed=4, obs="dict")
            planner = Planner(env, 0, **SMALL)
            trace = []
            for action in actions:
                if planned:
                    planner()
                observation, reward, *_ = env.step(action)
                trace += [observation["state"], observation["pixels"], reward]
            data = env.unwrapped._sim.physics.data
            trace += [data.qacc_warmstart.copy(), data.sensordata.copy(), data.time]
            seen.append(trace)
        for one, other in zip(*seen, strict=True):
            np.testing.assert_array_equal(one, other)


# The plans


def test_noise_is_lines_between_knots():
    lines = _lines(9, 5)
    knots = np.random.default_rng(0).normal(size=5)
    expected = np.interp(np.linspace(0, 4, 9), np.arange(5), knots)
    np.testing.assert_allclose(lines @ knots, expected)


def test_a_seed_decides_the_plan(make):
    def plan(seed):
        env = make("dmc/cartpole-balance", seed=7)
        planner = Planner(env, seed, **SMALL)
        return np.array([env.step(planner())[0] for _ in range(5)])

    first = plan(0)
    np.testing.assert_array_equal(plan(0), first)
    assert not np.array_equal(plan(1), first)


def test_plans_are_kept_between_the_steps_that_make_them(make):
    env = make("dmc/cartpole-balance")
    planner, made = Planner(env, 0, every=3, **SMALL), []
    improved = planner._improved
    planner._improved = lambda plan: made.append(improved(plan)) or made[-1]
    actions = [env.step(action := planner())[1] and action for _ in range(7)]
    assert len(made) == 3
    for step, action in enumerate(actions):
        expected = made[step // 3][step % 3].astype(np.float32)
        np.testing.assert_array_equal(action, expected)
        assert env.action_space.contains(action)


def test_the_plan_moves_to_what_is_paid_for(make):
    """By the softmax of the returns, on a reward that is known."""
    env = make("dmc/cartpole-balance")
    planner = Planner(env, 0, **{**SMALL, "temperature": 0.5})
    tried = []

    def rewards(plans):
        tried.append(plans)
        return plans.mean((1, 2))[:, None]

    planner.rewards = rewards
    start = np.full((planner.steps, 1), 0.9)
    better = planner._improved(start)
    (plans,) = tried
    assert len(plans) == SMALL["samples"]
    np.testing.assert_array_equal(plans[0], start)
    assert np.abs(plans).max() == 1, "cut at the bounds"
    returns = plans.mean((1, 2))
    weights = np.exp(returns / (0.5 * returns.std()))
    expected = sum(w * p for w, p in zip(weights, plans, strict=True)) / weights.sum()
    np.testing.assert_allclose(better, expected, rtol=1e-9)


def test_noise_is_from_fine_to_coarse(make):
    """The smallest is a tenth of the largest; 1 where an action has no bounds."""
    for task, actions in (("cartpole-balance", 1), ("lqr-lqr_2_1", 1)):
        env = make(f"dmc/{task}")
        planner, tried = Planner(env, 3, knots=4, noise=0.5, samples=9), []
        planner.rewards = lambda plans, tried=tried: (
            tried.append(plans) or np.zeros((len(plans), 1))
        )
        planner._improved(np.zeros((planner.steps, actions)))
        drawn = np.random.default_rng(3).normal(size=(8, 4, actions))
        at, knots = np.linspace(0, 3, planner.steps), np.arange(4)
        for k, plan in enumerate(tried[0][1:]):
            scale = 0.5 * 0.1 * 10 ** (k / 7)
            expected = scale * np.interp(at, knots, drawn[k, :, 0])
            expected = expected.clip(env.action_space.low, env.action_space.high)
            np.testing.assert_allclose(plan[:, 0], expected, atol=1e-9)


def test_a_simulation_that_blows_up_is_no_way_to_go(make):
    env = make("dmc/cartpole-balance")
    planner = Planner(env, 0, **SMALL)
    planner._sim.task.get_reward = lambda physics: (
        np.nan if physics.data.ctrl[0] > 0 else 0.5
    )
    plans = np.ones((2, planner.steps, 1))
    plans[1] = -1
    bad, good = planner.rewards(plans).mean(1)
    assert bad < 0 < good


@pytest.mark.parametrize("task", ["cartpole-balance", "reacher-easy"])
def test_planning_beats_chance(make, task):
    """It ends where a step pays 1, or nearly so, and random actions do not."""
    env_id = f"dmc/{task}"

    def rewards(policy):
        env.reset(seed=1)
        return [float(env.step(policy(None))[1]) for _ in range(120)]

    env = make(env_id)
    planned = rewards(Planner(env, 0, **SMALL))
    chance = rewards(make_policy("random", env, env_id, 0))
    assert np.mean(planned[-20:]) > 0.9
    assert np.sum(planned) > np.sum(chance) + 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 1}, "samples=1: expected a whole number, at least 2"),
        ({"knots": 1}, "knots=1: expected a whole number, at least 2"),
        ({"moments": 0}, "moments=0: expected a whole number, at least 1"),
        ({"every": 0}, "every=0: expected a whole number, at least 1"),
        ({"horizon": 0.0}, "horizon=0.0: expected a positive"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_bad_budgets(make, change, message):
    with pytest.raises(ValueError, match=message):
        Planner(make("dmc/cartpole-balance"), 0, **change)


def test_only_dm_control_can_be_planned_in():
    with pytest.raises(TypeError, match="expected an environment dmc/.*PointMass"):
        Planner(PointMass(), 0)
    for check in (
        lambda: check_policy("planned", "metaworld/reach"),
        lambda: make_policy("planned", PointMass(), "test/point-mass", 0),
    ):
        with pytest.raises(ValueError, match="cannot be planned in, only dmc/"):
            check()


def test_planned_episodes_are_collected(tmp_path):
    """Two of them in one environment, each as it would be alone."""
    options = {"policy": "planned", "steps": 3}
    both = collect("dmc/cartpole-balance", tmp_path / "a", episodes=2, **options)
    first = Episode.load(both[0]).info["seed"]
    (alone,) = collect(
        "dmc/cartpole-balance", tmp_path / "b", episodes=1, seed=first + 1, **options
    )
    episode = Episode.load(both[1])
    assert episode.info["policy"] == "planned"
    np.testing.assert_array_equal(episode.actions, Episode.load(alone).actions)
    assert np.ptp(episode.actions) > 0


def test_the_policy_is_the_planner_of_the_seed(make):
    for env_id in ("dmc/cartpole-balance", "distracting/cartpole-balance"):
        check_policy("planned", env_id)
        env = make(env_id)
        action = make_policy("planned", env, env_id, 5)(None)
        np.testing.assert_array_equal(action, Planner(env, 5)())
        assert not np.array_equal(action, Planner(env, 6)())


# The goals of its tasks


@pytest.mark.parametrize("task", ["cartpole-swingup", "reacher-easy", "walker-walk"])
def test_the_embedded_goals_of_dm_control(make, task):
    goal = load_goal(f"dmc/{task}")
    assert goal.videos.shape == (8, 17, 64, 64, 3)
    assert goal.env_id == f"dmc/{task}"
    assert goal.encoder["source"] == "embedded:video-vae-64"
    assert goal.generator.startswith("embedded:goal-generator-64@")
    made = goal.provenance[0]
    assert made["step"] == "generate"
    seeds = sorted({candidate["start_seed"] for candidate in made["candidates"]})
    assert seeds == list(range(1_000_000, 1_000_016))
    env = make(f"dmc/{task}", obs="pixels")
    assert goal.camera == env.unwrapped.camera
    # Each begins as one of the episodes that it was made for, but for the decoder's
    # error, and is far from any other; cartpole's episodes all begin alike.
    frames = np.stack([env.reset(seed=seed)[0] for seed in seeds]).astype(int)
    away = np.abs(goal.videos[:, 0][:, None] - frames).mean((2, 3, 4))
    nearest, second = np.sort(away)[:, :2].T
    assert nearest.max() < 3
    if task != "cartpole-swingup":
        assert (second > 1.5 * nearest).all()


def test_a_distracted_task_has_the_goal_of_the_plain_one():
    plain = load_goal("dmc/walker-walk")
    for goal in (
        load_goal(None, "distracting/walker-walk"),
        load_goal("distracting/walker-walk"),
    ):
        assert goal == plain
        assert goal.source == "dmc/walker-walk"
    with pytest.raises(GoalError, match="no embedded goal for 'distracting/dog-run'"):
        load_goal(None, "distracting/dog-run")
    with pytest.raises(GoalError, match="no embedded goal for 'other/walker-walk'"):
        load_goal(None, "other/walker-walk")


def test_another_camera_is_refused_under_distractions_too():
    env = genreward_wrappers.make("distracting/walker-walk", camera="back")
    with pytest.raises(GoalError, match="'side'.*shows 'back'"):
        GenRewardWrapper(env, encoder="pixels")
    env.close()


def test_one_line_trains_under_distractions():
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import PPO

    with pytest.warns(UserWarning, match="no frame-level part"):
        env = GenRewardWrapper(
            genreward_wrappers.make("distracting/walker-walk", difficulty="medium")
        )
    agent = PPO("CnnPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0)
    agent.learn(32)
    assert agent.num_timesteps == 32
    env.reset(seed=0)
    paid = 0.0
    for _ in range(40):
        _, reward, *_, info = env.step(env.action_space.sample())
        assert reward == pytest.approx(info["reward_video"])
        paid += info["reward_video"]
    assert paid > 0
    env.close()
