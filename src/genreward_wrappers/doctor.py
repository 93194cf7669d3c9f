"""``genreward doctor``: does this machine render rightly and fast, and if not?

Each check yields findings: what was seen, and what to do about it. Checks are guarded,
so that one that fails is a finding like any other, and what may end a process in a
crash is tried in another one. Nothing here asks the network.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import platform
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import UInt8

PACKAGE = "genreward-wrappers"
Status: TypeAlias = Literal["ok", "info", "warn", "fail"]

#: How long a subprocess may take, and how long a speed is measured, in seconds.
LIMIT, MEASURED = 60.0, 1.5
#: Below so many pictures a second, drawing is what a training waits for.
SLOW = 30.0
#: The side of the picture in which the hand is looked for.
SIDE = 128

_SOFTWARE = r"llvmpipe|softpipe|swrast|swr\b|software|osmesa|swiftshader|gdi generic"
_HAND = ("hand", "rightclaw", "rightpad", "leftclaw", "leftpad")
_REINSTALL = f"pip install --force-reinstall --no-deps {PACKAGE}"
_FEWER = (
    'keep render_quality="fast", and render fewer frames: length= with '
    'reading="stream", or TapFrames'
)
_EGL = (
    "on Linux: apt-get install libegl1 libgl1-mesa-dri (or libosmesa6), with MUJOCO_GL "
    "unset; on a GPU machine the driver's EGL library must be visible, in containers "
    "NVIDIA_DRIVER_CAPABILITIES=all"
)


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    Attributes:
        name: What was looked at.
        status: "ok", "info" (nothing to do unless one wants to), "warn" or "fail".
        says: What was seen.
        do: What to do about it; never empty for "warn" and "fail".
    """

    name: str
    status: Status
    says: str
    do: str = ""

    def __post_init__(self) -> None:
        """Refuse a complaint without a remedy."""
        if self.status in ("warn", "fail") and not self.do:
            raise ValueError(f"the finding {self.name!r} says not what to do")


@dataclass
class Visit:
    """What the checks share.

    Attributes:
        env_id: The environment that is drawn.
        output: The folder for pictures; None saves none.
        backend: MUJOCO_GL as it was before anything here chose one.
        obstacle: Why nothing can be drawn here; empty as long as it can.
        remedy: What to do about that.
    """

    env_id: str
    output: Path | None = None
    backend: str = ""
    obstacle: str = ""
    remedy: str = ""

    @property
    def metaworld(self) -> bool:
        """Whether the environment is one of Meta-World's of this package."""
        return self.env_id.startswith("metaworld/")


Check: TypeAlias = Callable[[Visit], Iterator[Finding]]


def run_doctor(env_id: str, output: Path | None, console: Any = None) -> int:
    """Prints every finding as soon as it is there; returns the exit status.

    Args:
        env_id: The environment to draw: any id that `gymnasium.make` knows. Where the
            hand is in the picture is checked for Meta-World alone.
        output: A folder for the check pictures, made if need be; None saves none.
        console: A `rich.console.Console`; by default one on the standard output, or
            plain lines where rich is not installed.

    Returns:
        1 if anything failed, else 0.
    """
    if console is None:
        with contextlib.suppress(ImportError):
            from rich.console import Console

            console = Console()
    counts = dict.fromkeys(("ok", "info", "warn", "fail"), 0)
    busy = contextlib.nullcontext() if console is None else console.status("examining")
    with busy as status:
        for finding in examine(env_id, output, getattr(status, "update", None)):
            counts[finding.status] += 1
            _print(finding, console)
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(summary) if console is None else console.print(summary)
    return int(counts["fail"] > 0)


def examine(
    env_id: str,
    output: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Finding]:
    """Runs every check; yields what they find.

    Args:
        env_id: The environment to draw.
        output: A folder for the check pictures; None saves none.
        progress: Called with the title of a check before it runs.
    """
    visit = Visit(env_id, output, os.environ.get("MUJOCO_GL", ""))
    for title, check in {**CHECKS, **DRAWING_CHECKS}.items():
        if progress is not None:
            progress(title)
        if visit.obstacle and title in DRAWING_CHECKS:
            says = f"not checked: {visit.obstacle}"
            yield Finding(title, "info", says, visit.remedy)
            continue
        try:
            # Where a library deprecates something is of no interest between findings.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield from check(visit)
        except Exception as error:
            yield Finding(
                title,
                "fail",
                f"the check broke off: {_brief(error)}",
                "if the error does not say it: report it, with all of this output",
            )


