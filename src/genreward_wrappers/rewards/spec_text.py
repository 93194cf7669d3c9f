"""Rewards as text: "name:key=value,key=value", as the command line takes them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from genreward_wrappers.checks import check_names
from genreward_wrappers.rewards.frame_options import FrameOptions
from genreward_wrappers.rewards.registry import (
    ALIGN,
    EVERY,
    VARIANTS,
    reward_names,
    reward_options,
)
from genreward_wrappers.rewards.video_options import VideoOptions

#: The names of this package, and what they stand for; beside them, what `load_reward`
#: knows. "generated", "paper", "pixels" and "random" are shorthands for "video".
REWARDS: Mapping[str, str] = {
    "genreward": "all of GenRewardWrapper: video, frame, and their sum",
    "video": "the video-level reward",
    "frame": "the frame-level reward",
    "generated": "the video-level reward, each episode with goals of its own that are "
    "generated from its first frame",
    "paper": "the video-level reward with the released code's settings",
    "pixels": "the video-level reward on pooled pixels",
    "random": "the video-level reward on an untrained encoder of the same shape",
    "env": "the environment's own reward",
}

#: Of "generated", beside those of "video".
GENERATED_OPTIONS = (
    "generator",
    "prompt",
    "videos",
    "steps",
    "guidance",
    "seed",
    "cache",
)

#: The options of "genreward", in addition to those of "video" and, with the prefix
#: ``frame_``, those of "frame".
SUM_OPTIONS = ("video_weight", "frame_weight", "env_weight", "preset")

#: One option: a value may be quoted, or a list in brackets.
_OPTION = re.compile(
    r"""(?P<key>[^=,]+)=(?P<value>"[^"]*"|'[^']*'|\[[^\]]*\]|[^,"'\[][^,]*|)(?:,|$)"""
)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """A reward's name and options from "name:key=value,key=value".

    A value with a comma in it stands in quotes, and several in brackets.

    >>> parse("video:score=tracking,contrast=2")
    ('video', {'score': 'tracking', 'contrast': 2})
    >>> parse("vlm-rm:prompt='a red, round disc',alpha=0")
    ('vlm-rm', {'prompt': 'a red, round disc', 'alpha': 0})
    """
    name, _, tail = text.partition(":")
    if name in VARIANTS:
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
                f"reward {text!r}: expected options as key=value, got "
                f"{tail[place:]!r}; a value with a comma stands in quotes"
            )
        place, key, value = found.end(), found["key"], found["value"]
        try:
            check_names([key], text_options(name), f"reward {text!r}")
        except TypeError as error:
            raise ValueError(str(error)) from None
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return name, options


def text_options(name: str) -> tuple[str, ...]:
    """The options that a name takes in text."""
    if name not in REWARDS:
        return reward_options(name)
    if name == "env":
        return ()
    frame = FrameOptions.names()
    if name == "frame":
        return (*frame, ALIGN)
    # A control has its encoder from its name.
    encoder = () if name in ("pixels", "random") else ("encoder",)
    video = (*VideoOptions.names(), *encoder, EVERY, ALIGN)
    if name == "genreward":
        return (*video, *SUM_OPTIONS, *(f"frame_{one}" for one in frame))
    return (*video, *GENERATED_OPTIONS) if name == "generated" else video
