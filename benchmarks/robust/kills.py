"""Long commands, killed with SIGKILL: what was finished stays, what follows is as ever.

Each command runs once undisturbed. Then it is killed, again and again, at a random time
or at one of its renames, in the folder that the one before has left; after each kill
every file that can be seen must be whole, and none may be missing that was there. In
the end it runs to its end, and its files must be those of the undisturbed run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from genreward_wrappers import GoalBundle
from genreward_wrappers.cli.main import main
from genreward_wrappers.data.episodes import LAYOUT as EPISODE
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import hash_file

TOY = "toy/point-mass-v0"
if TOY not in gym.registry:
    gym.register(
        TOY,
        "genreward_wrappers.testing:PointMass",
        max_episode_steps=8,
        kwargs={"size": 16, "horizon": 8},
    )


@dataclass(frozen=True)
class Command:
    """A long command.

    Attributes:
        name: What it is called in the table.
        arguments: Of an output folder and the folder of inputs.
        passing: Names of files that come and go while it runs.
        compared: Endings of the files that an undisturbed run has with the same bytes.
    """

    name: str
    arguments: Callable[[Path, Path], list[str]]
    passing: tuple[str, ...] = ()
    compared: tuple[str, ...] = (".safetensors",)


COMMANDS = (
    Command(
        "collect",
        lambda out, _: ["collect", "--env", TOY, "--episodes", "60",
                        "--processes", "1", "--output", str(out / "episodes")],
    ),
    Command(
        "pack",
        lambda out, given: ["pack", str(given / "video.npy"), "--length", "33",
                            "--output", str(out / "goal.safetensors")],
    ),
    Command(
        "train-viper",
        lambda out, given: ["train-viper", str(given / "video.npy"), "--size", "16",
                            "--codec-steps", "8", "--steps", "8", "--every", "1",
                            "--device", "cpu", "--output",
                            str(out / "prior.safetensors")],
        passing=("prior.safetensors.checkpoint",),
    ),
    Command(
        "train-fb",
        lambda out, given: ["train-fb", "--goal", str(given / "goal.safetensors"),
                            "--data", str(given / "episodes"), "--features", "pixels",
                            "--hidden", "16", "--backward-hidden", "16", "--z", "4",
                            "--batch", "16", "--updates", "8", "--device", "cpu",
                            "--cache", str(out / "cache"), "--output",
                            str(out / "goal.safetensors")],
        passing=("goal.safetensors.checkpoint",),
    ),
    Command(
        "generate",
        lambda out, given: ["generate", "--model", "embedded:goal-generator-64",
                            "--prompt", "reach", "--image", str(given / "first.png"),
                            "--candidates", "3", "--steps", "1", "--device", "cpu",
                            "--output", str(out / "candidates")],
        compared=(".safetensors", ".json", ".mp4"),
    ),
    Command(
        "finetune",
        lambda out, given: ["finetune", "--model", "embedded:goal-generator-64",
                            "--data", str(given / "clips"), "--prompt", "reach",
                            "--steps", "3", "--every", "1", "--rank", "2",
                            "--held-out", "0", "--device", "cpu",
                            "--cache", str(out / "cache"),
                            "--output", str(out / "lora")],
    ),
)  # fmt: skip


def make_inputs(folder: Path) -> None:
    """What the commands are run on."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (33, 64, 64, 3)).astype(np.uint8)
    np.save(folder / "video.npy", video)
    Image.fromarray(video[0]).save(folder / "first.png")
    small = np.ascontiguousarray(video[:, :16, :16])
    GoalBundle(small[None], env_id=TOY).save(folder / "goal.safetensors")
    for i, (part, frames) in enumerate(
        [("episodes", small[:9]), ("clips", video[:17])] * 3
    ):
        steps = len(frames) - 1
        Episode(
            frames=frames,
            frame_steps=np.arange(len(frames)),
            actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            success=np.arange(steps) == steps - 1,
            info={"env_id": TOY, "seed": 4_000_000 + i, "policy": "random"},
        ).save(folder / part / f"{i}.safetensors")


