"""A served reward on a real Ray cluster: two workers, replicas that die, clusters gone.

Runs where Ray is installed (the extra ray), which the ordinary tests do without.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from genreward_wrappers import RewardModelWrapper, load_reward
from genreward_wrappers.core import Session
from genreward_wrappers.goal_pipeline.pack import pack
from genreward_wrappers.rewards.facts import Facts
from genreward_wrappers.rewards.served.scorer import Card, PartCard, Reply
from genreward_wrappers.rewards.spec import RewardSpec
from genreward_wrappers.testing import PointMass

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

from genreward_wrappers.rewards.served.deployment import deploy, withdraw  # noqa: E402
from tests.ray_cluster import cluster  # noqa: E402, F401

# A cluster of its own starts, and processes that import torch.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("cluster"),
]

HORIZON = 20
REWARD = "video:encoder=pixels"


@pytest.fixture(scope="module")
def bundle():
    videos = np.random.default_rng(0).integers(0, 256, (1, 9, 64, 64, 3))
    videos = list(videos.astype(np.uint8))
    return pack(videos, size=64, length=9, encoder=None)


@pytest.fixture(scope="module")
def local(bundle):
    return load_reward("video", goal=bundle, encoder="pixels", horizon=HORIZON)


@pytest.fixture(scope="module")
def cup(bundle):
    """The reward ray:cup, which leaves room for two workers."""
    facts = Facts(horizon=HORIZON, goal=bundle)
    deploy(RewardSpec.parse(REWARD), facts, "cup", cpus=0.1)
    return partial(RewardModelWrapper, PointMass(horizon=HORIZON), horizon=HORIZON)


def play(env, seed=0, between=lambda step: None):
    env.reset(seed=seed, options={"target": (5, 5)})
    env.action_space.seed(seed)
    rewards = []
    for step in range(HORIZON):
        between(step)
        rewards.append(env.step(env.action_space.sample())[1])
    return rewards


def _replicas(name):
    return [
        actor
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"].startswith(f"SERVE_REPLICA::{name}#")
    ]


def kill(name="cup"):
    """Kills a replica as a crash would."""
    for actor in _replicas(name):
        ray.kill(ray.get_actor(actor["name"], namespace="serve"), no_restart=True)


def test_workers_are_paid_as_by_a_local_model(cup, local):
    @ray.remote(num_cpus=0.5)
    def work(seed):
        env = RewardModelWrapper(PointMass(horizon=HORIZON), "ray:cup", horizon=HORIZON)
        return play(env, seed), os.getpid()

    expected = [play(cup(model=local), seed) for seed in range(2)]
    found = ray.get([work.remote(seed) for seed in range(2)])
    assert [rewards for rewards, _ in found] == expected
    assert len({pid for _, pid in found} | {os.getpid()}) == 3


def test_a_replica_that_dies_is_retried(cup, local):
    expected = play(cup(model=local))
    # The next replica has to import torch first.
    env = cup(model=load_reward("ray:cup", timeout=300))
    assert play(env, between=lambda step: kill() if step == 9 else None) == expected


def test_in_a_notebook_too(cup):
    """Where a loop is running, Ray Serve does not wait by itself."""

    async def cell():
        return play(cup(model="ray:cup"))

    assert asyncio.run(cell()) == play(cup(model="ray:cup"))


# Bad input


@pytest.fixture
def broken():
    """Serves ray:broken, which dies at a step and takes its time at a reset."""

    class Broken:
        async def card(self):
            part = PartCard("broken", "broken", "", 1.0, False, None)
            return Card((part,), None, None)

        async def wants(self, identity, steps):
            return steps >= 0

        async def reset(self, request):
            time.sleep(2 * int(request.seeds[0] == 0))
            return Reply(memory=None, notes={})

        async def step(self, request):
            os.kill(os.getpid(), signal.SIGKILL)

    options = {"name": "reward", "ray_actor_options": {"num_cpus": 0.1}}
    bound = serve.deployment(Broken).options(**options).bind()
    serve.run(bound, name="broken", route_prefix=None)
    yield
    withdraw("broken")


def test_replicas_that_die_twice_and_slow_ones(broken):
    model = load_reward("ray:broken")
    model._connection.timeout = 0.5
    frames, everyone = np.zeros((1, 8, 8, 3), np.uint8), np.ones(1, bool)
    with pytest.raises(TimeoutError, match=r"'broken'.*within 0\.5 s.*timeout="):
        model.reset(None, frames, everyone, np.zeros(1, np.uint64))
    model._connection.timeout = 600
    session = Session([model], 1)
    session.begin(frames, seed=1)
    with pytest.raises(ConnectionError, match="two replicas.*'broken' died"):
        session.score(np.zeros(1), frames, ~everyone, ~everyone)


def test_a_reward_that_cannot_be_built_says_so(bundle):
    with pytest.raises(ValueError, match="horizon="):
        deploy(RewardSpec.parse(REWARD), Facts(goal=bundle), "wrong", cpus=0.1)
    assert "wrong" not in serve.status().applications


def test_a_name_is_given_once(cup, bundle):
    with pytest.raises(ValueError, match="'cup' is served already"):
        deploy(RewardSpec.parse(REWARD), Facts(horizon=9, goal=bundle), "cup")


def test_the_command(tmp_path, bundle):
    """Serves in a cluster that it starts, until it is interrupted."""
    bundle.save(tmp_path / "goal.safetensors")
    command = [
        sys.executable, "-m", "genreward_wrappers", "serve", "--reward",
        "video:encoder=pixels", "--goal", str(tmp_path / "goal.safetensors"),
        "--horizon", str(HORIZON), "--name", "cup", "--address", "local",
    ]  # fmt: skip
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    try:
        assert served.stdout.readline() == "ray:cup pays video (stop with Ctrl-C)\n"
    finally:
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 130
        served.stdout.close()


def test_what_is_not_served_or_not_any_more(cup):
    # The last test: it ends the cluster.
    with pytest.raises(ConnectionError, match="'mug' is not served.*served are: cup"):
        load_reward("ray:mug")
    env = cup(model="ray:cup")
    env.reset(seed=0)
    withdraw("cup")
    with pytest.raises(ConnectionError, match="'cup' is not served.*are: none"):
        env.step(env.action_space.sample())
    # And then there is no cluster.
    ray.shutdown()
    with pytest.raises(ConnectionError, match="no Ray cluster at 'auto'.*--name cup"):
        env.step(env.action_space.sample())
