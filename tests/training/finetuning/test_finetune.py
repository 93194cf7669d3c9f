"""Fine-tuning a small pipeline of diffusers' own classes, from data to files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from genreward_wrappers.cli.main import main
from genreward_wrappers.data.files import FileError
from genreward_wrappers.data.video_files import read_video
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model, Sampling
from genreward_wrappers.training.finetuning import begin
from genreward_wrappers.training.finetuning import finetune as module
from genreward_wrappers.training.finetuning.finetune import finetune
from genreward_wrappers.training.finetuning.settings import Finetuning, Plan
from genreward_wrappers.training.finetuning.tuner import Tuner
from genreward_wrappers.training.finetuning.vae import (
    moving_pixels,
    reconstruction_losses,
)
from tests.tuning import (
    FRAMES,
    LORA,
    PROMPTS,
    SIZE,
    WHOLE,
    make_episode,
    save_base,
    save_episodes,
    tuned,
    weights_of,
)
from tests.video_pipelines import cogvideox, make_vae, wan

LORA_FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    save_episodes(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Filled by the first run, and read by the others."""
    return tmp_path_factory.mktemp("cache")


def sampled(**model):
    generator = Generator(Model(**{**model, "device": "cpu"}))
    settings = generator.settings(Sampling(PROMPTS[0], steps=2, frames=FRAMES))
    return generator(settings, 0, make_episode(0).frames[0])


# Whole transformers


def spied(monkeypatch):
    """The tuner of the run that follows."""
    seen, fit = [], module._fit
    monkeypatch.setattr(
        module, "_fit", lambda tuner, *rest: seen.append(tuner) or fit(tuner, *rest)
    )
    return seen


def test_a_tuned_pipeline_is_a_pipeline(base, data, cache, tmp_path, monkeypatch):
    told = []
    seen = spied(monkeypatch)
    output = tuned(
        base,
        data,
        tmp_path / "out",
        cache,
        steps=40,
        validate=1,
        on_progress=lambda step, figures: told.append((step, figures)),
    )
    assert sampled(source=str(output)).shape == (FRAMES, *SIZE, 3)
    # All but the transformer is as it was.
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for path in (base / part).iterdir():
            assert (output / part / path.name).read_bytes() == path.read_bytes()
    before, after = weights_of(base), weights_of(output)
    assert before.keys() == after.keys()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still <= {"patch_embed.pos_embedding"}, "buffers alone are not trained"
    # The average is what is written, and it is not the last weights.
    weights = seen[0].weights
    for name, slow in weights.average.items():
        assert torch.equal(after[name], slow)
    assert any(
        not torch.equal(after[name], weight) for name, weight in weights.trained.items()
    )
    losses = [figures["loss"] for _, figures in told if "loss" in figures]
    judged = [f["loss_held_out"] for _, f in told if "loss_held_out" in f]
    assert len(losses) == len(judged) == 40
    assert all(np.isfinite(losses))
    # Held-out clips are judged at the same noise every time. 0.95 is a bound that
    # weights which stand still, or go the wrong way, do not reach.
    assert judged[-1] < 0.95 * judged[0]
    card = json.loads((output / "finetune.json").read_text())
    assert (card["clips"], card["held out"], card["steps"]) == (3, 1, 40)
    assert card["prompts"] == sorted(PROMPTS)
    assert card["figures"]["loss_held_out"] == judged[-1]
    mask = os.umask(0)
    os.umask(mask)
    for path in (output, output / "finetune.json", output / "transformer"):
        full = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == full & ~mask


