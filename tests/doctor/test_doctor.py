"""`genreward doctor`: each finding can be bad, and none fails on a good machine."""

from __future__ import annotations

import importlib.resources
import importlib.util
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from email.message import Message
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

import genreward_wrappers
from genreward_wrappers import doctor
from genreward_wrappers.data.goals import embedded_goals
from genreward_wrappers.doctor import (
    crash,
    drawing,
    examine,
    installation,
    orientation,
    run_doctor,
)
from genreward_wrappers.doctor.finding import Finding, Visit
from genreward_wrappers.encoders import base
from genreward_wrappers.envs import _gl

ID = "metaworld/pick-place"
needs_metaworld = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None, reason="no metaworld"
)


def only(check, visit=None, name=None):
    """The one finding of a check, or the one with a name."""
    found = [f for f in check(visit or Visit(ID)) if name in (None, f.name)]
    assert len(found) == 1, found
    return found[0]


def read_png(path):
    """The picture in a file, read by what the format says and not by the writer."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, pixels = 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2)
        if kind == b"IDAT":
            pixels += body
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(pixels), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


@needs_metaworld
def test_all_of_it(tmp_path, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(drawing, "MEASURED", 0.05)
    # Whether a busy test machine is slow is not the question here.
    monkeypatch.setattr(drawing, "SLOW", 0.0)
    text = io.StringIO()
    output = tmp_path / "made" / "here"
    assert run_doctor(ID, output, Console(file=text, width=300), full=True) == 0
    said = text.getvalue()
    assert " 0 fail" in said
    tables = (doctor.CHECKS, doctor.SLOW_CHECKS, doctor.DRAWING_CHECKS)
    for name in {**tables[0], **tables[1], **tables[2], **doctor.SLOW_DRAWING_CHECKS}:
        assert name.removesuffix("s") in said or name == "folders"
    assert "not checked" not in said.replace("not checked, and no danger", "")
    assert "upright, not mirrored" in said
    assert "as drawn alone" in said
    assert read_png(output / "picture.png").shape == (64, 64, 3)
    picture = read_png(output / "orientation.png")
    assert picture.shape == (3 * 128, 3 * 3 * 130, 3)
    # The marks, and the margins.
    assert (picture == (0, 255, 0)).all(-1).sum() > 300
    assert (picture[:, 384:390] == 255).all()


def test_a_complaint_needs_a_remedy():
    with pytest.raises(ValueError, match="not say what to do"):
        Finding("x", "warn", "bad")
    Finding("x", "ok", "good")


# The guard and the printing


def replaced(monkeypatch, **checks):
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(doctor, "DRAWING_CHECKS", {})


def broken(visit):
    yield Finding("first", "ok", "was fine")
    raise LookupError("what [metaworld] is it")


def fine(visit):
    yield Finding("second", "info", "after it", "pip install 'x[metaworld]'")


def test_a_check_that_breaks_off_is_a_finding(monkeypatch, capsys):
    replaced(monkeypatch, broken=broken, fine=fine)
    seen = []
    found = list(examine(ID, progress=seen.append))
    assert seen == ["broken", "fine"]
    assert [(f.name, f.status) for f in found] == [
        ("first", "ok"),
        ("broken", "fail"),
        ("second", "info"),
    ]
    assert "LookupError: what [metaworld] is it" in found[1].says
    assert run_doctor(ID, None) == 1
    assert "what [metaworld] is it" in capsys.readouterr().out
    replaced(monkeypatch, fine=fine)
    assert run_doctor(ID, None) == 0
    assert "x[metaworld]" in capsys.readouterr().out


def test_without_rich_it_prints_plain_lines(monkeypatch, capsys):
    replaced(monkeypatch, broken=broken, fine=fine)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert run_doctor(ID, None) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok    first: was fine"
    assert lines[1].startswith("fail  broken: ")
    assert "      -> pip install 'x[metaworld]'" in lines
    assert lines[-1].startswith("1 ok, 1 info, 0 warn, 1 fail; --full ")


def test_control_c_ends_it(monkeypatch):
    def pressed(visit):
        yield Finding("first", "ok", "was fine")
        raise KeyboardInterrupt

    replaced(monkeypatch, pressed=pressed)
    with pytest.raises(KeyboardInterrupt):
        run_doctor(ID, None)


# The installation


def declared(monkeypatch, *lines, python=">=3.10"):
    about = Message()
    about["Requires-Python"], about["Version"] = python, "0"
    for extra in ("video", "all", "dev"):
        about["Provides-Extra"] = extra
    monkeypatch.setattr(metadata, "metadata", lambda name: about)
    monkeypatch.setattr(metadata, "requires", lambda name: list(lines))
    return {f.name: f for f in installation.check_packages(Visit(ID))}


def test_versions(monkeypatch):
    pytest.importorskip("packaging")
    found = declared(monkeypatch, "numpy>=1.26", "torch", "pytest>=8; extra == 'dev'")
    assert {f.status for f in found.values()} == {"ok"}
    assert np.__version__ in found["packages"].says
    assert set(found) == {"python", "packages"}

    found = declared(monkeypatch, "numpy>=99", "torch", python=">=4")
    assert (found["python"].status, found["packages"].status) == ("warn", "warn")
    assert 'pip install "numpy>=99"' in found["packages"].do
    assert "torch" not in found["packages"].do

    found = declared(monkeypatch, "numpy", "no-such-one>=1")
    assert found["packages"].status == "fail"
    assert '"no-such-one>=1"' in found["packages"].do

    video = "; extra == 'video'"
    found = declared(monkeypatch, "numpy", f"no-such-one{video}", f"torch{video}")
    assert found["packages"].status == "ok"
    assert found["extra video"].status == "info"
    assert '"genreward-wrappers[video]"' in found["extra video"].do
    found = declared(monkeypatch, "numpy", f"torch<1{video}")
    assert found["extra video"].status == "warn"


def test_versions_that_cannot_be_known(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    assert only(installation.check_packages).status == "warn"
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    finding = only(installation.check_packages)
    assert (finding.status, finding.do) == ("info", "pip install packaging")


def test_threads_on_a_busy_machine(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (999.0, 1.0, 1.0), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    finding = only(installation.check_compute, name="threads")
    assert finding.status == "warn"
    assert "OMP_NUM_THREADS=1" in finding.do
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert only(installation.check_compute, name="threads").status == "ok"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert only(installation.check_compute, name="threads").status == "ok"


def test_a_gpu_that_is_not_found_and_one_that_does_not_compute(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    finding = only(installation.check_compute, name="compute")
    assert finding.status == "info"
    assert "finds none" in finding.says
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert only(installation.check_compute, name="compute").status == "ok"

    def no_kernel(*args, **kwargs):
        raise RuntimeError("no kernel image is available\nCompile with ...")

    card = SimpleNamespace(name="A Card", total_memory=24 * 2**30)
    monkeypatch.setattr(base, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch, "ones", no_kernel)
    finding = only(installation.check_compute, name="compute")
    assert finding.status == "fail"
    assert "A Card, 24 GiB" in finding.says
    assert finding.says.endswith("no kernel image is available")


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A copy of the package's assets, which is looked at in place of its own."""
    source = Path(genreward_wrappers.__file__).parent / "assets"
    shutil.copytree(source, tmp_path / "assets")
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    return tmp_path / "assets"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def encoder_weight(path):
    """Where a number of the encoder is: the decoder is no part of its fingerprint."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    name = next(n for n in sorted(header) if n.startswith("encoder."))
    return 8 + size + header[name]["data_offsets"][0]


def check_assets(visit):
    """All that is checked of what comes with the package."""
    yield from installation.check_assets(visit)
    yield from installation.check_encoders(visit)


def test_assets_that_are_whole(assets):
    pytest.importorskip("diffusers")
    found = list(check_assets(Visit(ID)))
    assert [f.status for f in found] == ["ok"] * len(found)
    assert {f.name for f in found} == {
        "assets",
        "encoder clip-64",
        "encoder pose-64",
        "encoder video-vae-64",
    }
    assert f"{len(embedded_goals())} embedded goals" in found[-1].says


def test_damaged_assets(assets):
    pytest.importorskip("diffusers")
    weights = (
        assets / "goal-generator-64" / "vae" / "diffusion_pytorch_model.safetensors"
    )
    flip(weights, encoder_weight(weights))
    finding = only(check_assets, name="encoder video-vae-64")
    assert finding.status == "fail"
    assert "another encoder" in finding.says
    assert "--force-reinstall" in finding.do
    weights.write_bytes(weights.read_bytes()[:-10])
    failed = {f.name for f in check_assets(Visit(ID)) if f.status == "fail"}
    assert failed == {
        f"asset goal-generator-64/vae/{weights.name}",
        "encoder video-vae-64",
    }

    goal = next((assets / "goals").iterdir())
    whole = goal.read_bytes()
    flip(goal, goal.stat().st_size // 2)
    finding = only(check_assets, name=f"asset goals/{goal.name}")
    assert finding.status == "fail"
    # No line says that all is well beside one that says it is not.
    goal.write_bytes(whole)
    assert "assets" not in {f.name for f in check_assets(Visit(ID))}
    for goal in list((assets / "goals").iterdir()):
        goal.unlink()
    assert only(check_assets, name="assets").status == "fail"

    (assets / "goal-generator-64" / "vae" / "training.json").write_text("{")
    (assets / "note.txt").touch()
    failed = {f.name for f in check_assets(Visit(ID)) if f.status == "fail"}
    assert {"asset goal-generator-64/vae/training.json", "asset note.txt"} <= failed


def test_assets_without_diffusers(assets, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("video VAEs need diffusers")

    from genreward_wrappers.encoders import registry

    monkeypatch.setattr(registry, "load_encoder", missing)
    finding = only(check_assets, name="encoder video-vae-64")
    assert finding.status == "info"
    assert "[video]" in finding.do


def without(monkeypatch, *missing):
    """Makes packages look as if they were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in missing else real(name, *rest),
    )


