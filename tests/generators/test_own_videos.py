"""A video as the goal of a wrapper: packed on the way, in every host."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from genreward_wrappers import (
    GenRewardWrapper,
    GoalError,
    RewardSpec,
    VideoLevelReward,
    load_encoder,
    vector,
)
from genreward_wrappers.data.video_files import is_videos
from genreward_wrappers.generators.own_videos import (
    load_or_pack,
    pack,
    pack_on_the_way,
)
from genreward_wrappers.rewards.spec import encoder_of_videos
from genreward_wrappers.testing import PointMass

#: Weights that a reward can be spelled with.
S3D = Path(__file__).parents[2] / "models/s3d-64.safetensors"


def film(path, frames=20, size=(64, 64)):
    """A bright column that moves to the right."""
    video = np.full((frames, *size, 3), 30, np.uint8)
    for t, frame in enumerate(video):
        frame[:, 2 * t : 2 * t + 16] = (200, 120, 40)
    np.save(path, video)
    return video


def rewards(env):
    env.reset(seed=0)
    env.action_space.seed(0)
    return [env.step(env.action_space.sample())[1] for _ in range(4)]


@pytest.fixture
def videos(tmp_path):
    paths = [tmp_path / "one.npy", tmp_path / "two.npy"]
    film(paths[0])
    film(paths[1], frames=30)
    return paths


def test_what_is_taken_for_videos():
    assert is_videos("a.mp4")
    assert is_videos(["a.mp4", "b.GIF"])
    for other in ("goal.safetensors", "metaworld/reach", [], None, {}, ["a.mp4", "b"]):
        assert not is_videos(other), other


@pytest.mark.parametrize("several", [False, True])
def test_every_host_takes_a_video(videos, several):
    from stable_baselines3.common.vec_env import DummyVecEnv

    from genreward_wrappers.sb3 import VecVideoLevelReward

    goal = [*videos] if several else str(videos[0])
    options = {"encoder": "pixels", "horizon": 10}
    packed = pack(videos if several else videos[:1], encoder=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = VideoLevelReward(PointMass(), goal, **options)
    expected = rewards(VideoLevelReward(PointMass(), packed, **options))
    assert rewards(env) == expected
    assert env.session.models[0].goal == packed
    assert len(packed.videos) == 1 + several
    spec = RewardSpec("video", {"encoder": "pixels"}, goal=goal)
    again = RewardSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert rewards(VideoLevelReward(PointMass(), reward=again, horizon=10)) == expected
    envs = vector.VideoLevelReward(SyncVectorEnv([PointMass]), goal, **options)
    assert envs.session.models[0].goal == packed
    envs = VecVideoLevelReward(DummyVecEnv([PointMass]), goal, **options)
    assert envs.session.models[0].goal == packed


def test_the_environment_remembers_the_video(videos):
    where = "genreward_wrappers.testing:PointMass"
    gym.register("test/Square-v0", where, max_episode_steps=10)
    try:
        env = VideoLevelReward(gym.make("test/Square-v0"), videos, encoder="pixels")
        again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
        assert rewards(again) == rewards(env)
    finally:
        del gym.registry["test/Square-v0"]


def test_it_is_packed_for_the_encoder(videos):
    encoder = load_encoder("pixels", device="cpu", size=(32, 32))
    goal = pack_on_the_way(videos[0], "x", encoder)
    assert goal.frame_size == (32, 32)
    assert goal.encoder == {}
    assert pack_on_the_way(videos[0], "x", encoder) is goal
    film(videos[0], frames=25)
    assert pack_on_the_way(videos[0], "x", encoder) != goal, "the file is another"


def test_the_embedded_encoder_and_what_pack_says_of_it(videos):
    with pytest.warns(UserWarning, match="has never seen any of 'toy/Square-v0'"):
        goal = pack_on_the_way(videos[0], "toy/Square-v0")
    assert goal.encoder["source"] == "embedded:video-vae-64"
    assert goal == pack(videos[:1], env_id="toy/Square-v0")


@pytest.mark.parametrize(
    ("rewards", "encoder"),
    [
        (["pixels"], "pixels"),
        (["pixels:score=motion", "env", "vlm-rm:prompt=cup,alpha=0"], "pixels"),
        (["genreward", "pixels"], None),
        (["random", "pixels"], None),
        (
            ["pixels", "video:encoder=open_clip:ViT-B-32/openai"],
            "open_clip:ViT-B-32/openai",
        ),
        ([f"roboclip:prompt=cup,weights={S3D}", "env"], None),
        ([], None),
    ],
)
def test_the_encoder_that_rewards_share(rewards, encoder):
    assert encoder_of_videos(map(RewardSpec.parse, rewards)) == encoder


def test_a_goal_or_a_video(videos, tmp_path):
    goal = load_or_pack(videos[0], "toy/Square-v0", "pixels")
    assert goal == pack(videos[:1], env_id="toy/Square-v0", encoder=None)
    goal.save(tmp_path / "goal.safetensors")
    assert load_or_pack(tmp_path / "goal.safetensors") == goal
    assert load_or_pack(None, "metaworld/reach").env_id == "metaworld/reach"


def test_videos_that_are_no_goal(tmp_path):
    with pytest.raises(GoalError, match="there is no video at .*nowhere.mp4"):
        GenRewardWrapper(PointMass(), tmp_path / "nowhere.mp4", horizon=5)
    film(tmp_path / "wide.npy", size=(64, 96))
    with pytest.raises(GoalError, match="64x96.*another aspect ratio"):
        VideoLevelReward(PointMass(), tmp_path / "wide.npy", encoder="pixels")
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(GoalError, match="does not decode as a video"):
        VideoLevelReward(PointMass(), tmp_path / "broken.mp4", encoder="pixels")
