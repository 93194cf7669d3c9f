"""Meta-World's fifty tasks as one well-behaved pixel environment.

`MetaWorldEnv` is a thin layer over the `metaworld` package (version 3). The physics,
the rewards and the success test are upstream's own. What differs, and why:

- **Seeds.** ``reset(seed=...)`` seeds; upstream ignores it. Every episode has random
  positions, the same ones in every process for the same seed; upstream freezes them.
- **Pictures.** Every environment has its own renderer, and the picture is upright
  (upstream's corner cameras hang upside down). One step is rendered at most once, and
  not at all where nobody looks.
- **Speed.** Software rendering is several times faster without shadows, reflections
  and multisampling: ``render_quality="fast"``, the default.
- **Time.** There is no limit at 500 steps; time limits are the registration's (256).
- **State.** The goal position is part of it, and the state after a reset is that of the
  picture after a reset (upstream's lags behind by one episode for some tasks).

Importing this module imports neither mujoco nor metaworld.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import did_you_mean, one_of
from genreward_wrappers.envs._gl import RenderQuality
from genreward_wrappers.envs._segments import shows_only
from genreward_wrappers.envs.pixel_env import PixelEnv, import_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TASKS: tuple[str, ...] = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-close-v3",
    "faucet-open-v3",
    "hammer-v3",
    "hand-insert-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-back-side-v3",
    "plate-slide-back-v3",
    "plate-slide-side-v3",
    "plate-slide-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "soccer-v3",
    "stick-pull-v3",
    "stick-push-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-close-v3",
    "window-open-v3",
)
"""Every task, spelled out so that registering them does not import metaworld."""

CAMERAS: tuple[str, ...] = (
    "corner2",
    "corner",
    "corner3",
    "corner4",
    "topview",
    "behindGripper",
    "gripperPOV",
)
"""The cameras upstream defines; the first is the default."""

# Upstream's corner2 is far away. This place is what pixel-based work on Meta-World has
# settled on; upstream's corner4 is there, too, from version 3 on.
_CORNER2_POSITION = (0.75, 0.075, 0.7)

# The bodies that are no part of any task. (The world's own geometry is the floor.)
_BACKGROUND = ("world", "tablelink", "RetainingWall")

# What upstream says of a step, in every task. With numpy's types, and after a reset as
# well, though nothing is known yet: recorders keep all of it in one table.
_UPSTREAM_INFO = (
    "near_object",
    "grasp_success",
    "grasp_reward",
    "in_place_reward",
    "obj_to_target",
    "unscaled_reward",
)

# Upstream's own control step: 5 physics steps of 2.5 ms.
_UPSTREAM_FPS = 80


class MetaWorldEnv(PixelEnv):
    """One Meta-World task with random object and goal positions in every episode.

    Actions are the gripper's displacement (x, y, z) and its closing effort, all in
    [-1, 1]. Episodes never end by themselves; the registered environments are cut
    after 256 steps.

    ``info`` holds upstream's entries of the last repeat, which are NaN after a reset,
    with ``success`` (a float, as upstream has it) and ``is_success`` (a bool, as
    stable-baselines3 wants it) true if any of the repeats was a success.

    Attributes:
        task: Upstream's name of the task, such as "pick-place-v3".
        camera: The camera's name.
        size: (height, width) of the picture.

    Example:
        >>> import gymnasium as gym
        >>> import genreward_wrappers
        >>> env = gym.make("metaworld/drawer-close")  # doctest: +SKIP
        >>> frame, info = env.reset(seed=0)  # doctest: +SKIP
        >>> frame.shape, frame.dtype  # doctest: +SKIP
        ((64, 64, 3), dtype('uint8'))
    """

    def __init__(
        self,
        task: str = "pick-place-v3",
        obs: Literal["pixels", "state", "dict"] = "pixels",
        reward: Literal["dense", "sparse"] = "dense",
        size: int | Sequence[int] = 64,
        camera: str = "corner2",
        render_quality: RenderQuality = "fast",
        action_repeat: int = 1,
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        """Builds the task's simulation; no picture is drawn yet.

        Args:
            task: One of `TASKS`; the ending "-v3" may be left out.
            obs: "pixels" for the frame, "state" for upstream's 39 numbers with the goal
                position, "dict" for both under these names.
            reward: "dense" for upstream's hand-written reward (about 10 a step once the
                task is solved), "sparse" for 1 in case of success, else 0.
            size: Of the picture: a number, or (height, width).
            camera: One of `CAMERAS`. "corner2" stands at (0.75, 0.075, 0.7) instead of
                upstream's place, closer to the table.
            render_quality: "fast" leaves out shadows, reflections, multisampling and
                whatever of a mesh is too small to be seen, "full" draws what upstream
                draws, and a dict names what to draw, as in
                ``{"shadows": True, "samples": 4, "whole_meshes": True}``.
            action_repeat: How often an action is applied in a step; dense rewards of
                the repeats are added up.
            render_mode: "rgb_array" makes `render` return the frame.
        """
        self._begin_making(obs, size, render_quality, action_repeat, render_mode)
        self.task = _task_name(task)
        one_of(("dense", "sparse"), reward=reward)
        one_of(CAMERAS, camera=camera)
        self._sparse = reward == "sparse"
        self._background: NDArray[np.bool_] | None = None

        self._sim = _simulation(self.task)
        model = self._sim.model
        camera_id = int(model.camera(camera).id)
        if camera == "corner2":
            model.cam_pos[camera_id] = _CORNER2_POSITION
        actions = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        bounds = self._sim.sawyer_observation_space
        states = gym.spaces.Box(bounds.low, bounds.high, dtype=np.float64)
        self._end_making(model, (camera_id, camera), _UPSTREAM_FPS, actions, states)

    @property
    def _data(self) -> Any:
        return self._sim.data

    def _state(self, observed: NDArray[np.float64]) -> NDArray[np.float64]:
        return observed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode with new random positions.

        Args:
            seed: The seed of the random numbers; None continues them.
            options: Not used.
        """
        super().reset(seed=seed, options=options)
        import mujoco

        sim = self._sim
        sim.np_random = self.np_random
        sim.reset()
        # Some tasks move their object after upstream's last look at it, and leave the
        # state and the picture at where it was before.
        mujoco.mj_forward(sim.model, sim.data)
        sim._prev_obs = sim._get_curr_obs_combined_no_goal()
        self._frame = self._background = None
        info = dict.fromkeys(_UPSTREAM_INFO, np.float64(np.nan))
        info |= {"success": np.float64(0), "is_success": np.array(False)}
        return self._observation(sim._get_obs()), info

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Applies an action `action_repeat` times.

        Args:
            action: (4,) clipped to [-1, 1].
        """
        action = np.clip(self._checked(action), -1.0, 1.0)
        dense, success = 0.0, 0.0
        for _ in range(self.action_repeat):
            state, reward, _, _, upstream_info = self._sim.step(action)
            dense += float(reward)
            success = max(success, float(upstream_info["success"]))
        self._frame = self._background = None
        info = {key: np.float64(upstream_info[key]) for key in _UPSTREAM_INFO}
        info |= {"success": np.float64(success), "is_success": np.array(success > 0)}
        reward = success if self._sparse else dense
        return self._observation(state), reward, False, False, info

    def background_mask(self) -> NDArray[np.bool_]:
        """Which pixels show neither the robot nor anything of the task.

        Background are the table, the walls, the floor and where there is nothing. It is
        drawn once a step, for about as much as the frame; distractions ask for it.

        Returns:
            (height, width), as the frame.
        """
        if self._background is None:
            bodies = [
                body
                for body in range(self._model.nbody)
                if self._model.body(body).name in _BACKGROUND
            ]
            picture = shows_only(
                self._own_renderer(), self._model, self._data, self._camera_id, bodies
            )
            self._background = self._upright(picture)
        mask: NDArray[np.bool_] = self._background.copy()
        return mask

    def _upright(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture that arrives bottom row first, as it should be seen."""
        # Turning it over sets it right, except for the upside-down cameras: turned by
        # half a circle on top of that, what is left to do is to swap left and right.
        upside_down = self.camera.startswith("corner")
        return np.ascontiguousarray(picture[:, ::-1] if upside_down else picture[::-1])