def test_hub(monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert "is there" in only(installation.check_hub).says
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "in the cache" in only(installation.check_hub).says
    without(monkeypatch, "huggingface_hub")
    assert "[video]" in only(installation.check_hub).do


def test_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    visit = Visit(ID, tmp_path / "new" / "folder")
    assert [f.status for f in installation.check_folders(visit)] == ["ok", "ok"]
    # Nothing is left behind, and nothing is made.
    assert list(tmp_path.iterdir()) == []

    # Below a file nobody can write, not even root.
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file / "cache"))
    monkeypatch.setenv("HF_HOME", str(file / "hub"))
    visit = Visit(ID, file / "output")
    found = {f.name: f for f in installation.check_folders(visit)}
    assert {name: f.status for name, f in found.items()} == {
        "cache folder": "warn",
        "output folder": "fail",
        "Hugging Face cache": "warn",
    }
    assert "HF_HOME" in found["Hugging Face cache"].do
    # What draws is not to fail of it again.
    assert visit.output is None


# Subprocesses


def test_run_tells_a_crash_an_error_and_a_standstill_apart(monkeypatch):
    code, stages, error = crash._run(
        "import os, signal\n"
        "print('made\\ndrawn', flush=True)\n"
        f"{crash._QUIETLY}\n"
        "os.kill(os.getpid(), signal.SIGSEGV)"
    )
    assert (code, stages) == (-11, ["made", "drawn"])
    assert "SIGSEGV" in error
    assert crash._run("import sys; sys.exit('no\\nway')") == (1, [], "way")
    assert crash._run("print('a')") == (0, ["a"], "it printed nothing")
    monkeypatch.setattr(crash, "LIMIT", 2.0)
    code, _, error = crash._run("import time; time.sleep(100)")
    assert code is None
    assert "no end after 2 s" in error


