"""What a generator is fine-tuned on: videos, captions, episodes, data sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.files import FileError
from genreward_wrappers.data.video_files import write_video
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.finetuning.clips import CaptionedClip, find_clips
from genreward_wrappers.training.finetuning.latents import LatentsCache, Recipe
from tests.tuning import FRAMES, PROMPTS, SIZE, make_episode, save_episodes


def film(path, seed=0):
    frames = make_episode(seed).frames
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, frames)
    else:
        write_video(path, frames)
    return frames


def said(folder, **given):
    return {
        clip.name.rpartition("/")[2]: clip.prompt
        for clip in find_clips(folder, **given)
    }


# Episodes


def test_episodes_that_succeed(tmp_path):
    save_episodes(tmp_path)
    clips = find_clips(tmp_path)
    assert [clip.prompt for clip in clips] == [PROMPTS[0], PROMPTS[1]] * 2
    assert len({clip.digest for clip in clips}) == 4
    frames = make_episode(2).frames
    assert np.array_equal(clips[2].frames(17, SIZE), frames)
    assert np.array_equal(clips[2].frames(FRAMES, SIZE), frames[::2])
    half = clips[2].frames(FRAMES, (16, 24))
    means = frames[::2].astype(float).reshape(FRAMES, 16, 2, 24, 2, 3).mean((2, 4))
    assert np.abs(half - means).max() <= 0.5


def test_prompts_of_episodes(tmp_path):
    save_episodes(tmp_path)
    # The failed one has none of its own.
    with pytest.raises(ValueError, match=r"e-9.* no prompt.*'test/slide'.*--prompt"):
        find_clips(tmp_path, failures=True)
    given = {"failures": True, "prompts": {"test/slide": "slide it"}}
    assert said(tmp_path, **given)["e-9.safetensors"] == "slide it"
    found = said(tmp_path, **given, prompt="all")
    assert found["e-9.safetensors"] == "all"
    assert found["e-0.safetensors"] == PROMPTS[0]
    (tmp_path / "prompts.json").write_text('{"test/slide": "from the table"}')
    found = said(tmp_path, failures=True)
    assert found["e-9.safetensors"] == "from the table"
    assert found["e-0.safetensors"] == PROMPTS[0]
    (tmp_path / "prompts.json").write_text('["slide"]')
    with pytest.raises(ValueError, match=r'prompts.json: expected \{"<name>"'):
        find_clips(tmp_path)
    (tmp_path / "prompts.json").write_text("{")
    with pytest.raises(ValueError, match="prompts.json is no JSON"):
        find_clips(tmp_path)


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        find_clips(tmp_path / "none")
    with pytest.raises(ValueError, match="neither videos .*nor recorded episodes"):
        find_clips(tmp_path)
    make_episode(0, success=False).save(tmp_path / "e.safetensors")
    with pytest.raises(ValueError, match="none of its 1 episodes succeeded; --all"):
        find_clips(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(FileError, match="bad.safetensors is no safetensors file"):
        find_clips(tmp_path)


# Videos with captions


def test_captions_beside_and_in_tables(tmp_path):
    pytest.importorskip("av")
    for name in ("a.mp4", "b.npy", "c.npy", "inside/c.npy", "e.npy"):
        film(tmp_path / name, seed=len(name))
    (tmp_path / "a.txt").write_text("  of the\n text file ")
    captions = {"a.mp4": "not this", "b.npy": "of the table", "inside/c.npy": "below"}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    lines = [{"file_name": "c.npy", "text": "of a line"}, {"video": "e", "prompt": "x"}]
    text = "\n\n".join(map(json.dumps, lines))
    (tmp_path / "metadata.jsonl").write_text(text)
    assert [
        (c.name.removeprefix(f"{tmp_path}/"), c.prompt) for c in find_clips(tmp_path)
    ] == [
        ("a.mp4", "of the text file"),
        ("b.npy", "of the table"),
        ("c.npy", "of a line"),
        ("e.npy", "x"),
        ("inside/c.npy", "below"),
    ]
    first = find_clips(tmp_path)[1]
    assert np.array_equal(first.frames(17, SIZE), make_episode(5).frames)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "c.npy"}')
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 1: .*text, prompt"):
        find_clips(tmp_path)


def test_a_video_without_a_caption_is_named(tmp_path):
    film(tmp_path / "a.npy")
    film(tmp_path / "b.npy")
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(ValueError, match=r"b.npy has no caption: .*b.txt"):
        find_clips(tmp_path)
    assert said(tmp_path, prompt="all") == {"a.npy": "one", "b.npy": "all"}
    (tmp_path / "a.txt").write_text(" \n")
    assert said(tmp_path, prompt="all")["a.npy"] == "all"


def test_videos_that_do_not_do(tmp_path):
    pytest.importorskip("av")
    film(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:600])
    np.save(tmp_path / "c.npy", np.zeros((1, *SIZE, 3), np.uint8))
    np.save(tmp_path / "d.npy", np.zeros((9, *SIZE[::-1], 3), np.uint8))
    clips = find_clips(tmp_path, prompt="all")
    assert len(clips[0].frames(FRAMES, SIZE)) == FRAMES
    for clip, message in zip(
        clips[1:],
        ("b.mp4 does not decode", "c.npy: .*at least 2 frames", "d.npy is 48x32"),
        strict=True,
    ):
        with pytest.raises(ValueError, match=message):
            clip.frames(FRAMES, SIZE)


# Minari


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_minari_dataset(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = PointMass(size=16, horizon=3, obs="pixels")
    seen = [
        [env.reset(seed=s)[0], *(env.step(np.ones(2, np.float32))[0] for _ in range(3))]
        for s in range(3)
    ]
    won = [True, False, True]
    for name, infos in (
        ("won", [{"success": [0.0, 0.0, 0.0, float(w)]} for w in won]),
        ("lost", [{"success": [0.0] * 4}] * 3),
        ("silent", [{}] * 3),
    ):
        minari.create_dataset_from_buffers(
            dataset_id=f"toy/{name}-v0",
            buffer=[
                EpisodeBuffer(
                    observations=seen[i],
                    actions=[np.ones(2, np.float32)] * 3,
                    rewards=[0.0] * 3,
                    terminations=[False] * 3,
                    truncations=[False, False, True],
                    infos=infos[i],
                )
                for i in range(3)
            ],
            observation_space=env.observation_space,
            action_space=env.action_space,
            algorithm_name="none",
            author="nobody",
            author_email="nobody",
            code_permalink="none",
            description="three episodes",
        )
    clips = find_clips("minari:toy/won-v0", prompt="push")
    assert [clip.prompt for clip in clips] == ["push"] * 2
    for clip, i in zip(clips, (0, 2), strict=True):
        assert np.array_equal(clip.frames(4, (16, 16)), np.stack(seen[i]))
    assert clips[0].digest != clips[1].digest
    assert len(find_clips("minari:toy/won-v0", prompt="push", failures=True)) == 3
    # Where nobody noted it, all count as done.
    assert len(find_clips("minari:toy/silent-v0", prompts={"toy/silent-v0": "x"})) == 3
    with pytest.raises(ValueError, match="none of its 3 episodes succeeded"):
        find_clips("minari:toy/lost-v0", prompt="push")
    with pytest.raises(ValueError, match="has no prompt: give --prompt"):
        find_clips("minari:toy/won-v0")


# The cache


class Posterior:
    def __init__(self, mean):
        self.mean, self.std = mean, torch.full_like(mean, 0.5)


class Coarse:
    """Keeps every fourth frame, and the mean of pixels of four by four."""

    dtype = torch.float32

    def __init__(self):
        self.calls = 0

    def encode(self, pixels):
        self.calls += 1
        small = torch.nn.functional.avg_pool3d(pixels[:, :, ::4], (1, 4, 4))
        return type("Output", (), {"latent_dist": Posterior(small)})()


class Texts:
    """Embeds a prompt as its length."""

    class text_encoder:
        @staticmethod
        def to(device): ...

    def encode_prompt(self, prompt, max_sequence_length, **_):
        return torch.full((1, max_sequence_length, 2), float(len(prompt))), None


def clip_of(seed, prompt="one"):
    frames: UInt8 = make_episode(seed).frames
    return CaptionedClip(f"clip {seed}", prompt, f"{seed:064x}", lambda: frames)


RECIPE = Recipe("v", "t", 3, FRAMES, SIZE, 0, "float32")


def filled(folder, clips, recipe=RECIPE):
    cache, vae, cpu = LatentsCache(folder, recipe), Coarse(), torch.device("cpu")
    cache.encode_prompts(Texts(), [clip.prompt for clip in clips], cpu)
    ticks = []
    cache.encode_clips(vae, clips, cpu, lambda *count: ticks.append(count))
    assert ticks == [(i, len(clips)) for i in range(len(clips) + 1)]
    return cache, vae


def test_latents_come_back_in_order(tmp_path):
    clips = [clip_of(0), clip_of(1, "three"), clip_of(2)]
    cache, vae = filled(tmp_path, clips)
    assert vae.calls == 6
    latents = cache.latents(clips)
    assert len(latents) == 3
    rows = torch.tensor([2, 1])
    video, image = latents.moments(rows)
    assert video.shape == (2, 2, 3, 3, 8, 12)
    assert image.shape == (2, 1, 2, 1, 3, 8, 12)
    for i, row in enumerate((2, 1)):
        pixels = make_episode(row).frames[::2][::4].astype(float) / 127.5 - 1
        means = pixels.reshape(3, 8, 4, 12, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(video[i, 0], means, atol=1e-5)
        np.testing.assert_allclose(image[i, 0, 0], means[:1], atol=1e-5)
    assert (video[:, 1] == 0.5).all()
    prompts = latents.prompts(torch.tensor([0, 1, 2]))
    assert prompts[:, 0, 0].tolist() == [3, 5, 3]
    dropped = torch.tensor([False, True, True])
    some = latents.prompts(torch.tensor([0, 1, 2]), dropped)
    assert some[:, 2, 1].tolist() == [3, 0, 0]
    with pytest.raises(FileNotFoundError, match="lacks clip-"):
        cache.latents([clip_of(7)])


def test_encoding_resumes(tmp_path):
    clips = [clip_of(0), clip_of(1)]
    filled(tmp_path, clips[:1])
    cache, vae = filled(tmp_path, clips)
    assert vae.calls == 2
    assert cache.lacks_prompts(["one", "other"]) == ["other"]
    # Whoever asks for noised frames gets as many, and not the clean one.
    recipe = Recipe("v", "t", 3, FRAMES, SIZE, 2, "float32")
    noisy, vae = filled(tmp_path, clips, recipe)
    assert vae.calls == 6
    _, image = noisy.latents(clips).moments(torch.tensor([0]))
    _, clean = cache.latents(clips).moments(torch.tensor([0]))
    assert image.shape[1] == 2
    assert not torch.equal(image[:, 0], image[:, 1])
    assert not torch.equal(image[:, 0], clean[:, 0])


@pytest.mark.parametrize(
    ("other", "clips", "prompts"),
    [
        ({"vae": "w"}, False, True),
        ({"text": "u"}, True, False),
        ({"tokens": 4}, True, False),
        ({"frames": 13}, False, True),
        ({"size": (16, 24)}, False, True),
        ({"noised": 1}, False, True),
        ({"dtype": "bfloat16"}, False, False),
    ],
)
def test_what_a_file_depends_on(other, clips, prompts):
    from dataclasses import replace

    changed = replace(RECIPE, **other)
    clip = clip_of(0)
    assert (changed.of_clip(clip) == RECIPE.of_clip(clip)) == clips
    assert (changed.of_prompt("one") == RECIPE.of_prompt("one")) == prompts
    assert RECIPE.of_clip(clip) == RECIPE.of_clip(clip_of(0, "other"))
    assert RECIPE.of_clip(clip) != RECIPE.of_clip(clip_of(1))
    assert RECIPE.of_prompt("one") != RECIPE.of_prompt("two")
