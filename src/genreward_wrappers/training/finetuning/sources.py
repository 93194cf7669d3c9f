"""The data sets that GenReward's generator was fine-tuned on, by name.

A name stands for a layout of files and the camera to look through; docs/finetune.md
says where they are published, in which licence, and how to fetch them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
        layout: "lerobot" or "rlbench".
        camera: The one that sees the task from outside.
        about: What it is, in a line.
    """

    layout: str
    camera: str
    about: str


SOURCES = {
    "bridge": Source(
        "lerobot",
        "observation.images.image_0",
        "BridgeData V2 as a LeRobotDataset",
    ),
    "rt1": Source(
        "lerobot",
        "observation.images.image",
        "RT-1 (fractal) as a LeRobotDataset",
    ),
    "rlbench": Source("rlbench", "front", "demonstrations of RLBench's own generator"),
}


def find_source(name: str) -> Source:
    """The data set of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in SOURCES:
        known = ", ".join(f"{one!r} ({it.about})" for one, it in SOURCES.items())
        raise ValueError(f"source={name!r}: expected one of {known}")
    return SOURCES[name]