# The installation


def _packages(visit: Visit) -> Iterator[Finding]:
    """Versions against the ranges that the installed distribution itself declares."""
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        says = "not checked: comparing versions needs the package packaging"
        yield Finding("packages", "info", says, "pip install packaging")
        return
    try:
        about, lines = metadata.metadata(PACKAGE), metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        says = "the source is on the path, but not installed: ranges are unknown"
        yield Finding("packages", "warn", says, f"pip install {PACKAGE}")
        return
    here, needed = platform.python_version(), about["Requires-Python"] or ""
    if SpecifierSet(needed).contains(here, prereleases=True):
        yield Finding("python", "ok", f"{here}, {PACKAGE} {about['Version']}")
    else:
        do = f"use a Python {needed}"
        yield Finding("python", "warn", f"{here} is not in {needed}", do)

    groups: dict[str, list[Requirement]] = {"": []}
    # What everything together and what developing it needs would only repeat.
    extras = [
        extra
        for extra in about.get_all("Provides-Extra") or []
        if extra not in ("all", "dev", "docs")
    ]
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            groups[""].append(requirement)
            continue
        for extra in extras:
            if marker.evaluate({"extra": extra}):
                groups.setdefault(extra, []).append(requirement)
    for extra, requirements in groups.items():
        yield _versions(extra, requirements)


def _versions(extra: str, requirements: list[Any]) -> Finding:
    """One finding for a group of requirements: those of an extra, or the core ones."""
    says, missing, wrong = [], [], []
    for requirement in requirements:
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(wanted)
            says.append(f"{requirement.name} is missing")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            says.append(f"{requirement.name} {version}")
        else:
            wrong.append(wanted)
            says.append(f"{requirement.name} {version} is not {requirement.specifier}")
    status: Status = "ok"
    do = "pip install " + " ".join(f'"{wanted}"' for wanted in [*wrong, *missing])
    if missing and not extra:
        status = "fail"
    elif wrong:
        status = "warn"
    elif missing:
        status, do = "info", f"if it is wanted: {_install(extra)}"
    name = f"extra {extra}" if extra else "packages"
    return Finding(name, status, ", ".join(says), "" if status == "ok" else do)


def _compute(visit: Visit) -> Iterator[Finding]:
    """The device that "auto" takes, and whether threads get in each other's way."""
    import torch

    from genreward_wrappers.encoders.base import resolve_device, resolve_dtype

    device, dtype = resolve_device("auto"), resolve_dtype(None)
    says = f"torch {torch.__version__}, device {device}"
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        says += f": {card.name}, {card.total_memory / 2**30:.0f} GiB"
    says += f", {str(dtype).removeprefix('torch.')}"
    try:
        # A GPU may be found, and yet be one that this build has no code for.
        torch.ones(2, device=device).mul(2).sum().item()
    except RuntimeError as error:
        do = 'install the torch build for this GPU and driver, or use device="cpu"'
        yield Finding("compute", "fail", f"{says}: {_brief(error)}", do)
    else:
        build = torch.version.cuda or torch.version.hip
        if build and device.type == "cpu":
            says += f" (a build for GPUs, {build}, which finds none)"
            yield Finding("compute", "info", says)
        else:
            yield Finding("compute", "ok", says)

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    says = f"torch uses {threads} of {cores} cores"
    # Windows has no load average.
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if threads > 1 and load > cores:
        says += (
            f", and the machine is busy (load {load:.1f}): small models on several "
            "threads beside other programs get up to 50 times slower"
        )
        yield Finding("threads", "warn", says, "set OMP_NUM_THREADS=1")
    else:
        yield Finding("threads", "ok", says)


