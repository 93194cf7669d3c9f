"""What is trained on is what the pipeline itself feeds its transformer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from genreward_wrappers.training.finetuning.denoising import Denoising
from genreward_wrappers.training.finetuning.latents import (
    _noised,
    _pixels,
    _posterior,
)
from genreward_wrappers.training.finetuning.objective import Objective
from genreward_wrappers.training.finetuning.settings import Finetuning
from tests.video_pipelines import LENGTH, cogvideox

FRAMES, SIZE = 9, (32, 48)

#: What sets the published models apart, at the size of a test.
FORMS = {
    "5b": {},
    "5b, learned positions": {
        "transformer": {"use_learned_positional_embeddings": True}
    },
    "2b": {"transformer": {"use_rotary_positional_embeddings": False}},
    "1.5": {
        "vae": {"invert_scale_latents": True},
        "transformer": {"patch_size_t": 2, "ofs_embed_dim": 8, "patch_bias": False},
    },
    "patches of 4 in time": {"transformer": {"patch_size_t": 4}},
    "4x, patches of 4": {
        "vae": {"blocks": 3},
        "transformer": {"patch_size": 4, "sample_height": 8, "sample_width": 12},
    },
    "dpm": {"scheduler": "CogVideoXDPMScheduler"},
    "epsilon": {"prediction_type": "epsilon"},
    "sample": {"prediction_type": "sample"},
    "zero snr": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
}


def make_frames(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)


@pytest.fixture(params=FORMS, ids=list(FORMS))
def pipeline(request):
    made = cogvideox(**FORMS[request.param])
    made.set_progress_bar_config(disable=True)
    # As a pipeline is that was loaded: without dropout.
    made.text_encoder.eval()
    return made


@torch.no_grad()
def encoded(pipeline, frames):
    pixels = _pixels(frames)
    return (
        _posterior(pipeline.vae, pixels)[None],
        _posterior(pipeline.vae, pixels[:, :, :1])[None],
    )


def test_the_transformer_is_called_as_the_pipeline_calls_it(pipeline, monkeypatch):
    from PIL import Image

    frames = make_frames()
    objective = Objective(pipeline, FRAMES, SIZE)
    video, image = encoded(pipeline, frames)
    scaled = objective.video(video, None)
    noise = torch.randn(scaled.shape, generator=torch.Generator().manual_seed(1))
    # The pipeline draws its first frame's latents; these are the same numbers.
    shape = image[:, 0].transpose(1, 2).shape
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    first = objective.image(image, drawn.transpose(1, 2))

    calls = []
    forward = pipeline.transformer.forward
    monkeypatch.setattr(
        pipeline.transformer,
        "forward",
        lambda **given: calls.append(given) or forward(**given),
    )
    pipeline.scheduler.set_timesteps(3)
    at = pipeline.scheduler.timesteps[:1]
    noisy = pipeline.scheduler.add_noise(scaled, noise, at)
    pipeline(
        Image.fromarray(frames[0]),
        "push the disc",
        height=SIZE[0],
        width=SIZE[1],
        num_frames=FRAMES,
        num_inference_steps=3,
        guidance_scale=1.0,
        latents=noisy,
        generator=torch.Generator().manual_seed(2),
        max_sequence_length=LENGTH,
        output_type="latent",
    )
    theirs = calls[0]
    prompt, _ = pipeline.encode_prompt(
        "push the disc", do_classifier_free_guidance=False, max_sequence_length=LENGTH
    )
    ours = objective.inputs(scaled, first, prompt, noise, at)
    assert set(ours) == set(theirs) - {"attention_kwargs"}
    for name in ("hidden_states", "encoder_hidden_states", "timestep"):
        assert ours[name].shape == theirs[name].shape
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    for name in ("ofs", "image_rotary_emb"):
        if theirs[name] is None:
            assert ours[name] is None
        else:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


def test_the_loss_is_the_published_one(pipeline):
    """1 / (1 - alpha) on the video that the output stands for, in float64."""
    objective = Objective(pipeline, FRAMES, SIZE)
    video, _ = encoded(pipeline, make_frames())
    scaled = objective.video(video, None).repeat(3, 1, 1, 1, 1)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(scaled.shape, generator=generator)
    output = torch.randn(scaled.shape, generator=generator)
    at = torch.tensor([3, 500, 990])
    found = objective.losses(output, scaled, noise, at)

    x, n, o = (t.double().numpy() for t in (scaled, noise, output))
    config = pipeline.scheduler.config
    root = np.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000)
    alphas = np.cumprod(1 - root**2)
    alphas = alphas / (config.snr_shift_scale + (1 - config.snr_shift_scale) * alphas)
    if config.rescale_betas_zero_snr:
        roots = np.sqrt(alphas)
        alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    a = alphas[at.numpy()].reshape(-1, 1, 1, 1, 1)
    noisy = np.sqrt(a) * x + np.sqrt(1 - a) * n
    if config.prediction_type == "v_prediction":
        error = (np.sqrt(a) * noisy - np.sqrt(1 - a) * o - x) ** 2 / (1 - a)
    elif config.prediction_type == "sample":
        error = (o - x) ** 2 / (1 - a)
    else:
        error = (o - n) ** 2
    expected = error.reshape(3, -1).mean(1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5)


def test_a_schedulers_target_stands_for_the_video(pipeline):
    """Where the transformer is right, the scheduler's step finds the video."""
    objective = Objective(pipeline, FRAMES, SIZE)
    video, _ = encoded(pipeline, make_frames())
    scaled = objective.video(video, None)
    noise = torch.randn(scaled.shape, generator=torch.Generator().manual_seed(1))
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(2)
    at = scheduler.timesteps[1]
    target = objective.target(scaled, noise, at[None])
    noisy = scheduler.add_noise(scaled, noise, at[None])
    if type(scheduler).__name__ == "CogVideoXDPMScheduler":
        _, found = scheduler.step(target, None, at, None, noisy, return_dict=False)
    else:
        _, found = scheduler.step(target, at, noisy, return_dict=False)
    torch.testing.assert_close(found, scaled, rtol=1e-4, atol=1e-4)


