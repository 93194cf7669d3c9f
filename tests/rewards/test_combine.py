"""Combinators against plain numpy, and bonuses that learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from genreward_wrappers import RewardModelWrapper
from genreward_wrappers.core import Score, Session
from genreward_wrappers.rewards.combine import (
    Clip,
    Difference,
    EveryK,
    RunningNormalised,
    Standardise,
    SuccessBonus,
    Transformed,
    WeightedSum,
    symlog,
    terminated,
)
from genreward_wrappers.rewards.exploration import (
    RND,
    Disagreement,
    Learner,
    Pixels,
    predict,
)
from genreward_wrappers.testing import (
    Brightness,
    PointMass,
    Traveller,
    check_reward_model,
)

STEPS, ROWS = 14, 3
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Sparse(Brightness):
    """Brightness, due at odd steps alone; what stands elsewhere is not a score."""

    name = "sparse"

    def step(self, memory, transition):
        (value, due), memory = super().step(memory, transition)
        due = due & (transition.steps % 2 == 1)
        return Score(np.where(due, value, np.float32(99)), due), memory


class Seen(Brightness):
    """Pays the states of before, with those of the episode's first step."""

    name, sees_states = "seen", True

    def step(self, memory, transition):
        value = transition.states.sum(1) * transition.steps
        return Score(value.astype(np.float32), transition.active), memory


def film(seed=0, size=8):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (STEPS + 1, ROWS, size, size, 3)).astype(np.uint8)
    # Brightness of random pictures is always the same; this one's differs.
    return (frames * rng.random((STEPS + 1, ROWS, 1, 1, 1))).astype(np.uint8)


def play(model, frames=None, restart=(), ends=None, active=None, begin=True):
    """(STEPS, ROWS) scores, NaN where nothing is due; row 1 restarts at some steps."""
    frames = film() if frames is None else frames
    session = Session([model], ROWS)
    session.begin(frames[0], seed=0)
    no = np.zeros(ROWS, bool)
    found = []
    for t in range(len(frames) - 1):
        over = no if ends is None else ends[t]
        on = None if active is None else active[t]
        score = session.score(np.full((ROWS, 2), t / 20), frames[t + 1], over, no, on)
        value, due = score[model.name]
        found.append(np.where(due, value, np.nan))
        if over.any():
            session.begin(frames[t + 1], over)
        if t in restart:
            session.begin(frames[t + 1], np.arange(ROWS) == 1)
    return np.array(found)


def brightness(frames=None):
    frames = film() if frames is None else frames
    return frames[1:].mean((2, 3, 4)) / 255


# Against plain numpy


def test_a_weighted_sum_adds_what_is_due():
    model = WeightedSum([(Brightness(), 2.0), (Sparse(), -0.5)])
    expected = brightness().copy() * 2
    expected[::2] -= 0.5 * brightness()[::2]
    np.testing.assert_allclose(play(model), expected, rtol=1e-6)
    alone = play(WeightedSum([(Sparse(), 3.0)]))
    assert np.isnan(alone[1::2]).all()
    np.testing.assert_allclose(alone[::2], 3 * brightness()[::2], rtol=1e-6)


def test_a_sum_of_sums_is_flat_and_names_differ():
    inner = WeightedSum([(Brightness(), 2.0), (Sparse(), 4.0)])
    outer = WeightedSum([(inner, 0.5), (Traveller(), 1.0)])
    assert [(m.name, w) for m, w in outer.parts] == [
        ("brightness", 1.0),
        ("sparse", 2.0),
        ("traveller", 1.0),
    ]
    with pytest.raises(ValueError, match=r"names of their own.*'sparse', 'sparse'"):
        WeightedSum([(Sparse(), 1.0), (Sparse(), 1.0)])
    with pytest.raises(ValueError, match=r"names of their own, got \[\]"):
        WeightedSum([])
    with pytest.raises(ValueError, match="weight of 'sparse' is nan"):
        WeightedSum([(Sparse(), float("nan"))])


def test_a_wrapper_logs_each_part_of_a_sum():
    model = WeightedSum([(Brightness(), 2.0), (RND(device="cpu"), 0.1)])
    env = RewardModelWrapper(PointMass(size=16), model, weight=3.0)
    env.reset(seed=0)
    # The first frame alone has no pixels that differ from their mean.
    assert env.step(np.ones(2, np.float32))[-1]["reward_rnd"] == 0
    _, reward, *_, info = env.step(np.ones(2, np.float32))
    parts = info["reward_brightness"], info["reward_rnd"]
    assert "reward_sum" not in info
    assert reward == pytest.approx(3 * (2 * parts[0] + 0.1 * parts[1]))
    assert min(parts) > 0


