"""The constructors of the reward wrappers, written once for all hosts.

`GenRewardWrapper` means the same in a single environment, in a vector environment and
in stable-baselines3. What differs between those is how they reset and step, which is
the host's part; what is the same, the arguments and the models they make, is here. A
public class is one of these recipes over one of the hosts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from genreward_wrappers.core import Float32, RewardModel, Score, Session, UInt8
from genreward_wrappers.data.episodes import Recorder
from genreward_wrappers.data.frames import flat_state

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from genreward_wrappers.data.goal_maker import GoalMaker
    from genreward_wrappers.data.goals import GoalBundle
    from genreward_wrappers.encoders.base import VideoEncoder
    from genreward_wrappers.generators.episode_goals import GeneratedGoals
    from genreward_wrappers.rewards.frame_level import FrameOptions
    from genreward_wrappers.rewards.video_level import VideoOptions

    GoalLike = (
        str
        | PathLike[str]
        | GoalBundle
        | GoalMaker
        | GeneratedGoals
        | Mapping[str, Any]
        | None
    )


@dataclass(frozen=True, slots=True)
class EnvFacts:
    """What a recipe has to know about the environment, whatever host it is in.

    Attributes:
        env_id: Its id, to look the goal up by.
        horizon: Its time limit in steps.
        camera: The camera of its frames, if it says.
        action_space: The space of one environment's actions.
    """

    env_id: str | None
    horizon: int | None
    camera: str | None
    action_space: spaces.Space[Any]


def known_horizon(horizon: int | None, spec: EnvSpec | None) -> int | None:
    """Steps of an episode: what the user says, else the environment's time limit."""
    if horizon is None:
        return spec.max_episode_steps if spec else None
    if horizon < 1:
        raise ValueError(f"horizon={horizon}: expected at least 1 step")
    return int(horizon)


class Part(NamedTuple):
    """A reward model and its weight in the agent's reward."""

    model: RewardModel[Any]
    weight: float


Build = Callable[[EnvFacts], Sequence[Part]]


