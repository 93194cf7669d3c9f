"""The package as its users meet it: imports, specs, pickles, workers, errors."""

from __future__ import annotations

import ast
import gc
import pickle
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import psutil
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import genreward_wrappers
from genreward_wrappers import (
    GenRewardWrapper,
    GoalError,
    RewardModelWrapper,
    TapFrames,
    VideoLevelReward,
    vector,
)
from genreward_wrappers.core import Session, check_frames
from genreward_wrappers.data.frames import area_resize, sample_steps
from genreward_wrappers.testing import Brightness, PointMass, Traveller
from tests import ROOT

PACKAGE = Path(genreward_wrappers.__file__).parent


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The package from outside


def test_importing_loads_nothing_heavy():
    loaded = python(
        "import gymnasium, sys; before = set(sys.modules)\n"
        "import genreward_wrappers\n"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    ).split()
    heavy = {"torch", "diffusers", "mujoco", "metaworld", "stable_baselines3", "av"}
    assert not heavy & set(loaded), loaded


def test_public_names_exist_and_unknown_ones_say_so():
    for name in genreward_wrappers.__all__:
        assert getattr(genreward_wrappers, name) is not None
    assert set(genreward_wrappers.__all__) <= set(dir(genreward_wrappers))
    with pytest.raises(AttributeError, match="'GenReward'; it has"):
        _ = genreward_wrappers.GenReward


def arrows():
    """(module, imported module) inside the package, from the source."""
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield module, node.module
            elif isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)


#: The rooms from the ground up: each may import what stands before it, and itself.
FLOORS = (
    "core",
    "checks",
    "extras",
    "workers",
    "progress",
    "data",
    "envs",
    "encoders",
    "generators",
    "training",
    "rewards",
    "relabel",
    "hosts",
    "wrappers",
    "vector",
    "sb3",
    "torchrl",
    "testing",
    "evaluate",
    "__init__",
    "doctor",
    "goal_pipeline",
    "cli",
    "__main__",
)


def test_data_flows_one_way():
    """Each room imports only what lies below it, and every room has its floor."""
    ours = "genreward_wrappers"
    seen = 0
    for module, imported in arrows():
        room = module.split(".")[0]
        assert room in FLOORS, f"{room} has no floor"
        if imported.startswith(f"{ours}."):
            target = imported.split(".")[1]
            below = FLOORS[: FLOORS.index(room) + 1]
            assert target in below, (
                f"{module} imports {imported}, which stands above it"
            )
            seen += 1
        elif room == "core":
            root = imported.split(".")[0]
            allowed = {"numpy"} | set(sys.stdlib_module_names)
            assert root in allowed, f"core imports {imported}"
    assert seen > 100


def test_one_line_works():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = GenRewardWrapper(genreward_wrappers.make("metaworld/pick-place"))
    _, info = env.reset(seed=0)
    _, reward, _, _, info = env.step(env.action_space.sample())
    parts = info["reward_video"] + 0.25 * info["reward_frame"]
    assert reward == pytest.approx(parts, rel=1e-12)
    assert info["reward_env"] > 0
    assert [info[f"weight_{part}"] for part in ("env", "video", "frame")] == [
        0,
        1,
        0.25,
    ]
    assert info["reward_frame"] != 0
    assert 0 < info["reward_video"] < 1
    env.close()


# Specs, pickles, workers


def wrapped(cls=VideoLevelReward, **kwargs):
    options = {"encoder": "pixels", "observe": "progress", **kwargs}
    return cls(gym.make("metaworld/pick-place"), **options)


