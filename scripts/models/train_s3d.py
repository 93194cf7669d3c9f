r"""Trains a small S3D-G on videos and captions, for RoboCLIP without a download.

The network is `encoders.s3d.S3D` with an eighth of the channels, for 64x64; it knows
the words of ``words.py``. Clips are of the episodes of ``collect_stack.py``: 32 frames,
spread evenly over an episode or a part of it. What is true of a clip is the stage that
it ends in (`envs.stages`), and the task's prompt if it ends with the task done.

    python scripts/models/train_s3d.py runs/stack/training \
        --held-out runs/stack/held-out --output models/s3d-64.safetensors

The reward is the plain dot product, so that is what is trained. What is judged is the
file that was written, on held-out episodes: whether it names the stage that a clip ends
in, and whether the score of the task's last stage tells successes from failures.
Some ten minutes on one core; weights, figures and seeds go side by side.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prompts import PROMPTS
from rounding import round_weights
from train_clip import TEXTS, captioned, contrast, disturb, truth
from training import descend, log, write_json
from words import words

from genreward_wrappers.data.frames import evenly
from genreward_wrappers.encoders.s3d import (
    S3D,
    S3DConfig,
    S3DEncoder,
    load_s3d,
    save_s3d,
)
from genreward_wrappers.envs.stages import sentences
from genreward_wrappers.evaluate.judge.bootstrap import roc_auc
from genreward_wrappers.training.finetuning.settings import Finetuning

LENGTH, SIZE, BATCH = 32, (64, 64), 16
CONFIG = S3DConfig(
    shrink=8, features=64, vocabulary=len(words()) + 1, word=64, hidden=256
)

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Told:
    """An episode with the stage of every frame."""

    env_id: str
    frames: Frames  # (time, height, width, 3)
    stages: list[str]
    succeeded: bool
    seed: int

    def clip(self, end: int, start: int = 0, length: int = LENGTH) -> Frames:
        """(length, height, width, 3) from one frame to another, both included."""
        clip: Frames = self.frames[start + evenly(length, end - start)]
        return clip


def load(folder: Path) -> list[Told]:
    """Reads a folder of folders of episodes."""
    found = []
    for episode, stages in captioned([folder]):
        env_id, seed = episode.info["env_id"], episode.info["seed"]
        found.append(Told(env_id, episode.frames, stages, episode.succeeded, seed))
    return found


class Clips:
    """Draws clips: first a task, then a stage to end in, then a place that does."""

    def __init__(self, episodes: list[Told]) -> None:
        """Notes where which stage is."""
        self.places: dict[str, dict[str, list[tuple[Told, int]]]] = {}
        for told in episodes:
            stages = self.places.setdefault(told.env_id, {})
            for end, stage in enumerate(told.stages):
                stages.setdefault(stage, []).append((told, end))

    def draw(
        self, rng: np.random.Generator, count: int, length: int = LENGTH
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips (B, 3, T, H, W) in [0, 1], and which texts are true of them (B, n)."""
        clips, true = [], []
        for task in rng.choice(sorted(self.places), count):
            stages = self.places[task]
            stage = rng.choice(sorted(stages))
            told, end = stages[stage][rng.integers(len(stages[stage]))]
            # Half of them begin with the episode, as those that the reward looks at.
            start = 0 if rng.random() < 0.5 else int(rng.integers(end + 1))
            clips.append(told.clip(end, start, length))
            true.append(truth(task, stage))
        videos = torch.from_numpy(np.stack(clips)).float() / 255
        return videos.permute(0, 4, 1, 2, 3), torch.stack(true)


def tokens() -> torch.Tensor:
    """(n, words) of all texts, as the encoder reads them."""
    return S3DEncoder(S3D(CONFIG), CONFIG, words(), device="cpu").tokens(TEXTS)


def train(clips: Clips, steps: int, rate: float, seed: int) -> S3D:
    """A model from random weights."""
    torch.manual_seed(seed)
    # The layout in which small 3D convolutions are twice as fast on a CPU.
    model = S3D(CONFIG).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = Finetuning(learning_rate=rate, warm_up=49)
    texts, losses = tokens(), []
    for step in range(steps):
        rng = np.random.default_rng((seed, step))
        # Every other frame is enough to learn by at first, and half the work.
        length = LENGTH // 2 if step < 0.6 * steps else LENGTH
        videos, true = clips.draw(rng, BATCH, length)
        seen, said = model(disturb(videos, rng)), model.text_module(texts)
        loss = contrast(seen @ said.T, true)
        descend(loss, model, optimizer, schedule.rate_at(step, step / steps))
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            log(f"step {step + 1} of {steps}, loss {np.mean(losses[-50:]):.3f}")
    settle(model, clips, seed)
    return model.eval()


