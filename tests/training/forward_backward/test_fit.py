"""Training runs of forward-backward nets, from data to a goal that pays."""

from __future__ import annotations

import dataclasses
import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy.stats import spearmanr

from genreward_wrappers import (
    FrameLevelReward,
    GenRewardWrapper,
    GoalBundle,
    GoalError,
    load_goal,
    vector,
)
from genreward_wrappers.cli.main import main
from genreward_wrappers.core import Session
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import FileError
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.caching import Memo, shared
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.goal_pipeline.collect import collect
from genreward_wrappers.rewards.frame_level import FrameLevel
from genreward_wrappers.testing import PointMass, check_reward_model
from genreward_wrappers.training.forward_backward import fit as fit_module
from genreward_wrappers.training.forward_backward import judge
from genreward_wrappers.training.forward_backward.data import Trajectory, Transitions
from genreward_wrappers.training.forward_backward.features import Features
from genreward_wrappers.training.forward_backward.fit import (
    HELD_OUT,
    SMALL_TRAINING,
    Plan,
    shape_of,
    train_fb,
)
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.sources import Recorded
from genreward_wrappers.training.forward_backward.train import FBTrainer

SIZE = 16
PIXELS = PooledPixels((SIZE, SIZE), 8, device="cpu")
SHAPE = {"z": 8, "hidden": 32, "backward_hidden": 32, "discount": 0.95}
TRAINING = FBTraining(batch=64, learning_rate=1e-3, target_rate=0.05)


pytestmark = pytest.mark.usefixtures("one_thread")


def played(seed, steps=20, **options):
    """The frames and actions of a random episode; the target is out of sight."""
    env = PointMass(size=SIZE, horizon=steps, speed=0.2, **options)
    env.action_space.seed(seed)
    env.reset(seed=seed, options={"target": (5.0, 5.0)})
    frames, actions = [env.render()], []
    for _ in range(steps):
        actions.append(env.action_space.sample())
        env.step(actions[-1])
        frames.append(env.render())
    return np.stack(frames), np.stack(actions)


def recorded(features, count=24, **options):
    trajectories = []
    for seed in range(count):
        frames, actions = played(seed, **options)
        late = np.arange(len(actions)) > 11
        trajectories.append(
            Trajectory(features.encode(frames), actions, False, late, f"walk {seed}")
        )
    return Recorded(trajectories, {"data": "walks", "seeds": [0, count - 1]})


@pytest.fixture(scope="module")
def point_goal():
    """The disc on its way to (0.5, 0.5), and there."""
    env = PointMass(size=SIZE)
    frames = []
    for share in np.linspace(0, 1, 9):
        place = -0.5 + share * np.ones(2)
        env.reset(options={"position": place, "target": (5.0, 5.0)})
        frames.append(env.render())
    return GoalBundle(
        np.stack(frames)[None], env_id="toy/point", encoder=encoder_card(PIXELS)
    )


def fitted(goal, features=None, updates=30, plan=None, **options):
    features = features or Features(PIXELS)
    settings = {"config": SHAPE, "training": TRAINING, "device": "cpu", **options}
    data = settings.pop("data", None) or recorded(features)
    with warnings.catch_warnings():
        # Runs this short leave the nets all but dead, which they say.
        warnings.simplefilter("ignore", UserWarning)
        return train_fb(goal, data, features, plan=plan or Plan(updates), **settings)


# A run and its bundle