def _assets(visit: Visit) -> Iterator[Finding]:
    """Every file that comes with the package, and whether goals fit their encoder."""
    from genreward_wrappers.encoders.registry import embedded_encoders, load_encoder
    from genreward_wrappers.goals import GoalBundle
    from genreward_wrappers.rewards.video_level import bind_encoder

    folder = Path(str(resources.files("genreward_wrappers") / "assets"))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    goals: list[GoalBundle] = []
    unread = 0
    for path in paths:
        if path.parent.name == "goals":
            fault = _fault(lambda path=path: goals.append(GoalBundle.load(path)))
        else:
            fault = _fault(_read, path)
        if fault:
            unread += 1
            name = path.relative_to(folder).as_posix()
            yield Finding(f"asset {name}", "fail", fault, _REINSTALL)
    if not goals or not embedded_encoders():
        says = f"{len(goals)} goals and the encoders {embedded_encoders()} in {folder}"
        yield Finding("assets", "fail", says, _REINSTALL)
    elif not unread:
        yield Finding("assets", "ok", f"{len(paths)} files, {len(goals)} of them goals")

    for name in embedded_encoders():
        spec = f"embedded:{name}"
        own = [goal for goal in goals if goal.encoder.get("source") == spec]
        try:
            load_encoder(spec, device="cpu")
            for goal in own:
                bind_encoder(goal, None, device="cpu")
        except ImportError as error:
            says = f"not checked: {_brief(error)}"
            yield Finding(f"encoder {name}", "info", says, _install("video"))
        except Exception as error:
            yield Finding(f"encoder {name}", "fail", _brief(error), _REINSTALL)
        else:
            says = f"loads, and is the one that {len(own)} embedded goals were made for"
            yield Finding(f"encoder {name}", "ok", says)


def _read(path: Path) -> None:
    """Reads a file of the package to its end, as what its name says it is."""
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name)
    elif not path.read_bytes():
        raise ValueError("the file is empty")


def _hub(visit: Visit) -> Iterator[Finding]:
    """Whether ``hf://`` addresses can be asked for. The hub itself is not asked."""
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    says = f"HF_HUB_OFFLINE={offline}" if offline else "HF_HUB_OFFLINE is not set"
    if importlib.util.find_spec("huggingface_hub") is None:
        says += "; huggingface_hub is missing, so hf:// addresses do not work"
        yield Finding("Hugging Face", "info", says, _install("video"))
    elif offline.lower() in ("1", "on", "yes", "true"):
        says += ": hf:// addresses work only for what is in the cache already"
        yield Finding("Hugging Face", "info", says, "unset it to download")
    else:
        yield Finding("Hugging Face", "info", f"{says}; huggingface_hub is there")


def _folders(visit: Visit) -> Iterator[Finding]:
    """Whether what is made and what is downloaded can be kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME")
    output = visit.output
    folders: dict[str, tuple[Path, str]] = {
        "cache folder": (cache, "set XDG_CACHE_HOME to a folder that is writable"),
        "output folder": (output or Path(), "give --output, a folder that is writable"),
    }
    if hub:
        do = "set HF_HOME to a folder that is writable"
        folders["Hugging Face cache"] = (Path(hub), do)
    for name, (folder, do) in folders.items():
        fault = _fault(_try_writing, folder)
        if not fault:
            yield Finding(name, "ok", f"{folder.resolve()} can be written")
        elif name == "output folder" and output is not None:
            # The checks that draw should not fail of it once more.
            visit.output = None
            yield Finding(name, "fail", f"cannot be written: {fault}", do)
        else:
            yield Finding(name, "warn", f"cannot be written: {fault}", do)


def _try_writing(folder: Path) -> None:
    # Folders are not made just to see whether they could be.
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0")


# The drawing

# A crash is expected in these, and should leave no core file behind.
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
    """A script's return code (None if it took too long), its output, and its error."""
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
    return done.returncode, done.stdout.split(), _last(done.stderr)


def _draw_then_train(visit: Visit) -> Iterator[Finding]:
    """Draws and then trains, in that order, where a crash does no harm."""
    name = "draw, then train"
    if visit.metaworld and importlib.util.find_spec("metaworld") is None:
        visit.obstacle, visit.remedy = "no metaworld", _install("metaworld")
        yield Finding(name, "info", "not checked: no metaworld", visit.remedy)
        return
    code, stages, error = _run(_OWN, visit.env_id)
    triton = importlib.util.find_spec("triton") is not None
    if code == 0:
        says = f"{visit.env_id} is drawn, and an optimizer steps after that"
        yield Finding(name, "ok", says + ("" if triton else " (no triton here)"))
    elif "trained" in stages:
        says = f"{visit.env_id} was drawn, an optimizer stepped, then: {error}"
        do = "harmless if only the exit code is wrong: env.close() before the end"
        yield Finding(name, "warn", says, do)
    elif "drawn" in stages:
        says = f"{visit.env_id} was drawn, then a torch optimizer: {error}"
        if code is not None and code < 0:
            # A software GL and triton carry an LLVM each: see `import_triton_first`.
            do = 'write "import triton" above every other import of your script'
        else:
            do = "see whether torch.optim.Adam works without any environment"
        yield Finding(name, "fail", says, do)
    else:
        made = "made" in stages
        says = f"{visit.env_id} could not be {'drawn' if made else 'made'}: {error}"
        what = 'support render_mode="rgb_array"' if made else "be known to gymnasium"
        do = f"the environment must {what} (ids may be module:id). Is it GL: {_EGL}"
        visit.obstacle, visit.remedy = f"{visit.env_id} cannot be drawn", "see above"
        yield Finding(name, "fail", says, do)
    yield from _raw_mujoco(triton)


