"""A served reward pays what a local one pays, whoever else asks at the same time."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass, replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from genreward_wrappers import GenRewardWrapper, RewardModelWrapper, load_reward
from genreward_wrappers.core import Session
from genreward_wrappers.goal_pipeline.pack import pack
from genreward_wrappers.rewards.facts import Facts
from genreward_wrappers.rewards.served import client
from genreward_wrappers.rewards.served.connection import Connection
from genreward_wrappers.rewards.served.rows import Packed, UnlikeError, cut, join
from genreward_wrappers.rewards.served.scorer import (
    Card,
    PartCard,
    Reset,
    Scorer,
    Step,
)
from genreward_wrappers.rewards.spec import RewardSpec
from genreward_wrappers.testing import PointMass
from tests.relabel.recorded import with_nets

HORIZON = 12


@pytest.fixture(scope="module")
def bundle():
    video = (
        np.random.default_rng(0).integers(0, 256, (2, 9, 64, 64, 3)).astype(np.uint8)
    )
    return pack(list(video), size=64, length=9, encoder="embedded:video-vae-64")


class Near(Connection):
    """The way to a scorer in this process, with Ray's pickling on it."""

    def __init__(self, scorer, name="cup"):
        super().__init__(name, "auto", 1)
        self.scorer = scorer

    def ask(self, method, *arguments):
        arguments = pickle.loads(pickle.dumps(arguments))
        if method == "step":
            (reply,) = self.scorer.steps(arguments)
        else:
            reply = getattr(self.scorer, method)(*arguments)
        return pickle.loads(pickle.dumps(reply))


def served_by(scorer, monkeypatch, **options):
    monkeypatch.setattr(client, "Connection", lambda name, *_: Near(scorer, name))
    return load_reward("ray:cup", **options)


def episode(seed, num_envs, steps=HORIZON, size=64):
    """First frames, and the actions and frames that follow."""
    rng = np.random.default_rng(seed)
    shape = (steps + 1, num_envs, size, size, 3)
    frames = rng.integers(0, 256, shape).astype(np.uint8)
    return frames, rng.uniform(-1, 1, (steps, num_envs, 2)).astype(np.float32)


def play(models, seed=0, num_envs=2):
    """All scores, and notes, of an episode."""
    frames, actions = episode(seed, num_envs)
    session, no = Session(models, num_envs), np.zeros(num_envs, bool)
    session.begin(frames[0], seed=seed)
    found = []
    for action, after in zip(actions, frames[1:], strict=True):
        scores = session.score(action, after, no, no)
        found.append({name: score.value.tolist() for name, score in scores.items()})
        found.append({k: v.tolist() for k, v in session.notes().items()})
        found.append(session.wanted.tolist())
    return found


TEXTS = [
    "video",
    "video:encoder=pixels,goals=mean,payment=difference",
    "video:encoder=pixels,length=5,payment=hold,every=2",
    "video:reading=stream,length=9",
    "video:encoder=pixels,reading=window,window=8,length=5,stride=2",
]