def test_transforms_against_numpy():
    raw = brightness()
    for function, expected in (
        (symlog, np.log1p(raw)),
        (Clip(0.2, 0.3), np.clip(raw, 0.2, 0.3)),
        (Standardise(0.1, 0.5), (raw - 0.1) / 0.5),
        (np.negative, -raw),
    ):
        found = play(Transformed(Brightness(), function, name="x"))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        symlog(np.array([-3.0, 0.0, 2.0])), [-np.log(4), 0, np.log(3)]
    )
    # What is not due is not given to the function.
    odd = play(Transformed(Sparse(), lambda values: values / (values < 99)))
    assert np.isfinite(odd[::2]).all()
    assert np.isnan(odd[1::2]).all()


def test_a_reference_set_ignores_what_was_not_due():
    scores = [np.array([1.0, np.nan, 3.0]), np.array([5.0])]
    found = Standardise.of(scores)
    assert found == Standardise(3.0, np.std([1, 3, 5]))
    with pytest.raises(ValueError, match="at least 2 scores, got 1"):
        Standardise.of([np.array([1.0, np.nan])])
    with pytest.raises(ValueError, match="all alike"):
        Standardise.of([np.array([1.0, 1.0])])


@pytest.mark.parametrize("centre", [False, True])
def test_running_normalisation_against_all_scores_so_far(centre):
    found = play(RunningNormalised(Sparse(), centre), restart=(5, 9))
    raw = brightness()
    seen = []
    for t in range(0, STEPS, 2):
        seen += raw[t].tolist()
        shift = np.mean(seen) if centre else 0
        expected = (raw[t] - shift) / np.std(seen)
        np.testing.assert_allclose(found[t], expected, rtol=1e-5)
    assert np.isnan(found[1::2]).all()


def test_running_normalisation_before_there_is_a_scale():
    same = np.full((4, ROWS, 8, 8, 3), 51, np.uint8)
    np.testing.assert_allclose(play(RunningNormalised(Brightness()), same), 0.2)
    np.testing.assert_allclose(
        play(RunningNormalised(Brightness(), True), same), 0, atol=1e-6
    )


def test_rows_that_rest_do_not_count():
    active = np.ones((STEPS, ROWS), bool)
    active[3, 0] = active[5:8, 2] = False

    class Loud(Brightness):
        """Says that it is due whatever happens."""

        def step(self, memory, transition):
            (value, due), memory = super().step(memory, transition)
            return Score(value, np.ones_like(due)), memory

    found = play(RunningNormalised(Loud()), active=active)
    raw, seen = brightness(), []
    for t in range(STEPS):
        seen += raw[t][active[t]].tolist()
    expected = raw[-1] / np.std(seen)
    np.testing.assert_allclose(found[-1], expected, rtol=1e-5)


def test_differences_begin_anew_with_the_episode():
    found = play(Difference(Brightness(), discount=0.9), restart=(6,))
    raw = brightness()
    expected = np.full((STEPS, ROWS), np.nan)
    expected[1:] = 0.9 * raw[1:] - raw[:-1]
    expected[7, 1] = np.nan
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_differences_reach_over_steps_without_a_score():
    found = play(Difference(Sparse(), discount=0.5))
    raw = brightness()
    assert np.isnan(found[[0, *range(1, STEPS, 2)]]).all()
    expected = 0.5 * raw[2::2] - raw[:-2:2]
    np.testing.assert_allclose(found[2::2], expected, rtol=1e-5, atol=1e-7)


class Looks(Brightness):
    """Pays the change of a stretch, its number, and the last action."""

    name = "looks"

    def step(self, memory, transition):
        before = transition.frames.mean((1, 2, 3)) / 255
        after = transition.next_frames.mean((1, 2, 3)) / 255
        value = after - before + transition.steps + transition.actions[:, 0]
        return Score(value.astype(np.float32), transition.active), memory


