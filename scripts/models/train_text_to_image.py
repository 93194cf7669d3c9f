r"""Trains a small text-to-image pipeline, for TADPoLe to run on without a network.

A `StableDiffusionPipeline` of diffusers, whole: a VAE of pictures, a CLIP text model of
two layers over the words of ``words.py``, and a U-net of a million weights. Its
tokenizer is T5's class, since that can hold whole words and no letters: what is not
among them is the unknown word, which the library warns of.

    python scripts/models/train_text_to_image.py runs/stack/training \
        --held-out runs/stack/held-out --output models/text-to-image-64 \
        --vae src/genreward_wrappers/assets/goal-generator-64/vae

The VAE's encoder is the video VAE's: a network that is causal in time sees a still
picture three times, so that its weights, summed over time, do the same in two
dimensions. Its decoder begins with the video VAE's weights and is trained a little,
since it has simpler norms. Then text model and U-net are trained together, by the plain
loss of diffusion on the latents. By steps, so that the same command makes the same
weights on the same machine. What there is is written now and then, too.
``judge_text_to_image.py`` says what it is worth as a reward.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from rounding import coarse, round_weights
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from train_clip import TEXTS, Pictures, tokens, truth
from train_video_vae import (
    Videos,
    decode,
    encode,
    psnr,
    spread,
    usual_pictures,
)
from training import descend, log, published, write_json
from transformers import CLIPTextConfig, CLIPTextModel
from words import LENGTH, tokenizer

from genreward_wrappers.training.finetuning.settings import Finetuning
from genreward_wrappers.training.finetuning.vae import MOVING_WEIGHT

#: Of the VAE's training and of the denoiser's.
PICTURES, BATCH = 16, 32
#: How often the empty text stands for a picture's own: what `e_u` is learned from.
DROPPED = 0.12
#: How much of the averaged weights a step leaves as it was.
KEPT = 0.995
#: The noise at which held-out pictures are judged, TADPoLe's.
LEVELS = (400, 500)

Latents = dict[tuple[str, str], Tensor]


def build_vae() -> AutoencoderKL:
    """A VAE of pictures in the shape of the embedded video VAE."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def still(video: AutoencoderKLCogVideoX) -> AutoencoderKL:
    """The VAE of pictures that a video VAE is for single frames.

    Its encoder does the same. Its decoder nearly so: the video VAE's norms depend on
    the latents, here they are what those are for latents of zero.
    """
    given = video.state_dict()
    found = {}
    for name, weight in given.items():
        if ".conv_y." in name or ".conv_b." in name:
            continue
        norm, is_norm, part = name.partition(".norm_layer.")
        if is_norm:
            weight = weight * given[f"{norm}.conv_y.conv.bias"]
            if part == "bias":
                weight = weight + given[f"{norm}.conv_b.conv.bias"]
            name = f"{norm}.{part}"
        if "samplers" not in name:
            name = name.replace(".conv.", ".")
        # A causal network repeats the first frame before it.
        picture = weight.sum(2) if weight.ndim == 5 else weight
        found[name.replace("norm_out", "conv_norm_out")] = picture
    vae = build_vae()
    vae.load_state_dict(found)
    return vae


def train_vae(
    args: argparse.Namespace, training: Videos, held_out: Videos
) -> tuple[AutoencoderKL, dict[str, Any]]:
    """The VAE, its decoder trained on single frames, and its figures."""
    source = AutoencoderKLCogVideoX.from_pretrained(args.vae, torch_dtype=torch.float32)
    vae = still(source.eval()).eval()
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), args.vae_lr)
    schedule = Finetuning(learning_rate=args.vae_lr, warm_up=9)
    mean = 0.0
    for step in range(args.vae_steps):
        rng = np.random.default_rng((args.seed, step))
        video, moving = training.clips(rng, PICTURES, 1)
        pictures, moving = video[:, :, 0], moving[:, :, 0]
        with torch.no_grad():
            latents = vae.encode(2 * pictures - 1).latent_dist.mode()
        error = (vae.decode(latents).sample / 2 + 0.5 - pictures).abs()
        weight = 1 + MOVING_WEIGHT * moving
        loss = (error * weight).mean() / weight.mean()
        rate = schedule.rate_at(step, step / args.vae_steps)
        descend(loss, vae.decoder, optimizer, rate)
        mean += (error.mean().item() - mean) / min(step + 1, 20)
        if (step + 1) % 20 == 0:
            log(f"VAE step {step + 1}, L1 {mean:.4f}")
    vae.load_state_dict({n: coarse(t).float() for n, t in vae.state_dict().items()})
    figures = {
        "steps": args.vae_steps,
        "batch": PICTURES,
        **report_vae(vae, held_out),
    }
    log(f"VAE: {json.dumps(figures)}")
    return vae, figures


