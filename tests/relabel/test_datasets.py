"""Datasets with another reward: the right one, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from genreward_wrappers import RewardModelWrapper, VideoLevelReward
from genreward_wrappers.cli.main import main
from genreward_wrappers.relabel import (
    Scorer,
    find_recordings,
    from_lerobot,
    relabel_dataset,
    score,
)
from genreward_wrappers.testing import Brightness, PointMass
from tests import lerobot_sets
from tests.relabel.test_recordings import collected, minari  # noqa: F401

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Minari's collector leaves its temporary folders to the garbage collector, and the
    # last row of a LeRobotDataset is spoken of each time.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:LeRobot keeps no frame"),
]
REWARD = "next.reward"


def hashes(folder, but=()):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


# LeRobot


@pytest.fixture
def dataset(tmp_path):
    """A LeRobotDataset with rewards, their statistics, and what `datasets` notes."""
    return with_data(tmp_path / "set", "v3.0")


def with_data(folder, version):
    old = version == "v2.1"
    lerobot_sets.write_dataset(folder, version, cameras=lerobot_sets.CAMERAS[:1])
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"][REWARD] = {"dtype": "float32", "shape": [1], "names": None}
    (folder / "meta/info.json").write_text(json.dumps(info, indent=4))
    stats = {"min": [0.0], "max": [1.0], "mean": [0.5], "std": [0.1], "count": [41],
             "q50": [0.5]}  # fmt: skip
    both = {REWARD: stats, "action": stats}
    (folder / "meta/stats.json").write_text(json.dumps(both, indent=4))
    for number, length in enumerate(lerobot_sets.LENGTHS):
        place = {"episode_chunk": number // 2, "episode_index": number,
                 "chunk_index": 0, "file_index": number}  # fmt: skip
        start = sum(lerobot_sets.LENGTHS[:number])
        rng = np.random.default_rng(number)
        table = arrow.table({
            "observation.state": [row.tolist() for row in rng.random((length, 3))],
            "action": [row.tolist() for row in rng.random((length, 2))],
            REWARD: arrow.array(np.full(length, 7), arrow.float32()),
            "frame_index": np.arange(length), "episode_index": np.full(length, number),
            "index": start + np.arange(length),
        })  # fmt: skip
        card = {"info": {"features": {REWARD: {"dtype": "float32", "_type": "Value"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(card)})
        path = folder / info["data_path"].format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, path)
    if old:
        lines = [json.dumps({"episode_index": n, "stats": both}) for n in range(3)]
        (folder / "meta/episodes_stats.jsonl").write_text("\n".join(lines))
    else:
        changes = {"data/file_index": [0, 1, 2]}
        changes |= {
            f"stats/{REWARD}/{key}": [value] * 3 for key, value in stats.items()
        }
        top = lerobot_sets.CAMERAS[:1]
        tasks = [[task] for task in lerobot_sets.TASKS]
        lerobot_sets.write_episodes(folder, top, tasks, (0, 0, 0), changes)
    return folder


def rows(folder, *columns):
    tables = [
        parquet.read_table(p) for p in sorted((folder / "data").rglob("*.parquet"))
    ]
    whole = arrow.concat_tables(tables).sort_by("index")
    return {name: np.array(whole.column(name).to_pylist()) for name in columns}


def expected(folder):
    """What the last frame once more, and each before it, earns."""
    found = []
    for one in find_recordings(folder):
        frames = one.read().frames
        found += [*(frame.mean() / np.float32(255) for frame in frames[1:]),
                  frames[-1].mean() / np.float32(255)]  # fmt: skip
    return np.array(found)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_lerobot_reward_is_replaced(version, tmp_path):
    source, target = with_data(tmp_path / "set", version), tmp_path / "new"
    before = hashes(source)
    with pytest.warns(UserWarning, match="no frame of what came of an episode's last"):
        made = relabel_dataset(source, Brightness(), target, weights=True)
    assert (made.folder, made.resumed, len(made.rewards)) == (target, 0, 3)
    assert hashes(source) == before, "the source is left alone"
    assert not target.with_name("new.partial").exists()
    changed = {k for k, v in hashes(target).items() if before.get(k) != v}
    episodes = "meta/episodes_stats.jsonl"
    episodes = (
        episodes if version == "v2.1" else "meta/episodes/chunk-000/file-000.parquet"
    )
    data = {k for k in before if k.startswith("data")}
    assert changed == data | {"meta/stats.json", episodes, "meta/genreward.json",
                              "sarm_progress.parquet"}  # fmt: skip
    columns = ("action", "index", "frame_index", "episode_index")
    for name, values in rows(target, *columns).items():
        np.testing.assert_array_equal(values, rows(source, name)[name])
    paid = rows(target, REWARD)[REWARD]
    np.testing.assert_allclose(paid, expected(source), rtol=1e-5)
    np.testing.assert_array_equal(
        paid, np.concatenate([*made.rewards.values()]).astype(np.float32)
    )
    stats = json.loads((target / "meta/stats.json").read_text())
    assert stats["action"]["mean"] == [0.5]
    new = stats[REWARD]
    assert new["count"] == [41]
    assert new["mean"] == pytest.approx([paid.mean()])
    assert new["std"] == pytest.approx([paid.std()])
    assert new["q50"] == pytest.approx([np.median(paid)])
    first = paid[: lerobot_sets.LENGTHS[0]]
    if version == "v2.1":
        line = (target / episodes).read_text().splitlines()[0]
        assert json.loads(line)["stats"][REWARD]["max"] == pytest.approx([first.max()])
    else:
        table = parquet.read_table(target / episodes).to_pydict()
        assert table[f"stats/{REWARD}/max"][0] == pytest.approx([first.max()])
        assert table["length"] == list(lerobot_sets.LENGTHS)
    about = json.loads((target / "meta/genreward.json").read_text())
    assert about["rewards"] == [
        {"model": "genreward_wrappers.testing.Brightness brightness"}
    ]
    assert about["source"]["name"] == str(source)
    # As LeRobot's RABCWeights reads it: a score a frame, none at the first.
    table = parquet.read_table(target / "sarm_progress.parquet").to_pydict()
    assert sorted(table["index"]) == list(range(41))
    assert table["progress_sparse"][0] is None
    np.testing.assert_array_equal(table["progress_sparse"][1:12], first[:11])


def test_recordings_of_a_lerobot_dataset_have_actions_and_states(dataset):
    data = rows(dataset, "action", "observation.state")
    length = lerobot_sets.LENGTHS[0]
    for last in (False, True):
        one = from_lerobot(dataset, last=last)[0].read()
        steps = length - 1 + last
        np.testing.assert_array_equal(one.actions, data["action"][:steps])
        states = data["observation.state"][: length + last]
        states[length:] = data["observation.state"][length - 1]
        np.testing.assert_allclose(one.states, states, rtol=1e-6)


def test_a_lerobot_reward_is_added(dataset, tmp_path):
    made = relabel_dataset(dataset, Brightness(), tmp_path / "new", column="brightness")
    found = rows(made.folder, REWARD, "brightness")
    assert (found[REWARD] == 7).all()
    np.testing.assert_allclose(found["brightness"], expected(dataset), rtol=1e-5)
    info = json.loads((made.folder / "meta/info.json").read_text())
    assert info["features"]["brightness"] == {
        "dtype": "float32", "shape": [1], "names": None
    }  # fmt: skip
    path = next((made.folder / "data").rglob("*.parquet"))
    card = json.loads(parquet.read_schema(path).metadata[b"huggingface"])
    assert card["info"]["features"]["brightness"]["dtype"] == "float32"
    means = [float(own.mean()) for own in made.rewards.values()]
    assert made.best(0.5) == sorted(np.argsort(means)[-2:].tolist())
    assert made.best(1) == [0, 1, 2]
    with pytest.raises(ValueError, match="share=0: expected a number above 0"):
        made.best(0)
    with pytest.raises(ValueError, match="has a feature 'action' already"):
        relabel_dataset(dataset, Brightness(), tmp_path / "other", column="action")


class Stops(Brightness):
    """Fails at the third episode, of nine frames."""

    broken = True

    def step(self, memory, t):
        if self.broken and len(t.frames) == 1 and self.counted > 12 + 20:
            raise ValueError("the power is out")
        Stops.counted += 1
        return super().step(memory, t)


def test_an_interrupted_run_resumes(dataset, tmp_path, monkeypatch):
    target = tmp_path / "new"
    Stops.counted = 0
    with pytest.raises(ValueError, match="episode 2: the power is out"):
        relabel_dataset(dataset, Stops(), target)
    assert not target.exists()
    partial = tmp_path / "new.partial"
    assert {p.name for p in partial.iterdir()} == {"run.json", "0.npy", "1.npy"}
    with pytest.raises(ValueError, match=r"was begun with \{'rewards'.*Stops"):
        relabel_dataset(dataset, Brightness(), target)
    for name, other in (("column", "brightness"), ("dtype", "bfloat16"), ("seed", 1)):
        with pytest.raises(
            ValueError, match=rf"begun with \{{'{name}': .*'{name}': .*:"
        ):
            relabel_dataset(dataset, Stops(), target, **{name: other})
    longer = Stops()
    longer.name = "longer"
    with pytest.raises(ValueError, match=r"Stops brightness'.*Stops longer'"):
        relabel_dataset(dataset, longer, target)
    card = dataset / "meta/info.json"
    text = card.read_text()
    card.write_text(text + " ")
    with pytest.raises(ValueError, match=r"was begun with \{'source': "):
        relabel_dataset(dataset, Stops(), target)
    card.write_text(text)
    monkeypatch.setattr(Stops, "broken", False)
    seen = []
    made = relabel_dataset(
        dataset, Stops(), target, on_progress=lambda *x: seen.append(x)
    )
    assert made.resumed == 2
    assert seen == [(2, 3), (3, 3)]
    whole = relabel_dataset(dataset, Brightness(), tmp_path / "whole")
    np.testing.assert_array_equal(
        rows(target, REWARD)[REWARD], rows(whole.folder, REWARD)[REWARD]
    )


def test_the_order_of_scoring_is_not_to_be_seen(dataset, tmp_path, monkeypatch):
    real = Scorer.run
    made = relabel_dataset(dataset, Brightness(), tmp_path / "one")
    monkeypatch.setattr(Scorer, "run", lambda *given: reversed([*real(*given)]))
    other = relabel_dataset(dataset, Brightness(), tmp_path / "other")
    assert [*made.rewards] == [*other.rewards] == [0, 1, 2]
    assert hashes(made.folder) == hashes(other.folder)


def test_what_cannot_be_relabelled(dataset, tmp_path, capsys):
    with pytest.raises(ValueError, match="no dataset that can be relabelled.*no such"):
        relabel_dataset(tmp_path / "nowhere", Brightness(), tmp_path / "x")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    with pytest.raises(ValueError, match="full is there and not empty"):
        relabel_dataset(dataset, Brightness(), full)
    with pytest.raises(ValueError, match="is inside .*, of which it is to be a copy"):
        relabel_dataset(dataset, Brightness(), dataset / "data" / "new")
    with pytest.raises(ValueError, match="the source is no Minari dataset"):
        relabel_dataset(dataset, Brightness(), "minari:a/b-v0")
    film = next((dataset / "videos").rglob("*.mp4"))
    kept = film.read_bytes()
    film.write_bytes(kept[:300])
    with pytest.raises(ValueError, match=r"episode 0: .*does not decode as a video"):
        relabel_dataset(dataset, Brightness(), tmp_path / "x")
    film.write_bytes(kept)
    card = dataset / "meta/info.json"
    text = card.read_text()
    info = json.loads(text)
    info["features"][REWARD]["shape"] = [2]
    card.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"has the shape \[2\]: give .*column="):
        relabel_dataset(dataset, Brightness(), tmp_path / "y")
    card.write_text(text)
    shutil.rmtree(dataset / "data")
    with pytest.raises(ValueError, match="has no tables of data"):
        relabel_dataset(dataset, Brightness(), tmp_path / "y")
    assert not [*tmp_path.glob("y*")], "it is said before anything is scored"
    told = ["relabel", str(dataset), "--output", str(full), "--reward", "pixels"]
    assert main([*told, "--reward", "video"]) == 1
    assert "a dataset has one reward" in capsys.readouterr().err


# Minari


def flat(file, but=()):
    """All arrays and attributes of an HDF5 file."""
    import h5py

    found = {}

    def note(name, item):
        found.update({f"{name}@{k}": str(v) for k, v in item.attrs.items()})
        if hasattr(item, "shape") and name.rpartition("/")[2] not in but:
            found[name] = (str(item.dtype), item[()].tobytes())

    with h5py.File(file) as opened:
        opened.visititems(note)
    return found


def test_minari_rewards_are_those_that_a_wrapper_paid(minari, goal, tmp_path, capsys):  # noqa: F811
    """The command: a dataset recorded without a reward gets what one would have had."""
    goal = goal.with_(videos=np.ascontiguousarray(goal.videos[:, :, :24, :24]))
    goal.save(tmp_path / "goal.safetensors")
    arena = {"size": 24, "horizon": 6}
    bare = RewardModelWrapper(PointMass(**arena), Brightness())
    source, _ = collected(minari, "toy/bare-v0", bare)
    paying = VideoLevelReward(PointMass(**arena), goal, encoder="pixels", horizon=6)
    _, online = collected(minari, "toy/paid-v0", paying)
    to = f"--goal={tmp_path}/goal.safetensors"
    command = ["relabel", "minari:toy/bare-v0", to, "--reward=pixels", "--horizon=6",
               "--quiet"]  # fmt: skip
    assert main([*command, "--output", "minari:toy/new-v0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["episodes"], report["resumed"]) == (3, 0)
    made = minari.load_dataset("toy/new-v0")
    for episode, paid in zip(made.iterate_episodes(), online, strict=True):
        np.testing.assert_array_equal(episode.rewards, paid)
    old = source.storage.data_path / "main_data.hdf5"
    new = made.storage.data_path / "main_data.hdf5"
    assert flat(old, but=("rewards",)) == flat(new, but=("rewards",))
    card = json.loads((made.storage.data_path / "metadata.json").read_text())
    before = json.loads((source.storage.data_path / "metadata.json").read_text())
    about = card.pop("genreward")
    assert about["goals"] == [goal.digest]
    assert about["rewards"][0]["options"] == {"encoder": "pixels"}
    assert card == {**before, "dataset_id": "toy/new-v0"}
    # The other way: beside the reward that is there.
    other = ["--output", f"{tmp_path}/beside", "--column", "video"]
    assert main([*command, *other, "--best", "2"]) == 1
    assert "--best 2.0: expected a number above 0" in capsys.readouterr().err
    assert main([*command, *other, "--best", "0.3"]) == 0
    said = capsys.readouterr().out
    assert "3 episodes" in said
    assert f"mean rewards: [{np.argmax([np.mean(own) for own in online])}]" in said
    beside = minari.MinariDataset(tmp_path / "beside" / "data")
    for one, other, paid in zip(
        beside.iterate_episodes(), source.iterate_episodes(), online, strict=True
    ):
        np.testing.assert_array_equal(one.rewards, other.rewards)
        np.testing.assert_array_equal(one.infos["video"][1:], paid)
        assert np.isnan(one.infos["video"][0])
    assert main([*command, "--output", "minari:toy/new-v0"]) == 1
    assert "is there and not empty" in capsys.readouterr().err
    assert main([*command, "--output", f"{tmp_path}/w", "--weights"]) == 1
    assert "weights are what LeRobot reads" in capsys.readouterr().err


def test_whole_rewards_become_numbers_with_a_point(minari, tmp_path):  # noqa: F811
    class Counting(PointMass):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return (observation, 1, *rest)

    source, _ = collected(minari, "toy/whole-v0", Counting(size=16, horizon=4), 1)
    assert source[0].rewards.dtype.kind == "i"
    made = relabel_dataset("minari:toy/whole-v0", Brightness(), tmp_path / "new")
    again = minari.MinariDataset(made.folder / "data")[0]
    (paid,) = score(find_recordings("minari:toy/whole-v0"), Brightness())
    np.testing.assert_array_equal(again.rewards, paid.rewards)


class Pairs(PointMass):
    """Minari's tables bring back infos that are arrays, but no single numbers."""

    def reset(self, **changes):
        return super().reset(**changes)[0], {"at": self.position}

    def step(self, action):
        return (*super().step(action)[:4], {"at": self.position})


