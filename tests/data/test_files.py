"""What every kind of file has in common: headers, hashes, bounds, and one error."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.robust.files import joined, signed, split
from benchmarks.robust.kinds import KINDS
from genreward_wrappers import GoalBundle, GoalError
from genreward_wrappers.data import episodes, files, goals
from genreward_wrappers.data.episodes import Episode, Recorder
from genreward_wrappers.data.files import FileError, load_tensors, save_tensors
from genreward_wrappers.data.schema import DEPTH, Record, Whole, fault, parse_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner)
    ),
    max_leaves=12,
)


def header_of(path, layout):
    header, _ = split(path.read_bytes())
    return json.loads(header["__metadata__"][layout.key])


def with_header(path, layout, about):
    path.write_bytes(signed(layout, about, path.read_bytes()))


@pytest.fixture
def bundle(tmp_path):
    KINDS["goal bundle"].make(tmp_path / "goal.safetensors")
    return tmp_path / "goal.safetensors"


@pytest.fixture
def episode(tmp_path):
    KINDS["episode"].make(tmp_path / "episode.safetensors")
    return tmp_path / "episode.safetensors"


# JSON and its table


@settings(deadline=None)
@given(JSON)
def test_json_is_plain_or_refused(value):
    text = json.dumps(value)
    try:
        found = parse_json(text)
    except ValueError:
        return
    # What is let through can be written again, and says the same.
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    json.dumps(found).encode()


@settings(deadline=None)
@given(st.text(max_size=30))
def test_other_texts_are_a_value_error(text):
    with contextlib.suppress(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than"),
        ("[" * 500 + "]" * 500, "nested more than"),
        ("[" * (DEPTH + 2) + "]" * (DEPTH + 2), "nested more than"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "not finite"),
        (str(1 << 200), "more than 128 bits"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
    ],
)
def test_what_json_may_not_be(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@settings(deadline=None)
@given(JSON, st.sampled_from(list(KINDS)))
def test_a_table_says_yes_or_why_not(value, name):
    try:
        value = parse_json(json.dumps(value))
    except ValueError:
        return
    assert isinstance(fault(value, KINDS[name].layout.header), str)


@pytest.mark.parametrize(
    ("value", "spec", "said"),
    [
        (True, Whole(), "its 'x' is true, expected a whole number from 0 to"),
        (1.0, Whole(0, 3), "its 'x' is 1.0, expected a whole number from 0 to 3"),
        ([1], (Whole(), Whole()), "its 'x' is [1], expected a list of 2"),
        ([1, "a"], [Whole()], "its 'x[1]' is \"a\", expected a whole number"),
        ({"b": 1}, Record({"b": str}), "its 'x.b' is 1, expected a text"),
        ({}, Record({"b": str}), "it has no 'x.b'"),
        ({"c": 1}, Record(), "it has an unknown 'x.c'"),
        ({"c": 1}, Record(open=True), ""),
        (1, float, ""),
        (False, float, "its 'x' is false, expected a number"),
    ],
)
def test_faults_name_the_field(value, spec, said):
    assert fault(value, spec, "x").startswith(said)
    assert bool(fault(value, spec, "x")) == bool(said)


# Lies


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
@pytest.mark.parametrize("name", ["goal bundle", "episode"])
def test_a_signed_lie_is_a_file_error_or_has_the_right_types(name, data, tmp_path):
    kind, path = KINDS[name], tmp_path / "x.safetensors"
    kind.make(path)
    about = header_of(path, kind.layout)
    place, key = about, data.draw(st.sampled_from(sorted(about)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place, key = place[key], data.draw(st.sampled_from(sorted(place[key])))
    place[key] = data.draw(JSON)
    with_header(path, kind.layout, about)
    said = str(path)
    try:
        kind.read(path)
    except FileError as error:
        said = str(error)
    assert str(path) in said


@pytest.mark.parametrize(
    "lie",
    [
        {"encoder": {"fingerprint": 3}},
        {"encoder": {"source": 3}},
        {"encoder": {"fingerprint": {"size": ["a", "b"]}}},
        {"nets_config": {"hidden": "wide"}},
        {"nets_config": {"statistics": {"mean": "high"}}},
        {"provenance": [{"step": "a", "seeds": ["x"]}]},
        {"provenance": [{"step": 3}]},
        {"provenance": [3]},
        {"provenance": {"a": 1}},
        {"prompt": 7},
        {"camera": None},
        {"key_frames": [1.5, 2]},
        {"key_frames": [10**30, 2]},
        {"videos": {"codec": "other", "shape": [2, 5, 8, 8, 3]}},
        {"videos": {"codec": 3, "shape": [2, 5, 8, 8, 3]}},
        {"videos": {"codec": files.CODEC, "shape": [2, 5, 8, 8]}},
        {"videos": {"codec": files.CODEC, "shape": [-2, -5, 8, 8, 3]}},
        {"videos": {"codec": files.CODEC, "shape": [1, 5, 8, 8, 3]}},
        {"schema": True},
        {"more": 1},
    ],
    ids=str,
)
def test_lies_in_a_bundle_are_refused(bundle, lie):
    with_header(bundle, goals.LAYOUT, {**header_of(bundle, goals.LAYOUT), **lie})
    with pytest.raises(GoalError, match=r"goal\.safetensors"):
        GoalBundle.load(bundle)


@pytest.mark.parametrize(
    "lie",
    [
        {"terminated": "yes"},
        {"info": [1]},
        {"info": {"seed": "x"}},
        {"info": {"goal": 10**40}},
        {"info": {"env_id": 3}},
        {"shape": [3, 8, 8]},
        {"shape": [3, 8, 8, 4]},
        {"codec": "other"},
    ],
    ids=str,
)
def test_lies_in_an_episode_are_refused(episode, lie):
    about = {**header_of(episode, episodes.LAYOUT), **lie}
    with_header(episode, episodes.LAYOUT, about)
    with pytest.raises(FileError, match=r"episode\.safetensors"):
        Episode.load(episode)


def test_what_could_not_be_read_is_not_written(goal, tmp_path):
    with pytest.raises(ValueError, match="no valid goal bundle: its 'encoder.source'"):
        goal.with_(encoder={"source": 3}).save(tmp_path / "goal.safetensors")
    assert not list(tmp_path.iterdir())


# Damage


def test_every_flipped_bit_of_an_episode_is_found(episode):
    good = episode.read_bytes()
    wanted = KINDS["episode"].read(episode)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(good), 400):
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        episode.write_bytes(bad)
        try:
            found = KINDS["episode"].read(episode)
        except FileError:
            continue
        # Whitespace that pads the header says nothing.
        assert found == wanted


def test_the_outcome_alone_is_checked_too(episode):
    data = bytearray(episode.read_bytes())
    header, _ = split(bytes(data))
    begin, _ = header["actions"]["data_offsets"]
    data[-len(split(bytes(data))[1]) + begin] ^= 1
    episode.write_bytes(data)
    with pytest.raises(FileError, match="is damaged: its content hashes to"):
        episodes.outcome(episode)


@pytest.mark.parametrize("name", list(KINDS))
def test_tensors_of_another_type_are_refused(name, tmp_path):
    kind, path = KINDS[name], tmp_path / "x.safetensors"
    kind.make(path)
    tensors, about = load_tensors(path, kind.layout)
    # What users add of their environment may be of any type.
    first = min(key for key in tensors if not key.startswith("/env/"))
    for wrong in (np.zeros((2, 2), np.float64), np.array(3), np.zeros(0, np.int16)):
        save_tensors(path, {**tensors, first: wrong}, kind.layout, about)
        with pytest.raises(FileError, match=r"x\.safetensors"):
            kind.read(path)


# Bounds


def memory_of(code):
    """What a process needs beside what importing takes, in MiB."""
    script = (
        "import resource, numpy as np\n"
        "from genreward_wrappers import GoalBundle\n"
        "from genreward_wrappers.data.episodes import Episode\n"
        "from safetensors import safe_open\n"
        "rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        f"before = rss()\n{code}\nprint(rss() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def deflated(mib):
    packing = zlib.compressobj(9)
    parts = [packing.compress(bytes(1 << 20)) for _ in range(mib)]
    return np.frombuffer(b"".join([*parts, packing.flush()]), np.uint8)


@pytest.mark.skipif(not hasattr(resource, "getrusage"), reason="asks the system")
@pytest.mark.parametrize("shape", [[3, 8, 8, 3], [1 << 19, 1 << 13, 1 << 13, 3]])
def test_a_bomb_costs_nothing(episode, shape):
    tensors, about = load_tensors(episode, episodes.LAYOUT)
    tensors["frames"] = deflated(2000)
    save_tensors(episode, tensors, episodes.LAYOUT, {**about, "shape": shape})
    assert episode.stat().st_size < 3 << 20
    used = memory_of(
        f"try:\n    Episode.load({str(episode)!r})\n"
        "except ValueError:\n    pass\nelse:\n    raise SystemExit('it was read')"
    )
    assert used < 40


def test_an_honest_video_is_held_once(tmp_path):
    frames = np.zeros((100, 512, 512, 3), np.uint8)
    GoalBundle(frames[None]).save(tmp_path / "goal.safetensors")
    used = memory_of(f"GoalBundle.load({str(tmp_path / 'goal.safetensors')!r})")
    assert used < 1.5 * frames.nbytes / 2**20


def test_frames_that_could_not_be_read_are_not_written(monkeypatch, tmp_path, goal):
    monkeypatch.setattr(files, "UNPACKED", 1000)
    with pytest.raises(ValueError, match="more than the 0 MiB that one file may hold"):
        goal.save(tmp_path / "goal.safetensors")


def test_a_file_that_is_too_large_is_not_read(bundle):
    with bundle.open("r+b") as file:
        file.truncate(9 << 30)
    with pytest.raises(GoalError, match="9663676416 bytes, more than the 4294967296"):
        GoalBundle.load(bundle)


def test_a_header_that_is_too_large_is_not_read(bundle):
    header, tensors = split(bundle.read_bytes())
    header["__metadata__"]["more"] = "x" * files.HEADER
    bundle.write_bytes(joined(header, tensors))
    with pytest.raises(GoalError, match="a header of .* bytes, more than"):
        GoalBundle.load(bundle)


def test_the_readers_panic_is_an_error(bundle, monkeypatch):
    import safetensors

    class PanicException(BaseException):
        pass

    def panic(*_, **__):
        raise PanicException("cannot allocate")

    monkeypatch.setattr(safetensors, "safe_open", panic)
    with pytest.raises(GoalError, match="does not fit into memory"):
        GoalBundle.load(bundle)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(FileError, match="there is no recorded episode at"):
        Episode.load(tmp_path / "pipe.safetensors")
    with pytest.raises(FileError, match="is a folder, expected a recorded episode"):
        Episode.load(tmp_path)


def test_a_file_that_may_not_be_read_is_not_missing(episode, monkeypatch):
    from pathlib import Path

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    # Whoever runs the tests may be one who may read everything.
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(FileError, match=r"episode.* cannot be read \(Permission den"):
        Episode.load(episode)


def test_short_files(tmp_path):
    for data in (b"", b"\x00" * 8, struct.pack("<Q", 1 << 62), b"\xff" * 9):
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(FileError, match="no safetensors file"):
            Episode.load(tmp_path / "x.safetensors")


# The recorder


def played(recorder, count=1):
    still = np.zeros((4, 4, 3), np.uint8)
    for _ in range(count):
        recorder.begin(still)
        recorder.step([0.0], still, {"env": 1.0}, False, False, True)


def test_a_full_disk_ends_the_recording_alone(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path)
    played(recorder)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Episode, "save", full)
    with pytest.warns(UserWarning, match="record= has stopped: .*No space left"):
        played(recorder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        played(recorder, 9)
    assert recorder._frames == []
    assert recorder.number == 11
    assert len(list(tmp_path.iterdir())) == 1


def test_two_recorders_share_a_folder(tmp_path):
    recorders = [Recorder(tmp_path), Recorder(tmp_path)]
    threads = [threading.Thread(target=played, args=(r, 9)) for r in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [Episode.load(path).info for path in tmp_path.iterdir()]
    assert sorted(info["episode"] for info in found) == [0, 0, 1, 1, 8, 8]
    assert {info["run"] for info in found} == {r.run for r in recorders}
    assert Recorder(tmp_path).number == 9