class Learner(nn.Module):
    """The U-net and the text model, which are trained together."""

    def __init__(self) -> None:
        """Draws the weights."""
        super().__init__()
        words, width = tokenizer(), 64
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=width,
                intermediate_size=2 * width,
                projection_dim=width,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=LENGTH,
                bos_token_id=words.eos_token_id,
                eos_token_id=words.eos_token_id,
                pad_token_id=words.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=8,
            out_channels=8,
            block_out_channels=(32, 48, 48),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=width,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        # All texts at once, and the empty one last.
        empty = words(
            "", return_tensors="pt", max_length=LENGTH, padding="max_length"
        ).input_ids
        self.register_buffer("ids", torch.cat([tokens(), empty]), persistent=False)

    def forward(self, noisy: Tensor, t: Tensor, texts: Tensor) -> Tensor:
        """The noise that it sees, given the numbers of the texts."""
        hidden = self.text_encoder(self.ids).last_hidden_state[texts]
        seen: Tensor = self.unet(noisy, t, encoder_hidden_states=hidden).sample
        return seen


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's own."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def report_vae(vae: AutoencoderKL, held_out: Videos) -> dict[str, float]:
    """How well it gives held-out frames back, three of every episode."""
    clips, moving = spread(held_out, 3)
    usual = usual_pictures(held_out).expand_as(clips)
    pictures, usual, moving = (
        part.transpose(1, 2).flatten(0, 1) for part in (clips, usual, moving)
    )
    latents = encode(vae, pictures)
    decoded = decode(vae, latents)
    figures = {
        "psnr": psnr(pictures, decoded, torch.ones_like(moving)),
        "psnr_moving": psnr(pictures, decoded, moving),
        # What the task's usual look scores: a network that lost the arm.
        "psnr_moving_usual": psnr(pictures, usual, moving),
        "held_out_pictures": len(pictures),
    }
    return {name: round(figure, 3) for name, figure in figures.items()}


