"""What a reward is built from beside its spec, and what comes out.

The goal is resolved here, once, at the border: whatever a user gave becomes a bundle or
a maker of goals, checked against the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from gymnasium import spaces

from genreward_wrappers.core import RewardModel, warn_caller
from genreward_wrappers.data.goal_maker import GoalMaker
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.data.views import views_of
from genreward_wrappers.generators.episode_settings import GeneratedGoals
from genreward_wrappers.generators.own_videos import load_or_pack

if TYPE_CHECKING:
    from genreward_wrappers.encoders.base import VideoEncoder
    from genreward_wrappers.generators.episode_goals import OwnGoals


class Part(NamedTuple):
    """A reward model and its weight in the agent's reward."""

    model: RewardModel[Any]
    weight: float


class Built(NamedTuple):
    """What a spec makes.

    Attributes:
        parts: Models and weights.
        env_weight: The weight of the environment's own reward, or "balanced".
        remarks: What a user should be told about it.
    """

    parts: tuple[Part, ...]
    env_weight: float | str = 0.0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What building a reward has to know about where it will be used.

    Attributes:
        env_id: The environment's id, to look the goal up by.
        horizon: Steps of an episode.
        camera: The camera of the environment's frames, if it says.
        action_space: The space of one environment's actions.
        device: The device of the models.
        dtype: What encoders compute in.
        goal: The goal where the spec names none; None is the one embedded for the id.
        bind: Gives the encoder for a goal and a name, where encoders are shared.
        sparse: Whether only some frames of an episode are there.
        other_task: Whether a goal of another task is meant to be one.
        views: The weights of the views whose pictures lie side by side in a frame;
            none where it shows one camera.
    """

    env_id: str | None = None
    horizon: int | None = None
    camera: str | None = None
    action_space: spaces.Space[Any] | None = None
    device: str = "auto"
    dtype: str | None = None
    goal: Any = None
    bind: Callable[[Any, Any], VideoEncoder] | None = None
    sparse: bool = False
    other_task: bool = False
    views: Mapping[str, float] = field(default_factory=dict)

    def bound(self, goal: Any, encoder: Any) -> Any:
        """The encoder for a goal, where encoders are shared; else as it was named."""
        return encoder if self.bind is None else self.bind(goal, encoder)

    def find_goal(self, goal: Any, encoder: Any = None) -> GoalBundle | GoalMaker:
        """What episodes are compared with: a bundle, or what makes goals.

        Args:
            goal: As a user gave it.
            encoder: What videos are packed for, where it is given as those.
        """
        if isinstance(goal, GoalMaker):
            return goal
        if not is_generated(goal):
            return self.find_bundle(goal, encoder)
        if isinstance(self.goal, GoalBundle):
            return own_goals(self.goal, goal)
        return GeneratedGoals.of(goal).maker(self.env_id)

    def find_bundle(self, goal: Any, encoder: Any = None) -> GoalBundle:
        """The goal bundle, checked against the environment.

        Raises:
            GoalError: There is none, or it shows another camera.
        """
        if is_generated(goal):
            raise GoalError(
                "the frame-level reward asks nets that were trained beforehand for the "
                f"key frames of a bundle, and goal={goal!r} has neither: give a "
                "bundle, or use VideoLevelReward"
            )
        given = self.goal if goal is None else goal
        bundle = load_or_pack(given, self.env_id, encoder)
        ids = bundle.env_id, self.env_id or ""
        # First, for it may explain what else does not fit.
        if all(ids) and _task(ids[0]) != _task(ids[1]) and not self.other_task:
            warn_caller(
                f"the goal was made for {ids[0]!r}, and the environment is {ids[1]!r}: "
                "the reward leads to another task. other_task=True silences this"
            )
        check_views(bundle, tuple(self.views))
        own = "" if self.views else bundle.camera
        if own and self.camera and own != self.camera:
            raise GoalError(
                f"{bundle!r} was filmed by the camera {bundle.camera!r}, the "
                f"environment shows {self.camera!r}: make it with "
                f"camera={bundle.camera!r}, or make a goal with its camera"
            )
        return bundle


def check_views(goal: GoalBundle, views: tuple[str, ...]) -> None:
    """Raises unless a goal shows the views that the frames show."""
    shown = views_of(goal)
    if shown == views:
        return
    if not views:
        said = ", ".join(f"{name!r}: 'obs:<key>'" for name in shown)
        raise GoalError(
            f"{goal!r} shows the views {[*shown]} side by side, and the frames are "
            f"those of one camera. Wrappers take several: frames={{{said}}}"
        )
    packed = " ".join(f"{view}=VIDEO" for view in views)
    raise GoalError(
        f"the frames have the views {[*views]}, and {goal!r} shows "
        f"{[*shown] or 'one camera'}: give a goal for each, goal={{{views[0]!r}: ..., "
        f"...}}, or pack one with: genreward pack {packed} --output goal.safetensors"
    )


def own_goals(goal: GoalBundle, generated: Any) -> OwnGoals:
    """Makes each episode's goals, of the prompt and for the environment of a bundle."""
    settings = GeneratedGoals.of(generated).as_mapping()
    return GeneratedGoals.of({"prompt": goal.prompt, **settings}).maker(goal.env_id)


def is_generated(goal: Any) -> bool:
    """Whether goals are to be made from the first frames."""
    if isinstance(goal, str):
        return goal == "generated"
    return isinstance(goal, Mapping) or is_settings(goal)


def is_settings(goal: Any) -> bool:
    """Whether this is a `GeneratedGoals`."""
    return isinstance(goal, GeneratedGoals)


def _task(env_id: str) -> str:
    """The task of an id, the same in all versions, distracted or not."""
    return re.sub(r"-v\d+$", "", env_id.rpartition("/")[2])