def _raw_mujoco(triton: bool) -> Iterator[Finding]:
    """The same with plain mujoco: what a user's own script would run into."""
    name = "mujoco, then train"
    for package, there in (
        ("triton", triton),
        ("mujoco", importlib.util.find_spec("mujoco") is not None),
    ):
        if not there:
            yield Finding(name, "info", f"not checked, and no danger: no {package}")
            return
    from genreward_wrappers.envs._gl import choose_backend

    # A script of the user's would have to set MUJOCO_GL; inherited, it is set.
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


def _gl(visit: Visit) -> Iterator[Finding]:
    """Which GL draws, and whether it is software."""
    if importlib.util.find_spec("mujoco") is None:
        do = _install("metaworld")
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
        do = f"{_FEWER}. With a GPU: {_EGL}"
        yield Finding("GL", "warn", f"software: {says}", do)
    else:
        yield Finding("GL", "ok", says)


def _gl_strings() -> tuple[str, str, str]:
    """GL_RENDERER, GL_VENDOR and GL_VERSION of a context like an environment's."""
    from genreward_wrappers.envs._gl import OffscreenRenderer, choose_backend

    choose_backend()
    import mujoco

    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    renderer = OffscreenRenderer(model, 64, 64, fast=True)
    try:
        gl = importlib.import_module("OpenGL.GL")
        names = (gl.GL_RENDERER, gl.GL_VENDOR, gl.GL_VERSION)
        found = [(gl.glGetString(name) or b"unknown").decode() for name in names]
    finally:
        renderer.close()
    return found[0], found[1], found[2]


def _picture(visit: Visit) -> Iterator[Finding]:
    """Whether there is anything in the picture."""
    with contextlib.closing(_make(visit.env_id)) as env:
        env.reset(seed=0)
        frame: UInt8 = env.render()
    says = f"{visit.env_id} draws {frame.shape} {frame.dtype}"
    says += _save(visit, "picture.png", frame)
    if (frame == frame[:1, :1]).all():
        says += ", all of one colour"
        do = f"look at the picture (--output), and at the camera; {_EGL}"
        yield Finding("picture", "fail", says, do)
    else:
        yield Finding("picture", "ok", says)


def _orientation(visit: Visit) -> Iterator[Finding]:
    """Whether what goes up in the world goes up in the picture.

    Neither the renderer's convention nor this package's is trusted: the hand is found
    in the picture by painting it, and its place is computed from the camera's.
    """
    name = "orientation"
    if not visit.metaworld:
        yield Finding(name, "info", "not checked: only Meta-World's hand is known")
        return
    with contextlib.closing(_make(visit.env_id, obs="state", size=SIDE)) as env:
        env.reset(seed=0)
        to_the_right = _right_of_camera(env.unwrapped)
        moves = {"start": np.zeros(3), "up": np.eye(3)[2], "right": to_the_right}
        drawn, computed, shots = {}, {}, []
        for move, direction in moves.items():
            env.reset(seed=0)
            speed = direction / max(np.abs(direction).max(), 1e-6)
            for _ in range(12):
                env.step(np.append(speed, 0).astype(np.float32))
            frame = _fresh(env.unwrapped)
            place = _seen_hand(env.unwrapped, frame)
            if place is None:
                says = f"the hand is not in the picture ({move})"
                do = f"look at the picture (--output), and at the camera; {_EGL}"
                yield Finding(name, "fail", says, do)
                return
            drawn[move], computed[move] = place, _computed_hand(env.unwrapped)
            shots.append(_marked(frame, computed[move]))
    saved = _save(visit, "orientation.png", np.concatenate(shots, axis=1), zoom=3)
    says = "; ".join(
        f"{move}: drawn at ({drawn[move][0]:.0f}, {drawn[move][1]:.0f}), computed "
        f"({computed[move][0]:.0f}, {computed[move][1]:.0f})"
        for move in moves
    )
    says = f"the hand's row and column of {SIDE}, {says}{saved}"
    verdict = _verdict(drawn, computed)
    if verdict is None:
        yield Finding(name, "info", f"the camera looks along the movement; {says}")
    elif verdict:
        do = (
            "goal videos would not match: update mujoco and the graphics driver, try "
            "another MUJOCO_GL (egl, osmesa, glfw), and report it with the picture"
        )
        yield Finding(name, "fail", f"{verdict}: {says}", do)
    else:
        yield Finding(name, "ok", f"upright, not mirrored: {says}")


