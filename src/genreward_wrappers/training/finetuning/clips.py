"""Videos with their prompts, as a generator is fine-tuned on them.

A clip is identified by its prompt and the hash of its file before it is decoded, so
that a clip whose latents are cached is never decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from genreward_wrappers.checks import one_of
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.episodes import Episode, episode_files, outcome
from genreward_wrappers.data.files import FileError, hash_file
from genreward_wrappers.data.lerobot import is_lerobot, read_lerobot
from genreward_wrappers.data.minari import MINARI, load_minari, pictures_of
from genreward_wrappers.data.rlbench import DESCRIPTIONS, read_rlbench
from genreward_wrappers.data.video_files import (
    FITS,
    VIDEO_ENDINGS,
    fit,
    read_video,
)
from genreward_wrappers.training.finetuning.captions import (
    JSON_TABLES,
    LINES_TABLE,
    caption_of,
    read_captions,
)
from genreward_wrappers.training.finetuning.sources import find_source


@dataclass(frozen=True)
class CaptionedClip:
    """One video to train on.

    Attributes:
        name: Its source, for messages.
        prompt: What it shows, in words.
        digest: The hash of its content.
        read: Gives its frames, (T, H, W, 3) uint8 RGB.
        fit: How frames of another shape are made to fit, one of `FITS`; empty refuses
            them.
    """

    name: str
    prompt: str
    digest: str
    read: Callable[[], UInt8]
    fit: str = ""

    def frames(self, count: int, size: tuple[int, int]) -> UInt8:
        """Its frames, evenly spread in time and brought to a size.

        Raises:
            ValueError: It is too short, too small, or of another aspect ratio.
        """
        video = self.read()
        if len(video) < 2:
            raise ValueError(f"{self.name}: a video needs at least 2 frames, got 1")
        return fit(video, size, count, self.name, self.fit)


def find_clips(
    data: str | PathLike[str],
    *,
    prompt: str = "",
    prompts: Mapping[str, str] | None = None,
    failures: bool = False,
    camera: str = "",
    source: str = "",
    fit: str = "",
) -> list[CaptionedClip]:
    """The clips of a data set.

    Args:
        data: A folder with videos and their captions, with recorded episodes, or with
            folders of them; the folder of a LeRobotDataset; or "minari:<dataset id>".
        prompt: The prompt of all clips that have none of their own.
        prompts: Prompts by the name of a file or the id of an environment, in addition
            to the tables in the folder.
        failures: Whether unsuccessful episodes are used too.
        camera: The camera of a data set that has several.
        source: One of `SOURCES`, whose layout and camera the folder has then.
        fit: What is done to frames of another shape than the generator's: "crop" or
            "pad"; empty refuses them.

    Raises:
        ValueError: There are none, one has no prompt, or the folder is no such source.
    """
    clips = _find(data, prompt, dict(prompts or {}), failures, camera, source)
    if not fit:
        return clips
    one_of(FITS, fit=fit)
    # What was encoded of the clip as it is, or made to fit otherwise, is another thing.
    return [
        replace(
            clip,
            fit=fit,
            digest=hashlib.sha256(f"{fit} {clip.digest}".encode()).hexdigest(),
        )
        for clip in clips
    ]


def _find(
    data: str | PathLike[str],
    prompt: str,
    given: dict[str, str],
    failures: bool,
    camera: str,
    source: str,
) -> list[CaptionedClip]:
    if not source and str(data).startswith(MINARI):
        if camera:
            raise ValueError(f"camera={camera!r}: {data} is no LeRobot dataset")
        name = str(data).removeprefix(MINARI)
        return _of_minari(name, prompt, given, failures)
    named = find_source(source) if source else None
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data {str(data)!r}: there is no such folder")
    known = {**read_captions(folder), **given}
    if named is not None:
        camera = camera or named.camera
        if named.layout == "rlbench":
            return _of_rlbench(folder, prompt, known, camera)
        if not is_lerobot(folder):
            raise ValueError(f"source={source!r}: {folder} is no LeRobotDataset")
    if is_lerobot(folder):
        return _of_lerobot(folder, prompt, known, failures, camera)
    if camera:
        raise ValueError(f"camera={camera!r}: {folder} is no LeRobot dataset")
    episodes, failed = [], 0
    for path in episode_files(folder, "**/*.safetensors"):
        try:
            success, about = outcome(path)
        except FileError as error:
            raise FileError(f"data {folder}: {error}") from error
        if success or failures:
            episodes.append(_of_episode(path, about, prompt, known))
        else:
            failed += 1
    videos = [p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_ENDINGS]
    clips = episodes + [_of_video(p, folder, prompt, known) for p in sorted(videos)]
    if not clips:
        raise ValueError(
            f"data {folder}: "
            + (
                f"none of its {failed} episodes succeeded; --all takes those, too"
                if failed
                else f"it holds neither videos ({', '.join(VIDEO_ENDINGS)}) nor "
                "recorded episodes, as `genreward collect` writes them"
            )
        )
    return clips


def _of_rlbench(
    folder: Path, prompt: str, known: Mapping[str, str], camera: str
) -> list[CaptionedClip]:
    clips = []
    for episode in read_rlbench(folder, camera, known):
        said = episode.task or prompt.strip()
        if not said:
            raise ValueError(
                f"{episode.name} has no caption: write the lines of "
                f"variation_descriptions.pkl into {DESCRIPTIONS} beside it, or "
                f'{{"<task>/variation0": "<prompt>"}} into {folder / JSON_TABLES[0]}'
            )
        clips.append(CaptionedClip(episode.name, said, episode.digest, episode.read))
    return clips


def _of_video(
    path: Path, folder: Path, prompt: str, known: Mapping[str, str]
) -> CaptionedClip:
    said = caption_of(path, folder, known) or prompt.strip()
    if not said:
        raise ValueError(
            f"{path} has no caption: write one into {path.with_suffix('.txt').name} "
            f"beside it, or all into {JSON_TABLES[0]} or {LINES_TABLE}, or give one "
            "--prompt for all"
        )
    return CaptionedClip(str(path), said, hash_file(path), partial(read_video, path))


def _of_episode(
    path: Path, about: Mapping[str, Any], prompt: str, known: Mapping[str, str]
) -> CaptionedClip:
    env_id = str(about.get("env_id", ""))
    said = str(about.get("prompt") or prompt or known.get(env_id, "")).strip()
    if not said:
        raise ValueError(
            f"{path} has no prompt: its info has none, and there is none for "
            f"{env_id!r}; give --prompt TEXT, or put a prompts.json of "
            '{"<environment id>": "<prompt>"} into the data folder'
        )
    return CaptionedClip(str(path), said, hash_file(path), partial(_frames_of, path))


def _frames_of(path: Path) -> UInt8:
    return Episode.load(path).frames


def _of_lerobot(
    folder: Path,
    prompt: str,
    known: Mapping[str, str],
    failures: bool,
    camera: str,
) -> list[CaptionedClip]:
    episodes = read_lerobot(folder, camera)
    taken = [episode for episode in episodes if episode.success or failures]
    if not taken:
        raise ValueError(
            f"{folder}: none of its {len(episodes)} episodes succeeded; --all takes "
            "those, too"
        )
    clips = []
    for episode in taken:
        said = known.get(episode.key, "").strip()
        if not said and len(episode.tasks) > 1:
            raise ValueError(
                f"{episode.name} has several tasks, in no order: "
                f"{', '.join(map(repr, episode.tasks))}. Say what it shows in "
                f'{JSON_TABLES[0]}: {{"{episode.key}": "<prompt>"}}'
            )
        said = said or "".join(episode.tasks) or prompt.strip()
        if not said:
            raise ValueError(
                f"{episode.name} has no task text: give --prompt TEXT, or "
                f'{{"{episode.key}": "<prompt>"}} in {JSON_TABLES[0]}'
            )
        clips.append(CaptionedClip(episode.name, said, episode.digest, episode.read))
    return clips


def _of_minari(
    dataset: str, prompt: str, known: Mapping[str, str], failures: bool
) -> list[CaptionedClip]:
    data = load_minari(dataset)
    said = prompt.strip() or known.get(dataset, "").strip()
    if not said:
        raise ValueError(f"{MINARI}{dataset} has no prompt: give --prompt TEXT")
    clips, failed = [], 0
    for episode in data.iterate_episodes():
        name = f"{MINARI}{dataset}, episode {episode.id}"
        frames = pictures_of(episode.observations, name)
        if not (failures or _won(episode.infos)):
            failed += 1
            continue
        shape = f"{frames.shape}".encode()
        digest = hashlib.sha256(shape + frames.tobytes()).hexdigest()

        def read(number: int = int(episode.id), name: str = name) -> UInt8:
            again = next(iter(data.iterate_episodes([number])))
            return pictures_of(again.observations, name)

        clips.append(CaptionedClip(name, said, digest, read))
    if not clips:
        raise ValueError(
            f"{MINARI}{dataset}: none of its {failed} episodes succeeded; --all takes "
            "those, too"
        )
    return clips


def _won(infos: Mapping[str, Any] | None) -> bool:
    """Whether an episode succeeded; if it is not recorded, it counts as a success."""
    said = infos or {}
    noted = [said[key] for key in ("is_success", "success") if key in said]
    return not noted or any(bool(np.any(flags)) for flags in noted)
