"""Goal bundles: what goes in comes out, and nothing broken gets through."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from genreward_wrappers import GoalBundle, GoalError, load_goal
from genreward_wrappers.data.goals import METADATA_KEY, embedded_goals


@pytest.fixture
def full(goal):
    """A bundle with something in every field."""
    return goal.with_(
        camera="corner2",
        key_frames=(3, 32, 0),
        encoder={"source": "pixels", "fingerprint": {"size": [32, 32]}},
        nets={"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
        nets_config={"features": 3, "statistics": {"mean": 0.5, "std": 2.0}},
        generator="a test",
        license="MIT",
        provenance=({"step": "one"}, {"step": "two", "seeds": [1, 2]}),
    )


def test_round_trip(full, tmp_path):
    path = tmp_path / "goal.safetensors"
    full.save(path)
    again = GoalBundle.load(path)
    np.testing.assert_array_equal(again.videos, full.videos)
    np.testing.assert_array_equal(again.nets["a"], full.nets["a"])
    for name in (
        "env_id",
        "camera",
        "prompt",
        "key_frames",
        "encoder",
        "nets_config",
        "generator",
        "license",
        "provenance",
    ):
        assert getattr(again, name) == getattr(full, name), name
    assert again == full
    assert again.source == str(path)
    assert again.with_(prompt="other") != full
    assert again.with_(prompt="other").source == ""


def test_saving_twice_gives_the_same_bytes(full, tmp_path):
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    full.save(one)
    GoalBundle.load(one).save(two)
    assert one.read_bytes() == two.read_bytes()
    with safe_open(one, "numpy") as file:
        assert list(file.metadata()) == [METADATA_KEY]


def test_random_videos_survive_packing():
    videos = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 9, 3)).astype(np.uint8)
    bundle = GoalBundle(videos)
    from genreward_wrappers.data.files import pack_video, unpack_video

    for video in bundle.videos:
        np.testing.assert_array_equal(
            unpack_video(pack_video(video), video.shape), video
        )


def test_every_damaged_byte_is_found(full, tmp_path):
    path = tmp_path / "goal.safetensors"
    full.save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    # Header, metadata and data alike; a sample, since each costs a load.
    places = [0, 4, 8, *rng.integers(0, len(good), 60).tolist(), len(good) - 1]
    # The nets' weights have no checksum of their own, as packed videos do.
    weights = good.find(full.nets["a"].tobytes())
    places += range(weights, weights + full.nets["a"].nbytes, 5)
    found = 0
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            loaded = GoalBundle.load(path)
        except GoalError:
            found += 1
        else:
            # A bit that packing does not use, at the end of a deflated stream.
            assert loaded == full
    assert found >= len(places) - 1
    path.write_bytes(good)
    assert GoalBundle.load(path) == full


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated(full, tmp_path, share):
    path = tmp_path / "goal.safetensors"
    full.save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(GoalError, match="no safetensors file"):
        GoalBundle.load(path)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    path = tmp_path / "goal.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(GoalError, match="a pickle, which is never read"):
        GoalBundle.load(path)
    import torch

    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(GoalError, match="a pickle, which is never read"):
        GoalBundle.load(path)
    assert not (tmp_path / "exploded").exists()


def test_other_safetensors_files(full, tmp_path):
    path = tmp_path / "goal.safetensors"
    save_file({"x": np.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(GoalError, match=r"no goal bundle.*\['format'\]"):
        GoalBundle.load(path)
    header = {**full._header(), "schema": 99}
    save_file({"x": np.zeros(3)}, path, metadata={METADATA_KEY: json.dumps(header)})
    with pytest.raises(GoalError, match="schema 99, this version.*schema 1"):
        GoalBundle.load(path)
    save_file({"x": np.zeros(3)}, path, metadata={METADATA_KEY: "{"})
    with pytest.raises(GoalError, match="metadata is damaged"):
        GoalBundle.load(path)


def test_nan_weights(full):
    with pytest.raises(GoalError, match="'a' hold NaN"):
        full.with_(nets={"a": np.array([1.0, np.nan])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": np.zeros((1, 5, 8, 8, 3))}, r"got float64 \(1, 5, 8, 8, 3\)"),
        ({"videos": np.zeros((5, 8, 8, 3), np.uint8)}, r"got uint8 \(5, 8, 8, 3\)"),
        ({"videos": np.zeros((1, 1, 8, 8, 3), np.uint8)}, "at least 2 frames"),
        ({"videos": np.zeros((0, 5, 8, 8, 3), np.uint8)}, "at least one video"),
        ({"key_frames": (1, 2)}, r"each of 3 videos, got \(1, 2\)"),
        ({"key_frames": (1, 2, 33)}, "below 33"),
    ],
)
def test_bad_bundles(goal, change, message):
    with pytest.raises(GoalError, match=message):
        goal.with_(**change)


def test_bundles_cannot_be_written_to(goal):
    with pytest.raises(ValueError, match="read-only"):
        goal.videos[0] = 0
    with pytest.raises(AttributeError):
        goal.prompt = "other"


def test_a_killed_save_leaves_the_old_file_whole(full, tmp_path):
    """A process that saves without end is killed at random moments."""
    path = tmp_path / "goal.safetensors"
    full.save(path)
    script = textwrap.dedent(
        f"""
        from genreward_wrappers import GoalBundle
        bundle = GoalBundle.load({str(path)!r})
        print("ready", flush=True)
        n = 0
        while True:
            bundle.with_(prompt=str(n)).save({str(path)!r})
            n += 1
        """
    )
    for delay in (0.0, 0.013, 0.05, 0.11):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        GoalBundle.load(path)


def test_a_failed_save_leaves_nothing_behind(full, tmp_path, monkeypatch):
    path = tmp_path / "goal.safetensors"
    full.save(path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space.*goal.safetensors"):
        full.with_(prompt="new").save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["goal.safetensors"]


def test_load_goal_by_every_name(full, tmp_path):
    path = tmp_path / "goal.safetensors"
    full.save(path)
    assert load_goal(full) is full
    assert load_goal(path) == load_goal(str(path)) == full
    embedded = load_goal(None, "metaworld/pick-place")
    assert embedded.env_id == "metaworld/pick-place"
    assert embedded.source == "metaworld/pick-place"


def test_unknown_goals_say_what_there_is():
    with pytest.raises(GoalError) as caught:
        load_goal(None, "metaworld/pick-plaice")
    message = str(caught.value)
    assert "did you mean 'metaworld/pick-place'" in message
    assert str(embedded_goals()) in message
    assert "genreward pack" in message
    with pytest.raises(GoalError, match="no id to look a goal up by"):
        load_goal(None, None)
    with pytest.raises(TypeError, match="goal=3: expected None, an environment id"):
        load_goal(3)
    with pytest.raises(GoalError, match=r"no goal bundle at .*nowhere.safetensors"):
        load_goal("nowhere.safetensors")


def test_an_array_as_a_goal_is_told_by_its_shape():
    from genreward_wrappers import VideoLevelReward
    from genreward_wrappers.testing import PointMass

    video = np.zeros((9, 16, 16, 3), np.uint8)
    said = r"goal is an array, uint8 \(9, 16, 16, 3\): expected None.*pack\(\[array\]\)"
    with pytest.raises(TypeError, match=said):
        load_goal(video)
    with pytest.raises(TypeError, match=said):
        VideoLevelReward(PointMass(size=16), video, encoder="pixels", horizon=9)


def test_hub_addresses():
    with pytest.raises(GoalError, match="expected"):
        load_goal("hf://user")
    # Offline: the error names the address and the way out.
    with pytest.raises(GoalError, match=r"hf://user/repo/goal.safetensors.*its path"):
        load_goal("hf://user/repo/goal.safetensors@0123abc")
