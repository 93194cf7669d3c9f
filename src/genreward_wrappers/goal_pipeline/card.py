"""A goal bundle described: in a terminal, and on its page on the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.goal_pipeline.select import chosen

#: The provenance step of a check on held-out episodes.
CHECK = "check"

#: The Hub's names of the licences that bundles most often have.
HUB_LICENCES = {
    "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0",
    "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
    "cc-by-nd-4.0",
}  # fmt: skip

#: Words in a licence that exclude commercial use.
_NOT_COMMERCIAL = re.compile(
    r"non[-_\s]?commercial|(?<![a-z])nc(?![a-z])|not\s+for\s+commercial"
    r"|research[-_\s](use|purposes)?[-_\s]?only|academic[-_\s](use[-_\s])?only",
    re.IGNORECASE,
)


def describe(goal: GoalBundle) -> dict[str, Any]:
    """The contents of a bundle as JSON, without its long lists."""
    return {
        "environment": goal.env_id,
        "camera": goal.camera,
        "prompt": goal.prompt,
        "key frames": list(goal.key_frames),
        "generator": goal.generator,
        "licence": goal.license,
        "sha256": goal.digest,
        "encoder": goal.encoder,
        "nets": goal.nets_config,
        "provenance": provenance(goal),
    }


def provenance(goal: GoalBundle) -> list[dict[str, Any]]:
    """The steps that made a bundle, with the sizes of curves in place of the curves."""
    steps = []
    for step in goal.provenance:
        short = dict(step)
        curves = short.get("curves")
        if isinstance(curves, list) and curves and isinstance(curves[0], list):
            short["curves"] = f"{len(curves)} videos of {len(curves[0])} frames"
        steps.append(short)
    return steps


def curve_summary(goal: GoalBundle) -> list[str]:
    """A line for each video: its key frame, and how well that fits the prompts.

    Empty if `select` did not choose the bundle's key frames.
    """
    found = chosen(goal)
    if found is None:
        return []
    lines = []
    for video, candidate in enumerate(found.kept):
        curve = found.curves[candidate]
        was = "" if len(found.kept) == len(found.curves) else f", candidate {candidate}"
        score, rank = found.scores[candidate], found.ranking.index(candidate) + 1
        lines.append(
            f"video {video}{was}: key frame {found.key_frames[candidate]} of "
            f"{len(curve)}, score {score:.4f} (mean {curve.mean():.4f}), rank {rank} "
            f"of {len(found.curves)} candidates"
        )
    return lines


def check_summary(goal: GoalBundle) -> list[str]:
    """What held-out episodes say about each of its rewards, one sentence each.

    Empty if it was not checked, or has changed since.
    """
    last = goal.provenance[-1] if goal.provenance else {}
    said = last.get("said", []) if last.get("step") == CHECK else []
    return [str(line) for line in said] if isinstance(said, list) else []


def licences(goal: GoalBundle) -> list[str]:
    """Every licence that the bundle or one of its steps names."""
    named = [goal.license, *(text for s in goal.provenance for text in _licences(s))]
    return list(dict.fromkeys(text.strip() for text in named if text.strip()))


def forbidding(goal: GoalBundle) -> list[str]:
    """Those of its licences that forbid commercial use, judged by their words."""
    return [text for text in licences(goal) if _NOT_COMMERCIAL.search(text)]


def readme(goal: GoalBundle, repo: str, file: str, picture: str) -> str:
    """The card of a bundle, in the Hub's Markdown.

    Args:
        goal: The bundle.
        repo: ``owner/repo``; empty for a bundle in the same folder as its card.
        file: The bundle's file name.
        picture: The file name of its contact sheet.
    """
    title = goal.env_id or goal.prompt or "no environment"
    parts = [_front_matter(goal), f"# Goal videos: {_line(title)}"]
    forbidden = forbidding(goal)
    if forbidden:
        quoted = "; ".join(map(_line, forbidden))
        parts.append(f"> **Not for commercial use.** Licence: {quoted}")
    if not licences(goal):
        parts.append(
            "> **No licence is stated.** Without one nobody but the author may use it."
        )
    checked = check_summary(goal)
    if checked and goal.provenance[-1].get("wrong way round"):
        parts.append(
            "> **This goal is the wrong way round.** On held-out episodes it pays "
            "failures more than successes: do not train on it."
        )
    parts.append(
        f"A goal bundle of {len(goal.videos)} videos for `genreward-wrappers`, which "
        "turns goal videos into rewards."
    )
    parts.append(f"![Frames of each video; key frames are framed]({picture})")
    rows = "\n".join(f"| {name} | {value} |" for name, value in _rows(goal))
    parts.append(f"| | |\n|---|---|\n{rows}")
    summary = curve_summary(goal)
    if summary:
        parts.append("## Key frames\n\n" + "\n".join(f"- {line}" for line in summary))
    figures = goal.nets_config.get("statistics")
    if figures:
        rows = "\n".join(
            f"| {_line(name)} | {value:.4g} |" for name, value in figures.items()
        )
        parts.append(
            "## Forward-backward nets\n\nAs measured when they were trained:\n\n"
            f"| figure | value |\n|---|---|\n{rows}"
        )
    if checked:
        lines = "\n".join(f"- {_line(line)}" for line in checked)
        parts.append(f"## On held-out episodes\n\n{lines}")
    address = f"hf://{repo}/{file}@<commit>" if repo else file
    why = (
        "Name the commit, so that the reward stays the same when this repository "
        "changes:\n\n"
    )
    parts.append(
        f"## Use\n\n{why if repo else ''}```python\n"
        "from genreward_wrappers import load_goal\n\n"
        f'goal = load_goal("{address}")\n```'
    )
    parts.append(mark(file))
    steps = json.dumps(provenance(goal), indent=2).replace("```", "'''")
    parts.append(f"## Provenance\n\n```json\n{steps}\n```")
    return "\n\n".join(parts) + "\n"


def mark(file: str) -> str:
    """The mark of a generated card, which may be replaced."""
    return f"<!-- The card that genreward push made for {file} -->"


def _rows(goal: GoalBundle) -> Iterator[tuple[str, str]]:
    count, frames, height, width, _ = goal.videos.shape
    yield "environment", _line(goal.env_id or "not said")
    yield "camera", _line(goal.camera or "not said")
    yield "prompt", _line(goal.prompt or "none")
    yield "videos", f"{count} of {frames} frames, {height}x{width}"
    yield "key frames", ", ".join(map(str, goal.key_frames))
    yield "made by", _line(goal.generator or "not said")
    yield "licence", "; ".join(map(_line, licences(goal))) or "none stated"
    encoder = goal.encoder.get("source", "left open")
    # Pooled pixels have no weights.
    sha256 = goal.encoder.get("fingerprint", {}).get("sha256") or ""
    yield "encoder", _line(f"{encoder} {sha256[:16]}")
    yield "forward-backward nets", "yes" if goal.nets else "no"
    yield "sha256", f"`{goal.digest}`"


def _front_matter(goal: GoalBundle) -> str:
    lines = ["library_name: genreward-wrappers"]
    name = re.sub(r"[^a-z0-9.]+", "-", goal.license.lower()).strip("-")
    if name in HUB_LICENCES:
        lines.append(f"license: {name}")
    elif name:
        lines += ["license: other", f'license_name: "{name[:64]}"']
    lines += ["tags:", *(f"- {tag}" for tag in ("reinforcement-learning", "genreward"))]
    return "\n".join(["---", *lines, "---"])


def _line(text: str) -> str:
    """Foreign text for one line of a table: no markup, no line breaks."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|!])", r"\\\1", plain)


def _licences(value: Any) -> Iterator[str]:
    """The values of "license" anywhere in a step."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("license", "licence") and isinstance(inner, str):
                yield inner
            else:
                yield from _licences(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _licences(inner)