def test_a_run_from_pictures_to_a_reward(point_goal, tmp_path):
    made = fitted(
        point_goal,
        updates=600,
        data=recorded(Features(PIXELS), 64, steps=40),
        config={**SHAPE, "z": 16, "hidden": 64, "backward_hidden": 64},
        training=dataclasses.replace(TRAINING, batch=128),
    )
    step = made.provenance[-1]
    assert (step["data"], step["seeds"]) == ("walks", [0, 63])
    assert (step["trajectories"], step["held out"]) == (56, 8)
    assert made.nets_config["input"] == {"encoder": encoder_card(PIXELS), "stack": 1}
    statistics = made.nets_config["statistics"]
    assert {"time_rank", "success_rank", "spread", "mass"} <= set(statistics)
    # Two seeds gave 0.39 and 0.66; chance is 0.
    assert statistics["time_rank"] > 0.2
    made.save(tmp_path / "goal.safetensors")
    model = FrameLevel(load_goal(tmp_path / "goal.safetensors"), PIXELS, form="value")
    # Towards the goal or away from it, from places all over the arena.
    env, better = PointMass(size=SIZE), []
    for place in np.random.default_rng(0).uniform(-0.9, 0.9, (60, 2)):
        env.reset(options={"position": place, "target": (5.0, 5.0)})
        way = np.clip(5 * (0.5 - place), -1, 1).astype(np.float32)
        frames = np.stack([env.render()] * 2)
        to, away = model.values(frames, np.stack([way, -way]))
        better.append(to > away)
    # Two seeds gave 0.78 and 0.92.
    assert np.mean(better) > 0.65


def test_half_precision_changes_nothing_that_counts(point_goal):
    data = recorded(Features(PIXELS), 12)
    half = fitted(point_goal, data=data)
    whole = fitted(point_goal, data=data, half=False)
    dtypes = {array.dtype for name, array in half.nets.items() if array.ndim > 1}
    assert dtypes == {np.dtype(np.float16)}
    assert half.nets["forward_net.input.mean"].dtype == np.float32
    frames, actions = played(99)
    values = [
        FrameLevel(goal, PIXELS, form="value").values(frames[:-1], actions)
        for goal in (half, whole)
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=0.02, atol=0.02)
    statistics = half.nets_config["statistics"]
    assert statistics["mean"] != whole.nets_config["statistics"]["mean"]


def test_a_stopped_run_resumes_bit_for_bit(point_goal, tmp_path):
    data = recorded(Features(PIXELS), 10)
    whole = fitted(point_goal, data=data, updates=9)
    path = tmp_path / "run.checkpoint"
    seen = []

    def stop(step, figures):
        seen.append(step)
        if step == 6:
            raise KeyboardInterrupt

    plan = Plan(9, path, every=2, on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(point_goal, data=data, plan=plan)
    assert seen == [2, 4, 6]
    # It stopped before the sixth was saved.
    assert FBTrainer.load(path, device="cpu").step == 4
    again = fitted(
        point_goal,
        data=data,
        plan=Plan(
            9, path, every=2, on_progress=lambda step, figures: seen.append(step)
        ),
    )
    assert seen == [2, 4, 6, 6, 8, 9]
    assert again == whole
    assert whole.nets


def test_the_last_updates_are_small(point_goal):
    data = recorded(Features(PIXELS), 4)
    rates = []

    class Watched(FBTrainer):
        def update(self, batch, rate=1.0):
            before = [p.detach().clone() for p in self.nets.parameters()]
            figures = super().update(batch, rate)
            moved = max(
                float((p.detach() - b).abs().max())
                for p, b in zip(self.nets.parameters(), before, strict=True)
            )
            rates.append((rate, moved))
            return figures

    config = {**SHAPE, "conditioned": False}
    shape = fit_module.shape_of(Transitions(data.trajectories), config)
    trainer = Watched(shape, TRAINING, device="cpu")
    fit_module.fit(trainer, Transitions(data.trajectories), Plan(6, anneal_share=1 / 3))
    assert [rate for rate, _ in rates] == [1, 1, 1, 1, 0.2, 0.2]
    # Adam moves no weight by much more than its learning rate.
    rate = TRAINING.learning_rate
    assert all(moved < 0.2 * rate * 1.5 for _, moved in rates[4:])
    assert rates[0][1] == pytest.approx(rate, rel=0.01)
    with pytest.raises(ValueError, match="anneal_share=1.5: .* from 0 to 1"):
        Plan(6, anneal_share=1.5)


def test_a_checkpoint_of_another_run_is_refused(point_goal, tmp_path):
    path = tmp_path / "run.checkpoint"
    plan = Plan(2, path, every=1)
    data = recorded(Features(PIXELS), 4)
    fitted(point_goal, data=data, plan=plan)
    with pytest.raises(ValueError, match="other data; delete it"):
        fitted(point_goal, data=recorded(Features(PIXELS), 3), plan=plan)
    changed = dataclasses.replace(TRAINING, batch=32)
    with pytest.raises(ValueError, match="other training; delete it"):
        fitted(point_goal, data=data, plan=plan, training=changed)
    with pytest.raises(FileError, match="another configuration"):
        fitted(point_goal, data=data, plan=plan, config={**SHAPE, "z": 9})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileError, match="no safetensors file"):
        fitted(point_goal, data=data, plan=plan)