@pytest.mark.parametrize("text", TEXTS)
def test_it_pays_what_a_local_model_pays(text, bundle, monkeypatch):
    spec, facts = RewardSpec.parse(text), Facts(horizon=HORIZON, goal=bundle)
    local = [part.model for part in spec.build(facts).parts]
    model = served_by(Scorer(spec, facts), monkeypatch)
    assert (model.name, model.about) == (local[0].name, local[0].about)
    assert model.stretch == local[0].stretch
    assert play([model]) == play(local)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_scored_together_is_as_if_it_were_alone(text, bundle):
    """Three clients in one batch, at different steps of their episodes."""
    scorer = Scorer(RewardSpec.parse(text), Facts(horizon=HORIZON, goal=bundle))
    (card,) = scorer.card().parts
    sizes, no = (1, 2, 3), np.zeros
    episodes = [episode(seed, size) for seed, size in enumerate(sizes)]
    memories, together = [], []
    for seed, (frames, _) in enumerate(episodes):
        size = len(frames[0])
        begin = Reset(card.identity, None, frames[0], no(size) == 0,
                      np.full(size, seed, np.uint64))  # fmt: skip
        memories.append(scorer.reset(begin).memory)
    alone = list(memories)
    for step in range(HORIZON):
        requests = []
        for memory, (frames, actions) in zip(memories, episodes, strict=True):
            size = len(frames[0])
            requests.append(Step(card.identity, memory, transition(
                frames[step], actions[step], frames[step + 1], step + 1, size
            )))  # fmt: skip
        replies = scorer.steps(requests)
        memories = [reply.memory for reply in replies]
        for i, request in enumerate(requests):
            (own,) = scorer.steps([replace(request, memory=alone[i])])
            alone[i] = own.memory
            assert own.error is None
            together.append(replies[i].score.value.tolist())
            # How many rows a network sees at once shows in its last bits.
            close = 0 if "pixels" in text else 1e-5
            assert together[-1] == pytest.approx(own.score.value.tolist(), abs=close)
    assert len({str(values) for values in together}) > len(sizes)


def transition(frames, actions, after, step, size):
    from genreward_wrappers.core import Transition

    no = np.zeros(size, bool)
    steps = np.full(size, step)
    return Transition(frames, actions, after, no, no, ~no, steps)


def test_a_batch_is_one_pass(bundle, monkeypatch):
    scorer = Scorer(RewardSpec.parse("video"), Facts(horizon=HORIZON, goal=bundle))
    model = scorer._parts[scorer.card().parts[0].identity].model
    calls = []
    step = type(model).step

    def counting(self, memory, t):
        calls.append(len(t.active))
        return step(self, memory, t)

    monkeypatch.setattr(type(model), "step", counting)
    requests = []
    for size in (1, 2):
        frames, actions = episode(size, size)
        begin = Reset(model.identity, None, frames[0], np.ones(size, bool),
                      np.zeros(size, np.uint64))  # fmt: skip
        t = transition(frames[0], actions[0], frames[1], 1, size)
        requests.append(Step(model.identity, scorer.reset(begin).memory, t))
    scorer.steps(requests)
    assert calls == [3]


def test_a_wrong_request_is_its_own_fault(bundle):
    scorer = Scorer(
        RewardSpec.parse("video:encoder=pixels"), Facts(horizon=HORIZON, goal=bundle)
    )
    (card,) = scorer.card().parts
    frames, actions = episode(0, 1)
    begin = Reset(card.identity, None, frames[0], np.ones(1, bool),
                  np.zeros(1, np.uint64))  # fmt: skip
    memory = scorer.reset(begin).memory
    t = transition(frames[0], actions[0], frames[1], 1, 1)
    good = Step(card.identity, memory, t)
    tiny = np.zeros((1, 8, 8, 3), np.uint8)
    small = replace(good, transition=replace(t, next_frames=tiny))
    other = replace(good, identity="another")
    replies = scorer.steps([good, small, other, good])
    assert [reply.error is None for reply in replies] == [True, False, False, True]
    assert replies[0].score.value == replies[3].score.value
    with pytest.raises(ValueError, match="'another'.*served under this name now"):
        raise replies[2].error


def test_wrapper_with_both_parts(monkeypatch):
    """Parts, weights and infos are those of the local wrapper."""
    from genreward_wrappers import load_goal, make

    space = gym.spaces.Box(-1, 1, (4,), np.float32)
    facts = Facts("metaworld/coffee-button", 256, action_space=space,
                  goal=load_goal("metaworld/coffee-button"))  # fmt: skip
    served_by(Scorer(RewardSpec(), facts), monkeypatch)
    told = []
    for wrap in (GenRewardWrapper, partial(RewardModelWrapper, model="ray:cup")):
        env = wrap(make("metaworld/coffee-button"))
        env.reset(seed=2)
        env.action_space.seed(2)
        told.append([])
        for _ in range(3):
            _, reward, *_, info = env.step(env.action_space.sample())
            told[-1].append((reward, info))
        env.close()
    assert told[0] == told[1]
    assert told[0][0][1]["weight_frame"] == 0.25