def ends(monkeypatch, own, raw=(0, "drawn trained", "")):
    """Lets the two subprocesses end in a given way."""
    ways = iter((own, raw))

    def run(command, **options):
        code, output, error = next(ways)
        if code is None:
            raise subprocess.TimeoutExpired(command, 1.0, output.encode() or None)
        return subprocess.CompletedProcess(command, code, output, error)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(_gl, "choose_backend", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: True)
    visit = Visit(ID)
    own, raw = crash.check_draw_then_train(visit)
    return visit, own, raw


GOOD = (0, "made drawn trained", "")


@pytest.mark.parametrize(
    ("own", "status", "words", "draws"),
    [
        (GOOD, "ok", "steps after", True),
        ((-11, "made drawn", ""), "fail", "SIGSEGV", True),
        ((-11, "made", ""), "fail", "could not be drawn", False),
        ((3, "made", "RuntimeError: no display"), "fail", "no display", False),
        ((3, "", "NameNotFound: no such"), "fail", "could not be made", False),
        ((3, "made drawn", "ValueError: torch"), "fail", "ValueError: torch", True),
        ((-11, "made drawn trained", ""), "warn", "SIGSEGV", True),
        ((None, "made drawn", ""), "fail", "no end after", True),
        ((None, "made", ""), "fail", "no end after", False),
        ((None, "", ""), "fail", "could not be made", False),
    ],
)
def test_draw_then_train(monkeypatch, own, status, words, draws):
    visit, finding, raw = ends(monkeypatch, own)
    assert finding.status == status
    assert words in finding.says
    assert bool(visit.obstacle) is not draws
    assert raw.status == "ok"
    if finding.says.endswith("optimizer: the process crashed (SIGSEGV)"):
        assert "import triton" in finding.do


