r"""Trains the small goal generator that the package carries with it.

A `CogVideoXImageToVideoPipeline` of diffusers, whole: the project's own video VAE, a
transformer of two million weights, a T5 encoder whose one layer is drawn at random and
stays so (of twenty prompts it has only to tell the words apart), and the words'
tokenizer. The transformer is trained by `genreward finetune` with all its weights, from
random ones, on successful and planned episodes of twenty tasks:

    python scripts/train_goal_generator.py runs/stack/training runs/episodes \
        --vae src/genreward_wrappers/assets/video-vae-64 --work runs/generator \
        --output src/genreward_wrappers/assets/goal-generator-64 --minutes 60

Interrupted, the same command goes on. An hour on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from prompts import PROMPTS
from rounding import coarse
from training import log, write_json
from words import LENGTH, tokenizer

from genreward_wrappers.episodes import outcome
from genreward_wrappers.goal_pipeline.finetuning.finetune import finetune
from genreward_wrappers.goal_pipeline.finetuning.settings import Finetuning, Plan
from genreward_wrappers.goal_pipeline.generators import Model

FRAMES = 17
#: What it is best called with; more steps or guidance make no better videos.
SAMPLING = {"guidance_scale": 1.0, "num_inference_steps": 20}
#: Whose episodes show how a task is done, though dm_control calls none a success.
SHOWS = ("scripted", "planned")
#: Of each task so many clips, some of them twice where there are fewer.
CLIPS = 72


def pipeline(vae: Path) -> Any:
    """The pipeline with a transformer that knows nothing yet."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXImageToVideoPipeline,
        CogVideoXTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel

    words = tokenizer()
    width = 64
    text = T5EncoderModel(
        T5Config(
            vocab_size=len(words),
            d_model=width,
            d_kv=32,
            d_ff=128,
            num_layers=1,
            num_heads=2,
        )
    )
    coder = AutoencoderKLCogVideoX.from_pretrained(vae)
    channels = coder.config.latent_channels
    side = 64 // 2 ** (len(coder.config.block_out_channels) - 1)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=5,
        attention_head_dim=32,
        in_channels=2 * channels,
        out_channels=channels,
        time_embed_dim=64,
        text_embed_dim=width,
        num_layers=5,
        sample_width=side,
        sample_height=side,
        sample_frames=FRAMES,
        # Patches of 16x16 pixels, whatever the VAE: sixteen a frame of latents.
        patch_size=side // 4,
        max_text_seq_length=LENGTH,
        use_rotary_positional_embeddings=True,
    )
    scheduler = CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=1.0,
        clip_sample=False,
        set_alpha_to_one=True,
    )
    return CogVideoXImageToVideoPipeline(words, text, coder, transformer, scheduler)


def choose(folders: list[Path], output: Path) -> None:
    """Links the episodes that show how it is done, of every task as many."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for f in folders for p in f.rglob("*.safetensors")):
        succeeded, about = outcome(path)
        if succeeded or about["policy"] in SHOWS:
            found.setdefault(str(about["env_id"]), []).append(path)
    for env_id, paths in found.items():
        # Those without noise first.
        paths.sort(key=lambda path: (path.name.split("-")[0] not in SHOWS, path.name))
        folder = output / env_id.replace("/", "--")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(CLIPS):
            link = folder / f"{number}.safetensors"
            if not link.exists():
                os.link(paths[number % len(paths)], link)
        log(f"{env_id}: {min(CLIPS, len(paths))} different clips")


def main() -> None:
    """Assembles and trains."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("episodes", type=Path, nargs="+", help="folders of them")
    parser.add_argument("--vae", type=Path, required=True, help="a folder")
    parser.add_argument("--work", type=Path, required=True, help="a folder")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    base = args.work / "base"
    if not base.exists():
        pipeline(args.vae).save_pretrained(base)
    choose(args.episodes, args.work / "videos")
    trained = args.work / "trained"
    finetune(
        Model(str(base), device="cpu", dtype=args.dtype),
        args.work / "videos",
        trained,
        training=Finetuning(
            method="full",
            learning_rate=args.lr,
            warm_up=200,
            batch=args.batch,
            prompt_dropout=0.1,
            image_dropout=0.0,
            noised=0,
            ema=0.998,
            held_out=24,
            seed=args.seed,
        ),
        plan=Plan(
            minutes=args.minutes,
            checkpoint=args.work / "checkpoint",
            every=100,
            report=25,
            validate=250,
            tell=lambda step, figures: log(f"{step} {figures}"),
        ),
        prompts=PROMPTS,
        failures=True,
        cache=args.work / "latents",
        tick=lambda done, total: done % 100 == 0 and log(f"clip {done} of {total}"),
    )
    embed(trained, args.output)


def embed(trained: Path, output: Path) -> None:
    """Copies what was trained, the transformer in few digits; the VAE is there."""
    from diffusers import CogVideoXTransformer3DModel

    for part in ("scheduler", "text_encoder", "tokenizer"):
        shutil.copytree(trained / part, output / part, dirs_exist_ok=True)
    shutil.copy(trained / "model_index.json", output)
    transformer = CogVideoXTransformer3DModel.from_pretrained(trained / "transformer")
    rounded = {name: coarse(t) for name, t in transformer.state_dict().items()}
    transformer.half().load_state_dict(rounded)
    transformer.save_pretrained(output / "transformer")
    config = output / "transformer" / "config.json"
    named = json.loads(config.read_text())
    # Where it lay on this machine is nobody's business.
    named.pop("_name_or_path", None)
    write_json(config, named)
    write_json(output / "sampling.json", SAMPLING)
    told = json.loads((trained / "finetune.json").read_text())
    told["source"] = "random weights"
    write_json(output / "finetune.json", told)


if __name__ == "__main__":
    main()
