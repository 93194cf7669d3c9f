"""Drawing on the GPU through EGL, beside the same in software.

A process draws with one backend, so that each measurement is a process:

    python -m benchmarks.gpu.drawing metaworld/pick-place 64 fast

prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, Row, Rows

VENDORS = Path("/usr/share/glvnd/egl_vendor.d")
ENVIRONMENTS = ("metaworld/pick-place", "walker")


def rows(bench: Bench) -> Rows:
    """Every environment, size and quality, on the GPU and in software."""
    qualities = ("fast",) if bench.tiny else ("fast", "full")
    backends = ("software",) if bench.tiny else ("as found", "software")
    for env_id in ENVIRONMENTS[1:] if bench.tiny else ENVIRONMENTS:
        for side in (16,) if bench.tiny else (64, 256):
            for quality in qualities:
                for backend in backends:
                    title = f"{env_id}, {side}x{side}, {quality}, {backend}"
                    seconds = 0.1 if bench.tiny else 2.0
                    what = (env_id, str(side), quality, str(seconds))
                    yield title, partial(_elsewhere, what, backend)


def _elsewhere(what: tuple[str, ...], backend: str) -> Row:
    own = dict(os.environ)
    own["MUJOCO_GL"] = own.get("MUJOCO_GL", "egl")
    if backend == "software":
        mesa = sorted(VENDORS.glob("*mesa*.json"))
        if mesa:
            own |= {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": str(mesa[0])}
            own["LIBGL_ALWAYS_SOFTWARE"] = "1"
        else:
            own["MUJOCO_GL"] = "osmesa"
    command = [sys.executable, "-m", "benchmarks.gpu.drawing", *what]
    done = subprocess.run(
        command, env=own, capture_output=True, text=True, timeout=90, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-400:])
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def walker(side: int, quality: str) -> Callable[[], Any]:
    """Gymnasium's own walker, drawn as this package draws.

    dm_control's would be another 54 MiB to carry.
    """
    import gymnasium as gym

    from genreward_wrappers.envs._gl import (
        OffscreenRenderer,
        choose_backend,
        resolve_quality,
    )

    choose_backend()
    env: Any = gym.make("Walker2d-v5").unwrapped
    env.reset(seed=0)
    look = resolve_quality(quality)
    renderer = OffscreenRenderer(env.model, side, side, look)
    return lambda: renderer.render(env.data, -1)


def draw(env_id: str, side: int, quality: str, seconds: float) -> Row:
    """Frames a second in this process, and what drew them."""
    from benchmarks.rendering import ours
    from genreward_wrappers.doctor.drawing import _gl_strings

    if env_id == "walker":
        render = walker(side, quality)
    else:
        render = ours(env_id, side, render_quality=quality)
    render()
    count, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        render()
        count += 1
    renderer, _, _ = _gl_strings()
    return {"frames_a_second": count / spent, "renderer": renderer}


if __name__ == "__main__":
    env_id, side, quality, seconds = sys.argv[1:]
    print(json.dumps(draw(env_id, int(side), quality, float(seconds))))
