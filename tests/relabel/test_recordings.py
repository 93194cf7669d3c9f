"""Episodes from wherever they were recorded, and what is no recording."""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from genreward_wrappers import RewardModelWrapper
from genreward_wrappers.data.video_files import write_video
from genreward_wrappers.relabel import (
    find_recordings,
    from_buffer,
    from_lerobot,
    from_minari,
    score,
)
from genreward_wrappers.testing import Brightness, PointMass, Traveller
from tests import lerobot_sets
from tests.relabel.recorded import arena

#: Minari's collector leaves its temporary folders to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def film(frames=5, size=(32, 32)):
    rng = np.random.default_rng(frames)
    return rng.integers(0, 256, (frames, *size, 3)).astype(np.uint8)


# Files


def test_videos_of_every_kind(tmp_path):
    frames = film()
    np.save(tmp_path / "b.npy", frames)
    write_video(tmp_path / "a.mp4", frames, 12.5)
    (tmp_path / "notes.txt").write_text("not a video")
    first, second = find_recordings(tmp_path)
    assert (first.name, first.fps) == (str(tmp_path / "a.mp4"), 12.5)
    assert (second.number, second.fps) == (1, None)
    np.testing.assert_array_equal(second.read().frames, frames)
    assert first.read().frames.shape == frames.shape
    (one,) = find_recordings(tmp_path / "b.npy")
    assert len(one.read()) == 4


