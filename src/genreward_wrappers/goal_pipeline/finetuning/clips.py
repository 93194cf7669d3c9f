"""Videos with their prompts, as a generator is fine-tuned on them.

A clip is known by its prompt and the hash of its file before it is decoded: what was
encoded once is never decoded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from genreward_wrappers.core import UInt8
from genreward_wrappers.episodes import Episode, outcome
from genreward_wrappers.files import FileError
from genreward_wrappers.goal_pipeline.pack import fit

PROMPTS = "prompts.json"


@dataclass(frozen=True)
class Clip:
    """One video to train on.

    Attributes:
        name: Where it is from, for messages.
        prompt: What it shows, in words.
        digest: The hash of its content.
        read: Gives its frames, (T, H, W, 3) uint8 RGB.
    """

    name: str
    prompt: str
    digest: str
    read: Callable[[], UInt8]

    def frames(self, count: int, size: tuple[int, int]) -> UInt8:
        """Its frames, evenly spread in time and brought to a size.

        Raises:
            ValueError: It is too short, too small, or of another aspect ratio.
        """
        video = self.read()
        if len(video) < 2:
            raise ValueError(f"{self.name}: a video needs at least 2 frames, got 1")
        return fit(video, size, count, self.name)


def find_clips(
    data: str | PathLike[str],
    *,
    prompt: str = "",
    prompts: Mapping[str, str] | None = None,
    failures: bool = False,
) -> list[Clip]:
    """The clips of a data set.

    Args:
        data: A folder of recorded episodes, or of folders of them.
        prompt: Of all clips that have none of their own.
        prompts: By the environment's id, where there is neither; None reads the data
            folder's ``prompts.json``, if it has one.
        failures: Whether episodes that did not succeed are taken, too.

    Raises:
        ValueError: There are none, or one has no prompt.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data {str(data)!r}: there is no such folder")
    known = _read_prompts(folder / PROMPTS) if prompts is None else dict(prompts)
    # Beside recorded episodes lies the goal that they were rewarded for.
    paths = [p for p in folder.rglob("*.safetensors") if p.name != "goal.safetensors"]
    clips, failed = [], 0
    for path in sorted(paths):
        try:
            succeeded, about = outcome(path)
        except FileError as error:
            raise FileError(f"data {folder}: {error}") from error
        if not (succeeded or failures):
            failed += 1
            continue
        clips.append(_of_episode(path, about, prompt, known))
    if not clips:
        raise ValueError(
            f"data {folder}: "
            + (
                f"none of its {failed} episodes succeeded; --all takes those, too"
                if failed
                else "there are no recorded episodes in it, as `genreward collect` "
                "writes them"
            )
        )
    return clips


def _of_episode(
    path: Path, about: Mapping[str, Any], prompt: str, known: Mapping[str, str]
) -> Clip:
    env_id = str(about.get("env_id", ""))
    said = str(about.get("prompt") or prompt or known.get(env_id, "")).strip()
    if not said:
        raise ValueError(
            f"{path} has no prompt: its info has none, and there is none for "
            f"{env_id!r} in {PROMPTS}; give --prompt TEXT, or a {PROMPTS} of "
            '{"<environment id>": "<prompt>"} in the data folder'
        )
    return Clip(str(path), said, file_digest(path), lambda: Episode.load(path).frames)


def _read_prompts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    if not isinstance(found, dict) or not all(
        isinstance(text, str) for text in found.values()
    ):
        raise ValueError(
            f'{path}: expected {{"<name>": "<prompt>", ...}}, got '
            f"{json.dumps(found)[:80]}"
        )
    return found


def file_digest(path: Path) -> str:
    """The hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
