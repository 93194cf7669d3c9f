r"""Checks and figures of one GPU, in less than eight minutes.

    python -m benchmarks.gpu --out FOLDER
    python -m benchmarks.gpu --out FOLDER --tiny    # on a CPU: does every part run?
    python -m benchmarks.gpu --out FOLDER --table   # the figures of a run, as Markdown

It needs no network and no trained weights: random weights of the published
configurations cost the same. Five parts, each a process of its own that writes every
figure as soon as it has it, to `<part>.jsonl`: a part that fails, hangs or is killed
loses what it was measuring and nothing else. At the end all of them are in
`results.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

#: The parts, and how much of the time each may take.
PARTS = {
    "agreement": 0.15,
    "vaes": 0.33,
    "pictures": 0.15,
    "generation": 0.25,
    "drawing": 0.12,
}
PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "mujoco")
#: How long after its time a part is stopped: what it measures then may still come.
PATIENCE = 1.25


def machine(device: str) -> dict[str, Any]:
    """Where the figures are from."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "device": device}
    known = {each.name: each.version for each in distributions()}
    found |= {package: known.get(package) for package in PACKAGES}
    if device.startswith("cuda") and torch.cuda.is_available():
        about = torch.cuda.get_device_properties(device)
        found |= {"gpu": about.name, "memory_gib": about.total_memory / 2**30}
        found |= {"cuda": torch.version.cuda, "tf32": torch.backends.cudnn.allow_tf32}
    return found


def run_part(name: str, out: Path, device: str, tiny: bool, deadline: float) -> None:
    """Measures one part in this process."""
    import torch

    from benchmarks.gpu.bench import Bench, record

    part = import_module(f"benchmarks.gpu.{name}")
    bench = Bench(torch.device(device), tiny)
    record(name, part.rows(bench), out / f"{name}.jsonl", deadline)


def run_all(
    names: Sequence[str], out: Path, device: str, tiny: bool, minutes: float
) -> list[dict[str, Any]]:
    """Measures the parts, each in a process of its own, and gives all rows."""
    out.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    end, left = begun + 60 * minutes, sum(PARTS[name] for name in names)
    for name in names:
        (out / f"{name}.jsonl").unlink(missing_ok=True)
        # What a part does not need is for those after it.
        share = (end - time.time()) * PARTS[name] / left
        left -= PARTS[name]
        deadline = time.time() + max(share, 0)
        command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out)]
        command += ["--part", name, "--device", device, "--deadline", str(deadline)]
        command += ["--tiny"] * tiny
        print(f"{name}: up to {share:.0f} s", flush=True)
        try:
            ended = subprocess.run(
                command, timeout=PATIENCE * share + 30, check=False
            ).returncode
            trouble = f"the process ended with {ended}" if ended else ""
        except subprocess.TimeoutExpired:
            trouble = "the process was stopped: its time was over"
        if trouble:
            row = {"part": name, "name": "(the rest of this part)", "error": trouble}
            path = out / f"{name}.jsonl"
            found = [*read(path), row]
            path.write_text("".join(json.dumps(each) + "\n" for each in found))
    rows = [row for name in names for row in read(out / f"{name}.jsonl")]
    took = round(time.time() - begun)
    about = {**machine(device), "tiny": tiny, "seconds": took}
    text = json.dumps({"about": about, "rows": rows}, indent=1)
    (out / "results.json").write_text(text + "\n")
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that a killed process left half is dropped."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, a table for each part."""
    lines = []
    for part in dict.fromkeys(row["part"] for row in rows):
        lines += [f"\n**{part}**\n", "| what | found |", "| --- | --- |"]
        for row in rows:
            if row["part"] == part:
                beside = ("part", "name", "took_s")
                found = {k: v for k, v in row.items() if k not in beside}
                told = ", ".join(f"{k} {_short(v)}" for k, v in found.items())
                lines.append(f"| {row['name']} | {told.replace('|', '/')} |")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).splitlines()[0] if value else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts; 1 if a check failed or something could not be measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--table", action="store_true", help="print what is there")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=7.5, help="for all parts")
    parser.add_argument("--device", help="by default cuda, and cpu with --tiny")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.table:
        print(table(json.loads((args.out / "results.json").read_text())["rows"]))
        return 0
    device = args.device or ("cpu" if args.tiny else "cuda")
    if args.part:
        run_part(args.part, args.out, device, args.tiny, args.deadline)
        return 0
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes:g}: expected more than 0")
    if not args.tiny:
        from genreward_wrappers.encoders.base import resolve_device

        try:
            resolve_device(device)
        except ValueError as error:
            parser.error(f"{error}; --tiny runs every part on a CPU")
    rows = run_all(args.parts, args.out, device, args.tiny, args.minutes)
    print(table(rows))
    bad = [row for row in rows if "error" in row or row.get("ok") is False]
    print(f"\n{len(rows)} rows, {len(bad)} of them with an error or a failed check")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