def test_few_trajectories_hold_none_out(point_goal):
    made = fitted(point_goal, data=recorded(Features(PIXELS), HELD_OUT - 1))
    assert made.provenance[-1]["held out"] == 0
    assert "time_rank" not in made.nets_config["statistics"]


def test_what_is_held_out_is_not_trained_on(point_goal):
    data = recorded(Features(PIXELS), HELD_OUT)
    *rest, held = data.trajectories
    other = dataclasses.replace(
        held, actions=-held.actions, states=held.states[::-1].copy()
    )
    lost = dataclasses.replace(other, success=None)
    made, again, unknown = (
        fitted(point_goal, data=Recorded([*rest, last], {}), updates=5)
        for last in (held, other, lost)
    )
    assert made.nets.keys() == again.nets.keys()
    for name, array in made.nets.items():
        np.testing.assert_array_equal(array, again.nets[name])
    one, two, three = (
        goal.nets_config["statistics"] for goal in (made, again, unknown)
    )
    assert one["mean"] == two["mean"]
    assert one["time_rank"] != two["time_rank"]
    assert "success_rank" in two
    # A figure that is not known is left out.
    assert "success_rank" not in three


@pytest.mark.parametrize("conditioned", [True, False])
def test_batches_follow_from_the_seed_and_the_update(
    point_goal, conditioned, monkeypatch
):
    asked, draw = [], Transitions.draw

    def noted(self, *given):
        asked.append(given)
        return draw(self, *given)

    monkeypatch.setattr(Transitions, "draw", noted)
    fitted(
        point_goal,
        updates=3,
        data=recorded(Features(PIXELS), 2),
        config={**SHAPE, "conditioned": conditioned},
        training=dataclasses.replace(TRAINING, seed=7),
    )
    # Only the one-step variant asks for next actions.
    assert asked == [(64, not conditioned, (7, step)) for step in range(3)]


def test_nets_are_standardised_and_normalised_over_the_data(point_goal):
    features = Features(PIXELS)
    walks = [played(seed) for seed in range(3)]
    data = [Trajectory(features.encode(f), a, False) for f, a in walks]
    # Neither the first frame nor the last, and the better of two.
    goal = point_goal.with_(
        videos=np.stack([point_goal.videos[0], point_goal.videos[0, ::-1]]),
        key_frames=(3, 7),
    )
    made = fitted(goal, data=Recorded(data, {}), updates=20, half=False)
    states = np.concatenate([t.states[:-1] for t in data]).astype(np.float32)
    np.testing.assert_allclose(
        made.nets["forward_net.input.mean"], states.mean(0), atol=1e-5
    )
    value = FrameLevel(made, PIXELS, form="value")
    values = np.concatenate([value.values(f[:-1], a) for f, a in walks])
    statistics = made.nets_config["statistics"]
    # Features of the data are in half precision.
    near = 0.02 * float(values.std())
    assert statistics["mean"] == pytest.approx(values.mean(), abs=near)
    assert statistics["std"] == pytest.approx(values.std(), abs=near)
    mass = 1 / (1 - SHAPE["discount"])
    assert statistics["spread"] == pytest.approx(values.std() / mass, rel=0.02)
    assert statistics["transitions"] == 60
    others = FrameLevel(made.with_(key_frames=(0, 0)), PIXELS, form="value")
    elsewhere = np.concatenate([others.values(f[:-1], a) for f, a in walks])
    assert abs(elsewhere.mean() - values.mean()) > 10 * near


def test_indices_make_discrete_nets(point_goal):
    data = recorded(Features(PIXELS), 4, discrete=True)
    made = fitted(point_goal, data=data, updates=2)
    assert made.nets_config["discrete"]
    assert made.nets_config["actions"] == 4


