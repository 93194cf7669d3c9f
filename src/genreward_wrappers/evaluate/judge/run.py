"""`evaluate`: test episodes, rewards and their controls, figures, verdicts, one page.

Data flows one way: episodes (`rollouts`, `user_episodes`) are scored (`score`) by every
reward under test and its controls (`judged_rewards`); the scores become figures
(`metrics`), the figures become a sentence (`verdict`), and all of it becomes a page
(`page.output`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from genreward_wrappers.core import Float32, RewardModel
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import embedded_folder
from genreward_wrappers.data.frames import sample_steps
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.evaluate.episodes.altered import altered
from genreward_wrappers.evaluate.episodes.rollouts import (
    COUNTS,
    check_seeds,
    default_cache,
    record_rollouts,
)
from genreward_wrappers.evaluate.episodes.user_episodes import load_rollouts
from genreward_wrappers.evaluate.judge.bootstrap import Estimate
from genreward_wrappers.evaluate.judge.comparisons import (
    confusion_between_tasks,
    epic_distance,
    set_apart,
)
from genreward_wrappers.evaluate.judge.curves import Curve, Labelled
from genreward_wrappers.evaluate.judge.judged_rewards import (
    NOT_SAID,
    Contestant,
    Maker,
    needs_goal,
)
from genreward_wrappers.evaluate.judge.metrics import differences, measure
from genreward_wrappers.evaluate.judge.verdict import Verdict, verdict
from genreward_wrappers.generators.own_videos import load_or_pack
from genreward_wrappers.progress import OnStage, no_progress
from genreward_wrappers.relabel.fold import score_episodes, wanted_steps
from genreward_wrappers.rewards.facts import check_views
from genreward_wrappers.rewards.spec import RewardSpec, encoder_of_videos


@dataclass(frozen=True)
class Scored:
    """One reward's scores and what they say.

    Attributes:
        contestant: The reward.
        paid: (T,) what it paid in each episode; NaN where nothing was due.
        metrics: The figures, by name.
        verdict: The verdict on it; None for controls and the environment's own reward.
        confusion: Each task's successes under each task's goal, if there are others.
    """

    contestant: Contestant
    paid: Sequence[Float32]
    metrics: Mapping[str, Estimate]
    verdict: Verdict | None = None
    confusion: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Everything that `evaluate` found.

    Attributes:
        env_id: The environment.
        goal: The goal bundle, if one was needed.
        horizon: The number of steps of the longest episode.
        episodes: The test episodes, including the altered ones.
        scored: The rewards under test, their controls, and the environment's own.
        facts: Versions and settings, for the page.
    """

    env_id: str
    goal: GoalBundle | None
    horizon: int
    episodes: Sequence[Episode]
    scored: Sequence[Scored]
    facts: Mapping[str, str]


def evaluate(
    env_id: str,
    rewards: Sequence[str | RewardModel[Any]] = ("genreward",),
    goal: str | os.PathLike[str] | GoalBundle | None = None,
    *,
    rollouts: str | None = None,
    frames: int = 65,
    counts: Mapping[str, int] = COUNTS,
    cache: Path | None = None,
    processes: int = 1,
    camera: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    resamples: int = 1000,
    on_progress: OnStage = no_progress,
) -> Evaluation:
    """Judges rewards on episodes of known worth.

    Args:
        env_id: The environment's id; those of Meta-World have scripted test episodes.
        rewards: The names and options of rewards, see `judged_rewards.REWARDS`, or
            reward models.
        goal: The goal, as for the wrappers; None is the environment's embedded one.
        rollouts: Test episodes of your own; see `user_episodes.load_rollouts`.
        frames: The number of frames of an episode that the per-frame reading looks at.
            At these steps it pays what it pays in training.
        counts: The number of test episodes of each kind.
        cache: The folder for recorded test episodes; None is `default_cache`.
        processes: The number of episodes to record at a time.
        camera: The environment's camera; None is its default one.
        device: The device of the encoders.
        dtype: The dtype that they compute in.
        resamples: The number of bootstrap resamples.
        on_progress: Called with what is being done, the amount done, and the total.
    """
    given = None
    bundle: GoalBundle | None = None
    asked = [spec for spec in rewards if isinstance(spec, str) and spec != "env"]
    if any(goal is not None or needs_goal(spec) for spec in asked):
        named = [RewardSpec.parse(spec) for spec in asked]
        bundle = load_or_pack(goal, env_id, encoder_of_videos(named))
        check_views(bundle, ())
    if rollouts is not None:
        size = bundle.frame_size if bundle else None
        given = load_rollouts(rollouts, frames, size)
        horizon = _given_horizon(env_id, given)
    else:
        horizon = _horizon(env_id)
        made_with = _options(env_id, bundle, camera)
        if bundle is not None:
            check_seeds(bundle, training_of(bundle))
    space = _action_space(env_id, bundle, given)
    maker = Maker(bundle, horizon, frames, device, dtype, space, env_id)
    contestants = _contestants(maker, rewards)
    models = [model for c in contestants for model, _ in c.parts]
    wanted = wanted_steps(models, horizon)
    if given is None:
        steps = np.union1d(wanted, sample_steps(frames, horizon))
        # Played backwards, an episode is looked at at the other end.
        steps = np.union1d(steps, horizon - steps)
        episodes = record_rollouts(
            env_id,
            steps.tolist(),
            options=made_with,
            counts=counts,
            cache=cache or default_cache(),
            processes=processes,
            on_progress=lambda done, total: on_progress("test episodes", done, total),
        )
    else:
        episodes = given
    tests, spare = set_apart(episodes, env_id)
    everything = [*tests, *altered(tests, wanted.tolist())]
    found = []
    for index, contestant in enumerate(contestants):
        on_progress("rewards", index, len(contestants))
        found.append((contestant, _pay(contestant, everything)))
    on_progress("rewards", len(contestants), len(contestants))
    on_progress("figures", 0, 1)
    scored = _judge(found, everything, resamples)
    even = sample_steps(min(frames, horizon + 1), horizon)
    scored = [
        replace(
            one,
            metrics={**one.metrics, **epic_distance(one.contestant, everything)},
            confusion=confusion_between_tasks(
                maker, one.contestant, tests, spare, env_id, even
            ),
        )
        for one in scored
    ]
    on_progress("figures", 1, 1)
    return Evaluation(
        env_id, bundle, horizon, everything, scored, _facts(env_id, bundle, frames)
    )


