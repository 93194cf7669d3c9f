"""Goals of an episode's own first frame, generated when the episode begins.

Recorded goals cannot know where the target of *this* episode is; a generator that
continues the frame that the agent sees can. A video depends only on the frame and the
settings: its noise is drawn from a hash of the frame. It is therefore kept, as a
candidate like those of ``genreward generate``, and reused for the same frame.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
from genreward_wrappers.generators.checkpoints import local_folder
from genreward_wrappers.generators.pipeline import Generator, same_aspect
from genreward_wrappers.generators.settings import Model, Sampling

#: The generator that comes with this package, and how many steps it takes. They are
#: few, since every episode waits for them.
EMBEDDED, STEPS = "embedded:goal-generator-64", 8


@dataclass(frozen=True)
class GeneratedGoals:
    """How the goals of episodes are generated from their first frames.

    A wrapper takes it as its ``goal=``, or a mapping with the same names;
    ``goal="generated"`` is ``GeneratedGoals()``.

    Attributes:
        generator: A local folder, a hub id or ``embedded:<name>``: a pipeline of
            diffusers that continues a picture.
        prompt: The task in words; empty takes that of the environment's embedded goal.
        videos: The number of videos of each first frame.
        steps: The number of denoising steps; None is the pipeline's default.
        guidance: The scale of classifier-free guidance; None is the pipeline's default.
            1 switches it off, which halves the time.
        frames: The number of frames of a video, which spans the whole episode; None is
            the pipeline's default.
        size: (height, width) of a video; None is the pipeline's default.
        negative: What the videos should not show.
        more: Further arguments of the pipeline by name.
        seed: Another seed gives other videos for the same frames.
        batch: The largest number of videos to make at once.
        cache: The folder that keeps the videos; None is the user's cache, and an empty
            string keeps none.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The precision of the pipeline; None is bfloat16 on a GPU, otherwise
            float32.
        model: Further fields of `generators.Model` by name, such as ``lora``.

    Example:
        >>> GeneratedGoals(prompt="reach the red target", steps=4).as_mapping()
        {'prompt': 'reach the red target', 'steps': 4}
    """

    generator: str = EMBEDDED
    prompt: str = ""
    videos: int = 1
    steps: int | None = STEPS
    guidance: float | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    negative: str = ""
    more: Mapping[str, Any] | None = None
    seed: int = 0
    batch: int = 16
    cache: str | os.PathLike[str] | None = None
    device: str = "auto"
    dtype: str | None = None
    model: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, low in (("videos", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ValueError(
                    f"{name}={value!r}: expected a whole number of at least {low}"
                )
        if not isinstance(self.prompt, str) or not isinstance(self.generator, str):
            raise TypeError(
                "expected a folder or id as generator= and words as prompt=, got "
                f"generator={self.generator!r} and prompt={self.prompt!r}"
            )
        ours = {"source", "device", "dtype"}
        _check_names("model=", self.model or {}, _names(Model) - ours)

    @classmethod
    def of(cls, goal: GeneratedGoals | Mapping[str, Any] | str) -> GeneratedGoals:
        """The goals that a wrapper's ``goal=`` stands for.

        Raises:
            ValueError: A name is not a field.
        """
        if isinstance(goal, GeneratedGoals):
            return goal
        given = {} if isinstance(goal, str) else goal
        _check_names("goal=", given, _names(cls))
        size = given.get("size")
        return cls(**{**given, "size": None if size is None else tuple(size)})

    def as_mapping(self) -> dict[str, Any]:
        """The fields that differ from the defaults, for JSON."""
        default = asdict(type(self)())
        given = {k: v for k, v in asdict(self).items() if v != default[k]}
        if "cache" in given:
            given["cache"] = os.fspath(given["cache"])
        if "size" in given:
            # As JSON restores it.
            given["size"] = list(given["size"])
        return given

    def maker(self, env_id: str | None = None) -> OwnGoals:
        """The maker for an environment's id; it loads nothing yet."""
        return OwnGoals(self, env_id)


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
            goals.steps,
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


def _names(cls: Any) -> set[str]:
    return {field.name for field in fields(cls)}


def _check_names(what: str, given: Mapping[str, Any], accepted: set[str]) -> None:
    for name in given:
        if name in accepted:
            continue
        close = difflib.get_close_matches(str(name), accepted, n=1)
        raise ValueError(
            f"{what} has no {name!r}"
            + (f" (did you mean {close[0]!r}?)" if close else "")
            + f"; it takes {', '.join(sorted(accepted))}"
        )