def test_data_that_makes_no_nets(point_goal):
    actions = np.zeros((3, 2, 2), np.float32)
    odd = Trajectory(np.ones((4, 3)), actions, False)
    with pytest.raises(ValueError, match=r"flat float actions or .*\(2, 2\)"):
        shape_of(Transitions([odd]), {})
    with pytest.raises(ValueError, match="updates=0: expected at least 1"):
        Plan(0)
    lost = Trajectory(np.ones((4, 3)), actions[:, 0], False, np.zeros(3, bool))
    with pytest.raises(ValueError, match="episodes that succeed: none of these do"):
        fitted(point_goal, Features(None), 1, data=Recorded([lost], {}))
    far = Trajectory(np.ones((4, 3)), np.full((3, 2), 2, np.float32), False)
    with pytest.raises(ValueError, match="takes actions from -1 to 1, got 2.0"):
        fitted(point_goal, Features(PIXELS), 1, data=Recorded([far], {}))


# What they are judged by


class Known:
    """A trainer whose values are minus the distance of the first feature."""

    def values(self, goals, states, actions):
        return -np.abs(goals[:, :1] - states[None, :, 0])


def test_ranks_against_trajectories_that_are_known():
    to = np.arange(9.0)[:, None]
    back = to[::-1].copy()
    no = np.zeros((8, 1))
    success = np.arange(8) >= 5
    data = Transitions([Trajectory(to, no, False, success)])
    assert judge.time_rank(Known(), data) == pytest.approx(1)
    assert judge.success_rank(Known(), data, np.array([[7.0]])) == pytest.approx(1)
    other = Transitions([Trajectory(back, no, False, success)])
    # On the way to what comes later it is right again, for the goal it is wrong.
    assert judge.time_rank(Known(), other) == pytest.approx(1)
    assert judge.success_rank(Known(), other, np.array([[9.0]])) == pytest.approx(-1)
    # Moving about, by hand: later states, and the better of two goals till success.
    rng = np.random.default_rng(0)
    about = rng.normal(size=(9, 1))
    some = Transitions([Trajectory(about, no, False, success)])
    near = [-np.abs(about[:-1, 0] - about[g, 0]) for g in (5, 6, 7, 8)]
    ranks = [
        spearmanr(v[:g], np.arange(g)).statistic
        for g, v in zip((5, 6, 7, 8), near, strict=True)
    ]
    assert judge.time_rank(Known(), some) == pytest.approx(np.mean(ranks))
    keys = about[[2, 7]] + 0.1
    best = (-np.abs(about[:6] - keys.T)).max(1)
    assert judge.success_rank(Known(), some, keys) == pytest.approx(
        spearmanr(best, np.arange(6)).statistic
    )
    lost = Transitions([Trajectory(to, no, False, np.zeros(8, bool))])
    assert np.isnan(judge.success_rank(Known(), lost, np.array([[7.0]])))
    short = Transitions([Trajectory(to[:3], no[:2], False)])
    assert np.isnan(judge.time_rank(Known(), short))


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    for a, b in (rng.normal(size=(2, 30)), rng.integers(0, 4, (2, 30))):
        assert judge.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert judge.rank_correlation(np.ones(5), np.arange(5)) == 0


def test_nets_without_a_way_are_told_at_the_end_and_at_load(point_goal):
    made = fitted(point_goal)
    config = dict(made.nets_config)
    good = {**config["statistics"], "time_rank": 0.6, "spread": 0.5, "directions": 9}
    good["success_rank"] = 0.6
    for change, said in (
        ({}, None),
        ({"time_rank": 0.05}, "the reward knows no way: .* is 0.05"),
        ({"success_rank": -0.1}, "does not rise towards this goal: .* is -0.10"),
        ({"spread": 0.01}, "the reward is dead"),
        ({"mass": 5.0}, "the nets are diverging"),
    ):
        statistics = {**good, **change}
        goal = made.with_(nets_config={**config, "statistics": statistics})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            FrameLevel(goal, PIXELS)
        if said is None:
            assert not caught
        else:
            with pytest.warns(UserWarning, match=said):
                FrameLevel(goal, PIXELS)


