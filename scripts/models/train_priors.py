r"""Trains the small priors of VIPER and Diffusion Reward on generated goal videos.

One codec and one prior of each kind for ten Meta-World tasks: which task it is, a prior
sees in the frames before. No demonstration is needed: the videos are candidates of
``make_embedded_goals.py`` that the goal generator made from first frames:

    python scripts/models/train_priors.py runs/goals --output models

All videos are brought to 17 frames over an episode of 256 steps, a frame every 16
steps: that is the pace of ``every=16``. Interrupted, the same command goes on. Forty
minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rounding import round_weights
from training import log

from genreward_wrappers.data.frames import evenly
from genreward_wrappers.training.priors.settings import BATCH, PriorTraining
from genreward_wrappers.training.priors.store import Prior
from genreward_wrappers.training.priors.train import (
    PriorTrainer,
    train,
)
from genreward_wrappers.training.priors.vq import VQConfig
from genreward_wrappers.training.videos import load_videos

FRAMES = 17
#: Rich enough for ten scenes; the default is meant for one.
CODEC = VQConfig(codes=256, channels=(16, 32, 48, 48))


def videos(folder: Path) -> list[Any]:
    """All candidates of Meta-World's tasks."""
    found = load_videos(sorted(folder.glob("metaworld--*")))
    return [video[evenly(FRAMES, len(video) - 1)] for video in found]


def publish(prior: Prior, path: Path) -> None:
    """Writes a prior in half precision."""
    for module in (prior.codec, prior.net):
        round_weights(module)
    prior.save(path)
    size = path.stat().st_size / 1e6
    log(f"wrote {path}, {size:.1f} MB: {json.dumps(dict(prior.statistics))}")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("candidates", type=Path, help="a folder of folders of them")
    parser.add_argument("--work", type=Path, default=Path("runs/priors"))
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--codec-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=2500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    clips = videos(args.candidates)
    codec: Any = CODEC
    for kind in BATCH:
        training = PriorTraining(
            codec_steps=args.codec_steps,
            steps=args.steps,
            codec_batch=16,
            batch=BATCH[kind],
            average=0.99,
        )
        trainer = PriorTrainer(kind, clips, codec, training, device="cpu")
        prior = train(trainer, args.work / f"{kind}.safetensors", log=log)
        path = args.output / f"{kind}-64.safetensors"
        publish(prior, path)
        # The second prior reads the codes of the first one, as it is published.
        codec = Prior.load(path, device="cpu").codec


if __name__ == "__main__":
    main()