def _verdict(
    drawn: dict[str, NDArray[Any]], computed: dict[str, NDArray[Any]]
) -> str | None:
    """What is wrong with the picture; None if these movements cannot tell."""
    seen = (drawn["up"] - drawn["start"])[0], (drawn["right"] - drawn["start"])[1]
    due = (
        (computed["up"] - computed["start"])[0],
        (computed["right"] - computed["start"])[1],
    )
    # Rows grow downwards, so that up is less; a camera that looks down sees neither.
    if due[0] > -3 or due[1] < 3:
        return None
    faults = []
    if seen[0] > 0:
        faults.append("upside-down")
    if seen[1] < 0:
        faults.append("mirrored")
    off = max(np.abs(drawn[move] - computed[move]).max() for move in drawn)
    # The pixels of the hand that one sees have their middle near that of the hand.
    if not faults and off > SIDE / 10:
        faults.append(f"the hand is {off:.0f} pixels from its place")
    return " and ".join(faults)


def _camera(env: Any) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Where the camera is, its (right, up, back) as they should be seen, its focus.

    A camera that hangs upside down in the model gives, in this package, a picture
    turned by half a circle: +z is to be up.
    """
    data, camera = env._sim.data, env._camera_id
    axes = np.array(data.cam_xmat[camera]).reshape(3, 3).T
    if axes[1, 2] < 0:
        axes[:2] *= -1
    focus = 0.5 / np.tan(np.radians(float(env._sim.model.cam_fovy[camera])) / 2)
    return np.array(data.cam_xpos[camera]), axes, float(focus)


def _right_of_camera(env: Any) -> NDArray[Any]:
    right: NDArray[Any] = _camera(env)[1][0]
    return right


def _computed_hand(env: Any) -> NDArray[Any]:
    """The (row, column) at which the camera sees the middle of the hand."""
    position, axes, focus = _camera(env)
    (height, width), data = env.size, env._sim.data
    right, up, back = axes @ (data.geom_xpos[_hand(env)] - position).T
    rows = (height - 1) / 2 - focus * height * up / -back
    columns = (width - 1) / 2 + focus * height * right / -back
    return np.array([rows.mean(), columns.mean()])


def _seen_hand(env: Any, frame: UInt8) -> NDArray[Any] | None:
    """The middle of the pixels that change if the hand is painted; None without any."""
    colours, hand = env._sim.model.geom_rgba, _hand(env)
    before = colours[hand].copy()
    colours[hand] = (1, 0, 1, 1)
    painted = _fresh(env)
    colours[hand] = before
    changed = np.abs(painted.astype(int) - frame).sum(-1) > 30
    if not changed.any():
        return None
    middle: NDArray[Any] = np.argwhere(changed).mean(0)
    return middle


def _hand(env: Any) -> list[int]:
    model = env._sim.model
    bodies = [int(model.body(name).id) for name in _HAND]
    return [geom for geom, body in enumerate(model.geom_bodyid) if body in bodies]


def _fresh(env: Any) -> UInt8:
    """A picture of now: environments draw once a step, and keep what they drew."""
    env._frame = None
    frame: UInt8 = env.render()
    return frame


def _marked(frame: UInt8, place: NDArray[Any]) -> UInt8:
    """The frame with a green cross around a (row, column), and a white margin."""
    marked = np.pad(frame, ((0, 0), (0, 2), (0, 0)), constant_values=255)
    row, column = (int(np.clip(round(at), 0, SIDE - 1)) for at in place)
    for near in (*range(-9, -3), *range(4, 10)):
        marked[int(np.clip(row + near, 0, SIDE - 1)), column] = (0, 255, 0)
        marked[row, int(np.clip(column + near, 0, SIDE - 1))] = (0, 255, 0)
    return marked


def _by_turns(visit: Visit) -> Iterator[Finding]:
    """Two tasks that are drawn by turns, against one that is drawn alone."""
    name = "two tasks by turns"
    if not visit.metaworld:
        yield Finding(name, "info", "not checked: only for Meta-World")
        return
    tasks = ("metaworld/drawer-open", "metaworld/pick-place")
    other_id = next(task for task in tasks if task != visit.env_id)
    with contextlib.closing(_make(visit.env_id)) as env:
        alone = [_step(env, k) for k in range(3)]
    with (
        contextlib.closing(_make(visit.env_id)) as env,
        contextlib.closing(_make(other_id)) as other,
    ):
        pairs = [(_step(env, k), _step(other, k)) for k in range(3)]
    worst = max(
        int(np.abs(one.astype(int) - two).max())
        for one, (two, _) in zip(alone, pairs, strict=True)
    )
    says = f"{visit.env_id} beside {other_id}"
    # A GPU may round anew; another task's textures are not a matter of rounding.
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


def _speed(visit: Visit) -> Iterator[Finding]:
    """Frames and steps a second, as an environment makes them."""
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
        yield Finding("speed", "warn", says, f"{_FEWER}. With a GPU: {_EGL}")
    else:
        yield Finding("speed", "ok", says)


def _rates(env_id: str, **options: Any) -> tuple[float, float]:
    """Steps a second and pictures a second, each without the other."""
    count, stepping, drawing = 0, 0.0, 0.0
    with contextlib.closing(_make(env_id, **options)) as env:
        env.action_space.seed(0)
        env.reset(seed=0)
        # The first picture uploads textures, which is not what a training waits for.
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


# Odds and ends

CHECKS: dict[str, Check] = {
    "packages": _packages,
    "compute": _compute,
    "assets": _assets,
    "Hugging Face": _hub,
    "folders": _folders,
    "draw, then train": _draw_then_train,
}
#: What is left out where the environment cannot be drawn, lest it crash this process.
DRAWING_CHECKS: dict[str, Check] = {
    "GL": _gl,
    "picture": _picture,
    "orientation": _orientation,
    "two tasks by turns": _by_turns,
    "speed": _speed,
}


def _make(env_id: str, **options: Any) -> Any:
    return gym.make(
        env_id, render_mode="rgb_array", disable_env_checker=True, **options
    )


def _install(extra: str) -> str:
    return f'pip install "{PACKAGE}[{extra}]"'


def _fault(attempt: Callable[..., object], *arguments: object) -> str:
    """What an attempt raises, in one line; empty if nothing."""
    try:
        attempt(*arguments)
    except Exception as error:
        return _brief(error)
    return ""


def _brief(error: Exception) -> str:
    """An error in one line: some quote whole configurations from the second one on."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:400]


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:400] if lines else "it said nothing"


