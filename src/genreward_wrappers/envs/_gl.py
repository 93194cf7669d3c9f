"""Off-screen MuJoCo rendering that leaves everything else in the process alone.

`mujoco.Renderer` would nearly do. What is different here: the backend is chosen for
machines without a display, triton is imported before the first GL context, freeing one
renderer frees nothing of another's, and a cheap mode makes software rendering usable.
"""

from __future__ import annotations

import atexit
import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

_open_renderers: weakref.WeakSet[OffscreenRenderer] = weakref.WeakSet()
_drawing_process: int | None = None


def choose_backend() -> None:
    """Sets ``MUJOCO_GL`` on a Linux machine without a display, unless the user has.

    To be called right before the first import of mujoco, which reads the variable then
    and would otherwise settle for GLFW, which needs a display.
    """
    import_triton_first()
    if os.environ.get("MUJOCO_GL") or not _headless():
        return
    if _egl_works():
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
    egl = ctypes.CDLL(path)
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


def import_triton_first() -> None:
    """Imports triton if it is there, as a GL driver is about to be loaded.

    Mesa's software driver and triton each carry an LLVM. When Mesa's is loaded first,
    be it only by opening a display, the later import of triton, which any torch
    optimizer triggers, ends the process in a segmentation fault; the other way round
    both work. triton alone takes a tenth of a second to import and does not import
    torch.
    """
    if "triton" not in sys.modules and importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")


def _context_class() -> Any:
    backend = os.environ.get("MUJOCO_GL", "").lower().strip()
    if backend in ("egl", "osmesa"):
        # Not mujoco.gl_context: it is stuck with the choice of whoever imported mujoco
        # first, perhaps before the variable was set.
        return importlib.import_module(f"mujoco.{backend}").GLContext
    context = getattr(importlib.import_module("mujoco.gl_context"), "GLContext", None)
    if context is None or (not backend and _headless()):
        raise RuntimeError(
            "MuJoCo cannot draw here: there is no display, and neither EGL (libegl1) "
            f"nor OSMesa (libosmesa6) works, or MUJOCO_GL={backend!r} turned them off"
        )
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


class OffscreenRenderer:
    """Renders one MuJoCo model at one size, in a GL context of its own.

    Contexts are not shared: two models drawn by turns in one context show each other's
    textures and shapes.
    """

    def __init__(self, model: Any, height: int, width: int, fast: bool) -> None:
        """Makes the context and uploads the model.

        Args:
            model: A `mujoco.MjModel`; its ``vis`` section is adjusted.
            height: Of the picture.
            width: Of the picture.
            fast: Without shadows, reflections and multisampling, which is where a
                software renderer spends its time.
        """
        self._gl: Any = None
        self._context: Any = None
        _check_process()
        import_triton_first()
        import mujoco

        self._mujoco = mujoco
        self._model = model
        model.vis.global_.offheight = height
        model.vis.global_.offwidth = width
        if fast:
            model.vis.quality.offsamples = 0
            model.vis.quality.shadowsize = 0
        self._shape = (height, width, 3)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._option = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        if fast:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._gl = _context_class()(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(
            model, mujoco.mjtFontScale.mjFONTSCALE_100.value
        )
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        # Registered after the context, so that at exit it runs before EGL's own hook
        # has taken the display away.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
        _open_renderers.add(self)

    def render(self, data: Any, camera: int) -> NDArray[np.uint8]:
        """Draws the state in ``data``; row 0 is the *bottom* of the picture."""
        _check_process()
        self._gl.make_current()
        self._camera.fixedcamid = camera
        self._mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            None,
            self._camera,
            self._mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        self._mujoco.mjr_render(self._rect, self._scene, self._context)
        pixels = np.empty(self._shape, np.uint8)
        self._mujoco.mjr_readPixels(pixels, None, self._rect, self._context)
        return pixels

    def close(self) -> None:
        """Frees the context; further calls do nothing."""
        if self._gl is None or _drawing_process != os.getpid():
            return
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


def _close_all() -> None:
    for renderer in list(_open_renderers):
        renderer.close()
