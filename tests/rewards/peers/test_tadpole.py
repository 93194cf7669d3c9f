"""TADPoLe over small random pipelines of diffusers' own classes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from genreward_wrappers import RewardModelWrapper, load_reward
from genreward_wrappers.core import Session
from genreward_wrappers.rewards.peers.denoiser import Denoiser
from genreward_wrappers.rewards.peers.tadpole import Tadpole, alignment
from genreward_wrappers.testing import PointMass, check_reward_model
from tests import pipelines

PROMPT = "a red disc"
SIZE = 16


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Stable Diffusion pipeline that predicts epsilon, as a local folder."""
    path = tmp_path_factory.mktemp("pipelines") / "tiny"
    pipelines.stable_diffusion().save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(scope="module")
def made():
    """Each pipeline, made once."""
    found = {}

    def get(name, **options):
        key = (name, *sorted(options.items()))
        if key not in found:
            found[key] = getattr(pipelines, name)(**options)
        return found[key]

    return get


def tadpole(pipeline, prompt=PROMPT, **options):
    return Tadpole(prompt, pipeline, device="cpu", **options)


def film(steps=6, rows=2, size=SIZE, seed=0, top=255):
    rng = np.random.default_rng(seed)
    shape = (steps + 1, rows, size, size, 3)
    return rng.integers(0, top + 1, shape).astype(np.uint8)


def play(model, frames, restart=None, ends=(), seed=0):
    """(steps, rows) scores, NaN where nothing is due; and the seeds of each step."""
    rows = frames.shape[1]
    session = Session([model], rows)
    session.begin(frames[0], seed=seed)
    found, seeds = [], []
    for t in range(len(frames) - 1):
        seeds.append(session.snapshot().memories[0].seeds)
        over = np.array([(t, row) in ends for row in range(rows)])
        # A time limit for one row, a termination for the others.
        terminated = over & (np.arange(rows) > 0)
        score = session.score(
            np.zeros((rows, 2)), frames[t + 1], terminated, over & ~terminated
        )[model.name]
        found.append(np.where(score.due, score.value, np.nan))
        again = over | (np.arange(rows) == 1) * (t == restart)
        if again.any():
            session.begin(frames[t + 1], again)
    return np.array(found), np.array(seeds)


def symlog(x):
    return np.sign(x) * np.log1p(abs(x))


# The formula


def test_alignment_against_loops():
    rng = np.random.default_rng(0)
    c, u, e = rng.normal(size=(3, 4, 2, 3, 3))
    found = alignment(*map(torch.from_numpy, (c, u, e)), 2000.0, 200.0).numpy()
    for n in range(4):
        changed = explained = 0.0
        for a, b, x in zip(c[n].flat, u[n].flat, e[n].flat, strict=True):
            changed += (a - b) ** 2 / 18
            explained += ((b - x) ** 2 - (a - x) ** 2) / 18
        expected = symlog(2000 * changed) + symlog(200 * explained)
        assert found[n] == pytest.approx(expected, rel=1e-10)
    # A prompt that makes it worse is paid for the change alone.
    worse = alignment(*map(torch.from_numpy, (u + 1, u, u)), 1.0, 1.0).numpy()
    np.testing.assert_allclose(worse, 0, atol=1e-12)


def by_the_library(pipeline, frame, seed, step, levels=(400, 500)):
    """The reward of one frame, by the pipeline's own parts, one at a time."""
    level = int(np.random.default_rng([seed, 0]).integers(*levels))
    with torch.no_grad():
        picture = torch.from_numpy(frame.astype(np.float32) / 127.5 - 1)
        latents = pipeline.vae.encode(picture.permute(2, 0, 1)[None]).latent_dist.mean
        latents = latents * pipeline.vae.config.scaling_factor
        noise = np.random.default_rng([seed, step]).standard_normal(
            latents.shape[1:], dtype=np.float32
        )
        noise = torch.from_numpy(noise)[None]
        t = torch.tensor([level])
        noisy = pipeline.scheduler.add_noise(latents, noise, t)
        alpha = pipeline.scheduler.alphas_cumprod[level].double()
        believed = []
        for text in (PROMPT, ""):
            ids = pipeline.tokenizer(
                text, padding="max_length", max_length=8, return_tensors="pt"
            ).input_ids
            hidden = pipeline.text_encoder(ids)[0]
            said = pipeline.unet(noisy, t, encoder_hidden_states=hidden).sample
            said, x = said.double(), noisy.double()
            kind = pipeline.scheduler.config.prediction_type
            if kind == "v_prediction":
                # v = sqrt(alpha) e - sqrt(1 - alpha) x0, solved for e.
                x0 = alpha.sqrt() * x - (1 - alpha).sqrt() * said
                said = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
            elif kind == "sample":
                said = (x - alpha.sqrt() * said) / (1 - alpha).sqrt()
            believed.append(said.numpy())
    c, u = believed
    e = noise.double().numpy()
    changed = np.mean((c - u) ** 2)
    explained = np.mean((u - e) ** 2) - np.mean((c - e) ** 2)
    return symlog(2000 * changed) + symlog(200 * explained)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_pictures_against_the_library_step_by_step(prediction, made):
    """Two rows, one of which begins a second episode in between."""
    pipeline = made("stable_diffusion", prediction=prediction)
    frames = film()
    found, seeds = play(tadpole(pipeline), frames, restart=2)
    for row, t in np.ndindex(2, 6):
        step = t - 2 if row == 1 and t > 2 else t + 1
        expected = by_the_library(
            pipeline, frames[t + 1, row], int(seeds[t, row]), step
        )
        assert found[t, row] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert seeds[0, 1] != seeds[5, 1], "the second episode has noise of its own"
    assert found.std() > 1e-3


