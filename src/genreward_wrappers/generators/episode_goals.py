"""Goals of an episode's own first frame, generated when the episode begins.

Recorded goals cannot know where the target of *this* episode is; a generator that
continues the frame that the agent sees can. A video depends only on the frame and the
settings: its noise is drawn from a hash of the frame. It is therefore kept, as a
candidate like those of ``genreward generate``, and reused for the same frame.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.cache import Cache, cache_folder
from genreward_wrappers.data.files import canonical
from genreward_wrappers.data.goal_maker import GoalMaker, Made
from genreward_wrappers.data.goals import (
    GoalBundle,
    GoalError,
    embedded_goals,
    load_goal,
)
from genreward_wrappers.generators.candidates import (
    PREFIX,
    as_bundle,
    differences,
    frame_digest,
    lasting,
    load_candidate,
    settings_card,
)
from genreward_wrappers.generators.episode_settings import GeneratedGoals
from genreward_wrappers.generators.pipeline import Generator, same_aspect
from genreward_wrappers.generators.settings import Model, Sampling, local_folder


class OwnGoals(GoalMaker):
    """Makes the goals of episodes from their first frames, and keeps them on disk."""

    def __init__(self, goals: GeneratedGoals, env_id: str | None = None) -> None:
        """Finds the generator and checks the settings.

        Args:
            goals: The settings.
            env_id: The environment's id. Its embedded goal, if there is one, provides
                the default prompt and encoder.

        Raises:
            ValueError: The generator continues no picture, or there is no prompt.
        """
        self._known = _embedded(env_id)
        prompt = goals.prompt or (self._known.prompt if self._known else "")
        if not prompt:
            raise ValueError(
                f"there is no prompt, and no embedded goal of {env_id!r} to take one "
                'from: give GeneratedGoals(prompt="...") the task in words'
            )
        self._goals = goals
        model = {**(goals.model or {}), "device": goals.device, "dtype": goals.dtype}
        self._generator = load_generator(Model(goals.generator, **model))
        if not self._generator.wants_image:
            raise ValueError(
                f"{goals.generator} is a {self._generator.name}, which makes videos of "
                "a prompt alone: it cannot see an episode's first frame. Give a "
                "pipeline that continues a picture, as CogVideoXImageToVideoPipeline, "
                'or name a class over the same files with model={"kind": "..."}'
            )
        sampling = Sampling(
            prompt,
            goals.negative,
            goals.denoising(),
            goals.guidance,
            goals.frames,
            goals.size,
            goals.more,
        )
        self._settings = self._generator.settings(sampling)
        lacking = {"num_frames", "height", "width"} - self._settings.keys()
        if lacking:
            raise ValueError(
                f"{self._generator.name} does not say its {', '.join(sorted(lacking))}:"
                " give frames= and size="
            )
        self.frames = int(self._settings["num_frames"])
        self.frame_size = (self._settings["height"], self._settings["width"])
        self.encoder = self._known.encoder if self._known else {}
        self._card = {
            **settings_card(self._generator.identity, self._settings),
            "source": goals.generator,
        }
        self.folder: Path | None = None
        if goals.cache is None or os.fspath(goals.cache):
            folder = Path(goals.cache or cache_folder("generated")).expanduser()
            # Candidates of one setting share a folder like one that `genreward
            # generate` writes, and can be packed from it.
            self.folder = folder / self.digest[:16]

    @property
    def digest(self) -> str:
        """The hash of the generator and of all settings."""
        return hashlib.sha256(canonical(lasting(self._card)).encode()).hexdigest()

    def __repr__(self) -> str:
        """Generator and prompt."""
        return (
            f"OwnGoals({self._goals.generator!r}, {self._settings['prompt']!r}: "
            f"{self._goals.videos} videos of {self.frames} frames)"
        )

    def __call__(self, frames: UInt8) -> list[Made]:
        """The goals of n episodes; those that are not in the cache are made in one
        batch.

        Raises:
            ValueError: The frames have another aspect ratio than the videos.
        """
        begun = perf_counter()
        self._check(frames)
        digests = [frame_digest(frame) for frame in frames]
        wanted = {
            (digest, noise_seed(digest, self._goals.seed, i)): frame
            for digest, frame in zip(digests, frames, strict=True)
            for i in range(self._goals.videos)
        }
        found = {key: self._load(*key) for key in wanted}
        videos = {key: video for key, video in found.items() if video is not None}
        missing = [key for key in wanted if key not in videos]
        lookup = (perf_counter() - begun) / len(frames)
        begun = perf_counter()
        for i in range(0, len(missing), self._goals.batch):
            part = missing[i : i + self._goals.batch]
            pictures = [wanted[key] for key in part]
            seeds = [seed for _, seed in part]
            made = self._generator.batch(self._settings, seeds, pictures)
            for key, video in zip(part, made, strict=True):
                videos[key] = self._keep(*key, video)
        share = (perf_counter() - begun) / max(len(missing), 1)
        # If several episodes have the same frame, the first one pays.
        unpaid = set(missing)
        results = []
        for digest in digests:
            keys = [key for key in wanted if key[0] == digest]
            own = [key for key in keys if key in unpaid]
            unpaid.difference_update(own)
            stack = np.stack([videos[key] for key in keys])
            results.append(Made(stack, lookup + share * len(own), not own))
        return results

    def path(self, digest: str, seed: int) -> Path | None:
        """Where the video of a frame's hash and a seed is kept, if videos are kept."""
        if self.folder is None:
            return None
        return self.folder / f"{PREFIX}-{digest[:24]}-{seed}.safetensors"

    def _load(self, *key: Any) -> UInt8 | None:
        """A video that was made before; None if there is none, or it is damaged."""
        path = self.path(*key)
        return None if path is None else self._cache(*key).get(path.stem)

    def _cache(self, *key: Any) -> Cache[UInt8]:
        assert self.folder is not None
        card = self._own_card(*key)

        def read(path: Path) -> UInt8:
            bundle = load_candidate(path)
            # The file itself has the full hashes; its name has only a part of them.
            unlike = differences(*map(lasting, (bundle.provenance[0], card)))
            if unlike:
                raise GoalError(f"{path} is another video: {'; '.join(unlike)}")
            video: UInt8 = bundle.videos[0]
            if video.shape[:3] != (self.frames, *self.frame_size):
                raise GoalError(f"{path} has a video of {video.shape}")
            return video

        def write(path: Path, video: UInt8) -> None:
            as_bundle(video, card).save(path)

        return Cache(self.folder, read, write)

    def _keep(self, digest: str, seed: int, video: UInt8) -> UInt8:
        """Keeps a new video, unless another process was faster."""
        if video.shape[:3] != (self.frames, *self.frame_size):
            raise ValueError(
                f"{self._goals.generator} was asked for {self.frames} frames of "
                f"{self.frame_size} (height, width), and made {video.shape[:3]}"
            )
        path = self.path(digest, seed)
        if path is None:
            return video
        there = self._load(digest, seed)
        if there is not None:
            return there
        self._cache(digest, seed).put(path.stem, video)
        return video

    def _own_card(self, digest: str, seed: int) -> dict[str, Any]:
        own = {"seed": seed, "start_seed": None, "first_frame": digest}
        return {**self._card, **own}

    def _check(self, frames: UInt8) -> None:
        if not same_aspect(frames[0], self._settings):
            height, width = frames.shape[1:3]
            raise ValueError(
                f"the environment's frames are {height}x{width} (height x width), "
                f"another aspect ratio than the {self.frame_size[0]}x"
                f"{self.frame_size[1]} of the videos that {self._goals.generator} "
                "makes: make the environment with frames of that ratio, or give "
                "size= of the frames' ratio where the generator allows it"
            )


_loaded: weakref.WeakValueDictionary[tuple[object, ...], Generator] = (
    weakref.WeakValueDictionary()
)


def load_generator(model: Model) -> Generator:
    """A generator, shared and loaded once by all that ask for the same."""
    folder = local_folder(model.source)
    stamp: list[object] = []
    if folder is not None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        stamp = [(f, f.stat().st_mtime_ns, f.stat().st_size) for f in files]
    key = (model, *stamp)
    found = _loaded.get(key)
    if found is None:
        found = Generator(model)
        _loaded[key] = found
    return found


def noise_seed(digest: str, seed: int, video: int) -> int:
    """The seed of a video's noise, which depends on its first frame and not on the
    settings.

    The same frame has the same noise whatever the number of steps, so that results can
    be compared.
    """
    text = f"{digest} {seed} {video}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _embedded(env_id: str | None) -> GoalBundle | None:
    """The embedded goal of an environment, if there is one."""
    if not env_id or not embedded_goals():
        return None
    try:
        return load_goal(None, env_id)
    except GoalError:
        return None