# What the reward sees


def with_nets(goal, encoder, stack, conditioned=True):
    """A goal with untrained nets on a stack of pictures."""
    features = Features(encoder, stack)
    config = FBConfig(192 * stack, 2, **{**SHAPE, "conditioned": conditioned})
    torch.manual_seed(1)
    weights, saved = FBNets(config).to_arrays()
    return goal.with_(nets=weights, nets_config={**saved, "input": features.card})


def test_a_stack_is_that_of_the_training_data(point_goal):
    """The reward's fold over an episode against the data set's own stacks."""
    goal = with_nets(point_goal, PIXELS, stack=3)
    model = FrameLevel(goal, PIXELS, form="value")
    walks = [played(seed, steps=6) for seed in range(2)]
    frames, actions = (np.stack([w[i] for w in walks], 1) for i in range(2))
    session = Session([model], 2)
    session.begin(frames[0])
    no = np.zeros(2, bool)
    found = []
    for t in range(6):
        # The second row rests at one step, and begins anew after another.
        active = np.array([True, t != 2])
        found.append(
            session.score(actions[t], frames[t + 1], no, no, active)["frame"].value
        )
        if t == 3:
            session.begin(frames[t + 1], np.array([False, True]))
    encoded = PIXELS.encode_images(frames[:, 0]).flatten(1).numpy()
    data = Transitions([Trajectory(encoded, actions[:, 0], False)], stack=3)
    batch = data.of(0)
    key = Features(PIXELS, 3).of_goal(goal.videos[:, -1])
    with torch.no_grad():
        z = model.nets.backward_net(key)
        wanted = model.nets.measure(
            torch.from_numpy(batch.state),
            torch.from_numpy(batch.action),
            z.expand(6, -1),
        ).amin(1)
    np.testing.assert_allclose([f[0] for f in found], wanted, rtol=1e-4)
    second = PIXELS.encode_images(frames[:, 1]).flatten(1).numpy()
    seen = [[0, 0, 0], [0, 0, 1], None, [0, 1, 3], [4, 4, 4], [4, 4, 5]]
    for t, rows in enumerate(seen):
        if rows is None:
            assert found[t][1] == 0
            continue
        state = torch.from_numpy(second[rows].reshape(1, -1))
        with torch.no_grad():
            value = model.nets.measure(state, torch.from_numpy(actions[t, 1:2]), z)
        assert found[t][1] == pytest.approx(float(value.amin()), rel=1e-4)


def test_a_row_that_has_not_begun_to_act_begins_later(point_goal):
    goal = with_nets(point_goal, PIXELS, stack=2)
    frames, actions = played(0, steps=3)

    def play(first):
        """The scores of the row that acts from the start, or from the second step."""
        session = Session([FrameLevel(goal, PIXELS, form="value")], 2)
        session.begin(frames[[0, first]])
        no = np.zeros(2, bool)
        return [
            session.score(
                actions[[t, t]], frames[[t + 1, t + 1]], no, no, np.array([True, t > 0])
            )["frame"].value
            for t in range(3)
        ]

    found = np.array(play(first=1))
    assert found[0, 1] == 0
    # A row that begins at the second frame, alone.
    session = Session([FrameLevel(goal, PIXELS, form="value")], 1)
    session.begin(frames[[1]])
    no = np.zeros(1, bool)
    alone = [
        session.score(actions[[t]], frames[[t + 1]], no, no)["frame"].value[0]
        for t in (1, 2)
    ]
    np.testing.assert_allclose(found[1:, 1], alone, rtol=1e-4)
    assert not np.allclose(found[1, 0], alone[0], rtol=1e-4)


def states_goal(goal, stack=1):
    """A goal whose nets see the environment's four numbers."""
    trajectories = []
    for seed in range(4):
        env = PointMass(size=SIZE, horizon=20, obs="state")
        env.action_space.seed(seed)
        states, actions = [env.reset(seed=seed)[0]], []
        for _ in range(20):
            actions.append(env.action_space.sample())
            states.append(env.step(actions[-1])[0])
        success = np.arange(20) == 10
        trajectories.append(
            Trajectory(np.stack(states), np.stack(actions), False, success)
        )
    made = fitted(
        goal, Features(None, stack), data=Recorded(trajectories, {}), half=False
    )
    return made, [t.states[11] for t in trajectories]