def cached(vae: AutoencoderKL, pictures: Pictures) -> Latents:
    """The latents of all pictures."""
    return {
        key: encode(vae, torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
        for key, frames in pictures.frames.items()
    }


def draw(
    pictures: Pictures, latents: Latents, rng: np.random.Generator, count: int
) -> tuple[Tensor, Tensor]:
    """Latents, and for each the number of one text that is true of it."""
    chosen = pictures.choose(rng, count)
    texts = [int(rng.choice(np.flatnonzero(truth(*key)))) for key, _ in chosen]
    return torch.stack([latents[k][i] for k, i in chosen]), torch.tensor(texts)


def train(args: argparse.Namespace) -> None:
    """Trains the VAE's decoder, then text model and U-net, and writes the pipeline."""
    torch.manual_seed(args.seed)
    training = Videos.load(args.episodes)
    vae, vae_figures = train_vae(
        args, training, Videos.load([args.held_out], training.usual)
    )
    pictures = Pictures.load(args.episodes, most=args.pictures)
    latents = cached(vae, pictures)
    spread_of = torch.cat(list(latents.values())).std()
    vae.register_to_config(scaling_factor=round(1 / float(spread_of), 6))
    held_out = Pictures.load([args.held_out], most=8)
    unseen = draw(held_out, cached(vae, held_out), np.random.default_rng(0), 256)
    scale = vae.config.scaling_factor
    latents = {key: scale * part for key, part in latents.items()}
    unseen = scale * unseen[0], unseen[1]
    learner, scheduler = Learner(), noise_schedule()
    sizes = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (("vae", vae), *learner.named_children())
    }
    log(f"parameters {sizes}, pictures {sum(map(len, latents.values()))}")
    optimizer = torch.optim.AdamW(learner.parameters(), args.lr, weight_decay=1e-2)
    average = AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(KEPT))
    schedule = Finetuning(learning_rate=args.lr, warm_up=99)
    # The encoder has seen what the video VAE has.
    seeds = json.loads((args.vae / "training.json").read_text())["seeds"]
    seeds += pictures.seeds
    about = {
        "seed": args.seed,
        "seeds": [min(seeds), max(seeds)],
        "steps_planned": args.steps,
        "batch": BATCH,
        "learning_rate": args.lr,
        "text_dropped": DROPPED,
        "weights_kept": KEPT,
        "weights": sizes,
        "pictures": sum(map(len, latents.values())),
        "vae": vae_figures,
    }
    mean = 0.0
    for step in range(args.steps):
        rng = np.random.default_rng((args.seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clean, texts = draw(pictures, latents, rng, BATCH)
        texts[torch.from_numpy(rng.random(BATCH) < DROPPED)] = len(TEXTS)
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(len(scheduler.alphas_cumprod), (BATCH,), generator=generator)
        seen = learner(scheduler.add_noise(clean, noise, t), t, texts)
        loss = (seen - noise).square().mean()
        descend(loss, learner, optimizer, schedule.rate_at(step, step / args.steps))
        average.update_parameters(learner)
        mean += (loss.item() - mean) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            log(f"step {step + 1}, loss {mean:.4f}")
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            figures = report(average.module, scheduler, *unseen)
            about["steps"] = step + 1
            write(vae, average.module, scheduler, {**about, **figures}, args.output)


@torch.inference_mode()
def report(
    learner: Learner, scheduler: DDIMScheduler, latents: Tensor, texts: Tensor
) -> dict[str, float]:
    """The error of the noise on held-out pictures, with and without their text."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=rng)
    t = torch.randint(*LEVELS, (len(latents),), generator=rng)
    noisy = scheduler.add_noise(latents, noise, t)

    def error(numbers: Tensor) -> float:
        parts = zip(noisy.split(BATCH), t.split(BATCH), numbers.split(BATCH))  # noqa: B905
        seen = torch.cat([learner(*part) for part in parts])
        return round(float((seen - noise).square().mean()), 5)

    return {
        "held_out_error": error(texts),
        "held_out_error_without_text": error(torch.full_like(texts, len(TEXTS))),
    }


def write(
    vae: AutoencoderKL,
    learner: Learner,
    scheduler: DDIMScheduler,
    figures: dict[str, Any],
    folder: Path,
) -> None:
    """Saves the pipeline for `from_pretrained`, in half precision of few digits."""
    # The weights that are trained stay as they are.
    vae, learner = copy.deepcopy(vae), copy.deepcopy(learner)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=learner.text_encoder,
        tokenizer=tokenizer(),
        unet=learner.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (vae, learner.text_encoder, learner.unet):
        round_weights(part)
    with published(folder) as scratch:
        pipeline.save_pretrained(scratch)
        write_json(scratch / "training.json", figures)
    log(f"wrote {folder}: {json.dumps(figures)}")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("episodes", type=Path, nargs="+", help="folders of them")
    parser.add_argument("--held-out", type=Path, required=True, help="a folder")
    parser.add_argument("--vae", type=Path, required=True, help="the video VAE's")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--vae-steps", type=int, default=80)
    parser.add_argument("--vae-lr", type=float, default=1e-3)
    parser.add_argument("--pictures", type=int, default=300, help="of each stage")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--every", type=int, default=1000, help="steps, to write")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args)


if __name__ == "__main__":
    main()
