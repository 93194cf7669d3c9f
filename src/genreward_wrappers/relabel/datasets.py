"""Datasets with another reward: everything else in them stays as it was.

What has been scored is kept beside the output until all of it is there, so that an
interrupted run resumes; the output appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.core import warn_caller
from genreward_wrappers.data.atomic import replacing, replacing_folder, write_atomic
from genreward_wrappers.data.lerobot import INFO, is_lerobot
from genreward_wrappers.data.minari import (
    METADATA,
    MINARI,
    is_minari,
    load_minari,
    minari_root,
)
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.relabel.lerobot_writer import check_lerobot, write_lerobot
from genreward_wrappers.relabel.minari_writer import check_minari, write_minari
from genreward_wrappers.relabel.on_ray import run_on_ray
from genreward_wrappers.relabel.recordings import from_lerobot, from_minari
from genreward_wrappers.relabel.scoring import Reward, Scorer

LAST_FRAME = (
    "LeRobot keeps no frame of what came of an episode's last action: its reward is "
    "that of arriving at the last frame once more"
)


@dataclass(frozen=True)
class Relabelled:
    """A dataset that was written.

    Attributes:
        folder: Where it is.
        rewards: (T,) the new rewards by the number of their episode.
        resumed: How many episodes had been scored by a run before.
    """

    folder: Path
    rewards: Mapping[int, NDArray[np.float64]]
    resumed: int

    def best(self, share: float) -> list[int]:
        """The numbers of the episodes with the highest mean rewards.

        Args:
            share: Which share of all episodes, rounded up; above 0, at most 1.

        Raises:
            ValueError: It is no such share.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: expected a number above 0, at most 1")
        means = {number: float(own.mean()) for number, own in self.rewards.items()}
        ranked = sorted(means, key=lambda number: (-means[number], number))
        return sorted(ranked[: math.ceil(share * len(ranked))])


def relabel_dataset(
    source: str | PathLike[str],
    reward: Reward,
    output: str | PathLike[str],
    *,
    column: str | None = None,
    camera: str = "",
    weights: bool = False,
    workers: int = 0,
    on_progress: OnProgress = no_progress,
    **options: Any,
) -> Relabelled:
    """Writes a dataset with its reward replaced, or with another one beside it.

    A run that was interrupted resumes when it is called again with the same arguments.

    Args:
        source: "minari:<dataset id>", or the folder of a Minari dataset or of a
            LeRobotDataset.
        reward: As for `score`.
        output: The folder to write; "minari:<dataset id>" for one that Minari finds.
        column: None replaces the dataset's own reward. A name keeps it, and adds the
            new one: in Minari as an info, in LeRobot as a feature.
        camera: The camera of a dataset that has several.
        weights: Whether to write ``sarm_progress.parquet`` as well, the scores of all
            frames in the form that LeRobot weighs samples by in RA-BC.
        workers: How many actors of a Ray cluster score the episodes; 0 is this process.
        on_progress: Called with the number of episodes that are scored, and of all.
        **options: Those of `Scorer`.

    Raises:
        ValueError: The source is no such dataset, or there is something at the output;
            or the run that is to be resumed was made with other arguments.
    """
    kind, folder = _find(source)
    target = _target(output, kind)
    if weights and kind != "lerobot":
        raise ValueError(f"weights are what LeRobot reads: {folder} is none of its")
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise ValueError(f"{target} is there and not empty: give another output")
    if target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{target} is inside {folder}, of which it is to be a copy")
    if kind == "minari":
        check_minari(folder, column)
        recordings = from_minari(folder, camera)
    else:
        recordings = from_lerobot(folder, camera, last=True)
        check_lerobot(folder, column)
        warn_caller(LAST_FRAME)
    scorer = Scorer([reward], **options)
    scorer.prepare(recordings[0])
    about = scorer.provenance()
    del about["horizons"]
    about |= {
        "horizon": scorer.horizon,
        "env_id": scorer.env_id,
        "dtype": scorer.dtype,
        "seed": scorer.seed,
        "view_weights": scorer.view_weights,
        "column": column,
        "camera": camera,
        "source": {"name": fspath(source), "sha256": _hash(folder, kind)},
    }
    partial = target.with_name(f"{target.name}.partial")
    known = _resumed(partial, about)
    left = [one for one in recordings if one.number not in known]
    done = len(known)
    on_progress(done, len(recordings))
    found = run_on_ray(scorer, left, workers) if workers else scorer.run(left)
    for index, (scored,) in found:
        number = left[index].number
        known[number] = np.asarray(scored.rewards, np.float64)
        with replacing(partial / f"{number}.npy", ".npy") as scratch:
            np.save(scratch, known[number])
        done += 1
        on_progress(done, len(recordings))
    # In whichever order they were scored, now and before.
    known = dict(sorted(known.items()))
    with replacing_folder(target) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        if kind == "minari":
            said = fspath(output)
            name = said.removeprefix(MINARI) if said.startswith(MINARI) else None
            write_minari(scratch, known, column, about, name)
        else:
            write_lerobot(scratch, known, column, about, weights)
    shutil.rmtree(partial)
    return Relabelled(target, known, len(recordings) - len(left))


def _find(source: str | PathLike[str]) -> tuple[str, Path]:
    """What kind of dataset it is, and its folder."""
    text = fspath(source)
    if text.startswith(MINARI):
        return "minari", Path(load_minari(text).storage.data_path).parent
    folder = Path(text).expanduser()
    if folder.is_dir() and is_lerobot(folder):
        return "lerobot", folder
    if is_minari(folder):
        return "minari", folder
    raise ValueError(
        f"{text} is no dataset that can be relabelled: expected the folder of a "
        f'LeRobotDataset or of a Minari dataset, or "{MINARI}<dataset id>"'
        + ("" if folder.exists() else "; there is no such folder")
    )


def _target(output: str | PathLike[str], kind: str) -> Path:
    text = fspath(output)
    if not text.startswith(MINARI):
        return Path(text).expanduser()
    if kind != "minari":
        raise ValueError(f"output {text!r}: the source is no Minari dataset")
    return minari_root() / text.removeprefix(MINARI)


def _hash(folder: Path, kind: str) -> str:
    """What tells a dataset from another: its own description, not all of its data."""
    path = folder / (INFO if kind == "lerobot" else METADATA)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _resumed(partial: Path, about: Mapping[str, Any]) -> dict[int, NDArray[np.float64]]:
    """What a run before has scored, of the same reward on the same data."""
    card = partial / "run.json"
    text = json.dumps(about, indent=2, sort_keys=True)
    if not card.is_file():
        write_atomic(card, text.encode())
        return {}
    before = json.loads(card.read_text())
    unlike = [key for key in about if json.loads(text)[key] != before.get(key)]
    if unlike:
        was, now = ({key: one.get(key) for key in unlike} for one in (before, about))
        raise ValueError(
            f"{partial} was begun with {was}, and this is {now}: delete it, or give "
            "another output"
        )
    return {
        int(path.stem): np.load(path, allow_pickle=False)
        for path in partial.glob("[0-9]*.npy")
    }
