"""Checks of drawing: the GL driver, the picture and the speed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from genreward_wrappers.core import UInt8
from genreward_wrappers.doctor.finding import (
    EGL,
    Finding,
    Visit,
    install_line,
    make_env,
    save_picture,
)

#: Seconds for which a speed is measured.
MEASURED = 1.5

#: Below this many pictures per second, drawing dominates the time of training.
SLOW = 30.0

_SOFTWARE = r"llvmpipe|softpipe|swrast|swr\b|software|osmesa|swiftshader|gdi generic"

_FEWER = (
    'keep render_quality="fast", and render fewer frames: length= with '
    'reading="stream", or TapFrames'
)


def check_gl(visit: Visit) -> Iterator[Finding]:
    """Which GL driver draws, and whether it is a software renderer."""
    if importlib.util.find_spec("mujoco") is None:
        do = install_line("metaworld")
        yield Finding("GL", "info", "not checked: no mujoco", do)
        return
    renderer, vendor, version = _gl_strings()
    backend = os.environ.get("MUJOCO_GL", "")
    if not backend:
        chosen = "MUJOCO_GL is not set: through the display"
    else:
        who = "as set before" if visit.backend else "chosen by this package"
        chosen = f"MUJOCO_GL={backend}, {who}"
    says = f"{renderer}; {vendor}, {version}; {chosen}"
    if backend.lower() == "osmesa" or re.search(_SOFTWARE, renderer, re.I):
        do = f"{_FEWER}. With a GPU: {EGL}"
        yield Finding("GL", "warn", f"software: {says}", do)
    else:
        yield Finding("GL", "ok", says)


def _gl_strings() -> tuple[str, str, str]:
    """GL_RENDERER, GL_VENDOR and GL_VERSION of a context like those of environments."""
    from genreward_wrappers.envs._gl import OffscreenRenderer, Quality, choose_backend

    choose_backend()
    import mujoco

    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    renderer = OffscreenRenderer(model, 64, 64, Quality())
    try:
        gl = importlib.import_module("OpenGL.GL")
        names = (gl.GL_RENDERER, gl.GL_VENDOR, gl.GL_VERSION)
        found = [(gl.glGetString(name) or b"unknown").decode() for name in names]
    finally:
        renderer.close()
    return found[0], found[1], found[2]


def check_picture(visit: Visit) -> Iterator[Finding]:
    """Whether the picture shows anything."""
    with contextlib.closing(make_env(visit.env_id)) as env:
        env.reset(seed=0)
        frame: UInt8 = env.render()
    says = f"{visit.env_id} draws {frame.shape} {frame.dtype}"
    says += save_picture(visit, "picture.png", frame)
    if (frame == frame[:1, :1]).all():
        says += ", all of one colour"
        do = f"look at the picture (--output), and at the camera; {EGL}"
        yield Finding("picture", "fail", says, do)
    else:
        yield Finding("picture", "ok", says)


def check_turns(visit: Visit) -> Iterator[Finding]:
    """Compares two tasks drawn alternately with one drawn alone."""
    name = "two tasks by turns"
    if not visit.metaworld:
        yield Finding(name, "info", "not checked: only for Meta-World")
        return
    tasks = ("metaworld/drawer-open", "metaworld/pick-place")
    other_id = next(task for task in tasks if task != visit.env_id)
    with contextlib.closing(make_env(visit.env_id)) as env:
        alone = [_step(env, k) for k in range(3)]
    with (
        contextlib.closing(make_env(visit.env_id)) as env,
        contextlib.closing(make_env(other_id)) as other,
    ):
        pairs = [(_step(env, k), _step(other, k)) for k in range(3)]
    worst = max(
        int(np.abs(one.astype(int) - two).max())
        for one, (two, _) in zip(alone, pairs, strict=True)
    )
    says = f"{visit.env_id} beside {other_id}"
    # GPUs may round differently, but the textures of another task differ by more.
    if worst > 8:
        says += f": its picture is not what it is alone, by {worst} of 255"
        do = "one task a process (AsyncVectorEnv), and report it with this output"
        yield Finding(name, "fail", says, do)
    else:
        yield Finding(name, "ok", f"{says}: as drawn alone")


def _step(env: Any, number: int) -> UInt8:
    if number == 0:
        env.reset(seed=0)
    else:
        env.step(np.array([0, 0, 1, 0], np.float32))
    frame: UInt8 = env.render()
    return frame


def check_speed(visit: Visit) -> Iterator[Finding]:
    """Frames and steps per second of an environment."""
    if visit.metaworld:
        steps, fast = _rates(visit.env_id, obs="state", render_quality="fast")
        _, full = _rates(visit.env_id, obs="state", render_quality="full")
        drawing = f"{fast:.0f} frames/s fast, {full:.0f} frames/s full, at 64x64"
    else:
        steps, fast = _rates(visit.env_id)
        drawing = f"{fast:.0f} frames/s"
    says = f"{drawing}; {steps:.0f} steps/s without drawing"
    if fast < SLOW:
        says += f": a million frames take {1e6 / fast / 3600:.0f} hours"
        yield Finding("speed", "warn", says, f"{_FEWER}. With a GPU: {EGL}")
    else:
        yield Finding("speed", "ok", says)


def _rates(env_id: str, **options: Any) -> tuple[float, float]:
    """Steps per second and pictures per second, measured separately."""
    count, stepping, drawing = 0, 0.0, 0.0
    with contextlib.closing(make_env(env_id, **options)) as env:
        env.action_space.seed(0)
        env.reset(seed=0)
        # The first picture uploads textures, which happens only once.
        env.render()
        while count == 0 or stepping + drawing < MEASURED:
            action = env.action_space.sample()
            begin = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(action)
            middle = time.perf_counter()
            env.render()
            end = time.perf_counter()
            count += 1
            stepping += middle - begin
            drawing += end - middle
            if terminated or truncated:
                env.reset()
    return count / max(stepping, 1e-9), count / max(drawing, 1e-9)