@pytest.mark.parametrize("training", [WHOLE, LORA], ids=["full", "lora"])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    base, data, cache, tmp_path, monkeypatch, training
):
    if training.method == "lora":
        pytest.importorskip("peft")
    training = replace(training, prompt_dropout=0.3, image_dropout=0.3, noised=2)
    whole = tuned(base, data, tmp_path / "whole", cache, training)
    update = Tuner.update

    def killed(self, rate):
        if self.step == 4:
            raise RuntimeError("killed")
        return update(self, rate)

    monkeypatch.setattr(Tuner, "update", killed)
    with pytest.raises(RuntimeError, match="killed"):
        tuned(base, data, tmp_path / "again", cache, training)
    monkeypatch.setattr(Tuner, "update", update)
    done = []
    again = tuned(
        base,
        data,
        tmp_path / "again",
        cache,
        training,
        on_progress=lambda step, figures: done.append(step),
    )
    assert done == [5, 6, 6]
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"
    wrote = "transformer/diffusion_pytorch_model.safetensors"
    name = LORA_FILE if training.method == "lora" else wrote
    assert (whole / name).read_bytes() == (again / name).read_bytes()
    cards = [json.loads((f / "finetune.json").read_text()) for f in (whole, again)]
    for card in cards:
        del card["figures"]["minutes"]
    assert cards[0] == cards[1]


def test_ctrl_c_ends_the_step_and_keeps_it(base, data, cache, tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(step, figures):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tuned(base, data, tmp_path / "out", cache, every=100, on_progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "out").exists()
    done = []
    tuned(
        base,
        data,
        tmp_path / "out",
        cache,
        every=100,
        on_progress=lambda step, figures: done.append(step),
    )
    # It was asked for after the third step, and the fourth was not broken off.
    assert done == [5, 6, 6]


def test_half_precision_trains_full_weights(base, data, cache, tmp_path):
    """Autocast computes in bfloat16; weights, average and files stay as they were."""
    exact = tuned(base, data, tmp_path / "exact", cache, steps=2)
    half = tuned(base, data, tmp_path / "half", cache, steps=2, dtype="bfloat16")
    first, second = weights_of(exact), weights_of(half)
    assert {t.dtype for t in second.values()} == {torch.float32}
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0.1, atol=0.02)


def test_weights_are_written_in_the_precision_that_they_had(data, cache, tmp_path):
    base = tmp_path / "half"
    pipeline = cogvideox(
        vae={"blocks": 3},
        transformer={"patch_size": 4, "sample_height": 8, "sample_width": 12},
    )
    pipeline.transformer.to(torch.bfloat16)
    pipeline.save_pretrained(base)
    output = tuned(base, data, tmp_path / "out", cache, steps=1)
    assert {t.dtype for t in weights_of(output).values()} == {torch.bfloat16}


# LoRA


def test_lora_is_what_generate_reads(base, data, cache, tmp_path):
    pytest.importorskip("peft")
    output = tuned(base, data, tmp_path / "out", cache, LORA)
    from safetensors.torch import load_file

    found = load_file(output / LORA_FILE)
    names = {"to_q", "to_k", "to_v", "to_out.0"}
    assert {name.split("attn1.")[1].split(".lora")[0] for name in found} == names
    plain = sampled(source=str(base))
    with_lora = sampled(source=str(base), lora=str(output))
    without = sampled(source=str(base), lora=str(output), lora_scale=0.0)
    assert np.array_equal(plain, without)
    assert not np.array_equal(plain, with_lora)


def test_a_loaded_lora_computes_what_was_trained(
    base, data, cache, tmp_path, monkeypatch
):
    """The scale that is loaded with is the one that was trained with."""
    pytest.importorskip("peft")
    from diffusers import CogVideoXImageToVideoPipeline

    seen = spied(monkeypatch)
    output = tuned(base, data, tmp_path / "out", cache, LORA)
    tuned_transformer = seen[0].weights.module.eval()
    loaded = CogVideoXImageToVideoPipeline.from_pretrained(base)
    given = {
        "hidden_states": torch.randn(1, 3, 8, 8, 12),
        "encoder_hidden_states": torch.randn(1, 8, 16),
        "timestep": torch.tensor([500]),
        "image_rotary_emb": loaded._prepare_rotary_positional_embeddings(
            *SIZE, 3, torch.device("cpu")
        ),
        "return_dict": False,
    }
    with torch.no_grad():
        plain = loaded.transformer(**given)[0]
        loaded.load_lora_weights(output)
        found = loaded.transformer(**given)[0]
        trained = tuned_transformer(**given)[0]
    torch.testing.assert_close(found, trained, rtol=1e-5, atol=1e-6)
    assert (plain - trained).abs().max() > 1e-3


