"""Pictures and films of episodes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from genreward_wrappers import plot_episode
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.data.video_files import read_video
from genreward_wrappers.evaluate.page.drawing import Column, film, strip

STEPS = 8


@pytest.fixture
def episode():
    frames = np.repeat(np.arange(5, dtype=np.uint8) * 50, 16 * 16 * 3)
    due = np.full(STEPS, np.nan, np.float32)
    due[[3, 7]] = 2, 3
    return Episode(
        frames=frames.reshape(5, 16, 16, 3),
        frame_steps=np.array([0, 2, 4, 6, 8]),
        actions=np.zeros((STEPS, 2)),
        success=np.arange(STEPS) >= 5,
        rewards={"video": np.arange(STEPS, dtype=np.float32), "sparse": due},
        info={"env_id": "metaworld/reach", "goal": 1},
    )


def shown(axis):
    """The brightness of the frames in a row, from left to right."""
    return [int(image.get_array()[0, 0, 0]) for image in axis.images]


def test_frames_goal_and_curves_are_what_was_recorded(episode, goal):
    figure = plot_episode(episode, goal, shots=5)
    above, below, video, sparse = figure.axes
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "goal video", "episode", "reward_video", "reward_sparse",
    ]  # fmt: skip
    followed = goal.videos[1]
    assert shown(above)[0] == followed[0, 0, 0, 0]
    assert shown(above)[-1] == followed[-1, 0, 0, 0]
    assert shown(below) == [0, 50, 100, 150, 200]
    steps, paid = video.lines[0].get_data()
    assert (list(steps), list(paid)) == (list(range(1, 9)), list(range(8)))
    # Where nothing was due there is nothing, not even a line.
    steps, paid = sparse.lines[0].get_data()
    assert (list(steps), list(paid)) == ([4, 8], [2, 3])
    assert sparse.lines[0].get_linestyle() == "None"
    # The first success.
    assert list(video.lines[1].get_xdata()) == [6, 6]
    assert "metaworld/reach: 8 steps, success" in figure.get_suptitle()


def test_a_file_finds_the_goal_beside_it_and_notebooks_show_it(episode, goal, tmp_path):
    path = tmp_path / "episode.safetensors"
    episode.save(path)
    alone = plot_episode(path)
    assert alone.axes[0].get_ylabel() == "episode"
    goal.save(tmp_path / "goal.safetensors")
    figure = plot_episode(path)
    assert figure.axes[0].get_ylabel() == "goal video"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_frames_that_were_not_seen_are_the_ones_before(episode):
    # Steps 0, 2, 3, 5, 6, 8 of which 3 and 5 have no frame of their own.
    figure = plot_episode(episode, shots=6)
    assert shown(figure.axes[0]) == [0, 50, 50, 100, 150, 200]


def test_bad_input(episode, goal):
    with pytest.raises(ValueError, match="shots=1: expected at least 2"):
        plot_episode(episode, shots=1)
    other = replace(episode, info={"goal": 5})
    with pytest.raises(ValueError, match="followed goal video 5, and .* has 3: give"):
        plot_episode(other, goal)


def test_a_film_has_columns_of_names_frames_and_bars(episode, tmp_path):
    path = tmp_path / "film.mp4"
    paid = np.array([0, 0, 0, 0, 0, 0, 0, 2], np.float32)
    film(path, [Column("goal", episode.frames), Column("a", episode.frames, paid)], 8)
    found = read_video(path)
    # Two columns of 16 pixels, twelve times as large, and the gap between them.
    assert found.shape == (9, 18 + 192 + 12, 2 * 192 + 6, 3)
    bar = found[:, -6, -96].astype(int)
    assert bar[-1, 2] > 150 > bar[0, 2], "paid at the last step alone"


def test_frames_of_a_strip_do_not_touch():
    """Their distances are whole steps and differ, here by one of ten."""
    axis = Figure().subplots()
    steps = evenly(7, 64).tolist()
    strip(axis, "episode", np.zeros((7, 4, 4, 3), np.uint8), steps)
    places = [image.get_extent() for image in axis.images]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(places))
