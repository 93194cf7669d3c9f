"""Pipelines of diffusers that make videos from a prompt and mostly a first frame.

CogVideoX, Wan, LTX and similar pipelines are called according to their own signatures,
so any pipeline works that takes a ``prompt`` and ``num_frames``. One that takes an
``image`` continues that picture. It resizes the picture itself; the picture must have
the video's aspect ratio, since a squeezed goal looks like no frame of the environment.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from genreward_wrappers.checks import at_least
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.frames import image_size
from genreward_wrappers.encoders.base import resolve_device, resolve_dtype
from genreward_wrappers.encoders.texts import as_texts
from genreward_wrappers.extras import require
from genreward_wrappers.generators.checkpoints import (
    find_lora,
    find_pipeline,
    load_lora,
    load_pipeline,
)
from genreward_wrappers.generators.memory import memory_told
from genreward_wrappers.generators.pictures import to_frames
from genreward_wrappers.generators.quantisation import check_quantised
from genreward_wrappers.generators.settings import Model, Sampling
from genreward_wrappers.progress import OnProgress, no_progress

OFFLOADS = ("none", "model", "sequential")

#: Pipelines that take lists of pictures, prompts and generators: row i of what they
#: make depends on row i alone. Others are called once a video; Wan's takes one picture.
LISTS = (
    "CogVideoXImageToVideoPipeline",
    "CogVideoXPipeline",
    "LTXImageToVideoPipeline",
    "LTXPipeline",
)


class Generator:
    """A video pipeline that is found immediately and loaded when it is first needed.

    Attributes:
        found: The pipeline.
        device: Where it runs.
        dtype: The precision of the computation.
        identity: What its videos depend on: class, the hub's commit or a hash of the
            local files, LoRA, dtype. The location of the files is not part of it.
    """

    def __init__(self, model: Model) -> None:
        """Finds the pipeline and checks that all its parts are there.

        Args:
            model: The pipeline and how it is loaded.

        Raises:
            ImportError: A package is missing.
            FileNotFoundError: There is no such pipeline here, and it cannot be
                downloaded.
            ValueError: It lacks parts, or makes no videos from a prompt.
        """
        self.device = resolve_device(model.device)
        if model.offload not in OFFLOADS:
            raise ValueError(
                f"offload={model.offload!r}: expected one of {', '.join(OFFLOADS)}"
            )
        if model.offload != "none" and self.device.type == "cpu":
            raise ValueError(
                f"offload={model.offload!r} moves parts between a GPU and the CPU, and "
                'the device is the CPU: leave it at "none"'
            )
        check_quantised(model.quantise, self.device.type)
        on_gpu = self.device.type == "cuda"
        given = model.dtype or ("bfloat16" if on_gpu else "float32")
        self.model = replace(model, dtype=given)
        self.dtype = resolve_dtype(given)
        self.found = find_pipeline(model.source, model.revision, model.kind)
        self._lora = find_lora(model.lora) if model.lora else None
        self.takes = inspect.signature(self.found.kind.__call__).parameters
        self.name = self.found.kind.__name__
        if not {"prompt", "num_frames"} <= set(self.takes):
            raise ValueError(
                f"{model.source} is a {self.name}, which makes no videos of a prompt: "
                "its call has to take prompt and num_frames, as those of CogVideoX, "
                "Wan and LTX do"
            )
        self._check_channels()
        self.identity: dict[str, Any] = {
            "pipeline": self.name,
            "revision": self.found.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "tiling": model.tiling,
        }
        if model.quantise != "none":
            self.identity["quantise"] = model.quantise
        if self._lora is not None:
            self.identity["lora"] = {
                "file": self._lora.path.name,
                "sha256": self._lora.sha256,
                "scale": model.lora_scale,
            }
        self._pipeline: Any = None

    def __repr__(self) -> str:
        """Class, source and device."""
        return f"Generator({self.name}, {self.model.source!r}, {str(self.device)!r})"

    @property
    def wants_image(self) -> bool:
        """Whether it continues a picture."""
        return "image" in self.takes

    @property
    def pipeline(self) -> Any:
        """The pipeline, loaded when it is first asked for."""
        if self._pipeline is None:
            with memory_told(self.model):
                self._pipeline = self._load()
        return self._pipeline

    def unload(self) -> None:
        """Drops the pipeline; it is loaded again when it is needed."""
        self._pipeline = None

    def settings(self, sampling: Sampling) -> dict[str, Any]:
        """The arguments of the pipeline's call, with its own defaults filled in, as
        JSON.

        Raises:
            ValueError: The pipeline does not take an argument.
        """
        as_texts([sampling.prompt], "prompt")
        at_least(1, steps=sampling.steps, frames=sampling.frames)
        more = dict(sampling.more or {})
        ours = {"image", "generator", "output_type", "callback_on_step_end"}
        wrong = sorted(name for name in more if name not in self.takes or name in ours)
        if wrong:
            accepted = sorted(set(self.takes) - ours - {"self"})
            raise ValueError(
                f"{self.name} takes no {', '.join(wrong)} from outside; it takes "
                f"{', '.join(accepted)}"
            )
        given = {
            "prompt": sampling.prompt,
            "negative_prompt": sampling.negative or None,
            "num_inference_steps": sampling.steps,
            "guidance_scale": sampling.guidance,
            # CogVideoX keeps in the transformer what it was trained on; its call has
            # one default for all of them.
            "num_frames": sampling.frames
            or self.found.config("transformer").get("sample_frames"),
            **more,
        }
        own = self.found.sampling
        for name in list(given):
            if given[name] is not None and name not in self.takes:
                raise ValueError(f"{self.name} takes no {name}, got {given[name]!r}")
            if given[name] is None and name in self.takes:
                given[name] = own.get(name, _default(self.takes[name]))
        if sampling.size is not None:
            given["height"], given["width"] = image_size(sampling.size)
        else:
            given["height"], given["width"] = self._own_size()
        found = {name: value for name, value in given.items() if value is not None}
        self._check_shape(found)
        return found

    def check_image(self, image: UInt8 | None, settings: Mapping[str, Any]) -> None:
        """Raises if a picture is missing, not wanted, or of another aspect ratio."""
        if image is None:
            if self.wants_image:
                raise ValueError(
                    f"{self.name} continues a picture: give one, of an environment "
                    "(--env ID) or a file (--image FILE)"
                )
            return
        if not self.wants_image:
            raise ValueError(
                f"{self.name} makes videos of a prompt alone and takes no first frame: "
                "leave the picture out, or name a class that takes one and loads the "
                "same files, as --pipeline LTXImageToVideoPipeline"
            )
        if not same_aspect(image, settings):
            (height, width) = image.shape[:2]
            size = settings["height"], settings["width"]
            raise ValueError(
                f"the first frame is {height}x{width} (height x width), another aspect "
                f"ratio than the video's {size[0]}x{size[1]}: make the environment "
                f"with frames of that ratio (--env-arg 'size=({size[0]}, {size[1]})' "
                "where it takes a size), or give a --size of the frame's ratio where "
                "the model allows it"
            )

    def __call__(
        self,
        settings: Mapping[str, Any],
        seed: int,
        image: UInt8 | None = None,
        on_progress: OnProgress = no_progress,
    ) -> UInt8:
        """Makes one video.

        Args:
            settings: The arguments, as `settings` returns them.
            seed: The seed of the noise, which is drawn on the CPU and so does not
                depend on the device.
            image: (H, W, 3) uint8 RGB, the first frame.
            on_progress: Called with the number of denoising steps that are done, and of
                all.

        Returns:
            (T, height, width, 3) uint8 RGB.
        """
        self.check_image(image, settings)
        given: dict[str, Any] = {"generator": _noise(seed)}
        if image is not None:
            given["image"] = _picture(image)
        return self._call({**settings, **given}, on_progress)[0]

    def batch(
        self,
        settings: Mapping[str, Any],
        seeds: Sequence[int],
        images: Sequence[UInt8] | None = None,
        prompts: Sequence[str] | None = None,
        on_progress: OnProgress = no_progress,
    ) -> list[UInt8]:
        """Makes several videos, in one call if the pipeline takes lists.

        Up to rounding, each equals the video of a separate call.

        Args:
            settings: The arguments, as `settings` returns them.
            seeds: The seed of each video's noise.
            images: The first frame of each.
            prompts: The prompt of each; None takes that of the settings for all.
            on_progress: Called with the number of denoising steps that are done, and of
                all.
        """
        for name, given in (("images", images), ("prompts", prompts)):
            if given is not None and len(given) != len(seeds):
                raise ValueError(
                    f"{name}: expected one for each of {len(seeds)} seeds, got "
                    f"{len(given)}"
                )
        pictures: list[UInt8 | None] = [None] * len(seeds)
        if images is not None:
            pictures = list(images)
        for picture in pictures:
            self.check_image(picture, settings)
        texts = list(prompts or [settings["prompt"]] * len(seeds))
        if len(seeds) > 1 and self.name in LISTS:
            lists: dict[str, Any] = {
                "prompt": texts,
                "generator": [_noise(seed) for seed in seeds],
            }
            if images is not None:
                lists["image"] = [_picture(image) for image in images]
            return self._call({**settings, **lists}, on_progress)
        steps = int(settings.get("num_inference_steps", 1))
        videos = []
        rows = zip(seeds, texts, pictures, strict=True)
        for i, (seed, text, picture) in enumerate(rows):

            def after(done: int, of: int, before: int = i * steps) -> None:
                on_progress(before + done, steps * len(seeds))

            own = {**settings, "prompt": text}
            videos.append(self(own, seed, picture, after))
        return videos

    def _call(self, arguments: dict[str, Any], on_progress: OnProgress) -> list[UInt8]:
        """The videos of one call."""
        steps = int(arguments.get("num_inference_steps", 1))
        if "output_type" in self.takes:
            arguments["output_type"] = "np"
        if "callback_on_step_end" in self.takes:

            def after(_: Any, step: int, __: Any, tensors: Any) -> Any:
                on_progress(min(step + 1, steps), steps)
                return tensors

            arguments["callback_on_step_end"] = after
        pipeline = self.pipeline
        arguments.update(self._text_length())
        with memory_told(self.model), torch.inference_mode():
            made = pipeline(**arguments)
        videos = [to_frames(video, self.model.source) for video in made.frames]
        on_progress(steps, steps)
        return videos

    def _load(self) -> Any:
        pipeline = load_pipeline(self.found, self.dtype, quantise=self.model.quantise)
        if self._lora is not None:
            load_lora(pipeline, self._lora, self.model.lora_scale)
        for asked, name in (
            (self.model.tiling, "enable_tiling"),
            (self.model.slicing, "enable_slicing"),
        ):
            if asked:
                vae = getattr(pipeline, "vae", None)
                method = getattr(vae, name, None)
                if method is None:
                    raise ValueError(
                        f"the VAE of {self.model.source} is a {type(vae).__name__} "
                        f"without {name}"
                    )
                method()
        if self.model.offload == "none":
            pipeline.to(self.device)
        else:
            require("accelerate", "finetune", "--offload needs accelerate")
            if self.model.offload == "model":
                pipeline.enable_model_cpu_offload(device=self.device)
            else:
                pipeline.enable_sequential_cpu_offload(device=self.device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _own_size(self) -> tuple[int | None, int | None]:
        """The video's size if none is given: the call's default, or the model's."""
        sides = [
            _default(self.takes[s]) for s in ("height", "width") if s in self.takes
        ]
        if len(sides) == 2 and all(isinstance(side, int) for side in sides):
            return sides[0], sides[1]
        config, grain = self.found.config("transformer"), self.found.compression()[0]
        sides = [config.get(name) for name in ("sample_height", "sample_width")]
        if grain and all(isinstance(side, int) for side in sides):
            return sides[0] * grain, sides[1] * grain
        return None, None

    def _check_shape(self, found: Mapping[str, Any]) -> None:
        """Raises for frames and sizes that the pipeline would change or fail on."""
        space, time = self.found.compression()
        frames = found.get("num_frames")
        if time and frames is not None and (frames - 1) % time:
            low = (frames - 1) // time * time + 1
            raise ValueError(
                f"frames={frames}: {self.name} makes {time}k + 1 frames, {low} or "
                f"{low + time}"
            )
        transformer = self.found.config("transformer")
        own = self._own_size()
        size = found.get("height"), found.get("width")
        if transformer.get("use_learned_positional_embeddings") and size != own:
            raise ValueError(
                f"size={size}: {self.model.source} learned its positions at {own} "
                "(height, width) and makes videos of no other size"
            )
        patch = transformer.get("patch_size")
        patch = patch[-1] if isinstance(patch, (list, tuple)) else patch
        grain = space * (patch if isinstance(patch, int) else 1)
        for side in ("height", "width"):
            if grain and side in found and found[side] % grain:
                raise ValueError(
                    f"{side}={found[side]}: {self.name} needs a multiple of {grain}"
                )

    def _check_channels(self) -> None:
        """Raises if the denoiser of CogVideoX does not fit its VAE, or its task."""
        transformer, vae = self.found.config("transformer"), self.found.config("vae")
        taken, latent = transformer.get("in_channels"), vae.get("latent_channels")
        kind = transformer.get("_class_name")
        if kind != "CogVideoXTransformer3DModel" or not (taken and latent):
            return
        # The picture to continue adds as many channels as the noise has.
        needed = 2 * latent if self.wants_image else latent
        if taken != needed:
            raise ValueError(
                f"the transformer of {self.model.source} takes {taken} channels, and "
                f"a {self.name} over a VAE of {latent} channels gives it {needed}: "
                + (
                    "it was trained to continue no picture"
                    if self.wants_image and taken == latent
                    else "these parts do not belong together, or to another --pipeline"
                )
            )

    def _text_length(self) -> dict[str, int]:
        # CogVideoX has its number of tokens in the call and in the transformer, and
        # saves only the latter with the model.
        length = self.found.config("transformer").get("max_text_seq_length")
        if length is None or "max_sequence_length" not in self.takes:
            return {}
        return {"max_sequence_length": int(length)}


def same_aspect(image: UInt8, settings: Mapping[str, Any]) -> bool:
    """Whether a picture has the aspect ratio of the video, where that is known."""
    if "height" not in settings or "width" not in settings:
        return True
    height, width = image.shape[:2]
    # Allows rounding by half a pixel of the coarser of the two.
    slack = 0.5 * max(1.0, height / settings["height"])
    wanted = settings["width"] * height / settings["height"]
    return bool(abs(width - wanted) <= slack)


def _noise(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _picture(image: UInt8) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def _default(parameter: inspect.Parameter) -> Any:
    empty = parameter.default is inspect.Parameter.empty
    return None if empty else parameter.default
