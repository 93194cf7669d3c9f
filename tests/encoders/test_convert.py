"""Converting published weights: every key, no pickle but its tensors."""

from __future__ import annotations

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch

from genreward_wrappers import load_encoder, load_reward
from genreward_wrappers.cli.main import main
from genreward_wrappers.data.files import FileError
from genreward_wrappers.encoders.convert import convert
from genreward_wrappers.encoders.s3d import S3D, S3DConfig, load_s3d

open_clip = pytest.importorskip("open_clip")

WORDS = ["robot", "opening", "a", "drawer"]


@pytest.fixture
def s3d(tmp_path):
    """A state dict as published, of a small model; and the list of its words."""
    torch.manual_seed(0)
    config = S3DConfig(shrink=16, features=8, vocabulary=6, word=5, hidden=7)
    model = S3D(config).eval()
    torch.save(model.state_dict(), tmp_path / "s3d_howto100m.pth")
    np.save(tmp_path / "s3d_dict.npy", np.array(WORDS))
    return model


@pytest.fixture
def liv(tmp_path):
    """A checkpoint as published, of a small CLIP with a ResNet, in half precision."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        quick_gelu=True,
        vision_cfg={"image_size": 64, "layers": [1, 2, 1, 1], "width": 8},
        text_cfg={
            "context_length": 10, "vocab_size": 49_408, "width": 64, "heads": 1,
            "layers": 2,
        },
    ).eval()  # fmt: skip
    model.visual.bn1.running_mean.uniform_(-1, 1)
    state = {
        f"module.model.{k}": v.half() if v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }
    torch.save({"liv": state, "epoch": 3}, tmp_path / "model.pt")
    return model


def change(path, edit):
    state = torch.load(path, weights_only=True)
    edit(state.get("liv", state))
    torch.save(state, path)


def test_s3d(s3d, tmp_path, capsys):
    source, target = tmp_path / "s3d_howto100m.pth", tmp_path / "out" / "s.safetensors"
    sha = hashlib.sha256(source.read_bytes()).hexdigest()
    status = main(
        ["convert", "s3d", str(source), str(target), "--words",
         str(tmp_path / "s3d_dict.npy"), "--sha256", sha.upper()]
    )  # fmt: skip
    assert status == 0
    said = capsys.readouterr().out
    assert f"sha256 {sha}" in said
    assert f"{target}: written" in said
    encoder = load_s3d(target, size=(32, 32), device="cpu")
    for name, tensor in s3d.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], tensor), name
    with torch.no_grad():
        rows = torch.tensor([[1, 4] + [0] * 14])
        expected = s3d.text_module(rows)
    torch.testing.assert_close(encoder.encode_texts("Robot drawer"), expected)
    model = load_reward(
        "roboclip", prompt="a drawer", weights=target, horizon=5, size=32, device="cpu"
    )
    assert model.encoder.config == encoder.config


def test_words_may_stand_a_line_each(s3d, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    target = tmp_path / "s.safetensors"
    convert("s3d", tmp_path / "s3d_howto100m.pth", target, words=words, say=len)
    assert list(load_s3d(target, device="cpu")._rows) == WORDS


def test_liv(liv, tmp_path, capsys):
    target = tmp_path / "liv"
    assert main(["convert", "liv", str(tmp_path / "model.pt"), str(target)]) == 0
    assert "sha256" in capsys.readouterr().out
    encoder = load_encoder(f"open_clip:{target}", device="cpu")
    assert encoder.size == (64, 64)
    card = json.loads((target / "open_clip_config.json").read_text())
    assert card["model_cfg"]["vision_cfg"]["layers"] == [1, 2, 1, 1]
    assert card["model_cfg"]["text_cfg"]["layers"] == 2
    found = encoder.model.state_dict()
    assert found.keys() == liv.state_dict().keys()
    for name, tensor in liv.state_dict().items():
        expected = tensor.half().to(tensor.dtype)
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], expected), name
    # CLIP's own colours, the shortest edge, and OpenAI's activation.
    assert encoder.pictures.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert encoder.pictures.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))
    assert encoder.pictures.resize == "shortest"
    kind = type(encoder.model.transformer.resblocks[0].mlp.gelu).__name__
    assert kind == "QuickGELU"
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    with torch.no_grad():
        images = encoder.pictures.normalise(torch.from_numpy(frames))
        expected = liv.encode_image(images)
    # The weights went through half precision.
    torch.testing.assert_close(
        encoder.encode_images(frames), expected, atol=1e-2, rtol=1e-2
    )
    model = load_reward(
        "liv", prompt="open the microwave", encoder=f"open_clip:{target}", device="cpu"
    )
    assert model.values(frames).shape == (3,)


def test_the_layout_of_rn50():
    """What the published checkpoint holds under its prefix is open_clip's RN50."""
    from genreward_wrappers.encoders.convert import _clip_config

    with torch.device("meta"):
        state = open_clip.create_model("RN50", device="meta").state_dict()
    config = _clip_config(state)
    own = open_clip.get_model_config("RN50")
    assert config["embed_dim"] == own["embed_dim"] == 1024
    for part in ("vision_cfg", "text_cfg"):
        for key, value in own[part].items():
            assert config[part][key] == value, key
    # Of nothing, RN50's widths: so a message can say what is missing.
    assert _clip_config({}) == config


