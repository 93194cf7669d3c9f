"""What every family of environments owes to `PixelEnv`, whatever its simulator."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import warnings
from functools import partial
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from genreward_wrappers.envs import _gl
from genreward_wrappers.envs.dm_control import DmControlEnv
from genreward_wrappers.envs.families import register_environments
from genreward_wrappers.envs.metaworld import MetaWorldEnv
from tests import ROOT
from tests.envs.playing import NOTHING_CHOSEN, digest, making, refused, rollout, run


class Family(NamedTuple):
    """One family.

    Attributes:
        cls: Its class.
        prefix: Its ids begin with this.
        extra: The extra that installs it.
        packages: The packages of that extra.
        task: One of its tasks.
        camera: A camera of that task that is not the default.
        small: A task that is drawn quickly.
    """

    cls: type[gym.Env]
    prefix: str
    extra: str
    packages: tuple[str, ...]
    task: str
    camera: str
    small: str


METAWORLD = Family(
    MetaWorldEnv,
    "metaworld",
    "metaworld",
    ("metaworld", "mujoco"),
    task="push",
    camera="corner3",
    small="reach",
)
DM_CONTROL = Family(
    DmControlEnv,
    "dmc",
    "dm-control",
    ("dm_control", "shimmy"),
    task="walker-walk",
    camera="back",
    small="point_mass-easy",
)
FAMILIES = (METAWORLD, DM_CONTROL)


def of_all(rows: list[tuple[Any, ...]], names: str = "family") -> Any:
    """Parametrised by families and more; those that are not installed are skipped."""
    # Not importorskip: who imports dm_control chooses how it draws.
    lacks = {
        family: any(importlib.util.find_spec(name) is None for name in family.packages)
        for family in FAMILIES
    }
    params = [
        pytest.param(
            *row,
            marks=pytest.mark.skipif(lacks[row[0]], reason=f"no {row[0].extra}"),
            id="-".join([row[0].prefix, *map(str, row[1:])]),
        )
        for row in rows
    ]
    return pytest.mark.parametrize(names, params)


each_family = of_all([(family,) for family in FAMILIES])

makes = {family.prefix: making(family.cls) for family in FAMILIES}
make_metaworld, make_dmc = makes["metaworld"], makes["dmc"]


@pytest.fixture
def make(request, family):
    """Makes environments of a family that are closed when the test is over."""
    return request.getfixturevalue(f"make_{family.prefix}")


# Seeds


@of_all(
    [(METAWORLD, task, "pixels") for task in ("pick-place", "window-open", "door-lock")]
    + [
        (DM_CONTROL, task, "state")
        for task in ("point_mass-hard", "stacker-stack_2", "lqr-lqr_2_1")
    ],
    "family,task,obs",
)
def test_seed_decides_everything_whatever_came_before(make, task, obs):
    env = make(task, obs=obs)
    first = digest(rollout(env, seed=3))
    for seed in (8, 9):
        rollout(env, seed, steps=20)
    assert digest(rollout(env, seed=3)) == first
    assert digest(rollout(make(task, obs=obs), seed=3)) == first
    assert digest(rollout(env, seed=4)) != first


@of_all([(METAWORLD, "reach"), (DM_CONTROL, "finger-turn_hard")], "family,task")
def test_seed_means_the_same_in_another_process(make, family, task):
    code = (
        "from tests.envs.playing import *\n"
        f"from {family.cls.__module__} import {family.cls.__name__} as Env\n"
        f"print(digest(rollout(Env({task!r}), seed=5)))"
    )
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    other = run(code, PYTHONPATH=path, PYTHONHASHSEED="1")
    assert other == digest(rollout(make(task), seed=5))


# Pictures


@of_all([(METAWORLD, "reach"), (DM_CONTROL, "walker-walk")], "family,task")
def test_full_quality_differs_only_in_detail(make, task):
    fast, _ = make(task, render_quality="fast").reset(seed=0)
    full, _ = make(task, render_quality="full").reset(seed=0)
    assert 0 < np.abs(fast.astype(int) - full).mean() < 16


@pytest.fixture
def renders(monkeypatch):
    """Counts pictures drawn."""
    counted = []
    draw = _gl.OffscreenRenderer.render

    def counting(self, *args):
        counted.append(1)
        return draw(self, *args)

    monkeypatch.setattr(_gl.OffscreenRenderer, "render", counting)
    return counted


@each_family
@pytest.mark.parametrize(
    ("obs", "asked", "drawn"),
    [
        ("pixels", True, 3),
        ("dict", True, 3),
        ("state", True, 3),
        ("pixels", False, 3),
        ("state", False, 0),
    ],
)
def test_a_step_is_drawn_at_most_once(make, family, renders, obs, asked, drawn):
    env = make(family.small, obs=obs, render_mode="rgb_array")
    env.reset(seed=0)
    for step in range(3):
        if asked:
            env.render()[:] = 0
            assert env.render().max() > 0
        if step < 2:
            env.step(np.zeros(env.action_space.shape, np.float32))
    assert len(renders) == drawn


# Observations and steps


@each_family
@pytest.mark.parametrize("obs", ["pixels", "state", "dict"])
@pytest.mark.filterwarnings("ignore:.*a Box observation space m.*imum value is -?inf")
@pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend")
def test_gymnasium_accepts_it(family, obs):
    env = gym.make(f"{family.prefix}/{family.small}", obs=obs, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


@each_family
def test_a_repeated_action_is_two_steps(make, family):
    once = make(family.task, obs="state")
    twice = make(family.task, obs="state", action_repeat=2)
    once.reset(seed=0)
    twice.reset(seed=0)
    action = np.full(once.action_space.shape, 0.5, np.float32)
    a, b = once.step(action), once.step(action)
    state, reward, *_ = twice.step(action)
    np.testing.assert_array_equal(state, b[0])
    assert reward == a[1] + b[1]


# Registration, copies, workers


def test_registered_once():
    register_environments()
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # gymnasium warns when it overwrites one
        register_environments()
    assert dict(gym.registry) == before


@each_family
def test_spec_survives_json(family):
    env = gym.make(
        f"{family.prefix}/{family.task}",
        size=(32, 48),
        camera=family.camera,
        obs="dict",
        render_quality={"shadows": True, "samples": 2},
    )
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    first, second = env.reset(seed=0)[0], again.reset(seed=0)[0]
    np.testing.assert_array_equal(first["pixels"], second["pixels"])
    assert again.unwrapped.size == (32, 48)
    assert again.unwrapped.camera == family.camera
    env.close()
    again.close()


@each_family
def test_pickles_with_an_open_renderer(make, family):
    env = make(family.task, size=(32, 48), camera=family.camera)
    expected = digest(rollout(env, seed=2))
    for pickler in (pickle, cloudpickle):
        copy = pickler.loads(pickler.dumps(env))
        assert digest(rollout(copy, seed=2)) == expected
        copy.close()


@each_family
def test_vectors_draw_the_same(make, family):
    expected = [make(family.small, size=32).reset(seed=s)[0] for s in (3, 4)]
    envs = gym.make_vec(f"{family.prefix}/{family.small}", num_envs=2, size=32)
    np.testing.assert_array_equal(envs.reset(seed=[3, 4])[0], expected)
    envs.close()
    factory = partial(family.cls, family.small, size=32)
    envs = gym.vector.AsyncVectorEnv([factory, factory], context="spawn")
    np.testing.assert_array_equal(envs.reset(seed=[3, 4])[0], expected)
    envs.close()


# What goes wrong


@each_family
@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"size": 0}, ["size", "0"]),
        ({"size": "64"}, ["size", "'64'"]),
        ({"size": 64.0}, ["size", "64.0"]),
        ({"size": (64, 64, 3)}, ["size", "(64, 64, 3)"]),
        ({"obs": "pixel"}, ["'pixel'", "'pixels'", "'state'", "'dict'"]),
        ({"render_quality": "slow"}, ["'slow'", "'fast'", "'full'"]),
        ({"render_quality": {"shadow": True}}, ["{'shadow': True}", "'shadows'"]),
        ({"render_quality": {"shadows": 1}}, ["{'shadows': 1}", "True or False"]),
        ({"render_quality": {"samples": -1}}, ["{'samples': -1}", "a whole number"]),
        ({"render_quality": {"samples": True}}, ["{'samples': True}", "whole number"]),
        ({"render_quality": {"whole_meshes": 0}}, ["'whole_meshes'", "True or False"]),
        ({"render_mode": "human"}, ["'human'", "'rgb_array'"]),
        ({"action_repeat": 0}, ["action_repeat", "0"]),
        ({"action_repeat": 1.5}, ["action_repeat", "1.5"]),
    ],
)
def test_bad_arguments_are_quoted_with_what_would_do(family, kwargs, words):
    refused(family.cls, kwargs, words)


@each_family
def test_bad_actions_are_refused(make, family):
    env = make(family.task, obs="state")
    env.reset(seed=0)
    (size,) = env.action_space.shape
    for action in (np.zeros(3), np.full(size, np.nan), [[0] * size]):
        with pytest.raises(ValueError, match=f"{size} finite numbers"):
            env.step(action)


@each_family
def test_render_without_a_mode_says_so(make, family):
    env = make(family.small)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match='render_mode="rgb_array"'):
        assert env.render() is None


@of_all(
    [(family, missing) for family in FAMILIES for missing in family.packages],
    "family,missing",
)
def test_a_missing_package_names_the_extra(family, missing):
    uses = [f"module.{family.cls.__name__}"]
    if family is METAWORLD:
        uses.append("lambda: module.scripted_policy('reach')")
    code = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        f"import {family.cls.__module__} as module\n"
        f"for use in ({', '.join(uses)},):\n"
        "    try:\n"
        "        use()\n"
        "    except ImportError as error:\n"
        f"        assert 'genreward-wrappers[{family.extra}]' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError('no error')\n"
        "print('fine')"
    )
    assert run(code) == "fine"


def test_importing_loads_no_simulator():
    code = (
        "import sys, genreward_wrappers.envs.families as module\n"
        "module.register_environments()\n"
        "heavy = {'mujoco', 'metaworld', 'dm_control', 'shimmy', 'torch', 'triton'}\n"
        "heavy |= {'OpenGL', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run(code) == "[]"


@each_family
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux needs the choice")
def test_rendering_before_torch_does_not_end_the_process(family):
    """Software GL and triton bring an LLVM each; the wrong order is a crash."""
    pytest.importorskip("torch")
    code = (
        "import os, sys\n"
        f"from {family.cls.__module__} import {family.cls.__name__} as Env\n"
        f"env = Env({family.small!r}, obs='state', render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "assert env.render().std() > 1\n"
        "assert 'torch' not in sys.modules\n"
    )
    # An agent's training takes longer to import, and is tried once.
    code += (
        "from stable_baselines3 import PPO\n"
        "agent = PPO('MlpPolicy', env, n_steps=8, batch_size=8, n_epochs=1)\n"
        "agent.learn(8)\n"
        if family is METAWORLD
        else "import torch\n"
        "weight = torch.nn.Parameter(torch.zeros(1))\n"
        "weight.grad = torch.ones(1)\n"
        "torch.optim.Adam([weight]).step()\n"
    )
    code += "print(os.environ['MUJOCO_GL'])"
    assert run(code, **NOTHING_CHOSEN) in ("egl", "osmesa")
