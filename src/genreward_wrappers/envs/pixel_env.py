"""What simulated environments share: pictures drawn lazily, states, or both."""

from __future__ import annotations

import abc
import functools
import importlib
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import one_of, whole
from genreward_wrappers.data.frames import image_size
from genreward_wrappers.envs._gl import (
    OffscreenRenderer,
    RenderQuality,
    choose_backend,
    resolve_quality,
)
from genreward_wrappers.extras import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self


class PixelEnv(gym.Env[Any, NDArray[np.float32]], abc.ABC):
    """A MuJoCo simulation that is drawn at most once a step, and only on demand.

    A subclass calls `_begin_making` with its arguments, builds its simulation, and
    ends with `_end_making`. After every change of the state it sets `_frame` to None.

    Attributes:
        size: (height, width) of the picture.
        camera: The camera's name.
        action_repeat: How often an action is applied in a step.
    """

    _made_by: functools.partial[Any]
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remembers the arguments: a pickled environment is one made with the same."""
        env = super().__new__(cls)
        env._made_by = functools.partial(cls, *args, **kwargs)
        return env

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made_by, ()

    def _begin_making(
        self,
        obs: str,
        size: int | Sequence[int],
        render_quality: RenderQuality,
        action_repeat: int,
        render_mode: str | None,
    ) -> None:
        """Checks what does not depend on the simulation."""
        one_of(("pixels", "state", "dict"), obs=obs)
        if render_mode is not None:
            one_of(("rgb_array",), render_mode=render_mode)
        self.size = image_size(size)
        self.render_mode = render_mode
        self.action_repeat = whole("action_repeat", action_repeat)
        self._obs_kind = obs
        self._quality = resolve_quality(render_quality)
        self._renderer: OffscreenRenderer | None = None
        self._frame: NDArray[np.uint8] | None = None

    def _end_making(
        self,
        model: Any,
        camera: tuple[int, str],
        control_fps: float,
        actions: gym.Space[NDArray[np.float32]],
        states: gym.Space[Any],
    ) -> None:
        """Takes over what is drawn, and makes the spaces.

        Args:
            model: The `mujoco.MjModel`.
            camera: The camera's number and its name.
            control_fps: How often a second an action is applied.
            actions: The action space.
            states: The space of the states.
        """
        self._model = model
        self._camera_id, self.camera = camera
        self.metadata = {
            **self.metadata,
            "render_fps": control_fps / self.action_repeat,
            # Vector environments pass metadata on, and goals are checked against it.
            "camera": self.camera,
        }
        self.action_space = actions
        pixels = gym.spaces.Box(0, 255, (*self.size, 3), np.uint8)
        spaces: dict[str, gym.Space[Any]] = {"pixels": pixels, "state": states}
        both = gym.spaces.Dict(spaces)
        self.observation_space = (
            both if self._obs_kind == "dict" else spaces[self._obs_kind]
        )

    @property
    @abc.abstractmethod
    def _data(self) -> Any:
        """The `mujoco.MjData` that is drawn."""

    @abc.abstractmethod
    def _state(self, observed: Any) -> NDArray[Any]:
        """The state, from what the simulation returned."""

    def render(self) -> NDArray[np.uint8] | None:
        """Returns the upright (height, width, 3) frame of the current state.

        The frame is drawn once a step, whoever asks for it.
        """
        if self.render_mode is None:
            gym.logger.warn(
                f"render() was called on a {type(self).__name__} without a render "
                'mode: pass render_mode="rgb_array" when making the environment'
            )
            return None
        frame: NDArray[np.uint8] = self._pixels().copy()
        return frame

    def close(self) -> None:
        """Frees the renderer; may be called again."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _checked(self, action: Any) -> NDArray[np.float32]:
        """The action as an array, if it is one; it may be out of bounds."""
        checked: NDArray[np.float32] = np.asarray(action, np.float32)
        shape = self.action_space.shape or ()
        if checked.shape != shape or not np.isfinite(checked).all():
            raise ValueError(
                f"an action is {np.prod(shape)} finite numbers, got "
                f"{np.array2string(checked, threshold=8)} of shape {checked.shape}"
            )
        return checked

    def _observation(self, observed: Any) -> Any:
        if self._obs_kind == "pixels":
            return self._pixels().copy()
        state = self._state(observed)
        if self._obs_kind == "state":
            return state
        return {"pixels": self._pixels().copy(), "state": state}

    def _pixels(self) -> NDArray[np.uint8]:
        if self._frame is None:
            self._frame = self._upright(self._draw(self._own_renderer()))
        return self._frame

    def _own_renderer(self) -> OffscreenRenderer:
        if self._renderer is None:
            self._renderer = OffscreenRenderer(
                self._model, *self.size, self._quality, self._camera_id
            )
        return self._renderer

    def _draw(self, renderer: OffscreenRenderer) -> NDArray[np.uint8]:
        return renderer.render(self._data, self._camera_id)

    def _upright(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture that arrives bottom row first, as it should be seen."""
        return np.ascontiguousarray(picture[::-1])


def import_simulator(module: str, packages: Sequence[str], extra: str) -> Any:
    """Imports a module of a simulator, after what has to come before it.

    Args:
        module: The module's name.
        packages: The packages that are reported if they are missing.
        extra: The extra of this package that installs them.
    """
    choose_backend()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in packages:
            raise
        return require(
            package, extra, f"this environment needs the package {package!r}"
        )
