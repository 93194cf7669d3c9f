"""The cache: what is wrong is made again, and the oldest goes first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from genreward_wrappers import load_encoder
from genreward_wrappers.cli.main import main
from genreward_wrappers.data import cache as caches
from genreward_wrappers.data.cache import (
    TAG,
    array_cache,
    cache_folder,
    entries,
    expected,
    parse_size,
    remove,
    trim,
)
from genreward_wrappers.data.files import FileError, save_tensors
from genreward_wrappers.training.forward_backward.features import Features


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("GENREWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def store(kind="features"):
    wanted = {"x": (np.float32, (None, 3))}
    return array_cache(cache_folder(kind), lambda arrays: expected(arrays, wanted))


def value(fill=1.0):
    return {"x": np.full((2, 3), fill, np.float32)}


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


# Entries


def test_what_was_put_is_got(root):
    assert store().get("a") is None
    store().put("a", value())
    np.testing.assert_array_equal(store().get("a")["x"], value()["x"])
    assert (root / "features" / "a.safetensors").is_file()
    assert (root / TAG).is_file()


def test_a_folder_with_entries_has_its_tag(root, monkeypatch):
    class Killed(BaseException):
        pass

    def die(path, value):
        assert (root / TAG).is_file(), "whoever dies from here on leaves a tag"
        raise Killed

    with pytest.raises(Killed):
        replace(store(), write=die).put("a", value())


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_found(root, seed):
    store().put("a", value())
    path = store().path("a")
    good = path.read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(20):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        found = store().get("a")
        # Whitespace that pads the header says nothing.
        assert found is None or (found["x"] == 1).all()
    path.write_bytes(good[: len(good) // 2])
    assert store().get("a") is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros((2, 3), np.float32)}, r"it has \['y'\], expected \['x'\]"),
        ({"x": np.zeros((2, 4), np.float32)}, r"'x' is float32 \(2, 4\), expected"),
        ({"x": np.zeros((2, 3))}, r"'x' is float64 \(2, 3\), expected float32"),
        ({"x": np.full((2, 3), np.nan, np.float32)}, "'x' holds NaN"),
    ],
)
def test_wrong_entries_are_none(root, arrays, message):
    path = store().path("a")
    save_tensors(path, arrays, caches.ENTRY, {"name": "a"})
    assert store().get("a") is None
    with pytest.raises(FileError, match=message):
        store().read(path)
    with pytest.raises(FileError, match=message):
        store().put("a", arrays)


def test_an_entry_under_another_name_is_none(root):
    store().put("a", value())
    store().path("a").rename(store().path("b"))
    assert store().get("b") is None


def test_features_that_were_damaged_are_encoded_again(root, monkeypatch):
    features = Features(load_encoder("pixels", device="cpu", size=(16, 16)))
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    folder = cache_folder("features")
    first = features.encode_once(frames, folder)
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 8
    path.write_bytes(data)
    again = features.encode_once(frames, folder)
    np.testing.assert_array_equal(first, again)
    calls = []
    monkeypatch.setattr(Features, "encode", lambda *_: calls.append(1))
    np.testing.assert_array_equal(features.encode_once(frames, folder), first)
    assert not calls


# Where it is, and how large


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("GENREWARD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("latents") == tmp_path / "genreward" / "latents"
    monkeypatch.setenv("GENREWARD_CACHE", str(tmp_path / "mine"))
    assert cache_folder("latents") == tmp_path / "mine" / "latents"


def test_the_least_recently_used_goes_first(root):
    for i, name in enumerate("abcd"):
        store().put(name, value(i))
        age(store().path(name), 10_000 - i)
    # Used now, and so the last to go.
    store().get("a")
    size = store().path("a").stat().st_size
    gone = trim(2 * size)
    assert [entry.path.stem for entry in gone] == ["b", "c"]
    assert {entry.path.stem for entry in entries()} == {"a", "d"}
    trim(0)
    assert {entry.path.stem for entry in entries()} == {"a"}, "it is in use"


def test_the_limit_holds_by_itself(root, monkeypatch):
    monkeypatch.setattr(caches, "_last_look", -1e9)
    store().put("a", value())
    age(store().path("a"), 10_000)
    monkeypatch.setenv("GENREWARD_CACHE_LIMIT", "1")
    store("latents").put("b", value())
    assert [entry.path.stem for entry in entries()] == ["b"]


def test_only_a_cache_is_cleaned(root):
    own = root / "features" / "my work.safetensors"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(ValueError, match="nothing is removed"):
        remove()
    assert own.is_file()


def test_links_are_not_followed(root, tmp_path):
    store().put("a", value())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.safetensors").write_bytes(b"mine")
    (root / "features" / "link").symlink_to(outside)
    remove()
    assert (outside / "b.safetensors").is_file()
    assert not list(entries())


def test_two_processes_share_a_cache(root):
    code = (
        "import sys; sys.path.insert(0, 'tests/data')\n"
        "from test_cache import store, value\n"
        "for i in range(60):\n"
        "    name = str(i % 5)\n"
        "    found = store().get(name)\n"
        "    assert found is None or (found['x'] == i % 5).all()\n"
        "    store().put(name, value(i % 5))\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for i in range(30):
        for entry in list(entries()):
            if i % 10 == 9:
                age(entry.path, 10_000)
        trim(1000)
    for process in both:
        assert process.wait() == 0, process.stderr.read()
        process.stderr.close()
    names = sorted(path.name for path in (root / "features").iterdir())
    assert not [name for name in names if name.startswith(".")], names


# The command


def test_the_command(root, capsys):
    store().put("a", value())
    store("latents").put("b", value())
    assert main(["cache"]) == 0
    said = capsys.readouterr().out
    assert str(root) in said
    assert "in 1 entries" in said
    assert main(["cache", "features", "--clean"]) == 0
    assert "removed 1 entries" in capsys.readouterr().out
    assert [entry.kind for entry in entries()] == ["latents"]
    age(store("latents").path("b"), 10_000)
    assert main(["cache", "--limit", "0"]) == 0
    assert "removed 1 entries" in capsys.readouterr().out
    for arguments, message in (
        (["cache", "feature"], "no such kinds ['feature']: expected rollouts"),
        (["cache", "--limit", "much"], "'much' is no size"),
        (["cache", "--limit", "1", "--clean"], "give it or --limit"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err


def test_sizes():
    assert parse_size("20GB") == 20 * 10**9
    assert parse_size("1.5MiB") == 3 * 2**19
    for wrong in ("", "GB", "-1GB", "1 parsec"):
        with pytest.raises(ValueError, match="is no size"):
            parse_size(wrong)
