"""What a run trains on and with: everything is loaded and encoded before it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genreward_wrappers.generators.checkpoints import load_pipeline
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.progress import OnProgress
from genreward_wrappers.training.finetuning.clips import CaptionedClip
from genreward_wrappers.training.finetuning.denoising import Denoising
from genreward_wrappers.training.finetuning.latents import (
    Latents,
    LatentsCache,
    Recipe,
    digest_of,
)
from genreward_wrappers.training.finetuning.objective import Objective
from genreward_wrappers.training.finetuning.place import Place
from genreward_wrappers.training.finetuning.settings import Finetuning, Plan
from genreward_wrappers.training.finetuning.tuner import Tuner
from genreward_wrappers.training.finetuning.vae import Reconstruction
from genreward_wrappers.training.finetuning.validate import Samples
from genreward_wrappers.training.finetuning.weights import Weights, cast

TEXT_PARTS = ("text_encoder", "tokenizer")

#: Frames of a clip, and their (height, width).
Shape = tuple[int, tuple[int, int]]


@dataclass(frozen=True)
class Job:
    """What is to be trained, and on what.

    Attributes:
        generator: The pipeline.
        clips: The clips to train it on.
        shape: The frames and the size of a clip.
        training: How it is trained.
        plan: How long, and what is made on the way.
        place: The process and its device.
        folder: The cache of latents and prompts.
        on_progress: Called with the number of clips encoded, and their total.
    """

    generator: Generator
    clips: list[CaptionedClip]
    shape: Shape
    training: Finetuning
    plan: Plan
    place: Place
    folder: Path
    on_progress: OnProgress


@dataclass(frozen=True)
class Begun:
    """A run that is ready to start or to resume.

    Attributes:
        tuner: Trains.
        digest: Differs between data.
        samples: Makes the sample videos in a folder; None where none are asked for.
    """

    tuner: Tuner
    digest: str
    samples: Callable[[Path], Samples] | None = None


def begin(job: Job) -> Begun:
    """Loads and encodes what a run needs."""
    return _vae(job) if job.training.method == "vae" else _transformer(job)


def _transformer(job: Job) -> Begun:
    """A transformer, on the latents of the clips."""
    pipeline, latents = _encode(job)
    device, dtype = job.place.device, job.generator.dtype
    objective = Objective(pipeline, *job.shape, device)
    transformer = pipeline.transformer.to(device)
    weights = Weights(transformer, job.training, dtype)
    _save_memory(transformer, job)
    task = Denoising(transformer, objective, latents, job.training, device, dtype)
    tuner = Tuner(weights, task, len(job.clips), job.training, job.place)
    held = tuner.held_rows.tolist()

    def samples(beside: Path) -> Samples:
        return Samples(pipeline, task, held, job.shape, job.plan, beside)

    return Begun(tuner, latents.digest, samples if job.plan.videos else None)


def _vae(job: Job) -> Begun:
    """A VAE, on the clips themselves."""
    generator, clips, shape = job.generator, job.clips, job.shape
    # It encodes eight frames at a time and decodes two latents at a time, the rest with
    # the first ones: clips of other lengths do not come back as they went in.
    chunk = 2 * int(generator.found.config("vae").get("temporal_compression_ratio", 4))
    if shape[0] % chunk != 1:
        raise ValueError(
            f"frames={shape[0]}: the VAE gives back clips of {chunk} k + 1 frames, as "
            f"{chunk + 1} or {2 * chunk + 1}"
        )
    pipeline = load_pipeline(
        generator.found, torch.float32, without=(*TEXT_PARTS, "transformer")
    )
    vae = pipeline.vae.to(job.place.device)
    _save_memory(vae, job)
    videos = []
    for done, clip in enumerate(clips):
        job.on_progress(done, len(clips))
        videos.append(clip.frames(*shape))
    job.on_progress(len(clips), len(clips))
    weights = Weights(vae, job.training, torch.float32)
    task = Reconstruction(vae, videos, job.place.device, generator.dtype)
    tuner = Tuner(weights, task, len(clips), job.training, job.place)
    digest = digest_of([[clip.digest for clip in clips], shape])
    return Begun(tuner, digest)


def _encode(job: Job) -> tuple[Any, Latents]:
    """The pipeline without its text encoder, and the encoded clips."""
    generator, clips, place = job.generator, job.clips, job.place
    store = LatentsCache(job.folder, _recipe(job))
    device, dtype = generator.device, _encoding_dtype(generator)
    texts = [clip.prompt for clip in clips]
    # What is trained as a whole is trained in full precision.
    loaded = torch.float32 if job.training.method == "full" else dtype
    with place.first():
        without = () if store.lacks_prompts(texts) else TEXT_PARTS
        pipeline = load_pipeline(generator.found, loaded, without=without)
        if not without:
            cast(pipeline.text_encoder, dtype)
            store.encode_prompts(pipeline, texts, device)
            pipeline.text_encoder = None
    vae = cast(pipeline.vae, dtype).to(device)
    if generator.model.tiling:
        vae.enable_tiling()
    if generator.model.slicing:
        vae.enable_slicing()
    # Each process encodes its share.
    store.encode_clips(vae, clips[place.rank :: place.count], device, job.on_progress)
    place.wait()
    vae.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return pipeline, store.latents(clips)


def _recipe(job: Job) -> Recipe:
    found = job.generator.found
    return Recipe(
        vae=found.hash_of("vae"),
        text=found.hash_of(*TEXT_PARTS),
        tokens=int(found.config("transformer").get("max_text_seq_length", 226)),
        frames=job.shape[0],
        size=job.shape[1],
        noised=job.training.noised,
        dtype=str(_encoding_dtype(job.generator)).removeprefix("torch."),
    )


def _encoding_dtype(generator: Generator) -> torch.dtype:
    # On a CPU, half precision is no faster for the VAE, and only less exact.
    return torch.float32 if generator.device.type == "cpu" else generator.dtype


def _save_memory(module: Any, job: Job) -> None:
    wanted = job.training.checkpointing
    if job.place.device.type == "cuda" if wanted is None else wanted:
        module.enable_gradient_checkpointing()
