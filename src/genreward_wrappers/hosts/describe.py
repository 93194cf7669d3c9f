"""`describe`: what an agent is paid, in words, for a console and for a notebook."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from genreward_wrappers.data.frames import TAP, FrameSource
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.hosts.host import Host

#: Where wrappers and vector environments keep what they wrap.
INSIDE = ("env", "venv", "envs")

#: Of the lines of text.
WIDTH = 88


class PaidPart(NamedTuple):
    """One summand of the agent's reward.

    Attributes:
        name: As in info, without ``reward_``.
        weight: At the coming step.
        about: What it is paid for.
    """

    name: str
    weight: float
    about: str


@dataclass(frozen=True)
class Description:
    """What an agent is paid. Prints as text; notebooks show a table and the goal.

    Attributes:
        wrapper: The class that pays.
        env: The id of the environment inside, or its class.
        num_envs: The number of environments.
        horizon: The steps of an episode; None if there is no limit.
        parts: The parts of the reward.
        frames: Where the frames come from.
        goals: The goal bundles of the parts.
    """

    wrapper: str
    env: str
    num_envs: int
    horizon: int | None
    parts: tuple[PaidPart, ...]
    frames: str
    goals: tuple[GoalBundle, ...]

    def __str__(self) -> str:
        lines = [self._head(), "Each step pays the sum of"]
        weights = [f"{part.weight:.4g}" for part in self.parts]
        wide = max(map(len, weights)), max(len(part.name) for part in self.parts)
        for weight, part in zip(weights, self.parts, strict=True):
            term = f"  {weight:>{wide[0]}} * reward_{part.name:{wide[1]}}  "
            lines.append(_filled(term + part.about, len(term)))
        lines += [_filled(f"{name}: {said}", 7) for name, said in self._rest()]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{part.weight:.4g}</td><td><code>reward_{escape(part.name)}"
            f'</code></td><td style="text-align:left">{escape(part.about)}</td></tr>'
            for part in self.parts
        )
        rest = "<br>".join(f"{name}: {escape(said)}" for name, said in self._rest())
        sheets = "".join(goal._repr_html_() for goal in self.goals)
        return (
            f"<p><b>{escape(self._head())}</b></p><table><thead><tr><th>weight</th>"
            '<th>in info</th><th style="text-align:left">paid for</th></tr></thead>'
            f"<tbody>{rows}</tbody></table><p>{rest}</p>{sheets}"
        )

    def _head(self) -> str:
        many = f"{self.num_envs} x " if self.num_envs > 1 else ""
        limit = f", episodes of {self.horizon} steps" if self.horizon else ""
        return f"{self.wrapper} around {many}{self.env}{limit}"

    def _rest(self) -> Iterator[tuple[str, str]]:
        yield "Frames", self.frames
        for goal in self.goals:
            prompt = f", {goal.prompt!r}" if goal.prompt else ""
            yield "Goal", f"{goal!r}{prompt}"


def describe(env: Any) -> Description:
    """What an agent is paid: by which model, at which weight, for which frames.

    Args:
        env: An environment, `gymnasium.vector` environment or stable-baselines3
            ``VecEnv`` with a reward wrapper anywhere inside it. Where several
            environments each have their own, the first one is described.

    Raises:
        ValueError: There is no reward wrapper, or it lives in another process.

    Example:
        >>> from genreward_wrappers import RewardModelWrapper
        >>> from genreward_wrappers.testing import Brightness, PointMass
        >>> describe(RewardModelWrapper(PointMass(), Brightness(), env_weight=0.5))
        RewardModelWrapper around PointMass
        Each step pays the sum of
            1 * reward_brightness  Pays the mean brightness of the next frame.
          0.5 * reward_env         the environment's own reward
        Frames: the observation
    """
    host = find_host(env)
    with warnings.catch_warnings():
        # Of how it was made, which was said then.
        warnings.simplefilter("ignore")
        inside = host._inside(_within(host))
    weights, models = host.weights, host.session.models
    own = "the environment's own reward" + ("" if weights["env"] else ", replaced")
    parts = [PaidPart(m.name, weights[m.name], m.about) for m in models]
    parts.append(PaidPart("env", weights["env"], own))
    goals = {goal.digest: goal for m in models if (goal := m.goal) is not None}
    camera = inside.metadata.get("camera")
    return Description(
        wrapper=type(host).__name__,
        env=inside.spec.id if inside.spec else _class_of(_within(host)),
        num_envs=inside.num_envs,
        horizon=host._progress.horizon,
        parts=tuple(parts),
        frames=_said(host._frames.source)
        + (f", of the camera {camera!r}" if camera else ""),
        goals=tuple(goals.values()),
    )


def find_host(env: Any) -> Host:
    """The reward wrapper in an environment, the outermost one first."""
    seen: list[str] = []
    while not isinstance(env, Host):
        seen.append(type(env).__name__)
        inner = _within(env)
        if inner is None:
            raise ValueError(
                f"no reward wrapper of this package in {' > '.join(seen)}. One in "
                "another process (SubprocVecEnv, AsyncVectorEnv) cannot be seen from "
                "here: describe what its factory makes"
            )
        env = inner
    return env


def _filled(text: str, indent: int) -> str:
    """Text in lines that fit a page, the later ones indented."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def _within(env: Any) -> Any:
    """What an environment wraps, or the first of those it holds; None at the end."""
    # Not getattr: stable-baselines3's wrappers pass it on to what they wrap.
    held = next((vars(env)[k] for k in INSIDE if k in getattr(env, "__dict__", {})), ())
    return next(iter(held), None) if isinstance(held, (list, tuple)) else held


def _class_of(env: Any) -> str:
    while (inner := _within(env)) is not None:
        env = inner
    return type(env).__name__


def _said(source: FrameSource) -> str:
    """A source of frames in words."""
    if source.views:
        return " beside ".join(f"observation[{key!r}]" for key in source.views)
    if source.kind == "render":
        return "what render() draws"
    if source.key == TAP:
        return "what TapFrames draws in each environment"
    if source.kind == "info":
        return f"info[{source.key!r}]"
    return f"observation[{source.key!r}]" if source.key else "the observation"