def test_frames_before_a_video_are_its_first_one():
    pipeline = cogvideox(**FORMS["1.5"])
    objective = Objective(pipeline, FRAMES, SIZE)
    video, image = encoded(pipeline, make_frames())
    scaled = objective.video(video, None)
    # Three latent frames, and the transformer takes them by twos.
    assert scaled.shape[1] == objective.latent_frames == 4
    assert torch.equal(scaled[:, 0], scaled[:, 1])
    assert torch.equal(scaled[:, 1:], pipeline.vae.config.scaling_factor * video[:, 0])
    first = objective.image(image, None)
    assert torch.equal(
        first[:, 0], image[:, 0, 0] * (1 / pipeline.vae.config.scaling_factor)
    )
    assert not first[:, 1:].any()


def test_a_clips_posterior_is_the_vaes():
    pipeline = cogvideox()
    frames = make_frames()
    video, _ = encoded(pipeline, frames)
    pixels = torch.from_numpy(frames.astype(np.float64) / 255 * 2 - 1).float()
    with torch.no_grad():
        found = pipeline.vae.encode(pixels.permute(3, 0, 1, 2)[None]).latent_dist
    both = torch.stack([found.mean, found.std], 1).transpose(2, 3)
    torch.testing.assert_close(video, both, rtol=1e-5, atol=1e-6)
    noise = torch.randn(found.mean.shape, generator=torch.Generator().manual_seed(0))
    drawn = Objective(pipeline, FRAMES, SIZE).video(video, noise.transpose(1, 2))
    theirs = found.sample(torch.Generator().manual_seed(0)).transpose(1, 2)
    torch.testing.assert_close(
        drawn, pipeline.vae.config.scaling_factor * theirs, rtol=1e-5, atol=1e-6
    )


