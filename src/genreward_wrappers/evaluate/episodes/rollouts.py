"""Test episodes of known worth, recorded once and kept.

A reward is judged on episodes that anyone can rank: successes, failures that look
right, noise, no motion at all, and altered successes. In Meta-World the scripted
policies play them; for other environments users give their own (`user_episodes`).

What each kind is for:

- ``success``: the scripted policy, where it succeeds.
- ``near-miss``: the same motion some centimetres higher, so that nothing is touched.
- ``half-way``: the scripted policy for half of its way to success, then no motion. A
  reward that pays well for this one teaches an agent to hover.
- ``noisy``: the scripted policy with noise; the environment says whether it
  succeeded.
- ``random``, ``static``: noise alone, and an arm that does not move.
- ``other-task``: a success at another task, in that task's scene.
- ``reversed``, ``shifted``, ``brightness``: the successes again, played backwards,
  moved by some pixels, and made darker or brighter.

Their seeds start at `FIRST_SEED`. `check_seeds` compares them with the seeds of
everything that was trained or recorded for the goal.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.data.cache import Cache, cache_folder
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import FileError, canonical
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.envs.families import find_script
from genreward_wrappers.envs.policies import make_policy, noisy_policy, random_policy
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.workers import Map, parallel

#: The seeds of the test episodes. Goals and encoders are made from one million on,
#: learning runs use those from three million on, and what people call seed 0 is far
#: from all of them.
FIRST_SEED = 2_000_000
SEEDS = range(FIRST_SEED, FIRST_SEED + 1_000_000)

#: Episodes of each kind; those that render nothing new follow the successes.
COUNTS: Mapping[str, int] = {
    "success": 10,
    "near-miss": 10,
    "half-way": 10,
    "noisy": 10,
    "random": 10,
    "static": 4,
    "other-task": 6,
}

#: The first three that are not the task itself stand for "another task". They move
#: different things in different directions.
OTHERS = ("drawer-close", "button-press", "push", "window-open")

#: A policy may fail on some seeds; this many times the wanted episodes are tried.
PATIENCE = 4

#: How much higher (in metres) a near-miss passes: above everything there is to touch.
MISS = 0.15

#: Keeps the gripper as it is and the hand where it is: nothing is dropped.
STILL = np.array([0, 0, 0, 1], np.float32)


@dataclass(frozen=True)
class Job:
    """One episode to record.

    Attributes:
        env_id: The environment's registered id.
        options: The arguments to make it with, as sorted pairs.
        kind: What the policy does.
        seed: The seed of the episode.
        frame_steps: The steps whose frames are kept.
    """

    env_id: str
    options: tuple[tuple[str, Any], ...]
    kind: str
    seed: int
    frame_steps: tuple[int, ...]


def record_rollouts(
    env_id: str,
    frame_steps: Sequence[int],
    *,
    options: Mapping[str, Any] | None = None,
    counts: Mapping[str, int] = COUNTS,
    cache: Path | None = None,
    processes: int = 1,
    on_progress: OnProgress = no_progress,
) -> list[Episode]:
    """Plays, or finds in the cache, the standard test episodes of an environment.

    Args:
        env_id: A Meta-World environment of this package.
        frame_steps: The steps whose frames are rendered, including 0.
        options: More arguments of the environment, such as ``camera``.
        counts: The number of episodes of each kind; see `COUNTS`.
        cache: A folder for finished episodes; None keeps none.
        processes: The number of episodes to play at a time.
        on_progress: Called with the number of episodes done, and their total.

    Raises:
        ValueError: The environment has no scripted policy.
    """
    task = scripted_task(env_id)
    unknown = set(counts) - set(COUNTS)
    if unknown:
        raise ValueError(f"no such kinds {sorted(unknown)}: expected {list(COUNTS)}")
    chosen = tuple(sorted((options or {}).items()))
    steps = tuple(frame_steps)
    others = [name for name in OTHERS if name != task][:3]
    total = sum(counts.values()) + (len(others) if counts.get("other-task") else 0)
    done = 0
    episodes: list[Episode] = []
    with parallel(processes) as each:
        for kind, count in counts.items():
            # One more of each other task is its goal in the confusion matrix.
            wanted = {f"metaworld/{task}": count}
            if kind == "other-task":
                shares = np.array_split(np.arange(count), len(others))
                wanted = {
                    f"metaworld/{other}": len(share) + 1
                    for other, share in zip(others, shares, strict=True)
                    if count
                }
            for where, needed in wanted.items():
                jobs = (
                    Job(where, chosen, kind, _seed(kind, i), steps)
                    for i in range(PATIENCE * needed)
                )
                for episode in _take(jobs, needed, each, cache):
                    episodes.append(episode)
                    done += 1
                    on_progress(done, total)
    return episodes


def check_seeds(goal: GoalBundle, encoder_steps: Sequence[Mapping[str, Any]]) -> None:
    """Raises if the goal, its nets or its encoder were made from test seeds.

    Args:
        goal: The goal, whose provenance says which seeds were recorded and trained on.
        encoder_steps: The provenance of the encoder, if it is known.
    """
    for step in (*goal.provenance, *encoder_steps):
        seeds = step.get("seeds") or _starts(step)
        if not seeds:
            continue
        low, high = min(seeds), max(seeds)
        if low < SEEDS.stop and high >= SEEDS.start:
            raise ValueError(
                f"{goal!r}: its step {step.get('step')!r} used the seeds {low} to "
                f"{high}, and the test episodes have the seeds {SEEDS.start} to "
                f"{SEEDS.stop - 1}: a reward must not be judged on what made it. "
                "Make the goal from other seeds"
            )


def _starts(step: Mapping[str, Any]) -> list[int]:
    """The seeds of the first frames that a generator continued, if this is its step."""
    found = [one.get("start_seed") for one in step.get("candidates", ())]
    return [seed for seed in found if seed is not None]


def scripted_task(env_id: str) -> str:
    """The Meta-World task of an environment's id."""
    if find_script(env_id) is None:
        raise ValueError(
            f"env {env_id!r} has no scripted policy to play the test episodes: give "
            "your own with --rollouts FOLDER, which holds a folder of videos (mp4, "
            'gif, npy) for each kind: "success", and at least one of "failure", '
            '"near-miss", "half-way", "noisy", "random", "static"; or a folder of '
            'episodes that a wrapper recorded (record=); or "minari:<dataset>"'
        )
    return env_id.partition("/")[2]


