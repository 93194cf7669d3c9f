"""Trains the small causal video VAE that the package carries with it.

The architecture is CogVideoX's (`diffusers.AutoencoderKLCogVideoX`), 64x64 and a
hundredth of the size. It halves the sides twice and not three times, since a puck is
three pixels wide here. It is trained on folders of episodes, those of
``collect_stack.py`` and, for motion in small steps, some with every step's frame:

    python scripts/models/train_video_vae.py runs/stack/training runs/episodes \
        --held-out runs/stack/held-out --minutes 50 --bf16 \
        --output src/genreward_wrappers/assets/video-vae-64

Interrupted, the same command goes on from its last checkpoint.

With ``--decoder-of FOLDER`` only the decoder of a VAE that is there is trained on. What
it encodes, and so its fingerprint and every reward, stays as it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from numpy.typing import NDArray
from rounding import coarse
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training import descend, forget_origin, log, published, write_json

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.training.finetuning.settings import Finetuning
from genreward_wrappers.training.finetuning.vae import (
    moving_pixels,
    reconstruction_losses,
)

# What a step trains on: clips x frames, and how often. Nine frames are the encoder's
# first chunk, seventeen its first two, and goal images are encoded as single frames.
BATCHES = ((4, 9, 0.65), (2, 17, 0.2), (24, 1, 0.15))
#: A decoder is there for the generator's clips, which are of seventeen frames.
DECODED = ((4, 9, 0.3), (2, 17, 0.65), (24, 1, 0.05))
#: Seventeen tasks share one robot and one table; each of these is a world of its own.
ALONE, OFTEN = "dmc/", 3
LONGEST_CLIP = 17
MAX_STRIDE = 8


Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Videos:
    """Episodes by their task, and the usual look of each task."""

    episodes: dict[str, list[Frames]]  # (time, height, width, 3) each
    usual: dict[str, Frames]  # (height, width, 3)
    seeds: tuple[int, int]

    @classmethod
    def load(
        cls, folders: list[Path], usual: dict[str, Frames] | None = None
    ) -> Videos:
        """Reads folders of folders of episodes."""
        episodes: dict[str, list[Frames]] = {}
        seeds = []
        for path in sorted(p for f in folders for p in f.rglob("*.safetensors")):
            episode = Episode.load(path)
            every = 2 if len(episode.frames) > 2 * LONGEST_CLIP else 1
            task = episode.info["env_id"]
            episodes.setdefault(task, []).append(episode.frames[::every])
            seeds.append(episode.info["seed"])
        return cls(
            episodes,
            usual or {task: _usual_of(some) for task, some in episodes.items()},
            (min(seeds), max(seeds)),
        )

    def __len__(self) -> int:
        """How many episodes there are."""
        return sum(map(len, self.episodes.values()))

    def clips(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws clips (B, 3, T, H, W) in [0, 1] and where they move (B, 1, T, H, W)."""
        clips, usual = [], []
        tasks = sorted(self.episodes)
        often = np.array([OFTEN if t.startswith(ALONE) else 1 for t in tasks])
        for task in rng.choice(tasks, count, p=often / often.sum()):
            some = self.episodes[task]
            frames = some[rng.integers(len(some))]
            room = (len(frames) - 1) // max(length - 1, 1)
            stride = rng.integers(1, min(MAX_STRIDE, room) + 1)
            start = rng.integers(len(frames) - stride * (length - 1))
            clips.append(frames[start::stride][:length])
            usual.append(self.usual[task])
        return to_tensors(np.stack(clips), np.stack(usual))


def _usual_of(episodes: list[Frames]) -> Frames:
    some = np.concatenate([frames[::4] for frames in episodes[:48]])
    return np.median(some, axis=0).astype(np.uint8)


def to_tensors(
    clips: NDArray[np.uint8], usual: NDArray[np.uint8]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns (B, T, H, W, 3) frames into the network's layout and a mask of motion.

    What moves differs from what the task usually looks like: the arm, the objects, the
    goal's mark.
    """
    video = torch.from_numpy(clips).float() / 255
    return video.permute(0, 4, 1, 2, 3), moving_pixels(clips, usual)


def augment(video: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Changes brightness and colour of half of the clips a little."""
    gain = rng.uniform(0.6, 1.3, (len(video), 1)) * rng.uniform(
        0.8, 1.2, (len(video), 3)
    )
    gain[rng.random(len(video)) < 0.5] = 1
    gains = torch.from_numpy(gain.astype(np.float32))
    return (video * gains[:, :, None, None, None]).clamp(0, 1)


def build() -> AutoencoderKLCogVideoX:
    """Makes the network with random weights."""
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(16, 32, 64),
        latent_channels=8,
        layers_per_block=1,
        norm_num_groups=8,
        temporal_compression_ratio=4,
        sample_height=64,
        sample_width=64,
    )


