"""``genreward doctor``: whether this machine renders correctly and fast.

Each check yields findings: what was found, and what to do about it. A check that raises
is reported as a finding, too, and anything that may crash runs in a subprocess. Nothing
here accesses the network.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genreward_wrappers.doctor.crash import check_draw_then_train, check_drawing
from genreward_wrappers.doctor.drawing import (
    check_gl,
    check_picture,
    check_speed,
    check_turns,
)
from genreward_wrappers.doctor.finding import Check, Finding, Visit, brief
from genreward_wrappers.doctor.installation import (
    check_assets,
    check_compute,
    check_encoders,
    check_folders,
    check_hub,
    check_packages,
)
from genreward_wrappers.doctor.orientation import check_orientation


def run_doctor(
    env_id: str,
    output: Path | None,
    console: Any = None,
    *,
    full: bool = False,
    as_json: bool = False,
) -> int:
    """Prints each finding as soon as it is available; returns the exit status.

    Args:
        env_id: The environment to draw: any id that `gymnasium.make` knows. The
            position of the hand in the picture is checked only for Meta-World.
        output: A folder for the pictures, created if necessary; None saves none.
        console: A `rich.console.Console`; by default one on the standard output, or
            plain lines if rich is not installed.
        full: Whether to run the slow checks as well.
        as_json: Whether to print all findings as JSON at the end instead.

    Returns:
        1 if anything failed, else 0.
    """
    if as_json:
        found = [*examine(env_id, output, full=full)]
        print(json.dumps([asdict(finding) for finding in found], indent=2))
        return int(any(finding.status == "fail" for finding in found))
    if console is None:
        with contextlib.suppress(ImportError):
            from rich.console import Console

            console = Console()
    counts = dict.fromkeys(("ok", "info", "warn", "fail"), 0)
    busy = contextlib.nullcontext() if console is None else console.status("examining")
    with busy as status:
        update = getattr(status, "update", None)
        for finding in examine(env_id, output, update, full=full):
            counts[finding.status] += 1
            _print(finding, console)
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    if not full:
        summary += "; --full also trains after drawing, and measures the speed"
    print(summary) if console is None else console.print(summary, soft_wrap=True)
    return int(counts["fail"] > 0)


def examine(
    env_id: str,
    output: Path | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    full: bool = False,
) -> Iterator[Finding]:
    """Runs the checks; yields what they find.

    Args:
        env_id: The environment to draw.
        output: A folder for the pictures; None saves none.
        progress: Called with the title of a check before it runs.
        full: Whether to run the slow checks as well.
    """
    visit = Visit(env_id, output, os.environ.get("MUJOCO_GL", ""))
    first = {**CHECKS, **(SLOW_CHECKS if full else {})}
    drawing = {**DRAWING_CHECKS, **(SLOW_DRAWING_CHECKS if full else {})}
    for title, check in {**first, **drawing}.items():
        if progress is not None:
            progress(title)
        if visit.obstacle and title in drawing:
            says = f"not checked: {visit.obstacle}"
            yield Finding(title, "info", says, visit.remedy)
            continue
        try:
            # Deprecation warnings of libraries would clutter the findings.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield from check(visit)
        except Exception as error:
            yield Finding(
                title,
                "fail",
                f"the check broke off: {brief(error)}",
                "if the error does not say it: report it, with all of this output",
            )


CHECKS: dict[str, Check] = {
    "packages": check_packages,
    "compute": check_compute,
    "assets": check_assets,
    "Hugging Face": check_hub,
    "folders": check_folders,
    "drawing": check_drawing,
}

#: Those that load large packages.
SLOW_CHECKS: dict[str, Check] = {
    "encoders": check_encoders,
    "draw, then train": check_draw_then_train,
}

#: Skipped if the environment cannot be drawn, as they might crash this process.
DRAWING_CHECKS: dict[str, Check] = {
    "GL": check_gl,
    "picture": check_picture,
    "orientation": check_orientation,
}

SLOW_DRAWING_CHECKS: dict[str, Check] = {
    "two tasks by turns": check_turns,
    "speed": check_speed,
}


def _print(finding: Finding, console: Any) -> None:
    if console is None:
        print(f"{finding.status:4}  {finding.name}: {finding.says}", flush=True)
        if finding.do:
            print(f"      -> {finding.do}", flush=True)
        return
    from rich.table import Table
    from rich.text import Text

    # One row per finding instead of one table at the end: if a driver ends the process,
    # the findings so far stay on the screen.
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
