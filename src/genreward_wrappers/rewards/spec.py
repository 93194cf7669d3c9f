"""A reward as a value: which model, its options, the weights, the goal, the preset.

`RewardSpec` is what text on a command line parses into, what an environment's spec
records, and what wrappers, the evaluator and learning runs build their models from.
There is one assembly, `RewardSpec.build`; what differs between those places, such as
the environment's time limit or encoders that are there already, are its `Facts`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from numbers import Real
from os import PathLike, fspath
from typing import Any

import numpy as np

from genreward_wrappers.checks import check_names, one_of, whole
from genreward_wrappers.core import RewardModel
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.encoders.names import check_encoder
from genreward_wrappers.generators.episode_settings import EMBEDDED, GeneratedGoals
from genreward_wrappers.generators.settings import check_source
from genreward_wrappers.rewards.facts import (
    Built,
    Facts,
    Part,
    is_settings,
)
from genreward_wrappers.rewards.frame_options import FrameOptions
from genreward_wrappers.rewards.registry import (
    ALIGN,
    EVERY,
    check_values,
    load_reward,
    own_options,
    reward_options,
)
from genreward_wrappers.rewards.spec_text import GENERATED_OPTIONS, REWARDS, parse
from genreward_wrappers.rewards.video_options import VideoOptions

#: Of the JSON form; a spec of a later one is refused.
VERSION = 1

#: The environment's own reward, as a part and as a name.
ENV = "env"
#: The weight that brings the environment's own reward to the scale of the others.
BALANCED = "balanced"

#: What GenReward's parts and the environment's own reward weigh. The frame-level score
#: is normalised, and a quarter of it spreads about as much as the video-level one; the
#: paper's are the released alpha and beta beside the environment's reward.
PRESET_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "default": {"video": 1.0, "frame": 0.25, ENV: 0.0},
    "paper": {"video": 0.01, "frame": 1e-5, ENV: 1.0},
}

#: The rewards that are compared with a goal bundle.
OURS = ("genreward", "video", "frame")


@dataclass(frozen=True)
class RewardSpec:
    """A reward as a value.

    Attributes:
        name: "genreward" (both levels), "env" (the environment's own reward alone), or
            a name that `load_reward` knows.
        options: The model's own. Those of "genreward" are the video-level reward's,
            and under ``frame`` those of the frame-level reward.
        weights: The weights by name of the part, or "env"; others are the preset's.
        goal: What `load_goal` finds a bundle by, or videos that are packed into one;
            "generated" or a mapping for goals that are generated from each episode's
            first frame; where frames have several views, a mapping may hold a goal for
            each.
        preset: "default" or "paper".

    Example:
        >>> spec = RewardSpec.parse("video:score=cosine,length=65")
        >>> spec.name, dict(spec.options)
        ('video', {'score': 'cosine', 'length': 65})
        >>> RewardSpec.from_json(spec.to_json()) == spec
        True
    """

    name: str = "genreward"
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float | str] = field(default_factory=dict)
    goal: Any = None
    preset: str = "default"

    def __post_init__(self) -> None:
        where = f"reward {self.name!r}"
        check_names(self.options, accepted_options(self.name), where)
        one_of(PRESET_WEIGHTS, preset=self.preset)
        if self.preset != "default" and self.name not in ("genreward", "video"):
            raise ValueError(f"preset={self.preset!r} does nothing with {where}")
        own = ("video", "frame") if self.name == "genreward" else (_head(self.name),)
        check_weights(self.weights, {ENV, *own})
        self._check_values(where)

    def _check_values(self, where: str) -> None:
        """Raises for a wrong value of what can be checked without loading a model."""
        # A model's own options of these names may mean something else.
        own = own_options(self.name) if self.name not in ("genreward", ENV) else ()
        for name in {EVERY, ALIGN} - {*own}:
            if self.options.get(name) is not None:
                whole(name, self.options[name])
        if self.name in ("genreward", "video"):
            self.video_options()
        if self.name == "genreward":
            FrameOptions.of(self.options.get("frame", {}), f"{where}, frame-level")
        elif self.name == "frame":
            names = FrameOptions.names()
            FrameOptions(**{k: v for k, v in self.options.items() if k in names})

    @classmethod
    def parse(cls, text: str) -> RewardSpec:
        """A spec from "name:key=value,key=value".

        Names may also be one of the `REWARDS`. The options of "genreward" include
        the weights of its parts, such as ``env_weight``, its ``preset``, and those of
        the frame-level reward with ``frame_`` before their names.
        """
        name, options = parse(text)
        try:
            if name not in REWARDS:
                check_values(name, options)
            # The untrained twin of the goal's encoder has no other name.
            elif options.get("encoder", "random") != "random":
                check_encoder(options["encoder"])
            if name == "generated":
                check_source(options.get("generator", EMBEDDED))
            return cls.of(name, options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"reward {text!r}: {error}") from error

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> RewardSpec:
        """A spec from a name, or one of the `REWARDS`, and options as in text."""
        given = dict(options)
        if name == "paper":
            return cls("video", given, preset="paper")
        if name in ("pixels", "random"):
            return cls("video", {**given, "encoder": name})
        if name == "generated":
            own = {key: given.pop(key) for key in GENERATED_OPTIONS if key in given}
            GeneratedGoals.of(own)  # raises for a wrong value
            return cls("video", given, goal=own or "generated")
        goal = given.pop("goal", None) if name in OURS else None
        if name != "genreward":
            return cls(name, given, goal=goal)
        weights = {
            part: given.pop(f"{part}_weight")
            for part in PRESET_WEIGHTS["default"]
            if f"{part}_weight" in given
        }
        preset = given.pop("preset", "default")
        frame = {
            key.removeprefix("frame_"): given.pop(key)
            for key in list(given)
            if key.startswith("frame_")
        }
        if frame:
            given["frame"] = frame
        return cls(name, given, weights, goal, preset)

    def as_mapping(self) -> dict[str, Any]:
        """Itself as `from_json` reads it; goals and encoders without a name stay."""
        goal = _named(self.goal)
        found = {
            "version": VERSION,
            "name": self.name,
            "options": _plain(self.options),
            "weights": dict(self.weights),
            "goal": goal,
            "preset": self.preset,
        }
        # What goes without saying is left out.
        if goal is None:
            del found["goal"]
        usual = {"options": {}, "weights": {}, "preset": "default"}
        return {k: v for k, v in found.items() if k not in usual or v != usual[k]}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, which `from_json` reads.

        Raises:
            ValueError: Its goal or encoder is an object without a name.
        """
        found = self.as_mapping()
        try:
            json.dumps(found)
        except TypeError as error:
            raise ValueError(
                f"the reward {self.name!r} holds something that has no name: {error}. "
                "Save a goal and give its path; give an encoder by its name"
            ) from error
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any] | str) -> RewardSpec:
        """What `to_json` gave, as a mapping or as text.

        Raises:
            ValueError: A later version of this package wrote it, or it is no spec.
        """
        known = dict(json.loads(found) if isinstance(found, str) else found)
        version = known.pop("version", None)
        if not isinstance(version, int) or version > VERSION:
            raise ValueError(
                f"a reward of version {version!r}, and this package reads those up to "
                f"version {VERSION}: update genreward-wrappers"
            )
        check_names(known, cls.__dataclass_fields__, "a reward in JSON")
        return cls(**known)

    def looks_at_goal(self) -> bool:
        """Whether it is compared with a goal bundle."""
        if self.name in OURS or self.name == ENV:
            return self.name != ENV
        said = {"prompt", "goal"} & set(self.options)
        return "goal" in reward_options(self.name) and not said

    def build(self, facts: Facts) -> Built:
        """Makes the models.

        Raises:
            GoalError: There is no such goal, or it does not fit the environment.
            ValueError: Something else does not fit.
        """
        env_weight = self.weights.get(ENV, float(self.name == ENV))
        if self.name == ENV:
            return Built((), env_weight)
        if facts.views:
            from genreward_wrappers.rewards.views import build_views

            return build_views(self, facts)
        if self.name == "genreward":
            return self._genreward(facts)
        if self.name == "video":
            own = PRESET_WEIGHTS[self.preset]["video"]
            weight = float(self.weights.get("video", own))
            encoder = self.options.get("encoder")
            goal = facts.find_goal(self.goal, encoder)
            part = Part(self._video(facts, goal, facts.bound(goal, encoder)), weight)
            return Built((part,), env_weight)
        if self.name == "frame":
            model = self._frame(facts, facts.find_bundle(self.goal), None, self.options)
        else:
            model = self._registered(facts)
        weight = float(self.weights.get(_head(self.name), 1.0))
        # A sum's parts are logged one by one.
        parts = tuple(Part(part, weight * own) for part, own in model.parts)
        return Built(parts, env_weight)

    def video_options(self) -> VideoOptions:
        """Those of the video-level reward, of the preset and its own."""
        own = {k: v for k, v in self.options.items() if k in VideoOptions.names()}
        return VideoOptions.of_preset(self.preset, own, f"reward {self.name!r}")

    def _genreward(self, facts: Facts) -> Built:
        """Both levels; what they look at both is encoded once."""
        from genreward_wrappers.encoders.binding import bind_encoder
        from genreward_wrappers.encoders.caching import shared

        weights = {**PRESET_WEIGHTS[self.preset], **self.weights}
        goal = facts.find_goal(self.goal, self.options.get("encoder"))
        has_nets = isinstance(goal, GoalBundle) and bool(goal.nets)
        encoder = facts.bound(goal, self.options.get("encoder"))
        if has_nets and weights["frame"] and facts.bind is None:
            # This step's last frame is the next step's first.
            encoder = shared(
                bind_encoder(goal, encoder, device=facts.device, dtype=facts.dtype)
            )
        video = self._video(facts, goal, encoder)
        parts = [Part(video, float(weights["video"]))]
        remarks: tuple[str, ...] = ()
        if has_nets and weights["frame"]:
            assert isinstance(goal, GoalBundle)
            both = {k: v for k, v in self.options.items() if k == ALIGN}
            own = {**both, **self.options.get("frame", {})}
            frame = self._frame(facts, goal, encoder, own)
            parts.append(Part(frame, float(weights["frame"])))
        elif weights["frame"]:
            remarks = (
                f"{goal!r} has no frame-level part: the reward is the video-level "
                "score. frame_weight=0 silences this",
            )
        return Built(tuple(parts), weights[ENV], remarks)

    def _video(self, facts: Facts, goal: Any, encoder: Any) -> RewardModel[Any]:
        chosen = self.video_options()
        ours = (*chosen.names(), "frame")
        options = {k: v for k, v in self.options.items() if k not in ours}
        known = {
            "horizon": facts.horizon,
            "device": facts.device,
            "dtype": facts.dtype,
            **options,
            "goal": goal,
            "encoder": encoder,
        }
        return load_reward("video", **{**known, **vars(chosen)})

    def _frame(
        self, facts: Facts, goal: GoalBundle, encoder: Any, options: Mapping[str, Any]
    ) -> RewardModel[Any]:
        from genreward_wrappers.rewards.frame_level import fits_nets

        if encoder is None and facts.bind is not None:
            encoder = facts.bind(goal, None)
        known = {
            "action_space": facts.action_space,
            "horizon": facts.horizon,
            "device": facts.device,
            "dtype": facts.dtype,
            # Nets take no other features than those they were trained on.
            "encoder": encoder if fits_nets(goal, encoder) else None,
        }
        return load_reward("frame", **{**known, **options, "goal": goal})

    def _registered(self, facts: Facts) -> RewardModel[Any]:
        known: dict[str, Any] = {
            "horizon": facts.horizon,
            "action_space": facts.action_space,
            "device": facts.device,
            "dtype": facts.dtype,
            "sparse": facts.sparse or None,
        }
        if self.looks_at_goal() and (self.goal or facts.goal or facts.env_id):
            said = self.goal is not None or facts.goal is not None
            # Without an embedded goal the model itself says what it needs.
            with nullcontext() if said else suppress(GoalError):
                known["goal"] = facts.find_bundle(self.goal)
        accepted = reward_options(self.name)
        own = {k: v for k, v in known.items() if k in accepted and v is not None}
        return load_reward(self.name, **{**own, **self.options})