def spread(videos: Videos, length: int = 17) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a clip of every episode from end to end, and where it moves."""
    clips, usual = [], []
    for task, episodes in sorted(videos.episodes.items()):
        for frames in episodes:
            clips.append(frames[evenly(length, len(frames) - 1)])
            usual.append(videos.usual[task])
    return to_tensors(np.stack(clips), np.stack(usual))


@torch.inference_mode()
def encode(vae: AutoencoderKLCogVideoX, video: torch.Tensor) -> torch.Tensor:
    """Turns clips in [0, 1] into latents, without noise."""
    parts = [vae.encode(2 * clip - 1).latent_dist.mode() for clip in video.split(4)]
    return torch.cat(parts)


@torch.inference_mode()
def decode(vae: AutoencoderKLCogVideoX, latents: torch.Tensor) -> torch.Tensor:
    """Turns latents into clips in [0, 1]."""
    parts = [
        vae.decode(part).sample.clamp(-1, 1) / 2 + 0.5 for part in latents.split(4)
    ]
    return torch.cat(parts)


def psnr(video: torch.Tensor, decoded: torch.Tensor, where: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in decibels over the pixels of a mask."""
    error = (video - decoded).square() * where
    return -10 * math.log10(float(error.sum() / (3 * where.sum())))


def report(vae: AutoencoderKLCogVideoX, videos: Videos) -> dict[str, float]:
    """Measures the reconstruction of held-out episodes."""
    video, moving = spread(videos)
    usual = usual_pictures(videos).expand_as(video)
    latents = encode(vae, video)
    decoded = decode(vae, latents)
    first = video[:, :, :1]
    single = decode(vae, encode(vae, first))
    figures = {
        "psnr": psnr(video, decoded, torch.ones_like(moving)),
        "psnr_moving": psnr(video, decoded, moving),
        "psnr_single_frame": psnr(first, single, torch.ones_like(moving[:, :, :1])),
        # What the task's usual look scores, repeated: a network that lost the arm.
        "psnr_moving_usual": psnr(video, usual, moving),
        "latent_std": float(latents.std()),
    }
    return {name: round(figure, 3) for name, figure in figures.items()}


def usual_pictures(videos: Videos) -> torch.Tensor:
    """(episodes, 3, 1, H, W) what the task of each usually looks like, in [0, 1]."""
    pictures = [
        videos.usual[task]
        for task, episodes in sorted(videos.episodes.items())
        for _ in episodes
    ]
    usual = torch.from_numpy(np.stack(pictures)).float() / 255
    return usual.permute(0, 3, 1, 2)[:, :, None]


