"""``observe="progress"``: the place in the clip, added to the observation.

A reward that compares frame t with frame t of a video depends on the time. To an agent
that cannot see the time, such a reward is not Markov.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from genreward_wrappers.core import Float32, Int64
from genreward_wrappers.data.frames import position_in_clip

KEY = "progress"
#: The key of an observation that cannot hold a number, in the Dict that can.
REST = "observation"


class TimeFeature:
    """Adds the place in the episode to observations, if that was asked for.

    Attributes:
        space: The space of observations that carry it; None where nothing is added.
        horizon: The number of steps of an episode; None if it is not known.
    """

    def __init__(
        self, observe: str | None, space: spaces.Space[Any], horizon: int | None
    ) -> None:
        """Checks what was asked for.

        Args:
            observe: "progress", or None to add nothing.
            space: The observation space of one environment.
            horizon: Steps of an episode, if that is known.
        """
        if observe not in (None, KEY):
            raise ValueError(f'observe={observe!r}: expected None or "progress"')
        if observe == KEY and horizon is None:
            raise ValueError(
                'observe="progress" needs to know how long an episode is: the '
                "environment has no time limit, so give horizon="
            )
        self._inner, self.horizon = space, horizon
        self.space = extend_space(space) if observe else None

    def add(self, observation: Any, steps: Int64) -> Any:
        """An observation with its progress.

        Args:
            observation: One observation, or those of all rows.
            steps: How many steps their episodes have had: one number, or (N,).
        """
        if self.space is None:
            return observation
        assert self.horizon is not None
        progress = np.asarray(position_in_clip(steps, self.horizon))
        return extend(self._inner, observation, progress[..., None])

    def add_in(self, where: Any, key: Any, steps: Int64) -> None:
        """Does the same to an observation under some key, in place."""
        where[key] = self.add(where[key], steps)


def extend_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space of observations that carry the progress.

    A Dict gets a key, a flat Box one more entry; anything else (an image) becomes
    ``{"observation": ..., "progress": ...}``.
    """
    progress = spaces.Box(0.0, 1.0, (1,), np.float32)
    if isinstance(space, spaces.Dict):
        if KEY in space.spaces:
            raise ValueError(
                f'observe="progress": the observation has a {KEY!r} already: {space}'
            )
        return spaces.Dict({**space.spaces, KEY: progress})
    if _is_flat(space):
        assert isinstance(space, spaces.Box)
        dtype = space.dtype
        return spaces.Box(
            np.append(space.low, np.zeros(1, dtype)),
            np.append(space.high, np.ones(1, dtype)),
            dtype=dtype.type,
        )
    return spaces.Dict({REST: space, KEY: progress})


def extend(space: spaces.Space[Any], observation: Any, progress: Float32) -> Any:
    """Adds progress to one observation, or to a batch of them.

    Args:
        space: The space of a single observation, before `extend_space`.
        observation: One observation or a batch.
        progress: Its shape is (1,) for one observation, (N, 1) for a batch.
    """
    if isinstance(space, spaces.Dict):
        return {**observation, KEY: progress}
    if _is_flat(space):
        return np.concatenate([observation, progress.astype(space.dtype)], axis=-1)
    return {REST: observation, KEY: progress}


def _is_flat(space: spaces.Space[Any]) -> bool:
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 1
        and space.dtype.kind == "f"
    )
