"""The rewards to be judged, by the names that the command line knows them by.

A contestant is a weighted sum of reward models and perhaps the environment's own
reward: one model alone is the simplest one. Controls are made beside every video-level
reward, since a figure says little without them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from genreward_wrappers.core import RewardModel
from genreward_wrappers.data.goal_maker import GoalMaker
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.encoders.binding import bind_encoder
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.generators.episode_goals import GeneratedGoals, OwnGoals
from genreward_wrappers.rewards.frame_level import FRAME_WEIGHTS, FrameLevel, fits_nets
from genreward_wrappers.rewards.registry import (
    load_reward,
    reward_names,
    reward_options,
)
from genreward_wrappers.rewards.video_level import (
    PRESETS,
    WEIGHTS,
    VideoLevel,
)
from genreward_wrappers.training.forward_backward.features import card_of

Role = Literal["reward", "control", "reference", "sum"]

#: What can be asked for, and what it is; beside these, what `load_reward` knows.
REWARDS: Mapping[str, str] = {
    "genreward": "all of GenRewardWrapper: video, frame, and their sum with the "
    "environment's own reward",
    "video": "the video-level reward",
    "frame": "the frame-level reward",
    "generated": "the video-level reward, each episode with goals of its own that are "
    "generated from its first frame",
    "paper": "the video-level reward as the released code has it",
    "pixels": "the video-level reward on pooled pixels",
    "random": "the video-level reward on an untrained encoder of the same shape",
    "env": "the environment's own reward",
}


@dataclass(frozen=True)
class Contestant:
    """One reward under test.

    Attributes:
        name: Its name in tables and files.
        role: What it is there for.
        about: One line that says what it is.
        parts: Models and their weights.
        env_weight: The weight of the environment's own reward.
        why_not_markov: Why a step's reward depends on more than the step; empty if it
            does not.
        thinned: Whether its first part is looked at less often here than in training.
    """

    name: str
    role: Role
    about: str
    parts: Sequence[tuple[RewardModel[Any], float]] = ()
    env_weight: float = 0.0
    why_not_markov: str = ""
    thinned: bool = False


@dataclass
class Maker:
    """Makes contestants for one goal; encoders are shared, and encode nothing twice.

    Attributes:
        goal: The goal bundle; None if only the environment's own reward is judged.
        horizon: Steps of an episode.
        frames: How many frames of an episode the per-frame reading looks at.
        device: Of the encoders.
        dtype: What they compute in.
    """

    goal: GoalBundle | None
    horizon: int
    frames: int
    device: str = "auto"
    dtype: str | None = None
    _encoders: dict[str, Memo] = field(default_factory=dict)

    def make(self, spec: str) -> list[Contestant]:
        """The contestants of one name, such as "video:score=motion,contrast=2"."""
        name, options = parse(spec)
        if name == "genreward":
            return self._genreward(spec, options)
        if name == "env":
            return [replace(self.environment(), role="reward")]
        if name == "frame":
            return [self._frame(spec, options)]
        if name not in REWARDS:
            return [self._registered(spec, name, options)]
        return [self._video(spec, name, options)]

    def controls(self, spec: str) -> list[Contestant]:
        """The same reward on pooled pixels and on an untrained encoder."""
        name, options = parse(spec)
        if name not in ("genreward", "video", "paper"):
            return []
        preset = "paper" if name == "paper" else options.get("preset", "default")
        own = {k: v for k, v in options.items() if k in _VIDEO_OPTIONS}
        own = {**PRESETS[preset], **own}
        tail = ",".join(f"{k}={v}" for k, v in own.items() if k != "encoder")
        return [
            self._video(
                f"{control}:{tail}" if tail else control,
                control,
                {k: v for k, v in own.items() if k != "encoder"},
                role="control",
            )
            for control in ("pixels", "random")
            # Only a model that was trained has an untrained twin.
            if control == "pixels" or _has_weights(self._goal(spec))
        ]

    def environment(self) -> Contestant:
        """The environment's own reward, for reference."""
        return Contestant("env", "reference", REWARDS["env"], env_weight=1.0)

    def video_model(
        self,
        goal: GoalBundle,
        encoder: str | None = None,
        maker: GoalMaker | None = None,
        **options: Any,
    ) -> VideoLevel:
        """A video-level model over the shared encoders.

        Args:
            goal: The goal.
            encoder: None is its own.
            maker: Makes each episode's goals in its place.
            options: Of `VideoLevel`.
        """
        level = options.get("payment", "level") == "level"
        if options.get("reading", "frames") == "frames" and level:
            # What is paid at a step does not depend on which others are paid.
            options.setdefault("length", min(self.frames, self.horizon + 1))
        return VideoLevel(
            maker or goal,
            self._encoder(goal, encoder),
            horizon=self.horizon,
            **options,
        )

    def _genreward(self, spec: str, options: dict[str, Any]) -> list[Contestant]:
        goal = self._goal(spec)
        weights = {
            key: options.pop(key)
            for key in ("video_weight", "frame_weight", "env_weight", "preset")
            if key in options
        }
        preset = weights.get("preset", "default")
        if preset not in PRESETS:
            raise ValueError(
                f"reward {spec!r}: preset={preset!r}: expected one of "
                f"{', '.join(map(repr, PRESETS))}"
            )
        name = "paper" if preset == "paper" else "video"
        tail = ",".join(f"{key}={value}" for key, value in options.items())
        video = self._video(f"{name}:{tail}" if tail else name, name, options)
        own = weights.get("video_weight", WEIGHTS.get(preset, 1.0))
        made, parts = [video], [(video.parts[0][0], own)]
        frame_weight = weights.get("frame_weight", FRAME_WEIGHTS.get(preset, 1.0))
        if goal.nets and frame_weight:
            # What the one leaves out to save time the other need not look at.
            frame = self._frame("frame", {}, may_thin=video.thinned)
            made.append(frame)
            parts.append((frame.parts[0][0], frame_weight))
        env_weight = weights.get("env_weight", 1.0)
        terms = [f"{w:g} {m.name}" for m, w in parts] + [f"{env_weight:g} env"]
        total = Contestant(
            spec,
            "sum",
            " + ".join(terms),
            parts,
            env_weight,
            video.why_not_markov,
            video.thinned,
        )
        return [*made, total]

    def _video(
        self, spec: str, name: str, options: dict[str, Any], role: Role = "reward"
    ) -> Contestant:
        goal = self._goal(spec)
        options = dict(options)
        if name == "paper":
            options = {**PRESETS["paper"], **options}
        if name in ("pixels", "random"):
            options["encoder"] = name
        how = ", ".join(f"{key} {value}" for key, value in options.items())
        encoder = options.pop("encoder", None)
        maker = own_goals(goal, options) if name == "generated" else None
        try:
            model = self.video_model(goal, encoder, maker, **options)
        except TypeError as error:
            raise ValueError(f"reward {spec!r}: {error}") from error
        return Contestant(
            spec,
            role,
            f"{REWARDS[name]}{f' ({how})' if how else ''}",
            [(model, 1.0)],
            why_not_markov="it compares the change since the episode's first frame "
            "with the goal at the same share of the time",
            thinned="length" not in options and model._options["length"] is not None,
        )

    def _frame(
        self, spec: str, options: dict[str, Any], may_thin: bool = True
    ) -> Contestant:
        goal = self._goal(spec)
        encoder = self._encoder(goal, None)
        thinned = (
            may_thin
            and "length" not in options
            and options.get("form") != "difference"
            and card_of(goal.nets_config, goal.encoder)["stack"] == 1
        )
        if thinned:
            options = {**options, "length": min(self.frames, self.horizon + 1)}
        # Nets may have been trained on features of their own.
        model = FrameLevel(
            goal,
            encoder if fits_nets(goal, encoder) else None,
            horizon=self.horizon,
            device=self.device,
            **options,
        )
        why = "it pays the difference to the step before"
        return Contestant(
            spec,
            "reward",
            REWARDS["frame"],
            [(model, 1.0)],
            why_not_markov=why if options.get("form") == "difference" else "",
            thinned=thinned,
        )

    def _registered(self, spec: str, name: str, options: dict[str, Any]) -> Contestant:
        accepted = reward_options(name)
        given = {
            "horizon": self.horizon,
            "device": self.device,
            "dtype": self.dtype,
            # No test episode ends early, and frames are recorded for all rewards.
            "sparse": True,
        }
        if needs_goal(spec):
            given["goal"] = self._goal(spec)
        own = {key: value for key, value in given.items() if key in accepted}
        try:
            model = load_reward(name, **{**own, **options})
        except TypeError as error:
            raise ValueError(f"reward {spec!r}: {error}") from error
        about = (type(model).__doc__ or name).strip().splitlines()[0]
        return Contestant(
            spec,
            "reward",
            about,
            [(model, 1.0)],
            why_not_markov="nobody says that it looks at single transitions",
        )

    def _goal(self, spec: str) -> GoalBundle:
        if self.goal is None:
            raise ValueError(f"the reward {spec!r} needs a goal: give --goal")
        return self.goal

    def _encoder(self, goal: GoalBundle, name: str | None) -> Memo:
        key = name or goal.encoder.get("source", "")
        if key not in self._encoders:
            encoder = bind_encoder(goal, name, device=self.device, dtype=self.dtype)
            self._encoders[key] = Memo(encoder)
        return self._encoders[key]


