"""Records episodes of an environment, one file each: what everything here trains on.

A folder of `Episode` files is the data set: each is written whole or not at all and
named by its policy and seed, so that a collection that was stopped goes on, more can be
added at any time, and any tool that reads one episode reads them all.

Every step's frame is kept, or a few over the whole episode, which is what a video model
is trained on and several times faster; and where the environment has them the states
beside the frames.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.core import Float32, UInt8
from genreward_wrappers.data.episodes import Episode, outcome, succeeded
from genreward_wrappers.data.files import FileError
from genreward_wrappers.data.frames import (
    FrameSource,
    find_source,
    flat_state,
    sample_steps,
)
from genreward_wrappers.envs.policies import check_policy, make_policy
from genreward_wrappers.envs.stages import captions, runs
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.workers import workers

#: Goals begin at one million, test episodes at two, learning runs at three.
FIRST_SEED = 4_000_000
SEEDS = range(FIRST_SEED, FIRST_SEED + 1_000_000)

#: Where an environment sets no limit, an episode has to end some time.
LONGEST = 1_000


@dataclass(frozen=True)
class Job:
    """One episode to record.

    Attributes:
        env_id: The environment's registered id.
        options: What to make it with, as sorted pairs.
        policy: Who acts; see `envs.policies.make_policy`.
        seed: Of the episode.
        steps: After how many steps it is cut at the latest.
        frames: How many to keep; 0 is every one.
        prompt: What the task is, in words.
    """

    env_id: str
    options: tuple[tuple[str, Any], ...]
    policy: str
    seed: int
    steps: int
    frames: int = 0
    prompt: str = ""


def collect(
    env_id: str,
    output: str | PathLike[str],
    *,
    policy: str = "random",
    episodes: int = 50,
    seed: int = FIRST_SEED,
    steps: int = LONGEST,
    frames: int = 0,
    prompt: str = "",
    options: Mapping[str, Any] | None = None,
    processes: int = 1,
    on_progress: OnProgress = no_progress,
) -> list[Path]:
    """Records episodes; those that are there already are not played again.

    Args:
        env_id: The environment's registered id, with pixels somewhere.
        output: The folder, made if it is not there. Other policies' and other seeds'
            episodes of the same environment may be in it.
        policy: "random"; "scripted" or "noisy" (Meta-World); "planned" (dm_control); or
            "<module>:<function>", a function of (env, seed) that gives a function from
            observations to actions.
        episodes: How many.
        seed: Of the first; the others follow.
        steps: After how many steps an episode is cut at the latest.
        frames: How many to keep of an episode, evenly over its longest length, and its
            last one; 0 is every one.
        prompt: What the task is, in words, noted with each episode.
        options: What else to make the environment with, such as ``size``.
        processes: How many to play at a time.
        on_progress: Called with how many episodes are there, and of how many.

    Returns:
        Their files, in the order of their seeds.

    Raises:
        ValueError: The numbers or the policy make no sense, or the folder holds
            episodes of another environment.
    """
    for name, value in (("episodes", episodes), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    if frames == 1 or frames < 0:
        raise ValueError(f"frames={frames}: expected at least 2, or 0 for all")
    check_policy(policy, env_id)
    chosen = tuple(sorted(_with_states(env_id, options or {}, frames).items()))
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(env_id, chosen, policy, seed + i, steps, frames, prompt)
        for i in range(episodes)
    ]
    paths = {job: folder / _file_name(job) for job in jobs}
    _check_folder(folder, jobs[0])
    missing = [job for job in jobs if not _is_there(paths[job])]
    done = len(jobs) - len(missing)
    on_progress(done, len(jobs))
    for _ in _play_all(missing, paths, processes):
        done += 1
        on_progress(done, len(jobs))
    return list(paths.values())


def record(job: Job) -> Episode:
    """Plays one episode."""
    env = _environment(job.env_id, job.options)
    source = find_source(
        "auto",
        env.observation_space,
        render_mode=env.render_mode,
        metadata=env.metadata,
    )
    act = make_policy(job.policy, env, job.env_id, job.seed)
    wanted = _wanted(job, env.spec.max_episode_steps)
    observation, _ = env.reset(seed=job.seed)
    frames, states = [frame_of(source, env, observation)], [flat_state(observation)]
    seen = [0]
    actions: list[Any] = []
    rewards: list[float] = []
    success: list[bool] = []
    terminated = truncated = False
    while not (terminated or truncated) and len(actions) < job.steps:
        action = act(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        actions.append(np.array(action))
        rewards.append(float(reward))
        success.append(succeeded(info))
        states.append(flat_state(observation))
        ended = terminated or truncated or len(actions) == job.steps
        if ended or wanted is None or len(actions) in wanted:
            frames.append(frame_of(source, env, observation))
            seen.append(len(actions))
    numbers = None if states[0] is None else np.stack(states)  # type: ignore[arg-type]
    return Episode(
        frames=np.stack(frames),
        frame_steps=np.array(seen, np.int64),
        actions=np.stack(actions),
        success=np.array(success, np.bool_),
        rewards={"env": np.array(rewards, np.float32)},
        terminated=bool(terminated),
        info={**_about(job), **_told(job, numbers, success)},
        states=numbers,
    )


def _told(job: Job, states: Float32 | None, success: Sequence[bool]) -> dict[str, Any]:
    """What goes on in the episode, from which step on, where that can be told."""
    if states is None:
        return {}
    found = captions(job.env_id, states, np.array(success, np.bool_))
    return {} if found is None else {"captions": runs(found)}


def _wanted(job: Job, limit: int | None) -> frozenset[int] | None:
    """After which steps a frame is kept; None is after every one."""
    horizon = min(job.steps, limit or job.steps)
    if not 0 < job.frames <= horizon:
        return None
    return frozenset(sample_steps(job.frames, horizon))


def _about(job: Job) -> dict[str, Any]:
    """What is written with an episode, and what its folder is checked for."""
    about = asdict(job)
    return {**about, "options": dict(job.options)}


def _play_all(
    jobs: Sequence[Job], paths: Mapping[Job, Path], processes: int
) -> Iterator[None]:
    """Plays and saves; each episode counts as soon as its file is there."""
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            _play(job, paths[job])
            yield
        return
    with workers(min(processes, len(jobs))) as pool:
        futures = [pool.submit(_play, job, paths[job]) for job in jobs]
        for future in futures:
            future.result()
            yield


def _play(job: Job, path: Path) -> None:
    # Saved where it was played: pictures do not travel between processes.
    record(job).save(path)


def _file_name(job: Job) -> str:
    policy = "".join(c if c.isalnum() else "-" for c in job.policy)
    return f"{policy}-{job.seed}.safetensors"


def _is_there(path: Path) -> bool:
    try:
        # Its hash is checked; its frames need not be unpacked for that.
        outcome(path)
    except FileError:
        # Not there, or damaged: it is played again.
        return False
    return True


def _check_folder(folder: Path, job: Job) -> None:
    """Raises if the folder's episodes are of another environment or look different."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            _, there = outcome(path)
        except FileError:
            continue
        wanted = _about(job)
        for name, once in (("env_id", ""), ("options", {}), ("frames", 0)):
            found = there.get(name, once)
            if found != wanted[name]:
                raise ValueError(
                    f"{folder} holds episodes with {name}={found!r} "
                    f"({path.name}), these have {wanted[name]!r}: give another folder"
                )
        return


def _with_states(
    env_id: str, options: Mapping[str, Any], frames: int
) -> dict[str, Any]:
    """The options, with states beside the frames where that can be asked for.

    Of few frames each is rendered when it is wanted: observations are states alone.
    """
    if "obs" in options:
        return dict(options)
    import gymnasium as gym

    entry = gym.spec(env_id).entry_point
    if isinstance(entry, str) and entry.startswith("genreward_wrappers.envs."):
        module, _, name = entry.partition(":")
        if "obs" in inspect.signature(getattr(import_module(module), name)).parameters:
            return {**options, "obs": "state" if frames else "dict"}
    return dict(options)


@functools.lru_cache(maxsize=2)
def _environment(env_id: str, options: tuple[tuple[str, Any], ...]) -> Any:
    import gymnasium as gym

    return gym.make(env_id, render_mode="rgb_array", **dict(options))


def frame_of(source: FrameSource, env: Any, observation: Any) -> UInt8:
    """What an environment looks like now."""
    found = source.of_observation(observation) if source.kind == "obs" else env.render()
    return np.array(found)
