"""The constructors of the reward wrappers: arguments become a `RewardSpec`.

`GenRewardWrapper` means the same in a single environment, in a vector environment and
in stable-baselines3. A public class is one of these over one of the hosts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from genreward_wrappers.checks import check_names
from genreward_wrappers.core import RewardModel, check_model
from genreward_wrappers.hosts.host import Host
from genreward_wrappers.hosts.options import HostOptions
from genreward_wrappers.rewards.facts import Built, Part
from genreward_wrappers.rewards.spec import ENV, RewardSpec, accepted_options
from genreward_wrappers.rewards.spec_text import parse

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genreward_wrappers.data.goal_maker import GoalMaker
    from genreward_wrappers.data.goals import GoalBundle
    from genreward_wrappers.encoders.base import VideoEncoder
    from genreward_wrappers.generators.episode_settings import GeneratedGoals
    from genreward_wrappers.hosts.option_types import (
        FrameFields,
        FrameKwargs,
        HostKwargs,
        VideoKwargs,
    )

    GoalLike = (
        str
        | PathLike[str]
        | GoalBundle
        | GoalMaker
        | GeneratedGoals
        | Sequence[str | PathLike[str]]
        | Mapping[str, Any]
        | None
    )

Reward = RewardSpec | Mapping[str, Any] | str


#: Keys of a spec that no argument sets.
BESIDE = ("version", "name")


class GenRewardArguments(Host):
    """Both rewards of GenReward, and the environment's own if it has a weight.

    A bundle without forward-backward nets has no frame-level reward: the wrapper says
    so once, and does without it.
    """

    def __init__(
        self,
        env: Any,
        goal: GoalLike = None,
        *,
        video_weight: float | None = None,
        frame_weight: float | None = None,
        env_weight: float | str | None = None,
        preset: str = "default",
        encoder: VideoEncoder | str | None = None,
        frame_options: FrameFields | None = None,
        reward: Reward | None = None,
        **options: Unpack[VideoKwargs],
    ) -> None:
        """Wraps an environment, whose own reward is replaced unless it has a weight.

        Args:
            env: The environment, with pixels somewhere.
            goal: A goal bundle, its path, "hf://owner/repo/file.safetensors@revision",
                a video of your own or a list of them, which are packed as `genreward
                pack` does it, None for the embedded goal of the environment's id, a
                mapping with one of these for each of several views, or
                `GeneratedGoals` (its fields as a mapping; "generated" for its defaults)
                to make each episode's goals from its own first frame.
            video_weight: The weight of the video-level score; None is the preset's
                own, usually 1.
            frame_weight: The weight of the frame-level score; None is the preset's
                own, usually 0.25.
            env_weight: The weight of the environment's own reward; None is the
                preset's own, usually 0. "balanced" brings it to the scale of the goal
                reward, by the standard deviations of both over 512 steps of random
                actions that are played when the wrapper is made.
            preset: "default", or "paper" for the paper's sum with its own weights,
                in which the environment's reward has the weight 1.
            encoder: The encoder of the video-level reward: None loads the bundle's own,
                "pixels" is the control. The frame-level reward always uses the one that
                its nets were trained on.
            frame_options: Fields of `rewards.frame_options.FrameOptions`.
            reward: The whole reward as one value, in place of the arguments above: a
                `RewardSpec`, its JSON, or its text.
            **options: Fields of `HostOptions` (``frames``, ``view_weights``,
                ``observe``, ``horizon``, ``record``, ``device``, ``dtype``,
                ``nonfinite``, ``other_task``) and of
                `rewards.video_options.VideoOptions`, and ``every``.
        """
        own = some(encoder=encoder, frame=frame_options)
        weights = some(video=video_weight, frame=frame_weight, env=env_weight)
        said = RewardSpec("genreward", own, weights, goal, preset)
        _start(self, env, said, reward, options)


class VideoLevelArguments(Host):
    """Rewards an agent for following a goal video."""

    def __init__(
        self,
        env: Any,
        goal: GoalLike = None,
        *,
        weight: float | None = None,
        env_weight: float | str | None = None,
        preset: str = "default",
        encoder: VideoEncoder | str | None = None,
        reward: Reward | None = None,
        **options: Unpack[VideoKwargs],
    ) -> None:
        """Wraps an environment, whose own reward is replaced unless it has a weight.

        Args:
            env: The environment, with pixels somewhere.
            goal: The goal, as for `GenRewardWrapper`.
            weight: The weight of the score; None is the preset's own, usually 1.
            env_weight: The weight of the environment's own reward; None is 0. May be
                "balanced", as for `GenRewardWrapper`.
            preset: "default", or "paper" for the released code's configuration.
            encoder: The encoder: None loads the bundle's own, "pixels" is the control.
            reward: The whole reward as one value, in place of the arguments above.
            **options: Fields of `HostOptions` and of
                `rewards.video_options.VideoOptions`, and ``every``.
        """
        own = some(encoder=encoder)
        weights = some(video=weight, env=env_weight)
        said = RewardSpec("video", own, weights, goal, preset)
        _start(self, env, said, reward, options)


class FrameLevelArguments(Host):
    """Rewards an agent for actions that lead to a goal video's key frame."""

    def __init__(
        self,
        env: Any,
        goal: str | PathLike[str] | GoalBundle | None = None,
        *,
        weight: float | None = None,
        env_weight: float | str | None = None,
        encoder: VideoEncoder | str | None = None,
        reward: Reward | None = None,
        **options: Unpack[FrameKwargs],
    ) -> None:
        """Wraps an environment, whose own reward is replaced unless it has a weight.

        Args:
            env: The environment, with pixels somewhere.
            goal: A goal bundle with forward-backward nets, its path or address, or None
                for the embedded one.
            weight: The weight of the score; None is 1.
            env_weight: The weight of the environment's own reward; None is 0. May be
                "balanced", as for `GenRewardWrapper`.
            encoder: The encoder: None loads the bundle's own.
            reward: The whole reward as one value, in place of the arguments above.
            **options: Fields of `HostOptions` and of
                `rewards.frame_options.FrameOptions`.
        """
        own = some(encoder=encoder)
        weights = some(frame=weight, env=env_weight)
        said = RewardSpec("frame", own, weights, goal)
        _start(self, env, said, reward, options)