def test_goals_in_numbers_are_spread_over_those_that_succeed(point_goal):
    videos = np.repeat(point_goal.videos, 3, 0)
    goal, reached = states_goal(point_goal.with_(videos=videos, key_frames=(8,) * 3))
    seen = goal.nets_config["input"]["goal_states"]
    np.testing.assert_array_equal(seen, [reached[i] for i in (0, 1, 3)])


def test_only_rewards_on_pictures_want_frames(point_goal):
    steps = np.arange(1, 4)
    goal, _ = states_goal(point_goal)
    assert not FrameLevel(goal, form="value").wants(steps).any()
    goal = with_nets(point_goal, PIXELS, 1)
    assert FrameLevel(goal, PIXELS, form="value").wants(steps).all()


def test_nets_may_see_states_instead(point_goal):
    goal, reached = states_goal(point_goal)
    seen = goal.nets_config["input"]
    assert seen["encoder"] == {}
    np.testing.assert_array_equal(seen["goal_states"], reached[:1])
    env = FrameLevelReward(
        PointMass(size=SIZE, obs="dict"), goal, form="value", horizon=50
    )
    state = env.reset(seed=3)[0]["state"]
    (model,) = env.session.models
    env.action_space.seed(0)
    for _ in range(4):
        action = env.action_space.sample()
        observation, reward, *_ = env.step(action)
        with torch.no_grad():
            z = model.nets.backward_net(torch.from_numpy(reached[0][None]))
            value = model.nets.measure(
                torch.from_numpy(state[None]), torch.from_numpy(action[None]), z
            )
        assert reward == pytest.approx(float(value.amin()), rel=1e-4)
        state = observation["state"]
    with pytest.raises(ValueError, match=r"its observations hold none: .*obs=dict"):
        FrameLevelReward(PointMass(size=SIZE), goal, horizon=50).reset()
    env = FrameLevelReward(Six(PointMass(size=SIZE, obs="dict")), goal, horizon=5)
    env.reset()
    with pytest.raises(ValueError, match="trained on states of 4 numbers, got 6"):
        env.step(env.action_space.sample())


class Six(gym.ObservationWrapper):
    """An environment with two numbers more."""

    def __init__(self, env):
        super().__init__(env)
        box = gym.spaces.Box(-2, 2, (6,), np.float32)
        self.observation_space = gym.spaces.Dict(
            {**env.observation_space.spaces, "state": box}
        )

    def observation(self, observation):
        more = np.zeros(2, np.float32)
        return {**observation, "state": np.append(observation["state"], more)}


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize(
    "mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=["next", "same"]
)
def test_states_mean_the_same_in_every_host(point_goal, stack, mode):
    from stable_baselines3.common.vec_env import DummyVecEnv

    from genreward_wrappers.sb3 import VecFrameLevelReward

    goal, _ = states_goal(point_goal, stack)
    horizon, steps = 4, 11
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 2, 2)).astype(np.float32)

    def make():
        return PointMass(size=SIZE, obs="dict", horizon=horizon)

    def one():
        return FrameLevelReward(make(), goal, form="value", horizon=horizon)

    outside = vector.FrameLevelReward(
        SyncVectorEnv([make] * 2, autoreset_mode=mode), goal, form="value", horizon=4
    )
    inside = SyncVectorEnv([one] * 2, autoreset_mode=mode)
    found = []
    for env in (inside, outside):
        env.reset(seed=5)
        found.append([env.step(a)[1] for a in actions])
    np.testing.assert_allclose(*found, rtol=1e-4)
    if mode == AutoresetMode.SAME_STEP:
        venv = DummyVecEnv([make] * 2)
        venv = VecFrameLevelReward(venv, goal, form="value", horizon=4)
        venv.seed(5)
        venv.reset()
        paid = [venv.step(a)[1] for a in actions]
        np.testing.assert_allclose(paid, found[1], rtol=1e-4)
    assert np.std(found[0]) > 0