@pytest.mark.parametrize(("kind", "infos"), [("arrow", True), ("parquet", False)])
def test_tables_of_minari(minari, tmp_path, kind, infos):  # noqa: F811
    """Each of its other formats, with infos and without, and pictures as JPEG."""
    tables = pytest.importorskip("pyarrow.dataset")
    options = {"data_format": kind, "record_infos": infos}
    arena = Pairs(size=32, horizon=5)
    source, _ = collected(minari, "toy/bare-v0", arena, 2, **options)
    with pytest.warns(UserWarning, match="keeps its frames as JPEG"):
        paid = score(find_recordings("minari:toy/bare-v0"), Brightness())
    told = ["minari:toy/bare-v0", Brightness()]
    with pytest.warns(UserWarning, match="keeps its frames as JPEG"):
        made = relabel_dataset(*told, "minari:toy/new-v0")
        beside = relabel_dataset(*told, tmp_path / "beside", column="bright")

    def read(folder, number):
        path = folder / "data" / str(number)
        return tables.dataset([*path.glob(f"*.{kind}")], format=kind).to_table()

    for number, one in enumerate(minari.load_dataset("toy/new-v0")):
        np.testing.assert_array_equal(one.rewards, paid[number].rewards)
        before = read(source.storage.data_path.parent, number)
        after = read(made.folder, number)
        assert after.schema == before.schema
        assert after.drop(["rewards"]).equals(before.drop(["rewards"]))
        after = read(beside.folder, number)
        assert after.drop(["infos"]).equals(before.drop(["infos"] * infos))
        found = minari.MinariDataset(beside.folder / "data")[number].infos
        np.testing.assert_array_equal(found.pop("bright")[1:], paid[number].rewards)
        kept = source[number].infos
        assert found.keys() == kept.keys()
        for name, values in kept.items():
            np.testing.assert_array_equal(found[name], values)
    with pytest.raises(ValueError, match="has an info 'bright' already.*another name"):
        relabel_dataset(beside.folder, Brightness(), tmp_path / "b", column="bright")


def test_other_formats_of_minari_are_refused(minari, tmp_path):  # noqa: F811
    source, _ = collected(minari, "toy/a-v0", PointMass(size=16, horizon=4), 1)
    card = source.storage.data_path / "metadata.json"
    text = card.read_text()
    assert "hdf5" in text
    folder = tmp_path / "copy"
    shutil.copytree(source.storage.data_path.parent, folder)
    (folder / "data/metadata.json").write_text(text.replace("hdf5", "zarr"))
    with pytest.raises(ValueError, match="format 'zarr': expected 'hdf5', 'arrow'"):
        relabel_dataset(folder, Brightness(), tmp_path / "new")
    (folder / "data/metadata.json").write_text(text)
    made = relabel_dataset(folder, Brightness(), tmp_path / "new", column="bright")
    with pytest.raises(ValueError, match="has an info 'bright' already.*another name"):
        relabel_dataset(made.folder, Brightness(), tmp_path / "b", column="bright")