@pytest.mark.parametrize("k", [1, 3])
def test_every_k_sees_a_stretch_as_one_step(k):
    frames = film()
    found = play(EveryK(Looks(), k), frames, restart=(4,))
    looks = frames.mean((2, 3, 4)) / 255
    expected = np.full((STEPS, ROWS), np.nan)
    for row in range(ROWS):
        starts = [0, 5] if row == 1 else [0]
        for first, last in zip(starts, [*starts[1:], STEPS], strict=True):
            for n, t in enumerate(range(first + k, last + 1, k), 1):
                change = looks[t, row] - looks[t - k, row]
                expected[t - 1, row] = change + n + (t - 1) / 20
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class Notes(Brightness):
    """Uses all of the contract."""

    name, sees_states, goal, stretch = "notes", True, "a goal", 12

    def step(self, memory, transition):
        value = transition.states[:, 0] + 10 * transition.steps
        return Score(value.astype(np.float32), transition.active), memory

    def wants(self, steps):
        return steps == 3

    def notes(self, memory):
        return {"noted": np.arange(ROWS)}

    @property
    def identity(self):
        return "notes of its own"


@pytest.mark.parametrize(
    "model",
    [
        Transformed(Notes(), symlog),
        RunningNormalised(Notes()),
        Difference(Notes()),
        EveryK(Notes(), 3),
        WeightedSum([(Notes(), 1.0), (Brightness(), 1.0)]),
        Transformed(Difference(EveryK(Notes(), 1)), symlog),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_is_around_a_model_loses_nothing_of_it(model):
    assert (model.sees_states, model.goal) == (True, "a goal")
    assert model.stretch == (36 if isinstance(model, EveryK) else 12)
    assert "notes of its own" in model.identity != Notes().identity
    frames = film()
    states = np.arange(ROWS, dtype=np.float32)[:, None]
    session = Session([model], ROWS)
    session.begin(frames[0], states=states)
    assert session.sees_states
    assert session.notes()["noted"].tolist() == list(range(ROWS))
    no = np.zeros(ROWS, bool)
    for t in range(3):
        session.score(np.zeros(ROWS), frames[t + 1], no, no, next_states=states)
    assert session.notes()["noted"].tolist() == list(range(ROWS))


def test_every_k_shows_the_states_of_k_steps_ago():
    frames = film()
    session = Session([EveryK(Notes(), 3)], ROWS)
    states = np.random.default_rng(1).random((STEPS + 1, ROWS, 1)).astype(np.float32)
    session.begin(frames[0], states=states[0])
    no, restart = np.zeros(ROWS, bool), 4
    found = []
    for t in range(STEPS):
        score = session.score(
            np.zeros(ROWS), frames[t + 1], no, no, next_states=states[t + 1]
        )["notes"]
        found.append(np.where(score.due, score.value, np.nan))
        if t == restart:
            session.begin(frames[t + 1], np.arange(ROWS) == 1, states=states[t + 1])
    for row in range(ROWS):
        first = restart + 1 if row == 1 else 0
        steps = range(first + 3, STEPS + 1, 3)
        expected = [states[t - 3, row, 0] + 10 * n for n, t in enumerate(steps, 1)]
        actual = [found[t - 1][row] for t in steps]
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_a_sum_leaves_out_a_part_of_weight_zero():
    broken = Transformed(Brightness(), lambda v: v * np.float32("nan"), name="broken")
    model = WeightedSum([(Brightness(), 2.0), (broken, 0.0)])
    np.testing.assert_allclose(play(model), 2 * brightness(), rtol=1e-6)
    with pytest.raises(TypeError, match="int is no RewardModel"):
        WeightedSum([(3, 1.0)])
    with pytest.raises(TypeError, match="int is no RewardModel"):
        Transformed(3, symlog)


def test_every_k_wants_no_frames_between():
    steps = np.arange(1, 10)
    assert EveryK(Brightness(), 3).wants(steps).tolist() == [
        s % 3 == 0 for s in range(1, 10)
    ]

    class Second(Brightness):
        def wants(self, steps):
            return steps == 2

    assert np.flatnonzero(EveryK(Second(), 4).wants(steps)).tolist() == [7]
    both = WeightedSum([(EveryK(Brightness(), 4), 1.0), (EveryK(Sparse(), 6), 1.0)])
    assert steps[both.wants(steps)].tolist() == [4, 6, 8]
    assert Transformed(Second(), symlog).wants(steps).sum() == 1


def test_the_success_bonus_is_paid_on_success_alone():
    ends = np.zeros((STEPS, ROWS), bool)
    ends[4, 1] = ends[9, 0] = True
    np.testing.assert_array_equal(play(SuccessBonus(5.0), ends=ends), 5.0 * ends)
    bright = SuccessBonus(2.0, lambda t: t.next_frames.mean((1, 2, 3)) > 60)
    expected = 2.0 * (brightness() * 255 > 60)
    assert 0 < expected.sum() < 2 * expected.size
    np.testing.assert_array_equal(play(bright), expected)
    active = ~ends
    resting = play(SuccessBonus(1.0, lambda t: np.ones(ROWS, bool)), active=active)
    np.testing.assert_array_equal(np.isnan(resting), ends)
    assert SuccessBonus(1.0)._when is terminated


@pytest.mark.parametrize(
    "model",
    [
        WeightedSum([(Traveller(), 2.0), (EveryK(Brightness(), 3), 1.0)]),
        Transformed(Traveller(), symlog),
        Difference(Traveller()),
        EveryK(Traveller(), 4),
        SuccessBonus(1.0, lambda t: t.next_frames.mean((1, 2, 3)) > 127),
        Difference(EveryK(Transformed(Traveller(), Clip(-1, 1)), 2)),
        EveryK(Seen(), 3),
    ],
    ids=lambda model: type(model).__name__,
)
def test_combinators_keep_the_contracts(model):
    check_reward_model(model, size=(16, 16))


def test_bad_numbers():
    for make, message in (
        (lambda: Clip(1, 1), "clip from 1 to 1"),
        (lambda: Difference(Brightness(), 1.5), "discount=1.5"),
        (lambda: EveryK(Brightness(), 0), "k=0"),
        (lambda: RND(grid=0), "grid=0"),
        (lambda: RND(learning_rate=float("nan")), "learning_rate=nan"),
        (lambda: Disagreement(BOX, members=1), "cannot disagree"),
        (lambda: Disagreement(spaces.MultiBinary(3)), "Discrete or flat Box"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# Bonuses that learn


def test_adam_and_nets_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    learner = Learner.untrained(1, (4, 8, 8, 3), generator)
    layers = [torch.nn.Linear(4, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)]
    net = torch.nn.Sequential(
        layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]
    )
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.copy_(learner.weights[2 * i][0].T)
            layer.bias.copy_(learner.weights[2 * i + 1][0, 0])
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(5):
        x, y = torch.randn(2, 6, 4, generator=generator).unbind()
        adam.zero_grad()
        loss = (net(x) - y[:, :3]).square().mean()
        loss.backward()
        adam.step()
        weights = [w.clone().requires_grad_() for w in learner.weights]
        said = predict(weights, x)[0]
        own = (said - y[:, :3]).square().mean()
        assert own.item() == pytest.approx(loss.item(), rel=1e-5)
        learner = learner.descended(torch.autograd.grad(own, weights), 0.01)
    x = torch.randn(6, 4, generator=generator)
    torch.testing.assert_close(predict(learner.weights, x)[0], net(x))


def test_pixels_are_standardised_by_all_so_far():
    rng = np.random.default_rng(0)
    data = rng.normal(3, 2, (20, 5)).astype(np.float32)
    data[:, 4] = 0.5
    pixels = Pixels(0, torch.zeros(5), torch.zeros(5))
    for part in np.split(data, [1, 4, 11]):
        pixels = pixels.seen(torch.from_numpy(part))
    scaled = pixels.standardised(torch.from_numpy(data)).numpy()
    expected = (data - data.mean(0)) / np.where(np.arange(5) < 4, data.std(0), 1)
    np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-5)
    far = pixels.standardised(torch.full((1, 5), 1000.0))
    assert far.tolist() == [[5.0] * 5]


def test_rnd_against_its_nets():
    frames = film(size=32)
    model = RND(grid=4, hidden=8, features=3, device="cpu")
    found = play(model, frames[:2])
    pooled = frames[1].reshape(ROWS, 4, 8, 4, 8, 3).mean((2, 4)) / 255
    x = pooled.transpose(0, 3, 1, 2).reshape(ROWS, -1)
    x = np.clip((x - x.mean(0)) / x.std(0), -5, 5)

    def net(weights, x):
        for i in range(0, len(weights), 2):
            x = x @ weights[i][0].double().numpy() + weights[i + 1][0].numpy()
            x = np.maximum(x, 0) if i + 2 < len(weights) else x
        return x

    wanted = net(model._target, x)
    error = ((net(model._untrained.weights, x) - wanted) ** 2).mean(1)
    np.testing.assert_allclose(found[0], error, rtol=1e-4)


def bonuses():
    return (
        RND(grid=8, hidden=32, device="cpu", learning_rate=1e-3),
        Disagreement(BOX, grid=4, hidden=32, device="cpu"),
    )


@pytest.mark.parametrize("model", bonuses(), ids=lambda model: model.name)
def test_what_is_seen_often_is_not_new(model):
    rng = np.random.default_rng(0)
    few = rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    session = Session([model], 1)
    session.begin(few[:1], seed=0)
    no, action = np.zeros(1, bool), np.zeros((1, 2), np.float32)

    def paid(frame):
        return float(session.score(action, frame[None], no, no)[model.name].value[0])

    values = [paid(few[t % 4]) for t in range(400)]
    late = np.mean(values[-20:])
    assert late < 0.2 * np.mean(values[4:24])
    # A new episode is no new world.
    session.begin(few[:1])
    assert paid(few[1]) < 2 * late
    # RND sees a new frame, disagreement what an action does there.
    new = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert max(paid(new), paid(few[3])) > 3 * late


def test_disagreement_is_the_spread_of_its_members():
    frames = film(size=16)
    model = Disagreement(BOX, grid=2, hidden=8, members=3, device="cpu")
    found = play(model, frames[:2])

    def pool(some):
        small = some.reshape(ROWS, 2, 8, 2, 8, 3).mean((2, 4)) / 255
        return small.transpose(0, 3, 1, 2).reshape(ROWS, -1)

    after = pool(frames[1])
    shift, scale = after.mean(0), after.std(0)
    before = np.clip((pool(frames[0]) - shift) / scale, -5, 5)
    x = torch.from_numpy(np.concatenate([before, np.zeros((ROWS, 2))], 1)).float()
    said = predict(model._untrained.weights, x).double().numpy()
    np.testing.assert_allclose(found[0], said.var(0).mean(1), rtol=1e-4)


def test_discrete_actions_are_told_apart():
    space = spaces.Discrete(3, start=1)
    model = Disagreement(space, grid=2, hidden=8, device="cpu")
    encoded = model._encode(np.array([1, 3])).tolist()
    assert encoded == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("model", bonuses(), ids=lambda model: model.name)
def test_a_snapshot_has_the_nets(model):
    frames = film(size=16)
    session = Session([model], ROWS)
    session.begin(frames[0], seed=0)
    no, actions = np.zeros(ROWS, bool), np.zeros((ROWS, 2), np.float32)

    def go(first, last):
        return np.array(
            [
                session.score(actions, frames[t + 1], no, no)[model.name].value
                for t in range(first, last)
            ]
        )

    go(0, 5)
    snapshot = session.snapshot()
    weights = [w.clone() for w in snapshot.memories[0].learner.weights]
    once = go(5, 10)
    assert snapshot.memories[0].learner.steps == 5
    for kept, now in zip(weights, snapshot.memories[0].learner.weights, strict=True):
        assert torch.equal(kept, now)
        assert not now.requires_grad, "the graph of all steps would grow and grow"
    session.restore(snapshot)
    np.testing.assert_array_equal(go(5, 10), once)
    # Without going back, the same frames are better known.
    again = go(5, 10)
    assert not np.array_equal(again, once)


@pytest.mark.parametrize("model", bonuses(), ids=lambda model: model.name)
def test_nothing_is_learned_where_nothing_happens(model):
    frames = film(size=16)
    active = np.ones((STEPS, ROWS), bool)
    active[2:6] = False
    active[7, 0] = False
    found = play(model, frames, active=active)
    assert np.isnan(found[2:6]).all()
    assert np.isfinite(found[7, 1:]).all()
    session = Session([model], ROWS)
    session.begin(frames[0], seed=0)
    before = session.snapshot().memories[0]
    no = np.zeros(ROWS, bool)
    session.score(np.zeros((ROWS, 2)), frames[1], no, no, active=no)
    assert session.snapshot().memories[0] is before


def test_seeds_decide_the_nets():
    first, again = (play(RND(device="cpu", seed=3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, play(RND(device="cpu", seed=4)))


def test_an_agent_trains_on_a_sum_with_a_bonus():
    from stable_baselines3 import PPO

    space = PointMass().action_space
    model = WeightedSum(
        [
            (Transformed(Difference(Brightness()), symlog, name="dim"), 1.0),
            (RunningNormalised(RND(grid=8, device="cpu")), 0.1),
            (Disagreement(space, grid=4, device="cpu"), 0.1),
            (SuccessBonus(1.0), 1.0),
        ]
    )
    env = RewardModelWrapper(PointMass(size=36, horizon=25), model)
    agent = PPO("CnnPolicy", env, n_steps=100, batch_size=50, n_epochs=1, device="cpu")
    agent.learn(200)
    rewards = agent.rollout_buffer.rewards
    assert np.isfinite(rewards).all()
    assert rewards.std() > 0
    assert env.session.snapshot().memories[2].learner.steps == 200
