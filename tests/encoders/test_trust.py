"""What a goal or a model brings with it is never run, nor fetched without a word."""

from __future__ import annotations

import builtins
import contextlib
import json
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from genreward_wrappers import GoalError, load_encoder
from genreward_wrappers.encoders import caching
from genreward_wrappers.encoders.binding import bind_encoder
from genreward_wrappers.encoders.caching import Memo, shared
from genreward_wrappers.encoders.clip import ClipEncoder
from genreward_wrappers.encoders.names import CLIP_CONFIG as CONFIG
from genreward_wrappers.encoders.names import is_pinned
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.generators.checkpoints import find_pipeline, load_pipeline
from tests import video_pipelines

transformers = pytest.importorskip("transformers")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def eager(monkeypatch):
    """Somebody at the terminal who says yes to everything; the questions asked."""
    asked: list[str] = []

    def yes(question=""):
        asked.append(question)
        return "y"

    monkeypatch.setattr(builtins, "input", yes)
    return asked


def bomb(folder, name="bomb.py"):
    """Code that leaves a trace if it is run."""
    (folder / name).write_text(
        f"open({str(folder / 'exploded')!r}, 'w').close()\n"
        "from transformers import *\n"
        "class Model(PreTrainedModel):\n    pass\n"
        "class Config(PretrainedConfig):\n    model_type = 'bomb'\n"
        "class Processor(BaseImageProcessor):\n    pass\n"
        "class Tokenizer(PreTrainedTokenizer):\n    pass\n"
    )


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_a_vision_model_that_brings_code(tmp_path, eager, file):
    vit = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, image_size=32, patch_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTModel(vit).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(tmp_path)
    bomb(tmp_path)
    about = json.loads((tmp_path / file).read_text())
    parts = {
        "AutoConfig": "bomb.Config",
        "AutoModel": "bomb.Model",
        "AutoImageProcessor": "bomb.Processor",
    }
    about["auto_map"] = parts
    about.pop("model_type", None)
    about.pop("image_processor_type", None)
    (tmp_path / file).write_text(json.dumps(about))
    # A class of transformers' own may stand in for that of a known model.
    known = contextlib.nullcontext()
    refused = pytest.raises(ValueError, match=r"custom code|trust_remote_code")
    with refused if file == "config.json" else known:
        load_encoder(f"transformers:{tmp_path}", device="cpu")
    assert not (tmp_path / "exploded").exists()
    assert not eager, "nothing is asked"


