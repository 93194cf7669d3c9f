"""LeRobotDatasets as what is trained on: which frames, which texts, what is refused."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest

from genreward_wrappers.cli.main import main
from genreward_wrappers.data import lerobot
from genreward_wrappers.data.lerobot import read_lerobot
from genreward_wrappers.data.video_files import read_part
from genreward_wrappers.training.finetuning.clips import find_clips
from genreward_wrappers.training.videos import load_videos
from tests.lerobot_sets import (
    CAMERAS,
    FPS,
    LENGTHS,
    SIZE,
    TASKS,
    film,
    said_by,
    write_dataset,
    write_episodes,
    write_film,
)

pytest.importorskip("av")
pytest.importorskip("imageio")
pytest.importorskip("pyarrow")

TOP = "observation.images.top"
ONE = {"cameras": (TOP,)}
EACH = [[task] for task in TASKS]


def rewritten(folder, **changes):
    """The dataset with other facts in its info.json; None takes one out."""
    path = folder / "meta" / "info.json"
    info = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in info.items() if v is not None}))
    return folder


# Which frames


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("v3.0", {}),
        ("v3.0", {"files": (0, 0, 1)}),
        ("v3.0", {"files": (0, 1, 2)}),
        ("v3.0", {"kind": "image"}),
        ("v3.0", {"kind": "image", "files": (0, 1, 1)}),
        ("v2.1", {}),
        ("v2.1", {"kind": "image"}),
    ],
)
def test_each_episode_has_its_own_frames(version, options, tmp_path):
    folder = write_dataset(tmp_path, version, **options)
    digests = set()
    for camera, name in enumerate(CAMERAS):
        episodes = read_lerobot(folder, name)
        assert [episode.tasks for episode in episodes] == [(task,) for task in TASKS]
        for number, (episode, length) in enumerate(zip(episodes, LENGTHS, strict=True)):
            frames = episode.read()
            assert frames.shape == (length, *SIZE, 3)
            assert frames.dtype == np.uint8
            wanted = [(number, i, camera) for i in range(length)]
            assert [said_by(frame) for frame in frames] == wanted
            assert np.abs(frames.astype(int) - film(number, camera, length)).mean() < 6
            digests.add(episode.digest)
    assert len(digests) == 6
    again = {e.digest for name in CAMERAS for e in read_lerobot(folder, name)}
    assert again == digests


def test_what_needs_no_digest_reads_no_video(tmp_path, monkeypatch):
    """To score one episode, nobody has to hash a hundred gigabytes."""
    monkeypatch.setattr(lerobot, "hash_file", pytest.fail)
    first, *_ = read_lerobot(write_dataset(tmp_path, cameras=CAMERAS[:1]))
    # Workers elsewhere read it as well.
    first = pickle.loads(pickle.dumps(first))
    assert len(first.read()) == LENGTHS[0]


def test_a_film_is_known_by_its_content_and_not_by_its_place(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    digests = [
        [e.digest for e in read_lerobot(write_dataset(folder, **ONE))]
        for folder in (first, second)
    ]
    assert digests[0] == digests[1]
    path = first / "videos" / TOP / "chunk-000" / "file-000.mp4"
    write_film(path, np.concatenate([film(e, 1, n) for e, n in enumerate(LENGTHS)]))
    changed = [e.digest for e in read_lerobot(first)]
    assert not {*changed} & {*digests[0]}


def test_timestamps_may_be_a_little_off(tmp_path):
    """They are sums of durations, in floating point."""
    folder = write_dataset(tmp_path, **ONE)
    for apart in (-0.15, 0.15):
        starts = [max(0, apart / FPS), 1.2 + apart / FPS, 3.2 + apart / FPS]
        name = f"videos/{TOP}/from_timestamp"
        write_episodes(folder, (TOP,), EACH, (0, 0, 0), {name: starts})
        for number, episode in enumerate(read_lerobot(folder)):
            said = [said_by(frame)[:2] for frame in episode.read()]
            assert said == [(number, i) for i in range(LENGTHS[number])]


def test_only_the_part_is_decoded(tmp_path, monkeypatch):
    """From the key frame before it to its end."""
    av = pytest.importorskip("av")
    folder = write_dataset(tmp_path, **ONE)
    seen = []
    opened = av.open

    class Noted:
        def __init__(self, *args):
            self.file = opened(*args)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def decode(self, stream):
            for frame in self.file.decode(stream):
                seen.append(round(frame.time * FPS))
                yield frame

    monkeypatch.setattr(av, "open", Noted)
    read_lerobot(folder)[1].read()
    assert set(range(12, 32)) <= set(seen) <= set(range(10, 32))


# Which texts, and which episodes


def test_tasks_are_prompts(tmp_path):
    pytest.importorskip("PIL")
    folder = write_dataset(tmp_path, **ONE)
    clips = find_clips(folder, prompt="not this")
    assert [clip.prompt for clip in clips] == list(TASKS)
    assert [clip.name for clip in clips] == [f"{folder}, episode {i}" for i in range(3)]
    frames = clips[2].frames(5, SIZE)
    assert [said_by(frame) for frame in frames] == [(2, i, 0) for i in (0, 2, 4, 6, 8)]
    (folder / "captions.json").write_text('{"episode_000001": " its own "}')
    found = [clip.prompt for clip in find_clips(folder)]
    assert found == [TASKS[0], "its own", TASKS[2]]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_episodes_without_a_task_or_with_several(version, tmp_path):
    folder = write_dataset(tmp_path, version, tasks=[["one", ""], [" "], []], **ONE)
    with pytest.raises(ValueError, match="episode 1 has no task text: give --prompt"):
        find_clips(folder)
    assert [c.prompt for c in find_clips(folder, prompt="all")] == ["one", "all", "all"]
    write_dataset(tmp_path, version, tasks=[["one"], ["b", "a"], ["c"]], **ONE)
    message = "episode 1 has several tasks, in no order: 'b', 'a'.*episode_000001"
    with pytest.raises(ValueError, match=message):
        find_clips(folder, prompt="all")
    found = find_clips(folder, prompts={"episode_000001": "b, then a"})
    assert [clip.prompt for clip in found] == ["one", "b, then a", "c"]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_episodes_that_are_noted_as_failed(version, kind, tmp_path):
    won = (True, False, True)
    folder = write_dataset(
        tmp_path, version, kind=kind, won=won, files=(0, 0, 1), **ONE
    )
    assert [e.success for e in read_lerobot(folder)] == list(won)
    names = [clip.name.rpartition(" ")[2] for clip in find_clips(folder)]
    assert names == ["0", "2"]
    assert len(find_clips(folder, failures=True)) == 3
    videos = load_videos([folder], size=SIZE)
    assert [len(video) for video in videos] == [LENGTHS[0], LENGTHS[2]]
    write_dataset(tmp_path, version, kind=kind, won=[False] * 3, **ONE)
    with pytest.raises(ValueError, match="none of its 3 episodes succeeded; --all"):
        find_clips(folder)
    with pytest.raises(ValueError, match="none of its episodes succeeded"):
        load_videos([folder], size=SIZE)


# Which camera


def test_one_of_several_cameras(tmp_path):
    folder = write_dataset(tmp_path)
    both = f"{CAMERAS[0]}, {CAMERAS[1]}"
    with pytest.raises(ValueError, match=rf"has several cameras: give one of {both}$"):
        find_clips(folder)
    message = rf"has no camera 'side': give one of {both}$"
    with pytest.raises(ValueError, match=message):
        find_clips(folder, camera="side")
    for camera, name in ((0, CAMERAS[0]), (0, "top"), (1, "wrist")):
        frame = find_clips(folder, camera=name)[1].frames(2, SIZE)[0]
        assert said_by(frame) == (1, 0, camera)
        assert said_by(load_videos([folder], size=SIZE, camera=name)[2][3])[2] == camera


def test_depth_is_no_camera(tmp_path):
    folder = write_dataset(tmp_path)
    features = json.loads((folder / "meta" / "info.json").read_text())["features"]
    features[CAMERAS[1]]["info"] = {"video.is_depth_map": True}
    rewritten(folder, features=features)
    assert said_by(read_lerobot(folder)[0].read()[5]) == (0, 5, 0)
    rewritten(folder, features={"action": features["action"]})
    with pytest.raises(ValueError, match="a LeRobot dataset without a camera"):
        read_lerobot(folder)


def test_other_data_have_no_cameras(tmp_path):
    np.save(tmp_path / "a.npy", film(0, 0, 5))
    for data in (tmp_path, "minari:some/data-v0"):
        with pytest.raises(ValueError, match="camera='top': .* no LeRobot dataset"):
            find_clips(data, prompt="all", camera="top")


# What is not whole


def test_datasets_that_are_not_read(tmp_path):
    folder = write_dataset(tmp_path, **ONE)
    for version in ("v1.6", None, "v4.0"):
        rewritten(folder, codebase_version=version)
        with pytest.raises(
            ValueError, match=f"{version!r}; supported are v2.1 and v3.0"
        ):
            find_clips(folder)
    rewritten(folder, codebase_version="v3.0", fps=None)
    with pytest.raises(ValueError, match=r"info.json lacks fps$"):
        find_clips(folder)
    (folder / "meta" / "info.json").write_text("{")
    with pytest.raises(ValueError, match=r"info.json is no JSON object"):
        find_clips(folder)
    (folder / "meta" / "info.json").write_text("[]")
    with pytest.raises(ValueError, match=r"info.json is no JSON object"):
        find_clips(folder)
    (folder / "meta" / "info.json").unlink()
    with pytest.raises(ValueError, match=r"has no meta/info.json: .* not downloaded"):
        find_clips(folder)
    with pytest.raises(ValueError, match=r"has no meta/info.json"):
        load_videos([folder], size=SIZE)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_files_that_are_missing_are_named(version, kind, tmp_path):
    folder = write_dataset(tmp_path, version, kind=kind, files=(0, 0, 1), **ONE)
    ending = "mp4" if kind == "video" else "parquet"
    where = folder / ("videos" if kind == "video" else "data")
    last = sorted(where.rglob(f"*.{ending}"))[-1]
    last.unlink()
    with pytest.raises(ValueError, match=rf"episode 2: there is no {last}$"):
        find_clips(folder)
    if version == "v2.1":
        (folder / "meta" / "episodes.jsonl").unlink()
        message = "there is no .*episodes.jsonl"
    else:
        (folder / "meta/episodes/chunk-000/file-000.parquet").unlink()
        message = "no parquet file in meta/episodes"
    with pytest.raises(ValueError, match=message):
        find_clips(folder)


def test_an_episode_that_is_longer_than_its_film(tmp_path):
    folder = write_dataset(tmp_path, **ONE)
    name = f"videos/{TOP}/from_timestamp"
    for starts, found in (([0.0, 1.2, 3.5], 6), ([0.0, 1.2, 30.0], 0)):
        write_episodes(folder, (TOP,), EACH, (0, 0, 0), {name: starts})
        clips = find_clips(folder)
        assert len(clips[1].frames(9, SIZE)) == 9
        message = f"episode 2: of its 9 frames, .*at {starts[2]:g} s.* has {found};"
        with pytest.raises(ValueError, match=message):
            clips[2].frames(9, SIZE)
    path = folder / "videos" / TOP / "chunk-000" / "file-000.mp4"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="episode 0: .*mp4 does not decode"):
        find_clips(folder)[0].frames(9, SIZE)


def test_frames_are_found_by_their_time(tmp_path):
    """A film of more frames a second is thinned out, one of fewer lacks some."""
    path = tmp_path / "film.mp4"
    write_film(path, film(0, 0, 30))
    for start, fps, wanted in ((0.4, 5, range(4, 20, 2)), (1.0, 10, range(10, 18))):
        frames = read_part(path, start, 8, fps, "it")
        assert [said_by(frame)[1] for frame in frames] == [*wanted]
    with pytest.raises(ValueError, match="it: of its 12 frames, .*has 1;"):
        read_part(path, 0.0, 12, 2 * FPS, "it")


def test_tables_that_are_damaged(tmp_path):
    folder = write_dataset(tmp_path, **ONE)
    name = f"videos/{TOP}/from_timestamp"
    write_episodes(folder, (TOP,), EACH, (0, 0, 0), {"tasks": None, name: None})
    with pytest.raises(ValueError, match=rf"parquet lacks tasks, {name}$"):
        find_clips(folder)
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"file-000.parquet is no parquet file"):
        find_clips(folder)
    write_dataset(folder, **ONE)
    rewritten(folder, video_path="videos/{nothing}.mp4")
    with pytest.raises(ValueError, match=r"'videos/\{nothing\}.mp4' is no path"):
        find_clips(folder)
    write_dataset(folder, "v2.1", **ONE)
    (folder / "meta" / "episodes.jsonl").write_text('{"episode_index": 0}')
    with pytest.raises(ValueError, match=r"episodes.jsonl: expected an object with"):
        find_clips(folder)
    (folder / "meta" / "episodes.jsonl").write_text("")
    with pytest.raises(ValueError, match="a LeRobot dataset without episodes"):
        find_clips(folder)


def test_pictures_that_are_not_there(tmp_path):
    import pyarrow.parquet as parquet

    folder = write_dataset(tmp_path, kind="image", **ONE)
    path = folder / "data/chunk-000/file-000.parquet"
    whole = parquet.read_table(path)
    parquet.write_table(whole.slice(1), path)
    with pytest.raises(ValueError, match="episode 0: .* has 11 of its 12 frames"):
        read_lerobot(folder)[0].read()
    column = [{"bytes": None, "path": "frame.png"}] * len(whole)
    names = whole.column_names
    import pyarrow

    kind = whole.schema.field(TOP).type
    changed = whole.set_column(names.index(TOP), TOP, pyarrow.array(column, kind))
    parquet.write_table(changed, path)
    with pytest.raises(ValueError, match="names pictures but does not hold them"):
        read_lerobot(folder)[0].read()


def test_pyarrow_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    new = write_dataset(tmp_path / "new", **ONE)
    old = write_dataset(tmp_path / "old", "v2.1", **ONE)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert len(find_clips(old)[1].frames(9, SIZE)) == 9
    with pytest.raises(ImportError, match=r"genreward-wrappers\[parquet\]"):
        find_clips(new)


# The commands


def test_the_command_trains_on_a_camera(tmp_path, capsys):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from tests.tuning import save_base

    data = write_dataset(tmp_path / "data")
    save_base(tmp_path / "base")
    command = [
        "finetune", "--model", str(tmp_path / "base"), "--data", str(data),
        "--method", "vae", "--steps", "1", "--held-out", "0", "--frames", "9",
        "--device", "cpu", "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command) == 1
    assert "give one of observation.images.top" in capsys.readouterr().err
    assert main([*command, "--camera", "wrist"]) == 0
    card = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert card["clips"] == 3
    assert card["prompts"] == sorted({*TASKS})


def test_priors_are_trained_on_a_camera(tmp_path, capsys):
    data = write_dataset(tmp_path / "data")
    output = tmp_path / "prior.safetensors"
    command = ["train-viper", str(data), "--output", str(output), "--size", "16", "24"]
    assert main(command) == 1
    assert "give one of observation.images.top" in capsys.readouterr().err
    assert main([*command, "--camera", "none"]) == 1
    assert "no camera 'none'" in capsys.readouterr().err
