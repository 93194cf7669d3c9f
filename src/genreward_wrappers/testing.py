"""A pixel environment, two tiny reward models, and checks to run on one's own.

`check_reward_model` holds a model to the contracts that every host relies on; run it in
the tests of a model of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from genreward_wrappers.core import (
    Bool,
    RewardModel,
    Score,
    Session,
    Transition,
    UInt8,
    UInt64,
    check_model,
)
from genreward_wrappers.data.frames import image_size


class PointMass(gym.Env[Any, NDArray[np.float32]]):
    """A red disc pushed about an arena towards a green one.

    The state is the disc's position; an action moves it by up to ``speed`` along either
    axis. The shortest path is a straight line, so every distance is known.

    Example:
        >>> env = PointMass(size=32)
        >>> observation, _ = env.reset(seed=1)
        >>> observation.shape, observation.dtype
        ((32, 32, 3), dtype('uint8'))
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        size: int | tuple[int, int] = 64,
        obs: str = "pixels",
        horizon: int = 50,
        speed: float = 0.1,
        discrete: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Makes an arena.

        Args:
            size: (height, width) of the frames, or one number for both.
            obs: "pixels", "state" or "dict" (both).
            horizon: Steps after which an episode is truncated.
            speed: How far one step goes; the arena is 2 wide.
            discrete: Whether the actions are right, up, left and down.
            render_mode: None or "rgb_array".
        """
        if obs not in ("pixels", "state", "dict"):
            raise ValueError(f'obs={obs!r}: expected "pixels", "state" or "dict"')
        self.size = image_size(size)
        self.obs, self.horizon, self.speed = obs, horizon, speed
        self.discrete, self.render_mode = discrete, render_mode
        pixels = spaces.Box(0, 255, (*self.size, 3), np.uint8)
        state = spaces.Box(-1.0, 1.0, (4,), np.float32)
        both = spaces.Dict({"pixels": pixels, "state": state})
        space: Any = {"pixels": pixels, "state": state, "dict": both}[obs]
        self.observation_space = space
        actions: Any = (
            spaces.Discrete(4) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        )
        self.action_space = actions
        self.position = np.zeros(2)
        self.target = np.zeros(2)
        height, width = self.size
        rows, columns = np.mgrid[0:height, 0:width]
        self._grid = np.stack(
            [2 * (columns + 0.5) / width - 1, 1 - 2 * (rows + 0.5) / height], axis=-1
        )
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Puts disc and target at random places, or where ``options`` say."""
        super().reset(seed=seed)
        options = options or {}
        self.position = np.array(
            options.get("position", self.np_random.uniform(-0.9, 0.9, 2))
        )
        self.target = np.array(
            options.get("target", self.np_random.uniform(-0.9, 0.9, 2))
        )
        self._step = 0
        return self._observe(), {"is_success": np.array(False)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Moves the disc. The reward is minus the distance left."""
        if self.discrete:
            move = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][int(action)], float)
        else:
            move = np.clip(np.asarray(action, float), -1, 1)
        self.position = np.clip(self.position + self.speed * move, -1, 1)
        self._step += 1
        distance = float(np.linalg.norm(self.position - self.target))
        there = distance < self.speed
        cut = self._step >= self.horizon
        return self._observe(), -distance, there, cut, {"is_success": np.array(there)}

    def render(self) -> Any:
        """The arena, seen from above."""
        frame = np.full((*self.size, 3), 230, np.uint8)
        for centre, colour in (
            (self.target, (40, 160, 60)),
            (self.position, (200, 40, 40)),
        ):
            frame[((self._grid - centre) ** 2).sum(-1) < 0.15**2] = colour
        return frame

    def _observe(self) -> Any:
        if self.obs == "pixels":
            return self.render()
        state = np.concatenate([self.position, self.target]).astype(np.float32)
        if self.obs == "state":
            return state
        return {"pixels": self.render(), "state": state}


class Brightness(RewardModel[None]):
    """Pays the mean brightness of the next frame.

    It lies between 0 and 1. The model has no memory.
    """

    name = "brightness"

    def reset(self, memory: None, frames: UInt8, mask: Bool, seeds: UInt64) -> None:
        """Nothing to remember."""
        return None

    def step(self, memory: None, transition: Transition) -> tuple[Score, None]:
        """Pays at every step."""
        value = transition.next_frames.mean((1, 2, 3)).astype(np.float32) / np.float32(
            255
        )
        return Score(value, transition.active), None


class Traveller(RewardModel[Any]):
    """Pays everything a host can get wrong, as one number.

    The change since the episode's first frame, the change of this step, the action, the
    step's number, and noise of the episode's own seed. A frame or a memory that crosses
    an episode, a wrong action, a lost seed: each changes the reward.
    """

    name = "traveller"

    def reset(
        self, memory: Any, frames: UInt8, mask: Bool, seeds: UInt64
    ) -> tuple[NDArray[np.float64], UInt64]:
        """Remembers what the first frames look like, and the seeds."""
        looks = _look(frames)
        if memory is None:
            return looks, seeds
        return np.where(mask, looks, memory[0]), np.where(mask, seeds, memory[1])

    def step(self, memory: Any, transition: Transition) -> tuple[Score, Any]:
        """Pays at every step."""
        first, seeds = memory
        before, after = _look(transition.frames), _look(transition.next_frames)
        actions = transition.actions.reshape(len(first), -1).sum(1)
        noise = [
            np.random.default_rng([int(s), int(t)]).random()
            for s, t in zip(seeds, transition.steps, strict=True)
        ]
        value = (after - first) + 10 * (after - before) + actions + np.array(noise)
        return Score(value.astype(np.float32), transition.active), memory


def check_reward_model(
    model: RewardModel[Any],
    *,
    size: tuple[int, int] = (64, 64),
    action_space: spaces.Space[Any] | None = None,
    steps: int = 40,
    tolerance: float = 1e-5,
    states: int = 4,
) -> None:
    """Raises `AssertionError` unless a model keeps the contracts of a `RewardModel`.

    Rows score as they would alone, whatever runs beside them and whenever they reset;
    inactive rows score nothing and keep their memory; an old memory can be stepped
    again with the same result. Then a wrapper in each environment and a vector wrapper
    outside pay the same. A model that sees states is given four of them.

    Raises:
        TypeError: It is no `RewardModel`; the message says what is missing.

    Args:
        model: The model.
        size: (height, width) of the frames to try it on.
        action_space: Of one environment; None is a flat Box of two.
        steps: Length of the trial.
        tolerance: Relative difference that batching may make, by rounding.
        states: How many numbers a model that sees states is given.

    Example:
        >>> check_reward_model(Brightness())
    """
    check_model(model)
    rng = np.random.default_rng(0)
    space = action_space or spaces.Box(-1.0, 1.0, (2,), np.float32)
    space.seed(0)
    count = 3
    shape = (steps + 1, count, *size, 3)
    frames = rng.integers(0, 256, shape).astype(np.uint8)
    numbers = rng.uniform(-1, 1, (steps + 1, count, states)).astype(np.float32)
    actions = np.stack(
        [[np.asarray(space.sample()) for _ in range(count)] for _ in range(steps)]
    )
    # Row 0 runs through, row 1 rests now and then, row 2 starts anew in between.
    active = np.ones((steps, count), np.bool_)
    active[3::5, 1] = False
    restart = np.zeros((steps, count), np.bool_)
    restart[[steps // 4, steps // 2], 2] = True
    no = np.zeros(count, np.bool_)

    def begin(session: Session, t: int, rows: list[int], **kwargs: Any) -> None:
        session.begin(frames[t][rows], states=numbers[t][rows], **kwargs)

    def play(
        session: Session, rows: list[int], first: int, last: int
    ) -> list[NDArray[Any]]:
        """The steps from first to last; NaN where nothing was due."""
        values = []
        for t in range(first, last):
            score = session.score(
                actions[t][rows],
                frames[t + 1][rows],
                no[rows],
                no[rows],
                active=active[t][rows],
                next_states=numbers[t + 1][rows],
            )[model.name]
            values.append(np.where(score.due, score.value, np.nan))
            if restart[t][rows].any() and t + 1 < last:
                begin(session, t + 1, rows, mask=restart[t][rows])
        return values

    def alone(row: int) -> NDArray[Any]:
        """Each of a row's episodes in a session of its own."""
        starts = [0, *(np.flatnonzero(restart[:, row]) + 1).tolist()]
        values = []
        for episode, (first, last) in enumerate(
            zip(starts, [*starts[1:], steps], strict=True)
        ):
            session = Session([model], 1)
            begin(session, first, [row], seed=[row])
            for _ in range(episode):
                # Only the seed moves on: to that of the row's next episode.
                begin(session, first, [row])
            values += play(session, [row], first, last)
        return np.array(values)[:, 0]

    everyone, middle = list(range(count)), steps // 3
    session = Session([model], count)
    begin(session, 0, everyone, seed=everyone)
    together = play(session, everyone, 0, middle)
    if restart[middle - 1].any():
        begin(session, middle, everyone, mask=restart[middle - 1])
    snapshot = session.snapshot()
    rest = play(session, everyone, middle, steps)
    session.restore(snapshot)
    again = play(session, everyone, middle, steps)
    assert np.array_equal(rest, again, equal_nan=True), (
        f"{model.name!r} changed its old memory: from the same snapshot the same steps "
        f"gave {rest} and then {again}"
    )
    values = np.array(together + rest)
    for row in everyone:
        own = alone(row)
        assert np.allclose(
            own, values[:, row], rtol=tolerance, atol=tolerance, equal_nan=True
        ), (
            f"{model.name!r} scores row {row} otherwise alone than beside others: "
            f"{own} against {values[:, row]}"
        )
    assert np.isfinite(values).any(), (
        f"{model.name!r} was never due in {steps} steps: try more"
    )
    _check_in_hosts(model, frames, numbers, actions, tolerance)


class _Film(gym.Env[Any, Any]):
    """Shows one row's frames and states, whatever is done."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, frames: UInt8, states: NDArray[np.float32], actions: NDArray[Any]
    ) -> None:
        self._frames, self._states, self._step = frames, states, 0
        pixels = spaces.Box(0, 255, frames.shape[1:], np.uint8)
        numbers = spaces.Box(-1.0, 1.0, states.shape[1:], np.float32)
        self.observation_space = spaces.Dict({"pixels": pixels, "state": numbers})
        # Nothing is drawn from it.
        kind = np.int64 if actions.dtype.kind in "iu" else np.float32
        self.action_space = spaces.Box(-100, 100, actions.shape[2:], kind)

    def _look(self) -> dict[str, NDArray[Any]]:
        now = self._step
        return {"pixels": self._frames[now], "state": self._states[now]}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        over = self._step == len(self._frames) - 1
        return self._look(), 0.0, False, over, {}


def _check_in_hosts(
    model: RewardModel[Any],
    frames: UInt8,
    states: NDArray[np.float32],
    actions: NDArray[Any],
    tolerance: float,
) -> None:
    """A wrapper in each environment pays what the vector wrapper outside pays."""
    from genreward_wrappers.vector import RewardModelWrapper as Outside
    from genreward_wrappers.wrappers import RewardModelWrapper

    count = frames.shape[1]
    films = [
        partial(_Film, frames[:, row], states[:, row], actions) for row in range(count)
    ]

    def wrapped(film: Callable[[], _Film]) -> RewardModelWrapper:
        return RewardModelWrapper(film(), model, frames="obs:pixels")

    inside = SyncVectorEnv([partial(wrapped, film) for film in films])
    outside = Outside(SyncVectorEnv(films), model, frames="obs:pixels")
    paid = []
    for envs in (inside, outside):
        envs.reset(seed=0)
        paid.append([envs.step(action)[1] for action in actions])
        envs.close()
    assert np.allclose(paid[0], paid[1], rtol=tolerance, atol=tolerance), (
        f"{model.name!r} pays otherwise in a wrapper than in a vector wrapper: "
        f"{paid[0]} against {paid[1]}"
    )


def _look(frames: UInt8) -> NDArray[np.float64]:
    """One number for what a frame looks like, in which every pixel counts."""
    flat = frames.reshape(len(frames), -1).astype(np.float64)
    return flat @ np.linspace(0, 1, flat.shape[1]) / (255 * flat.shape[1])