def test_a_clip_models_tokenizer_that_brings_code(tmp_path, clip_folder, eager):
    import shutil

    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    bomb(folder)
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "any"
    (folder / CONFIG).write_text(json.dumps(config))
    about = {"auto_map": {"AutoTokenizer": ["bomb.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    encoder = load_encoder(f"open_clip:{folder}", device="cpu")
    assert isinstance(encoder, ClipEncoder)
    with pytest.raises(ValueError, match=r"custom code|trust_remote_code"):
        encoder.encode_texts("a red disc")
    # And the same, where the model itself asks for it.
    text = config["model_cfg"]["text_cfg"]
    text["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / CONFIG).write_text(json.dumps(config).replace("_code", "\\u005fcode"))
    with pytest.raises(ValueError, match="asks for trust_remote_code"):
        load_encoder(f"open_clip:{folder}", device="cpu")
    assert not (folder / "exploded").exists()
    assert not eager


def test_a_pipelines_tokenizer_that_brings_code(tmp_path, eager):
    folder = tmp_path / "pipeline"
    video_pipelines.cogvideox().save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "AutoTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    bomb(folder / "tokenizer")
    about = {"auto_map": {"AutoTokenizer": ["bomb.Tokenizer", None]}}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="does not load as"):
        load_pipeline(find_pipeline(str(folder), None), torch.float32)
    assert not (folder / "tokenizer" / "exploded").exists()
    assert not eager


# What a goal may have fetched


@pytest.mark.parametrize(
    ("spec", "pinned"),
    [
        ("pixels", True),
        ("embedded:video-vae-64", True),
        (f"hf://o/r/vae@{COMMIT}", True),
        ("hf://o/r/vae@main", False),
        ("hf://o/r", False),
        ("random:hf://o/r", False),
        ("transformers:o/r", False),
        (f"transformers:o/r@{COMMIT}", True),
        ("open_clip:ViT-B-32/openai", False),
    ],
)
def test_what_is_pinned(spec, pinned):
    assert is_pinned(spec) is pinned


def test_a_folder_is_pinned(tmp_path):
    assert is_pinned(f"transformers:{tmp_path}")
    assert is_pinned(f"open_clip:{tmp_path}")


@pytest.fixture
def fetched(monkeypatch):
    """What would be fetched from the Hub: (what, whether that is allowed)."""
    import huggingface_hub

    calls = []

    def snapshot(repository, *, local_files_only, **_):
        calls.append((repository, not local_files_only))
        raise OSError("there is no network")

    def download(repository, file, *, local_files_only, **_):
        return snapshot(repository, local_files_only=local_files_only)

    def pretrained(name, local_files_only=False, revision=None, **_):
        return snapshot(name, local_files_only=local_files_only)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for kind in (transformers.AutoImageProcessor, transformers.AutoModel):
        monkeypatch.setattr(kind, "from_pretrained", pretrained)
    return calls


@pytest.mark.parametrize(
    "spec", ["hf://o/r", "hf://o/r@main", "transformers:o/r", "open_clip:RN50/openai"]
)
def test_a_goal_may_not_have_an_encoder_fetched(goal, fetched, spec):
    named = goal.with_(encoder={"source": spec})
    with pytest.raises(GoalError, match="is not fetched for the goal's sake.*encoder="):
        bind_encoder(named, None, device="cpu")
    assert fetched
    assert not any(allowed for _, allowed in fetched)
    fetched.clear()
    # Whoever names it may, and whoever allows it.
    for options in ({"encoder": spec}, {"encoder": None, "allow_download": True}):
        with pytest.raises(FileNotFoundError):
            bind_encoder(named, device="cpu", **options)
        assert fetched[-1][1]


@pytest.mark.parametrize("spec", [f"hf://o/r@{COMMIT}", f"transformers:o/r@{COMMIT}"])
def test_a_commit_may_be_fetched(goal, fetched, spec):
    with pytest.raises(FileNotFoundError):
        bind_encoder(goal.with_(encoder={"source": spec}), None, device="cpu")
    assert fetched == [("o/r", True)]


# The frames that an encoder remembers


class Slow(PooledPixels):
    """Gives other threads a chance in the middle of it."""

    def encode_images(self, frames: Tensor) -> Tensor:
        import time

        time.sleep(0.001)
        return super().encode_images(frames)


def pictures(*fills):
    return np.stack([np.full((8, 8, 3), fill, np.uint8) for fill in fills])


def test_threads_share_a_memo():
    encoder = Slow((8, 8), 2, device="cpu")
    memo, wrong = Memo(encoder, limit=3), []

    def look(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(150):
                fills = rng.integers(0, 12, 4).tolist()
                frames = pictures(*fills)
                found = memo.encode_images(frames)
                if not torch.equal(found, PooledPixels.encode_images(encoder, frames)):
                    wrong.append(fills)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=look, args=(i,)) for i in range(6)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong
    assert len(memo) <= 3


def test_the_least_recently_used_frame_goes_first():
    encoder = PooledPixels((8, 8), 2, device="cpu")
    seen = []

    class Counting(PooledPixels):
        def encode_images(self, frames):
            seen.extend(np.asarray(frames)[:, 0, 0, 0].tolist())
            return encoder.encode_images(frames)

    memo = Memo(Counting((8, 8), 2, device="cpu"), limit=2)
    for fill in (1, 2, 1, 3, 1, 2):
        memo.encode_images(pictures(fill))
    assert seen == [1, 2, 3, 2], "1 was used again and again"
    with pytest.raises(ValueError, match="limit=0: expected at least 1"):
        Memo(encoder, 0)


def test_threads_share_one_memo_of_an_encoder(monkeypatch):
    encoder = PooledPixels((8, 8), 2, device="cpu")
    made = []

    class Late(Memo):
        def __init__(self, *args):
            import time

            time.sleep(0.01)
            super().__init__(*args)

    monkeypatch.setattr(caching, "Memo", Late)
    threads = [
        threading.Thread(target=lambda: made.append(shared(encoder))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(memo) for memo in made}) == 1


def test_no_warning_when_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared(PooledPixels((8, 8), 2, device="cpu")).encode_images(pictures(1))
