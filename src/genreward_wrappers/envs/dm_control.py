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

import types
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import did_you_mean
from genreward_wrappers.envs._gl import RenderQuality, close_at_exit
from genreward_wrappers.envs.pixel_env import PixelEnv, import_simulator

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


class DmControlEnv(PixelEnv):
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
        self._begin_making(obs, size, render_quality, action_repeat, render_mode)
        self.task = check_task(task)
        self._seeded = False
        self._running = False
        self._control_steps = 0

        self._sim = simulation(self.task)
        model = self._sim.physics.model.ptr
        camera_id = find_camera(model, camera)
        named = camera_id >= 0 and model.camera(camera_id).name
        self._bounds = self._sim.action_space.low, self._sim.action_space.high
        low, high = (bound.astype(np.float32) for bound in self._bounds)
        observed = self._sim.observation_spec()
        self.state_layout = {name: spec.shape for name, spec in observed.items()}
        length = sum(int(np.prod(shape)) for shape in self.state_layout.values())
        self._end_making(
            model,
            (camera_id, named or str(camera_id)),
            1 / self._sim.control_timestep(),
            gym.spaces.Box(low, high, dtype=np.float32),
            gym.spaces.Box(-np.inf, np.inf, (length,), np.float32),
        )

    @property
    def _data(self) -> Any:
        return self._sim.physics.data.ptr

    def _state(self, observed: dict[str, Any]) -> NDArray[np.float32]:
        parts = [np.ravel(observed[name]) for name in self.state_layout]
        return np.concatenate(parts).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: The seed of the random numbers, which are those that dm_control
                draws with ``task_kwargs={"random": seed}``; None continues them.
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
        control = np.clip(self._checked(action).astype(np.float64), *self._bounds)
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

    def _begin(self) -> None:
        """Called when an episode begins, before anything of it is drawn."""


def check_task(task: str) -> str:
    """Returns a task of the suite, or raises with what it may have meant."""
    if task in TASKS:
        return task
    domains = sorted({name.partition("-")[0] for name in TASKS})
    domain = str(task).partition("-")[0]
    if domain in domains:
        mine = [name for name in TASKS if name.startswith(f"{domain}-")]
        raise ValueError(f"unknown task {task!r}: the domain {domain!r} has {mine}")
    raise ValueError(
        f"unknown domain in the task {task!r}{did_you_mean(task, TASKS, 3)}: a task is "
        f"domain-task, as in 'walker-walk', and the domains are {domains}"
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
    packages = ("dm_control", "shimmy", "mujoco", "dm_env")
    imported = import_simulator(module, packages, "dm-control")
    close_at_exit()
    return imported
