r"""What a text-to-image pipeline is worth as TADPoLe's, on frames of held-out episodes.

    python scripts/models/judge_text_to_image.py runs/stack/held-out \
        --pipeline models/text-to-image-64 \
        --output benchmarks/results/text_to_image.json

Two questions. Does it see the stage of a frame: among the captions of its task, which
makes the smallest error of the noise, the same noise for all? And does the reward, as
it is paid for the task's last caption, tell frames of that stage from the others: how
often is one of them paid more than one of the others (ROC-AUC), by both terms together
and by each alone?
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray
from prompts import PROMPTS
from torch import Tensor
from train_clip import Pictures
from training import log, write_json

from genreward_wrappers.envs.stages import sentences
from genreward_wrappers.evaluate.judge.bootstrap import roc_auc
from genreward_wrappers.rewards.peers.denoiser import Denoiser
from genreward_wrappers.rewards.peers.tadpole import alignment

#: TADPoLe's noise and weights.
OWN, W1, W2 = (400, 500), 2000.0, 200.0
#: The other noise, at which a quarter of the frames are asked about.
OTHERS = ((50, 150), (150, 250), (250, 350), (600, 700), (800, 900))
#: Drawn for each frame.
DRAWS = 4
CHUNK = 64

Floats = NDArray[np.float64]


class Reader:
    """A pipeline that has read all captions of a task, and the empty one."""

    def __init__(self, pipeline: Any, env_id: str) -> None:
        """Binds them two by two, since `Denoiser` always asks about two."""
        self.texts = [*sentences(env_id), ""]
        assert len(self.texts) % 2 == 0
        self.pairs = [
            Denoiser(pipeline, first, second, device="cpu")
            for first, second in zip(self.texts[::2], self.texts[1::2], strict=True)
        ]

    def read(
        self, frames: NDArray[np.uint8], levels: tuple[int, int], seed: int
    ) -> tuple[Tensor, Tensor]:
        """What noise it sees, (texts, n * DRAWS, ...) and which there is."""
        rng = np.random.default_rng(seed)
        latents = self.pairs[0].encode(frames).repeat_interleave(DRAWS, 0)
        drawn = rng.standard_normal(latents.shape, dtype=np.float32)
        noise = torch.from_numpy(drawn)
        t = torch.from_numpy(rng.integers(*levels, len(latents)))
        chunks = list(zip(*(x.split(CHUNK) for x in (latents, noise, t)), strict=True))
        seen = []
        for pair in self.pairs:
            parts = [pair.believe(*chunk) for chunk in chunks]
            seen += [torch.cat(side) for side in zip(*parts, strict=True)]
        return torch.stack(seen), noise


def named(seen: Tensor, noise: Tensor) -> NDArray[np.int64]:
    """(n,) which caption makes the smallest error, on average over the draws."""
    error = (seen[:-1] - noise).square().mean((-3, -2, -1))
    found: NDArray[np.int64] = (
        error.reshape(len(error), -1, DRAWS).mean(-1).argmin(0).numpy()
    )
    return found


def paid(seen: Tensor, noise: Tensor) -> dict[str, Floats]:
    """(n * DRAWS,) what TADPoLe pays for the last caption, and its two terms."""
    both = seen[-2], seen[-1], noise
    weights = {"reward": (W1, W2), "changed": (W1, 0.0), "explained": (0.0, W2)}
    return {name: alignment(*both, *w).numpy() for name, w in weights.items()}


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """How often a positive scores above a negative."""
    return round(float(roc_auc(scores, positive)(np.ones((1, len(scores))))[0]), 3)


def judge_task(
    pipeline: Any, env_id: str, stages: dict[str, NDArray[np.uint8]]
) -> dict[str, Any]:
    """The figures of one task."""
    reader, captions = Reader(pipeline, env_id), sentences(env_id)
    right: dict[str, float] = {}
    other: dict[str, list[float]] = {}
    rewards: list[dict[str, Floats]] = []
    done: list[NDArray[np.bool_]] = []
    for caption, frames in stages.items():
        number = captions.index(caption)
        seen, noise = reader.read(frames, OWN, number)
        right[caption] = round(float((named(seen, noise) == number).mean()), 3)
        rewards.append(paid(seen, noise))
        done.append(np.full(len(noise), number == len(captions) - 1))
        some = frames[: max(1, len(frames) // 4)]
        for levels in OTHERS:
            found = named(*reader.read(some, levels, number))
            name = f"{levels[0]}-{levels[1]}"
            other.setdefault(name, []).append(float((found == number).mean()))
    is_done = np.concatenate(done)
    terms = {name: np.concatenate([r[name] for r in rewards]) for name in rewards[0]}
    return {
        "stage_accuracy": round(float(np.mean(list(right.values()))), 3),
        "chance": round(1 / len(captions), 3),
        "stages": right,
        "other_noise": {n: round(float(np.mean(r)), 3) for n, r in other.items()},
        "auc": {name: auc(term, is_done) for name, term in terms.items()},
        "mean_when_done": {n: round(t[is_done].mean(), 3) for n, t in terms.items()},
        "mean_else": {n: round(t[~is_done].mean(), 3) for n, t in terms.items()},
    }


def averaged(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of figures over tasks, branch by branch."""
    found: dict[str, Any] = {}
    for name, first in tasks[0].items():
        values = [task[name] for task in tasks]
        if name != "stages":
            nested = isinstance(first, dict)
            found[name] = averaged(values) if nested else round(np.mean(values), 3)
    return found


def draw(pipeline: Any, path: Path, guidance: float) -> None:
    """Two pictures of every task's last caption."""
    texts = [sentences(env_id)[-1] for env_id in sorted(PROMPTS)]
    rows = []
    for seed in range(2):
        made = pipeline(
            texts,
            height=64,
            width=64,
            num_inference_steps=30,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images
        half = len(made) // 2
        rows += [np.concatenate(part, axis=1) for part in (made[:half], made[half:])]
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, (255 * np.concatenate(rows)).round().astype(np.uint8))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("held_out", type=Path, help="a folder of episodes")
    parser.add_argument("--pipeline", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=8, help="of each stage")
    parser.add_argument("--picture", type=Path, help="of what it draws")
    parser.add_argument("--guidance", type=float, default=2.0, help="for the picture")
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(args.pipeline)
    held_out = Pictures.load([args.held_out], most=args.frames)
    tasks = {}
    for env_id in sorted({task for task, _ in held_out.frames}):
        stages = {s: f for (task, s), f in held_out.frames.items() if task == env_id}
        tasks[env_id] = judge_task(pipeline, env_id, stages)
        log(f"{env_id}: {json.dumps(tasks[env_id])}")
    mean = averaged(list(tasks.values()))
    log(json.dumps(mean, indent=2))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, {"mean": mean, "tasks": tasks})
    if args.picture:
        # In float32, as `Denoiser` has left its parts.
        draw(pipeline, args.picture, args.guidance)


if __name__ == "__main__":
    main()
