"""From a generator and a data set to a fine-tuned generator: the run as a whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from genreward_wrappers.data.cache import cache_folder
from genreward_wrappers.encoders.base import resolve_device
from genreward_wrappers.encoders.memory import memory_limit
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model, Sampling
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.training.finetuning.begin import Job, Shape, begin
from genreward_wrappers.training.finetuning.clips import find_clips
from genreward_wrappers.training.finetuning.place import find_place
from genreward_wrappers.training.finetuning.settings import Finetuning, Plan
from genreward_wrappers.training.finetuning.tuner import Tuner, split
from genreward_wrappers.training.finetuning.weights import (
    check_output,
    import_peft,
)

#: The class of pipelines that can be fine-tuned.
KIND = "CogVideoXImageToVideoPipeline"

Figures = dict[str, float]


def finetune(
    model: str | Model,
    data: str | PathLike[str],
    output: str | PathLike[str],
    *,
    plan: Plan,
    training: Finetuning | None = None,
    prompt: str = "",
    prompts: Mapping[str, str] | None = None,
    failures: bool = False,
    camera: str = "",
    source: str = "",
    fit: str = "",
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    cache: str | PathLike[str] | None = None,
    on_progress: OnProgress = no_progress,
) -> Path:
    """Fine-tunes a generator; an interrupted run resumes.

    Args:
        model: A folder or hub id of a `CogVideoXImageToVideoPipeline`, or a `Model`
            with the device, and the dtype to compute in.
        data: The clips to train on; see `clips.find_clips`.
        output: A folder. LoRA writes ``pytorch_lora_weights.safetensors`` there, which
            ``genreward generate --lora`` reads; other methods write a pipeline.
        plan: How long to train, and what to do on the way.
        training: How to train.
        prompt: The prompt of clips that have none of their own.
        prompts: Such prompts by the name of a file or the id of an environment.
        failures: Whether episodes that did not succeed are taken as well.
        camera: The camera of a data set that has several.
        source: What the data are, "bridge", "rt1" or "rlbench"; see
            `sources.SOURCES`.
        fit: "crop" or "pad" makes frames of another shape fit; empty refuses them.
        frames: The number of frames of a clip; None is the transformer's own.
        size: The (height, width) of a clip; None is the transformer's own.
        cache: A folder for latents and embeddings of prompts.
        on_progress: Called with the number of clips encoded, and their total.

    Returns:
        The output folder.

    Raises:
        ValueError: Data or pipeline do not fit, the checkpoint is of another run, or
            the memory is too small.
        FileNotFoundError: There is no such pipeline here, and no way to fetch it.
        ImportError: A package is missing.
    """
    training = training or Finetuning()
    output = Path(output)
    check_output(output)
    if training.method == "lora":
        import_peft()
    asked = model if isinstance(model, Model) else Model(model)
    place = find_place(resolve_device(asked.device))
    generator = _generator(replace(asked, device=str(place.device)))
    shape = _shape(generator, frames, size)
    clips = find_clips(
        data,
        prompt=prompt,
        prompts=prompts,
        failures=failures,
        camera=camera,
        source=source,
        fit=fit,
    )
    if len(split(len(clips), training.held_out)[0]) == 0:
        raise ValueError(f"{len(clips)} clip is too little to train on")
    beside = output.with_name(f"{output.name}.validation")
    folder = cache_folder("latents") if cache is None else Path(cache)
    with memory_limit(generator.model.source, _ways(training, generator.model, shape)):
        begun = begin(
            Job(generator, clips, shape, training, plan, place, folder, on_progress)
        )
        tuner = begun.tuner
        if plan.videos and not (begun.samples and len(tuner.held_rows)):
            raise ValueError(
                f"videos={plan.videos}: a transformer makes them, of clips that are "
                f"held out; held_out={training.held_out} leaves none of {len(clips)}"
                + (", and this is the VAE" if training.method == "vae" else "")
            )
        run = {
            **training.as_dict(),
            "model": generator.found.revision,
            "data": begun.digest,
            "dtype": generator.identity["dtype"],
        }
        path = plan.checkpoint or output.with_name(f"{output.name}.checkpoint")
        if path.exists():
            tuner.restore(path, run)
        place.wait()

        def judge() -> Figures:
            samples = begun.samples(beside) if begun.samples else None
            drawn = samples.make(tuner.step, tuner.weights) if samples else {}
            return {**tuner.judge(), **drawn}

        figures = _fit(tuner, plan, lambda: tuner.save(path, run), judge)
    if place.rank == 0:
        card = {
            "step": "finetune",
            "source": generator.model.source,
            **run,
            "clips": len(tuner.trained_rows),
            "held out": len(tuner.held_rows),
            "prompts": sorted({clip.prompt for clip in clips}),
            "frames": shape[0],
            "size": list(shape[1]),
            "steps": tuner.step,
            "processes": place.count,
            "figures": figures,
        }
        tuner.weights.save(generator.found, generator.found.kind, output, card)
    place.wait()
    return output


def _fit(
    tuner: Tuner,
    plan: Plan,
    save: Callable[[], None],
    judge: Callable[[], Figures],
) -> Figures:
    """Trains until the plan's end, from wherever the tuner is."""
    place = tuner.place
    losses: list[float] = []
    figures: Figures = {}
    judged: Figures = {}
    over = False

    def alone(act: Callable[[], Any]) -> Any:
        # What one process does for all, while the others wait.
        found = act() if place.rank == 0 else {}
        place.wait()
        return found

    with _stopping() as stopped:
        while (done := plan.done(tuner.step, tuner.elapsed)) < 1:
            begun = time.monotonic()
            rate = tuner.training.rate_at(tuner.step, done)
            found = tuner.update(rate)
            took = time.monotonic() - begun
            # Processes have clocks and signals of their own, and must act as one.
            took, stop = place.means([took, float(stopped())])
            tuner.elapsed += took
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
                if place.rank == 0:
                    plan.on_progress(tuner.step, figures)
            if tuner.step % plan.every == 0 or over or stop:
                alone(save)
            if stop:
                raise KeyboardInterrupt
            if over or (plan.validate and tuner.step % plan.validate == 0):
                judged = alone(judge)
                if place.rank == 0 and judged:
                    plan.on_progress(tuner.step, judged)
        if not over:
            # It was over when it was stopped.
            judged = alone(tuner.judge)
    return {**figures, **judged}


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