@torch.no_grad()
def settle(model: S3D, clips: Clips, seed: int, batches: int = 60) -> None:
    """Takes the statistics of all normalisations anew, over undisturbed clips.

    Those of training are of the last few batches, and of clips in other colours than
    the reward will see.
    """
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.reset_running_stats()
            part.momentum = None  # a plain mean over the batches
    rng = np.random.default_rng((seed, 2**31))
    for _ in range(batches):
        model(clips.draw(rng, BATCH)[0])


def untrained(clips: Clips, seed: int) -> S3DEncoder:
    """Random weights with statistics that fit: what the figures are without training.

    Without the statistics it would say the same of every clip.
    """
    torch.manual_seed(seed)
    model = S3D(CONFIG)
    settle(model, clips, seed)
    return S3DEncoder(model, CONFIG, words(), size=SIZE, device="cpu")


def write(path: Path, model: S3D) -> None:
    """Saves the model in half precision."""
    rounded = round_weights(copy.deepcopy(model))
    save_s3d(path, rounded, CONFIG, words(), SIZE)


def judge(encoder: S3DEncoder, held_out: list[Told]) -> dict[str, Any]:
    """The figures, over held-out episodes, each the mean over tasks.

    stage_accuracy: how often a clip from an episode's beginning to some frame fits the
    stage that it ends in best, among those of its task; every stage counts alike.
    auc: how often a success (an episode that had one at some step) is paid more than
    a failure, for the task's last stage, where there are both. finish: how often the
    way to the first frame with the task done is paid more than its first half.
    """
    tasks: dict[str, list[Told]] = defaultdict(list)
    for told in held_out:
        tasks[told.env_id].append(told)
    found = {
        env_id: _judge_task(encoder, env_id, some)
        for env_id, some in sorted(tasks.items())
    }

    def mean(name: str) -> float:
        return round(float(np.mean([f[name] for f in found.values() if name in f])), 3)

    chance = np.mean([1 / len(sentences(env_id)) for env_id in found])
    return {
        "stage_accuracy": mean("stage_accuracy"),
        "stage_chance": round(float(chance), 3),
        "auc": mean("auc"),
        "finish": mean("finish"),
        "tasks": found,
    }


def _judge_task(
    encoder: S3DEncoder, env_id: str, episodes: list[Told]
) -> dict[str, Any]:
    own = sentences(env_id)
    said = encoder.encode_texts(own)

    def scores(clips: Iterator[Frames]) -> NDArray[np.float64]:
        """(n, stages), encoded one by one."""
        seen = torch.cat([encoder.encode_videos(clip[None]) for clip in clips])
        return (seen @ said.T).double().numpy()

    ends = [(told, end) for told in episodes for end in range(0, len(told.frames), 4)]
    right = np.array([own.index(told.stages[end]) for told, end in ends])
    named = scores(told.clip(end) for told, end in ends).argmax(1)
    each = [(named[right == stage] == stage).mean() for stage in np.unique(right)]
    figures = {"stage_accuracy": round(float(np.mean(each)), 3)}

    whole = scores(told.clip(len(told.frames) - 1) for told in episodes)[:, -1]
    good = np.array([told.succeeded for told in episodes])
    if good.any() and not good.all():
        area = roc_auc(whole, good)(np.ones((1, len(good))))
        figures["auc"] = round(float(area[0]), 3)
        figures |= {"successes": int(good.sum()), "failures": int((~good).sum())}

    ways = [
        (told, told.stages.index(own[-1]))
        for told in episodes
        if own[-1] in told.stages
    ]
    ways = [(told, end) for told, end in ways if end >= 2]
    if ways:
        done = scores(told.clip(end) for told, end in ways)[:, -1]
        half = scores(told.clip(end // 2) for told, end in ways)[:, -1]
        figures["finish"] = round(float((done > half).mean()), 3)
        figures["finished"] = len(ways)
    return figures


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("episodes", type=Path, help="a folder of them")
    parser.add_argument("--held-out", type=Path, required=True, help="a folder")
    parser.add_argument("--output", type=Path, required=True, help="a file")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    training = load(args.episodes)
    log(f"{len(training)} episodes of {len(PROMPTS)} tasks, {len(TEXTS)} texts")
    clips = Clips(training)
    model = train(clips, args.steps, args.lr, args.seed)
    write(args.output, model)
    log(f"wrote {args.output}, {os.path.getsize(args.output)} bytes")

    held_out = load(args.held_out)
    chance = untrained(clips, args.seed)
    seeds = [told.seed for told in training]
    figures = {
        "seed": args.seed,
        "steps": args.steps,
        "batch": BATCH,
        "learning_rate": args.lr,
        "seeds": [min(seeds), max(seeds)],
        "episodes": len(training),
        "held_out_episodes": len(held_out),
        "parameters": sum(part.numel() for part in model.parameters()),
        "trained": judge(load_s3d(args.output, device="cpu"), held_out),
        "untrained": judge(chance, held_out),
    }
    write_json(args.output.with_suffix(".json"), figures)
    log(json.dumps(figures))


if __name__ == "__main__":
    main()