def test_lora_without_peft_says_what_to_install(base, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"wrappers\[finetune\]"):
        tuned(base, data, tmp_path / "out", tmp_path, LORA)


# The VAE


def test_the_vae_alone(base, data, tmp_path):
    told = []
    training = replace(
        WHOLE, method="vae", batch=4, held_out=0, ema=0.0, learning_rate=1e-3
    )
    output = tuned(
        base,
        data,
        tmp_path / "out",
        tmp_path,
        training,
        steps=4,
        on_progress=lambda step, figures: told.append(figures["loss"]),
    )
    # All four clips are in every step.
    assert told == sorted(told, reverse=True)
    assert told[-1] < 0.98 * told[0]
    before, after = weights_of(base, "vae"), weights_of(output, "vae")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    path = "transformer/diffusion_pytorch_model.safetensors"
    assert (base / path).read_bytes() == (output / path).read_bytes()
    assert sampled(source=str(output)).shape == (FRAMES, *SIZE, 3)


@pytest.mark.parametrize("frames", [5, 13])
def test_a_vae_gives_back_no_clips_of_other_lengths(frames, base, data, tmp_path):
    """Two latents at a time are eight frames, whatever went in."""
    vae = make_vae(blocks=3)
    with torch.no_grad():
        mean = vae.encode(torch.zeros(1, 3, frames, *SIZE)).latent_dist.mean
        assert vae.decode(mean).sample.shape[2] != frames
    training = replace(WHOLE, method="vae", held_out=0)
    with pytest.raises(ValueError, match=f"frames={frames}: .*8 k .*as 9 or 17"):
        finetune(
            str(base),
            data,
            tmp_path / "out",
            training=training,
            plan=Plan(steps=1),
            frames=frames,
        )


def test_what_a_vae_loses():
    """Against an independent computation in float64."""
    torch.manual_seed(0)
    vae = make_vae(blocks=3)
    clips = np.stack([make_episode(seed).frames[:FRAMES] for seed in (0, 1)])
    usual = np.median(clips, 1).astype(np.uint8)
    moving = moving_pixels(clips, usual)
    video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        found, plain = reconstruction_losses(
            vae, video, moving, torch.Generator().manual_seed(0)
        )
        posterior = vae.encode(video).latent_dist
        latents = posterior.sample(torch.Generator().manual_seed(0))
        decoded = vae.decode(latents).sample.double().numpy()
    where = np.zeros((2, FRAMES, *SIZE))
    for b, t, y, x in np.ndindex(where.shape):
        away = [
            abs(int(clips[b, t, y, x, c]) - int(usual[b, y, x, c])) for c in (0, 1, 2)
        ]
        where[b, t, y, x] = max(away) > 16
    assert np.array_equal(moving[:, 0].numpy(), where)
    assert 0 < where.mean() < 0.5
    pixels = clips.transpose(0, 4, 1, 2, 3).astype(np.float64) / 127.5 - 1
    error = np.abs(decoded - pixels)
    weight = np.broadcast_to(1 + 8 * where[:, None], error.shape)
    mean, variance = (t.double().numpy() for t in (posterior.mean, posterior.var))
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).mean()
    expected = (error * weight).sum() / weight.sum() + 1e-4 * kl
    assert float(found) == pytest.approx(expected, rel=2e-5)
    assert float(plain) == pytest.approx(error.mean(), rel=1e-4)


# Validation