def _generator(model: Model) -> Generator:
    if model.lora or model.offload != "none":
        raise ValueError(
            "fine-tuning takes a pipeline without LoRA and without offload"
        )
    generator = Generator(model)
    if generator.name != KIND:
        raise ValueError(
            f"{model.source} is a {generator.name}: only a {KIND} can be fine-tuned"
        )
    return generator


def _shape(
    generator: Generator, frames: int | None, size: tuple[int, int] | None
) -> Shape:
    """Frames and size of a clip, as the pipeline itself allows them."""
    settings = generator.settings(Sampling("a video", frames=frames, size=size))
    height, width = int(settings["height"]), int(settings["width"])
    return int(settings["num_frames"]), (height, width)


def _ways(
    training: Finetuning, model: Model, shape: Shape
) -> Callable[[bool], list[str]]:
    """What would help if memory runs out."""

    def ways(on_cpu: bool) -> list[str]:
        found = []
        if training.method == "full":
            found.append("--method lora")
        if training.batch > 1:
            found.append(f"--batch 1 --accumulate {training.batch}")
        if training.checkpointing is False or (
            training.checkpointing is None and on_cpu
        ):
            found.append("--checkpointing")
        if model.dtype in (None, "float32"):
            found.append("--dtype bfloat16")
        if not (model.tiling and model.slicing):
            found.append("--tiling --slicing, if it fails while encoding")
        if training.ema:
            found.append("--ema 0")
        return [*found, f"fewer --frames than {shape[0]} or a smaller --size"]

    return ways
