"""Generates candidate goal videos from a prompt and first frames.

Each candidate is a file of its own, named by its seeds and written atomically, so that
an interrupted run resumes and more candidates can be added at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from genreward_wrappers.checks import at_least
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.frames import find_source
from genreward_wrappers.data.goals import GoalError
from genreward_wrappers.generators.candidates import (
    PREFIX,
    differences,
    find_candidates,
    frame_digest,
    lasting,
    load_candidate,
    save_candidate,
    settings_card,
    shared,
    write_beside,
    write_sheet,
)
from genreward_wrappers.generators.pictures import load_image
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model, Sampling
from genreward_wrappers.goal_pipeline.collect import frame_of
from genreward_wrappers.progress import OnProgress, no_progress

#: The seeds of goals begin here, those of test episodes at two million, of learning
#: runs at three.
FIRST_SEED = 1_000_000


@dataclass(frozen=True)
class Job:
    """One candidate to make."""

    path: Path
    seed: int
    image: UInt8 | None
    card: Mapping[str, Any]


def generate(
    model: Model | Generator,
    sampling: Sampling,
    output: str | PathLike[str],
    *,
    env_id: str = "",
    options: Mapping[str, Any] | None = None,
    image: str | PathLike[str] | None = None,
    starts: int = 1,
    candidates: int = 4,
    seed: int = FIRST_SEED,
    on_progress: OnProgress = no_progress,
) -> list[Path]:
    """Generates candidates, except for those that exist already.

    Args:
        model: The generator, or a description of it.
        sampling: What to ask of it.
        output: The folder, created if it does not exist. It holds candidates of one
            setting only.
        env_id: The environment whose first frames the videos continue.
        options: Further arguments to make it with, such as ``size``.
        image: A picture that they continue instead.
        starts: How many first frames to take, of the seeds ``seed``, ``seed + 1``, ...
        candidates: How many videos to generate from each, with the same seeds.
        seed: The first seed.
        on_progress: Called with how many denoising steps are done, and of how many.

    Returns:
        Their files, in the order of the first frames.

    Raises:
        ValueError: The model cannot do what is asked, there is too little memory, or
            the folder holds candidates of other settings.
        FileNotFoundError: The model is not on this machine and cannot be downloaded.
    """
    at_least(1, starts=starts, candidates=candidates)
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed={seed}: expected one from 0 to {2**31 - 1}")
    if env_id and image is not None:
        raise ValueError(
            f"both an environment ({env_id}) and a picture ({image}) are given: the "
            "first frame comes from one of them"
        )
    if starts > 1 and not env_id:
        raise ValueError(f"starts={starts}: only an environment has several of them")
    generator = model if isinstance(model, Generator) else Generator(model)
    if starts > 1 and not generator.wants_image:
        raise ValueError(f"starts={starts}: {generator.name} takes no first frame")
    settings = generator.settings(sampling)
    pictures: dict[int | None, UInt8 | None] = {None: None}
    if image is not None:
        pictures = {None: load_image(image)}
    elif env_id and generator.wants_image:
        pictures = dict(first_frames(env_id, options or {}, range(seed, seed + starts)))
    env = {"id": env_id, "options": dict(options or {})} if env_id else None
    common = settings_card(generator.identity, settings, env)
    card = {**common, "source": generator.model.source}
    folder = Path(output)
    jobs = []
    for start, picture in pictures.items():
        generator.check_image(picture, settings)
        jobs += [
            _job(folder, card, seed + i, start, picture) for i in range(candidates)
        ]
    folder.mkdir(parents=True, exist_ok=True)
    _check_folder(folder, common)
    missing = [job for job in jobs if not _is_there(job)]
    steps = int(settings.get("num_inference_steps", 1))
    done, total = len(jobs) - len(missing), len(jobs) * steps
    on_progress(done * steps, total)
    for job in missing:

        def after(step: int, of: int, before: int = done * steps) -> None:
            on_progress(before + step, total)

        frames = generator(settings, job.seed, job.image, after)
        save_candidate(job.path, frames, job.card)
        done += 1
    write_sheet(folder, find_candidates(folder))
    return [job.path for job in jobs]


def first_frames(
    env_id: str, options: Mapping[str, Any], seeds: range
) -> list[tuple[int, UInt8]]:
    """What an agent sees at the start of episodes, with their seeds.

    Raises:
        ValueError: There is no such environment, or it has no pixels.
    """
    import gymnasium as gym

    try:
        env: Any = gym.make(env_id, render_mode="rgb_array", **dict(options))
    except gym.error.Error as error:
        raise ValueError(f"cannot make the environment {env_id!r}: {error}") from error
    try:
        source = find_source("auto", env)
        found = []
        for seed in seeds:
            observation, _ = env.reset(seed=seed)
            found.append((seed, frame_of(source, env, observation)))
    finally:
        env.close()
    return found


def _job(
    folder: Path,
    shared_card: Mapping[str, Any],
    seed: int,
    start: int | None,
    picture: UInt8 | None,
) -> Job:
    name = f"{PREFIX}-{seed}" if start is None else f"{PREFIX}-{start}-{seed}"
    digest = None if picture is None else frame_digest(picture)
    card = {**shared_card, "seed": seed, "start_seed": start, "first_frame": digest}
    return Job(folder / f"{name}.safetensors", seed, picture, card)


def _is_there(job: Job) -> bool:
    try:
        bundle = load_candidate(job.path)
    except GoalError:
        # Missing or damaged: it is generated anew.
        for ending in (".json", ".mp4"):
            job.path.with_suffix(ending).unlink(missing_ok=True)
        return False
    unlike = differences(*map(lasting, (bundle.provenance[0], job.card)))
    if unlike:
        raise ValueError(
            f"{job.path} was made with {'; '.join(unlike)}: give another folder"
        )
    write_beside(job.path, bundle)
    return True


def _check_folder(folder: Path, common: Mapping[str, Any]) -> None:
    """Raises if the folder holds candidates of other settings."""
    for path in find_candidates(folder):
        try:
            card = load_candidate(path).provenance[0]
        except GoalError:
            continue
        unlike = differences(shared(card), common)
        if unlike:
            raise ValueError(
                f"{path} was made with {'; '.join(unlike)}: give another folder"
            )
