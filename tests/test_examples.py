"""The examples run, as a user would run them, for a few hundred steps."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

from genreward_wrappers import RewardModelWrapper
from genreward_wrappers.testing import PointMass, Traveller
from tests import ROOT, video_pipelines

EXAMPLES = ROOT / "examples"
RLLIB = ["--steps", "256", "--batch", "256"]
DREAMER = ["--steps", "260", "--size", "nano"]
DREAMER += ["--rows", "2", "--length", "16", "--ratio", "1"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sb3_ppo", ["--steps", "512"]),
        ("sb3_sac", ["--steps", "260"]),
        ("any_pixel_env", ["--steps", "256"]),
        ("two_cameras", ["--steps", "256", "--encoder", "pixels"]),
    ],
)
def test_example(name, told, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *told],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "total_timesteps" in done.stdout, "the agent has logged its training"


def test_the_evaluation_example(tmp_path):
    script = EXAMPLES / "evaluate_your_reward.py"
    done = subprocess.run(
        [sys.executable, script, "--episodes", "2", "--output", tmp_path / "here"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "redness: " in done.stdout
    assert (tmp_path / "here" / "report.html").is_file()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_frame_level_example(tmp_path):
    script = EXAMPLES / "frame_level.py"
    sizes = ["--episodes", "2", "--updates", "20", "--steps", "256"]
    done = subprocess.run(
        [sys.executable, script, *sizes, "--output", tmp_path / "here"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "spread" in done.stdout
    assert "total_timesteps" in done.stdout
    assert (tmp_path / "here" / "goal.safetensors").is_file()


def test_the_example_of_generated_goals(tmp_path):
    """With a small random generator: it is to run, and not to teach."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    video_pipelines.cogvideox(size=64).save_pretrained(tmp_path / "generator")
    script = EXAMPLES / "generated_goals.py"
    few = ["--generator", tmp_path / "generator", "--denoising", "2"]
    done = subprocess.run(
        [sys.executable, script, *few, "--episodes", "2", "--steps", "3"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("was made in") == 2
    assert len(list(tmp_path.glob("genreward/generated/*/*.safetensors"))) == 2


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_a_resumed_run_pays_the_rewards_of_one_that_was_not_stopped(agent, tmp_path):
    def rewards(name, steps):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        script = [sys.executable, EXAMPLES / "resume.py", "--agent", agent]
        done = subprocess.run(
            [*script, "--steps", steps],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    # 128 is no multiple of the 50 steps of an episode.
    expected = rewards("one", "512")
    assert rewards("two", "256") + rewards("two", "256") == expected
    assert len(set(expected)) == 256


def test_the_minari_example(tmp_path, monkeypatch, capsys):
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["minari_dataset", "--episodes", "2"])
    runpy.run_path(str(EXAMPLES / "minari_dataset.py"), run_name="__main__")
    assert capsys.readouterr().out.count("the same again: True") == 2
    assert (tmp_path / "genreward" / "random-v0").is_dir()


def a_short_task(render_mode=None):
    """Cheap steps on states, paid by a reward model."""
    env = PointMass(size=16, horizon=32, obs="state", render_mode="rgb_array")
    return RewardModelWrapper(env, Traveller(), frames="render")


@pytest.mark.parametrize(
    ("name", "told", "horizon"),
    [
        ("cleanrl_ppo", ["--num-steps", "260"], 256),
        ("cleanrl_sac", ["--env-id", "test/short-v0"], 32),
    ],
)
def test_examples_that_take_an_id(name, told, horizon, monkeypatch, capsys):
    """In this process, which has imported most of what they need."""
    short = EnvSpec("test/short-v0", a_short_task)
    monkeypatch.setitem(gym.registry, short.id, short)
    monkeypatch.setattr(sys, "argv", [name, "--total-timesteps", "260", *told])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # Some episodes end before their time.
    assert len(lines) >= 260 // horizon
    assert any(float(line[-1]) > 0 for line in lines)


#: JAX alone takes half a minute to compile it.
in_the_clients_check = pytest.mark.skipif(
    "CHECK_CLIENTS" not in os.environ, reason="run by scripts/check_clients.sh"
)


@pytest.mark.parametrize(
    ("name", "package", "few", "said"),
    [
        pytest.param(
            "sb3_sac",
            "sbx",
            ["--agent", "sbx:CrossQ", "--steps", "260"],
            "total_timesteps",
            marks=in_the_clients_check,
        ),
        ("torchrl_ppo", "torchrl", ["--episodes", "1"], "episode 0: reward_video"),
        (
            "sb3_recurrent",
            "sb3_contrib",
            ["--steps", "256", "--envs", "2"],
            "|    video ",
        ),
        ("rllib_ppo", "ray.rllib", RLLIB, "256 steps: an episode is paid"),
        (
            "rllib_ppo",
            "ray.rllib",
            [*RLLIB, "--share"],
            "256 steps: an episode is paid",
        ),
        ("rllib_dreamerv3", "ray.rllib", DREAMER, "256 steps: an episode is paid"),
    ],
)
@pytest.mark.timeout(900)
def test_examples_of_other_trainers(name, package, few, said, tmp_path):
    pytest.importorskip(package)
    # Ray gives itself 30 seconds to start, which a busy machine may not.
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, EXAMPLES / f"{name}.py", *few],
            cwd=tmp_path,
            # Ray lets its workers wait behind everything else that a machine does.
            env={**os.environ, "RAY_worker_niceness": "0"},
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )
        if "timed out during startup" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-3000:]
    assert said in done.stdout


def test_the_scoring_example(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "score_video.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    means = {
        line.split()[0]: float(line.split()[-1]) for line in done.stdout.splitlines()
    }
    assert means["follows.mp4"] > means["stops.mp4"] > means["backwards.mp4"]


def test_every_example_is_run():
    tested = {
        "sb3_ppo", "sb3_sac", "any_pixel_env", "evaluate_your_reward", "frame_level",
        "generated_goals", "resume", "torchrl_ppo", "sb3_recurrent",
        "score_video", "rllib_ppo", "two_cameras", "cleanrl_ppo", "cleanrl_sac",
        "rllib_dreamerv3", "minari_dataset",
    }  # fmt: skip
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
