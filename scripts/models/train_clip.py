r"""Trains the small CLIP that the package carries with it.

The classes are open_clip's: a ResNet of a few channels for pictures of 64x64, a
transformer of two layers for texts of the words in ``words.py``. The pictures are of
``collect_stack.py`` and other episodes with states, the captions of `envs.stages`; a
picture of a task that is done has the task's prompt as well.

    python scripts/models/train_clip.py runs/stack/training runs/episodes \
        --held-out runs/stack/held-out --minutes 20 \
        --output src/genreward_wrappers/assets/clip-64

It is judged by whether it names the right stage of held-out episodes, among all the
stages of their task, each stage counting alike. Twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from prompts import PROMPTS
from rounding import coarse
from safetensors.torch import save_file
from torch.nn import functional
from train_video_vae import augment
from training import descend, log, published, write_json
from words import LENGTH, tokenizer

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.envs.stages import captions, sentences
from genreward_wrappers.training.finetuning.settings import Finetuning

BATCH = 128
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

#: The captions of all tasks, and their prompts.
TEXTS = sorted(
    {text for env_id in PROMPTS for text in sentences(env_id)} | set(PROMPTS.values())
)


def captioned(folders: list[Path]) -> Iterator[tuple[Episode, list[str]]]:
    """The episodes in folders of folders, and the stage of each of their frames."""
    for path in sorted(p for f in folders for p in f.rglob("*.safetensors")):
        episode = Episode.load(path)
        assert episode.states is not None
        told = captions(episode.info["env_id"], episode.states, episode.success)
        assert told is not None
        yield episode, [told[step] for step in episode.frame_steps]


@dataclass(frozen=True)
class Pictures:
    """Frames by their task and stage."""

    frames: dict[tuple[str, str], NDArray[np.uint8]]  # (count, height, width, 3)
    seeds: tuple[int, int]

    @classmethod
    def load(cls, folders: list[Path], most: int = 4_000) -> Pictures:
        """Reads folders of folders of episodes."""
        found: dict[tuple[str, str], list[NDArray[np.uint8]]] = {}
        seeds = []
        for episode, stages in captioned(folders):
            env_id = episode.info["env_id"]
            seeds.append(episode.info["seed"])
            for frame, stage in zip(episode.frames, stages, strict=True):
                found.setdefault((env_id, stage), []).append(frame)
        rng = np.random.default_rng(0)
        kept = {}
        for key, frames in sorted(found.items()):
            some = rng.permutation(len(frames))[:most]
            kept[key] = np.stack([frames[i] for i in some])
        return cls(kept, (min(seeds), max(seeds)))

    def choose(
        self, rng: np.random.Generator, count: int
    ) -> list[tuple[tuple[str, str], int]]:
        """Draws a task, a stage of it and the number of a frame, so many times."""
        tasks = sorted({task for task, _ in self.frames})
        stages = {task: [k for k in self.frames if k[0] == task] for task in tasks}
        chosen = []
        for task in rng.choice(tasks, count):
            key = stages[task][rng.integers(len(stages[task]))]
            chosen.append((key, int(rng.integers(len(self.frames[key])))))
        return chosen

    def draw(
        self, rng: np.random.Generator, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (B, 3, H, W) in [0, 1], and which texts are true of them (B, n)."""
        chosen = self.choose(rng, count)
        true = torch.stack([truth(*key) for key, _ in chosen])
        pictures = np.stack([self.frames[key][number] for key, number in chosen])
        images = torch.from_numpy(pictures).float() / 255
        return images.permute(0, 3, 1, 2), true


def truth(env_id: str, caption: str) -> torch.Tensor:
    """(n,) which of the texts are true of a stage."""
    done = caption == sentences(env_id)[-1]
    return torch.tensor(
        [float(t == caption or (done and t == PROMPTS[env_id])) for t in TEXTS]
    )


def disturb(clips: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Light, colour, a shift by up to two pixels, and the softness of a decoder.

    Clips are (B, 3, T, H, W); all frames of one are disturbed alike.
    """
    clips = augment(clips, rng)
    padded = functional.pad(clips, (2, 2, 2, 2, 0, 0), mode="replicate")
    rows = []
    for clip in padded:
        y, x = rng.integers(5, size=2)
        cut = clip[:, :, y : y + 64, x : x + 64].transpose(0, 1)
        if rng.random() < 0.3:
            small = functional.interpolate(cut, scale_factor=0.5, mode="area")
            cut = functional.interpolate(small, scale_factor=2, mode="bilinear")
        rows.append(cut.transpose(0, 1))
    return torch.stack(rows)


def config() -> dict[str, Any]:
    """The model's configuration, as in `open_clip_config.json`."""
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64,
            "layers": [1, 1, 1, 1],
            "width": 12,
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": len(tokenizer()),
            "hf_tokenizer_name": "words",
            "width": 64,
            "heads": 2,
            "layers": 2,
            "pool_type": "eos",
            "eos_id": tokenizer().eos_token_id,
        },
    }