# Bad input


def test_other_keys_show_both_sets(s3d, liv, tmp_path):
    words = tmp_path / "s3d_dict.npy"

    def rename(state):
        state["fc.wait"] = state.pop("fc.weight")
        state["mixed_9z.bias"] = torch.zeros(1)

    change(tmp_path / "s3d_howto100m.pth", rename)
    both = r"missing \(1\): +fc.weight.*unexpected \(2\): fc.wait, mixed_9z.bias"
    with pytest.raises(FileError, match=f"(?s){both}"):
        convert("s3d", tmp_path / "s3d_howto100m.pth", tmp_path / "o", words=words)
    assert not (tmp_path / "o").exists()

    def other(state):
        state["ln_final.weight"] = state.pop("module.model.ln_final.weight")

    change(tmp_path / "model.pt", other)
    with pytest.raises(
        FileError,
        match=r"(?s)'module.model.'.*missing.*ln_final.weight.*unexpected.*ln_final.w",
    ):
        convert("liv", tmp_path / "model.pt", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_one_key_too_many_is_one_too_many(s3d, tmp_path):
    def add(state):
        state["stranger"] = torch.zeros(1)

    change(tmp_path / "s3d_howto100m.pth", add)
    with pytest.raises(FileError, match=r"missing \(0\): +none\n.*\(1\): stranger"):
        convert(
            "s3d", tmp_path / "s3d_howto100m.pth", tmp_path / "o",
            words=tmp_path / "s3d_dict.npy",
        )  # fmt: skip


def test_weights_of_something_else_name_what_is_missing(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(FileError, match=r"(?s)and \d+ more.*\(1\): layer.weight"):
        convert("liv", tmp_path / "a.pt", tmp_path / "folder")


def test_other_shapes_are_named(s3d, tmp_path):
    def widen(state):
        state["fc.bias"] = torch.zeros(9)

    change(tmp_path / "s3d_howto100m.pth", widen)
    with pytest.raises(FileError, match=r"fc.bias: \(9,\) and not \(8,\)"):
        convert(
            "s3d", tmp_path / "s3d_howto100m.pth", tmp_path / "o",
            words=tmp_path / "s3d_dict.npy",
        )  # fmt: skip


class Bomb:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_pickle_with_more_than_tensors_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))):
        write({"liv": Bomb()}, tmp_path / "a.pt")
        with pytest.raises(FileError, match="a.pt holds more than tensors"):
            convert("liv", tmp_path / "a.pt", tmp_path / "folder")
    np.save(tmp_path / "words.npy", np.array([Bomb()], object), allow_pickle=True)
    torch.save({}, tmp_path / "b.pt")
    with pytest.raises(FileError, match="words.npy is no array of words"):
        convert("s3d", tmp_path / "b.pt", tmp_path / "o", words=tmp_path / "words.npy")
    assert not (tmp_path / "ran").exists()


def test_the_sha256_is_held(liv, tmp_path, capsys):
    status = main(
        ["convert", "liv", str(tmp_path / "model.pt"), str(tmp_path / "x"),
         "--sha256", "0" * 64]
    )  # fmt: skip
    assert status == 1
    assert f"not the expected {'0' * 64}" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_words_that_do_not_fit(s3d, tmp_path):
    source, target = tmp_path / "s3d_howto100m.pth", tmp_path / "o"
    np.save(tmp_path / "many.npy", np.array(WORDS + WORDS))
    with pytest.raises(FileError, match="8 words do not fit a table of 6 rows"):
        convert("s3d", source, target, words=tmp_path / "many.npy")
    np.save(tmp_path / "numbers.npy", np.zeros((2, 3)))
    with pytest.raises(FileError, match=r"float64 \(2, 3\), expected one row of words"):
        convert("s3d", source, target, words=tmp_path / "numbers.npy")
    with pytest.raises(FileError, match="no file .*none.npy"):
        convert("s3d", source, target, words=tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("s3d", None, "s3d needs --words"),
        ("liv", "w.npy", "liv takes no --words"),
        ("clip", None, "'clip': expected 's3d' or 'liv'"),
    ],
)
def test_bad_arguments(tmp_path, kind, words, message):
    with pytest.raises(ValueError, match=message):
        convert(kind, tmp_path / "a", tmp_path / "b", words=words and tmp_path / words)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match="no file .*a.pt"):
        convert("liv", tmp_path / "a.pt", tmp_path / "b")
    torch.save(torch.zeros(2), tmp_path / "t.pt")
    with pytest.raises(FileError, match="holds a Tensor, expected a dict"):
        convert("liv", tmp_path / "t.pt", tmp_path / "b")


@pytest.mark.parametrize("version", ["2.5.1+cu121", "1.13.0", "2.4.0a0"])
def test_an_old_torch_opens_no_pickle(version, s3d, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    source = tmp_path / "s3d_howto100m.pth"
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ImportError, match=r'pip install "torch>=2\.6"'):
        convert("s3d", source, tmp_path / "x", words=tmp_path / "s3d_dict.npy")
