"""From a generator and a data set to a fine-tuned generator: the run as a whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from genreward_wrappers.files import cache_folder
from genreward_wrappers.goal_pipeline.checkpoints import load_pipeline
from genreward_wrappers.goal_pipeline.finetuning.clips import Clip, find_clips
from genreward_wrappers.goal_pipeline.finetuning.latents import (
    Cache,
    Latents,
    Recipe,
    Tick,
)
from genreward_wrappers.goal_pipeline.finetuning.objective import Objective
from genreward_wrappers.goal_pipeline.finetuning.place import Place
from genreward_wrappers.goal_pipeline.finetuning.settings import Finetuning, Plan
from genreward_wrappers.goal_pipeline.finetuning.tuner import Tuner
from genreward_wrappers.goal_pipeline.finetuning.weights import (
    Weights,
    check_output,
    import_peft,
)
from genreward_wrappers.goal_pipeline.generators import Generator, Model, Sampling

#: The class of pipelines that can be fine-tuned.
KIND = "CogVideoXImageToVideoPipeline"
TEXT_PARTS = ("text_encoder", "tokenizer")


def finetune(
    model: str | Model,
    data: str | PathLike[str],
    output: str | PathLike[str],
    *,
    training: Finetuning | None = None,
    plan: Plan,
    prompt: str = "",
    prompts: Mapping[str, str] | None = None,
    failures: bool = False,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    cache: str | PathLike[str] | None = None,
    tick: Tick = lambda done, total: None,
) -> Path:
    """Fine-tunes a generator; goes on where an earlier call was stopped.

    Args:
        model: A folder or hub id of a `CogVideoXImageToVideoPipeline`, or a `Model`
            with the device, and the dtype to compute in.
        data: See `clips.find_clips`.
        output: A folder. For LoRA it gets ``pytorch_lora_weights.safetensors``, which
            ``genreward generate --lora`` reads; for all weights it becomes a pipeline.
        training: How to train.
        plan: How long, and what to do on the way.
        prompt: Of clips that have none of their own.
        prompts: Likewise, by the environment's id.
        failures: Whether episodes that did not succeed are taken, too.
        frames: Of a clip; None is the transformer's own number.
        size: (height, width) of a clip; None is the transformer's own.
        cache: A folder for latents and embeddings of prompts.
        tick: Told how many clips are encoded, and of how many.

    Returns:
        The output folder.

    Raises:
        ValueError: Data or pipeline do not do, or the checkpoint is of another run.
        FileNotFoundError: There is no such pipeline here, nor a way to fetch it.
    """
    training = training or Finetuning()
    output = Path(output)
    check_output(output)
    if training.method == "lora":
        import_peft()
    generator = _generator(model)
    frames, size = _shape(generator, frames, size)
    clips = find_clips(data, prompt=prompt, prompts=prompts, failures=failures)
    _check_count(clips, training)
    place = Place(generator.device)
    folder = cache_folder("latents") if cache is None else Path(cache)
    store = Cache(folder, _recipe(generator, frames, size, training))
    pipeline, latents = _encode(generator, store, clips, training, tick)
    tuner = _tuner(generator, pipeline, latents, frames, size, training, place)
    run = {
        **training.as_dict(),
        "model": generator.found.revision,
        "data": latents.digest,
        "dtype": generator.identity["dtype"],
    }
    path = plan.checkpoint or output.with_name(f"{output.name}.checkpoint")
    if path.exists():
        tuner.restore(path, run)
    figures = _fit(tuner, plan, lambda: tuner.save(path, run))
    tuner.weights.save(
        generator.found,
        generator.found.kind,
        output,
        {
            "step": "finetune",
            "source": generator.model.source,
            **run,
            "clips": len(tuner.trained_rows),
            "held out": len(tuner.held_rows),
            "prompts": sorted({clip.prompt for clip in clips}),
            "frames": frames,
            "size": list(size),
            "steps": tuner.step,
            "figures": figures,
        },
    )
    return output


def _fit(tuner: Tuner, plan: Plan, save: Callable[[], None]) -> dict[str, float]:
    """Trains until the plan's end, from wherever the tuner is."""
    losses: list[float] = []
    figures: dict[str, float] = {}
    with _stopping() as stopped:
        while (done := plan.done(tuner.step, tuner.elapsed)) < 1:
            begun = time.monotonic()
            rate = tuner.training.rate_at(tuner.step, done)
            found = tuner.update(rate)
            tuner.elapsed += time.monotonic() - begun
            losses.append(found["loss"])
            over = plan.done(tuner.step, tuner.elapsed) >= 1
            if tuner.step % plan.report == 0 or over:
                figures = {
                    **found,
                    "loss": sum(losses) / len(losses),
                    "learning_rate": rate,
                    "minutes": tuner.elapsed / 60,
                }
                losses.clear()
                plan.tell(tuner.step, figures)
            if plan.validate and tuner.step % plan.validate == 0:
                plan.tell(tuner.step, tuner.judge())
            if tuner.step % plan.every == 0 or over or stopped():
                save()
            if stopped():
                raise KeyboardInterrupt
    return {**figures, **tuner.judge()}


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Lets a step end before Ctrl-C, or the end of a cluster's time, stops the run.

    Yields:
        Whether it is to stop. The second Ctrl-C stops at once.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # Signals reach the main thread alone.
        yield lambda: False
        return

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _generator(model: str | Model) -> Generator:
    generator = Generator(model if isinstance(model, Model) else Model(model))
    if generator.name != KIND:
        raise ValueError(
            f"{generator.model.source} is a {generator.name}: only {KIND} can be "
            "fine-tuned"
        )
    if generator.model.lora or generator.model.offload != "none":
        raise ValueError("fine-tuning takes a pipeline without LoRA and offload")
    return generator