def build() -> Any:
    """The model with random weights."""
    card = config()
    del card["text_cfg"]["hf_tokenizer_name"]
    return open_clip.CLIP(**card)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """As the model's preprocessing leaves pictures."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (images - mean) / std


def tokens() -> torch.Tensor:
    """(n, length) of all texts."""
    found: torch.Tensor = tokenizer()(
        TEXTS, return_tensors="pt", max_length=LENGTH, padding="max_length"
    ).input_ids
    return found


def contrast(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """CLIP's loss over all texts, where several may be true of a picture.

    The same caption is true of many pictures of a batch: each picture looks for its
    captions among all of them, and each caption for its pictures. Both are (B, n).
    """
    to_texts = -(true / true.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)
    present = true.sum(0) > 0
    shares = (true / true.sum(0).clamp_min(1)).T[present]
    to_images = -(shares * logits.T[present].log_softmax(1)).sum(1)
    return (to_texts.mean() + to_images.mean()) / 2


def loss_of(model: Any, images: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """How badly pictures and texts find each other, by the cosine."""
    seen = model.encode_image(normalised(images), normalize=True)
    said = model.encode_text(tokens(), normalize=True)
    return contrast(model.logit_scale.exp() * seen @ said.T, true)


@torch.inference_mode()
def report(model: Any, held_out: Pictures) -> dict[str, Any]:
    """How often the right stage is named, among those of the task."""
    model.eval()
    said = model.encode_text(tokens(), normalize=True)
    rates: dict[str, list[float]] = {}
    for (env_id, caption), frames in held_out.frames.items():
        images = torch.from_numpy(frames[:200]).permute(0, 3, 1, 2).float() / 255
        seen = model.encode_image(normalised(images), normalize=True)
        own = [TEXTS.index(text) for text in sentences(env_id)]
        named = (seen @ said[own].T).argmax(1)
        right = sentences(env_id).index(caption)
        rates.setdefault(env_id, []).append(float((named == right).float().mean()))
    model.train()
    tasks = {env_id: round(float(np.mean(r)), 3) for env_id, r in rates.items()}
    chance = np.mean([1 / len(sentences(env_id)) for env_id in rates])
    return {
        "stage_accuracy": round(float(np.mean(list(tasks.values()))), 3),
        "chance": round(float(chance), 3),
        "tasks": tasks,
    }


def train(args: argparse.Namespace) -> None:
    """Trains until the minutes are used up, then writes the model."""
    training = Pictures.load(args.episodes)
    held_out = Pictures.load([args.held_out])
    torch.manual_seed(args.seed)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    step, elapsed, last_reported = 0, 0.0, 0.0
    limit = args.minutes * 60
    schedule = Finetuning(learning_rate=args.lr, warm_up=99)
    while elapsed < limit:
        tick = time.monotonic()
        rng = np.random.default_rng((args.seed, step))
        images, true = training.draw(rng, BATCH)
        seen = disturb(images[:, :, None], rng)[:, :, 0]
        loss = loss_of(model, seen, true)
        descend(loss, model, optimizer, schedule.rate_at(step, elapsed / limit))
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        elapsed += time.monotonic() - tick
        if elapsed - last_reported > 120:
            figures = report(model, held_out)["stage_accuracy"]
            log(f"step {step}, minute {elapsed / 60:.1f}, loss {loss:.3f}, {figures}")
            last_reported = elapsed
    about = {"seed": args.seed, "steps": step, "seeds": list(training.seeds)}
    write(model, {**about, **report(model, held_out)}, args.output)


def write(model: Any, figures: dict[str, Any], folder: Path) -> None:
    """Saves the model in open_clip's layout, in half precision."""
    with published(folder) as scratch:
        state = {name: coarse(t) for name, t in model.state_dict().items()}
        save_file(state, scratch / "open_clip_model.safetensors")
        card = {
            "model_cfg": config(),
            "preprocess_cfg": {"mean": MEAN, "std": STD},
        }
        write_json(scratch / "open_clip_config.json", card)
        write_json(scratch / "training.json", figures)
        tokenizer().save_pretrained(scratch)
    log(f"wrote {folder}: {json.dumps(figures)}")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("episodes", type=Path, nargs="+", help="folders of them")
    parser.add_argument("--held-out", type=Path, required=True, help="a folder")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args)


if __name__ == "__main__":
    main()
