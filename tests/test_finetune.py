"""Fine-tuning a small pipeline of diffusers' own classes, from data to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from genreward_wrappers.episodes import Episode
from genreward_wrappers.goal_pipeline.finetuning.finetune import finetune
from genreward_wrappers.goal_pipeline.finetuning.settings import Finetuning, Plan
from genreward_wrappers.goal_pipeline.finetuning.tuner import Tuner
from genreward_wrappers.goal_pipeline.generators import Generator, Model, Sampling
from tests.video_pipelines import cogvideox

SIZE = (32, 48)
WHOLE = Finetuning(
    method="full", learning_rate=3e-3, warm_up=2, batch=2, held_out=3, ema=0.9
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    cogvideox(vae={"blocks": 3}, transformer=SMALL).save_pretrained(folder)
    return folder


#: For a VAE that halves the sides twice.
SMALL = {"patch_size": 4, "sample_height": 8, "sample_width": 12}


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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed in range(4):
        prompt = "push the disc" if seed % 2 else "push the disc away"
        make_episode(seed, prompt=prompt).save(folder / f"e-{seed}.safetensors")
    make_episode(9, success=False).save(folder / "lost" / "e-9.safetensors")
    return folder


def tuned(base, data, output, tmp_path, training=WHOLE, **plan):
    plan = Plan(**{"steps": 6, "every": 1, "report": 1, **plan})
    return finetune(
        Model(str(base), device="cpu"),
        data,
        output,
        training=training,
        plan=plan,
        cache=tmp_path / "cache",
    )


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "transformer/diffusion_pytorch_model.safetensors")


def test_a_tuned_pipeline_is_a_pipeline(base, data, tmp_path):
    told = []
    output = tuned(
        base,
        data,
        tmp_path / "out",
        tmp_path,
        steps=40,
        validate=1,
        tell=lambda step, figures: told.append((step, figures)),
    )
    generator = Generator(Model(str(output), device="cpu"))
    settings = generator.settings(Sampling("push the disc", steps=2, frames=9))
    video = generator(settings, 0, make_episode(0).frames[0])
    assert video.shape == (9, *SIZE, 3)
    # All but the transformer is as it was.
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for path in (base / part).iterdir():
            assert (output / part / path.name).read_bytes() == path.read_bytes()
    before, after = weights_of(base), weights_of(output)
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    # Buffers are not trained, all else is.
    assert set(before) - set(moved) <= {"patch_embed.pos_embedding"}
    losses = [figures["loss"] for _, figures in told if "loss" in figures]
    judged = [f["loss_held_out"] for _, f in told if "loss_held_out" in f]
    assert len(losses) == len(judged) == 40
    assert all(np.isfinite(losses))
    # Held-out clips are judged at the same noise every time. 0.95 is a bound that
    # weights which stand still, or go the wrong way, do not reach.
    assert judged[-1] < 0.95 * judged[0]
    card = json.loads((output / "finetune.json").read_text())
    assert (card["clips"], card["held out"], card["steps"]) == (3, 1, 40)
    assert card["prompts"] == ["push the disc", "push the disc away"]
    assert card["figures"]["loss_held_out"] > 0


def test_a_stopped_run_ends_as_if_it_had_not_been(base, data, tmp_path, monkeypatch):
    whole = tuned(base, data, tmp_path / "whole", tmp_path)
    update = Tuner.update

    def killed(self, rate):
        if self.step == 4:
            raise RuntimeError("killed")
        return update(self, rate)

    monkeypatch.setattr(Tuner, "update", killed)
    with pytest.raises(RuntimeError, match="killed"):
        tuned(base, data, tmp_path / "again", tmp_path)
    monkeypatch.setattr(Tuner, "update", update)
    done = []
    again = tuned(
        base, data, tmp_path / "again", tmp_path, tell=lambda s, f: done.append(s)
    )
    assert done == [5, 6]
    first, second = weights_of(whole), weights_of(again)
    assert all(torch.equal(first[name], second[name]) for name in first)
    cards = [json.loads((f / "finetune.json").read_text()) for f in (whole, again)]
    for card in cards:
        del card["figures"]["minutes"]
    assert cards[0] == cards[1]