def rewards_of(env, steps=5):
    env.reset(seed=4)
    env.action_space.seed(4)
    return [env.step(env.action_space.sample())[1] for _ in range(steps)]


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (VideoLevelReward, {"score": "motion", "weight": 3.0}),
        (GenRewardWrapper, {"frame_weight": 0, "reading": "stream", "length": 17,
                            "encoder": None}),
    ],
)  # fmt: skip
def test_specs_and_pickles_give_the_same_environment(cls, kwargs):
    env = wrapped(cls, **kwargs)
    expected = rewards_of(env, 9)
    remade = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert remade.spec == env.spec
    for copy in (
        remade,
        pickle.loads(pickle.dumps(env)),
        cloudpickle.loads(cloudpickle.dumps(env)),
    ):
        assert rewards_of(copy, 9) == expected
        copy.close()
    assert len(pickle.dumps(env)) < 20_000, "weights travel by name"
    env.close()


def test_a_bundle_with_a_source_is_recorded_by_it(goal, tmp_path):
    path = tmp_path / "goal.safetensors"
    goal.save(path)
    loaded = genreward_wrappers.load_goal(path)
    env = VideoLevelReward(PointMass(size=32), loaded, encoder="pixels", horizon=50)
    assert env._saved_kwargs["reward"]["goal"] == str(path)


def make_tapped():
    env = gym.make("metaworld/reach", obs="state", render_mode="rgb_array")
    return TapFrames(env, size=64, length=9)


def test_spawned_workers_tap_frames_for_one_model_outside():
    """SubprocVecEnv with spawn: state policy, pixels for the reward only."""
    from stable_baselines3.common.vec_env import SubprocVecEnv

    from genreward_wrappers.sb3 import VecVideoLevelReward

    venv = SubprocVecEnv([make_tapped] * 2, start_method="spawn")
    goal = genreward_wrappers.load_goal("metaworld/pick-place")
    venv = VecVideoLevelReward(venv, goal, encoder="pixels", length=9, payment="hold")
    venv.seed(0)
    assert venv.reset().shape == (2, 39)
    due = []
    for _ in range(34):
        *_, infos = venv.step(np.zeros((2, 4), np.float32))
        due.append(infos[0]["reward_video_due"])
    assert due == [False] * 31 + [True] * 3
    venv.close()


# Bad input