class Host:
    """What a recipe needs from the class it is mixed into."""

    @classmethod
    def _check_kind(cls, env: Any, kind: type, expected: str) -> None:
        """Refuses an environment of another world, and says which wrapper it takes."""
        if isinstance(env, kind):
            return
        name = cls.__name__
        raise TypeError(
            f"{name} expected a {expected}, got {type(env).__name__}. Single "
            "environments take genreward_wrappers.GenRewardWrapper and its like, "
            "gymnasium.vector environments those of genreward_wrappers.vector, "
            "stable-baselines3's those of genreward_wrappers.sb3"
        )

    def _bind(
        self,
        parts: Sequence[Part],
        arguments: dict[str, Any],
        num_envs: int,
        facts: EnvFacts,
    ) -> None:
        """The session of some models, and what each counts in the reward."""
        self._env_weight = float(arguments["env_weight"])
        self._weights = {part.model.name: float(part.weight) for part in parts}
        self.session = Session([part.model for part in parts], num_envs)
        self.recorder: Recorder | None = None
        if arguments["record"] is not None:
            info = {"env_id": facts.env_id or ""}
            self.recorder = Recorder(arguments["record"], info)
            for part in parts:
                goal = getattr(part.model, "goal", None)
                if goal is not None:
                    # For `genreward live`, to show beside the episodes.
                    goal.save(self.recorder.folder / "goal.safetensors")

    def _states(self, observation: Any, axes: int = 1) -> Float32 | None:
        """(N, S) the numbers in an observation, if a model sees them.

        Args:
            observation: Of one environment (``axes=0``) or of all.
            axes: How many axes come before those of a single observation.
        """
        if not self.session.sees_states:
            return None
        states = flat_state(observation, axes)
        if states is None:
            raise ValueError(
                "the reward was trained on the environment's own numbers, and its "
                "observations hold none: make it with states in them (obs=dict)"
            )
        return states if axes else states[None]

    def _note_begin(self, frame: UInt8) -> None:
        """Tells the recorder that an episode of the first environment begins."""
        if self.recorder is None:
            return
        info = {}
        memories = self.session.snapshot().memories
        for model, memory in zip(self.session.models, memories, strict=True):
            # Which of the bundle's goals; an episode's own ones are in no bundle.
            if hasattr(model, "chosen") and getattr(model, "goal", None):
                info["goal"] = int(model.chosen(memory)[0])
        self.recorder.begin(frame, info)

    def _note(
        self,
        scores: Mapping[str, Score],
        action: Any,
        frame: UInt8 | None,
        env_reward: float,
        success: bool,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Tells the recorder what happened in the first environment."""
        if self.recorder is None:
            return
        own = {"env": Score(np.array([env_reward], np.float32), np.array([True]))}
        rewards = {
            name: float(score.value[0]) if score.due[0] else float("nan")
            for name, score in {**own, **scores}.items()
        }
        self.recorder.step(action, frame, rewards, success, terminated, truncated)

    def _attach(self, env: Any, build: Build, arguments: dict[str, Any]) -> None:
        """Wraps the environment, and binds a session of the models that build makes.

        Args:
            env: What to wrap.
            build: Makes the models, once the facts about the environment are known.
            arguments: The constructor's own. The environment's spec records them all;
                the host reads ``env_weight``, ``frames``, ``observe``, ``horizon``
                and ``record``.
        """
        raise NotImplementedError


class RewardModelRecipe(Host):
    """Rewards an agent by any `RewardModel`."""

    def __init__(
        self,
        env: Any,
        model: RewardModel[Any] | str,
        *,
        options: Mapping[str, Any] | None = None,
        weight: float = 1.0,
        env_weight: float = 0.0,
        frames: str = "auto",
        observe: str | None = None,
        horizon: int | None = None,
        record: str | PathLike[str] | None = None,
    ) -> None:
        """Wraps an environment.

        Args:
            env: The environment, with pixels somewhere.
            model: The reward model, which may serve any number of wrappers, or the name
                of one that `load_reward` makes here: a spec then holds the name.
            options: The model's own, beside a name. What the environment knows (the
                time limit as ``horizon``, the action space) comes by itself.
            weight: The weight of the model's score.
            env_weight: The weight of the environment's own reward.
            frames: Where the pixels come from: "auto", "obs", "obs:<key>", "render" or
                "info:<key>".
            observe: "progress" adds the place in the episode to the observation.
            horizon: Steps of an episode, where the environment has no time limit.
            record: A folder for some of the episodes, to look at with
                ``genreward live``; see `episodes.Recorder`.
        """

        def build(facts: EnvFacts) -> list[Part]:
            made = _make_model(model, options, facts)
            # A sum's parts are logged one by one.
            parts = getattr(made, "parts", ((made, 1.0),))
            return [Part(part, weight * own) for part, own in parts]

        self._attach(
            env,
            build,
            {
                "model": model,
                "options": None if options is None else dict(options),
                "weight": weight,
                "env_weight": env_weight,
                "frames": frames,
                "observe": observe,
                "horizon": horizon,
                "record": None if record is None else fspath(record),
            },
        )


class VideoLevelRecipe(Host):
    """Rewards an agent for following a goal video."""

    def __init__(
        self,
        env: Any,
        goal: GoalLike = None,
        *,
        weight: float | None = None,
        env_weight: float = 0.0,
        preset: str = "default",
        encoder: VideoEncoder | str | None = None,
        frames: str = "auto",
        observe: str | None = None,
        horizon: int | None = None,
        record: str | PathLike[str] | None = None,
        device: str = "auto",
        dtype: str | None = None,
        **options: Unpack[VideoOptions],
    ) -> None:
        """Wraps an environment.

        Args:
            env: The environment, with pixels somewhere.
            goal: A goal bundle, its path, "hf://owner/repo/file.safetensors@revision",
                None for the embedded goal of the environment's id, or
                `GeneratedGoals` (its fields as a mapping; "generated" for its defaults)
                to make each episode's goals from its own first frame.
            weight: The weight of the score; None is the preset's own, usually 1.
            env_weight: The weight of the environment's own reward: by default it is
                replaced.
            preset: "default", or "paper" for the released code's configuration.
            encoder: None loads the bundle's own; "pixels" is the control.
            frames: Where the pixels come from: "auto", "obs", "obs:<key>", "render" or
                "info:<key>".
            observe: "progress" adds the place in the episode to the observation: a
                reward that depends on the time is not Markov without it.
            horizon: Steps of an episode; None takes the environment's time limit.
            record: A folder for some of the episodes, to look at with
                ``genreward live``; see `episodes.Recorder`.
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<index>".
            dtype: What the encoder computes in: "float32", "bfloat16" or "float16".
            **options: How the video is read, compared and paid: ``reading``,
                ``length``, ``window``, ``every``, ``score``, ``contrast``, ``payment``,
                ``discount``, ``goals``. See `rewards.video_level.VideoLevel`.
        """

        def build(facts: EnvFacts) -> list[Part]:
            return [
                _video_part(
                    facts, goal, encoder, weight, preset, device, dtype, options
                )
            ]

        self._attach(
            env,
            build,
            {
                "goal": _recorded(goal),
                "weight": weight,
                "env_weight": env_weight,
                "preset": preset,
                "encoder": encoder,
                "frames": frames,
                "observe": observe,
                "horizon": horizon,
                "record": None if record is None else fspath(record),
                "device": device,
                "dtype": dtype,
                **options,
            },
        )


class FrameLevelRecipe(Host):
    """Rewards an agent for actions that lead to a goal video's key frame."""

    def __init__(
        self,
        env: Any,
        goal: str | PathLike[str] | GoalBundle | None = None,
        *,
        weight: float = 1.0,
        env_weight: float = 0.0,
        encoder: VideoEncoder | str | None = None,
        frames: str = "auto",
        observe: str | None = None,
        horizon: int | None = None,
        record: str | PathLike[str] | None = None,
        device: str = "auto",
        dtype: str | None = None,
        **options: Unpack[FrameOptions],
    ) -> None:
        """Wraps an environment.

        Args:
            env: The environment, with pixels somewhere.
            goal: As for the video-level reward; the bundle must hold
                forward-backward nets.
            weight: The weight of the score.
            env_weight: The weight of the environment's own reward.
            encoder: None loads the bundle's own.
            frames: Where the pixels come from: "auto", "obs", "obs:<key>", "render" or
                "info:<key>".
            observe: "progress" adds the place in the episode to the observation.
            horizon: Steps of an episode; None takes the environment's time limit.
            record: A folder for some of the episodes, to look at with
                ``genreward live``; see `episodes.Recorder`.
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<index>".
            dtype: What the encoder computes in.
            **options: ``form``, ``heads``, ``discount``, ``length``. See
                `rewards.frame_level.FrameLevel`.
        """

        def build(facts: EnvFacts) -> list[Part]:
            from genreward_wrappers.rewards.frame_level import FrameLevel

            bundle = _find_bundle(goal, facts)
            model = FrameLevel(
                bundle,
                encoder,
                action_space=facts.action_space,
                horizon=facts.horizon,
                device=device,
                dtype=dtype,
                **options,
            )
            return [Part(model, weight)]

        self._attach(
            env,
            build,
            {
                "goal": _recorded(goal),
                "weight": weight,
                "env_weight": env_weight,
                "encoder": encoder,
                "frames": frames,
                "observe": observe,
                "horizon": horizon,
                "record": None if record is None else fspath(record),
                "device": device,
                "dtype": dtype,
                **options,
            },
        )