class Checkpoint:
    """Network, optimizer and progress in one safetensors file."""

    def __init__(self, path: Path) -> None:
        """Remembers where the file is, or will be."""
        self.path = path

    def save(
        self,
        vae: AutoencoderKLCogVideoX,
        optimizer: torch.optim.Optimizer,
        progress: dict[str, float],
    ) -> None:
        """Writes everything, all or nothing."""
        tensors = {f"vae.{name}": t for name, t in vae.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": t for key, t in state.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        save_file(tensors, unfinished, {"progress": json.dumps(progress)})
        os.replace(unfinished, self.path)

    def load(
        self, vae: AutoencoderKLCogVideoX, optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        """Reads everything back, and returns the progress."""
        with safe_open(self.path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
        tensors = load_file(self.path)
        vae.load_state_dict(
            {k.removeprefix("vae."): t for k, t in tensors.items() if k[:4] == "vae."}
        )
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return dict(progress)


def train(args: argparse.Namespace) -> None:
    """Trains until the minutes are used up, then writes the network."""
    training = Videos.load(args.episodes)
    held_out = Videos.load([args.held_out], training.usual)
    torch.manual_seed(args.seed)
    if args.decoder_of:
        vae = AutoencoderKLCogVideoX.from_pretrained(args.decoder_of).float().train()
        vae.encoder.requires_grad_(False)
        batches = DECODED
    else:
        vae = build()
        batches = BATCHES
    trained = [weight for weight in vae.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=1e-3)
    checkpoint = Checkpoint(args.checkpoint)
    step, elapsed = 0, 0.0
    if args.checkpoint.exists():
        progress = checkpoint.load(vae, optimizer)
        if progress["seed"] != args.seed:
            raise ValueError(
                f"{args.checkpoint} was trained with --seed {progress['seed']:.0f}, "
                f"not {args.seed}: remove it or give another --checkpoint"
            )
        step, elapsed = int(progress["step"]), progress["elapsed"]
        log(f"going on at step {step}, minute {elapsed / 60:.1f}")
    sizes = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (("encoder", vae.encoder), ("decoder", vae.decoder))
    }
    log(f"parameters {sizes}, episodes {len(training)}+{len(held_out)}")

    limit = args.minutes * 60
    schedule = Finetuning(learning_rate=args.lr, warm_up=49)
    last_saved = last_reported = elapsed
    average = None
    chances = [chance for _, _, chance in batches]
    while elapsed < limit:
        tick = time.monotonic()
        # Every step has random numbers of its own, so that a resumed run draws what
        # an uninterrupted one would have.
        rng = np.random.default_rng((args.seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        count, length, _ = batches[rng.choice(len(batches), p=chances)]
        video, moving = training.clips(rng, count, length)
        # Half precision saves half the time, exact steps at the end the last errors.
        fast = args.bf16 and elapsed < 0.8 * limit
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            video = 2 * augment(video, rng) - 1
            loss, l1 = reconstruction_losses(vae, video, moving, generator)
        descend(loss, vae, optimizer, schedule.rate_at(step, elapsed / limit))
        step += 1
        average = float(l1) if average is None else 0.98 * average + 0.02 * float(l1)
        elapsed += time.monotonic() - tick
        if step % 50 == 0:
            log(f"step {step}, minute {elapsed / 60:.1f}, L1 {average / 2:.4f}")
        if elapsed - last_saved > 120:
            progress = {"step": step, "elapsed": elapsed, "seed": args.seed}
            checkpoint.save(vae, optimizer, progress)
            last_saved = elapsed
        if elapsed - last_reported > 300:
            log(json.dumps(report(vae.eval(), held_out)))
            vae.train()
            last_reported = elapsed

    progress = {"step": step, "elapsed": elapsed, "seed": args.seed}
    checkpoint.save(vae, optimizer, progress)
    # Held against the seeds of test episodes by `genreward evaluate`.
    about = {"seed": args.seed, "steps": step, "seeds": list(training.seeds)}
    if args.decoder_of:
        before = json.loads((args.decoder_of / "training.json").read_text())
        seeds = [*before["seeds"], *training.seeds]
        about |= {"decoder_steps": step, "steps": before["steps"]}
        about["seeds"] = [min(seeds), max(seeds)]
    write(vae.eval(), held_out, args.output, about)
    if args.picture:
        draw(vae, held_out, args.picture)


def write(
    vae: AutoencoderKLCogVideoX,
    held_out: Videos,
    folder: Path,
    training: dict[str, Any],
) -> None:
    """Saves the network for `from_pretrained`, in half precision if that is safe."""
    video, _ = spread(held_out)
    latents = encode(vae, video)
    if "decoder_steps" not in training:
        vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 6))
    exact = vae.state_dict()
    vae.load_state_dict({name: coarse(t).float() for name, t in exact.items()})
    damage = float((encode(vae, video) - latents).norm() / latents.norm())
    half = damage < 0.01
    if not half:
        vae.load_state_dict(exact)
    figures = {
        **training,
        **report(vae, held_out),
        "held_out_episodes": len(held_out),
        "half_precision_latent_error": round(damage, 5),
    }
    with published(folder) as scratch:
        (vae.half() if half else vae).save_pretrained(scratch)
        vae.float()
        forget_origin(scratch / "config.json")
        write_json(scratch / "training.json", figures)
    log(f"wrote {folder}: {json.dumps(figures)}")


def draw(vae: AutoencoderKLCogVideoX, videos: Videos, path: Path) -> None:
    """Draws held-out clips, each above its reconstruction."""
    import imageio.v3 as iio

    video = spread(videos)[0][::3]
    decoded = decode(vae, encode(vae, video))
    rows = []
    for clip, copy in zip(video, decoded, strict=True):
        for picture in (clip, copy):
            frames = picture[:, ::2].permute(2, 1, 3, 0)  # height, time, width, 3
            rows.append(frames.reshape(len(frames), -1, 3))
    image = (torch.cat(rows) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, image)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("episodes", type=Path, nargs="+", help="folders of them")
    parser.add_argument("--held-out", type=Path, required=True, help="a folder")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--bf16", action="store_true", help="for processors that have it"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("runs/video-vae.safetensors")
    )
    parser.add_argument("--decoder-of", type=Path, help="a folder of a VAE")
    parser.add_argument("--picture", type=Path, help="a PNG of reconstructions")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