@pytest.mark.parametrize(
    ("raw", "status", "words"),
    [
        ((-11, "drawn", ""), "warn", "SIGSEGV) after drawing"),
        ((-11, "", ""), "warn", "before anything was drawn"),
        ((None, "drawn", ""), "warn", "no end after"),
        ((3, "", "RuntimeError: no display"), "info", "no display"),
    ],
)
def test_mujoco_then_train(monkeypatch, raw, status, words):
    visit, _, finding = ends(monkeypatch, GOOD, raw)
    assert finding.status == status
    assert words in finding.says
    assert ("import triton" in finding.do) is (status == "warn")
    assert not visit.obstacle


def test_without_metaworld_triton_or_mujoco(monkeypatch):
    without(monkeypatch, "metaworld", "triton")
    monkeypatch.setattr(
        doctor, "CHECKS", {"draw, then train": crash.check_draw_then_train}
    )
    found = list(examine(ID))
    assert {f.name for f in found} >= set(doctor.DRAWING_CHECKS)
    for finding in found:
        assert finding.status == "info"
        assert finding.do == 'pip install "genreward-wrappers[metaworld]"'
    assert only(lambda visit: crash._raw_mujoco(False)).status == "info"
    without(monkeypatch, "mujoco")
    assert only(lambda visit: crash._raw_mujoco(True)).status == "info"
    assert only(drawing.check_gl).status == "info"


@pytest.mark.parametrize("env_id", ["dmc/walker-walk", "distracting/walker-walk"])
def test_without_dm_control(monkeypatch, env_id):
    without(monkeypatch, "dm_control")
    visit = Visit(env_id)
    (finding,) = crash.check_draw_then_train(visit)
    assert finding.status == "info"
    assert finding.do == 'pip install "genreward-wrappers[dm-control]"'
    assert visit.obstacle == "no dm_control"


@needs_metaworld
def test_an_unknown_id(monkeypatch):
    monkeypatch.setattr(
        doctor, "CHECKS", {"draw, then train": crash.check_draw_then_train}
    )
    # One subprocess is enough here.
    monkeypatch.setattr(crash, "_raw_mujoco", lambda triton: iter(()))
    first, *others = examine("metaworld/pik-place")
    assert first.status == "fail"
    assert "NameNotFound" in first.says
    assert "Did you mean: `pick-place`" in first.says
    assert [f.name for f in others] == list(doctor.DRAWING_CHECKS)
    assert all(f.status == "info" and "cannot be drawn" in f.says for f in others)


# The drawing