def scripted_policy(
    task: str,
) -> Callable[[NDArray[np.float64]], NDArray[np.float32]]:
    """Returns upstream's hand-written policy for a task, its actions clipped.

    It maps a state to an action: make the environment with ``obs="state"`` or
    ``obs="dict"``.

    Args:
        task: One of `TASKS`; the ending "-v3" may be left out.

    Example:
        >>> policy = scripted_policy("drawer-close")  # doctest: +SKIP
        >>> action = policy(state)  # doctest: +SKIP
    """
    name = _task_name(task)
    upstream = _metaworld("metaworld.policies").ENV_POLICY_MAP[name]()

    def act(state: NDArray[np.float64]) -> NDArray[np.float32]:
        with warnings.catch_warnings():
            # Upstream warns at nearly every step that the environment will clip.
            warnings.filterwarnings("ignore", message="Constant.* may be too high")
            action = upstream.get_action(np.asarray(state, np.float64))
        return np.clip(np.asarray(action, np.float32), -1.0, 1.0)

    return act


def _metaworld(module: str) -> Any:
    return import_simulator(module, ("metaworld", "mujoco"), "metaworld")


def _simulation(task: str) -> Any:
    """Upstream's environment, with a new random position at every reset."""
    sim = _metaworld("metaworld.env_dict").ALL_V3_ENVIRONMENTS[task]()
    # What upstream's own benchmarks set through `set_task`, which takes pickles.
    sim._set_task_called = True
    sim._freeze_rand_vec = False
    sim.seeded_rand_vec = True
    sim._partially_observable = False
    # A cached property, computed when the goal was still hidden.
    sim.__dict__.pop("sawyer_observation_space", None)
    sim.max_path_length = sys.maxsize
    return sim


def _task_name(task: str) -> str:
    name = task if str(task).endswith("-v3") else f"{task}-v3"
    if name not in TASKS:
        raise ValueError(
            f"unknown Meta-World task {task!r}{did_you_mean(name, TASKS, 3)}: all "
            f"{len(TASKS)} are listed in genreward_wrappers.envs.metaworld.TASKS"
        )
    return name
