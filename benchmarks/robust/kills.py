"""Long commands, killed with SIGKILL: what was finished stays, what follows is as ever.

Each command runs once undisturbed. Then it is killed, again and again, at a random time
or at one of its renames, in the folder that the one before has left; after each kill
every file that can be seen must be whole, and none may be missing that was there. In
the end it runs to its end, and its files must be those of the undisturbed run.
"""

from __future__ import annotations

import importlib
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

TOY = "toy/point-mass-v0"
if TOY not in gym.registry:
    gym.register(
        TOY,
        "genreward_wrappers.testing:PointMass",
        max_episode_steps=8,
        kwargs={"size": 64, "horizon": 8},
    )


DIFFUSERS = (
    "diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video",
    "transformers.models.t5.modeling_t5",
    "genreward_wrappers.goal_pipeline.generate",
)
FB = ("genreward_wrappers.training.forward_backward.fit",)


@dataclass(frozen=True)
class Command:
    """A long command.

    Attributes:
        name: What it is called in the table.
        arguments: Of an output folder and the folder of inputs.
        imports: Modules that it needs. They are imported before it is forked off, since
            most kills would fall into the imports otherwise.
        shorten: Called in its process, to make it shorter than its arguments can.
        passing: Names of files that come and go while it runs.
        varying: Patterns of files that are not the same in any two runs.
        compared: Endings of the files that an undisturbed run has with the same bytes.
        weight: How often it is killed; some take longer.
    """

    name: str
    arguments: Callable[[Path, Path], list[str]]
    imports: tuple[str, ...] = ()
    shorten: Callable[[], None] = lambda: None
    passing: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()
    compared: tuple[str, ...] = (".safetensors", ".json", ".mp4", ".png", ".md")
    weight: float = 1.0


def _few_test_episodes() -> None:
    from genreward_wrappers.evaluate.episodes import rollouts

    counts: dict[str, int] = dict.fromkeys(rollouts.COUNTS, 1)
    rollouts.COUNTS.update(counts)  # type: ignore[attr-defined]


def _short_episodes() -> None:
    """Learning runs of some short episodes, with a checkpoint after each."""
    from genreward_wrappers.cli import train as command
    from genreward_wrappers.evaluate.learn import episodes, runs, train

    for module in (runs, episodes, train):
        module.HORIZON = 16  # type: ignore[attr-defined]
    command.CHUNK = 1


