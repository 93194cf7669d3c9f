"""Drawing and training in one process, in any order: nothing ends in a crash."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
pytest.importorskip("mujoco")
if sys.platform != "linux":
    pytest.skip("Mesa and triton meet on Linux", allow_module_level=True)

MAKE = {
    "gymnasium": 'gym.make("HalfCheetah-v5", render_mode="rgb_array", **size)',
    "metaworld": (
        '(__import__("metaworld"), gym.make("Meta-World/MT1", env_name="reach-v3", '
        'seed=0, render_mode="rgb_array", camera_name="corner2", **size))[1]'
    ),
    "shimmy": (
        '(__import__("shimmy"), gym.make("dm_control/walker-walk-v0", '
        'render_mode="rgb_array", render_kwargs={**size, "camera_id": 0}))[1]'
    ),
    "own": (
        'gym.make("genreward_wrappers:metaworld/reach", obs="state", '
        'render_mode="rgb_array")'
    ),
}

STEP = {
    "import": "import genreward_wrappers",
    "torch": "import torch",
    # Which imports dm_control, which opens a display.
    "rllib": "from ray.rllib.algorithms.ppo import PPOConfig",
    "make": "env = {make}",
    "render": "env.reset(seed=0); assert env.render().std() > 1",
    "wrap": """
from genreward_wrappers import VideoLevelReward, load_goal
goal = load_goal(None, "metaworld/pick-place")
env = VideoLevelReward(env, goal=goal, horizon=100)
env.reset(seed=0)
assert env.step(env.action_space.sample())[1] > 0
""",
    "optimize": """
import torch
weight = torch.nn.Parameter(torch.zeros(1))
weight.grad = torch.ones(1)
torch.optim.Adam([weight]).step()
assert weight.item() < 0
""",
    "agent": """
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import PPO
agent = PPO("MlpPolicy", FlattenObservation(env), n_steps=8, batch_size=8, n_epochs=1)
agent.learn(8)
""",
}

ORDERS = (
    # This package comes when it is too late for triton.
    "make render wrap optimize agent",
    # torch comes first of all, which imports no triton by itself.
    "torch make render wrap agent",
    # The usual order; the agent is made before the reward, and after it.
    "import make render agent wrap",
    "import make wrap render agent",
)

#: The same with RLlib. Every one of its runners begins with the first.
RLLIB = (
    "rllib make wrap render optimize",
    "import rllib make render wrap agent",
    "make render rllib wrap optimize",
    "import make render wrap rllib agent",
)

#: Each environment with two orders, each order with two environments.
CASES = [
    ("gymnasium", ORDERS[0], "egl"),
    ("gymnasium", ORDERS[2], "egl"),
    ("metaworld", ORDERS[1], "egl"),
    ("metaworld", ORDERS[2], "egl"),
    ("shimmy", ORDERS[0], "egl"),
    ("shimmy", ORDERS[3], "egl"),
    ("own", ORDERS[1], "egl"),
    ("own", ORDERS[3], "egl"),
    ("gymnasium", ORDERS[0], "osmesa"),
    *(("gymnasium", order, "egl") for order in RLLIB),
    ("metaworld", RLLIB[0], "egl"),
    ("shimmy", RLLIB[2], "egl"),
    ("own", RLLIB[0], "egl"),
    ("gymnasium", RLLIB[0], "osmesa"),
]


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONFAULTHANDLER": "1", **environ}
    # Which mujoco sets where it is imported, and refuses beside another backend.
    env.pop("PYOPENGL_PLATFORM", None)
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("package", "order", "backend"), CASES)
def test_any_order_survives(package, order, backend):
    library = {"egl": "EGL", "osmesa": "OSMesa"}[backend]
    if ctypes.util.find_library(library) is None:
        pytest.skip(f"no {library} here")
    for needed in {"metaworld", "shimmy"} & {package}:
        pytest.importorskip(needed)
    if package == "own":
        pytest.importorskip("metaworld")
    if "rllib" in order:
        pytest.importorskip("ray.rllib")
    for needed in ("diffusers", "stable_baselines3"):
        pytest.importorskip(needed)
    head = "import gymnasium as gym\nsize = {'width': 64, 'height': 64}"
    steps = [STEP[name].replace("{make}", MAKE[package]) for name in order.split()]
    done = run(
        "\n".join([head, *steps, "print('alive', flush=True)"]), MUJOCO_GL=backend
    )
    # How GL contexts of others are freed at the very end is not ours to say.
    assert "alive" in done.stdout, f"{done.returncode}\n{done.stderr[-2000:]}"


LATE = """
import sys, warnings
import mujoco
mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).render()
late = any("libLLVM" in line for line in open("/proc/self/maps"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import genreward_wrappers
    from genreward_wrappers.encoders.registry import load_encoder
    load_encoder("pixels", device="cpu")
    import torch
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
said = [w for w in caught if "triton" in str(w.message)]
print(late, len(said), sys.modules.get("triton") is None)
"""


def test_too_late_is_said_once():
    done = run(LATE, MUJOCO_GL="egl")
    if "True" not in done.stdout.split()[:1]:
        pytest.skip("this EGL is no software driver")
    assert done.stdout.split() == ["True", "1", "True"], done.stderr


def first(code: str) -> list[str]:
    """Modules that a script ends with, of two; mujoco opens no display by itself."""
    code += "\nimport sys; print(*sorted({'triton', 'torch'} & set(sys.modules)))"
    done = run(code, MUJOCO_GL="")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_triton_comes_with_the_first_package_that_draws():
    assert first("import genreward_wrappers") == []
    assert first("import genreward_wrappers, mujoco") == ["triton"]
    assert first("import mujoco, genreward_wrappers") == ["triton"]
    assert first("import mujoco") == []
