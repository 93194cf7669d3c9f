"""What an optimiser finds: short training runs on one reward alone.

A score that separates recorded episodes can still be farmed, so a reward is also put
before an agent: soft actor-critic on state observations and the place in the episode,
rewarded by the reward under test and nothing else. Success and reward are then held
side by side. A run can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from genreward_wrappers.data.files import FileError, canonical, write_atomic
from genreward_wrappers.data.goals import GoalBundle, load_goal
from genreward_wrappers.rewards.facts import is_generated, own_goals
from genreward_wrappers.rewards.spec import ENV, OURS, RewardSpec
from genreward_wrappers.workers import workers

#: Of the learning runs' episodes; the test episodes have others.
FIRST_SEED = 3_000_000
#: Decisions in an episode, each of two steps of the environment.
HORIZON, REPEAT = 128, 2
#: Steps before the agent learns, as random ones.
WARM_UP = 1_000
#: Episodes between two checkpoints.
CHUNK = 10
#: Episodes that a rate is taken over.
WINDOW = 40

#: A rise in the success rate that counts as one: 40 episodes against 40 have a
#: standard error of up to 0.11.
RISE = 0.2
#: A rise in the return that counts as one, in standard deviations of the first
#: episodes' returns: their mean has an error of a sixth.
GAIN = 1.0

Outcome = Literal["teaches", "farmed", "nothing"]


@dataclass(frozen=True)
class Run:
    """One learning run.

    Attributes:
        env_id: A Meta-World environment.
        reward: Its name and options; see `contestants.REWARDS`.
        seed: Of the agent and the episodes.
        goal: The goal bundle's path or address; None is the embedded one.
    """

    env_id: str
    reward: str
    seed: int
    goal: str | None = None

    @cached_property
    def name(self) -> str:
        """Tells this run from all others in a folder's file names."""
        key = canonical({**asdict(self), "goal": self._digest()})
        readable = self.reward.replace(":", "-").replace(",", "-").replace("=", "-")
        tail = hashlib.sha256(key.encode()).hexdigest()[:8]
        return f"{readable[:60]}-seed-{self.seed}-{tail}"

    def _digest(self) -> str:
        # The goal's content, not its name: a goal made anew begins a new run.
        spec = RewardSpec.parse(self.reward)
        if spec.name == ENV:
            return ""
        goal = load_goal(self.goal, self.env_id)
        if is_generated(spec.goal):
            return own_goals(goal, spec.goal).digest
        return goal.digest