def test_first_frames_are_noised_as_published():
    """The spread of the noise is log-normal around exp(-3)."""
    first = torch.zeros(1, 3, 1, 32, 48)
    versions = _noised(first, 400, "0123456789abcdef" * 4)
    sigma = np.log([float(v.std()) for v in versions])
    assert sigma.mean() == pytest.approx(-3, abs=0.1)
    assert sigma.std() == pytest.approx(0.5, abs=0.05)
    again = _noised(first, 400, "0123456789abcdef" * 4)
    assert all(torch.equal(a, b) for a, b in zip(versions, again, strict=True))
    assert not torch.equal(versions[0], _noised(first, 1, "f" * 64)[0])


def test_a_scheduler_that_cannot_be_trained_with_is_refused():
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipeline = cogvideox()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler .*expected"):
        Objective(pipeline, FRAMES, SIZE)


# What a step draws


class Known:
    """Latents of mean 1 and spread 0, or 1; prompts that say whose they are."""

    def __init__(self, spread=0.0):
        self.spread = spread

    def moments(self, rows):
        video = torch.ones(len(rows), 2, 3, 4, 4, 6)
        # Three versions of the first frame: 1, 2 and 3.
        image = torch.arange(1.0, 4).reshape(1, 3, 1, 1, 1, 1, 1)
        image = image.repeat(len(rows), 1, 2, 1, 4, 4, 6)
        video[:, 1], image[:, :, 1] = self.spread, self.spread
        return video, image

    def prompts(self, rows, dropped):
        return rows.masked_fill(dropped, -1)[:, None, None].float()


class Seen(torch.nn.Module):
    def forward(self, **given):
        self.given = given
        return (torch.zeros_like(given["hidden_states"][:, :, :4]),)


def drawn(count=300, judged=False, spread=0.0, **training):
    """What the transformer is given in one step, or for one held-out clip."""
    pipeline = cogvideox()
    model = Seen()
    task = Denoising(
        model,
        Objective(pipeline, FRAMES, SIZE),
        Known(spread),
        Finetuning(**training),
        torch.device("cpu"),
        torch.float32,
    )
    rng = np.random.default_rng(0)
    if judged:
        task.judge(7, rng)
    else:
        assert task.losses(model, torch.arange(count), rng).shape == (count,)
    return model.given, float(pipeline.vae.config.scaling_factor)


def test_noise_levels_are_uniform():
    given, _ = drawn(2000)
    at = given["timestep"]
    assert at.min() >= 0
    assert at.max() <= 999
    counts = np.histogram(at.numpy(), 10, (0, 1000))[0]
    # 200 of 2,000 in each tenth, with a standard deviation of 13.
    assert np.abs(counts - 200).max() < 5 * 13.4
    judged, _ = drawn(judged=True)
    assert judged["timestep"].tolist() == [125, 375, 625, 875]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_prompts_and_first_frames_are_left_out_apart(share):
    given, scale = drawn(prompt_dropout=share, image_dropout=share / 2)
    no_prompt = given["encoder_hidden_states"][:, 0, 0] < 0
    image = given["hidden_states"][:, :, 4:]
    no_image = ~image.flatten(1).any(1)
    assert float(no_prompt.float().mean()) == pytest.approx(share, abs=0.1)
    assert float(no_image.float().mean()) == pytest.approx(share / 2, abs=0.1)
    if 0 < share < 1:
        assert not torch.equal(no_prompt, no_image)
    # Each of the versions of the first frame comes, and nothing lies under the rest.
    first = image[:, 0, 0, 0, 0] / scale
    assert {round(v, 4) for v in first[~no_image].tolist()} == {1.0, 2.0, 3.0}
    assert not image[:, 1:].any()
    judged, _ = drawn(judged=True, prompt_dropout=share, image_dropout=share)
    assert (judged["encoder_hidden_states"] == 7).all()
    assert judged["hidden_states"][:, 0, 4:].all()


def test_latents_are_drawn_or_not():
    given, scale = drawn(spread=0.5, image_dropout=0.0)
    first = given["hidden_states"][:, 0, 4:] / scale
    inside = (first - first.round()).flatten(1).std(1)
    assert (inside > 0.1).all()
    given, scale = drawn(spread=0.5, image_dropout=0.0, sample=False)
    first = given["hidden_states"][:, 0, 4:] / scale
    torch.testing.assert_close(first, first.round())
