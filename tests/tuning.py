"""What the tests of fine-tuning share: a small pipeline and episodes to train it on."""

from __future__ import annotations

import numpy as np

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.generators.settings import Model
from genreward_wrappers.training.finetuning.finetune import finetune
from genreward_wrappers.training.finetuning.settings import Finetuning, Plan
from tests.video_pipelines import cogvideox

FRAMES, SIZE = 9, (32, 48)
PROMPTS = ("push the disc", "push the disc away")
WHOLE = Finetuning(
    method="full", learning_rate=3e-3, warm_up=2, batch=2, held_out=3, ema=0.9
)
LORA = Finetuning(method="lora", rank=2, learning_rate=1e-2, warm_up=0, held_out=3)


def save_base(folder):
    """A pipeline whose VAE halves the sides twice, with patches of four."""
    transformer = {"patch_size": 4, "sample_height": 8, "sample_width": 12}
    cogvideox(vae={"blocks": 3}, transformer=transformer).save_pretrained(folder)


def make_episode(seed, success=True, steps=16, **info):
    """A square that slides over a wall of one colour."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((steps + 1, *SIZE, 3), np.uint8)
    frames[:] = rng.integers(0, 256, 3)
    top = int(rng.integers(0, SIZE[0] - 8))
    for t, frame in enumerate(frames):
        frame[top : top + 8, 2 * t : 2 * t + 8] = 255
    return Episode(
        frames=frames,
        frame_steps=np.arange(steps + 1, dtype=np.int64),
        actions=np.zeros((steps, 1), np.float32),
        success=np.arange(steps) >= (steps - 1 if success else steps),
        info={"env_id": "test/slide", "seed": seed, **info},
    )


def save_episodes(folder):
    """Four that succeed, of two prompts, and one that does not."""
    for seed in range(4):
        episode = make_episode(seed, prompt=PROMPTS[seed % 2])
        episode.save(folder / f"e-{seed}.safetensors")
    make_episode(9, success=False).save(folder / "lost" / "e-9.safetensors")


def tuned(
    base,
    data,
    output,
    cache,
    training=WHOLE,
    dtype="float32",
    source="",
    fit="",
    **plan,
):
    """Six steps, or what the plan says."""
    return finetune(
        Model(str(base), device="cpu", dtype=dtype),
        data,
        output,
        training=training,
        plan=Plan(**{"steps": 6, "every": 1, "report": 1, **plan}),
        cache=cache,
        source=source,
        fit=fit,
    )


def weights_of(folder, part="transformer"):
    """The weights of a pipeline's model."""
    from safetensors.torch import load_file

    return load_file(folder / part / "diffusion_pytorch_model.safetensors")
