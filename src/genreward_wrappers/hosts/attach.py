"""How a reward is attached to environments, before anything is reset.

A host says what it wraps by an `Inside`; `attach` finds the frames and the time limit,
builds the models, and gives back the three things that a host works with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from genreward_wrappers.core import warn_caller
from genreward_wrappers.data.episodes import GOAL_FILE, Recorder
from genreward_wrappers.data.frames import find_source
from genreward_wrappers.data.goals import GoalError
from genreward_wrappers.data.views import BETWEEN, join_views
from genreward_wrappers.hosts.frames import Frames
from genreward_wrappers.hosts.head import RewardHead
from genreward_wrappers.hosts.horizon import known_horizon
from genreward_wrappers.hosts.options import HostOptions
from genreward_wrappers.hosts.time_feature import TimeFeature
from genreward_wrappers.rewards.facts import Built, Facts
from genreward_wrappers.rewards.spec import RewardSpec
from genreward_wrappers.rewards.views import View, view_shares

#: In an environment's metadata: the class that pays a reward there already.
MARK = "reward_wrapper"


class Inside(NamedTuple):
    """What a host wraps.

    Attributes:
        env: One of the environments; None where they live in other processes.
        spec: The spec of one environment, if it has one.
        metadata: The metadata, in which a reward wrapper leaves its `MARK`.
        observation_space: The observation space of one environment.
        action_space: The action space of one environment.
        render_mode: The render mode.
        num_envs: The number of environments.
        no_render: Why ``render()`` does not show the frames of a step; empty if it
            does.
    """

    env: Any
    spec: EnvSpec | None
    metadata: Mapping[str, Any]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    render_mode: str | None
    num_envs: int
    no_render: str = ""


class Attached(NamedTuple):
    """What a host works with.

    Attributes:
        head: Scores and pays.
        frames: Finds the pixels of each step.
        progress: Adds the time to observations, if that was asked for.
        built: The models and their weights, as `head` was given them.
    """

    head: RewardHead
    frames: Frames
    progress: TimeFeature
    built: Built


def attach(
    inside: Inside, reward: RewardSpec | Built, options: HostOptions, name: str
) -> Attached:
    """Checks that a reward can be paid there, and builds it.

    Args:
        inside: The environments.
        reward: The reward as a value, or its models.
        options: The options of the host.
        name: The class of the wrapper, for messages.

    Raises:
        ValueError: Something pays a reward there already, frames or the time limit
            cannot be had, or the reward cannot be built.
    """
    there = inside.metadata.get(MARK)
    if there:
        raise ValueError(
            f"the environment is in a {there} already, whose reward {name} would "
            "throw away: wrap the environment inside it, or add rewards up in one "
            "wrapper (GenRewardWrapper, or RewardModelWrapper with a WeightedSum)"
        )
    horizon = known_horizon(options.horizon, inside.env, inside.spec)
    progress = TimeFeature(options.observe, inside.observation_space, horizon)
    source = find_source(options.frames, inside)
    if source.kind == "render" and inside.no_render:
        raise ValueError(inside.no_render)
    views: dict[str, float] = {}
    if isinstance(options.frames, Mapping):
        views = view_shares(options.frames, options.view_weights)
    elif options.view_weights is not None:
        raise ValueError(
            f"view_weights={dict(options.view_weights)} does nothing with "
            f"frames={options.frames!r}: it needs several views by name"
        )
    built = reward
    env_id = inside.spec.id if inside.spec else None
    if isinstance(built, RewardSpec):
        facts = Facts(
            env_id=env_id,
            horizon=horizon,
            camera=inside.metadata.get("camera"),
            action_space=inside.action_space,
            device=options.device,
            dtype=options.dtype,
            other_task=options.other_task,
            views=views,
        )
        built = built.build(facts)
    for remark in built.remarks:
        warn_caller(remark)
    stretched = [part.model.stretch for part in built.parts if part.model.stretch]
    head = RewardHead(
        built,
        inside.num_envs,
        horizon=horizon if options.observe else next(iter(stretched), None),
        nonfinite=options.nonfinite,
        recorder=_recorder(options.record, env_id, built, views),
    )
    return Attached(head, Frames(source, inside.num_envs), progress, built)


def _recorder(
    folder: Any, env_id: str | None, built: Built, views: Iterable[str]
) -> Recorder | None:
    if folder is None:
        return None
    shown = {"camera": BETWEEN.join(views)} if views else {}
    recorder = Recorder(folder, {"env_id": env_id or "", **shown})
    # For `genreward live`, to show beside the episodes.
    place = recorder.folder / GOAL_FILE
    models = [part.model for part in built.parts if part.model.goal is not None]
    seen = {m.view: m.goal.with_(nets={}) for m in models if isinstance(m, View)}
    if seen:
        # Goals of different lengths fit no picture.
        with suppress(GoalError):
            join_views(seen).save(place)
    elif models:
        models[-1].goal.save(place)
    return recorder