class Frames(gym.Env):
    """An environment whose observations are whatever it is given."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, render_mode=None):
        self.observation_space = space
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


def box(shape, dtype=np.uint8, high=255):
    return spaces.Box(0, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), "no pixels anywhere.*Discrete"),
        (box((4,), np.float32, 1), "no pixels anywhere.*float32 \\(4,\\)"),
        (box((16, 16, 3), np.float32, 1), "float32 \\(16, 16, 3\\).*scaled to float"),
        (box((3, 16, 16)), "channels come first"),
        (box((16, 16)), "grey"),
        (box((16, 16, 1)), "grey"),
        (box((16, 16, 12)), "stacked"),
        (box((4, 16, 16, 3)), "stacked"),
        (box((7, 7, 3)), 'too small for a picture.*frames="obs"'),
        (box((16, 16, 3), high=1), "from 0 to 1.*before it is rescaled"),
        (spaces.Dict(a=box((16, 16, 3)), b=box((16, 16, 3))), "2 images.*obs:a"),
    ],
)
def test_observations_that_are_no_frames(space, message):
    with pytest.raises(ValueError, match=message):
        RewardModelWrapper(Frames(space), Brightness())


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ("pixels", "frames='pixels': expected \"auto\""),
        ("obs:camera", "no 'camera' in the observation space"),
        ("obs:state", "uint8 RGB images"),
        ("render", 'render_mode="rgb_array", got render_mode=None'),
        ("info", "expected"),
    ],
)
def test_frames_that_are_not_there(frames, message):
    space = spaces.Dict(state=box((4,), np.float32, 1), pixels=box((8, 8, 3)))
    with pytest.raises(ValueError, match=message):
        RewardModelWrapper(Frames(space), Brightness(), frames=frames)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), "got float32.*255 \\* x"),
        (np.zeros((1, 3, 8, 8), np.uint8), "channels come first"),
        (np.zeros((1, 8, 8), np.uint8), "grey"),
        (np.zeros((1, 8, 8, 12), np.uint8), "stacked"),
        (np.zeros((2, 8, 8, 3), np.uint8), "got 2 of them"),
        ([[0]], "got list"),
    ],
)
def test_check_frames(frames, message):
    with pytest.raises((ValueError, TypeError), match=message):
        check_frames(frames, 1)


def test_frames_that_change_size_in_the_middle():
    session = Session([Brightness()], 1)
    session.begin(np.zeros((1, 8, 8, 3), np.uint8))
    no = np.zeros(1, bool)
    with pytest.raises(ValueError, match=r"first were uint8 \(1, 8, 8, 3\)"):
        session.score(np.zeros(1), np.zeros((1, 9, 8, 3), np.uint8), no, no)


def test_a_model_that_returns_nan_is_named():
    class Broken(Brightness):
        name = "broken"

        def step(self, memory, transition):
            score, memory = super().step(memory, transition)
            return score._replace(value=score.value * np.float32("nan")), memory

    env = RewardModelWrapper(PointMass(size=8), Broken())
    env.reset(seed=0)
    with pytest.raises(FloatingPointError, match="'broken' returned"):
        env.step(env.action_space.sample())


def test_two_models_of_one_name():
    with pytest.raises(ValueError, match="name of its own"):
        Session([Brightness(), Brightness()], 1)


def test_another_camera_and_an_unknown_id():
    env = gym.make("metaworld/pick-place", camera="topview")
    with pytest.raises(GoalError, match="'corner2'.*shows 'topview'"):
        VideoLevelReward(env, encoder="pixels")
    with pytest.raises(GoalError, match="'metaworld/hammer'.*genreward pack"):
        GenRewardWrapper(gym.make("metaworld/hammer"))
    with pytest.raises(GoalError, match="no id"):
        GenRewardWrapper(PointMass())


def test_no_time_limit_asks_for_a_horizon(goal):
    with pytest.raises(ValueError, match="horizon="):
        VideoLevelReward(PointMass(size=32), goal, encoder="pixels")
    with pytest.raises(ValueError, match="horizon="):
        RewardModelWrapper(PointMass(size=32), Brightness(), observe="progress")
    with pytest.raises(ValueError, match="observe='time'"):
        RewardModelWrapper(PointMass(size=32), Brightness(), observe="time")


def test_unknown_options_are_refused(goal):
    with pytest.raises(TypeError, match="sharpness"):
        VideoLevelReward(
            PointMass(size=32), goal, encoder="pixels", horizon=5, sharpness=3
        )
    with pytest.raises(ValueError, match="preset='papr': expected one of 'default'"):
        VideoLevelReward(PointMass(size=32), goal, encoder="pixels", preset="papr")


@pytest.mark.parametrize(
    ("module", "extra", "code"),
    [
        ("stable_baselines3", "sb3", "import genreward_wrappers.sb3"),
        ("metaworld", "metaworld", "g.make('metaworld/reach')"),
        ("diffusers", "video", "g.load_encoder('embedded:video-vae-64')"),
        ("av", "video", "from genreward_wrappers.data.video_files import *\n"
         "    read_video(__file__)"),
        ("huggingface_hub", "video", "g.load_goal('hf://a/b/c.safetensors')"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_named(module, extra, code, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.modules[{module!r}] = None\n"
        "import genreward_wrappers as g\n"
        f"try:\n    {code}\nexcept ImportError as e:\n    print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False
    )
    assert f'"genreward-wrappers[{extra}]"' in done.stdout, done.stdout + done.stderr


def test_every_extra_that_is_named_exists():
    project = (ROOT / "pyproject.toml").read_text()
    named = {
        match
        for path in PACKAGE.rglob("*.py")
        for match in re.findall(r"genreward-wrappers\[([\w-]+)\]", path.read_text())
    }
    assert named
    for extra in named:
        assert re.search(rf"^{extra} = \[", project, re.M), extra


# Small parts


def test_sampled_steps():
    assert sample_steps(3, 10) == (0, 5, 10)
    assert sample_steps(11, 10) == tuple(range(11))
    for bad in (1, 12):
        with pytest.raises(ValueError, match="between 2 and 11"):
            sample_steps(bad, 10)


def test_area_resize_is_the_mean_of_the_area():
    frame = np.random.default_rng(0).integers(0, 256, (12, 18, 3)).astype(np.uint8)
    small = area_resize(frame, (4, 6))
    blocks = frame.reshape(4, 3, 6, 3, 3).mean((1, 3))
    np.testing.assert_allclose(small, blocks, atol=0.51)
    assert area_resize(frame, (12, 18)) is frame
    # Not a whole factor: a constant stays one, and the mean is kept.
    odd = area_resize(frame, (5, 7))
    assert odd.mean() == pytest.approx(frame.mean(), abs=0.6)


def test_unwanted_frames_are_not_rendered(goal):
    calls = []

    class Counting(PointMass):
        def render(self):
            calls.append(1)
            return super().render()

    env = Counting(size=32, obs="state", render_mode="rgb_array", horizon=99)
    env = VideoLevelReward(env, goal, encoder="pixels", length=9, horizon=32)
    env.reset(seed=0, options={"target": (5, 5)})
    due = [env.step(env.action_space.sample())[4]["reward_video_due"]
           for _ in range(32)]  # fmt: skip
    assert len(calls) == 9
    assert sum(due) == 8


def test_tap_frames_renders_the_sampled_steps_alone():
    env = PointMass(size=32, obs="state", render_mode="rgb_array", horizon=99)
    env = TapFrames(env, size=16, length=3, horizon=8)
    _, info = env.reset(seed=0, options={"target": (5, 5)})
    steps = [env.step(env.action_space.sample())[4] for _ in range(9)]
    tapped = ["tapped_frame" in each for each in (info, *steps)]
    assert np.flatnonzero(tapped).tolist() == [0, 4, 8]


def test_snapshots_bring_a_session_back(goal):
    env = VideoLevelReward(PointMass(size=32), goal, encoder="pixels", horizon=50)
    env.reset(seed=0)
    snapshot = env.session.snapshot()
    first = env.step(np.ones(2, np.float32))[4]["reward_video"]
    env.step(-np.ones(2, np.float32))
    env.session.restore(snapshot)
    again = env.session.score(
        np.ones((1, 2)), env.session.snapshot().frames, *np.zeros((2, 1), bool)
    )["video"]
    assert again.value[0] != first, "the frame is another one"
    assert env.session.steps.tolist() == [1]
    with pytest.raises(ValueError, match="2 environments does not fit"):
        Session([Traveller()], 1).restore(snapshot._replace(running=np.ones(2, bool)))


def test_memory_stays_flat():
    """10,000 steps of a vector environment under the video-level reward."""
    make = partial(PointMass, size=32, horizon=25)
    envs = gym.vector.SyncVectorEnv([make] * 2)
    from genreward_wrappers.goal_pipeline.pack import pack

    video = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3)).astype(np.uint8)
    goal = pack([video], size=32, length=9, encoder=None)
    envs = vector.VideoLevelReward(
        envs, goal, encoder="pixels", horizon=25, reading="stream", payment="hold"
    )
    envs.action_space.seed(0)
    actions = envs.action_space.sample()
    envs.reset(seed=0)
    process = psutil.Process()
    sizes = []
    for step in range(10_000 // 2):
        envs.step(actions)
        if step % 500 == 499:
            gc.collect()
            sizes.append(process.memory_info().rss / 2**20)
    # A leaked 32x32 frame a step would be 15 MB over the second half.
    assert sizes[-1] - sizes[len(sizes) // 2] < 5, sizes
