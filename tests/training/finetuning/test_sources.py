"""The data sets that are known by name: small ones of exactly their layouts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from genreward_wrappers.data.rlbench import DESCRIPTIONS, read_rlbench
from genreward_wrappers.data.video_files import fit
from genreward_wrappers.training.finetuning.clips import find_clips
from genreward_wrappers.training.finetuning.sources import SOURCES
from tests import lerobot_sets
from tests.tuning import FRAMES, LORA, SIZE, save_base, tuned

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

LORA_FILE = "pytorch_lora_weights.safetensors"

#: Pictures of another shape than the generator's: 3:3 beside 2:3.
SQUARE = (20, 20)
CAMERAS = ("front", "wrist", "overhead", "left_shoulder", "right_shoulder")
SAID = ("close the red jar", "screw on the red jar lid")


def write_rlbench(folder, tasks=("close_jar", "open_drawer"), episodes=2, lengths=11):
    """As tools/dataset_generator.py of RLBench writes them."""
    for task in tasks:
        variation = folder / task / "variation0"
        for number in range(episodes):
            episode = variation / "episodes" / f"episode{number}"
            for camera, name in enumerate(CAMERAS):
                for kind in ("rgb", "depth", "mask"):
                    place = episode / f"{name}_{kind}"
                    place.mkdir(parents=True)
                    for i in range(lengths):
                        frame = np.full((*SQUARE, 3), 20 * camera, np.uint8)
                        frame[:, i : i + 4] = 255 - number
                        Image.fromarray(frame).save(place / f"{i}.png")
            (episode / "low_dim_obs.pkl").write_bytes(b"not to be opened")
        (variation / "variation_descriptions.pkl").write_bytes(b"not to be opened")
        (variation / DESCRIPTIONS).write_text("\n".join((*SAID, "")))
    return folder


def write_bridge(folder):
    cameras = [f"observation.images.image_{i}" for i in range(3)]
    return lerobot_sets.write_dataset(folder, "v2.1", cameras=cameras)


def write_rt1(folder):
    return lerobot_sets.write_dataset(
        folder, "v2.1", cameras=["observation.images.image"]
    )


WRITERS = {"bridge": write_bridge, "rt1": write_rt1, "rlbench": write_rlbench}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    return folder


@pytest.mark.parametrize("name", SOURCES)
def test_two_steps_of_lora(name, base, tmp_path):
    pytest.importorskip("peft")
    if SOURCES[name].layout == "lerobot":
        pytest.importorskip("pyarrow")
    data = WRITERS[name](tmp_path / "data")
    training = replace(LORA, held_out=0)
    output = tuned(base, data, tmp_path / "out", tmp_path / "cache", training,
                   steps=2, source=name, fit="pad")  # fmt: skip
    assert (output / LORA_FILE).is_file()
    card = json.loads((output / "finetune.json").read_text())
    said = SAID[:1] if name == "rlbench" else sorted(set(lerobot_sets.TASKS))
    assert card["prompts"] == list(said)
    assert card["steps"] == 2


def test_a_camera_comes_with_the_name(tmp_path):
    pytest.importorskip("pyarrow")
    data = write_bridge(tmp_path / "data")
    with pytest.raises(ValueError, match="several cameras"):
        find_clips(data)
    for camera in (0, 2):
        chosen = f"image_{camera}" if camera else ""
        (clip, *_) = find_clips(data, source="bridge", camera=chosen)
        assert lerobot_sets.said_by(clip.read()[0])[2] == camera


def test_rlbench_is_read_in_order_of_its_numbers(tmp_path):
    data = write_rlbench(tmp_path, episodes=11, lengths=11, tasks=["close_jar"])
    episodes = read_rlbench(data)
    assert [e.name.split("/")[-2] for e in episodes] == [
        f"episode{i}" for i in range(11)
    ]
    frames = episodes[10].read()
    assert frames.shape == (11, *SQUARE, 3)
    # The bar moves a pixel a picture: 10.png is the last, not the third.
    assert [int(np.argmax(frame[0, :, 0])) for frame in frames] == list(range(11))
    assert len({e.digest for e in episodes}) == 11
    (wrist, *_) = read_rlbench(data, "wrist_rgb")
    assert wrist.read()[0, 0, -1, 0] == 20


def test_captions_of_rlbench(tmp_path):
    data = write_rlbench(tmp_path)
    assert {e.task for e in read_rlbench(data)} == {SAID[0]}
    (data / "close_jar" / "variation0" / DESCRIPTIONS).unlink()
    with pytest.raises(ValueError, match=f"no caption.*{DESCRIPTIONS} beside it"):
        find_clips(data, source="rlbench")
    assert len(find_clips(data, source="rlbench", prompt="close it")) == 4
    (data / "captions.json").write_text(json.dumps({"close_jar": "shut the jar"}))
    prompts = [clip.prompt for clip in find_clips(data, source="rlbench")]
    assert prompts == ["shut the jar"] * 2 + [SAID[0]] * 2


# Fitting


def test_the_middle_is_cut_out():
    """Against the pixels of the picture: a crop at its own scale changes none."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 30, 30, 3)).astype(np.uint8)
    found = fit(frames, (20, 30), 2, "a film", "crop")
    assert np.array_equal(found, frames[:, 5:25])
    larger = fit(frames, (40, 60), 2, "a film", "crop")
    assert larger.shape == (2, 40, 60, 3)
    assert abs(larger.mean() - frames[:, 5:25].mean()) < 1


def test_bars_are_added():
    frames = np.full((2, 20, 20, 3), 200, np.uint8)
    found = fit(frames, (20, 30), 2, "a film", "pad")
    assert (found[:, :, 5:25] == 200).all()
    assert not found[:, :, :5].any()
    assert not found[:, :, 25:].any()
    assert (fit(frames, (40, 40), 2, "a film", "pad") == 200).all()


def test_what_is_fitted_is_cached_apart(tmp_path):
    data = write_rlbench(tmp_path, tasks=["close_jar"], episodes=1)
    found = [
        find_clips(data, source="rlbench", fit=how)[0] for how in ("", "crop", "pad")
    ]
    assert len({clip.digest for clip in found}) == 3
    assert found[1].frames(FRAMES, SIZE).shape == (FRAMES, *SIZE, 3)
    with pytest.raises(ValueError, match="enlarged"):
        found[0].frames(FRAMES, SIZE)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "droid"}, "source='droid': expected one of 'bridge'"),
        ({"source": "bridge"}, "is no LeRobotDataset"),
        ({"source": "rlbench", "camera": "top"}, "no folder top_rgb.*cameras: front,"),
        ({"source": "rlbench", "fit": "stretch"}, "fit='stretch'.*'crop', 'pad'"),
    ],
)
def test_what_is_no_such_source(options, message, tmp_path):
    data = write_rlbench(tmp_path, tasks=["close_jar"], episodes=1)
    with pytest.raises(ValueError, match=message):
        find_clips(data, **options)


def test_pictures_that_are_missing_or_broken(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        find_clips(tmp_path / "nowhere", source="rlbench")
    with pytest.raises(ValueError, match="has no camera's pictures"):
        read_rlbench(tmp_path)
    data = write_rlbench(tmp_path, tasks=["close_jar"], episodes=1)
    place = next(data.rglob("front_rgb"))
    (place / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="3.png is no picture"):
        read_rlbench(data)[0].read()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(place / "3.png")
    with pytest.raises(ValueError, match="3.png is 4x4 .*0.png is 20x20"):
        read_rlbench(data)[0].read()
    (place / "3.png").unlink()
    with pytest.raises(ValueError, match="without a gap"):
        read_rlbench(data)
