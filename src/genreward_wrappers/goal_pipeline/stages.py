"""Stages of a long computation, each run once: complete results are kept.

A stage leaves files in a work folder and a receipt next to them: its settings, the
stages that it was made from, and the hash of each file. The receipt is written when the
stage starts, so that the settings of an interrupted stage are known as well.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genreward_wrappers.data.files import canonical, hash_file, plain, write_atomic
from genreward_wrappers.generators.candidates import differences


@dataclass(frozen=True)
class Stage:
    """One part of the work.

    Attributes:
        name: Its name in messages and in its receipt's file name.
        settings: What its result depends on besides other stages, as JSON.
        make: Runs or resumes it, and returns its files.
        homes: The files and folders that it writes, relative to the work folder.
        after: The stages that it is made from.
        grows: Settings that only say how many files there are: with another number
            the existing ones stay valid.
    """

    name: str
    settings: Mapping[str, Any]
    make: Callable[[], Sequence[Path]]
    homes: Sequence[str]
    after: Sequence[str] = ()
    grows: Sequence[str] = ()


class Work:
    """A folder in which stages are run one after the other."""

    def __init__(self, folder: Path) -> None:
        """Creates the folder if it does not exist.

        Args:
            folder: Where results and receipts are kept.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._done: dict[str, str] = {}

    def check(self, stages: Sequence[Stage], overwrite: bool) -> None:
        """Looks for stages that were made with other settings.

        Args:
            stages: All stages that will be run.
            overwrite: Whether such a stage is cleared away, to be made anew. Those
                that are made from it follow when they are run.

        Raises:
            ValueError: There is one, and it may not be replaced.
        """
        for stage in stages:
            receipt = self._receipt(stage)
            if receipt is None:
                continue
            theirs, ours = receipt["settings"], plain(stage.settings)
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
        """The files of a stage, which is run unless they are complete."""
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
            # Missing or damaged: the stage itself knows what it can resume from.
            return None

    def _write(
        self, stage: Stage, inputs: Mapping[str, str], files: Mapping[str, str] | None
    ) -> None:
        receipt = {"settings": stage.settings, "inputs": inputs, "files": files}
        text = json.dumps(receipt, indent=2, sort_keys=True, allow_nan=False)
        write_atomic(self._path(stage), (text + "\n").encode())