def labels(episodes: Sequence[Episode]) -> list[Labelled]:
    """What is known about each episode, in the metrics' form."""
    return [
        Labelled(
            kind=str(e.info["kind"]),
            group=str(e.info["group"]),
            success=_wins(e),
            level=2 if _wins(e) else int(e.info["kind"] == "half-way"),
            length=len(e),
        )
        for e in episodes
    ]


def curve(paid: Float32) -> Curve:
    """The steps at which a score was due, and the scores."""
    due = np.flatnonzero(~np.isnan(paid))
    return Curve(due + 1, paid[due].astype(np.float64))


def _wins(episode: Episode) -> bool:
    kind = episode.info["kind"]
    # Another task's success is no success at this one.
    if kind in ("other-task", "reversed"):
        return False
    return bool(kind in ("shifted", "brightness", "success") or episode.succeeded)


def _contestants(
    maker: Maker, rewards: Sequence[str | RewardModel[Any]]
) -> list[Contestant]:
    """The requested rewards, their controls, and the environment's own, each once."""
    made: dict[str, Contestant] = {}
    for spec in rewards:
        for one in maker.make(spec) if isinstance(spec, str) else [_own(spec)]:
            made.setdefault(one.name, one)
    for spec in rewards:
        for one in maker.controls(spec) if isinstance(spec, str) else []:
            made.setdefault(one.name, one)
    made.setdefault("env", maker.environment())
    return list(made.values())


def _own(model: RewardModel[Any]) -> Contestant:
    return Contestant(
        model.name,
        "reward",
        f"{type(model).__module__}.{type(model).__qualname__}",
        [(model, 1.0)],
        why_not_markov=NOT_SAID,
    )


def _pay(contestant: Contestant, episodes: Sequence[Episode]) -> list[Float32]:
    """(T,) the weighted sum that a contestant pays in each episode."""
    totals: list[Any] = [np.full(len(e), np.nan) for e in episodes]
    for model, weight in contestant.parts:
        for i, paid in enumerate(score_episodes(model, episodes)):
            totals[i] = _add(totals[i], weight * paid.astype(np.float64))
    if contestant.env_weight:
        for i, episode in enumerate(episodes):
            own = episode.rewards.get("env")
            if own is None:
                # What the environment would have paid is unknown, and so is the sum.
                totals[i] = np.full(len(episode), np.nan)
            else:
                totals[i] = _add(totals[i], contestant.env_weight * own)
    if contestant.thinned and contestant.role == "sum":
        # Steps that are left out here only to save time would be paid in training:
        # without its video part, a sum is incomplete.
        video = contestant.parts[0][0]
        for total in totals:
            total[~video.wants(np.arange(1, len(total) + 1))] = np.nan
    return [total.astype(np.float32) for total in totals]


def _add(total: Any, more: Any) -> Any:
    """A sum that is due where either is; what is not due counts as 0."""
    due = ~(np.isnan(total) & np.isnan(more))
    return np.where(due, np.nan_to_num(total) + np.nan_to_num(more), np.nan)