def test_one_weighted_part_keeps_its_weight(bundle, monkeypatch):
    facts = Facts(horizon=HORIZON, goal=bundle)
    spec = RewardSpec.parse("genreward:video_weight=3,frame_weight=0,encoder=pixels")
    scorer = Scorer(spec, facts)
    model = served_by(scorer, monkeypatch)
    assert [(part.name, weight) for part, weight in model.parts] == [("video", 3)]


def test_a_reward_that_keeps_no_time_is_for_any_horizon(bundle, monkeypatch):
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    facts = Facts(horizon=HORIZON, goal=with_nets(bundle), action_space=space)
    scorer = Scorer(RewardSpec.parse("frame:form=value"), facts)
    assert scorer.card().horizon is None
    assert served_by(scorer, monkeypatch, horizon=HORIZON + 1).name == "frame"


def test_what_a_model_is_is_known_where_it_is_served(monkeypatch):
    """That it looks at states; and its steps, of which a thousand are asked at once."""
    part = PartCard("even", "even", "pays", 1.0, True, None)
    asked = []

    class Even:
        def card(self):
            return Card((part,), None, None)

        def wants(self, identity, steps):
            asked.append(len(steps))
            return steps % 2 == 0

    model = served_by(Even(), monkeypatch)
    assert model.sees_states
    for last in (5, 900, 5000, 5001):
        steps = np.array([1, 2, last])
        assert model.wants(steps).tolist() == [False, True, last % 2 == 0]
    assert len(asked) == 2


def test_a_copy_in_another_process_connects_by_itself():
    one = Connection("cup", "auto", 1)
    one._handle = lambda: "of this process"
    copy = pickle.loads(pickle.dumps(one))
    assert (copy.name, copy._handle) == ("cup", None)


def test_state_is_saved_and_resumed(bundle, monkeypatch, tmp_path):
    facts = Facts(horizon=HORIZON, goal=bundle)
    scorer = Scorer(RewardSpec.parse("video"), facts)

    def env():
        served_by(scorer, monkeypatch)
        return RewardModelWrapper(
            PointMass(horizon=HORIZON), "ray:cup", horizon=HORIZON
        )

    one, other = env(), env()
    for each in (one, other):
        each.reset(seed=0, options={"target": (5, 5)})
    one.step(np.ones(2))
    one.save_state(tmp_path / "state.safetensors")
    expected = one.step(np.ones(2))[1]
    other.step(-np.ones(2))
    other.load_state(tmp_path / "state.safetensors")
    other.unwrapped.position = one.unwrapped.position - 0.1
    other.unwrapped._step = 1
    assert other.step(np.ones(2))[1] == expected
    # Another reward refuses the state.
    scorer = Scorer(RewardSpec.parse("video:encoder=pixels"), facts)
    third = env()
    third.reset(seed=0)
    with pytest.raises(ValueError, match="state of the models"):
        third.load_state(tmp_path / "state.safetensors")


# Bad input


