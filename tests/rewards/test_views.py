"""Several cameras: each view is paid as a wrapper on it alone would pay it."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from genreward_wrappers import (
    GenRewardWrapper,
    GoalBundle,
    GoalError,
    RewardModelWrapper,
    VideoLevelReward,
    describe,
    vector,
)
from genreward_wrappers.cli.main import main
from genreward_wrappers.data.files import FileError
from genreward_wrappers.data.views import join_views, split_views
from genreward_wrappers.goal_pipeline.pack import pack, pack_views
from genreward_wrappers.relabel import as_episode, find_recordings, from_frames, score
from genreward_wrappers.rewards.views import View, view_shares
from genreward_wrappers.sb3 import VecVideoLevelReward
from genreward_wrappers.testing import PointMass, Traveller, check_reward_model
from tests import lerobot_sets
from tests.relabel.recorded import SIZE, with_nets

HORIZON = 8
FRAMES = {"wrist": "obs:near", "front": "obs:far"}
OPTIONS = {"horizon": HORIZON, "encoder": "pixels:4", "other_task": True}


class TwoCameras(gym.ObservationWrapper):
    """The arena from above, and the same upside down, beside the state."""

    def __init__(self, size=16, near=None):
        super().__init__(PointMass(size, obs="dict", horizon=HORIZON))
        far = self.env.observation_space["pixels"]
        near = spaces.Box(0, 255, (near or size, size, 3), np.uint8)
        state = self.env.observation_space["state"]
        self.observation_space = spaces.Dict(far=far, near=near, state=state)

    def observation(self, observation):
        far, state = observation["pixels"], observation["state"]
        return {"far": far, "near": 255 - far[::-1], "state": state}


def film(seed, frames=9, size=16):
    shape = (frames, size, size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def goals():
    made = {"front": pack([film(0), film(1)], size=16, encoder=None)}
    made["wrist"] = pack([film(2), film(3)], size=16, encoder=None)
    return {view: goal.with_(camera=view) for view, goal in made.items()}


@pytest.fixture(scope="module")
def goal(goals):
    return join_views(goals)


def wrapped(goal, env=None, cls=VideoLevelReward, **options):
    return cls(env or TwoCameras(), goal, **{"frames": FRAMES, **OPTIONS, **options})


def play(env, steps=HORIZON, seed=3):
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        _, reward, *_, info = env.step(rng.uniform(-1, 1, 2).astype(np.float32))
        found.append((reward, info))
    return found


def test_each_view_pays_what_it_pays_alone(goal, goals):
    both = play(wrapped(goal))
    weighted = play(wrapped(goals, view_weights={"front": 3, "wrist": 1}))
    alone = {
        view: play(wrapped(goals[view], frames=source))
        for view, source in FRAMES.items()
    }
    for step in range(HORIZON):
        own = {view: alone[view][step][0] for view in FRAMES}
        for paid, share in ((both, 0.5), (weighted, 0.75)):
            reward, info = paid[step]
            assert info["reward_video_front"] == own["front"]
            assert info["reward_video_wrist"] == own["wrist"]
            assert reward == share * own["front"] + (1 - share) * own["wrist"]
            assert info["weight_video_front"] == share
    assert len({reward for reward, _ in both}) > 2
    assert {"goal_index_front", "goal_index_wrist"} <= {*both[0][1]}


def test_both_levels_pay_in_each_view(tmp_path):
    both = {
        view: with_nets(pack([film(seed, size=SIZE)], size=SIZE, encoder=None))
        for seed, view in enumerate(FRAMES)
    }
    told = {"horizon": HORIZON, "other_task": True, "record": tmp_path}
    env = GenRewardWrapper(TwoCameras(SIZE), both, frames=FRAMES, **told)
    assert {*env.weights} == {
        "env", *(f"{part}_{view}" for view in FRAMES for part in ("video", "frame"))
    }  # fmt: skip
    paid, total = play(env), np.zeros(HORIZON)
    for view, source in FRAMES.items():
        alone = play(
            GenRewardWrapper(TwoCameras(SIZE), both[view], frames=source, **told)
        )
        for part in ("video", "frame"):
            own = [info[f"reward_{part}_{view}"] for _, info in paid]
            assert own == [info[f"reward_{part}"] for _, info in alone]
        total += [reward / 2 for reward, _ in alone]
    np.testing.assert_allclose([reward for reward, _ in paid], total, rtol=1e-12)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_inside_equals_outside(goal, mode):
    """Over two episodes, the second of which begins as the mode has it."""
    inside = SyncVectorEnv([partial(wrapped, goal)] * 2, autoreset_mode=mode)
    outside = vector.VideoLevelReward(
        SyncVectorEnv([TwoCameras] * 2, autoreset_mode=mode),
        goal,
        frames=FRAMES,
        **OPTIONS,
    )
    paid = []
    for envs in (inside, outside):
        rng, rewards = np.random.default_rng(0), []
        envs.reset(seed=4)
        ended = np.zeros(2, bool)
        for _ in range(2 * HORIZON):
            if mode == AutoresetMode.DISABLED and ended.any():
                envs.reset(options={"reset_mask": ended})
            _, reward, over, cut, _ = envs.step(rng.uniform(-1, 1, (2, 2)))
            ended = over | cut
            rewards.append(reward)
        paid.append(rewards)
    np.testing.assert_array_equal(*paid)
    if mode == AutoresetMode.SAME_STEP:
        venv = VecVideoLevelReward(
            DummyVecEnv([TwoCameras] * 2), goal, frames=FRAMES, **OPTIONS
        )
        venv.seed(4)
        venv.reset()
        rng = np.random.default_rng(0)
        steps = [venv.step(rng.uniform(-1, 1, (2, 2))) for _ in range(2 * HORIZON)]
        np.testing.assert_array_equal(
            [reward for _, reward, *_ in steps], np.float32(paid[0])
        )


def test_a_model_as_an_object_sees_what_its_view_shows():
    model = View(Traveller(), "wrist", FRAMES)
    check_reward_model(model, size=(16, 32))
    seen = play(RewardModelWrapper(TwoCameras(), model, frames=FRAMES))
    alone = play(RewardModelWrapper(TwoCameras(), Traveller(), frames="obs:near"))
    assert [reward for reward, _ in seen] == [reward for reward, _ in alone]
    assert "reward_traveller_wrist" in seen[0][1]
    with pytest.raises(ValueError, match="'side': expected one of"):
        View(Traveller(), "side", FRAMES)


def test_a_saved_state_resumes(goal, goals, tmp_path):
    env, again = wrapped(goal), wrapped(goals)
    play(env, steps=3)
    env.save_state(tmp_path / "state.safetensors")
    actions = np.random.default_rng(1).uniform(-1, 1, (3, 2))
    rest = [env.step(action)[1] for action in actions]
    # Goals that came one by one are the same goals.
    play(again, steps=3)
    again.session.begin(again.snapshot().frames, seed=0)
    again.load_state(tmp_path / "state.safetensors")
    assert [again.step(action)[1] for action in actions] == rest
    other = wrapped({**goals, "wrist": goals["front"]})
    other.reset()
    with pytest.raises(FileError, match="is the state of the models"):
        other.load_state(tmp_path / "state.safetensors")


def test_the_arguments_make_it_again(goal, tmp_path):
    goal.save(tmp_path / "goal.safetensors")
    env = wrapped(
        str(tmp_path / "goal.safetensors"), view_weights={"front": 1, "wrist": 0}
    )
    assert env._saved_kwargs["frames"] == FRAMES
    again = VideoLevelReward(TwoCameras(), **env._saved_kwargs)
    assert again.weights == env.weights
    said = str(describe(env))
    assert "observation['far'] beside observation['near']" in said


def test_what_was_recorded_is_paid_alike(goal, tmp_path):
    env = wrapped(goal, record=tmp_path / "seen")
    online = [reward for reward, _ in play(env)]
    recordings = find_recordings(tmp_path / "seen")
    (paid,) = score(recordings, "video:encoder=pixels:4", goal=goal, horizon=HORIZON)
    assert paid.rewards.tolist() == online
    shown = GoalBundle.load(tmp_path / "seen" / "goal.safetensors")
    assert shown.digest == goal.digest
    # One picture of another camera is not cut in two.
    with pytest.raises(GoalError, match="those of one camera"):
        score(from_frames([as_episode(film(5))]), "video:encoder=pixels:4", goal=goal)


def test_cameras_of_a_lerobot_dataset(goal, tmp_path):
    pytest.importorskip("pyarrow")
    lerobot_sets.write_dataset(tmp_path / "set", cameras=lerobot_sets.CAMERAS[:2])
    names = [camera.rpartition(".")[2] for camera in lerobot_sets.CAMERAS[:2]]
    together = find_recordings(tmp_path / "set", "+".join(names))
    each = {n: find_recordings(tmp_path / "set", n)[0].read() for n in names}
    expected = np.concatenate([each[n].frames for n in sorted(names)], axis=2)
    np.testing.assert_array_equal(together[0].read().frames, expected)
    assert together[0].about["camera"] == "+".join(sorted(names))


def test_packing(tmp_path, capsys):
    for view, seed in (("front", 0), ("wrist", 1)):
        np.save(tmp_path / f"{view}.npy", film(seed))
    videos = [f"{v}={tmp_path / v}.npy" for v in ("wrist", "front")]
    output = tmp_path / "goal.safetensors"
    rest = ["--size", "16", "--encoder", "pixels:4", "--output", str(output)]
    assert main(["pack", *videos, *rest]) == 0
    assert "16x32" in capsys.readouterr().out
    goal = GoalBundle.load(output)
    assert goal.camera == "front+wrist"
    steps = [(step["view"], step["videos"][0]["video"]) for step in goal.provenance]
    assert steps == [("front", "front.npy"), ("wrist", "wrist.npy")]
    front = split_views(goal)["front"]
    alone = pack([tmp_path / "front.npy"], size=16, encoder="pixels:4", camera="front")
    np.testing.assert_array_equal(front.videos, alone.videos)
    for wrong, said in (
        ([videos[0], str(tmp_path / "front.npy")], "for every video or for none"),
        ([*videos, "--camera", "top"], "named already"),
        (videos[:1], "two or more names"),
    ):
        assert main(["pack", *wrong, *rest]) == 1
        assert said in capsys.readouterr().err


def test_goals_that_do_not_fit_together(goals):
    with pytest.raises(GoalError, match=r"2 of 9 frames.*1 of 7 frames.*--length"):
        join_views({**goals, "wrist": pack([film(2, 7)], size=16, encoder=None)})
    with pytest.raises(GoalError, match="'front' is 1 of 9 .*'wrist' is 1 of 7"):
        pack_views({"front": [film(0)], "wrist": [film(1, 7)]}, size=16, encoder=None)
    for change in ({"encoder": {"source": "pixels:8"}}, {"key_frames": (3, 8)}):
        other = goals["wrist"].with_(**change)
        with pytest.raises(GoalError, match=f"have one {next(iter(change))}"):
            join_views({**goals, "wrist": other})
    nets = {"weight": np.zeros(2, np.float32)}
    with pytest.raises(GoalError, match="no forward-backward nets"):
        join_views({view: own.with_(nets=nets) for view, own in goals.items()})


def refused(error, match, goal, env=None, **options):
    with pytest.raises(error, match=match):
        wrapped(goal, env, **options)


def test_views_without_goals_and_goals_without_views(goal, goals):
    more = {**FRAMES, "side": "obs:far"}
    refused(GoalError, r"views \['front', 'side', 'wrist'\], and .*pack", goal,
            frames=more)  # fmt: skip
    refused(GoalError, r"\['front', 'wrist'\], and the frames have .*'side'", goals,
            frames=more)  # fmt: skip
    refused(GoalError, "shows one camera: give a goal for each", goals["front"])
    refused(GoalError, r"\['front'\], and the frames", {"front": goals["front"]})
    refused(GoalError, r"those of one camera.*'wrist': 'obs:<key>'", goal,
            frames="obs:far")  # fmt: skip
    refused(GoalError, "from an episode's first frame have one view", "generated")
    with pytest.raises(ValueError, match="'viper' compares with no goal"):
        RewardModelWrapper(TwoCameras(), "viper", frames=FRAMES, horizon=HORIZON)


def test_sources_that_are_missing_or_differ(goal):
    refused(ValueError, "no 'top' in the observation", goal,
            frames={**FRAMES, "wrist": "obs:top"})  # fmt: skip
    refused(ValueError, "'render' for 'wrist'", goal,
            frames={**FRAMES, "wrist": "render"})  # fmt: skip
    refused(ValueError, "frames are uint8", goal,
            frames={**FRAMES, "wrist": "obs:state"})  # fmt: skip
    refused(ValueError, r"one size, these are .*\(16, 16, 3\).*\(8, 16, 3\)", goal,
            TwoCameras(near=8))  # fmt: skip
    refused(ValueError, "two or more names", goal, frames={"front": "obs:far"})
    refused(ValueError, "does nothing with frames='obs:far'", goal, frames="obs:far",
            view_weights={"front": 1})  # fmt: skip


@pytest.mark.parametrize(
    "weights", [{"front": 1}, {"front": 1, "wrist": -1}, {"front": 0, "wrist": 0},
                {"front": float("nan"), "wrist": 1}]
)  # fmt: skip
def test_weights_of_views(weights):
    with pytest.raises(ValueError, match="a weight for each of"):
        view_shares(FRAMES, weights)


def test_both_levels_without_nets_say_so_once(goal, recwarn):
    env = wrapped(goal, cls=GenRewardWrapper)
    assert env.weights == {"env": 0, "video_front": 0.5, "video_wrist": 0.5}
    said = [w for w in recwarn if "no frame-level part" in str(w.message)]
    assert len(said) == 1