def test_stacked_rewards_keep_the_contracts(point_goal):
    model = FrameLevel(with_nets(point_goal, PIXELS, 3), PIXELS, form="difference")
    check_reward_model(model, size=(SIZE, SIZE), tolerance=1e-3)


@pytest.mark.parametrize("conditioned", [True, False])
def test_all_goals_go_through_f_at_once(point_goal, conditioned):
    goal = point_goal.with_(videos=np.repeat(point_goal.videos, 3, 0), key_frames=())
    goal = goal.with_(key_frames=(2, 5, 8))
    model = FrameLevel(with_nets(goal, PIXELS, 1, conditioned), PIXELS, form="value")
    frames, actions = played(0, 8)
    calls = []
    hook = model.nets.forward_net.register_forward_hook(lambda *_: calls.append(None))
    values = model.values(frames[:-1], actions)
    hook.remove()
    assert len(calls) == 1
    state = PIXELS.encode_images(frames[:-1]).flatten(1)
    keys = PIXELS.encode_images(goal.videos[0, [2, 5, 8]]).flatten(1)
    with torch.no_grad():
        of_each = [
            model.nets.measure(state, torch.from_numpy(actions), z.expand(8, -1)).amin(
                1
            )
            for z in model.nets.backward_net(keys)
        ]
    np.testing.assert_allclose(values, torch.stack(of_each).amax(0), rtol=1e-4)


def test_nets_may_see_other_features_than_the_video_is_compared_by(point_goal):
    goal = with_nets(point_goal, PIXELS, 1)
    coarse = PooledPixels((SIZE, SIZE), 4, device="cpu")
    options = {"horizon": 50, "frame_options": {"form": "value"}}
    env = GenRewardWrapper(PointMass(size=SIZE), goal, encoder=coarse, **options)
    video, frame = env.session.models
    assert video.encoder.latent_shape == (3, 4, 4)
    assert frame.encoder.latent_shape == (3, 8, 8)
    # A bundle whose nets see more than its encoder gives.
    broken = goal.with_(
        nets_config={
            **goal.nets_config,
            "input": {"encoder": encoder_card(coarse), "stack": 1},
        }
    )
    with pytest.raises(GoalError, match="take 192 features, 1 x PooledPixels.*give 48"):
        FrameLevel(broken)


class Counting(PooledPixels):
    """Counts the frames that it has encoded."""

    count = 0
    control = False

    def encode_images(self, frames):
        self.count += len(frames)
        return super().encode_images(frames)