COMMANDS = (
    Command(
        "collect",
        lambda out, _: ["collect", "--env", TOY, "--episodes", "24",
                        "--processes", "1", "--output", str(out / "episodes")],
    ),
    Command(
        "pack",
        lambda out, given: ["pack", str(given / "video.npy"), "--length", "33",
                            "--output", str(out / "goal.safetensors")],
        imports=(
            "diffusers.models.autoencoders.autoencoder_kl_cogvideox",
            "genreward_wrappers.encoders.video_vae",
        ),
        weight=0.4,
    ),
    Command(
        "train-viper",
        lambda out, given: ["train-viper", str(given / "video.npy"), "--size", "16",
                            "--codec-steps", "4", "--steps", "4", "--every", "1",
                            "--device", "cpu", "--output",
                            str(out / "prior.safetensors")],
        imports=(
            "diffusers.models.autoencoders.vq_model",
            "genreward_wrappers.training.priors.train",
        ),
        passing=("prior.safetensors.checkpoint",),
    ),
    Command(
        "train-fb",
        lambda out, given: ["train-fb", "--goal", str(given / "goal.safetensors"),
                            "--data", str(given / "episodes"), "--features", "pixels",
                            "--hidden", "16", "--backward-hidden", "16", "--z", "4",
                            "--batch", "16", "--updates", "8", "--device", "cpu",
                            "--output", str(out / "goal.safetensors")],
        imports=FB,
        passing=("goal.safetensors.checkpoint",),
    ),
    Command(
        "generate",
        lambda out, given: ["generate", "--model", "embedded:goal-generator-64",
                            "--prompt", "reach", "--image", str(given / "first.png"),
                            "--candidates", "3", "--steps", "1", "--device", "cpu",
                            "--output", str(out / "candidates")],
        imports=DIFFUSERS,
        weight=0.3,
    ),
    Command(
        "finetune",
        lambda out, given: ["finetune", "--model", "embedded:goal-generator-64",
                            "--data", str(given / "clips"), "--prompt", "reach",
                            "--steps", "3", "--every", "1", "--rank", "2",
                            "--held-out", "0", "--device", "cpu",
                            "--output", str(out / "lora")],
        imports=("peft", *DIFFUSERS, "genreward_wrappers.training.finetuning.finetune"),
        compared=(".safetensors",),
        weight=0.2,
    ),
    Command(
        "make-goal",
        lambda out, _: ["make-goal", "--env", TOY, "--prompt", "reach", "--starts", "1",
                        "--candidates", "2", "--steps", "1", "--device", "cpu",
                        "--videos", "1", "--encoder", "pixels", "--features", "pixels",
                        "--episodes", "3", "--updates", "8", "--check", "2",
                        "--processes", "1", "--output", str(out / "goal.safetensors")],
        imports=(*DIFFUSERS, *FB, "open_clip", "scipy.stats",
                 "genreward_wrappers.goal_pipeline.make_goal"),
        passing=("nets.checkpoint",),
        weight=0.2,
    ),
    Command(
        "evaluate",
        lambda out, _: ["evaluate", "--env", "metaworld/reach", "--reward", "pixels",
                        "--frames", "9", "--device", "cpu", "--processes", "1",
                        "--output", str(out / "report")],
        imports=("metaworld", "scipy.stats", "genreward_wrappers.evaluate.judge.run",
                 "genreward_wrappers.evaluate.page.output"),
        shorten=_few_test_episodes,
        weight=0.2,
    ),
    Command(
        "train",
        lambda out, _: ["train", "--env", "metaworld/reach", "--steps", "64",
                        "--output", str(out / "agent")],
        imports=("metaworld", "sbx", "matplotlib.figure", "av",
                 "genreward_wrappers.evaluate.learn.train"),
        shorten=_short_episodes,
        # Checkpoints hold how long it took, and episodes the name of the process.
        varying=("*.checkpoint.safetensors", "episode-*", "reach-*.json"),
        weight=0.2,
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
    GoalBundle(video[None], env_id=TOY).save(folder / "goal.safetensors")
    for i, (part, frames) in enumerate(
        [("episodes", video[:9]), ("clips", video[:17])] * 3
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
    given = folder / "given"
    make_inputs(given)
    rng = np.random.default_rng(seed)
    killed: Counter[str] = Counter()
    found: list[str] = []
    left, weights = count, sum(command.weight for command in commands)
    # Those that take longest come first, so that none is left out.
    for command in sorted(commands, key=lambda command: command.weight):
        share = round(left * command.weight / weights)
        left, weights = left - share, weights - command.weight
        for module in command.imports:
            importlib.import_module(module)
        whole = folder / command.name / "whole"
        begun = time.monotonic()
        status, renames = _run(command, whole, given)
        took = time.monotonic() - begun
        if status != 0:
            found.append(f"{command.name} ends with {status} undisturbed")
            continue
        tries = round_ = 0
        while killed[command.name] < share and time.time() < until:
            out = folder / command.name / f"killed-{round_}"
            round_ += 1
            # In one folder a few times, so that it resumes from what was left.
            for _ in range(min(4, share - killed[command.name])):
                before = _state(out, command)
                tries += 1
                if tries % 2:
                    at: dict[str, Any] = {"seconds": float(rng.uniform(0, took))}
                else:
                    at = {"rename": int(rng.integers(2 * renames))}
                status, _ = _run(command, out, given, **at)
                found += [
                    f"{command.name}, killed at {at}: {said}"
                    for said in _faults(out, before, command)
                ]
                if status > 0:
                    found.append(f"{command.name} ends with {status} at {at}")
                if status != -signal.SIGKILL:
                    # It had ended before; there is nothing left to resume.
                    break
                killed[command.name] += 1
            status, _ = _run(command, out, given)
            if status != 0:
                found.append(f"{command.name} ends with {status} after kills")
            found += [
                f"{command.name}: {said}" for said in _unlike(out, whole, command)
            ]
            shutil.rmtree(out, ignore_errors=True)
    return killed, found


def _run(
    command: Command,
    out: Path,
    given: Path,
    seconds: float | None = None,
    rename: int | None = None,
) -> tuple[int, int]:
    """The exit status of a command, and how many files it renamed.

    Args:
        command: Which.
        out: Where it writes to.
        given: The folder of inputs.
        seconds: When to kill it.
        rename: Before (even) or after (odd) which rename it kills itself.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.environ["GENREWARD_CACHE"] = str(out / "cache")
        _in_child(command, command.arguments(out, given), rename, writer)
    os.close(writer)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(said or 0)


def _in_child(
    command: Command, arguments: list[str], rename: int | None, pipe: int
) -> None:
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
        command.shorten()
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


def _lasting(folder: Path, command: Command) -> dict[str, Path]:
    """What is to be the same in any two runs."""
    return {
        name: path
        for name, path in _seen(folder).items()
        if not any(path.match(pattern) for pattern in command.varying)
    }


def _content(path: Path, folder: Path) -> bytes:
    """A file without the name of the folder that it was written to."""
    return path.read_bytes().replace(str(folder).encode(), b"out")


def _unlike(out: Path, whole: Path, command: Command) -> list[str]:
    """How a run that was killed differs from the undisturbed one."""
    one, other = (_lasting(folder, command) for folder in (out, whole))
    found = [f"{name} is on one side only" for name in one.keys() ^ other.keys()]
    found += [
        f"{name} has other bytes than undisturbed"
        for name in one.keys() & other.keys()
        if name.endswith(command.compared)
        and _content(one[name], out) != _content(other[name], whole)
    ]
    hidden = [path for path in out.rglob(".*") if ".genreward-" in path.name]
    return found + [f"{path.name} was left behind" for path in hidden]
