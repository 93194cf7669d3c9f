"""What a goal is worth on held-out episodes.

It takes fewer episodes and fewer figures than `genreward evaluate`, and works for any
environment: how often a success scores higher than a failure, and whether the scores
rank episodes as the environment's own reward does. A goal that ranks them the wrong way
round is found here, and its bundle says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.core import Int64
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.envs.policies import check_policy
from genreward_wrappers.evaluate.episodes.rollouts import FIRST_SEED, check_seeds
from genreward_wrappers.evaluate.judge.bootstrap import Estimate, undefined
from genreward_wrappers.evaluate.judge.judged_rewards import Contestant, Maker
from genreward_wrappers.evaluate.judge.metrics import measure
from genreward_wrappers.evaluate.judge.run import curve, labels, training_of
from genreward_wrappers.goal_pipeline.card import CHECK
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.relabel.fold import score_episodes, wanted_steps
from genreward_wrappers.training.forward_backward.judge import rank_correlation

#: Frames of an episode that the per-frame reading looks at, as in `evaluate`.
FRAMES = 65
#: How far the policies' first seeds lie apart.
APART = 1_000
#: How many digits of a figure are kept.
DIGITS = 4

CHANCE = 0.5


@dataclass(frozen=True)
class Figure:
    """What the held-out episodes say about one reward.

    Attributes:
        reward: Its name.
        auc: How often a success scores higher on average than a failure.
        rank: The rank correlation of an episode's mean score with its return in the
            environment; None where either is the same in all episodes.
    """

    reward: str
    auc: Estimate
    rank: float | None

    @property
    def wrong_way_round(self) -> bool:
        """Whether it ranks failures above successes, as far as this is known."""
        if self.auc.value is not None:
            return self.auc.value < CHANCE
        return self.rank is not None and self.rank < 0

    @property
    def said(self) -> str:
        """The figure as a sentence."""
        auc, rank = self.auc, self.rank
        if auc.value is None:
            why = f"unknown whether it tells successes from failures ({auc.flag})"
            if rank is None:
                return f"{self.reward}: {why}, or agrees with the environment"
            agrees = "CONTRADICTS" if rank < 0 else "agrees with"
            return (
                f"{self.reward}: {why}; it {agrees} the environment's own reward, "
                f"rank correlation {rank:.2f}"
            )
        figure = f"AUC {auc.value:.2f}"
        if auc.low is not None and auc.high is not None:
            figure += f" ({auc.low:.2f} to {auc.high:.2f})"
        if auc.value < CHANCE:
            said = "RANKS FAILURES ABOVE SUCCESSES"
            if auc.high is None or auc.high >= CHANCE:
                said += ", which may be chance with so few episodes"
        elif auc.low is None or auc.low <= CHANCE:
            said = "cannot be told from chance with so few episodes"
        else:
            said = "ranks successes above failures"
        beside = (
            "" if rank is None else f"; rank correlation with the return {rank:.2f}"
        )
        return f"{self.reward}: {said}: {figure}, {auc.n} episodes{beside}"


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        figures: One for each reward.
        episodes: For each policy the number of episodes, of successes, and the first
            seed.
    """

    figures: tuple[Figure, ...]
    episodes: Mapping[str, Mapping[str, int]]

    @property
    def wrong_way_round(self) -> bool:
        """Whether any of the rewards ranks failures above successes."""
        return any(figure.wrong_way_round for figure in self.figures)

    @property
    def lines(self) -> list[str]:
        """A sentence for each reward."""
        return [figure.said for figure in self.figures]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, which `from_json` reads."""
        return {
            "figures": [_rounded(asdict(figure)) for figure in self.figures],
            "episodes": {name: dict(value) for name, value in self.episodes.items()},
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Check:
        """The check that `to_json` wrote."""
        figures = tuple(
            Figure(one["reward"], Estimate(**one["auc"]), one["rank"])
            for one in found["figures"]
        )
        return cls(figures, found["episodes"])

    def step(self) -> dict[str, Any]:
        """The check as a step of the bundle's provenance."""
        return {
            "step": CHECK,
            **self.to_json(),
            "said": self.lines,
            "wrong way round": self.wrong_way_round,
        }