def test_validation_shows_what_comes_of_held_out_frames(base, data, cache, tmp_path):
    told = []
    output = tuned(
        base,
        data,
        tmp_path / "out",
        cache,
        steps=2,
        validate=1,
        videos=5,
        sampling_steps=2,
        on_progress=lambda step, figures: told.append((step, figures)),
    )
    folder = tmp_path / "out.validation"
    # One of the four clips is held out.
    names = {"step-000001", "step-000002"}
    assert {path.stem for path in folder.glob("*.png")} == names
    assert {path.stem for path in folder.glob("*.mp4")} == {
        f"{n}-clip-1" for n in names
    }
    video = read_video(folder / "step-000002-clip-1.mp4")
    assert video.shape == (FRAMES, *SIZE, 3)
    figures = dict(told)[2]
    truth = make_episode(1).frames[::2].astype(float)
    still = np.abs(truth - truth[:1]).mean()
    assert figures["pixels_still"] == pytest.approx(still, rel=1e-5)
    # An mp4 is not lossless.
    assert figures["pixels"] == pytest.approx(np.abs(video - truth).mean(), abs=3)
    # What is shown is what is written, the average of the weights.
    generator = Generator(Model(str(output), device="cpu"))
    settings = generator.settings(
        Sampling(PROMPTS[1], steps=2, guidance=6.0, frames=FRAMES)
    )
    again = generator(settings, 0, make_episode(1).frames[0])
    shown = np.abs(again.astype(float) - truth).mean()
    assert figures["pixels"] == pytest.approx(shown, abs=0.01)


def test_videos_need_held_out_clips(base, data, cache, tmp_path):
    training = replace(WHOLE, held_out=0)
    with pytest.raises(ValueError, match="videos=1: .*held_out=0 leaves none of 4"):
        tuned(base, data, tmp_path / "out", cache, training, videos=1)


# What is encoded once


def test_nothing_is_encoded_twice(base, data, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    tuned(base, data, tmp_path / "first", cache, steps=1)
    files = sorted(cache.iterdir())
    kinds = [path.name.partition("-")[0] for path in files]
    assert kinds == ["clip"] * 4 + ["prompt"] * 3
    loaded = []
    load = begin.load_pipeline

    def noted(found, dtype, without=()):
        loaded.append(without)
        return load(found, dtype, without=without)

    monkeypatch.setattr(begin, "load_pipeline", noted)
    stamps = [path.stat().st_mtime_ns for path in files]
    tuned(base, data, tmp_path / "second", cache, steps=1)
    assert loaded == [("text_encoder", "tokenizer")]
    assert stamps == [path.stat().st_mtime_ns for path in files]
    one = [weights_of(tmp_path / name) for name in ("first", "second")]
    assert all(torch.equal(one[0][name], one[1][name]) for name in one[0])
    # A damaged file is made again, and other settings have files of their own.
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:100])
    tuned(base, data, tmp_path / "third", cache, steps=1)
    assert files[0].read_bytes() == whole
    training = replace(WHOLE, noised=3)
    tuned(base, data, tmp_path / "fourth", cache, training, steps=1)
    assert len(list(cache.iterdir())) == 7 + 4


def test_latents_are_read_from_files_where_memory_is_short(
    base, data, cache, tmp_path, monkeypatch
):
    held = tuned(base, data, tmp_path / "held", cache, steps=3)
    monkeypatch.setattr("genreward_wrappers.training.finetuning.latents.HELD", 0)
    read = tuned(base, data, tmp_path / "read", cache, steps=3)
    first, second = weights_of(held), weights_of(read)
    assert all(torch.equal(first[name], second[name]) for name in first)


# What is refused


def test_other_pipelines_are_refused(base, data, tmp_path):
    wan().save_pretrained(tmp_path / "wan")
    with pytest.raises(ValueError, match="WanImageToVideoPipeline: only a CogVideoX"):
        tuned(tmp_path / "wan", data, tmp_path / "out", tmp_path)
    with pytest.raises(ValueError, match="without LoRA"):
        finetune(Model(str(base), lora="x"), data, tmp_path / "out", plan=Plan(steps=1))
    with pytest.raises(FileNotFoundError, match="no folder"):
        tuned(tmp_path / "nothing", data, tmp_path / "out", tmp_path)


def test_a_checkpoint_of_another_run_is_refused(base, data, cache, tmp_path):
    tuned(base, data, tmp_path / "out", cache, steps=1)
    with pytest.raises(FileError, match=r"out.checkpoint .*batch was 2 and is 3"):
        tuned(base, data, tmp_path / "out", cache, replace(WHOLE, batch=3), steps=2)
    # More steps are no other run.
    done = []
    tuned(
        base,
        data,
        tmp_path / "out",
        cache,
        steps=3,
        on_progress=lambda step, figures: done.append(step),
    )
    assert done == [2, 3, 3]


