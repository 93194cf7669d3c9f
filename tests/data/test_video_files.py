"""Videos that are written: the same frames give the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from genreward_wrappers.data.goals import GoalError
from genreward_wrappers.data.video_files import read_video, write_video

CODE = """
import os, sys
import numpy as np
cores = int(sys.argv[2])
if cores:
    os.sched_setaffinity(0, range(cores))
from genreward_wrappers.data.video_files import write_video
rng = np.random.default_rng(0)
square = rng.integers(0, 256, (17, 64, 64, 3)).astype(np.uint8)
square[3:] = square[:-3] // 2 + square[3:] // 2
large = rng.integers(0, 256, (3, 480, 640, 3)).astype(np.uint8)
write_video(sys.argv[1] + "/square.mp4", square)
write_video(sys.argv[1] + "/large.mp4", large)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc and the scheduler")
def test_the_same_frames_give_the_same_bytes(tmp_path):
    """Whatever memory held before, and on one core as on several."""
    found = set()
    cores = len(os.sched_getaffinity(0))
    for filling, count in (("0", 0), ("85", 0), ("255", cores), ("1", 1)):
        env = {**os.environ, "MALLOC_PERTURB_": filling}
        command = [sys.executable, "-c", CODE, str(tmp_path), str(count)]
        subprocess.run(command, check=True, env=env)
        names = ("square.mp4", "large.mp4")
        found.add(tuple((tmp_path / name).read_bytes() for name in names))
    assert len(found) == 1


def test_strides_do_not_matter(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 33, 3)).astype(np.uint8)
    turned = np.ascontiguousarray(frames.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0)
    write_video(tmp_path / "a.mp4", frames)
    write_video(tmp_path / "b.mp4", turned)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert read_video(tmp_path / "a.mp4").shape == (9, 32, 32, 3)


def test_small_noisy_gifs_are_read_as_they_are(tmp_path):
    """Of which FFmpeg finds the first picture alone."""
    iio = pytest.importorskip("imageio.v3")
    frames = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)
    iio.imwrite(tmp_path / "a.gif", frames)
    np.testing.assert_array_equal(read_video(tmp_path / "a.gif"), frames)


def test_half_a_video_is_refused(tmp_path):
    """A download that was interrupted still says how many frames it was to have."""
    av = pytest.importorskip("av")
    frames = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3)).astype(np.uint8)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as film:
        options = {"g": "5", "bf": "0"}
        stream = film.add_stream("libx264", 10, options, pix_fmt="yuv420p")
        stream.height = stream.width = 32
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            film.mux(stream.encode(picture))
        film.mux(stream.encode(None))
    whole, content = read_video(path), path.read_bytes()
    assert len(whole) == 30
    # One that was trimmed to half its time is whole.
    place = content.index(b"elst") + 12
    time = int.from_bytes(content[place : place + 4], "big") // 2
    trimmed = content[:place] + time.to_bytes(4, "big") + content[place + 4 :]
    path.write_bytes(trimmed)
    np.testing.assert_array_equal(read_video(path), whole[:15])
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(GoalError, match=r"a\.mp4 does not decode.*of its 30 frames"):
        read_video(path)


def test_grey_gifs_have_three_colours(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    path = tmp_path / "grey.gif"
    first, *rest = (
        pillow.fromarray(np.full((16, 16), level, np.uint8)) for level in (0, 90, 180)
    )
    first.save(path, save_all=True, append_images=rest)
    frames = read_video(path)
    assert frames.shape == (3, 16, 16, 3)
    assert [*frames[:, 0, 0, 1]] == [0, 90, 180]
