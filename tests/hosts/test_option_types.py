"""What editors are told of the options is what the options are."""

from __future__ import annotations

from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from genreward_wrappers.hosts.option_types import (
    FrameFields,
    FrameKwargs,
    HostKwargs,
    VideoKwargs,
)
from genreward_wrappers.hosts.options import HostOptions
from genreward_wrappers.rewards.frame_level import FrameOptions
from genreward_wrappers.rewards.video_options import VideoOptions


@pytest.mark.parametrize(
    ("told", "options", "beside"),
    [
        (HostKwargs, [HostOptions], set()),
        (VideoKwargs, [HostOptions, VideoOptions], {"every"}),
        (FrameFields, [FrameOptions], set()),
        (FrameKwargs, [HostOptions, FrameOptions], set()),
    ],
)
def test_names_and_values_are_the_options_own(told, options, beside):
    hints = get_type_hints(told)
    fields = {}
    for each in options:
        fields |= each.__dataclass_fields__
    assert set(hints) == set(fields) | beside
    for name, field in fields.items():
        choices = field.metadata["choices"]
        if choices:
            assert get_origin(hints[name]) is Literal
            assert set(get_args(hints[name])) == set(choices)