def _save(visit: Visit, name: str, picture: UInt8, zoom: int = 1) -> str:
    """Saves a picture, if pictures are wanted; says where, as the end of a sentence."""
    if visit.output is None:
        return ""
    picture = picture.repeat(zoom, 0).repeat(zoom, 1)
    height, width, _ = picture.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    # By hand, since Pillow comes only with extras that a broken machine may lack.
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    visit.output.mkdir(parents=True, exist_ok=True)
    path = visit.output / name
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return f"; {path.resolve()}"


def _print(finding: Finding, console: Any) -> None:
    if console is None:
        print(f"{finding.status:4}  {finding.name}: {finding.says}", flush=True)
        if finding.do:
            print(f"      -> {finding.do}", flush=True)
        return
    from rich.table import Table
    from rich.text import Text

    # A row a finding and not one table at the end: should a driver end the process,
    # what was found before stays on the screen.
    row = Table.grid(padding=(0, 1))
    row.add_column(width=4)
    row.add_column(width=18)
    row.add_column(overflow="fold")
    colours = {"ok": "green", "info": "blue", "warn": "yellow", "fail": "bold red"}
    # As `Text`, since rich would read the extra in "[metaworld]" as a style.
    says = Text(finding.says)
    if finding.do:
        says.append(f"\n-> {finding.do}", style="italic")
    status = Text(finding.status, style=colours[finding.status])
    row.add_row(status, Text(finding.name), says)
    console.print(row)
