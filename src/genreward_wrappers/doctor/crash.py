"""Checks that may crash, run in a subprocess."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator

from genreward_wrappers.doctor.finding import (
    EGL,
    SIMULATORS,
    Finding,
    Visit,
    install_line,
    last_line,
)

#: Time limit of a subprocess in seconds.
LIMIT = 60.0

HARMLESS = "harmless if only the exit code is wrong: call env.close() before the end"

# A crash is expected in these scripts, and should leave no core file.
_QUIETLY = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except ImportError:
    pass
"""

_TRAIN = """
    import torch
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    torch.optim.Adam([weight]).step()
    print("trained", flush=True)
except Exception as error:
    print(f"{type(error).__name__}:", *str(error).split(), file=sys.stderr)
    sys.exit(3)
"""

_OWN = f"""{_QUIETLY}
try:
    import genreward_wrappers
    env = genreward_wrappers.make(sys.argv[1], render_mode="rgb_array")
    print("made", flush=True)
    env.reset(seed=0)
    frame = env.render()
    if getattr(frame, "ndim", 0) != 3 or str(frame.dtype) != "uint8":
        raise TypeError(f"render() gives no uint8 picture, but {{type(frame)}}")
    print("drawn", flush=True)
    if "train" not in sys.argv:
        sys.exit()
    try:
        import triton
    except ImportError:
        pass
{_TRAIN}"""

_RAW = f"""{_QUIETLY}
try:
    import mujoco
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><geom size='1'/></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, 64, 64)
    renderer.update_scene(data)
    renderer.render()
    print("drawn", flush=True)
{_TRAIN}"""


def _run(script: str, *arguments: str) -> tuple[int | None, list[str], str]:
    """The return code (None after a time-out), output and error of a script."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        # Bytes even where text was asked for.
        output = error.stdout or b""
        text = output.decode() if isinstance(output, bytes) else output
        return None, text.split(), f"no end after {LIMIT:.0f} s"
    if done.returncode < 0:
        try:
            name = signal.Signals(-done.returncode).name
        except ValueError:
            name = f"signal {-done.returncode}"
        return done.returncode, done.stdout.split(), f"the process crashed ({name})"
    return done.returncode, done.stdout.split(), last_line(done.stderr)


def check_drawing(visit: Visit) -> Iterator[Finding]:
    """Draws in a subprocess, where a crash does no harm."""
    if not (yield from _no_simulator(visit, "drawing")):
        code, stages, error = _run(_OWN, visit.env_id)
        if "drawn" not in stages:
            yield _not_drawn(visit, "drawing", stages, error)
        elif code == 0:
            yield Finding("drawing", "ok", f"{visit.env_id} is drawn")
        else:
            says = f"{visit.env_id} was drawn, then: {error}"
            yield Finding("drawing", "warn", says, HARMLESS)


def check_draw_then_train(visit: Visit) -> Iterator[Finding]:
    """Draws and then trains in a subprocess, where a crash does no harm."""
    name = "draw, then train"
    if (yield from _no_simulator(visit, name)):
        return
    code, stages, error = _run(_OWN, visit.env_id, "train")
    triton = importlib.util.find_spec("triton") is not None
    if code == 0:
        says = f"{visit.env_id} is drawn, and an optimizer steps after that"
        yield Finding(name, "ok", says + ("" if triton else " (no triton here)"))
    elif "trained" in stages:
        says = f"{visit.env_id} was drawn, an optimizer stepped, then: {error}"
        yield Finding(name, "warn", says, HARMLESS)
    elif "drawn" in stages:
        says = f"{visit.env_id} was drawn, then a torch optimizer: {error}"
        if code is not None and code < 0:
            # A software GL and triton carry an LLVM each: see `envs._llvm`.
            do = 'write "import triton" above every other import of your script'
        else:
            do = "see whether torch.optim.Adam works without any environment"
        yield Finding(name, "fail", says, do)
    else:
        yield _not_drawn(visit, name, stages, error)
    yield from _raw_mujoco(triton)


def _no_simulator(visit: Visit, name: str) -> Generator[Finding, None, bool]:
    """Whether the environment's simulator is missing; if so, yields a finding."""
    extra, package = SIMULATORS.get(visit.env_id.partition("/")[0], ("", ""))
    if package and importlib.util.find_spec(package) is None:
        visit.obstacle, visit.remedy = f"no {package}", install_line(extra)
        yield Finding(name, "info", f"not checked: {visit.obstacle}", visit.remedy)
        return True
    return False


def _not_drawn(visit: Visit, name: str, stages: list[str], error: str) -> Finding:
    made = "made" in stages
    says = f"{visit.env_id} could not be {'drawn' if made else 'made'}: {error}"
    what = 'support render_mode="rgb_array"' if made else "be known to gymnasium"
    do = f"the environment must {what} (ids may be module:id). If it is GL: {EGL}"
    visit.obstacle, visit.remedy = f"{visit.env_id} cannot be drawn", "see above"
    return Finding(name, "fail", says, do)


def _raw_mujoco(triton: bool) -> Iterator[Finding]:
    """The same with plain mujoco, as in a user's own script."""
    name = "mujoco, then train"
    for package, there in (
        ("triton", triton),
        ("mujoco", importlib.util.find_spec("mujoco") is not None),
    ):
        if not there:
            yield Finding(name, "info", f"not checked, and no danger: no {package}")
            return
    from genreward_wrappers.envs._gl import choose_backend

    # A user's script would have to set MUJOCO_GL; the subprocess inherits it.
    choose_backend()
    code, stages, error = _run(_RAW)
    if code == 0:
        says = "a mujoco.Renderer of your own, then a torch optimizer: works"
        yield Finding(name, "ok", says)
    elif code is None or code < 0:
        says = f"a mujoco.Renderer of your own, then a torch optimizer: {error}"
        says += " after drawing" if "drawn" in stages else " before anything was drawn"
        do = (
            'only if a script draws with mujoco itself: write "import triton" above '
            "its other imports; the environments of this package do"
        )
        yield Finding(name, "warn", says, do)
    else:
        yield Finding(name, "info", f"mujoco.Renderer does not draw here: {error}")
