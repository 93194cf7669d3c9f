"""The small S3D in ``models/``: that it loads, and that its scores mean something.

It is held to goal videos, of seeds that it was not trained on; ``models/s3d-64.json``
says how well it does on held-out episodes. The bars below were set when the numbers
were known: they guard the file, and are no evidence of how good it is.
"""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from genreward_wrappers import TapFrames, load_goal, load_reward
from genreward_wrappers.core import Session
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.encoders.s3d import S3D, S3DEncoder, load_s3d
from genreward_wrappers.envs.stages import sentences
from tests.beside import MODELS, TASKS, needs_models

WEIGHTS = MODELS / "s3d-64.safetensors"

pytestmark = needs_models


@pytest.fixture(scope="module")
def encoder():
    return load_s3d(WEIGHTS, device="cpu")


def untrained(encoder, seed):
    """The same network as it was before training, with statistics of these videos.

    With those of a new network it would say the same of everything.
    """
    torch.manual_seed(seed)
    model = S3D(encoder.config)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.momentum = None
    for task in TASKS:
        videos = torch.from_numpy(goal_videos(task)).float() / 255
        with torch.no_grad():
            model(videos.permute(0, 4, 1, 2, 3))
    words = list(encoder._rows)
    return S3DEncoder(model, encoder.config, words, size=(64, 64), device="cpu")


def goal_videos(task):
    """(4, 32, H, W, 3) some of a task's, of 17 frames, at 32."""
    videos = load_goal(task).videos[:4]
    return videos[:, evenly(32, videos.shape[1] - 1)]


def paid(weights, prompt, frames):
    """(N,) what episodes earn that look like videos (N, 32, H, W, 3)."""
    model = load_reward("roboclip", prompt=prompt, weights=weights, horizon=31)
    session = Session([model], len(frames))
    session.begin(frames[:, 0])
    no, nothing = np.zeros(len(frames), bool), np.zeros(len(frames))
    for step in range(1, 32):
        score = session.score(nothing, frames[:, step], no, no)["roboclip"]
    assert score.due.all()
    return score.value


def own_sentence_is_best(encoder):
    """The share of goal videos that fit their own task's last stage best of all."""
    ends = sorted({sentences(task)[-1] for task in TASKS})
    said = encoder.encode_texts(ends)
    shares = []
    for task in TASKS:
        fit = encoder.encode_videos(goal_videos(task)) @ said.T
        own = ends.index(sentences(task)[-1])
        shares.append(float((fit.argmax(1) == own).float().mean()))
    return np.mean(shares)


def test_it_says_what_it_is():
    about = json.loads(WEIGHTS.with_suffix(".json").read_text())
    low, high = about["seeds"]
    # Goals, held-out and test episodes and learning runs have other seeds.
    assert 5_000_000 <= low <= high < 5_900_000
    assert about["steps"] > 0
    assert about["trained"]["auc"] > about["untrained"]["auc"]
    assert WEIGHTS.stat().st_size <= 1_200_000


def test_it_loads_at_its_own_size(encoder):
    assert encoder.pictures.size == (64, 64)
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
    options = {"prompt": "the drawer is shut", "weights": WEIGHTS, "horizon": 9}
    for size in ({}, {"size": 64}):
        model = load_reward("roboclip", **options, **size, device="cpu")
        assert model.encoder.pictures.size == (64, 64)
    model = load_reward("roboclip", **options, size=32, device="cpu")
    assert model.encoder.pictures.size == (32, 32)


def test_it_knows_the_words_of_its_tasks_and_no_others(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for task in TASKS:
            encoder.encode_texts([*sentences(task), load_goal(task).prompt])
    with pytest.warns(UserWarning, match="does not know 'eats' in"):
        encoder.encode_texts("the robot arm eats the drawer")


def test_a_video_of_the_task_earns_more_than_its_first_frame(encoder):
    better = []
    for task in TASKS:
        videos = goal_videos(task)
        stills = np.repeat(videos[:, :1], 32, 1)
        end = sentences(task)[-1]
        moved, still = (paid(encoder, end, frames) for frames in (videos, stills))
        better.append((moved > still).mean())
    # That something moves is enough for this: some networks that were never trained
    # reach as much by chance, others the opposite.
    assert np.mean(better) >= 0.9


def test_videos_find_their_own_task(encoder):
    """Nine sentences to choose from: this nothing does that was not trained."""
    assert own_sentence_is_best(encoder) >= 0.7
    for seed in range(2):
        assert own_sentence_is_best(untrained(encoder, seed)) <= 0.3


def test_an_agent_trains_on_it():
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

    from genreward_wrappers.sb3 import VecRewardModel
    from genreward_wrappers.testing import PointMass

    def env():
        inner = PointMass(size=64, obs="state", horizon=25, render_mode="rgb_array")
        return TapFrames(inner, size=64)

    model = load_reward(
        "roboclip", prompt="the puck is at the goal", weights=WEIGHTS, horizon=25,
        device="cpu",
    )  # fmt: skip
    venv = VecMonitor(VecRewardModel(DummyVecEnv([env] * 2), model))
    agent = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0, device="cpu")
    agent.learn(500)
    assert agent.num_timesteps >= 500
    returns = [episode["r"] for episode in agent.ep_info_buffer]
    assert len(returns) >= 20
    assert np.isfinite(returns).all()
    assert np.ptp(returns) > 0, "what the agent does is seen"
