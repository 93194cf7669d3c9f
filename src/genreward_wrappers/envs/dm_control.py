"""dm_control's suite as well-behaved pixel environments, through Shimmy.

`DmControlEnv` plays `dm_control.suite` through Shimmy's compatibility layer. The
physics, the rewards and the ends of episodes are upstream's own. What differs from
``dm_control/<task>-v0``, Shimmy's ids, and why:

- **Pictures.** Observations are frames, drawn by a renderer of the environment's own,
  at most once a step and not at all where nobody looks.
- **Speed.** Software rendering is several times faster without shadows, reflections
  and multisampling: ``render_quality="fast"``, the default. "full" is, pixel by pixel,
  what dm_control draws.
- **Seeds.** ``reset(seed=...)`` decides the episode, and the episodes after it, also
  for those tasks whose *model* is random upstream (lqr).
- **Ends.** A step after the end of an episode is an error; upstream starts another one.
- **Ids.** ``dmc/<domain>-<task>``: gymnasium refuses ``dm_control/...`` without a
  version beside Shimmy's.

Importing this module imports neither mujoco nor dm_control.
"""

from __future__ import annotations

import difflib
import importlib
import types
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from genreward_wrappers.envs._arguments import (
    check_choice,
    height_width,
    positive_int,
)
from genreward_wrappers.envs._gl import (
    OffscreenRenderer,
    RenderQuality,
    choose_backend,
    close_at_exit,
    resolve_quality,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

TASKS: tuple[str, ...] = (
    "acrobot-swingup",
    "acrobot-swingup_sparse",
    "ball_in_cup-catch",
    "cartpole-balance",
    "cartpole-balance_sparse",
    "cartpole-swingup",
    "cartpole-swingup_sparse",
    "cartpole-three_poles",
    "cartpole-two_poles",
    "cheetah-run",
    "dog-fetch",
    "dog-run",
    "dog-stand",
    "dog-trot",
    "dog-walk",
    "finger-spin",
    "finger-turn_easy",
    "finger-turn_hard",
    "fish-swim",
    "fish-upright",
    "hopper-hop",
    "hopper-stand",
    "humanoid-run",
    "humanoid-run_pure_state",
    "humanoid-stand",
    "humanoid-walk",
    "humanoid_CMU-run",
    "humanoid_CMU-stand",
    "humanoid_CMU-walk",
    "lqr-lqr_2_1",
    "lqr-lqr_6_2",
    "manipulator-bring_ball",
    "manipulator-bring_peg",
    "manipulator-insert_ball",
    "manipulator-insert_peg",
    "pendulum-swingup",
    "point_mass-easy",
    "point_mass-hard",
    "quadruped-escape",
    "quadruped-fetch",
    "quadruped-run",
    "quadruped-walk",
    "reacher-easy",
    "reacher-hard",
    "stacker-stack_2",
    "stacker-stack_4",
    "swimmer-swimmer15",
    "swimmer-swimmer6",
    "walker-run",
    "walker-stand",
    "walker-walk",
)
"""Every task of the suite, spelled out so that registering imports no dm_control."""

STEP_LIMIT = 1000
"""The suite's limit for an episode in control steps; only lqr has none."""


class DmControlEnv(gym.Env[Any, NDArray[np.float32]], EzPickle):
    """One task of dm_control's suite.

    Actions and rewards are upstream's; actions are clipped to their bounds ([-1, 1] for
    nearly all tasks). An episode that upstream ends with a discount of 0 is terminated,
    one that runs into the suite's limit of 1,000 control steps is truncated: after
    1,000 steps, or after 500 with ``action_repeat=2``. ``info`` holds Shimmy's entries
    of the last repeat.

    Attributes:
        task: Domain and task, such as "walker-walk".
        camera: The camera's name, or its number if it has none.
        size: (height, width) of the picture.
        state_layout: What the state is made of: each of upstream's observations with
            its shape, in the order in which they are joined.

    Example:
        >>> import gymnasium as gym
        >>> import genreward_wrappers
        >>> env = gym.make("dmc/walker-walk")  # doctest: +SKIP
        >>> frame, info = env.reset(seed=0)  # doctest: +SKIP
        >>> frame.shape, frame.dtype  # doctest: +SKIP
        ((64, 64, 3), dtype('uint8'))
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        task: str = "walker-walk",
        obs: Literal["pixels", "state", "dict"] = "pixels",
        size: int | Sequence[int] = 64,
        camera: int | str = 0,
        render_quality: RenderQuality = "fast",
        action_repeat: int = 1,
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        """Builds the task's simulation; no picture is drawn yet.

        Args:
            task: One of `TASKS`.
            obs: "pixels" for the frame, "state" for upstream's observations joined to
                one vector, "dict" for both under these names.
            size: Of the picture: a number, or (height, width).
            camera: One of the model's, by number or name; -1 is the free one, which
                sees the whole scene.
            render_quality: "fast" leaves out shadows, reflections, multisampling and
                whatever of a mesh is too small to be seen, "full" draws what upstream
                draws, and a dict names what to draw, as in
                ``{"shadows": True, "samples": 4, "whole_meshes": True}``.
            action_repeat: How often an action is applied in a step, each time for one
                of the task's control steps; rewards of the repeats are added up.
            render_mode: "rgb_array" makes `render` return the frame.
        """
        EzPickle.__init__(
            self, task, obs, size, camera, render_quality, action_repeat, render_mode
        )
        self.task = check_task(task)
        check_choice("obs", obs, ("pixels", "state", "dict"))
        if render_mode is not None:
            check_choice("render_mode", render_mode, ("rgb_array",))
        self.size = height_width(size)
        self.render_mode = render_mode
        self.action_repeat = positive_int("action_repeat", action_repeat)
        self._obs_kind = obs
        self._quality = resolve_quality(render_quality)
        self._renderer: OffscreenRenderer | None = None
        self._frame: NDArray[np.uint8] | None = None
        self._seeded = False
        self._running = False
        self._control_steps = 0

        self._sim = simulation(self.task)
        self._model = self._sim.physics.model.ptr
        self._camera_id = find_camera(self._model, camera)
        named = self._camera_id >= 0 and self._model.camera(self._camera_id).name
        self.camera = named or str(self._camera_id)
        self.metadata = {
            **self.metadata,
            "render_fps": 1 / (self._sim.control_timestep() * self.action_repeat),
            # Vector environments pass metadata on, and goals are checked against it.
            "camera": self.camera,
        }

        self._bounds = self._sim.action_space.low, self._sim.action_space.high
        low, high = (bound.astype(np.float32) for bound in self._bounds)
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)
        observed = self._sim.observation_spec()
        self.state_layout = {name: spec.shape for name, spec in observed.items()}
        length = sum(int(np.prod(shape)) for shape in self.state_layout.values())
        pixels = gym.spaces.Box(0, 255, (*self.size, 3), np.uint8)
        state = gym.spaces.Box(-np.inf, np.inf, (length,), np.float32)
        spaces: dict[str, gym.Space[Any]] = {"pixels": pixels, "state": state}
        both = gym.spaces.Dict(spaces)
        self.observation_space = both if obs == "dict" else spaces[obs]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Starts the random numbers anew, with those that dm_control's
                ``task_kwargs={"random": seed}`` has; None goes on with them.
            options: Not used.
        """
        super().reset(seed=seed, options=options)
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**32))
        if seed is not None:
            # Two halves of a large seed: numpy's old generator takes 32 bits a number.
            halves = seed if seed < 2**32 else [seed % 2**32, seed >> 32]
            self._sim.np_random = np.random.RandomState(halves)
            self._seeded = True
        observed, info = self._sim.reset()
        if self._renderer is not None and self._model.nhfield:
            self._renderer.upload_heights()
        self._frame = None
        self._running = True
        self._control_steps = 0
        self._begin()
        return self._observation(observed), info

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Applies an action `action_repeat` times, or until the episode ends.

        Args:
            action: Clipped to the bounds of the action space.
        """
        if not self._running:
            raise RuntimeError("the episode is over, or never began: call reset()")
        action = np.asarray(action, np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(
                f"an action is {self._bounds[0].size} finite numbers, got "
                f"{np.array2string(action, threshold=8)} of shape {action.shape}"
            )
        control = np.clip(action.astype(np.float64), *self._bounds)
        total = 0.0
        for _ in range(self.action_repeat):
            observed, reward, terminated, truncated, info = self._sim.step(control)
            total += float(reward)
            self._control_steps += 1
            if terminated or truncated:
                self._running = False
                break
        self._frame = None
        return self._observation(observed), total, terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Returns the (height, width, 3) frame of the current state.

        The frame is drawn once a step, whoever asks for it.
        """
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called on a DmControlEnv without a render mode: pass "
                'render_mode="rgb_array" when making the environment'
            )
            return None
        frame: NDArray[np.uint8] = self._pixels().copy()
        return frame

    def close(self) -> None:
        """Frees the renderer; may be called again."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _begin(self) -> None:
        """Called when an episode begins, before anything of it is drawn."""

    def _observation(self, observed: dict[str, Any]) -> Any:
        if self._obs_kind == "pixels":
            return self._pixels().copy()
        parts = [np.ravel(observed[name]) for name in self.state_layout]
        state = np.concatenate(parts).astype(np.float32)
        if self._obs_kind == "state":
            return state
        return {"pixels": self._pixels().copy(), "state": state}

    def _pixels(self) -> NDArray[np.uint8]:
        if self._frame is None:
            if self._renderer is None:
                self._renderer = OffscreenRenderer(
                    self._model, *self.size, self._quality, self._camera_id
                )
            # The picture arrives bottom row first.
            self._frame = np.ascontiguousarray(self._draw(self._renderer)[::-1])
        return self._frame

    def _draw(self, renderer: OffscreenRenderer) -> NDArray[np.uint8]:
        return renderer.render(self._sim.physics.data.ptr, self._camera_id)


def register_dm_control() -> None:
    """Registers ``dmc/<domain>-<task>`` for all tasks of the suite.

    Tasks that are registered already are left as they are.
    """
    register_tasks("dmc", "genreward_wrappers.envs.dm_control:DmControlEnv")


def register_tasks(namespace: str, entry_point: str) -> None:
    """Registers an environment for each task, with the suite's limit of its steps."""
    for task in TASKS:
        env_id = f"{namespace}/{task}"
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point=entry_point,
                max_episode_steps=None if task.startswith("lqr-") else STEP_LIMIT,
                kwargs={"task": task},
            )


