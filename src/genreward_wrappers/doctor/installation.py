"""Checks of the installation: versions, device, files and folders."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from genreward_wrappers.doctor.finding import (
    PACKAGE,
    REINSTALL,
    Finding,
    Status,
    Visit,
    brief,
    fault,
    install_line,
)


def check_packages(visit: Visit) -> Iterator[Finding]:
    """Compares versions with the ranges declared by the installed distribution."""
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
    # Extras that combine others would only repeat them.
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
    """One finding for a group of requirements: those of an extra, or of the core."""
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
        status, do = "info", f"if it is wanted: {install_line(extra)}"
    name = f"extra {extra}" if extra else "packages"
    return Finding(name, status, ", ".join(says), "" if status == "ok" else do)


def check_compute(visit: Visit) -> Iterator[Finding]:
    """The device that "auto" selects, and whether threads compete for cores."""
    import torch

    from genreward_wrappers.encoders.base import resolve_device, resolve_dtype

    device, dtype = resolve_device("auto"), resolve_dtype(None)
    says = f"torch {torch.__version__}, device {device}"
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        says += f": {card.name}, {card.total_memory / 2**30:.0f} GiB"
    says += f", {str(dtype).removeprefix('torch.')}"
    try:
        # A GPU may be found that this build of torch has no code for.
        torch.ones(2, device=device).mul(2).sum().item()
    except RuntimeError as error:
        do = 'install the torch build for this GPU and driver, or use device="cpu"'
        yield Finding("compute", "fail", f"{says}: {brief(error)}", do)
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


def check_assets(visit: Visit) -> Iterator[Finding]:
    """Reads every file that comes with the package."""
    from genreward_wrappers.data.goals import GoalBundle

    folder = Path(str(resources.files("genreward_wrappers") / "assets"))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    goals: list[GoalBundle] = []
    unread = 0
    for path in paths:
        if path.parent.name == "goals":
            broken = fault(lambda path=path: goals.append(GoalBundle.load(path)))
        else:
            broken = fault(_read, path)
        if broken:
            unread += 1
            name = path.relative_to(folder).as_posix()
            yield Finding(f"asset {name}", "fail", broken, REINSTALL)
    if not goals:
        yield Finding("assets", "fail", f"there are no goals in {folder}", REINSTALL)
    elif not unread:
        yield Finding("assets", "ok", f"{len(paths)} files, {len(goals)} of them goals")


def check_encoders(visit: Visit) -> Iterator[Finding]:
    """Whether the embedded encoders load and match the goals made for them."""
    from genreward_wrappers.data.goals import GoalBundle
    from genreward_wrappers.encoders.binding import bind_encoder
    from genreward_wrappers.encoders.names import embedded_encoders
    from genreward_wrappers.encoders.registry import load_encoder

    goals: list[GoalBundle] = []
    folder = Path(str(resources.files("genreward_wrappers") / "assets" / "goals"))
    for path in sorted(folder.glob("*.safetensors")):
        # Damaged files are reported by `check_assets`.
        fault(lambda path=path: goals.append(GoalBundle.load(path)))
    if not embedded_encoders():
        says = f"there are no encoders beside {folder}"
        yield Finding("encoders", "fail", says, REINSTALL)
    for name in embedded_encoders():
        spec = f"embedded:{name}"
        own = [goal for goal in goals if goal.encoder.get("source") == spec]
        try:
            load_encoder(spec, device="cpu")
            for goal in own:
                bind_encoder(goal, None, device="cpu")
        except ImportError as error:
            says = f"not checked: {brief(error)}"
            yield Finding(f"encoder {name}", "info", says, install_line("video"))
        except Exception as error:
            yield Finding(f"encoder {name}", "fail", brief(error), REINSTALL)
        else:
            says = f"loads, and is the one that {len(own)} embedded goals were made for"
            yield Finding(f"encoder {name}", "ok", says)


def _read(path: Path) -> None:
    """Reads a whole file of the package, in the format that its suffix names."""
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name)
    elif not path.read_bytes():
        raise ValueError("the file is empty")


def check_hub(visit: Visit) -> Iterator[Finding]:
    """Whether ``hf://`` addresses can be used. The Hub itself is not contacted."""
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    says = f"HF_HUB_OFFLINE={offline}" if offline else "HF_HUB_OFFLINE is not set"
    if importlib.util.find_spec("huggingface_hub") is None:
        says += "; huggingface_hub is missing, so hf:// addresses do not work"
        yield Finding("Hugging Face", "info", says, install_line("video"))
    elif offline.lower() in ("1", "on", "yes", "true"):
        says += ": hf:// addresses work only for what is in the cache already"
        yield Finding("Hugging Face", "info", says, "unset it to download")
    else:
        yield Finding("Hugging Face", "info", f"{says}; huggingface_hub is there")


def check_folders(visit: Visit) -> Iterator[Finding]:
    """Whether the folders for results and downloads are writable."""
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
        broken = fault(_try_writing, folder)
        if not broken:
            yield Finding(name, "ok", f"{folder.resolve()} can be written")
        elif name == "output folder" and output is not None:
            # Later checks should not fail for the same reason.
            visit.output = None
            yield Finding(name, "fail", f"cannot be written: {broken}", do)
        else:
            yield Finding(name, "warn", f"cannot be written: {broken}", do)


def _try_writing(folder: Path) -> None:
    # Do not create folders only to find out whether that is possible.
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0")