def policies_of(env_id: str) -> tuple[str, ...]:
    """Who plays the held-out episodes by default: policies that cost little."""
    try:
        check_policy("scripted", env_id)
    except (ValueError, ImportError):
        return ("random",)
    return ("random", "scripted", "noisy")


def first_seed(policy: int) -> int:
    """The first seed of a policy's held-out episodes."""
    return FIRST_SEED + APART * policy


def check_goal(
    goal: GoalBundle,
    recorded: Mapping[str, Sequence[Path]],
    horizon: int,
    *,
    device: str = "auto",
    on_progress: OnProgress = no_progress,
) -> Check:
    """Scores held-out episodes.

    Args:
        goal: The goal; its nets are judged too, if it has any.
        recorded: Episodes of `goal_pipeline.collect`, by policy.
        horizon: How many steps an episode has.
        device: Where the encoders run.
        on_progress: Called with how many rewards are scored, and of how many.

    Raises:
        ValueError: The goal was made from test seeds.
    """
    check_seeds(goal, training_of(goal))
    with warnings.catch_warnings():
        # Training has warned about the nets already.
        warnings.simplefilter("ignore", UserWarning)
        made = Maker(goal, horizon, FRAMES, device).make("genreward")
    # Each part by itself: a sum says less of what is wrong.
    rewards = [one for one in made if one.role == "reward"]
    models = [model for one in rewards for model, _ in one.parts]
    wanted = wanted_steps(models, horizon)
    episodes = [
        _labelled(_thinned(Episode.load(path), wanted), policy, i)
        for policy, paths in recorded.items()
        for i, path in enumerate(paths)
    ]
    figures = []
    on_progress(0, len(rewards))
    for done, reward in enumerate(rewards, 1):
        figures.append(_figure(reward, episodes))
        on_progress(done, len(rewards))
    counts = {
        policy: {
            "episodes": len(paths),
            "successes": sum(
                e.succeeded for e in episodes if e.info["policy"] == policy
            ),
            "first seed": first_seed(i),
        }
        for i, (policy, paths) in enumerate(recorded.items())
    }
    return Check(tuple(figures), counts)


def _figure(reward: Contestant, episodes: Sequence[Episode]) -> Figure:
    paid = score_episodes(reward.parts[0][0], episodes)
    # An episode may be over before anything is due.
    told = [i for i, one in enumerate(paid) if not np.isnan(one).all()]
    curves, known = [curve(paid[i]) for i in told], [episodes[i] for i in told]
    if not told:
        return Figure(reward.name, undefined(0, "nothing was due"), None)
    found = measure(curves, labels(known))
    means = np.array([one.values.mean() for one in curves])
    own = np.array([episode.rewards["env"].sum() for episode in known])
    rank = None
    if np.ptp(means) > 0 and np.ptp(own) > 0:
        rank = rank_correlation(means, own)
    return Figure(reward.name, found["auc_mean"], rank)


def _thinned(episode: Episode, wanted: Int64) -> Episode:
    """Without the frames that no reward looks at, which are most of its size."""
    kept = np.isin(episode.frame_steps, wanted)
    return replace(
        episode, frames=episode.frames[kept], frame_steps=episode.frame_steps[kept]
    )


def _labelled(episode: Episode, policy: str, index: int) -> Episode:
    kind = policy if policy in ("random", "noisy") else "failure"
    if kind == "failure" and episode.succeeded:
        kind = "success"
    info = {"kind": kind, "group": f"{policy} {index}", "policy": policy}
    return replace(episode, info={**episode.info, **info})


def _rounded(value: Any) -> Any:
    """Further digits differ from machine to machine."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value
