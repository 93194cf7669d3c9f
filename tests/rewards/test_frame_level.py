"""The frame-level reward and the nets under it, on untrained nets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from genreward_wrappers import FrameLevelReward, GenRewardWrapper, GoalBundle, GoalError
from genreward_wrappers.core import Session
from genreward_wrappers.rewards.frame_level import FrameLevel
from genreward_wrappers.testing import PointMass, check_reward_model
from genreward_wrappers.training.forward_backward.nets import (
    FBConfig,
    FBNets,
    action_shape,
)

FEATURES = 3 * 8 * 8
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


def nets(seed=0, **config):
    torch.manual_seed(seed)
    shape = {"features": FEATURES, "actions": 2, "z": 16, "hidden": 32, **config}
    return FBNets(FBConfig(**shape))


def with_nets(goal, model, statistics=None):
    weights, config = model.to_arrays()
    if statistics:
        config = {**config, "statistics": statistics}
    return goal.with_(nets=weights, nets_config=config)


def pooled(frame):
    cells = frame.reshape(8, 4, 8, 4, 3).astype(np.float64).mean((1, 3)) / 255
    return cells.transpose(2, 0, 1).reshape(-1)


def layer(weights, name, x):
    return x @ weights[f"{name}.weight"].T.astype(float) + weights[f"{name}.bias"]


def embed(weights, name, x):
    """Linear, LayerNorm, Tanh, Linear, ReLU, in float64 numpy."""
    x = layer(weights, f"{name}.0", x)
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    x = np.tanh(x * weights[f"{name}.1.weight"] + weights[f"{name}.1.bias"])
    return np.maximum(layer(weights, f"{name}.3", x), 0)


def backward(weights, s):
    y = layer(weights, "backward_net.net.5", embed(weights, "backward_net.net", s))
    return np.sqrt(len(y)) * y / np.linalg.norm(y)


def forward(weights, head, s, a, z):
    root = f"forward_net.heads.{head}"
    where = embed(weights, f"{root}.where", s if z is None else np.append(s, z))
    what = embed(weights, f"{root}.what", np.append(s, a))
    joined = np.maximum(layer(weights, f"{root}.join.0", np.append(where, what)), 0)
    return layer(weights, f"{root}.join.2", joined)


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("heads", ["min", "mean"])
def test_value_against_numpy(goal, conditioned, heads):
    model = nets(conditioned=conditioned)
    bundle = with_nets(goal, model).with_(key_frames=(5, 32, 0))
    weights = bundle.nets
    reward = FrameLevel(bundle, "pixels", form="value", heads=heads)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    actions = rng.uniform(-1, 1, (4, 2)).astype(np.float32)
    values = reward.values(frames, actions)
    zs = [
        backward(weights, pooled(video[key]))
        for video, key in zip(goal.videos, (5, 32, 0), strict=True)
    ]
    for frame, action, value in zip(frames, actions, values, strict=True):
        of_goals = []
        for z in zs:
            given = z if conditioned else None
            both = [
                forward(weights, h, pooled(frame), action, given) @ z for h in (0, 1)
            ]
            of_goals.append(min(both) if heads == "min" else np.mean(both))
        assert value == pytest.approx(max(of_goals), rel=1e-4, abs=1e-4)


def test_forms_are_those_of_the_value(goal):
    bundle = with_nets(goal, nets(discount=0.95), {"mean": 3.0, "std": 2.0})
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (6, 1, 32, 32, 3)).astype(np.uint8)
    actions = rng.uniform(-1, 1, (5, 1, 2)).astype(np.float32)

    def play(form, discount=None):
        model = FrameLevel(bundle, "pixels", form=form, discount=discount)
        session = Session([model], 1)
        session.begin(frames[0])
        no = np.zeros(1, bool)
        return [
            session.score(a, f, no, no)["frame"]
            for a, f in zip(actions, frames[1:], strict=True)
        ]

    value = np.array([s.value[0] for s in play("value")])
    # The action is paired with the frame before it.
    direct = FrameLevel(bundle, "pixels", form="value").values(
        frames[:5, 0], actions[:, 0]
    )
    np.testing.assert_allclose(value, direct, rtol=1e-5)
    normalised = [s.value[0] for s in play("normalised")]
    np.testing.assert_allclose(normalised, (value - 3) / 2, rtol=1e-5)
    difference = play("difference", 0.9)
    assert not difference[0].due[0]
    # Without a discount it is that of the nets.
    for discount, given in ((0.9, 0.9), (0.95, None)):
        np.testing.assert_allclose(
            [s.value[0] for s in play("difference", given)[1:]],
            discount * value[1:] - value[:-1],
            rtol=1e-4,
            atol=1e-5,
        )


def test_a_difference_never_crosses_an_episode(goal):
    model = FrameLevel(with_nets(goal, nets()), "pixels", form="difference")
    session = Session([model], 1)
    frame, no = goal.videos[:1, 0], np.zeros(1, bool)
    for _ in range(2):
        session.begin(frame)
        due = [
            session.score(np.zeros((1, 2)), frame, no, no)["frame"].due[0]
            for _ in range(3)
        ]
        assert due == [False, True, True]


@pytest.mark.parametrize("form", ["value", "difference"])
def test_contracts(goal, form):
    model = FrameLevel(with_nets(goal, nets()), "pixels", form=form)
    check_reward_model(model, size=(32, 32), tolerance=1e-4)


def test_discrete_actions_are_one_hot(goal):
    model = nets(actions=4, discrete=True)
    encoded = model.encode_actions(np.array([2, 0]))
    assert encoded.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    reward = FrameLevel(
        with_nets(goal, model), "pixels", form="value", action_space=spaces.Discrete(4)
    )
    check_reward_model(
        reward, size=(32, 32), action_space=spaces.Discrete(4), tolerance=1e-4
    )
    with pytest.raises(ValueError, match="from 0 to 3, got 1 to 4"):
        model.encode_actions(np.array([1, 4]))
    with pytest.raises(ValueError, match="indices below 4"):
        model.encode_actions(np.zeros((2, 4), np.float32))


def test_b_lies_on_its_sphere():
    model = nets()
    lengths = model.backward_net(torch.randn(20, FEATURES)).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full((20,), 4.0))


def test_nets_survive_a_bundle(goal, tmp_path):
    model = nets(seed=3)
    path = tmp_path / "goal.safetensors"
    with_nets(goal, model).save(path)
    bundle = GoalBundle.load(path)
    again = FBNets.from_arrays(bundle.nets, bundle.nets_config)
    assert again.config == model.config
    for (name, a), b in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_weights_of_another_configuration():
    weights, config = nets().to_arrays()
    with pytest.raises(ValueError, match="expected and not there"):
        FBNets.from_arrays(weights, {**config, "z": 8})
    with pytest.raises(ValueError, match=r"unknown keys \['layers'\]"):
        FBNets.from_arrays(weights, {**config, "layers": 3})
    with pytest.raises(ValueError, match=r"discount=1.0: .*below 1"):
        FBConfig(features=1, actions=1, discount=1.0)


def test_action_spaces():
    assert action_shape(spaces.Discrete(3)) == (3, True)
    assert action_shape(BOX) == (2, False)
    with pytest.raises(ValueError, match="MultiDiscrete"):
        action_shape(spaces.MultiDiscrete([2, 2]))


def test_bad_input(goal):
    bundle = with_nets(goal, nets())
    with pytest.raises(GoalError, match="no frame-level part"):
        FrameLevel(goal, "pixels")
    with pytest.raises(GoalError, match="2 action entries.*Discrete"):
        FrameLevel(bundle, "pixels", form="value", action_space=spaces.Discrete(2))
    with pytest.raises(GoalError, match="no statistics"):
        FrameLevel(bundle, "pixels", form="normalised")
    with pytest.raises(GoalError, match="take 192 features"):
        FrameLevel(bundle, "pixels:4", form="value")
    with pytest.raises(ValueError, match="form='sum'"):
        FrameLevel(bundle, "pixels", form="sum")
    with pytest.raises(ValueError, match=r"shape \(n, 2\), got \(1, 3\)"):
        nets().encode_actions(np.zeros((1, 3)))


def test_both_rewards_in_one_session(goal):
    bundle = with_nets(goal, nets(), {"mean": 0.0, "std": 1.0})
    options = {"goal": bundle, "encoder": "pixels", "horizon": 50}
    env = GenRewardWrapper(
        PointMass(size=32), video_weight=2, frame_weight=3, env_weight=5, **options
    )
    env.reset(seed=0)
    _, reward, _, _, info = env.step(env.action_space.sample())
    parts = [info[f"reward_{name}"] for name in ("video", "frame", "env")]
    assert reward == pytest.approx(np.dot(parts, (2, 3, 5)), rel=1e-6)
    assert all(parts)
    env = FrameLevelReward(PointMass(size=32), **options)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(env.action_space.sample())
    assert reward == info["reward_frame"]


def test_some_steps_may_be_left_out(goal):
    bundle = with_nets(goal, nets(), {"mean": 0.0, "std": 1.0})
    every = FrameLevel(bundle, "pixels", form="value")
    some = FrameLevel(bundle, "pixels", form="value", length=3, horizon=8)
    steps = np.arange(1, 9)
    # Steps 4 and 8 are paid, from the frames before and after them.
    assert steps[some.wants(steps)].tolist() == [3, 4, 7, 8]
    assert every.wants(steps).all()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 1, 32, 32, 3)).astype(np.uint8)
    paid = []
    for model in (every, some):
        session = Session([model], 1)
        session.begin(frames[0])
        no = np.zeros(1, bool)
        action = rng.uniform(-1, 1, (1, 2)).astype(np.float32) * 0
        scores = [session.score(action, f, no, no)["frame"] for f in frames[1:]]
        paid.append([s.value[0] if s.due[0] else None for s in scores])
    wanted = [v if t in (4, 8) else None for t, v in zip(steps, paid[0], strict=True)]
    assert paid[1] == wanted
    with pytest.raises(ValueError, match=r"length=3 is spread over.*give horizon="):
        FrameLevel(bundle, "pixels", form="value", length=3)
    with pytest.raises(ValueError, match="length=3 does nothing with form='differ"):
        FrameLevel(bundle, "pixels", form="difference", length=3, horizon=8)
    with pytest.raises(ValueError, match="discount=0.9 does nothing with form='value"):
        FrameLevel(bundle, "pixels", form="value", discount=0.9)


def test_every_kth_step_keeps_the_frame_before_the_action(goal):
    bundle = with_nets(goal, nets(), {"mean": 0.0, "std": 1.0})
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 1, 32, 32, 3)).astype(np.uint8)
    actions = rng.uniform(-1, 1, (8, 1, 2)).astype(np.float32)
    no = np.zeros(1, bool)

    def paid(every):
        model = FrameLevel(bundle, "pixels", form="value", every=every)
        session = Session([model], 1)
        session.begin(frames[0])
        scores = [
            session.score(a, f, no, no)["frame"]
            for a, f in zip(actions, frames[1:], strict=True)
        ]
        return [s.value[0] if s.due[0] else None for s in scores], model

    all_steps, _ = paid(1)
    some, model = paid(3)
    assert some == [v if t % 3 == 2 else None for t, v in enumerate(all_steps)]
    steps = np.arange(1, 9)
    assert steps[model.wants(steps)].tolist() == [2, 3, 5, 6, 8]
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"every={every}.*whole number"):
            FrameLevel(bundle, "pixels", form="value", every=every)


def test_a_goal_without_nets_is_said_once_and_refused_alone(goal):
    options = {"goal": goal, "encoder": "pixels", "horizon": 50}
    with pytest.warns(UserWarning, match="no frame-level part") as caught:
        env = GenRewardWrapper(PointMass(size=32), **options)
        env.reset(seed=0)
        for _ in range(3):
            *_, info = env.step(env.action_space.sample())
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning points at the caller"
    assert "reward_frame" not in info
    with pytest.raises(GoalError, match="no frame-level part"):
        FrameLevelReward(PointMass(size=32), **options)