class GenRewardRecipe(Host):
    """Both rewards of GenReward and the environment's own, weighted, in one session.

    A bundle without forward-backward nets has no frame-level reward: the wrapper says
    so once, and goes on without it.
    """

    def __init__(
        self,
        env: Any,
        goal: GoalLike = None,
        *,
        video_weight: float | None = None,
        frame_weight: float | None = None,
        env_weight: float = 1.0,
        preset: str = "default",
        encoder: VideoEncoder | str | None = None,
        frames: str = "auto",
        observe: str | None = None,
        horizon: int | None = None,
        record: str | PathLike[str] | None = None,
        device: str = "auto",
        dtype: str | None = None,
        frame_options: dict[str, Any] | None = None,
        **options: Unpack[VideoOptions],
    ) -> None:
        """Wraps an environment.

        Args:
            env: The environment, with pixels somewhere.
            goal: A goal bundle, its path, "hf://owner/repo/file.safetensors@revision",
                None for the embedded goal of the environment's id, or
                `GeneratedGoals` (its fields as a mapping; "generated" for its defaults)
                to make each episode's goals from its own first frame.
            video_weight: The weight of the video-level score; None is the preset's
                own, usually 1.
            frame_weight: The weight of the frame-level score; likewise, usually 0.25.
            env_weight: The weight of the environment's own reward.
            preset: "default", or "paper" for the released code's configuration.
            encoder: Of the video-level reward: None loads the bundle's own; "pixels" is
                the control. The frame-level reward sees what its nets were trained on.
            frames: Where the pixels come from: "auto", "obs", "obs:<key>", "render" or
                "info:<key>".
            observe: "progress" adds the place in the episode to the observation: a
                reward that depends on the time is not Markov without it.
            horizon: Steps of an episode; None takes the environment's time limit.
            record: A folder for some of the episodes, to look at with
                ``genreward live``; see `episodes.Recorder`.
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<index>".
            dtype: What the encoder computes in: "float32", "bfloat16" or "float16".
            frame_options: How the frame-level score is formed: ``form``, ``heads``,
                ``discount``, ``length``. See `rewards.frame_level.FrameLevel`.
            **options: How the video is read, compared and paid. See
                `rewards.video_level.VideoLevel`.
        """

        def build(facts: EnvFacts) -> list[Part]:
            from genreward_wrappers.encoders.binding import bind_encoder
            from genreward_wrappers.encoders.caching import shared
            from genreward_wrappers.rewards.frame_level import (
                FRAME_WEIGHTS,
                FrameLevel,
                fits_nets,
            )

            found = _find(goal, facts)
            nets = getattr(found, "nets", {})
            own = FRAME_WEIGHTS.get(preset, 1.0)
            weight = own if frame_weight is None else frame_weight
            seen = encoder
            if nets and weight != 0:
                # This step's last frame is the next step's first: encoded once.
                seen = shared(bind_encoder(found, encoder, device=device, dtype=dtype))
            parts = [
                _video_part(
                    facts, found, seen, video_weight, preset, device, dtype, options
                )
            ]
            if nets and weight != 0:
                bundle = _find_bundle(found, facts)
                model = FrameLevel(
                    bundle,
                    # Nets take no other features than those they were trained on.
                    seen if fits_nets(bundle, seen) else None,
                    action_space=facts.action_space,
                    horizon=facts.horizon,
                    device=device,
                    dtype=dtype,
                    **(frame_options or {}),
                )
                parts.append(Part(model, weight))
            elif not nets and frame_weight != 0:
                warnings.warn(
                    f"{found!r} has no frame-level part: the reward is the "
                    "video-level score and the environment's own. frame_weight=0 "
                    "silences this",
                    stacklevel=4,
                )
            return parts

        self._attach(
            env,
            build,
            {
                "goal": _recorded(goal),
                "video_weight": video_weight,
                "frame_weight": frame_weight,
                "env_weight": env_weight,
                "preset": preset,
                "encoder": encoder,
                "frames": frames,
                "observe": observe,
                "horizon": horizon,
                "record": None if record is None else fspath(record),
                "device": device,
                "dtype": dtype,
                "frame_options": frame_options,
                **options,
            },
        )