class RewardModelArguments(Host):
    """Rewards an agent by any `RewardModel`."""

    def __init__(
        self,
        env: Any,
        model: RewardModel[Any] | Reward,
        *,
        options: Mapping[str, Any] | None = None,
        weight: float = 1.0,
        env_weight: float | str = 0.0,
        **host_options: Unpack[HostKwargs],
    ) -> None:
        """Wraps an environment, whose own reward is replaced unless it has a weight.

        Args:
            env: The environment, with pixels somewhere.
            model: The reward model, which may serve any number of wrappers, or the name
                of one that `load_reward` makes here, or a whole reward as one value.
            options: The options of a model that is given by its name. What the
                environment knows (the time limit as ``horizon``, the action space) is
                added.
            weight: The weight of the model's score.
            env_weight: The weight of the environment's own reward, or "balanced", as
                for `GenRewardWrapper`.
            **host_options: Fields of `HostOptions`.
        """
        host, _ = split(type(self), host_options, ())
        if not isinstance(model, (str, Mapping, RewardSpec)):
            if options is not None:
                raise ValueError(
                    f"options={dict(options)} belong to the name of a model, and the "
                    "model is here already"
                )
            check_model(model)
            parts = tuple(Part(part, weight * own) for part, own in model.parts)
            told = {"model": model, "weight": weight, "env_weight": env_weight}
            self._attach(env, Built(parts, env_weight), host, told)
            return
        spec = read(model, options or {})
        name = spec.name.partition(":")[0]
        weights = some(
            **{name: None if weight == 1 else weight, ENV: env_weight or None}
        )
        spec = replace(spec, weights={**spec.weights, **weights})
        self._attach(env, spec, host, {"model": spec.as_mapping()})


def _start(
    host: Host,
    env: Any,
    said: RewardSpec,
    reward: Reward | None,
    options: Mapping[str, Any],
) -> None:
    """Attaches a host to an environment, with the reward that its arguments name."""
    told, own = split(type(host), options, accepted_options(said.name))
    spec = replace(said, options={**said.options, **own})
    if reward is not None:
        if spec != RewardSpec(said.name):
            beside = {k: v for k, v in spec.as_mapping().items() if k not in BESIDE}
            raise TypeError(f"reward= is the whole reward, and beside it came {beside}")
        spec = read(reward, {})
    host._attach(env, spec, told, {"reward": spec.as_mapping()})


def read(reward: Reward, options: Mapping[str, Any]) -> RewardSpec:
    """A reward as one value, from whatever it is written as, with more options."""
    if isinstance(reward, str):
        name, own = parse(reward)
        return RewardSpec.of(name, {**own, **options})
    spec = reward if isinstance(reward, RewardSpec) else RewardSpec.from_json(reward)
    return replace(spec, options={**spec.options, **options})


def split(
    cls: type[Host], options: Mapping[str, Any], accepted: Iterable[str]
) -> tuple[HostOptions, dict[str, Any]]:
    """The options of the host, and the others.

    Raises:
        TypeError: There is no such option; the message names the closest one.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [
        parameter.name
        for parameter in inspect.signature(cls.__init__).parameters.values()
        if parameter.kind in kinds and parameter.name not in ("self", "env")
    ]
    own = HostOptions.names()
    rest = (name for name in accepted if name not in (*named, *own, "frame"))
    check_names(options, (*named, *rest, *own), cls.__name__)
    host = {name: value for name, value in options.items() if name in own}
    return HostOptions(**host), {k: v for k, v in options.items() if k not in own}


def some(**given: Any) -> dict[str, Any]:
    """The arguments that are not None."""
    return {name: value for name, value in given.items() if value is not None}
