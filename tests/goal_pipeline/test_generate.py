"""Generating goal videos: what pipelines are asked for, and what becomes of it."""

from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from genreward_wrappers import GoalBundle
from genreward_wrappers.cli.main import main
from genreward_wrappers.data.video_files import read_video
from genreward_wrappers.generators.candidates import SHEET, load_candidate
from genreward_wrappers.generators.checkpoints import find_lora, find_pipeline
from genreward_wrappers.generators.memory import memory_told
from genreward_wrappers.generators.pictures import load_image, to_frames
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model, Sampling
from genreward_wrappers.goal_pipeline import generate as module
from genreward_wrappers.goal_pipeline.generate import first_frames, generate
from genreward_wrappers.goal_pipeline.pack import pack_candidates
from genreward_wrappers.testing import PointMass
from genreward_wrappers.training.videos import load_videos
from tests import video_pipelines

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

ENV = "test/start"
SIZE = (32, 48)
ASKED = Sampling("push the disc to its target", steps=2, frames=9)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    gym.register(ENV, "genreward_wrappers.testing:PointMass", kwargs={"size": SIZE})
    yield
    del gym.registry[ENV]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes each pipeline once: its folder by name."""
    made = {}

    def folder(name, **options):
        key = (name, *options.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp(name)
            getattr(video_pipelines, name)(**options).save_pretrained(made[key])
        return made[key]

    return folder


@pytest.fixture(scope="module")
def model(folders):
    return Model(str(folders("cogvideox")), device="cpu")


@pytest.fixture(scope="module")
def candidates(model, tmp_path_factory):
    """Two candidates of each of two first frames."""
    folder = tmp_path_factory.mktemp("candidates")
    generate(model, ASKED, folder, env_id=ENV, starts=2, candidates=2)
    return folder


def start(seed=1_000_000, size=SIZE):
    return PointMass(size=size).reset(seed=seed)[0]


def by_hand(folder, image, seed, kind="CogVideoXImageToVideoPipeline", **changes):
    """What the pipeline makes when it is called as its documentation says."""
    import diffusers

    pipeline = getattr(diffusers, kind).from_pretrained(folder)
    arguments = {
        "prompt": ASKED.prompt,
        "num_frames": 9,
        "num_inference_steps": 2,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pil",
        "max_sequence_length": video_pipelines.LENGTH,
        **changes,
    }
    if image is not None:
        arguments["image"] = Image.fromarray(image)
    return np.stack([np.asarray(f) for f in pipeline(**arguments).frames[0]])


def forbidden(*_, **__):
    raise AssertionError("nothing had to be made")


# What is made


def test_candidates_are_what_the_pipeline_gives_by_hand(candidates, model):
    names = sorted(path.name for path in candidates.glob("*.safetensors"))
    assert names == [
        f"candidate-{1_000_000 + start}-{1_000_000 + seed}.safetensors"
        for start in (0, 1)
        for seed in (0, 1)
    ]
    seen = set()
    for name, env_seed, seed in zip(names, (0, 0, 1, 1), (0, 1, 0, 1), strict=True):
        frames = GoalBundle.load(candidates / name).videos[0]
        image = start(1_000_000 + env_seed)
        expected = by_hand(model.source, image, 1_000_000 + seed)
        np.testing.assert_array_equal(frames, expected)
        assert frames.shape == (9, *SIZE, 3)
        seen.add(frames.tobytes())
    assert len(seen) == 4


def test_what_is_asked_for_reaches_the_pipeline(model, tmp_path):
    sampling = Sampling(
        ASKED.prompt, "away", 3, 2.5, 13, (32, 32), {"use_dynamic_cfg": True}
    )
    image = start(size=(32, 32))
    Image.fromarray(image).save(tmp_path / "start.png")
    (path,) = generate(
        model, sampling, tmp_path, image=tmp_path / "start.png", candidates=1, seed=7
    )
    expected = by_hand(
        model.source,
        image,
        7,
        negative_prompt="away",
        num_inference_steps=3,
        guidance_scale=2.5,
        num_frames=13,
        height=32,
        width=32,
        use_dynamic_cfg=True,
    )
    assert path.name == "candidate-7.safetensors"
    np.testing.assert_array_equal(load_candidate(path).videos[0], expected)


def test_each_candidate_has_its_card_and_a_video_to_look_at(candidates, model):
    path = candidates / "candidate-1000001-1000000.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert card == load_candidate(path).provenance[0]
    assert card["settings"] == {
        "prompt": ASKED.prompt,
        "num_inference_steps": 2,
        "num_frames": 9,
        # Its own defaults.
        "guidance_scale": 6,
        "height": 32,
        "width": 48,
    }
    assert (card["start_seed"], card["seed"]) == (1_000_001, 1_000_000)
    assert card["env"] == {"id": ENV, "options": {}}
    assert card["model"]["pipeline"] == "CogVideoXImageToVideoPipeline"
    assert card["model"]["dtype"] == "float32"
    assert card["source"] == model.source
    video = read_video(path.with_suffix(".mp4"))
    frames = load_candidate(path).videos[0]
    assert video.shape == frames.shape
    assert np.abs(video.astype(int) - frames).mean() < 24


def test_the_contact_sheet_shows_every_candidate(candidates):
    with Image.open(candidates / SHEET) as image:
        sheet = np.asarray(image)
    # Eight frames of 96x144 and seven gaps across; a label and a frame a row.
    assert sheet.shape == (4 * (16 + 96) + 3 * 4, 8 * 144 + 7 * 2, 3)
    for row, path in enumerate(sorted(candidates.glob("*.safetensors"))):
        frames = load_candidate(path).videos[0]
        for column, t in ((0, 0), (7, 8)):
            top, left = row * 116 + 16, column * 146
            shown = sheet[top : top + 96, left : left + 144]
            expected = np.asarray(Image.fromarray(frames[t]).resize((144, 96)))
            np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize(
    ("name", "options", "kind", "size"),
    [
        ("cogvideox", {"image": False}, "CogVideoXPipeline", SIZE),
        ("cogvideox", {"scheduler": "CogVideoXDPMScheduler"}, "", SIZE),
        ("ltx", {}, "LTXPipeline", (32, 64)),
        ("ltx", {}, "LTXImageToVideoPipeline", (32, 64)),
        ("wan", {}, "", SIZE),
    ],
)
def test_pipelines_are_called_by_their_signature(name, options, kind, size, folders):
    if name == "wan":
        pytest.importorskip("accelerate")
    folder = folders(name, **options)
    generator = Generator(Model(str(folder), kind=kind, device="cpu"))
    image = start(size=size) if generator.wants_image else None
    settings = generator.settings(dataclasses.replace(ASKED, size=size))
    ticks = []
    frames = generator(settings, 5, image, lambda *tick: ticks.append(tick))
    more = {} if name == "cogvideox" else {"max_sequence_length": 128}
    if name == "wan":
        more = {"max_sequence_length": 512}
    expected = by_hand(
        folder, image, 5, generator.name, height=size[0], width=size[1], **more
    )
    np.testing.assert_array_equal(frames, expected)
    assert ticks[0] == (1, 2)
    assert ticks[-1] == (2, 2)


def test_memory_is_saved_where_that_was_asked_for(model):
    vae = Generator(model).pipeline.vae
    assert (vae.use_tiling, vae.use_slicing) == (False, False)
    saving = Generator(dataclasses.replace(model, tiling=True, dtype="bfloat16"))
    assert saving.pipeline.vae.use_tiling
    assert not saving.pipeline.vae.use_slicing
    assert saving.pipeline.dtype == torch.bfloat16
    # Tiles change a video, and so does precision.
    assert saving.identity != Generator(model).identity
    sliced = Generator(dataclasses.replace(model, slicing=True))
    assert sliced.pipeline.vae.use_slicing
    assert sliced.identity == Generator(model).identity


def test_first_frames_are_those_of_the_environment():
    found = dict(first_frames(ENV, {"size": (16, 24)}, range(5, 7)))
    assert sorted(found) == [5, 6]
    for seed, frame in found.items():
        np.testing.assert_array_equal(frame, start(seed, (16, 24)))


def test_frames_of_every_form_are_rounded_alike():
    rng = np.random.default_rng(0)
    video = rng.random((3, 4, 5, 3)).astype(np.float32)
    video[0, 0, 0] = [0.0, 1.0, 0.5 / 255 + 1e-4]
    exact = np.floor(video.astype(np.float64) * 255 + 0.5).astype(np.uint8)
    assert exact[0, 0, 0].tolist() == [0, 255, 1]
    tensor = torch.from_numpy(video).movedim(-1, 1)
    pictures = [Image.fromarray(frame) for frame in exact]
    rgba = [picture.convert("RGBA") for picture in pictures]
    for given in (video, tensor, exact, pictures, rgba):
        frames = to_frames(given)
        assert frames.dtype == np.uint8
        np.testing.assert_array_equal(frames, exact)
    # Half precision is brought up before it is scaled.
    halves = to_frames(tensor.to(torch.bfloat16))
    assert np.abs(halves.astype(int) - exact).max() <= 1


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.full((3, 4, 5, 3), np.nan), "NaN or infinity.*--dtype"),
        (np.full((3, 4, 5, 3), -1.0), "from -1 to -1, expected floats from 0 to 1"),
        (np.full((3, 4, 5, 3), 2.0), "from 2 to 2"),
        (np.zeros((1, 4, 5, 3)), "at least 2 frames"),
        (np.zeros((3, 4, 5)), r"shape \(3, 4, 5\)"),
        (np.zeros((3, 4, 5, 3), np.int64), "a video of int64"),
    ],
)
def test_videos_that_are_none(video, message):
    with pytest.raises(ValueError, match=f"model gave .*{message}"):
        to_frames(video, "model")


# Going on


def test_what_is_there_is_not_made_again(candidates, model, tmp_path, monkeypatch):
    for path in candidates.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    first, second, *_ = sorted(whole)
    first.with_suffix(".mp4").unlink()
    first.with_suffix(".json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Generator, "_load", forbidden)
        ticks = []
        again = generate(
            model, ASKED, tmp_path, env_id=ENV, starts=2, candidates=2,
            on_progress=lambda *tick: ticks.append(tick),
        )  # fmt: skip
    assert again == sorted(whole)
    assert ticks == [(8, 8)]
    assert first.with_suffix(".mp4").is_file()
    assert first.with_suffix(".json").is_file()
    # What is damaged is made again, and more can be added.
    second.write_bytes(whole[second][:500])
    ticks.clear()
    paths = generate(
        model, ASKED, tmp_path, env_id=ENV, candidates=3,
        on_progress=lambda *tick: ticks.append(tick),
    )  # fmt: skip
    assert ticks[0] == (2, 6)
    assert ticks[-1] == (6, 6)
    assert len(paths) == 3
    assert {path: path.read_bytes() for path in whole} == whole
    assert len(list(tmp_path.glob("*.safetensors"))) == 5


def test_a_run_that_is_stopped_leaves_whole_files(model, tmp_path, monkeypatch):
    call, count = Generator.__call__, 0

    def interrupted(self, *arguments):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return call(self, *arguments)

    monkeypatch.setattr(Generator, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(model, ASKED, tmp_path, env_id=ENV, candidates=2)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [
        ".json", ".mp4", ".safetensors",
    ]  # fmt: skip
    generate(model, ASKED, tmp_path, env_id=ENV, candidates=2)
    assert count == 3


def test_a_video_that_is_stopped_half_way_leaves_nothing(model, tmp_path, monkeypatch):
    from genreward_wrappers.generators import candidates as files

    def half(path, frames, fps=20):
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_video", half)
        with pytest.raises(KeyboardInterrupt):
            generate(model, ASKED, tmp_path, env_id=ENV, candidates=1)
    assert not list(tmp_path.glob("*.mp4"))
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr(Generator, "_load", forbidden)
    (path,) = generate(model, ASKED, tmp_path, env_id=ENV, candidates=1)
    assert len(read_video(path.with_suffix(".mp4"))) == 9


def test_a_folder_holds_candidates_of_one_setting(candidates, model, monkeypatch):
    monkeypatch.setattr(Generator, "_load", forbidden)
    other = dataclasses.replace(ASKED, steps=3)
    with pytest.raises(ValueError, match="num_inference_steps: 2, not 3: give another"):
        generate(model, other, candidates, env_id=ENV)
    # Under another name, too: what is packed together was made alike.
    with pytest.raises(ValueError, match="num_inference_steps: 2, not 3: give another"):
        generate(model, other, candidates, env_id=ENV, seed=5)
    with pytest.raises(ValueError, match=r"env.options.horizon: None, not 9"):
        generate(model, ASKED, candidates, env_id=ENV, options={"horizon": 9})
    # The same seed shows something else.
    monkeypatch.setattr(module, "first_frames", lambda *_: [(1_000_000, start(8))])
    with pytest.raises(ValueError, match="first_frame: .*: give another folder"):
        generate(model, ASKED, candidates, env_id=ENV)


def test_a_model_is_known_by_its_files_and_not_by_its_place(folders, tmp_path):
    import shutil

    there = folders("cogvideox")
    moved = tmp_path / "moved"
    shutil.copytree(there, moved)
    first = find_pipeline(str(there), None).revision
    assert find_pipeline(str(moved), None).revision == first
    # What is no part of it, such as the same weights in one file, does not matter.
    (moved / "all_in_one.safetensors").write_bytes(b"much")
    assert find_pipeline(str(moved), None).revision == first
    weights = next((moved / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert find_pipeline(str(moved), None).revision != first


# LoRA


def test_lora_weights_are_added(folders, tmp_path):
    pytest.importorskip("peft")
    from diffusers import CogVideoXImageToVideoPipeline
    from safetensors.torch import save_file

    folder = folders("cogvideox")
    torch.manual_seed(1)
    # 32 inner features, rank 2.
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    name = "transformer_blocks.0.attn1.to_q"
    save_file(
        {
            f"transformer.{name}.lora_A.weight": down,
            f"transformer.{name}.lora_B.weight": up,
        },
        tmp_path / "mine.safetensors",
    )
    image = start()

    def made(**lora):
        generator = Generator(Model(str(folder), device="cpu", **lora))
        return generator(generator.settings(ASKED), 1, image), generator.identity

    frames, identity = made(lora=str(tmp_path), lora_scale=0.5)
    plain, _ = made()
    assert not np.array_equal(frames, plain)
    merged = CogVideoXImageToVideoPipeline.from_pretrained(folder)
    layer = merged.transformer.get_submodule(name)
    layer.weight.data += 0.5 * up @ down
    merged.save_pretrained(tmp_path / "merged")
    expected = by_hand(tmp_path / "merged", image, 1)
    # The two add up in another order.
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert identity["lora"]["file"] == "mine.safetensors"
    save_file({"other.lora_A.weight": down}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"LoRA weights"):
        made(lora=str(tmp_path / "other.safetensors"))


def test_lora_weights_that_are_refused(tmp_path):
    (tmp_path / "lora.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="from .safetensors alone"):
        find_lora(str(tmp_path / "lora.bin"))
    with pytest.raises(FileNotFoundError, match="and 0 other .safetensors"):
        find_lora(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no LoRA weights at ./none"):
        find_lora("./none")
    with pytest.raises(FileNotFoundError, match="fetch the file elsewhere"):
        find_lora("someone/their-lora")


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": {"prompt": " "}}, "prompt=.* none empty"),
        ({"sampling": {"steps": 0}}, "steps=0: expected at least 1"),
        ({"sampling": {"frames": 10}}, r"makes 4k \+ 1 frames, 9 or 13"),
        ({"sampling": {"size": (32, 40)}}, "width=40: .* multiple of 16"),
        ({"sampling": {"size": (32, 32)}}, r"32x48 .*another aspect.*32x32.*--size"),
        ({"sampling": {"more": {"eeta": 1}}}, "takes no eeta .*; it takes .*eta"),
        ({"sampling": {"more": {"image": 1}}}, "takes no image from outside"),
        ({"sampling": {"more": {"sigmas": [1]}}}, "takes no sigmas"),
        ({"model": {"offload": "disk"}}, "'disk': expected one of none, model"),
        ({"model": {"offload": "model"}}, "the device is the CPU"),
        ({"model": {"kind": "AutoModel"}}, "--pipeline is 'AutoModel', expected a"),
        ({"model": {"kind": "StableDiffusionPipeline"}}, "makes no videos of a prompt"),
        ({"model": {"revision": "main"}}, "is a local folder, which has none"),
        ({"model": {"dtype": "int8"}}, "dtype must be"),
        ({"candidates": 0}, "candidates=0: expected at least 1"),
        ({"seed": -1}, "seed=-1"),
        ({"env_id": ""}, "continues a picture: give one.*--env ID.*--image FILE"),
        ({"env_id": "", "image": "no.png"}, "there is no picture at no.png"),
        ({"image": "start.png"}, "both an environment .* and a picture"),
        ({"env_id": "", "image": "x", "starts": 2}, "only an environment has several"),
        ({"env_id": "no/such-v0"}, "cannot make the environment 'no/such-v0'"),
        ({"options": {"obs": "state"}}, None),
    ],
)
def test_what_is_refused(change, message, model, tmp_path, monkeypatch):
    monkeypatch.setattr(Generator, "_load", forbidden)
    arguments = {"env_id": ENV, "candidates": 1, **change}
    chosen = dataclasses.replace(model, **arguments.pop("model", {}))
    sampling = dataclasses.replace(ASKED, **arguments.pop("sampling", {}))
    if message is None:
        # States without pixels are rendered instead.
        with pytest.raises(AssertionError, match="nothing had to be made"):
            generate(chosen, sampling, tmp_path / "out", **arguments)
        return
    with pytest.raises(ValueError, match=message):
        generate(chosen, sampling, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_refused(folders, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        load_image(tmp_path / "text.png")
    text = Model(str(folders("cogvideox", image=False)), device="cpu")
    Image.fromarray(start()).save(tmp_path / "start.png")
    with pytest.raises(ValueError, match="takes no first frame.*--pipeline"):
        generate(text, ASKED, tmp_path / "out", image=tmp_path / "start.png")
    with pytest.raises(ValueError, match="starts=2: CogVideoXPipeline takes no first"):
        generate(text, ASKED, tmp_path / "out", env_id=ENV, starts=2)


def test_a_hub_id_without_network_says_what_to_do(tmp_path, capsys):
    line = ["generate", "--model", "THUDM/CogVideoX-5b-I2V", "--prompt", "push"]
    assert main([*line, "--env", ENV, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "genreward generate: cannot fetch THUDM/CogVideoX-5b-I2V from the Hugging Face"
    )
    assert "hf download THUDM/CogVideoX-5b-I2V --local-dir FOLDER" in error
    assert "give the folder instead of the id" in error
    for nowhere in ("./models/none", "none", "/none/none"):
        with pytest.raises(FileNotFoundError, match=f"no folder {nowhere}, and .*id"):
            find_pipeline(nowhere, None)


def test_a_folder_that_lacks_parts_names_them(folders, tmp_path):
    import shutil

    with pytest.raises(ValueError, match="has no model_index.json"):
        find_pipeline(str(tmp_path), None)
    folder = tmp_path / "lacking"
    shutil.copytree(folders("cogvideox"), folder)
    shutil.rmtree(folder / "vae")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="lacks parts") as caught:
        find_pipeline(str(folder), None)
    for part in (
        "vae (AutoencoderKLCogVideoX): there is no folder vae",
        "scheduler (CogVideoXDDIMScheduler): no scheduler_config.json",
        "transformer (CogVideoXTransformer3DModel): no .safetensors, and pickles",
        "tokenizer (T5Tokenizer): its folder is empty",
    ):
        assert part in str(caught.value)
    assert "text_encoder" not in str(caught.value)
    # Shards that a download did not reach.
    text = folder / "text_encoder"
    card = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (text / "model.safetensors.index.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"T5EncoderModel\): no model-00001-of-00002"):
        find_pipeline(str(folder), None)


def test_without_memory_it_says_what_would_help(model, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 9 GiB\nmore")

    monkeypatch.setattr(Generator, "_load", lambda self: full)
    with pytest.raises(ValueError, match="not enough memory") as caught:
        generate(model, ASKED, tmp_path, env_id=ENV)
    said = str(caught.value)
    assert "(CUDA out of memory. Tried 9 GiB)" in said
    for option in ("--offload model", "--dtype bfloat16", "--tiling", "--size"):
        assert option in said
    # What is used already is not advised.
    used = Model("x", offload="model", dtype="bfloat16", tiling=True)
    stronger = pytest.raises(ValueError, match="--offload sequential")
    with stronger as caught, memory_told(used):
        full()
    assert "--dtype" not in str(caught.value)
    assert "--tiling" not in str(caught.value)
    with pytest.raises(ValueError, match="--dtype bfloat16"), memory_told(model):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")
    with pytest.raises(RuntimeError, match="other"), memory_told(model):
        raise RuntimeError("other")


def test_the_sizes_of_the_published_model_are_known(folders, tmp_path):
    """The folder's weights stay small; its configurations are those of the large."""
    import shutil

    folder = tmp_path / "large"
    shutil.copytree(folders("cogvideox"), folder)
    changes = {
        "transformer": {
            "num_attention_heads": 48,
            "attention_head_dim": 64,
            "num_layers": 42,
            "sample_height": 60,
            "sample_width": 90,
            "sample_frames": 49,
            "max_text_seq_length": 226,
            "use_learned_positional_embeddings": True,
        },
        "vae": {"block_out_channels": [128, 256, 256, 512]},
    }
    for part, change in changes.items():
        config = folder / part / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    generator = Generator(Model(str(folder), device="cpu"))
    assert generator.settings(Sampling("push")) == {
        "prompt": "push",
        "num_inference_steps": 50,
        "guidance_scale": 6,
        "num_frames": 49,
        "height": 480,
        "width": 720,
    }
    # What its maker says of it comes before the class, and after who asks.
    (folder / "sampling.json").write_text('{"guidance_scale": 1.5, "seed": 3}')
    own = Generator(Model(str(folder), device="cpu"))
    assert own.settings(Sampling("push"))["guidance_scale"] == 1.5
    assert own.settings(Sampling("push", guidance=3.0))["guidance_scale"] == 3
    assert "seed" not in own.settings(Sampling("push"))
    (folder / "sampling.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"expected \{.*got \[1\]"):
        own.settings(Sampling("push"))
    (folder / "sampling.json").unlink()
    with pytest.raises(ValueError, match=r"learned its positions at \(480, 720\)"):
        generator.settings(Sampling("push", size=(480, 480)))
    with pytest.raises(ValueError, match="does not load as a CogVideoXImageToVideo"):
        _ = generator.pipeline


# Into a goal


def test_a_folder_of_candidates_is_trained_on_once(candidates):
    videos = load_videos([candidates], size=SIZE)
    paths = sorted(candidates.glob("*.safetensors"))
    assert len(videos) == len(paths) == 4
    for video, path in zip(videos, paths, strict=True):
        np.testing.assert_array_equal(video, load_candidate(path).videos[0])


def test_candidates_are_packed_with_what_made_them(candidates):
    options = {"size": (16, 24), "length": 5, "encoder": None}
    goal = pack_candidates([candidates], license="CogVideoX", **options)
    assert goal.videos.shape == (4, 5, 16, 24, 3)
    for path, video in zip(
        sorted(candidates.glob("*.safetensors")), goal.videos, strict=True
    ):
        frames = load_candidate(path).videos[0, ::2].reshape(5, 16, 2, 24, 2, 3)
        np.testing.assert_allclose(video, frames.mean((2, 4)), atol=0.51)
    assert (goal.env_id, goal.prompt) == (ENV, ASKED.prompt)
    made, packed = goal.provenance
    assert goal.generator.endswith("@" + made["model"]["revision"])
    assert made["settings"]["num_inference_steps"] == 2
    assert [(c["start_seed"], c["seed"]) for c in made["candidates"]] == [
        (1_000_000 + start, 1_000_000 + seed) for start in (0, 1) for seed in (0, 1)
    ]
    assert packed["step"] == "pack"
    some = sorted(candidates.glob("*.safetensors"))[1:2]
    one = pack_candidates(some, prompt="mine", env_id="Mine-v0", **options)
    assert (len(one.videos), one.prompt, one.env_id) == (1, "mine", "Mine-v0")


def test_candidates_that_do_not_pack(candidates, model, goal, tmp_path):
    with pytest.raises(ValueError, match="holds no candidates"):
        pack_candidates([tmp_path])
    goal.save(tmp_path / "goal.safetensors")
    with pytest.raises(ValueError, match="but no candidate"):
        pack_candidates([tmp_path / "goal.safetensors"])
    other = dataclasses.replace(ASKED, prompt="push the disc away")
    generate(model, other, tmp_path, env_id=ENV, candidates=1)
    with pytest.raises(ValueError, match="other settings .*settings.prompt"):
        pack_candidates([candidates, tmp_path], size=SIZE)
    with pytest.raises(ValueError, match="another aspect ratio"):
        pack_candidates([candidates], size=16)


def test_the_commands(folders, tmp_path, capsys):
    out, goal = tmp_path / "out", tmp_path / "goal.safetensors"
    line = ["generate", "--model", str(folders("cogvideox")), "--prompt", "push"]
    line += ["--env", ENV, "--env-arg", "size=(64,64)", "--size", "64", "--steps", "1"]
    line += ["--frames", "9", "--candidates", "1", "--pipeline-arg", "eta=0.5"]
    line += ["--tiling", "--slicing", "--device", "cpu", "--output", str(out)]
    assert main(line) == 0
    assert f"{out}: 1 candidates, shown in {SHEET}" in capsys.readouterr().out
    assert (out / SHEET).is_file()
    card = json.loads((out / "candidate-1000000-1000000.json").read_text())
    assert card["settings"]["eta"] == 0.5
    assert card["model"]["tiling"] is True
    assert main([*line, "--pipeline-arg", "eta"]) == 1
    assert "--pipeline-arg 'eta': expected KEY=VALUE" in capsys.readouterr().err
    assert main(["pack", str(out), "--output", str(goal)]) == 0
    bundle = GoalBundle.load(goal)
    assert bundle.videos.shape == (1, 9, 64, 64, 3)
    assert (bundle.env_id, bundle.prompt) == (ENV, "push")
    assert main(["pack", str(out), "clip.mp4", "--output", str(goal)]) == 1
    assert "are packed apart" in capsys.readouterr().err