def _judge(
    found: Sequence[tuple[Contestant, Sequence[Float32]]],
    episodes: Sequence[Episode],
    resamples: int,
) -> list[Scored]:
    known = labels(episodes)
    own = [curve(paid) for c, paids in found if c.name == "env" for paid in paids]
    figures = {}
    for contestant, paids in found:
        curves = [curve(paid) for paid in paids]
        # What the environment would have paid is unknown for some episodes: rewards
        # that contain it are judged on the others.
        kept = [i for i in range(len(known)) if own[i].steps.size]
        if not contestant.env_weight:
            kept = list(range(len(known)))
        figures[contestant.name] = measure(
            [curves[i] for i in kept],
            [known[i] for i in kept],
            env_curves=[own[i] for i in kept]
            if any(c.steps.size for c in own)
            else None,
            resamples=resamples,
        )
    # Pixels that were requested as a reward are no control.
    plain = ("pixels", "random")
    controls = {c.name: p for c, p in found if c.name.partition(":")[0] in plain}

    def ahead(paids: Sequence[Float32], others: Sequence[Curve]) -> Any:
        """How much higher the AUCs of one reward are than those of another."""
        both = [i for i in range(len(known)) if others[i].steps.size]
        return differences(
            [curve(paids[i]) for i in both],
            [others[i] for i in both],
            [known[i] for i in both],
            resamples=resamples,
        )

    scored = []
    for contestant, paids in found:
        judged = None
        # The environment's own reward has no controls, nor has a sum.
        if contestant.role == "reward" and contestant.parts:
            beside = {
                name: ahead(paids, [curve(p) for p in theirs])
                for name, theirs in controls.items()
                if name != contestant.name
            }
            judged = verdict(figures[contestant.name], beside)
        elif contestant.role in ("reward", "sum"):
            holds_env = contestant.parts and contestant.env_weight
            base = (
                ahead(paids, own)
                if holds_env and any(c.steps.size for c in own)
                else None
            )
            judged = verdict(figures[contestant.name], base=base)
        scored.append(Scored(contestant, paids, figures[contestant.name], judged))
    return scored


def _action_space(
    env_id: str, goal: GoalBundle | None, given: Sequence[Episode] | None
) -> spaces.Space[Any] | None:
    """The action space that nets are checked against, if it is known."""
    import gymnasium as gym

    if goal is None or not goal.nets:
        return None
    if given is None:
        env = gym.make(env_id)
        space = env.action_space
        env.close()
        return space
    shape = given[0].actions.shape[1:]
    # Videos have no actions, and recordings do not say how many discrete ones there
    # are.
    return spaces.Box(-np.inf, np.inf, shape) if shape and 0 not in shape else None


def _horizon(env_id: str) -> int:
    import gymnasium as gym

    from genreward_wrappers.evaluate.episodes.rollouts import scripted_task

    scripted_task(env_id)
    horizon = gym.spec(env_id).max_episode_steps
    assert horizon is not None
    return horizon


def _given_horizon(env_id: str, episodes: Sequence[Episode]) -> int:
    """The environment's time limit, if it has one: all episodes may end early."""
    import gymnasium as gym

    longest = max(map(len, episodes))
    # Videos do not say how many steps they show.
    if any(e.actions.shape[1:] == (0,) for e in episodes) or env_id not in gym.registry:
        return longest
    return max(longest, gym.spec(env_id).max_episode_steps or 0)


def _options(
    env_id: str, goal: GoalBundle | None, camera: str | None
) -> dict[str, Any]:
    """The arguments that the environment is made with."""
    from genreward_wrappers.envs.metaworld import CAMERAS

    shown = camera or CAMERAS[0]
    if goal is not None and goal.camera and goal.camera != shown:
        # As in the wrappers: what is judged here is what would be trained on there.
        raise GoalError(
            f"{goal!r} was filmed by the camera {goal.camera!r}, {env_id} shows "
            f"{shown!r}: give --camera {goal.camera}, and make the environment with "
            f"camera={goal.camera!r} to train on it; or make a goal with its camera"
        )
    options: dict[str, Any] = {} if camera is None else {"camera": camera}
    if goal is not None:
        height, width = goal.frame_size
        options["size"] = height if height == width else (height, width)
    return options


def training_of(goal: GoalBundle) -> list[dict[str, Any]]:
    """The provenance of the goal's encoder, if it comes with this package."""
    import json

    from genreward_wrappers.encoders.names import MARKERS

    source = str(goal.encoder.get("source", ""))
    if not source.startswith("embedded:"):
        return []
    file = embedded_folder(source, MARKERS, "encoder") / "training.json"
    if not file.is_file():
        return []
    return [{"step": f"training of {source}", **json.loads(file.read_text())}]


def _facts(env_id: str, goal: GoalBundle | None, frames: int) -> dict[str, str]:
    facts = {"environment": env_id}
    if goal is not None:
        facts |= {
            "goal": f"{goal!r}",
            "goal sha256": goal.digest[:16],
            "goal made by": goal.generator or "not said",
            "encoder": str(goal.encoder.get("source", "not said")),
        }
    installed = {d.name: d.version for d in metadata.distributions()}
    named = ("genreward-wrappers", "torch", "gymnasium", "metaworld", "mujoco")
    versions = [f"{name} {installed[name]}" for name in named if name in installed]
    return {
        **facts,
        "frames per episode": str(frames),
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
    }