@pytest.mark.parametrize(
    "kind", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_the_noise_does_not_depend_on_how_the_scheduler_walks(kind, made):
    """Some add noise in another scale, and at the few steps that they will walk."""
    frames = film(steps=2)
    expected, _ = play(tadpole(made("stable_diffusion")), frames)
    found, _ = play(tadpole(made("stable_diffusion", scheduler=kind)), frames)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_noise_is_fresh_at_each_step_and_its_level_is_the_episodes(
    made, monkeypatch
):
    model = tadpole(made("stable_diffusion"))
    asked = []

    def spy(latents, noise, t):
        asked.append((noise.clone(), t.clone()))
        return noise, noise

    monkeypatch.setattr(model.denoiser, "believe", spy)
    still = np.repeat(film(steps=0), 41, 0)
    play(model, still, restart=20)
    noises = [n for noise, _ in asked for n in noise.reshape(len(noise), -1)[:, 0]]
    assert len(set(map(float, noises))) == 80
    levels = np.array([t.tolist() for _, t in asked])
    assert (levels[:, 0] == levels[0, 0]).all()
    assert len(set(levels[:21, 1])) == len(set(levels[21:, 1])) == 1
    assert levels.min() >= 400
    assert levels.max() < 500
    asked.clear()
    for seed in range(300):
        play(model, still[:2], seed=2 * seed)
    drawn = np.concatenate([t.tolist() for _, t in asked])
    # Of 600 draws of 100 levels, a given one is missing with a chance of 0.2 %.
    assert drawn.min() == 400
    assert drawn.max() == 499
    assert abs(drawn.mean() - 449.5) < 4 * 29 / np.sqrt(600)


@pytest.mark.parametrize("top", [255, 30, 1])
def test_the_model_sees_one_range_however_bright_the_frame(top, made, monkeypatch):
    denoiser = Denoiser(made("stable_diffusion"), PROMPT, device="cpu")
    seen = []
    encode = denoiser._vae.encode
    monkeypatch.setattr(
        denoiser._vae, "encode", lambda x: seen.append(x.clone()) or encode(x)
    )
    frames = film(steps=0, top=top)[0]
    denoiser.encode(frames)
    np.testing.assert_allclose(
        seen[0], frames.transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6
    )
    # Larger frames are shrunk, smaller ones enlarged, none is cut or squeezed.
    for size, expected in (((32, 32), (16, 16)), ((8, 8), (16, 16)),
                           ((24, 48), (16, 32))):  # fmt: skip
        picture = np.full((1, *size, 3), top, np.uint8)
        denoiser.encode(picture)
        assert tuple(seen[-1].shape[2:]) == expected
        np.testing.assert_allclose(seen[-1], top / 127.5 - 1, atol=1e-5)
        assert denoiser.shape(picture)[1:] == (expected[0] // 2, expected[1] // 2)


# Other pipelines


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl", "pixart", "animatediff"])
def test_every_pipeline_keeps_the_contracts(name, made):
    model = tadpole(made(name))
    check_reward_model(model, size=(SIZE, SIZE), steps=16, tolerance=1e-3)


@pytest.mark.parametrize("name", ["sdxl", "pixart"])
def test_larger_pipelines_predict_as_when_they_generate(name, made, monkeypatch):
    """What the denoiser is told is what the pipeline itself tells it."""
    pipeline = made(name)
    denoiser = Denoiser(pipeline, PROMPT, device="cpu")
    model = pipeline.unet if name == "sdxl" else pipeline.transformer
    told = []
    forward = type(model).forward

    def spy(self, sample, *args, **kwargs):
        told.append((sample, kwargs))
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", spy)
    denoiser.believe(*torch.randn(2, 1, 4, 8, 8), torch.tensor([450]))
    options = {
        "height": 16,
        "width": 16,
        "num_inference_steps": 1,
        "output_type": "latent",
    }
    if name == "pixart":
        options |= {"use_resolution_binning": False, "clean_caption": False}
    pipeline.set_progress_bar_config(disable=True)
    pipeline(PROMPT, negative_prompt="", guidance_scale=2.0, **options)
    (own_sample, own), (_, theirs) = told[:2]
    assert len(own_sample) == 2
    # They put the text without a prompt first.
    flip = {"encoder_hidden_states", "encoder_attention_mask"} & own.keys()
    assert flip
    for key in flip:
        torch.testing.assert_close(own[key].flip(0), theirs[key])
    ours, others = own["added_cond_kwargs"], theirs["added_cond_kwargs"]
    assert ours.keys() == others.keys()
    for key, value in others.items():
        if value is None:
            assert ours[key] is None
        else:
            torch.testing.assert_close(ours[key].flip(0), value, check_dtype=False)


# Videos


def windows_by_loops(pipeline, frames, seed, last, window=8, stride=4):
    """What each step pays in an episode of one row, from windows made one at a time."""
    level = int(np.random.default_rng([seed, 0]).integers(400, 500))
    unet = pipeline.unet
    scores = {t: [] for t in range(1, last + 1)}
    paid = np.full(last, np.nan)
    done = set()
    for step in range(1, last + 1):
        whole = step + 1 >= window and (step + 1 - window) % stride == 0
        if not whole and step != last:
            continue
        times = [step - window + 1 + i for i in range(window)]
        clip = frames[[max(t, 0) for t in times]].astype(np.float32) / 127.5 - 1
        with torch.no_grad():
            latents = pipeline.vae.encode(
                torch.from_numpy(clip).permute(0, 3, 1, 2)
            ).latent_dist.mean
            latents = latents * pipeline.vae.config.scaling_factor
            noise = torch.from_numpy(
                np.random.default_rng([seed, step]).standard_normal(
                    latents.shape, dtype=np.float32
                )
            )
            t = torch.tensor(level)
            noisy = pipeline.scheduler.add_noise(latents, noise, t[None])
            believed = []
            for text in (PROMPT, ""):
                ids = pipeline.tokenizer(
                    text, padding="max_length", max_length=8, return_tensors="pt"
                ).input_ids
                hidden = pipeline.text_encoder(ids)[0].repeat_interleave(window, 0)
                video = noisy.permute(1, 0, 2, 3)[None]
                said = unet(video, t, encoder_hidden_states=hidden).sample
                believed.append(said[0].permute(1, 0, 2, 3).double().numpy())
        c, u = believed
        e = noise.double().numpy()
        for i, time in enumerate(times):
            if time >= 1:
                changed = np.mean((c[i] - u[i]) ** 2)
                explained = np.mean((u[i] - e[i]) ** 2) - np.mean((c[i] - e[i]) ** 2)
                scores[time].append(symlog(2000 * changed) + symlog(200 * explained))
        # Paid now: what no later window will hold.
        final = [
            time
            for time in times
            if time >= 1
            and time not in done
            and (step == last or time < step - window + 1 + stride)
        ]
        done |= set(final)
        paid[step - 1] = sum(np.mean(scores[time]) for time in final)
    assert done == set(range(1, last + 1))
    return paid


@pytest.mark.parametrize("last", [19, 17, 12, 5], ids=lambda last: f"{last} steps")
def test_videos_against_windows_made_one_at_a_time(last, made):
    """Row 0 ends by a time limit; row 1 terminates earlier and begins anew."""
    pipeline = made("animatediff")
    frames = film(steps=last, seed=1)
    early = last // 2
    ends = {(last - 1, 0), (early - 1, 1), (last - 1, 1)}
    found, seeds = play(tadpole(pipeline), frames, ends=ends)
    expected = windows_by_loops(pipeline, frames[:, 0], int(seeds[0, 0]), last)
    np.testing.assert_allclose(found[:, 0], expected, rtol=2e-3, atol=1e-4)
    first = windows_by_loops(pipeline, frames[:, 1], int(seeds[0, 1]), early)
    second = windows_by_loops(
        pipeline, frames[early:, 1], int(seeds[-1, 1]), last - early
    )
    np.testing.assert_allclose(
        found[:, 1], np.concatenate([first, second]), rtol=2e-3, atol=1e-4
    )


def test_windows_without_overlap_and_of_another_length(made):
    model = tadpole(made("animatediff"), window=4, stride=4)
    frames = film(steps=9, rows=1)
    found, _ = play(model, frames)
    assert np.flatnonzero(np.isfinite(found[:, 0])).tolist() == [2, 6]


# Text


def test_the_prompt_matters_and_what_is_not_read_is_said(made):
    pipeline, frames = made("stable_diffusion"), film(steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        red, _ = play(tadpole(pipeline, "a red disc"), frames)
        arm, _ = play(tadpole(pipeline, "robot arm moves"), frames)
    assert not np.allclose(red, arm)
    same, _ = play(tadpole(pipeline, "a disc", negative="a disc"), frames)
    np.testing.assert_allclose(same, 0, atol=1e-5)
    with pytest.warns(UserWarning, match=r"does not know 'zebra!' in 'a zebra! walks'"):
        tadpole(pipeline, "a zebra! walks")
    long = "a red robot arm moves a red disc"
    with pytest.warns(
        UserWarning, match=r"reads 8 tokens.*it sees 'a red robot arm mo"
    ):
        tadpole(pipeline, long)


@pytest.mark.parametrize("prompt", ["", "   ", None, 3])
def test_empty_prompts(prompt, made):
    with pytest.raises((ValueError, TypeError), match="prompt="):
        tadpole(made("stable_diffusion"), prompt)


# Where pipelines come from


def test_a_folder_gives_the_pipeline_that_was_saved_there(folder, made):
    frames = film(steps=3)
    expected, _ = play(tadpole(made("stable_diffusion")), frames)
    model = load_reward("tadpole", prompt=PROMPT, pipeline=str(folder), device="cpu")
    found, _ = play(model, frames)
    np.testing.assert_array_equal(found, expected)


def test_pipelines_that_are_not_there(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="(?s)'nobody/nothing'.*hf download"):
        tadpole("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        tadpole(str(tmp_path / "empty"))
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for weights in (broken / "unet").glob("*.safetensors"):
        # Pickles are never read, whatever else is missing.
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
    with pytest.raises(
        FileNotFoundError, match="(?s)cannot get the pipeline.*safetens"
    ):
        tadpole(str(broken))


def test_pipelines_without_the_needed_parts(tmp_path, made):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    pictures = DDPMPipeline(unet, DDPMScheduler())
    pictures.save_pretrained(tmp_path / "ddpm")
    for source in (pictures, str(tmp_path / "ddpm")):
        with pytest.raises(
            ValueError,
            match=r"no vae, no tokenizer, no text_encoder; it has \['sched.* 'unet'\]",
        ):
            tadpole(source)
    blind = pipelines.stable_diffusion()
    blind.unet = None
    with pytest.raises(ValueError, match="has no unet or transformer; it has"):
        tadpole(blind)
    with pytest.raises(ValueError, match="takes 9 channels and its VAE gives 4"):
        tadpole(pipelines.stable_diffusion(in_channels=9))
    other = pipelines.stable_diffusion()
    other.unet = unet
    with pytest.raises(ValueError, match="denoises with UNet2DModel, expected one of"):
        tadpole(other)


def test_flows_and_strange_schedulers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipeline = pipelines.stable_diffusion()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(
        ValueError, match="FlowMatchEulerDiscreteScheduler.*alphas_cump"
    ):
        tadpole(pipeline)
    pipeline = pipelines.stable_diffusion()
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod**2
    with pytest.raises(ValueError, match="not what its configuration says"):
        tadpole(pipeline)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": (500, 400)}, r"noise=\(500, 400\).*the first lower"),
        ({"noise": (400, 1001)}, r"noise=\(400, 1001\)"),
        ({"window": 4, "stride": 5}, "window=4, stride=5"),
        ({"stride": 0}, "stride=0"),
        ({"size": 1}, "size=1: .*needs at least 4"),
        ({"dtype": "int8"}, "dtype must be"),
    ],
)
def test_bad_options(options, message, made):
    with pytest.raises(ValueError, match=message):
        tadpole(made("stable_diffusion"), **options)


def test_it_computes_in_half_precision(made):
    frames = film(steps=1)
    expected, _ = play(tadpole(pipelines.stable_diffusion()), frames)
    half = tadpole(pipelines.stable_diffusion(), dtype="bfloat16")
    found, _ = play(half, frames)
    assert half.denoiser._model.dtype == torch.bfloat16
    np.testing.assert_allclose(found, expected, rtol=0.2, atol=0.3)
    assert not np.array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable_diffusion", "animatediff"])
def test_an_agent_trains_on_it(name, made):
    from stable_baselines3 import PPO

    env = PointMass(size=36, horizon=25)
    env = RewardModelWrapper(env, tadpole(made(name), size=16))
    agent = PPO("CnnPolicy", env, n_steps=100, batch_size=50, n_epochs=1, device="cpu")
    agent.learn(500)
    rewards = agent.rollout_buffer.rewards
    assert np.isfinite(rewards).all()
    assert rewards.std() > 0
