r"""Trains the small goal generator that the package carries with it.

A `CogVideoXImageToVideoPipeline` of diffusers, whole: the project's own video VAE, a
transformer of two million weights, a T5 encoder whose one layer is drawn at random and
stays so (of twenty prompts it has only to tell the words apart), and the words'
tokenizer. The transformer is trained by `genreward finetune` with all its weights, from
random ones, on successful and planned episodes of twenty tasks:

    python scripts/models/train_goal_generator.py runs/stack/training \
        --vae src/genreward_wrappers/assets/goal-generator-64/vae \
        --work runs/generator --minutes 72 --batch 16 --lr 1.5e-3 --dtype bfloat16 \
        --output src/genreward_wrappers/assets/goal-generator-64

Interrupted, the same command goes on. Before it trains it encodes, some eight minutes
for a thousand clips.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional
from collect_stack import SHOWS
from prompts import PROMPTS
from rounding import round_weights
from torch import Tensor
from training import forget_origin, log, write_json
from words import LENGTH, tokenizer

from genreward_wrappers.data.episodes import outcome
from genreward_wrappers.generators.settings import Model
from genreward_wrappers.training.finetuning.finetune import finetune
from genreward_wrappers.training.finetuning.settings import Finetuning, Plan

FRAMES = 17
#: What it is best called with; more steps or guidance make no better videos.
SAMPLING = {"guidance_scale": 1.0, "num_inference_steps": 20}
#: Of each task so many clips at least, some of them twice where there are fewer, and so
#: many at most.
CLIPS, MOST = 96, 192


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
        # Patches of 8x8 pixels, whatever the VAE: sixty-four a frame of latents. With
        # sixteen, a video costs a third, and what is small is lost.
        patch_size=side // 8,
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


#: torch's own, for what the plain one below cannot do.
_attend = torch.nn.functional.scaled_dot_product_attention


def attend(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
    """Attention in three steps, whose gradient takes a CPU half the time of torch's."""
    masked = given.get("attn_mask") is not None
    if masked or given.get("dropout_p") or given.get("is_causal"):
        return _attend(query, key, value, **given)
    *several, _, width = query.shape
    scale = given.get("scale") or width**-0.5
    q, k, v = (x.flatten(0, 1) for x in (query * scale, key, value))
    found = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return found.unflatten(0, several)


def choose(folders: list[Path], output: Path, most: int = MOST) -> None:
    """Links the episodes that show how it is done, of every task about as many.

    dm_control calls none a success: what its controllers do is taken for one.
    """
    found: dict[str, list[tuple[bool, str, Path]]] = {}
    for path in sorted(p for f in folders for p in f.rglob("*.safetensors")):
        succeeded, about = outcome(path)
        shows = str(about["policy"]).startswith(SHOWS)
        env_id = str(about["env_id"])
        if succeeded or (shows and env_id.startswith("dmc/")):
            # Those without noise first.
            lot = found.setdefault(env_id, [])
            lot.append((not shows, path.name, path))
    for env_id, lot in found.items():
        paths = [path for *_, path in sorted(lot)[:most]]
        folder = output / env_id.replace("/", "--")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(max(CLIPS, len(paths))):
            link = folder / f"{number}.safetensors"
            if not link.exists():
                os.link(paths[number % len(paths)], link)
        log(f"{env_id}: {len(paths)} different clips")


def main() -> None:
    """Assembles and trains."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("episodes", type=Path, nargs="+", help="folders of them")
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--vae", type=Path, help="a folder: begin with random weights")
    start.add_argument("--continued", type=Path, help="a generator's folder: go on")
    parser.add_argument("--work", type=Path, required=True, help="a folder")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--most", type=int, default=MOST, help="clips of a task")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    torch.nn.functional.scaled_dot_product_attention = attend
    base = args.work / "base"
    if args.continued:
        shutil.copytree(args.continued, base, dirs_exist_ok=True)
    elif not base.exists():
        pipeline(args.vae).save_pretrained(base)
    choose(args.episodes, args.work / "videos", args.most)
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
            on_progress=lambda step, figures: log(f"{step} {figures}"),
        ),
        prompts=PROMPTS,
        failures=True,
        cache=args.work / "latents",
        on_progress=lambda done, total: (
            done % 100 == 0 and log(f"clip {done} of {total}")
        ),
    )
    embed(trained, args.output, continued=bool(args.continued))


def embed(trained: Path, output: Path, continued: bool) -> None:
    """Copies what was trained, the transformer in few digits; the VAE is there."""
    from diffusers import CogVideoXTransformer3DModel

    for part in ("scheduler", "text_encoder", "tokenizer"):
        shutil.copytree(trained / part, output / part, dirs_exist_ok=True)
    shutil.copy(trained / "model_index.json", output)
    transformer = CogVideoXTransformer3DModel.from_pretrained(trained / "transformer")
    round_weights(transformer)
    transformer.save_pretrained(output / "transformer")
    forget_origin(output / "transformer" / "config.json")
    write_json(output / "sampling.json", SAMPLING)
    told = json.loads((trained / "finetune.json").read_text())
    told["source"] = told["model"] if continued else "random weights"
    write_json(output / "finetune.json", told)


if __name__ == "__main__":
    main()