def default_cache() -> Path:
    """The folder that test episodes are kept in; see `data.cache`."""
    return cache_folder("rollouts")


# Playing


def play(job: Job) -> Episode:
    """Plays one episode."""
    env = _environment(job.env_id, job.options)
    horizon = env.spec.max_episode_steps
    assert horizon is not None
    act = _policy(job, horizon)
    wanted = set(job.frame_steps)
    state, _ = env.reset(seed=job.seed)
    frames, seen = [env.render()], [0]
    actions, rewards, success, states = [], [], [], [state]
    for step in range(1, horizon + 1):
        action = act(state, step)
        state, reward, _, _, info = env.step(action)
        actions.append(np.asarray(action, np.float32))
        rewards.append(reward)
        success.append(info["is_success"])
        states.append(state)
        if step in wanted:
            frames.append(env.render())
            seen.append(step)
    # A fixed length, whatever happens: the policy continues after it has succeeded.
    return Episode(
        frames=np.stack(frames),
        frame_steps=np.array(seen, np.int64),
        actions=np.stack(actions),
        success=np.array(success, np.bool_),
        rewards={"env": np.array(rewards, np.float32)},
        info={
            "env_id": job.env_id,
            "kind": job.kind,
            "seed": job.seed,
            "group": f"{job.env_id} {job.kind} {job.seed}",
        },
        states=np.stack(states).astype(np.float32),
    )


@functools.lru_cache(maxsize=2)
def _environment(env_id: str, options: tuple[tuple[str, Any], ...]) -> Any:
    import gymnasium as gym

    return gym.make(env_id, obs="state", render_mode="rgb_array", **dict(options))


Act = Callable[[NDArray[np.float64], int], NDArray[np.float32]]