@pytest.mark.parametrize(
    ("renderer", "backend", "status"),
    [
        ("llvmpipe (LLVM 15.0.6, 256 bits)", "egl", "warn"),
        ("softpipe", "", "warn"),
        ("Software Rasterizer", "", "warn"),
        ("Some Name", "osmesa", "warn"),
        ("NVIDIA H100 PCIe/PCIe/SSE2", "egl", "ok"),
        ("Mesa Intel(R) UHD Graphics 620 (KBL GT2)", "", "ok"),
    ],
)
def test_gl(monkeypatch, renderer, backend, status):
    pytest.importorskip("mujoco")
    monkeypatch.setenv("MUJOCO_GL", backend)
    monkeypatch.setattr(drawing, "_gl_strings", lambda: (renderer, "V", "4.6"))
    finding = only(drawing.check_gl)
    assert finding.status == status
    assert renderer in finding.says
    if backend:
        assert "chosen by this package" in finding.says
        assert (
            "as set before" in only(drawing.check_gl, Visit(ID, backend=backend)).says
        )
    else:
        assert "is not set" in finding.says


def drawn_as(monkeypatch, change):
    """Lets every renderer give a changed picture."""
    real = _gl.OffscreenRenderer.render
    monkeypatch.setattr(
        _gl.OffscreenRenderer,
        "render",
        lambda self, data, camera: change(real(self, data, camera)),
    )


@needs_metaworld
@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("upside-down: ", lambda picture: picture[::-1]),
        ("mirrored: ", lambda picture: picture[:, ::-1]),
        ("upside-down and mirrored: ", lambda picture: picture[::-1, ::-1]),
        ("from its place", lambda picture: np.roll(picture, 30, 1)),
        ("not in the picture", np.zeros_like),
    ],
)
def test_a_wrong_picture(monkeypatch, words, change):
    drawn_as(monkeypatch, change)
    finding = only(orientation.check_orientation)
    assert finding.status == "fail"
    # A mirrored picture is not called upside-down as well.
    assert words in finding.says
    assert finding.says.startswith(words) or ": " not in words


@needs_metaworld
@pytest.mark.parametrize(
    ("camera", "status"),
    [("corner", "ok"), ("corner3", "ok"), ("behindGripper", "info")],
)
def test_other_cameras(monkeypatch, camera, status):
    """Two from other sides, and one that goes along with the hand."""
    real = orientation.make_env
    monkeypatch.setattr(
        orientation, "make_env", lambda *a, **k: real(*a, camera=camera, **k)
    )
    finding = only(orientation.check_orientation)
    assert finding.status == status, finding


@needs_metaworld
def test_pictures_that_disturb_each_other(monkeypatch):
    # Other tests may have left some open, for which the garbage collector will come.
    others = set(map(id, _gl._open_renderers))

    def change(picture):
        own = [one for one in _gl._open_renderers if id(one) not in others]
        return picture + 40 * np.uint8(len(own) > 1)

    drawn_as(monkeypatch, change)
    finding = only(drawing.check_turns)
    assert finding.status == "fail"
    assert "of 255" in finding.says


def test_speed(monkeypatch):
    monkeypatch.setattr(drawing, "_rates", lambda env_id, **options: (500.0, 5.0))
    finding = only(drawing.check_speed)
    assert finding.status == "warn"
    assert "a million frames take 56 hours" in finding.says
    monkeypatch.setattr(drawing, "_rates", lambda env_id, **options: (500.0, 100.0))
    assert only(drawing.check_speed).status == "ok"


class Toy(gym.Env):
    """A picture of noise, or of nothing."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    top = 255

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.over = False
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert not self.over
        self.over = True
        return np.zeros(1, np.float32), 0.0, True, False, {}

    def render(self):
        return self.np_random.integers(0, self.top, (20, 30, 3), dtype=np.uint8)


def test_another_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(drawing, "MEASURED", 0.05)
    monkeypatch.setattr(drawing, "SLOW", 0.0)
    spec = gym.envs.registration.EnvSpec("Toy-v0", Toy)
    monkeypatch.setitem(gym.registry, "Toy-v0", spec)
    visit = Visit("Toy-v0", tmp_path)
    finding = only(drawing.check_picture, visit)
    assert finding.status == "ok"
    assert str(tmp_path / "picture.png") in finding.says
    expected = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert (read_png(tmp_path / "picture.png") == expected).all()
    assert only(drawing.check_speed, visit).status == "ok"
    assert only(orientation.check_orientation, visit).status == "info"
    assert only(drawing.check_turns, visit).status == "info"
    monkeypatch.setattr(Toy, "top", 1)
    assert only(drawing.check_picture, visit).status == "fail"