def encoder_of_videos(rewards: Iterable[RewardSpec]) -> str | None:
    """The encoder to pack goal videos for that several rewards share.

    None is the embedded one, if any reward looks through the goal's own encoder.
    """
    named = [one.options.get("encoder") for one in rewards if one.looks_at_goal()]
    if not named or any(name in (None, "random") for name in named):
        return None
    # Controls go with every goal.
    learned = [x for x in named if not str(x).startswith(("pixels", "random:"))]
    return str((learned or named)[0])


def accepted_options(name: str) -> tuple[str, ...]:
    """The options of a spec of this name."""
    if name == ENV:
        return ()
    if name == "genreward":
        return (*VideoOptions.names(), "encoder", EVERY, ALIGN, "frame")
    # In ours the goal is a field of its own.
    return tuple(o for o in reward_options(name) if o != "goal" or name not in OURS)


def check_weights(weights: Mapping[str, Any], parts: Collection[str]) -> None:
    """Raises `ValueError` unless weights are finite and name parts of a reward."""
    for name, weight in weights.items():
        if name not in parts:
            raise ValueError(
                f"a weight for {name!r}, and the reward has the parts "
                f"{', '.join(map(repr, sorted(parts)))}"
            )
        if name == ENV and weight == BALANCED:
            continue
        if not isinstance(weight, Real) or not np.isfinite(float(weight)):
            hint = f", or {BALANCED!r}" if name == ENV else ""
            raise ValueError(
                f"the weight of {name!r} is {weight!r}: expected a finite number{hint}"
            )


def _head(name: str) -> str:
    return name.partition(":")[0]


def _named(goal: Any) -> Any:
    """A goal by its name, if it has one."""
    if isinstance(goal, GoalBundle):
        return goal.source or goal
    if isinstance(goal, PathLike):
        return fspath(goal)
    if isinstance(goal, (list, tuple)):
        return [_named(one) for one in goal]
    if isinstance(goal, Mapping):
        return {key: _named(one) for key, one in goal.items()}
    return goal.as_mapping() if is_settings(goal) else goal


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with mappings copied and paths as text."""
    return {
        key: _plain(value)
        if isinstance(value, Mapping)
        else (fspath(value) if isinstance(value, PathLike) else value)
        for key, value in options.items()
    }
