"""Stages of a long making, each done once: what is there, whole and asked for stays.

A stage leaves files in a work folder, and beside them a receipt: its settings, the
stages that it was made from, and the hash of each file. The receipt is there from the
stage's beginning, so that one that was stopped is known to be of these settings, too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genreward_wrappers.data.files import canonical, hash_file, write_atomic
from genreward_wrappers.generators.candidates import differences


@dataclass(frozen=True)
class Stage:
    """One part of the work.

    Attributes:
        name: What it is called in messages, and its receipt is named by.
        settings: What its result depends on beside other stages, as JSON.
        make: Makes it, or goes on where it was stopped; gives its files.
        homes: The files and folders that it writes, relative to the work folder.
        after: The stages that it is made from.
        grows: Settings that only say how many files there are: with another number
            those that are there stay right.
    """

    name: str
    settings: Mapping[str, Any]
    make: Callable[[], Sequence[Path]]
    homes: Sequence[str]
    after: Sequence[str] = ()
    grows: Sequence[str] = ()


class Work:
    """A folder in which stages are done one after the other."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if it is not there.

        Args:
            folder: Where results and receipts lie.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._done: dict[str, str] = {}

    def check(self, stages: Sequence[Stage], overwrite: bool) -> None:
        """Looks for stages that were made with other settings.

        Args:
            stages: All that will be run.
            overwrite: Whether such a stage is cleared away, to be made anew. Those
                that are made from it follow when they are run.

        Raises:
            ValueError: There is one, and it is not to be made again.
        """
        for stage in stages:
            receipt = self._receipt(stage)
            if receipt is None:
                continue
            theirs, ours = receipt["settings"], _plain(stage.settings)
            unlike = differences(theirs, ours)
            if not unlike:
                continue
            if not overwrite:
                raise ValueError(
                    f"the stage {stage.name!r} in {self.folder} was made with "
                    f"{'; '.join(unlike)}. To make it and all that follows from it "
                    "anew, give --overwrite (overwrite=True); to keep it, give another "
                    "--work FOLDER"
                )
            changed = {k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k)}
            if changed <= set(stage.grows):
                self._path(stage).unlink()
            else:
                self._clear(stage)

    def run(self, stage: Stage) -> list[Path]:
        """The files of a stage, made if they are not there and whole."""
        inputs = {name: self._done[name] for name in stage.after}
        receipt = self._receipt(stage)
        if receipt is not None and receipt["inputs"] != inputs:
            self._clear(stage)
            receipt = None
        files = None if receipt is None else receipt["files"]
        if files is None or not self._whole(files):
            self._write(stage, inputs, None)
            files = {
                path.relative_to(self.folder).as_posix(): hash_file(path)
                for path in stage.make()
            }
            self._write(stage, inputs, files)
        self._done[stage.name] = hashlib.sha256(canonical(files).encode()).hexdigest()
        return [self.folder / name for name in files]

    def _whole(self, files: Mapping[str, str]) -> bool:
        paths = {self.folder / name: sha256 for name, sha256 in files.items()}
        return all(p.is_file() and hash_file(p) == paths[p] for p in paths)

    def _clear(self, stage: Stage) -> None:
        for home in stage.homes:
            path = self.folder / home
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._path(stage).unlink(missing_ok=True)

    def _path(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.json"

    def _receipt(self, stage: Stage) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path(stage).read_text(encoding="utf-8"))
            return {name: found[name] for name in ("settings", "inputs", "files")}
        except (OSError, ValueError, KeyError, TypeError):
            # Not there, or damaged: the stage itself knows what it can go on from.
            return None

    def _write(
        self, stage: Stage, inputs: Mapping[str, str], files: Mapping[str, str] | None
    ) -> None:
        receipt = {"settings": stage.settings, "inputs": inputs, "files": files}
        text = json.dumps(receipt, indent=2, sort_keys=True, allow_nan=False)
        write_atomic(self._path(stage), (text + "\n").encode())


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they will be read again: tuples come back as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    return plain