@dataclass(frozen=True)
class Progress:
    """How far a run is: the outcome of every episode so far.

    Attributes:
        success: Whether each episode succeeded at any of its steps.
        returns: What the reward under test paid in each.
    """

    success: Sequence[bool]
    returns: Sequence[float]

    @property
    def steps(self) -> int:
        """Decisions so far."""
        return HORIZON * len(self.success)

    def curve(self, every: int = 5_000) -> dict[int, tuple[float, float]]:
        """Success rate and mean return of the last episodes, by steps."""
        marks = list(range(every, self.steps + 1, every))
        if self.steps and (not marks or marks[-1] != self.steps):
            marks.append(self.steps)
        points = {}
        for mark in marks:
            last = slice(max(0, mark // HORIZON - WINDOW), mark // HORIZON)
            if len(self.success[last]):
                points[mark] = (
                    float(np.mean(self.success[last])),
                    float(np.mean(self.returns[last])),
                )
        return points


def outcome(progress: Progress) -> tuple[Outcome, str]:
    """What a run says about its reward, in a word and in a sentence."""
    count = min(WINDOW, len(progress.success) // 2)
    if count < 5:
        return (
            "nothing",
            f"{len(progress.success)} episodes are too few to say anything",
        )
    first, last = slice(0, count), slice(-count, None)
    before, after = (float(np.mean(progress.success[s])) for s in (first, last))
    returns = np.asarray(progress.returns, np.float64)
    noise = max(float(returns[first].std()), 1e-9)
    gain = float(returns[last].mean() - returns[first].mean()) / noise
    told = (
        f"success {before:.2f} to {after:.2f}, return {returns[first].mean():.1f} to "
        f"{returns[last].mean():.1f} ({gain:+.1f} standard deviations)"
    )
    if after - before >= RISE or min(before, after) >= 0.8:
        return "teaches", f"teaches: {told}"
    if gain >= GAIN:
        return "farmed", (
            f"farmed: {told}. The agent is paid more and more without solving the "
            "task: it has found something else that this reward pays for"
        )
    return "nothing", (
        f"taught nothing in {progress.steps} steps: {told}. If the environment's own "
        "reward (--reward env) does not either, the task takes longer than this"
    )


def learn(
    run: Run,
    folder: Path,
    steps: int,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Trains, or goes on training, until the agent has made this many steps.

    Args:
        run: Which run.
        folder: Holds its checkpoint, its progress, and some of its episodes.
        steps: Rounded up to whole episodes.
        tell: Told after every stretch.
    """
    try:
        from stable_baselines3 import SAC
    except ImportError as error:
        raise ImportError(
            "learning runs need stable-baselines3: "
            'pip install "genreward-wrappers[sb3]"'
        ) from error
    import torch

    # One agent a core: on more threads the small networks wait for one another.
    torch.set_num_threads(1)
    total = -(-steps // HORIZON) * HORIZON
    checkpoint = folder / f"{run.name}.checkpoint.safetensors"
    episodes = _Episodes(make_env(run, folder / run.name), run.seed)
    agent: Any = SAC(
        "MlpPolicy",
        episodes,
        seed=run.seed,
        device="cpu",
        learning_starts=WARM_UP,
        # More than a short run fills would only make the checkpoints larger.
        buffer_size=max(total, 100_000),
    )
    _resume(agent, episodes, checkpoint)
    try:
        while agent.num_timesteps < total:
            stretch = min(CHUNK * HORIZON, total - agent.num_timesteps)
            agent.learn(stretch, reset_num_timesteps=False)
            _keep(agent, episodes, checkpoint)
            progress = episodes.progress
            write_atomic(
                folder / f"{run.name}.json", canonical(_summary(run, progress)).encode()
            )
            tell(progress)
    finally:
        episodes.close()
    return episodes.progress


def learn_all(
    runs: Sequence[Run],
    folder: Path,
    steps: int,
    processes: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Run, Progress]:
    """Several runs, so many at a time, each in a process of its own.

    Args:
        runs: Which runs.
        folder: Where they keep their files.
        steps: For each.
        processes: How many at a time.
        tell: Told how many steps of all are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with workers(processes) as pool:
        futures = {pool.submit(learn, run, folder, steps): run for run in runs}
        open_ = set(futures)
        while open_:
            done, open_ = wait(open_, timeout=2, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            made = sum(min(load_progress(run, folder).steps, steps) for run in runs)
            tell(made, steps * len(runs))
    return {run: load_progress(run, folder) for run in runs}


def load_progress(run: Run, folder: Path) -> Progress:
    """How far a run is, from its file; nothing yet if there is none."""
    path = folder / f"{run.name}.json"
    if not path.is_file():
        return Progress((), ())
    found = json.loads(path.read_text())
    return Progress(tuple(found["episode_success"]), tuple(found["episode_return"]))


def make_env(run: Run, record: Path | None = None) -> gym.Env[Any, Any]:
    """The environment of a run: states and the time, paid by the reward alone."""
    from genreward_wrappers.hosts.gymnasium import RewardModelWrapper

    if not run.env_id.startswith("metaworld/"):
        raise ValueError(
            f"env {run.env_id!r}: learning runs need an environment that offers its "
            'state, so that the reward is all they test: give one of "metaworld/<task>"'
        )
    spec = RewardSpec.parse(run.reward)
    look: dict[str, Any] = {"render_mode": "rgb_array"}
    bundle = None
    if spec.name != ENV and (run.goal is not None or spec.looks_at_goal()):
        bundle = load_goal(run.goal, run.env_id)
        height, width = bundle.frame_size
        look["size"] = height if height == width else (height, width)
        if bundle.camera:
            look["camera"] = bundle.camera
    env = gym.make(
        run.env_id,
        obs="state",
        action_repeat=REPEAT,
        max_episode_steps=HORIZON,
        **({} if spec.name == ENV else look),
    )
    if spec.name == ENV:
        # The same observation for all, so that only the reward differs.
        return gym.wrappers.TimeAwareObservation(env, normalize_time=True)
    if spec.looks_at_goal():
        assert bundle is not None
        spec = _alone(spec, bundle)
    return RewardModelWrapper(env, spec, observe="progress", record=record)


def _alone(spec: RewardSpec, bundle: GoalBundle) -> RewardSpec:
    """The reward by itself, for the goal of a run."""
    weights, options = dict(spec.weights), dict(spec.options)
    if is_generated(spec.goal):
        return replace(spec, goal=own_goals(bundle, spec.goal))
    if spec.name not in OURS:
        return replace(spec, options={"goal": bundle, **options})
    if spec.name == "genreward" and not bundle.nets:
        weights.setdefault("frame", 0.0)
    if spec.name == "genreward":
        weights.setdefault(ENV, 0.0)
    elif spec.preset == "paper":
        # Scores of half an episode of 128 decisions; the weight only scales them.
        options = {"window": HORIZON // 2, "stride": HORIZON // 2, **options}
        weights["video"] = 1.0
    return replace(spec, goal=bundle, weights=weights, options=options)


class _Episodes(gym.Wrapper[Any, Any, Any, Any]):
    """Seeds every episode by its number, and keeps the score."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._first = FIRST_SEED + 10_000 * seed
        self.success: list[bool] = []
        self.returns: list[float] = []
        self._now, self._earned = False, 0.0

    @property
    def progress(self) -> Progress:
        return Progress(tuple(self.success), tuple(self.returns))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._now, self._earned = False, 0.0
        # Whatever the agent asks for: a run that goes on meets the same episodes.
        return self.env.reset(seed=self._first + len(self.success), options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._now |= bool(info["is_success"])
        self._earned += float(reward)
        if terminated or truncated:
            self.success.append(self._now)
            self.returns.append(self._earned)
        return observation, reward, terminated, truncated, info


def _keep(agent: Any, episodes: _Episodes, path: Path) -> None:
    from genreward_wrappers.evaluate.learn.checkpoint import save_agent

    notes = {"success": episodes.success, "returns": episodes.returns}
    save_agent(agent, path, notes)


def _resume(agent: Any, episodes: _Episodes, path: Path) -> None:
    from genreward_wrappers.evaluate.learn.checkpoint import restore_agent

    if not path.is_file():
        return
    try:
        notes = restore_agent(agent, path)
    except FileError as error:
        raise FileError(f"{error}. Delete it to begin this run again") from error
    episodes.success = list(notes["success"])
    episodes.returns = list(notes["returns"])
    recorder = getattr(episodes.env, "recorder", None)
    if recorder is not None:
        recorder.number = len(episodes.success)


def _summary(run: Run, progress: Progress) -> dict[str, Any]:
    curve = progress.curve()
    return {
        **asdict(run),
        "steps": progress.steps,
        "success": {str(step): rate for step, (rate, _) in curve.items()},
        "return": {str(step): total for step, (_, total) in curve.items()},
        "episode_success": list(progress.success),
        "episode_return": list(progress.returns),
        "outcome": outcome(progress)[1],
        "saved": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