def _make_model(
    model: RewardModel[Any] | str, options: Mapping[str, Any] | None, facts: EnvFacts
) -> RewardModel[Any]:
    """The model itself, or the one of that name for these facts."""
    if not isinstance(model, str):
        if options is not None:
            raise ValueError(
                f"options={dict(options)} belong to the name of a model, and the model "
                "is here already"
            )
        return model
    from genreward_wrappers.rewards.registry import load_reward, reward_options

    known = {"horizon": facts.horizon, "action_space": facts.action_space}
    accepted = reward_options(model)
    own = {key: value for key, value in known.items() if key in accepted}
    return load_reward(model, **{**own, **(options or {})})


def _video_part(
    facts: EnvFacts,
    goal: Any,
    encoder: Any,
    weight: float | None,
    preset: str,
    device: str,
    dtype: str | None,
    options: VideoOptions,
) -> Part:
    from genreward_wrappers.rewards.video_level import PRESETS, WEIGHTS, VideoLevel

    if preset not in PRESETS:
        raise ValueError(
            f"preset={preset!r}: expected one of {', '.join(map(repr, PRESETS))}"
        )
    chosen: Any = {**PRESETS[preset], **options}
    model = VideoLevel(
        _find(goal, facts),
        encoder,
        horizon=facts.horizon,
        device=device,
        dtype=dtype,
        **chosen,
    )
    return Part(model, WEIGHTS.get(preset, 1.0) if weight is None else weight)


def _find(goal: Any, facts: EnvFacts) -> GoalBundle | GoalMaker:
    """What a wrapper was given as its goal: a bundle, or what makes goals."""
    from genreward_wrappers.data.goal_maker import GoalMaker

    if isinstance(goal, GoalMaker):
        return goal
    if _is_generated(goal):
        from genreward_wrappers.generators.episode_goals import GeneratedGoals

        return GeneratedGoals.of(goal).maker(facts.env_id)
    return _find_bundle(goal, facts)


def _is_generated(goal: Any) -> bool:
    """Whether goals are to be made from the first frames."""
    if isinstance(goal, str):
        return goal == "generated"
    return isinstance(goal, Mapping) or hasattr(goal, "as_mapping")


def _find_bundle(goal: Any, facts: EnvFacts) -> GoalBundle:
    from genreward_wrappers.data.goals import GoalError, load_goal

    if _is_generated(goal):
        raise GoalError(
            "the frame-level reward asks nets that were trained beforehand for the key "
            f"frames of a bundle, and goal={goal!r} has neither: give a bundle, or use "
            "VideoLevelReward"
        )
    bundle = load_goal(goal, facts.env_id)
    if bundle.camera and facts.camera and bundle.camera != facts.camera:
        raise GoalError(
            f"{bundle!r} was filmed by the camera {bundle.camera!r}, the environment "
            f"shows {facts.camera!r}: make it with camera={bundle.camera!r}, or make a "
            "goal with its camera"
        )
    return bundle


def _recorded(goal: Any) -> Any:
    """A goal as a spec can hold it: by its source, if it has one."""
    from genreward_wrappers.data.goals import GoalBundle

    if isinstance(goal, GoalBundle):
        return goal.source or goal
    if _is_generated(goal) and not isinstance(goal, (str, Mapping)):
        return goal.as_mapping()
    return fspath(goal) if isinstance(goal, PathLike) else goal
