r"""Does a generated video end with the task done?

Judged on the first frames of held-out episodes by a probe: a small network that is
trained on true frames to say whether a task is done, and knows nothing of generators.
What it says of true last frames, of first frames and of true videos that went through
the VAE is printed beside: nothing is better than its own mistakes.

    python scripts/models/judge_generator.py runs/stack \
        --generator src/genreward_wrappers/assets/goal-generator-64 \
        --picture docs/pictures/generated.png

``runs/stack`` is what ``collect_stack.py`` wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from collect_stack import SHOWS
from numpy.typing import NDArray
from prompts import PROMPTS
from torch import nn
from train_clip import Pictures, disturb

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.envs.stages import sentences
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model, Sampling

TASKS = sorted(PROMPTS)
Frames = NDArray[np.uint8]


def probe() -> nn.Module:
    """From a picture to how likely each of the tasks is done, if it is that task."""

    def stage(before: int, after: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, 2, 1),
            nn.GroupNorm(4, after),
            nn.SiLU(),
        ]

    return nn.Sequential(
        *stage(3, 16),
        *stage(16, 32),
        *stage(32, 64),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64 * 64, len(TASKS)),
    )


def train_probe(pictures: Pictures, minutes: float, seed: int) -> nn.Module:
    """Trains on true frames, as many done as not."""
    torch.manual_seed(seed)
    net = probe()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    begun, step = time.monotonic(), 0
    while time.monotonic() - begun < 60 * minutes:
        rng = np.random.default_rng((seed, step))
        frames, rows, labels = [], [], []
        for env_id in rng.choice(TASKS, 96):
            is_done = rng.random() < 0.5
            stages = [
                key
                for key in pictures.frames
                if key[0] == env_id and (key[1] == sentences(env_id)[-1]) == is_done
            ]
            some = pictures.frames[stages[rng.integers(len(stages))]]
            frames.append(some[rng.integers(len(some))])
            rows.append(TASKS.index(env_id))
            labels.append(float(is_done))
        images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
        seen = disturb(images[:, :, None], rng)[:, :, 0]
        logits = net(2 * seen - 1)[torch.arange(len(rows)), rows]
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, torch.tensor(labels)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
    sys.stderr.write(f"probe: {step} steps\n")
    return net.eval()


@torch.inference_mode()
def done(net: nn.Module, env_id: str, frames: Frames) -> NDArray[np.bool_]:
    """(n,) whether the probe sees the task done."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    found: NDArray[np.bool_] = (net(images)[:, TASKS.index(env_id)] > 0).numpy()
    return found


def videos(folder: Path, env_id: str, length: int) -> Frames:
    """(n, T, H, W, 3) held-out episodes that show how it is done."""
    found = []
    for path in sorted(folder.glob(f"{env_id.replace('/', '--')}/*.safetensors")):
        episode = Episode.load(path)
        if episode.info["policy"].startswith(SHOWS):
            frames = episode.frames
            found.append(frames[evenly(length, len(frames) - 1)])
    return np.stack(found)


def through(vae: Any, clips: Frames) -> Frames:
    """Videos as the VAE gives them back."""
    pixels = torch.from_numpy(clips).float().permute(0, 4, 1, 2, 3) / 127.5 - 1
    with torch.inference_mode():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    back = (decoded.clamp(-1, 1) + 1) * 127.5
    found: Frames = back.round().byte().permute(0, 2, 3, 4, 1).numpy()
    return found


def judge(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, by task."""
    training = Pictures.load([args.stack / "training", *args.more])
    net = train_probe(training, args.minutes, args.seed)
    held_out = Pictures.load([args.stack / "held-out"])
    generator = Generator(Model(str(args.generator), device="cpu"))
    rows, figures = [], {}
    for env_id in TASKS:
        true = videos(args.stack / "held-out", env_id, args.frames)
        sampling = Sampling(
            PROMPTS[env_id],
            steps=args.steps,
            guidance=args.guidance,
            frames=args.frames,
        )
        settings = generator.settings(sampling)
        made = np.stack(
            [
                generator(settings, 1_000_000 + i, clip[0], lambda step, of: None)
                for i, clip in enumerate(true)
            ]
        )
        right = [
            (done(net, env_id, frames) == (stage == sentences(env_id)[-1])).mean()
            for (task, stage), frames in held_out.frames.items()
            if task == env_id
        ]
        back = through(generator.pipeline.vae, true)
        error = np.square(made.astype(float) - true).mean((1, 2, 3, 4))
        still = np.square(true[:, :1].astype(float) - true).mean((1, 2, 3, 4))
        figures[env_id] = {
            "videos": len(true),
            "probe_accuracy": round(float(np.mean(right)), 3),
            "true_last": round(float(done(net, env_id, true[:, -1]).mean()), 3),
            "true_last_through_vae": round(
                float(done(net, env_id, back[:, -1]).mean()), 3
            ),
            "first": round(float(done(net, env_id, true[:, 0]).mean()), 3),
            "generated_last": round(float(done(net, env_id, made[:, -1]).mean()), 3),
            "generated_any": round(
                float(np.mean([done(net, env_id, m[1:]).any() for m in made])), 3
            ),
            "true_any": round(
                float(np.mean([done(net, env_id, m[1:]).any() for m in true])), 3
            ),
            # Against the true video, where a still picture has this much error.
            "error_of_still": round(float(np.mean(error / still)), 3),
        }
        sys.stderr.write(f"{env_id}: {json.dumps(figures[env_id])}\n")
        shown = [made[0, t] for t in evenly(6, args.frames - 1)]
        rows.append(np.concatenate([*shown, true[0, -1]], axis=1))
    if args.picture:
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        half = (len(rows) + 1) // 2
        left, right_half = np.concatenate(rows[:half]), np.concatenate(rows[half:])
        gap = np.full((len(left), 16, 3), 255, np.uint8)
        iio.imwrite(args.picture, np.concatenate([left, gap, right_half], axis=1))
    names = [name for name in next(iter(figures.values())) if name != "videos"]
    mean = {
        n: round(float(np.mean([f[n] for f in figures.values()])), 3) for n in names
    }
    return {"mean": mean, "tasks": figures}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stack", type=Path, help="what collect_stack.py wrote")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="episodes")
    parser.add_argument("--generator", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=5, help="of the probe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = judge(args)
    text = json.dumps(found, indent=2) + "\n"
    if args.output:
        args.output.write_text(text)
    print(json.dumps(found["mean"], indent=2))


if __name__ == "__main__":
    main()