def test_what_is_there_is_not_written_over(base, data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="give another output"):
        tuned(base, data, tmp_path / "mine", tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="give another output"):
        tuned(base, data, tmp_path / "file", tmp_path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"frames": 10}, r"frames=10: .* 9 or 13"),
        ({"size": (30, 48)}, "height=30: .* multiple of 16"),
        ({"size": (32, 32)}, "e-0.safetensors is 32x48 .* another aspect ratio"),
        ({"size": (64, 96)}, "enlarged to 64x96"),
    ],
)
def test_shapes_that_do_not_fit(base, data, tmp_path, shape, message):
    with pytest.raises(ValueError, match=message):
        finetune(
            Model(str(base), device="cpu"),
            data,
            tmp_path / "out",
            training=WHOLE,
            plan=Plan(steps=1),
            cache=tmp_path,
            **shape,
        )


def test_too_little_memory_says_what_helps(base, data, cache, tmp_path, monkeypatch):
    def full(self, rate):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(Tuner, "update", full)
    message = (
        "CUDA out of memory.*--method lora; --batch 1 --accumulate 2; .*--dtype "
        "bfloat16; .*--ema 0; fewer --frames than 9"
    )
    with pytest.raises(ValueError, match=message):
        tuned(base, data, tmp_path / "out", cache)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "dreambooth"},
        {"batch": 0},
        {"held_out": 1},
        {"learning_rate": float("nan")},
        {"ema": 1.0},
        {"prompt_dropout": 1.5},
        {"betas": (0.9, 1.0)},
    ],
)
def test_settings_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}|rate"):
        Finetuning(**wrong)


# The command


def test_the_command(base, data, cache, tmp_path, capsys):
    pytest.importorskip("tensorboard")
    output = tmp_path / "out"
    command = [
        "finetune", "--model", str(base), "--data", str(data),
        "--method", "full", "--steps", "3", "--batch", "2", "--held-out", "3",
        "--learning-rate", "3e-3", "--warm-up", "2", "--ema", "0.9",
        "--cache", str(cache), "--tensorboard", str(tmp_path / "board"),
        "--report", "1", "--device", "cpu", "--output", str(output),
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{output}: genreward generate --model {output} makes videos" in said
    assert "loss_held_out" in said
    assert list((tmp_path / "board").iterdir())
    # The same as from Python.
    same = tuned(base, data, tmp_path / "same", cache, steps=3)
    first, second = weights_of(output), weights_of(same)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert main([*command[:-1], str(data)]) == 1
    assert "give another output" in capsys.readouterr().err


def test_the_command_counts_minutes(base, data, cache, tmp_path, capsys):
    output = tmp_path / "out"
    assert (
        main(
            [
                "finetune", "--model", str(base), "--data", str(data),
                "--method", "full", "--minutes", "0.01", "--cache", str(cache),
                "--mode", "--held-out", "0", "--output", str(output),
                "--device", "cpu", "--size", "32", "48", "--frames", "9",
            ]
        )
        == 0
    )  # fmt: skip
    card = json.loads((output / "finetune.json").read_text())
    assert card["steps"] >= 1
    assert card["figures"]["minutes"] >= 0.01
    assert (card["sample"], card["held out"]) == (False, 0)


# Several processes


@pytest.mark.slow
def test_two_processes(base, data, cache, tmp_path):
    """What they compute is in `test_finetune_tuner.py`; here, that they come along."""
    pytest.importorskip("accelerate")
    tuned(base, data, tmp_path / "filled", cache, steps=1)
    output = tmp_path / "out"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc_per_node", "2", "-m",
            "genreward_wrappers", "finetune", "--model", str(base), "--data", str(data),
            "--method", "full", "--steps", "1", "--held-out", "3", "--accumulate", "2",
            "--cache", str(cache), "--device", "cpu", "--output", str(output),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = json.loads((output / "finetune.json").read_text())
    assert (card["processes"], card["steps"]) == (2, 1)
    assert card["figures"]["loss_held_out"] > 0
    # One speaks and writes for both.
    assert done.stdout.count("makes videos") == 1
    assert not list(tmp_path.glob(".*"))