def test_a_folder_of_pictures_is_one_video(tmp_path):
    from PIL import Image

    frames = film()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame-{i:03d}.png")
    (one,) = find_recordings(tmp_path)
    np.testing.assert_array_equal(one.read().frames, frames)
    Image.fromarray(frames[0, :20]).save(tmp_path / "frame-009.png")
    with pytest.raises(ValueError, match=r"frame-009.png is 20x32.*frame-000.png is"):
        one = find_recordings(tmp_path)[0].read()
    (tmp_path / "frame-009.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"frame-009.png is no picture"):
        find_recordings(tmp_path)[0].read()


def test_episodes_that_a_wrapper_recorded(goal, tmp_path):
    wrap = partial(RewardModelWrapper, model=Brightness(), record=tmp_path)
    _, online = arena(wrap, count=2)
    # Beside them lies what they were rewarded for.
    goal.save(tmp_path / "goal.safetensors")
    found = score(find_recordings(tmp_path), Brightness())
    for scored, paid in zip(found, online, strict=True):
        np.testing.assert_array_equal(scored.rewards, paid)


def test_what_is_no_recording(tmp_path):
    with pytest.raises(ValueError, match="there is no .*nowhere.*minari:"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no recorded episodes.*no videos.*png"):
        find_recordings(tmp_path)
    np.save(tmp_path / "a.npy", film())
    with pytest.raises(ValueError, match="camera='top'.*no dataset"):
        find_recordings(tmp_path, "top")
    (tmp_path / "b.mp4").write_bytes(b"no video at all")
    broken = find_recordings(tmp_path)[1]
    assert broken.fps is None
    with pytest.raises(ValueError, match=r"b\.mp4 does not decode"):
        score([broken], Brightness())
    np.save(tmp_path / "c.npy", film(1))
    with pytest.raises(ValueError, match=r"c\.npy: .*at least 2 frames"):
        score(find_recordings(tmp_path / "c.npy"), Brightness())


# LeRobot


def test_a_lerobot_dataset(tmp_path):
    lerobot_sets.write_dataset(tmp_path, kind="image", cameras=lerobot_sets.CAMERAS)
    with pytest.raises(ValueError, match="several cameras"):
        find_recordings(tmp_path)
    found = find_recordings(tmp_path, "wrist")
    assert [one.fps for one in found] == [lerobot_sets.FPS] * 3
    for number, one in enumerate(found):
        episode = one.read()
        frames = lerobot_sets.film(number, 1, lerobot_sets.LENGTHS[number])
        np.testing.assert_array_equal(episode.frames, frames)
        assert len(episode) == len(frames) - 1
    last = from_lerobot(tmp_path, "wrist", last=True)[0].read()
    assert len(last) == lerobot_sets.LENGTHS[0]
    np.testing.assert_array_equal(last.frames[-1], last.frames[-2])


# Minari


@pytest.fixture
def minari(tmp_path, monkeypatch):
    found = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return found


def collected(minari, name, env, episodes=3, **options):
    """A dataset that minari's own collector made, and what was paid meanwhile."""
    collector = minari.DataCollector(env, **options)
    online = []
    for seed in range(episodes):
        collector.reset(seed=seed)
        collector.action_space.seed(seed)
        paid, over = [], False
        while not over:
            *_, reward, ended, cut, _ = collector.step(collector.action_space.sample())
            paid, over = [*paid, reward], ended or cut
        online.append(paid)
    dataset = collector.create_dataset(name)
    collector.close()
    return dataset, online


def test_a_minari_dataset(minari):
    env = RewardModelWrapper(PointMass(size=24, obs="dict", horizon=6), Brightness())
    dataset, online = collected(minari, "toy/arena-v0", env)
    with warnings.catch_warnings():
        # Such small pictures are kept as they are.
        warnings.simplefilter("error")
        found = score(find_recordings("minari:toy/arena-v0"), Brightness())
    for scored, paid in zip(found, online, strict=True):
        np.testing.assert_array_equal(scored.rewards, paid)
    one = from_minari(dataset)[0].read()
    assert one.states.shape == (len(one) + 1, 4)
    np.testing.assert_array_equal(one.rewards["env"], online[0])
    # By its folder as well.
    folder = dataset.storage.data_path.parent
    assert len(find_recordings(folder)) == 3


def test_what_a_minari_dataset_says_of_itself():
    """Of a stand-in, since its collector makes no such datasets at once."""
    pictures = {name: film(4, (8, 8)) // n for n, name in enumerate(["top", "side"], 1)}
    episode = SimpleNamespace(
        observations=pictures, actions=np.ones((3, 2)), rewards=[1.0, 2.0, 3.0],
        terminations=[False, False, True],
    )  # fmt: skip
    data = SimpleNamespace(
        spec=SimpleNamespace(
            dataset_id="toy/said-v0",
            env_spec=SimpleNamespace(id="metaworld/reach", max_episode_steps=7),
        ),
        action_space="space", episode_indices=[4], storage=None,
        iterate_episodes=lambda numbers: iter([episode] * (numbers == [4])),
    )  # fmt: skip
    (one,) = from_minari(data, "side")
    assert (one.name, one.number) == ("minari:toy/said-v0, episode 4", 4)
    assert one.about == {
        "action_space": "space", "env_id": "metaworld/reach", "horizon": 7,
        "camera": "side",
    }  # fmt: skip
    found = one.read()
    np.testing.assert_array_equal(found.frames, pictures["side"])
    assert found.terminated
    assert found.rewards["env"].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="episode 4: expected one entry.*found 2"):
        from_minari(data)[0].read()


def test_frames_that_minari_compressed_are_noticed(minari):
    env = RewardModelWrapper(PointMass(size=32, horizon=6), Brightness())
    dataset, online = collected(minari, "toy/lossy-v0", env)
    with pytest.warns(
        UserWarning, match="toy/lossy-v0 keeps its frames as JPEG"
    ) as told:
        found = score(from_minari(dataset), Brightness())
    assert len(told) == 1, "once a dataset"
    assert any((s.rewards != paid).any() for s, paid in zip(found, online, strict=True))
    for scored, paid in zip(found, online, strict=True):
        np.testing.assert_allclose(scored.rewards, paid, atol=0.01)


def test_a_minari_dataset_without_loss(minari):
    env = RewardModelWrapper(PointMass(size=32, horizon=6), Brightness())
    try:
        dataset, online = collected(minari, "toy/raw-v0", env, jpeg_encoding=False)
    except TypeError:
        pytest.skip("this minari always compresses")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(from_minari(dataset), Brightness())
    for scored, paid in zip(found, online, strict=True):
        np.testing.assert_array_equal(scored.rewards, paid)


def test_a_minari_dataset_without_frames(minari):
    env = RewardModelWrapper(PointMass(obs="state", render_mode="rgb_array", horizon=3),
                             Brightness())  # fmt: skip
    dataset, _ = collected(minari, "toy/blind-v0", env, episodes=1)
    with pytest.raises(ValueError, match=r"episode 0: expected one entry of uint8 RGB"):
        score(from_minari(dataset), Brightness())


# Replay buffers


@pytest.mark.parametrize("obs", ["pixels", "dict"])
def test_a_replay_buffer(obs):
    from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
    from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

    from genreward_wrappers.sb3 import VecRewardModel

    make = partial(PointMass, size=36, obs=obs, horizon=5)
    envs = VecRewardModel(DummyVecEnv([make] * 2), Traveller(), frames="auto")
    envs = VecTransposeImage(envs)
    kind = ReplayBuffer if obs == "pixels" else DictReplayBuffer
    space = envs.action_space
    buffer = kind(60, envs.observation_space, space, n_envs=2, device="cpu")
    with pytest.raises(ValueError, match="replay buffer is empty"):
        from_buffer(buffer)
    envs.seed(0)
    before = envs.reset()
    space.seed(0)
    paid = []
    for _ in range(23):
        actions = np.stack([space.sample() for _ in range(2)])
        after, rewards, dones, infos = envs.step(actions)
        ends = after
        for row in np.flatnonzero(dones):
            last = infos[row]["terminal_observation"]
            if obs == "dict":
                ends = {key: value.copy() for key, value in ends.items()}
                for key, value in last.items():
                    ends[key][row] = value
            else:
                ends = ends.copy()
                ends[row] = last
        buffer.add(before, ends, actions, rewards, dones, infos)
        paid.append(rewards)
        before = after
    found = from_buffer(buffer)
    assert isinstance(found[0].about["action_space"], spaces.Box)
    scored = score(found, Traveller(), seed=0)
    # The first episode of the first environment was seeded with 0.
    first = scored[0].rewards
    np.testing.assert_allclose(first, np.array(paid)[: len(first), 0], rtol=1e-5)
    assert sum(len(one.rewards) for one in scored) == 46


def test_a_full_replay_buffer_begins_in_the_middle():
    """Twelve steps of episodes of three, of which the last eight are kept."""
    from stable_baselines3.common.buffers import ReplayBuffer

    pictures = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    buffer = ReplayBuffer(8, pictures, spaces.Box(2, 6, (1,)), device="cpu")
    for step in range(12):
        last = step % 3 == 2
        coming = 10 * step + (1 if last else 10)
        before, after = (np.full((1, 8, 8, 3), n) for n in (10 * step, coming))
        cut = {"TimeLimit.truncated": step == 8}
        scaled = np.full((1, 1), step / 11 * 2 - 1)
        buffer.add(before, after, scaled, np.array([step]), np.array([last]), [cut])
    third, fourth = (one.read() for one in from_buffer(buffer))
    assert third.frames[:, 0, 0, 0].tolist() == [60, 70, 80, 81]
    assert fourth.frames[:, 0, 0, 0].tolist() == [90, 100, 110, 111]
    assert (third.terminated, fourth.terminated) == (False, True)
    assert third.rewards["env"].tolist() == [6, 7, 8]
    # As the environment took them, between 2 and 6.
    np.testing.assert_allclose(fourth.actions[:, 0], 2 + 4 * np.array([9, 10, 11]) / 11,
                               rtol=1e-6)  # fmt: skip