def own_goals(goal: GoalBundle, options: dict[str, Any]) -> OwnGoals:
    """What makes the goals of "generated"; its options are taken out of all of them."""
    own = {key: options.pop(key) for key in GENERATED_OPTIONS if key in options}
    return GeneratedGoals.of({"prompt": goal.prompt, **own}).maker(goal.env_id)


def _has_weights(goal: GoalBundle) -> bool:
    source = str(goal.encoder.get("source", ""))
    return bool(source) and not source.startswith(("pixels", "random:"))


_VIDEO_OPTIONS = (
    "reading",
    "length",
    "window",
    "every",
    "score",
    "contrast",
    "payment",
    "discount",
    "goals",
    "encoder",
)


#: Of "generated", beside those.
GENERATED_OPTIONS = (
    "generator",
    "prompt",
    "videos",
    "steps",
    "guidance",
    "seed",
    "cache",
)

#: One option: a value may be quoted, or a list in brackets.
_OPTION = re.compile(
    r"""(?P<key>[^=,]+)=(?P<value>"[^"]*"|'[^']*'|\[[^\]]*\]|[^,"'\[][^,]*|)(?:,|$)"""
)


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """A reward's name and options from "name:key=value,key=value".

    A value with a comma in it stands in quotes, and several in brackets.

    >>> parse("video:score=motion,contrast=2")
    ('video', {'score': 'motion', 'contrast': 2})
    >>> parse("vlm-rm:prompt='a red, round disc',alpha=0")
    ('vlm-rm', {'prompt': 'a red, round disc', 'alpha': 0})
    """
    name, _, tail = spec.partition(":")
    if name == "lerobot":
        variant, _, tail = tail.partition(":")
        name = f"{name}:{variant}"
    elif name not in REWARDS and name not in reward_names():
        known = ", ".join(f"{k!r} ({v})" for k, v in REWARDS.items())
        more = ", ".join(repr(k) for k in reward_names() if k not in REWARDS)
        raise ValueError(f"there is no reward {name!r}; there are {known}, {more}")
    options: dict[str, Any] = {}
    place = 0
    while place < len(tail):
        found = _OPTION.match(tail, place)
        if found is None:
            raise ValueError(
                f"reward {spec!r}: expected options as key=value, got "
                f"{tail[place:]!r}; a value with a comma stands in quotes"
            )
        place, key, value = found.end(), found["key"], found["value"]
        accepted = _accepted(name)
        if key not in accepted:
            raise ValueError(
                f"reward {spec!r}: no option {key!r}, expected one of "
                f"{', '.join(accepted) or 'none'}"
            )
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return name, options


def needs_goal(spec: str) -> bool:
    """Whether a reward looks at the goal bundle."""
    name, options = parse(spec)
    if name in REWARDS:
        return name != "env"
    said = "prompt" in options or "goal" in options
    return "goal" in _accepted(name) and not said


def _accepted(name: str) -> tuple[str, ...]:
    if name == "env":
        return ()
    if name == "frame":
        return ("form", "heads", "discount", "length")
    if name == "genreward":
        weights = ("video_weight", "frame_weight", "env_weight", "preset")
        return (*_VIDEO_OPTIONS, *weights)
    if name == "generated":
        return (*_VIDEO_OPTIONS, *GENERATED_OPTIONS)
    return _VIDEO_OPTIONS if name in REWARDS else reward_options(name)
