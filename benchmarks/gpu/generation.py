"""Making and fine-tuning videos with CogVideoX-5B's transformer at full size.

The text encoder is left out: its embeddings are drawn at random, as the weights are.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Row, Rows
from benchmarks.gpu.vaes import TINY as TINY_VAES
from genreward_wrappers.training.finetuning.denoising import Denoising
from genreward_wrappers.training.finetuning.objective import Objective
from genreward_wrappers.training.finetuning.place import Place
from genreward_wrappers.training.finetuning.settings import Finetuning
from genreward_wrappers.training.finetuning.tuner import Tuner
from genreward_wrappers.training.finetuning.weights import Weights

#: CogVideoX-5B-I2V as published, and one for a CPU.
TRANSFORMER: dict[bool, dict[str, Any]] = {
    False: {
        "num_attention_heads": 48,
        "num_layers": 42,
        "in_channels": 32,
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
    },
    True: {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 8,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": 16,
        "num_layers": 1,
        "sample_width": 6,
        "sample_height": 4,
        "sample_frames": 9,
        "max_text_seq_length": 8,
        "use_rotary_positional_embeddings": True,
    },
}
#: The clips that training draws from: latents cost the same wherever they come from.
CLIPS = 4


def rows(bench: Bench) -> Rows:
    """Seconds a denoising step, decoding, and a LoRA step, each with its options."""
    pipeline = cache(partial(_pipeline, bench))
    yield "denoising step", partial(_denoising, bench, pipeline)
    for option in ("whole", "tiling", "slicing"):
        yield f"decoding, {option}", partial(_decoding, bench, pipeline, option)
    for checkpointing in (True, False):
        name = f"LoRA step, {'' if checkpointing else 'no '}checkpointing"
        yield name, partial(_lora, bench, checkpointing)
    pipeline.cache_clear()
    yield "denoising step, offload=model", partial(_offloaded, bench, "model")
    yield "denoising step, offload=sequential", partial(_offloaded, bench, "sequential")


def _shape(bench: Bench) -> tuple[int, tuple[int, int]]:
    """Frames, and (height, width)."""
    return (9, (32, 48)) if bench.tiny else (49, (480, 720))


def _pipeline(bench: Bench, device: torch.device | None = None) -> Any:
    import diffusers

    bench = bench if device is None else Bench(device, bench.tiny)
    with bench.building():
        vae = diffusers.AutoencoderKLCogVideoX(
            **(TINY_VAES["CogVideoX"] if bench.tiny else {})
        )
        transformer = diffusers.CogVideoXTransformer3DModel(**TRANSFORMER[bench.tiny])
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction")
    pipeline = diffusers.CogVideoXImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _prompt(bench: Bench, device: torch.device, count: int = 1) -> Tensor:
    config = TRANSFORMER[bench.tiny]
    tokens, width = (
        config.get("max_text_seq_length", 226),
        config.get("text_embed_dim", 4096),
    )
    return torch.randn(count, tokens, width, dtype=torch.bfloat16, device=device)


def _denoising(bench: Bench, pipeline: Any, of: str = "none") -> Row:
    """Of two lengths, so that what is done once a video drops out."""
    from PIL import Image

    frames, (height, width) = _shape(bench)
    made = pipeline()
    picture = Image.fromarray(np.full((height, width, 3), 127, np.uint8))
    prompt = _prompt(bench, bench.device)

    def generate(steps: int) -> Any:
        with torch.inference_mode():
            return made(
                image=picture,
                prompt_embeds=prompt,
                negative_prompt_embeds=prompt,
                height=height,
                width=width,
                num_frames=frames,
                num_inference_steps=steps,
                output_type="latent",
            )

    short, long = (1, 2) if bench.tiny else (1, 3)
    few, _ = bench.measured(partial(generate, short), 1)
    many, memory = bench.measured(partial(generate, long), 1)
    each = (many - few) / (long - short)
    return {"s_a_step": each, "s_beside": few - short * each, "offload": of, **memory}


def _offloaded(bench: Bench, how: str) -> Row:
    """The same with parts in main memory while they are not needed."""
    if not bench.cuda:
        return {"left_out": "on a CPU there is nowhere to move parts to"}
    made = _pipeline(bench, torch.device("cpu"))
    getattr(made, f"enable_{how}_cpu_offload")(device=bench.device)
    return _denoising(bench, lambda: made, how)


def _decoding(bench: Bench, pipeline: Any, option: str) -> Row:
    """A whole video from its latents."""
    vae = pipeline().vae
    frames, (height, width) = _shape(bench)
    shape = (1, vae.config.latent_channels, (frames - 1) // 4 + 1)
    side = 2 ** (len(vae.config.block_out_channels) - 1)
    latents = torch.randn(
        *shape, height // side, width // side, dtype=torch.bfloat16, device=bench.device
    )
    if option != "whole":
        getattr(vae, f"enable_{option}")()
    try:
        with torch.inference_mode():
            seconds, memory = bench.measured(lambda: vae.decode(latents), 1)
    finally:
        vae.disable_tiling()
        vae.disable_slicing()
    return {"s_a_video": seconds, **memory}


class RandomLatents:
    """Latents of clips and prompts, in the form of `training.finetuning.latents`."""

    def __init__(self, bench: Bench, channels: int, latents: int, side: int) -> None:
        """Draws them."""
        _, (height, width) = _shape(bench)
        shape = (channels, height // side, width // side)
        self._videos = torch.randn(CLIPS, 2, latents, *shape)
        self._images = torch.randn(CLIPS, 1, 2, 1, *shape)
        self._prompts = _prompt(bench, torch.device("cpu"), CLIPS)

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of some clips, and of their first frames."""
        return self._videos[rows], self._images[rows]

    def prompts(self, rows: Tensor, empty: Tensor) -> Tensor:
        """Of some clips."""
        return self._prompts[rows]


def _lora(bench: Bench, checkpointing: bool) -> Row:
    """A gradient step of the published fine-tuning."""
    pipeline = _pipeline(bench)
    frames, size = _shape(bench)
    rank = 2 if bench.tiny else Finetuning().rank
    training = Finetuning(rank=rank, held_out=0)
    weights = Weights(pipeline.transformer, training, torch.bfloat16)
    if checkpointing:
        pipeline.transformer.enable_gradient_checkpointing()
    objective = Objective(pipeline, frames, size, bench.device)
    config = pipeline.vae.config
    side = 2 ** (len(config.block_out_channels) - 1)
    latents: Any = RandomLatents(
        bench, config.latent_channels, (frames - 1) // 4 + 1, side
    )
    task = Denoising(
        pipeline.transformer, objective, latents, training, bench.device, torch.bfloat16
    )
    tuner = Tuner(weights, task, CLIPS, training, Place(bench.device))
    seconds, memory = bench.measured(lambda: tuner.update(1e-4), 2)
    return {"s_a_step": seconds, "rank": rank, **memory}