def test_both_rewards_encode_a_frame_once(point_goal):
    encoder = Counting((SIZE, SIZE), 8, device="cpu")
    goal = with_nets(point_goal.with_(encoder=encoder_card(encoder)), encoder, 1)
    env = GenRewardWrapper(
        PointMass(size=SIZE, speed=0.3),
        goal,
        encoder=encoder,
        horizon=50,
        frame_options={"form": "value"},
    )
    env.reset(seed=0)
    before = encoder.count
    frames = {env.unwrapped.render().tobytes()}
    for t in range(10):
        env.step(np.array([0.5 * (-1) ** (t // 5), 0.1], np.float32))
        frames.add(env.unwrapped.render().tobytes())
    assert len(frames) > 8
    # The first frame was looked at when the episode began.
    assert encoder.count - before <= len(frames)


def test_a_memo_with_a_limit_forgets_the_oldest():
    counting = Counting((SIZE, SIZE), 8, device="cpu")
    memo = Memo(counting, limit=4)
    frames = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
    exact = PIXELS.encode_images(frames)
    torch.testing.assert_close(memo.encode_images(frames), exact)
    assert (len(memo), counting.count) == (4, 6)
    torch.testing.assert_close(memo.encode_images(frames[2:]), exact[2:])
    assert counting.count == 6
    torch.testing.assert_close(memo.encode_images(frames), exact)
    assert (len(memo), counting.count) == (4, 8)
    assert shared(PIXELS) is shared(PIXELS)
    assert shared(PIXELS).encoder is PIXELS


# The command


def test_the_command_from_collect_to_inspect(tmp_path, capsys, monkeypatch):
    from genreward_wrappers.goal_pipeline.pack import pack

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entry = "genreward_wrappers.testing:PointMass"
    gym.register("test/fit", entry, kwargs={"size": SIZE, "horizon": 12})
    try:
        collect("test/fit", tmp_path / "data", episodes=9)
    finally:
        del gym.registry["test/fit"]
    video = np.stack([played(0)[0][0]] * 9)
    goal = tmp_path / "goal.safetensors"
    pack([video], size=SIZE, length=9, encoder="pixels").save(goal)
    out = tmp_path / "out.safetensors"
    line = ["train-fb", "--goal", str(goal), "--data", str(tmp_path / "data")]
    line += ["--output", str(out), "--updates", "3", "--hidden", "16", "--z", "4"]
    line += ["--backward-hidden", "16", "--batch", "8", "--device", "cpu"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = ["--tensorboard", str(tmp_path / "board")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert main([*line, "--variant", "one-step", *board]) == 0
    said = capsys.readouterr().out
    assert "with forward-backward nets" in said
    assert "time_rank" in said
    assert not (tmp_path / "out.safetensors.checkpoint").exists()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [event.step for event in events.Scalars("mass")] == [3]
    assert list((tmp_path / "cache" / "genreward" / "features").iterdir())
    made = load_goal(out)
    assert made.provenance[-1]["seeds"] == [4_000_000, 4_000_008]
    assert made.nets_config["hidden"] == 16
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    card = json.loads(shown[shown.index("{") : shown.rindex("}") + 1])
    assert card["nets"]["statistics"]["spread"] >= 0
    assert main([*line, "--discount", "1"]) == 1
    assert "discount=1.0: expected at least 0 and below 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoder", "size", "grid"),
    [(None, 8, 8), ("pixels:4", 16, 4), ("state", None, None)],
)
def test_the_command_trains_as_it_is_told(
    point_goal, tmp_path, monkeypatch, encoder, size, grid
):
    """What reaches the training, without the training."""
    # The goal's own encoder looks at smaller pictures than the goal has.
    small = PooledPixels((8, 8), 8, device="cpu")
    goal = point_goal.with_(encoder=encoder_card(small))
    goal.save(tmp_path / "goal.safetensors")
    frames, actions = played(0, 5)
    Episode(
        frames=frames,
        frame_steps=np.arange(6),
        actions=actions,
        success=np.zeros(5, bool),
        states=np.zeros((6, 4), np.float32),
    ).save(tmp_path / "0.safetensors")
    told = {}

    def trained(goal, recorded, features, **options):
        told.update(options, recorded=recorded, features=features)
        return goal.with_(nets=model.nets, nets_config=config)

    model = with_nets(point_goal, PIXELS, 1)
    config = {**model.nets_config, "statistics": {"mean": 0.0, "std": 1.0}}
    monkeypatch.setattr(fit_module, "train_fb", trained)
    out = tmp_path / "out.safetensors"
    line = ["train-fb", "--goal", str(tmp_path / "goal.safetensors")]
    line += ["--data", str(tmp_path), "--output", str(out), "--stack", "2"]
    line += [
        "--updates",
        "3",
        "--batch",
        "8",
        "--device",
        "cpu",
        "--anneal-share",
        "0.5",
    ]
    line += ["--cache", str(tmp_path / "cache")]
    assert main(line + ([] if encoder is None else ["--features", encoder])) == 0
    assert told["features"].stack == 2
    assert told["training"] == FBTraining(**{**SMALL_TRAINING, "batch": 8})
    assert (told["plan"].updates, told["plan"].anneal_share) == (3, 0.5)
    assert told["plan"].checkpoint == tmp_path / "out.safetensors.checkpoint"
    assert told["device"] == "cpu"
    used = told["features"].encoder
    if size is None:
        assert used is None
    else:
        assert (used.size, used.grid) == ((size, size), grid)
    width = 4 if size is None else 3 * grid**2
    (walk,) = told["recorded"].trajectories
    assert walk.states.shape == (6, width)
    assert load_goal(out).nets_config["statistics"]["std"] == 1