def check_task(task: str) -> str:
    """Returns a task of the suite, or raises with what it may have meant."""
    if task in TASKS:
        return task
    domains = sorted({name.partition("-")[0] for name in TASKS})
    domain = str(task).partition("-")[0]
    if domain in domains:
        mine = [name for name in TASKS if name.startswith(f"{domain}-")]
        raise ValueError(f"unknown task {task!r}: the domain {domain!r} has {mine}")
    near = difflib.get_close_matches(str(task), TASKS, n=3, cutoff=0.5)
    hint = f"did you mean one of {near}? " if near else ""
    raise ValueError(
        f"unknown domain in the task {task!r}: {hint}A task is domain-task, as in "
        f"'walker-walk', and the domains are {domains}"
    )


def find_camera(model: Any, camera: int | str) -> int:
    """The number of a model's camera, given as a number or a name."""
    names = [model.camera(i).name for i in range(model.ncam)]
    if isinstance(camera, str) and camera in names:
        return names.index(camera)
    whole = isinstance(camera, (int, np.integer)) and not isinstance(camera, bool)
    if whole and -1 <= int(camera) < len(names):
        return int(camera)
    numbered = ", ".join(f"{i} ({name!r})" for i, name in enumerate(names))
    raise ValueError(
        f"camera must be one of this model's, by number or name: -1 (the free one), "
        f"{numbered}; got {camera!r}"
    )


def simulation(task: str) -> Any:
    """A task of the suite as Shimmy's environment, its model the same every time."""
    suite = _import("dm_control.suite")
    compatibility = _import("shimmy.dm_control_compatibility")
    if not hasattr(np, "in1d"):
        # dm_control until 1.0.28 asks the quadruped's sensors with a function that
        # numpy 2.4 dropped; it is given a numpy of its own that still has it.
        view = types.ModuleType("numpy")
        vars(view).update(vars(np), in1d=np.isin)
        suite.quadruped.np = view
    domain, _, name = task.partition("-")
    # The fixed number is for models that are drawn at random when they are built.
    # Episodes have seeds of their own.
    env = suite.load(domain, name, task_kwargs={"random": 0})
    return compatibility.DmControlCompatibilityV0(env)


def _import(module: str) -> Any:
    """Imports a module of dm_control or Shimmy, in an order that is safe."""
    choose_backend()
    try:
        imported = importlib.import_module(module)
        close_at_exit()
        return imported
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in ("dm_control", "shimmy", "mujoco", "dm_env"):
            raise
        raise ImportError(
            f"dm_control's environments need the package {package!r}: "
            'pip install "genreward-wrappers[dm-control]"'
        ) from error
