"""Test episodes of one's own: folders of videos, recordings, Minari."""

from __future__ import annotations

from collections import Counter
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers import VideoLevelReward
from genreward_wrappers.data.video_files import write_video
from genreward_wrappers.evaluate.episodes import altered as others
from genreward_wrappers.evaluate.episodes.user_episodes import load_rollouts
from genreward_wrappers.evaluate.judge import run
from genreward_wrappers.goal_pipeline.pack import pack
from genreward_wrappers.testing import PointMass
from tests.evaluate.shared import ENV, H, arena, change, judge, of_kind, same

pytest.importorskip("metaworld")
pytest.importorskip("scipy")


def test_a_folder_of_videos(videos, recorded):
    large = recorded[0].frames.repeat(2, 1).repeat(2, 2).repeat(3, 0)
    write_video(videos / "success" / "film.MP4", large)
    (videos / "success" / "notes.txt").write_text("no video")
    (videos / "README.md").write_text("no folder")
    episodes = load_rollouts(str(videos), frames=9, size=(64, 64))
    kinds = Counter((e.info["kind"], e.succeeded) for e in episodes)
    assert kinds == {("failure", False): 2, ("success", True): 3}
    assert len({e.info["group"] for e in episodes}) == 5
    for episode in episodes:
        assert episode.frames.shape == (9, 64, 64, 3)
        assert len(episode) == 8
        assert episode.rewards == {}
    arrays = [e for e in episodes if e.info["group"].endswith(".npy")]
    np.testing.assert_array_equal(arrays[-1].frames, recorded[1].frames)
    (film,) = (e for e in episodes if e.info["group"].endswith(".MP4"))
    # Video codecs lose a little.
    assert change(film.frames[[0, -1]], recorded[0].frames[[0, -1]]) < 8
    assert {len(e) for e in load_rollouts(str(videos), 17)[:2]} == {16}


def test_a_folder_of_videos_is_judged(videos):
    judged = judge(None, ["pixels"], rollouts=str(videos))
    assert judged.horizon == 8
    assert Counter(e.info["kind"] for e in judged.episodes) == {
        "success": 2,
        "failure": 2,
        **dict.fromkeys(others.ALTERED, 2),
    }
    pixels, env = judged.scored
    assert pixels.verdict is not None
    assert pixels.metrics["auc_mean"].value == 1
    assert all(np.isfinite(paid).all() for paid in pixels.paid)
    assert pixels.confusion is None
    assert env.metrics["auc_mean"].value is None
    assert all(np.isnan(paid).all() for paid in env.paid)


def test_a_video_is_a_goal(videos):
    goal = str(next(videos.glob("success/*.npy")))
    judged = judge(None, ["pixels"], goal=goal, rollouts=str(videos))
    # For the encoder that the rewards look through.
    assert judged.goal == pack([goal], env_id=ENV, encoder=None)
    assert judged.scored[0].metrics["auc_mean"].value == 1


def test_given_episodes_need_no_scripted_policy_and_no_goal(videos):
    judged = run.evaluate("CartPole-v1", ["env"], rollouts=str(videos), resamples=9)
    assert judged.goal is None
    assert [one.contestant.name for one in judged.scored] == ["env"]


def test_given_episodes_of_another_task(videos, recorded):
    (videos / "other-task").mkdir()
    for i, episode in enumerate(of_kind(recorded, "other-task")[:2]):
        np.save(videos / "other-task" / f"{i}.npy", episode.frames)
    judged = judge(None, ["pixels"], rollouts=str(videos))
    # Nobody said which task it is, so it cannot be a goal either.
    assert len(of_kind(judged.episodes, "other-task")) == 2
    assert judged.scored[0].confusion is None


def test_recorded_episodes_are_judged_as_they_were_paid(goal, tmp_path):
    wrap = partial(VideoLevelReward, goal=goal, encoder="pixels", horizon=H)
    episodes, _ = arena(wrap, tmp_path)
    assert (tmp_path / "goal.safetensors").is_file()
    judged = run.evaluate(
        "toy/square",
        ["pixels"],
        tmp_path / "goal.safetensors",
        rollouts=str(tmp_path),
        frames=H + 1,
        device="cpu",
        resamples=9,
    )
    kinds = [e.info["kind"] for e in judged.episodes]
    assert kinds == ["success", "failure", "success", *others.ALTERED * 2]
    for one, name in zip(judged.scored, ("video", "env"), strict=True):
        for paid, episode in zip(one.paid, episodes, strict=False):
            np.testing.assert_array_equal(paid, episode.rewards[name])


def test_sparse_episodes_that_end_early(goal, tmp_path):
    """Played backwards they would need frames that nobody kept."""
    wrap = partial(VideoLevelReward, goal=goal, encoder="pixels", horizon=H, length=9)
    episodes, _ = arena(wrap, tmp_path)
    assert episodes[0].frame_steps[-1] < len(episodes[0])
    judged = run.evaluate(
        "toy/square",
        ["pixels"],
        goal,
        rollouts=str(tmp_path),
        frames=9,
        device="cpu",
        resamples=9,
    )
    assert len(of_kind(judged.episodes, "shifted")) == 2
    for paid, episode in zip(judged.scored[0].paid, episodes, strict=False):
        np.testing.assert_array_equal(paid, episode.rewards["video"])


