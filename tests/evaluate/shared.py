"""What the tests of the evaluation share: a small set, and how it is judged."""

from __future__ import annotations

import json

import numpy as np
import torch

from genreward_wrappers import Score
from genreward_wrappers.core import RewardModel
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.evaluate.judge import run
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets

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


def judge(cache, rewards, **kwargs):
    arguments = {"frames": 9, "device": "cpu", "resamples": 20, "counts": COUNTS}
    return run.evaluate(ENV, rewards, cache=cache, **{**arguments, **kwargs})


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


def change(frames, other):
    return np.abs(frames.astype(int) - other).mean()


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


def strict_json(path):
    return json.loads(path.read_text(), parse_constant=refuse)