def _policy(job: Job, horizon: int) -> Act:
    env = _environment(job.env_id, job.options)
    script = make_policy("scripted", env, job.env_id, job.seed)
    rng = np.random.default_rng(job.seed)
    strength = rng.uniform(0.1, 0.8)
    stop = (
        _way_to_success(job, horizon) * rng.uniform(0.4, 0.6)
        if job.kind == "half-way"
        else horizon
    )
    noisy = noisy_policy(script, env.action_space, rng, strength)
    random = random_policy(env.action_space, rng)

    def near_miss(state: NDArray[np.float64]) -> Any:
        # A policy that believes its hand to be lower than it is moves in the same way,
        # higher up.
        mistaken = state.copy()
        mistaken[2] -= MISS
        return script(mistaken)

    policies: dict[str, Act] = {
        "success": lambda state, step: script(state),
        "near-miss": lambda state, step: near_miss(state),
        "half-way": lambda state, step: script(state) * (1 if step <= stop else STILL),
        "noisy": lambda state, step: noisy(state),
        "random": lambda state, step: random(state),
        "static": lambda state, step: np.zeros(4, np.float32),
        "other-task": lambda state, step: script(state),
    }
    return policies[job.kind]


def _way_to_success(job: Job, horizon: int) -> int:
    """Steps until the scripted policy's first success in this episode."""
    env = _environment(job.env_id, job.options)
    script = make_policy("scripted", env, job.env_id, job.seed)
    state, _ = env.reset(seed=job.seed)
    for step in range(1, horizon + 1):
        state, _, _, _, info = env.step(script(state))
        if info["is_success"]:
            return step
    return horizon


def _belongs(episode: Episode) -> bool:
    """Whether an episode turned out as its kind says."""
    kind = episode.info["kind"]
    if kind in ("success", "other-task"):
        return episode.succeeded
    if kind in ("near-miss", "half-way"):
        return not episode.succeeded
    return True


def _seed(kind: str, index: int) -> int:
    # Kinds share no positions, so that nothing about a scene gives its label away.
    return FIRST_SEED + 1_000 * list(COUNTS).index(kind) + index


# The cache and the workers


def _take(
    jobs: Iterator[Job],
    needed: int,
    each: Map,
    cache: Path | None,
) -> list[Episode]:
    """The first ``needed`` episodes that turn out as wanted, by their seeds."""
    taken: list[Episode] = []
    while len(taken) < needed:
        # No more at a time than are missing, so that the choice does not depend on the
        # number of processes.
        batch = list(itertools.islice(jobs, needed - len(taken)))
        if not batch:
            break
        found = {job: _load(job, cache) for job in batch}
        missing = [job for job, episode in found.items() if episode is None]
        for job, episode in zip(missing, each(play, missing), strict=True):
            found[job] = episode
            if cache is not None:
                _cache(job, cache).put(_name(job), episode)
        taken += [e for e in found.values() if e is not None and _belongs(e)]
    return taken


def _load(job: Job, cache: Path | None) -> Episode | None:
    return None if cache is None else _cache(job, cache).get(_name(job))


def _cache(job: Job, folder: Path) -> Cache[Episode]:
    def read(path: Path) -> Episode:
        episode = Episode.load(path)
        wanted = (job.env_id, job.kind, job.seed, [*job.frame_steps])
        about = [episode.info.get(name) for name in ("env_id", "kind", "seed")]
        if (*about, episode.frame_steps.tolist()) != wanted:
            raise FileError(f"{path} is not the episode {wanted}")
        return episode

    return Cache(folder, read, lambda path, episode: episode.save(path))


def _name(job: Job) -> str:
    """Names an episode by everything that it depends on."""
    key = {"job": asdict(job), "made by": _makers()}
    return hashlib.sha256(canonical(key).encode()).hexdigest()[:32]


@functools.lru_cache(maxsize=1)
def _makers() -> dict[str, str]:
    """What else the pictures depend on: packages, the GL driver, our own code."""
    from genreward_wrappers.envs import _gl, _meshes, metaworld, pixel_env, policies

    _gl.choose_backend()
    modules = (metaworld, pixel_env, policies, _gl, _meshes)
    sources = [Path(__file__), *(Path(str(module.__file__)) for module in modules)]
    code = b"".join(path.read_bytes() for path in sources)
    return {
        "code": hashlib.sha256(code).hexdigest(),
        "gl": os.environ.get("MUJOCO_GL", ""),
        **{
            name: importlib.metadata.version(name)
            for name in ("metaworld", "mujoco", "numpy", "fast-simplification")
            if importlib.util.find_spec(name.replace("-", "_"))
        },
    }