def test_another_reward_under_the_same_name_is_noticed(bundle, monkeypatch):
    facts = Facts(horizon=HORIZON, goal=bundle)
    scorer = Scorer(RewardSpec.parse("video:encoder=pixels"), facts)
    model = served_by(scorer, monkeypatch)
    session, no = Session([model], 1), np.zeros(1, bool)
    frames, actions = episode(0, 1)
    session.begin(frames[0], seed=0)
    other = Scorer(RewardSpec.parse("video:encoder=pixels,score=cosine"), facts)
    scorer._parts = other._parts
    with pytest.raises(ValueError, match="make the environment anew"):
        session.score(actions[0], frames[1], no, no)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 13}, "'cup' is for episodes of 12 steps.*have 13"),
        (
            {"action_space": gym.spaces.Discrete(3)},
            r"for actions in Box.*Discrete\(3\)",
        ),
        ({"action_space": gym.spaces.Box(-1, 1, (3,))}, r"for actions in Box.*\(3,\)"),
        ({"every": 5}, "said where the reward is served.*video:every=5"),
    ],
)
def test_what_does_not_fit_is_refused(options, message, bundle, monkeypatch):
    space = gym.spaces.Box(-1, 1, (2,))
    facts = Facts(horizon=HORIZON, goal=bundle, action_space=space)
    scorer = Scorer(RewardSpec.parse("video:encoder=pixels"), facts)
    with pytest.raises(ValueError, match=message):
        served_by(scorer, monkeypatch, **{"horizon": HORIZON, **options})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ray", {}, "'ray' comes in variants, as 'ray:<name>'"),
        ("ray:", {}, "needs the name of a served reward"),
        ("ray:cup", {"timeout": 0}, "timeout=0.*above 0"),
    ],
)
def test_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_reward(name, **options)


def test_what_cannot_be_served(bundle):
    with pytest.raises(ValueError, match="env_weight= to the wrapper"):
        Scorer(RewardSpec("env"), Facts(horizon=HORIZON))
    spec = RewardSpec.of("genreward", {"encoder": "pixels", "env_weight": 1.0})
    with pytest.raises(ValueError, match="env_weight= to the wrapper"):
        Scorer(spec, Facts(horizon=HORIZON, goal=bundle))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.exceptions", None)
    with pytest.raises(ImportError, match=r"genreward-wrappers\[ray\]"):
        load_reward("ray:cup")


def test_no_cluster_at_an_address():
    pytest.importorskip("ray")
    with pytest.raises(ConnectionError, match="at '127.0.0.1:9'.*--name cup"):
        load_reward("ray:cup", address="127.0.0.1:9")


# Rows


@dataclass(frozen=True)
class Memory:
    first: object
    cache: object = None


def test_rows_are_joined_and_cut():
    def memory(n, dtype=torch.float32):
        seen = torch.arange(n * 2).reshape(n, 2).to(dtype)
        return Memory(np.arange(n), {"a": [seen, None], "notes": {}})

    one, other = memory(2, torch.bfloat16), memory(1, torch.bfloat16)
    both = join([cut(one, None), cut(other, None)], [2, 1])
    assert both.first.tolist() == [0, 1, 0]
    assert both.cache["a"][0].dtype == torch.bfloat16
    assert both.cache["a"][0].tolist() == [[0, 1], [2, 3], [0, 1]]
    apart = cut(both, slice(2, 3))
    assert isinstance(apart.cache["a"][0], Packed)
    assert apart.cache["notes"] == {}
    again = join([apart], [1])
    assert torch.equal(again.cache["a"][0], other.cache["a"][0])
    assert again.first.flags.owndata


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4))),
        (np.zeros((2, 3)), np.zeros((2, 3), int)),
        (np.zeros(3), np.zeros(2)),
        (None, np.zeros(2)),
        (4, 4),
        ({"a": np.zeros(2)}, {"b": np.zeros(2)}),
        # A history a row, as long as there are rows: no rows for all that.
        ((np.zeros(2),) * 2, (np.zeros(2),) * 2),
    ],
)
def test_what_has_no_rows_is_left_whole(one, other):
    with pytest.raises(UnlikeError):
        join([Memory(one), Memory(other)], [2, 2])
    alone = join([Memory(one)], [2])
    assert type(alone.first) is type(one)


def test_a_history_for_each_row_is_not_cut():
    with pytest.raises(UnlikeError):
        cut(Memory((np.zeros(2), np.zeros(2))), slice(0, 1))
    with pytest.raises(UnlikeError):
        cut(Memory(np.float32(1)), slice(0, 1))
