"""Off-screen MuJoCo rendering that leaves everything else in the process alone.

`mujoco.Renderer` would nearly do. What is different here: the backend is chosen for
machines without a display, triton is imported before the first GL context, freeing one
renderer frees nothing of another's, and what makes software rendering slow can be left
out, under the names that these things have (`Quality`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import ctypes.util
import importlib
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.envs._llvm import before_drawing
from genreward_wrappers.envs._meshes import simplified, tolerance

_open_renderers: weakref.WeakSet[OffscreenRenderer] = weakref.WeakSet()
_drawing_process: int | None = None
_drawing_backend: str | None = None

RenderQuality = Literal["fast", "full"] | Mapping[str, bool | int | None]


@dataclass(frozen=True)
class Quality:
    """What is drawn beyond shapes, colours and textures; by default nothing.

    Attributes:
        shadows: Whether lights cast shadows (each draws the scene once more).
        reflections: Whether floors reflect (this draws the scene once more).
        samples: How often a pixel is sampled, to smooth edges; 0 is once, without
            multisampling, and None as often as the model asks for (most ask for 4).
        whole_meshes: Whether meshes keep their triangles that are too small to be seen
            at the picture's size.
    """

    shadows: bool = False
    reflections: bool = False
    samples: int | None = 0
    whole_meshes: bool = False


QUALITIES: dict[str, Quality] = {
    "fast": Quality(),
    "full": Quality(shadows=True, reflections=True, samples=None, whole_meshes=True),
}
"""What the names stand for: nothing of it, and everything as upstream draws it."""


def resolve_quality(render_quality: RenderQuality) -> Quality:
    """Turns an environment's ``render_quality`` into a `Quality`.

    Args:
        render_quality: "fast", "full", or what is to be drawn by name, as in
            ``{"shadows": True, "samples": 2}``; what is not named is as in "fast".
    """
    if isinstance(render_quality, str) and render_quality in QUALITIES:
        return QUALITIES[render_quality]
    names = [field.name for field in fields(Quality)]
    if isinstance(render_quality, Mapping) and set(render_quality) <= set(names):
        chosen = Quality(**render_quality)  # type: ignore[arg-type]
        samples = chosen.samples
        whole = isinstance(samples, int) and not isinstance(samples, bool)
        if (
            isinstance(chosen.shadows, bool)
            and isinstance(chosen.reflections, bool)
            and isinstance(chosen.whole_meshes, bool)
            and (samples is None or (whole and samples >= 0))
        ):
            return chosen
    raise ValueError(
        "render_quality must be 'fast', 'full', or some of 'shadows' (True or False), "
        "'reflections' (True or False), 'samples' (a whole number from 0, or None for "
        "the model's own) and 'whole_meshes' (True or False), as in "
        "{'shadows': True, 'samples': 4}, got "
        f"{render_quality!r}"
    )


class DrawingError(RuntimeError, OSError):
    """A machine that cannot draw; commands say so in one line, as of a missing file."""


def choose_backend() -> None:
    """Sets ``MUJOCO_GL`` on a Linux machine without a display, unless the user has.

    To be called right before the first import of mujoco, which reads the variable then
    and would otherwise settle for GLFW, which needs a display.
    """
    before_drawing()
    if os.environ.get("MUJOCO_GL") or not _headless():
        return
    taken = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    if taken in ("egl", "osmesa"):
        # Another package was first, such as dm_control, which tries them by turns when
        # it is imported. There is no way back, and to try EGL again would close the
        # display that it has opened.
        os.environ["MUJOCO_GL"] = taken
    elif _egl_works():
        os.environ["MUJOCO_GL"] = "egl"
    elif ctypes.util.find_library("OSMesa") is not None:
        os.environ["MUJOCO_GL"] = "osmesa"
    # Else it stays as it is: without OSMesa's library that value would break the import
    # of mujoco itself, which environments without pixels can do without.


def _headless() -> bool:
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform == "linux" and not any(map(os.environ.get, displays))


def _egl_works() -> bool:
    """Whether EGL can open a device without a display.

    Asked of the library itself: PyOpenGL settles on one platform for good at its first
    import, so trying out `mujoco.egl` would leave no way back to OSMesa.
    """
    path = ctypes.util.find_library("EGL")
    if path is None:
        return False
    try:
        egl = ctypes.CDLL(path)
    except OSError:  # damaged, or of another architecture
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    open_display = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query or not open_display:
        return False
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    query_devices = ctypes.CFUNCTYPE(
        ctypes.c_uint, integer, ctypes.POINTER(pointer), ctypes.POINTER(integer)
    )(query)
    platform_display = ctypes.CFUNCTYPE(
        pointer, ctypes.c_uint, pointer, ctypes.POINTER(integer)
    )(open_display)
    devices, count = (pointer * 16)(), integer()
    if not query_devices(16, devices, ctypes.byref(count)):
        return False
    for device in devices[: count.value]:
        display = platform_display(0x313F, device, None)  # EGL_PLATFORM_DEVICE_EXT
        if display and egl.eglInitialize(pointer(display), None, None):
            egl.eglTerminate(pointer(display))
            return True
    return False


def _make_context(width: int, height: int) -> Any:
    global _drawing_backend
    backend = os.environ.get("MUJOCO_GL", "").lower().strip()
    if _drawing_backend not in (None, backend):
        raise RuntimeError(
            f"this process has drawn with MUJOCO_GL={_drawing_backend!r}, and now it "
            f"is {backend!r}: a process draws with one backend. Set it before the "
            "first picture and leave it, or draw in another process"
        )
    turned_off = backend in ("disable", "disabled", "off", "false", "0")
    if turned_off or (not backend and _headless()):
        raise DrawingError(
            "MuJoCo cannot draw here: there is no display, and neither EGL (apt-get "
            "install libegl1 libgl1-mesa-dri) nor OSMesa (apt-get install libosmesa6) "
            f"works, or MUJOCO_GL={backend!r} turned them off"
        )
    # mujoco.gl_context is stuck with the choice of whoever imported mujoco first,
    # perhaps before the variable was set.
    module = backend if backend in ("egl", "osmesa") else "gl_context"
    try:
        context = importlib.import_module(f"mujoco.{module}").GLContext(width, height)
    except (ImportError, AttributeError) as error:
        # PyOpenGL raises AttributeErrors where a library is not there.
        taken = os.environ.get("PYOPENGL_PLATFORM", "").lower()
        if taken not in ("", backend):
            reason = (
                f"another package has already chosen {taken!r} (PYOPENGL_PLATFORM), "
                "and a process draws with one backend: set MUJOCO_GL before the first "
                "import of a package that draws"
            )
        else:
            library = "libosmesa6" if backend == "osmesa" else "libegl1 libgl1-mesa-dri"
            reason = f"{error}; is it installed (apt-get install {library})?"
        raise DrawingError(
            f"MuJoCo cannot draw with MUJOCO_GL={backend!r}: {reason}"
        ) from error
    _drawing_backend = backend
    return context


def _check_process() -> None:
    """Raises in a forked child of a process that has drawn: GL would hang there."""
    global _drawing_process
    if _drawing_process not in (None, os.getpid()):
        raise RuntimeError(
            "this process was forked from one that had already drawn a picture, and "
            "GL does not survive a fork: start workers with the method 'spawn' or "
            "'forkserver', as in AsyncVectorEnv(..., context='spawn')"
        )
    _drawing_process = os.getpid()


@contextlib.contextmanager
def _others_left_current() -> Iterator[None]:
    """Makes another package's context current again, if it was, after drawing.

    dm_control remembers which of its contexts is current instead of asking, and would
    go on drawing into ours. Its OSMesa contexts are current in a thread of their own.
    """
    EGL = sys.modules.get("OpenGL.EGL")
    if EGL is None:  # then nobody has drawn through it
        yield
        return
    context = EGL.eglGetCurrentContext()
    ours = (renderer.address for renderer in _open_renderers)
    if not context or context.address in ours:
        yield
        return
    display = EGL.eglGetCurrentDisplay()
    surfaces = [EGL.eglGetCurrentSurface(e) for e in (EGL.EGL_DRAW, EGL.EGL_READ)]
    try:
        yield
    finally:
        EGL.eglMakeCurrent(display, *surfaces, context)


class OffscreenRenderer:
    """Renders one MuJoCo model at one size, in a GL context of its own.

    Contexts are not shared: two models drawn by turns in one context show each other's
    textures and shapes.
    """

    def __init__(
        self,
        model: Any,
        height: int,
        width: int,
        quality: Quality,
        camera: int = -1,
    ) -> None:
        """Makes the context and uploads the model.

        Args:
            model: A `mujoco.MjModel`, left as it is.
            height: Of the picture.
            width: Of the picture.
            quality: What to draw beyond the shapes; software renderers spend most of
                their time there.
            camera: The one that will draw, by number. How fine meshes have to be
                depends on where it stands; for -1, the free camera, they stay whole.
        """
        self._gl: Any = None
        self._context: Any = None
        _check_process()
        before_drawing()
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._shape = (height, width, 3)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._camera = mujoco.MjvCamera()
        self._option = mujoco.MjvOption()
        # Their rays are drawn by default, but not by any environment.
        self._option.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = False
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        if not quality.shadows:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        if not quality.reflections:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        with _others_left_current():
            self._gl = _make_context(width, height)
            _open_renderers.add(self)
            self._gl.make_current()
            self._context = self._upload(quality, camera)
            mujoco.mjr_setBuffer(
                mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context
            )
        close_at_exit()

    def _upload(self, quality: Quality, camera: int) -> Any:
        """The model's context, made with our sizes and meshes in place of the model's.

        They are read here and never again, and the model may have other renderers.
        """
        model = self._model
        moved = tolerance(model, camera, self._shape[0])
        if moved is not None and not quality.whole_meshes:
            model = simplified(model, moved)
        size, detail = model.vis.global_, model.vis.quality
        kept = size.offheight, size.offwidth, detail.offsamples, detail.shadowsize
        size.offheight, size.offwidth, _ = self._shape
        if quality.samples is not None:
            detail.offsamples = quality.samples
        if not quality.shadows:
            detail.shadowsize = 0
        try:
            return self._mujoco.MjrContext(
                model, self._mujoco.mjtFontScale.mjFONTSCALE_100.value
            )
        finally:
            size.offheight, size.offwidth, detail.offsamples, detail.shadowsize = kept

    @property
    def address(self) -> int | None:
        """Of the context, where it has one."""
        return getattr(getattr(self._gl, "_context", None), "address", None)

    def render(self, data: Any, camera: int) -> NDArray[np.uint8]:
        """Draws the state in ``data``; row 0 is the *bottom* of the picture.

        Args:
            data: A `mujoco.MjData` of the model.
            camera: A camera of the model by number; -1 is the free one.
        """
        mujoco = self._mujoco
        if camera == -1:
            mujoco.mjv_defaultFreeCamera(self._model, self._camera)
        else:
            self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._camera.fixedcamid = camera
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            None,
            self._camera,
            everything,
            self._scene,
        )
        pixels = np.empty(self._shape, np.uint8)
        with self._current():
            mujoco.mjr_render(self._rect, self._scene, self._context)
            mujoco.mjr_readPixels(pixels, None, self._rect, self._context)
        return pixels

    def upload_texture(self, texture: int) -> None:
        """Takes over what has changed in a texture of the model."""
        with self._current():
            self._mujoco.mjr_uploadTexture(self._model, self._context, texture)

    def upload_heights(self) -> None:
        """Takes over what has changed in the height fields of the model."""
        with self._current():
            for field in range(self._model.nhfield):
                self._mujoco.mjr_uploadHField(self._model, self._context, field)

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        _check_process()
        with _others_left_current():
            self._gl.make_current()
            yield

    def close(self) -> None:
        """Frees the context; further calls do nothing."""
        if self._gl is None or _drawing_process != os.getpid():
            return
        with _others_left_current():
            # GL names are numbers that start over in every context: freed while another
            # one is current, this renderer's would take that one's objects away.
            self._gl.make_current()
            if self._context is not None:
                self._context.free()
            self._gl.free()
        self._gl = None
        _open_renderers.discard(self)

    def __del__(self) -> None:
        """Environments are often dropped without being closed."""
        self.close()


def close_at_exit() -> None:
    """Has everything closed at exit before what has been imported until now is.

    To be called after whatever registers a hook that takes EGL's display away: a
    context of mujoco's, or the import of dm_control.
    """
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def _close_all() -> None:
    for renderer in list(_open_renderers):
        renderer.close()