def _shape(
    generator: Generator, frames: int | None, size: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """Frames and size of a clip, as the pipeline itself allows them."""
    own = generator.found.config("transformer").get("sample_frames")
    settings = generator.settings(Sampling("a video", frames=frames or own, size=size))
    height, width = int(settings["height"]), int(settings["width"])
    return int(settings["num_frames"]), (height, width)


def _check_count(clips: list[Clip], training: Finetuning) -> None:
    from genreward_wrappers.goal_pipeline.finetuning.tuner import split

    if len(split(len(clips), training.held_out)[0]) == 0:
        raise ValueError(f"{len(clips)} clips are too few to train on")


def _recipe(
    generator: Generator, frames: int, size: tuple[int, int], training: Finetuning
) -> Recipe:
    found = generator.found
    return Recipe(
        vae=found.hash_of("vae"),
        text=found.hash_of(*TEXT_PARTS),
        tokens=int(found.config("transformer").get("max_text_seq_length", 226)),
        frames=frames,
        size=size,
        noised=training.noised,
        dtype=str(_encoding_dtype(generator)).removeprefix("torch."),
    )


def _encoding_dtype(generator: Generator) -> torch.dtype:
    # On a CPU, half precision is no faster for the VAE, and only less exact.
    return torch.float32 if generator.device.type == "cpu" else generator.dtype


def _encode(
    generator: Generator,
    store: Cache,
    clips: list[Clip],
    training: Finetuning,
    tick: Tick,
) -> tuple[Any, Latents]:
    """The pipeline without its text encoder, and the encoded clips."""
    device, dtype = generator.device, _encoding_dtype(generator)
    texts = [clip.prompt for clip in clips]
    without = () if store.lacks_prompts(texts) else TEXT_PARTS
    # What is trained as a whole is trained in full precision.
    loaded = torch.float32 if training.method == "full" else dtype
    pipeline = load_pipeline(generator.found, loaded, without)
    if not without:
        _cast(pipeline.text_encoder, dtype)
        store.encode_prompts(pipeline, texts, device)
        pipeline.text_encoder = None
    vae = _cast(pipeline.vae, dtype).to(device)
    if generator.model.tiling:
        vae.enable_tiling()
    if generator.model.slicing:
        vae.enable_slicing()
    store.encode_clips(vae, clips, device, tick)
    vae.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return pipeline, store.latents(clips)


def _cast(module: Any, dtype: torch.dtype) -> Any:
    # diffusers warns of casts, and those to the same dtype are none.
    return module if module.dtype == dtype else module.to(dtype)


def _tuner(
    generator: Generator,
    pipeline: Any,
    latents: Latents,
    frames: int,
    size: tuple[int, int],
    training: Finetuning,
    place: Place,
) -> Tuner:
    objective = Objective(pipeline, frames, size, place.device)
    weights = Weights(pipeline.transformer, training, generator.dtype)
    pipeline.transformer.to(place.device)
    weights.average = {n: w.to(place.device) for n, w in weights.average.items()}
    twice = training.checkpointing
    if twice or (twice is None and place.device.type == "cuda"):
        pipeline.transformer.enable_gradient_checkpointing()
    return Tuner(weights, objective, latents, training, place, generator.dtype)
