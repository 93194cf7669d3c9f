"""The rewards to be judged: what a `RewardSpec` makes, with labels and controls.

A `Contestant` is a weighted sum of reward models and, if it has a weight, the
environment's own reward. Every video-level reward comes with controls, since a figure
says little without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gymnasium import spaces

from genreward_wrappers.core import RewardModel
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.encoders.binding import bind_encoder
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.rewards.facts import Facts
from genreward_wrappers.rewards.spec import ENV, PRESET_WEIGHTS, RewardSpec
from genreward_wrappers.rewards.spec_text import REWARDS, parse
from genreward_wrappers.training.forward_backward.features import card_of

__all__ = ["REWARDS", "Contestant", "Maker", "needs_goal", "parse"]

Role = Literal["reward", "control", "reference", "sum"]

NOT_SAID = "it is not known to look at single transitions only"
OF_TIME = (
    "it compares the change since the episode's first frame with the goal at the same "
    "share of the time"
)
OF_BEFORE = "it pays the difference to the step before"


@dataclass(frozen=True)
class Contestant:
    """One reward under test.

    Attributes:
        name: Its name in tables and files.
        role: Its role: under test, a control, a reference, or a sum.
        about: A description in one line.
        parts: Models and their weights.
        env_weight: The weight of the environment's own reward.
        why_not_markov: Why a step's reward depends on more than the step; empty if it
            does not.
        thinned: Whether its first part sees fewer steps here than in training.
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
    """Makes contestants for one goal; encoders are shared and encode nothing twice.

    Attributes:
        goal: The goal bundle; None if only the environment's own reward is judged.
        horizon: The number of steps of an episode.
        frames: The number of frames of an episode that the per-frame reading looks at.
        device: The device of the encoders.
        dtype: The dtype that they compute in.
        action_space: The environment's action space, to check nets against; None if it
            is not known.
        env_id: The environment's id; None if it is not known.
    """

    goal: GoalBundle | None
    horizon: int
    frames: int
    device: str = "auto"
    dtype: str | None = None
    action_space: spaces.Space[Any] | None = None
    env_id: str | None = None
    _encoders: dict[str, Memo] = field(default_factory=dict)

    def make(self, text: str) -> list[Contestant]:
        """The contestants for a text such as "video:score=cosine,length=65"."""
        spec = RewardSpec.parse(text)
        if spec.name == "genreward":
            return self._genreward(text, spec)
        if spec.name == ENV:
            return [replace(self.environment(), role="reward")]
        return [self._one(text, spec)]

    def controls(self, text: str) -> list[Contestant]:
        """The same reward on pooled pixels and on an untrained encoder."""
        if parse(text)[0] not in ("genreward", "video", "paper"):
            return []
        spec = RewardSpec.parse(text)
        chosen = spec.video_options().given()
        # Only a model that was trained has an untrained twin.
        names = ("pixels", "random") if _has_weights(self._goal(text)) else ("pixels",)
        labels = [_label(name, chosen) for name in names]
        return [self._one(x, RewardSpec.parse(x), role="control") for x in labels]

    def environment(self) -> Contestant:
        """The environment's own reward, for reference."""
        return Contestant(ENV, "reference", REWARDS[ENV], env_weight=1.0)

    def _genreward(self, text: str, spec: RewardSpec) -> list[Contestant]:
        """Each part by itself, and the sum if there is one."""
        weights = {**PRESET_WEIGHTS[spec.preset], **spec.weights}
        if isinstance(weights[ENV], str):
            raise ValueError(
                f"reward {text!r}: a balanced weight is measured by playing random "
                "actions, which evaluate does not: give env_weight as a number"
            )
        own = {k: v for k, v in spec.options.items() if k != "frame"}
        video = replace(spec, name="video", options=own, weights={})
        name = "video" if spec.preset == "default" else spec.preset
        made = [self._one(_label(name, own), video)]
        if self._goal(text).nets and weights["frame"]:
            own = spec.options.get("frame", {})
            frame = RewardSpec("frame", own, goal=spec.goal)
            # The second need not look at what the first leaves out to save time.
            thin = made[0].thinned
            made.append(self._one(_label("frame", own), frame, may_thin=thin))
        parts = [(m, float(weights[m.name])) for one in made for m, _ in one.parts]
        env_weight = float(weights[ENV])
        if len(parts) == 1 and not env_weight:
            return made
        terms = [f"{w:g} {m.name}" for m, w in parts]
        terms += [f"{env_weight:g} env"] if env_weight else []
        total = replace(
            made[0],
            name=text,
            role="sum",
            about=" + ".join(terms),
            parts=parts,
            env_weight=env_weight,
        )
        return [*made, total]

    def _one(
        self, text: str, spec: RewardSpec, role: Role = "reward", may_thin: bool = True
    ) -> Contestant:
        """A reward by itself, with its label."""
        if spec.looks_at_goal():
            self._goal(text)
        thinned = self._thinned(spec) if may_thin else spec
        try:
            built = thinned.build(self._facts())
        except TypeError as error:
            raise ValueError(f"reward {text!r}: {error}") from error
        # The weight of a reward by itself only scales it.
        parts = [(part.model, 1.0) for part in built.parts]
        if spec.name == "video":
            name, said = parse(text)
            how = ", ".join(f"{key} {value}" for key, value in said.items())
            about, why = f"{REWARDS[name]}{f' ({how})' if how else ''}", OF_TIME
        elif spec.name == "frame":
            differs = spec.options.get("form") == "difference"
            about, why = REWARDS["frame"], OF_BEFORE if differs else ""
        else:
            doc = type(parts[0][0]).__doc__ or spec.name
            about, why = doc.strip().splitlines()[0], NOT_SAID
            parts = [(part.model, part.weight) for part in built.parts]
        return Contestant(text, role, about, parts, 0.0, why, thinned is not spec)

    def _thinned(self, spec: RewardSpec) -> RewardSpec:
        """The same reward, paid at fewer steps if that changes no score."""
        options = spec.options
        if spec.name == "video":
            how = spec.video_options()
            fits = how.reading == "frames" and how.payment == "level"
        elif spec.name == "frame":
            goal = self._goal("frame")
            fits = options.get("form") != "difference" and "every" not in options
            fits &= card_of(goal.nets_config, goal.encoder)["stack"] == 1
        else:
            return spec
        if not fits or "length" in options:
            return spec
        steps = self.horizon // int(options.get("every", 1))
        length = min(self.frames, steps + 1)
        return replace(spec, options={**options, "length": length})

    def _facts(self) -> Facts:
        return Facts(
            env_id=self.env_id,
            horizon=self.horizon,
            action_space=self.action_space,
            device=self.device,
            dtype=self.dtype,
            goal=self.goal,
            bind=self._encoder,
            # No test episode ends early, and frames are recorded for all rewards.
            sparse=True,
        )

    def _goal(self, text: str) -> GoalBundle:
        if self.goal is None:
            raise ValueError(f"the reward {text!r} needs a goal: give --goal")
        return self.goal

    def _encoder(self, goal: Any, name: Any) -> Memo:
        # A maker of episodes' own goals is used with the bundle's encoder.
        goal = goal if isinstance(goal, GoalBundle) else self.goal
        key = str(name or goal.encoder.get("source", ""))
        if key not in self._encoders:
            encoder = bind_encoder(goal, name, device=self.device, dtype=self.dtype)
            self._encoders[key] = Memo(encoder)
        return self._encoders[key]


def needs_goal(text: str) -> bool:
    """Whether a reward looks at the goal bundle."""
    return RewardSpec.parse(text).looks_at_goal()


def _label(name: str, options: Mapping[str, Any]) -> str:
    """The text of a reward."""
    tail = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{tail}" if tail else name


def _has_weights(goal: GoalBundle) -> bool:
    source = str(goal.encoder.get("source", ""))
    return bool(source) and not source.startswith(("pixels", "random:"))