def test_recorded_kinds_are_kept(recorded, tmp_path):
    for i, episode in enumerate(recorded[:4]):
        episode.save(tmp_path / f"{i}.safetensors")
    again = load_rollouts(str(tmp_path))
    assert all(map(same, again, recorded[:4]))
    assert {e.info["kind"] for e in again} == {"success", "near-miss", "half-way"}


def save_videos(folder, frames=20, size=(64, 64)):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / "0.npy", rng.integers(0, 256, (frames, *size, 3)).astype(np.uint8))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, r"neither recorded episodes.*nor folders such as \"success\".*\.mp4"),
        ({"success": {}}, r"1 of its 1 episodes.*\['success'\].*give both"),
        (
            {"failure": {}, "static": {}},
            r"0 of its 2 episodes.*\['failure', 'static'\]",
        ),
        (
            {"success": {}, "fail": {}},
            r"'fail' is no kind.*failure, success, near-miss",
        ),
        ({"success": {}, "reversed": {}}, r"'reversed' is no kind"),
        ({"success": {"frames": 8}, "failure": {}}, r"0\.npy has 8 frames.*at least 9"),
        ({"success": {}, "failure": {"size": (32, 32)}}, r"0\.npy.*32x32.*enlarge"),
        ({"success": {}, "failure": {"size": (64, 96)}}, r"0\.npy.*64x96.*aspect"),
    ],
    ids=["empty", "won", "lost", "unknown", "derived", "short", "small", "wide"],
)
def test_folders_that_will_not_do(folders, message, tmp_path):
    for name, how in folders.items():
        save_videos(tmp_path / name, **how)
    with pytest.raises(ValueError, match=message):
        load_rollouts(str(tmp_path), 9, (64, 64))


def test_no_folder_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder.*minari:"):
        load_rollouts(str(tmp_path / "nowhere"))
    (tmp_path / "episode-0.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"episode-0\.safetensors is no safetensors"):
        load_rollouts(str(tmp_path))


def minari_buffer(target, with_reset, key="is_success"):
    """One episode in the arena, as minari's collector keeps it."""
    from minari.data_collector import EpisodeBuffer

    env = PointMass(size=64, horizon=12)
    places = {"position": [0, 0], "target": target}
    observation, _ = env.reset(seed=0, options=places)
    kept = {name: [] for name in ("actions", "rewards", "terminations", "truncations")}
    observations, flags = [observation], [False] if with_reset else []
    done = False
    while not done:
        action = np.array([1, 0], np.float32)
        observation, *rest, info = env.step(action)
        observations.append(observation)
        flags.append(info["is_success"])
        for part, value in zip(kept.values(), (action, *rest), strict=True):
            part.append(value)
        done = rest[1] or rest[2]
    return EpisodeBuffer(observations=observations, infos={key: flags}, **kept)


def minari_dataset(minari, name, buffers, space):
    minari.create_dataset_from_buffers(
        dataset_id=name,
        buffer=buffers,
        observation_space=space,
        action_space=gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
        algorithm_name="none",
        author="nobody",
        author_email="nobody",
        code_permalink="none",
        description="two episodes",
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari(small_goal, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    space = PointMass(size=64).observation_space
    for with_reset in (True, False):
        name = f"toy/point-v{int(with_reset)}"
        # Success ends an episode.
        targets = ([0.5, 0], [-0.8, 0])
        buffers = [minari_buffer(target, with_reset) for target in targets]
        minari_dataset(minari, name, buffers, space)
        won, lost = load_rollouts(f"minari:{name}")
        assert (won.info["kind"], lost.info["kind"]) == ("success", "failure")
        assert won.success.tolist() == [False, False, False, False, True][-len(won) :]
        assert won.terminated
        assert not lost.terminated
        assert len(lost) == 12
        for episode, buffer in zip((won, lost), buffers, strict=True):
            assert episode.frames.shape == (len(episode) + 1, 64, 64, 3)
            assert change(episode.frames, np.array(buffer.observations)) < 8
            np.testing.assert_allclose(episode.rewards["env"], buffer.rewards)
            np.testing.assert_array_equal(episode.actions, buffer.actions)
    judged = run.evaluate(
        "toy/point",
        ["pixels"],
        small_goal,
        rollouts="minari:toy/point-v1",
        frames=13,
        device="cpu",
        resamples=9,
    )
    assert judged.horizon == 12
    assert [len(p) for p in judged.scored[0].paid[:2]] == [len(won), 12]
    assert judged.scored[1].metrics["auc_mean"].value is not None
    silent = [minari_buffer(target, True, "luck") for target in targets]
    minari_dataset(minari, "toy/silent-v0", silent, space)
    with pytest.raises(ValueError, match=r'"success" or "is_success".*luck'):
        load_rollouts("minari:toy/silent-v0")
    with pytest.raises(OSError, match="none-v0"):
        load_rollouts("minari:toy/none-v0")
    blind = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    for buffer in buffers:
        buffer.observations[:] = [np.zeros(4, np.float32)] * len(buffer.observations)
    minari_dataset(minari, "toy/blind-v0", buffers, blind)
    with pytest.raises(ValueError, match=r"uint8 RGB pictures.*found 0.*float32"):
        load_rollouts("minari:toy/blind-v0")
