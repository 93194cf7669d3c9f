"""Records episodes of an environment, one file each, as training data.

A data set is a folder of `Episode` files. Each is written atomically and named after
its policy and seed, so that an interrupted collection resumes and more episodes can be
added at any time.

The frame of every step is kept, or a few frames spread over the episode, which suffices
to train a video model and is several times faster. States are recorded with the frames
if the environment offers them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.checks import at_least
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
from genreward_wrappers.workers import parallel

#: Goals begin at one million, test episodes at two, learning runs at three.
FIRST_SEED = 4_000_000
SEEDS = range(FIRST_SEED, FIRST_SEED + 1_000_000)

#: Maximum length of an episode if the environment sets no limit.
LONGEST = 1_000


@dataclass(frozen=True)
class Job:
    """One episode to record.

    Attributes:
        env_id: The environment's registered id.
        options: The keyword arguments to make it with, as sorted pairs.
        policy: The policy that acts; see `envs.policies.make_policy`.
        seed: The seed of the episode.
        steps: The maximum number of steps.
        frames: The number of frames to keep; 0 keeps all.
        prompt: The task in words.
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
    """Records episodes; those that exist already are not played again.

    Args:
        env_id: The registered id of an environment that shows pixels.
        output: The folder, created if necessary. It may already hold episodes of other
            policies and seeds in the same environment.
        policy: "random"; "scripted" or "noisy" (Meta-World); "planned" (dm_control); or
            "<module>:<function>", a function of (env, seed) that returns a function
            from observations to actions.
        episodes: The number of episodes.
        seed: The seed of the first episode; the others count up from it.
        steps: The maximum number of steps of an episode.
        frames: The number of frames to keep of an episode, spread evenly over its
            maximum length, in addition to its last frame; 0 keeps all.
        prompt: The task in words, saved with each episode.
        options: More keyword arguments for the environment, such as ``size``.
        processes: The number of episodes to play in parallel.
        on_progress: Called with the number of finished episodes and the total.

    Returns:
        The files, in the order of their seeds.

    Raises:
        ValueError: A number or the policy is invalid, or the folder holds episodes of
            another environment.
    """
    at_least(1, episodes=episodes, steps=steps)
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
    with parallel(min(processes, len(missing))) as each:
        # Each counts as soon as its file exists.
        for _ in each(_play, missing, [paths[job] for job in missing]):
            done += 1
            on_progress(done, len(jobs))
    return list(paths.values())


def record(job: Job) -> Episode:
    """Plays one episode."""
    env = _environment(job.env_id, job.options)
    source = find_source("auto", env)
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
    """The captions of the episode and their first steps, if they can be derived."""
    if states is None:
        return {}
    found = captions(job.env_id, states, np.array(success, np.bool_))
    return {} if found is None else {"captions": runs(found)}


def _wanted(job: Job, limit: int | None) -> frozenset[int] | None:
    """The steps after which a frame is kept; None keeps all."""
    horizon = min(job.steps, limit or job.steps)
    if not 0 < job.frames <= horizon:
        return None
    return frozenset(sample_steps(job.frames, horizon))


def _about(job: Job) -> dict[str, Any]:
    """The info saved with an episode, which later episodes in the folder must match."""
    about = asdict(job)
    return {**about, "options": dict(job.options)}


def _play(job: Job, path: Path) -> None:
    # Saved by the process that played it, so that frames need not be transferred.
    record(job).save(path)


def _file_name(job: Job) -> str:
    policy = "".join(c if c.isalnum() else "-" for c in job.policy)
    return f"{policy}-{job.seed}.safetensors"


def _is_there(path: Path) -> bool:
    try:
        # Checks the hash without unpacking the frames.
        outcome(path)
    except FileError:
        # Missing or damaged: it is played again.
        return False
    return True


def _check_folder(folder: Path, job: Job) -> None:
    """Raises if the folder's episodes have another environment or appearance."""
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
    """The options, with states in the observations if the environment offers them.

    If only a few frames are kept, they are rendered on demand and the observations hold
    states alone.
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
    """The current frame of an environment."""
    found = source.of_observation(observation) if source.kind == "obs" else env.render()
    return np.array(found)