def torture(
    count: int,
    folder: Path,
    seed: int,
    until: float,
    commands: tuple[Command, ...] = COMMANDS,
) -> tuple[Counter[str], list[str]]:
    """Kills the commands in turn.

    Args:
        count: How many kills.
        folder: Where to run them; it is emptied.
        seed: Of when they are killed.
        until: When to stop, by `time.time`.
        commands: Which.

    Returns:
        Kills by command; and what was lost or left behind.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _import_once()
    given = folder / "given"
    make_inputs(given)
    rng = np.random.default_rng(seed)
    killed: Counter[str] = Counter()
    found: list[str] = []
    shares = np.array_split(np.arange(count), len(commands))
    for command, share in zip(commands, shares, strict=True):
        whole = folder / command.name / "whole"
        begun = time.monotonic()
        status, renames = _run(command.arguments(whole, given))
        took = time.monotonic() - begun
        if status != 0:
            found.append(f"{command.name} ends with {status} undisturbed")
            continue
        done, round_ = 0, 0
        while done < len(share) and time.time() < until:
            out = folder / command.name / f"killed-{round_}"
            round_ += 1
            # In one folder a few times, so that what was left is gone on from.
            for _ in range(min(4, len(share) - done)):
                before = _state(out, command)
                if done % 2:
                    at: dict[str, Any] = {"rename": int(rng.integers(2 * renames))}
                else:
                    at = {"seconds": float(rng.uniform(0, took))}
                _run(command.arguments(out, given), **at)
                done += 1
                killed[command.name] += 1
                found += [
                    f"{command.name}, killed at {at}: {said}"
                    for said in _faults(out, before, command)
                ]
            status, _ = _run(command.arguments(out, given))
            if status != 0:
                found.append(f"{command.name} ends with {status} after kills")
            found += [
                f"{command.name}: {said}" for said in _unlike(out, whole, command)
            ]
            shutil.rmtree(out, ignore_errors=True)
    return killed, found


def _import_once() -> None:
    """What the commands import, before they are forked off: that takes longest."""
    import diffusers
    import peft  # noqa: F401
    import transformers

    import genreward_wrappers.encoders.video_vae
    import genreward_wrappers.goal_pipeline.generate
    import genreward_wrappers.training.finetuning.finetune
    import genreward_wrappers.training.forward_backward.fit
    import genreward_wrappers.training.priors.train  # noqa: F401

    assert diffusers.CogVideoXImageToVideoPipeline
    assert diffusers.VQModel
    assert transformers.T5EncoderModel


def _run(
    arguments: list[str], seconds: float | None = None, rename: int | None = None
) -> tuple[int, int]:
    """The exit status of a command, and how many files it renamed.

    Args:
        arguments: Of ``genreward``.
        seconds: When to kill it.
        rename: Before (even) or after (odd) which rename it kills itself.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(arguments, rename, writer)
    os.close(writer)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(said or 0)


def _in_child(arguments: list[str], rename: int | None, pipe: int) -> None:
    status = 1
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        plain, renames = os.replace, [0]

        def counted(source: Any, target: Any) -> None:
            if rename == 2 * renames[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            plain(source, target)
            if rename == 2 * renames[0] + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            renames[0] += 1

        os.replace = counted
        status = main(arguments)
        os.write(pipe, str(renames[0]).encode())
    finally:
        os._exit(status)


def _seen(folder: Path) -> dict[str, Path]:
    """What a user sees in a folder: no hidden names, no caches."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }


def _state(out: Path, command: Command) -> set[str]:
    return {name for name in _seen(out) if Path(name).name not in command.passing}


def _faults(out: Path, before: set[str], command: Command) -> list[str]:
    found = [f"{name} is gone" for name in before - set(_seen(out))]
    found += [
        f"{n} is not whole: {s}" for n, p in _seen(out).items() if (s := _fault(p))
    ]
    return found


def _fault(path: Path) -> str:
    """Why a file is not whole; empty if it is."""
    try:
        _check(path)
    except Exception as error:
        return f"{error!r:.200}"
    return ""


def _check(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix in (".png", ".mp4"):
        import imageio.v3 as imageio

        imageio.imread(path)
    elif path.suffix in (".safetensors", ".checkpoint"):
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name)
        if "genreward" in about:
            GoalBundle.load(path)
        elif EPISODE.key in about:
            Episode.load(path)


def _unlike(out: Path, whole: Path, command: Command) -> list[str]:
    """How a run that was killed differs from the undisturbed one."""
    one, other = _seen(out), _seen(whole)
    found = [f"{name} is on one side only" for name in one.keys() ^ other.keys()]
    found += [
        f"{name} has other bytes than undisturbed"
        for name in one.keys() & other.keys()
        if name.endswith(command.compared)
        and hash_file(one[name]) != hash_file(other[name])
    ]
    hidden = [path for path in out.rglob(".*") if ".genreward-" in path.name]
    return found + [f"{path.name} was left behind" for path in hidden]
