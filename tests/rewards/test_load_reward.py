"""Rewards by name: the table, other packages, wrappers, evaluation, LeRobot."""

from __future__ import annotations

import importlib
import pickle
import sys
import types
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from safetensors.torch import save_file

from genreward_wrappers import RewardModelWrapper, load_goal, load_reward, vector
from genreward_wrappers.core import Session
from genreward_wrappers.evaluate.judge.judged_rewards import Maker, needs_goal, parse
from genreward_wrappers.evaluate.learn.episodes import make_env
from genreward_wrappers.evaluate.learn.runs import Run
from genreward_wrappers.rewards import registry, signatures
from genreward_wrappers.rewards.combine import EveryK
from genreward_wrappers.testing import Brightness, PointMass, check_reward_model


def test_the_names():
    expected = {"video", "frame", "vlm-rm", "liv", "roboclip", "viper",
                "diffusion-reward", "tadpole", "lerobot"}  # fmt: skip
    assert expected <= set(registry.reward_names())


def test_our_own_rewards_by_name():
    options = {"goal": "metaworld/pick-place", "encoder": "pixels", "device": "cpu"}
    video = load_reward("video", horizon=64, score="motion", **options)
    assert video.name == "video"
    assert video.options.score == "motion"
    frame = load_reward("frame", form="value", goal=options["goal"], device="cpu")
    assert frame.name == "frame"
    bare = load_goal(options["goal"]).with_(nets={}, nets_config={})
    with pytest.raises(ValueError, match="no frame-level part"):
        load_reward("frame", **{**options, "goal": bare})


def test_options_are_those_of_the_constructor():
    assert registry.reward_options("vlm-rm") == (
        "prompt", "baseline", "alpha", "resize", "encoder", "device", "dtype", "every",
    )  # fmt: skip
    assert registry.reward_options("viper").count("every") == 1, "its own"
    assert "variant" not in registry.reward_options("lerobot:topreward")


@pytest.mark.parametrize("home", registry.HOME.values())
def test_what_the_source_says_is_what_the_constructor_takes(home):
    module, _, name = home.partition(":")
    made = getattr(importlib.import_module(module), name)
    read, inspected = signatures.read(home), signatures.inspected(made)
    completed = {
        name: one.replace(default=inspected.parameters[name].default)
        if one.default is signatures.UNREAD
        else one
        for name, one in read.parameters.items()
    }
    assert read._replace(parameters=completed) == inspected


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("vlmrm", {}, ValueError, r"no reward 'vlmrm' \(did you mean 'vlm-rm'\?\).*"
         "'liv'.*'roboclip'.*entry-point group"),
        ("nonsense at all", {}, ValueError, "no reward 'nonsense at all'; there are"),
        ("vlm-rm", {}, TypeError, "'vlm-rm'.*'prompt'; its options are prompt, base"),
        ("vlm-rm", {"prompt": "a", "colour": 3}, TypeError,
         "'vlm-rm'.*no option 'colour', expected one of prompt"),
        ("vlm-rm:large", {"prompt": "a"}, ValueError, "comes without a variant"),
        ("lerobot", {}, ValueError, "in variants, as 'lerobot:<type>'"),
    ],
)  # fmt: skip
def test_bad_names_and_options(name, options, error, message):
    with pytest.raises(error, match=message):
        load_reward(name, **options)


def test_any_model_is_asked_at_every_kth_step(registered):
    """As `EveryK` does it, also in a wrapper and in an evaluation."""
    film = np.random.default_rng(0).integers(0, 256, (9, 2, 8, 8, 3), np.uint8)
    actions = np.zeros((8, 2, 1))

    def paid(model):
        session = Session([model], 2)
        session.begin(film[0], seed=0)
        found = []
        for step in range(8):
            over = np.zeros(2, np.bool_)
            score = session.score(actions[step], film[step + 1], over, over)["glow"]
            found.append(np.where(score.due, score.value, np.nan))
        return np.array(found)

    model = load_reward("glow", factor=2, every=3)
    expected = paid(EveryK(Glow(factor=2), 3))
    assert np.flatnonzero(np.isfinite(expected[:, 0])).tolist() == [2, 5]
    np.testing.assert_array_equal(paid(model), expected)
    np.testing.assert_array_equal(
        paid(load_reward("glow", factor=2, every=1)), paid(Glow(factor=2))
    )
    (one,) = Maker(None, 64, 9, "cpu").make("glow:factor=2,every=3")
    np.testing.assert_array_equal(paid(one.parts[0][0]), expected)
    env = RewardModelWrapper(
        PointMass(size=16, horizon=9), "glow", options={"every": 3, "factor": 2}
    )
    env.reset(seed=0)
    infos = [env.step(np.ones(2, np.float32))[-1] for _ in range(6)]
    due = [info["reward_glow"] != 0 for info in infos]
    assert due == [False, False, True, False, False, True]
    for every in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"every={every}.*whole number"):
            load_reward("glow", every=every)


# Other packages


class Glow(Brightness):
    """Pays brightness, some number of times.

    More about it.
    """

    name = "glow"

    def __init__(self, factor=1, *, horizon=None, action_space=None, sparse=False):
        self.factor, self.horizon = factor, horizon
        self.action_space, self.sparse = action_space, sparse

    def step(self, memory, transition):
        score, memory = super().step(memory, transition)
        return score._replace(value=score.value * np.float32(self.factor)), memory


@pytest.fixture
def registered(monkeypatch):
    """As if another package had it, and one of ours, which stays ours."""
    module = types.ModuleType("glowing")
    module.Glow = Glow
    monkeypatch.setitem(sys.modules, "glowing", module)
    points = [
        EntryPoint("glow", "glowing:Glow", registry.GROUP),
        EntryPoint("video", "glowing:Glow", registry.GROUP),
    ]
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda group: points if group == "genreward_wrappers.rewards" else [],
    )
    return points


def test_another_package_adds_a_name(registered):
    model = load_reward("glow", factor=3)
    assert isinstance(model, Glow)
    assert "glow" in registry.reward_names()
    assert registry.find_reward("video")[0] is not Glow
    with pytest.raises(ValueError, match="did you mean 'glow'"):
        load_reward("glwo")
    registered.append(EntryPoint("glow", "other:Glow", registry.GROUP))
    with pytest.raises(ValueError, match="more than once: glowing:Glow, other:Glow"):
        load_reward("glow")


def test_a_wrapper_by_name(registered):
    by_name = RewardModelWrapper(
        PointMass(size=16), "glow", options={"factor": 3}, weight=2, horizon=9
    )
    by_model = RewardModelWrapper(PointMass(size=16), Glow(3), weight=2)
    own = by_name.session.models[0]
    assert own.horizon == 9, "what the environment knows comes by itself"
    assert own.action_space == by_name.action_space
    for env in (by_name, by_model):
        env.reset(seed=0)
    step = [env.step(np.ones(2, np.float32))[1] for env in (by_name, by_model)]
    assert step[0] == step[1] > 0
    # What is said goes before what is known.
    said = {"horizon": 4}
    env = RewardModelWrapper(PointMass(size=16), "glow", options=said, horizon=9)
    assert env.session.models[0].horizon == 4
    envs = vector.RewardModelWrapper(
        gym.vector.SyncVectorEnv([partial(PointMass, size=16)] * 2), "glow", horizon=9
    )
    assert envs.session.models[0].action_space == envs.single_action_space
    with pytest.raises(ValueError, match="options=.*the model is here already"):
        RewardModelWrapper(PointMass(size=16), Glow(), options={"factor": 2})


@pytest.mark.slow
def test_a_spec_and_a_pickle_hold_the_name():
    options = {"goal": "metaworld/pick-place", "encoder": "pixels"}
    env = gym.make("metaworld/pick-place")
    env = RewardModelWrapper(env, "video", options=options, weight=2.0)

    def first(env):
        env.reset(seed=1)
        return env.step(np.ones(4, np.float32))[1]

    expected = first(env)
    for again in (
        gym.make(EnvSpec.from_json(env.spec.to_json())),
        pickle.loads(pickle.dumps(env)),
    ):
        assert first(again) == expected
        again.close()
    env.close()


# Evaluation


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("vlm-rm:prompt='a red, round disc',alpha=0", "vlm-rm",
         {"prompt": "a red, round disc", "alpha": 0}),
        ('liv:prompt="the robot\'s arm",form=difference', "liv",
         {"prompt": "the robot's arm", "form": "difference"}),
        ("vlm-rm:prompt=a red disc,baseline=the robot's arm", "vlm-rm",
         {"prompt": "a red disc", "baseline": "the robot's arm"}),
        ("vlm-rm:prompt=['a, b','c'],alpha=0", "vlm-rm",
         {"prompt": ["a, b", "c"], "alpha": 0}),
        ("lerobot:topreward:prompt=open,every=4", "lerobot:topreward",
         {"prompt": "open", "every": 4}),
        ("roboclip:prompt=,length=8", "roboclip", {"prompt": "", "length": 8}),
        ("liv:prompt=a,every=4", "liv", {"prompt": "a", "every": 4}),
    ],
)  # fmt: skip
def test_parse(spec, name, options):
    assert parse(spec) == (name, options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vlm-rn", "no reward 'vlm-rn'.*'vlm-rm'"),
        ("vlm-rm:colour=3", "no option 'colour', expected one of prompt, baseline"),
        ("vlm-rm:prompt='a, b", 'key=value, got "prompt=\'a, b".*in quotes'),
        ("vlm-rm:prompt='a' b,alpha=0", "key=value.*in quotes"),
        ("vlm-rm:prompt=a, b", "key=value, got ' b'"),
        ("lerobot:prompt=a", "in variants|expected one of"),
        ("lerobot", "in variants|expected one of"),
    ],
)
def test_parse_bad_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        Maker(None, 64, 9, "cpu").make(spec)


def test_which_rewards_look_at_the_goal(registered):
    assert needs_goal("video")
    assert needs_goal("liv:encoder=pixels")
    for text in (
        "env",
        "liv:encoder=pixels,prompt=a",
        "liv:encoder=pixels,goal=a",
        "vlm-rm:prompt=a,alpha=0",
        "glow",
    ):
        assert not needs_goal(text)


def test_a_contestant_by_name(registered, clip_folder):
    maker = Maker(None, 64, 9, "cpu")
    (one,) = maker.make("glow:factor=2")
    assert one.name == "glow:factor=2"
    assert one.role == "reward"
    assert one.about == "Pays brightness, some number of times."
    ((model, weight),) = one.parts
    assert (model.factor, model.horizon, weight) == (2, 64, 1.0)
    assert model.sparse, "no more frames than it looks at"
    assert one.why_not_markov
    assert maker.controls("glow") == []
    goal = load_goal("metaworld/pick-place")
    encoder = f"encoder='open_clip:{clip_folder}'"
    (one,) = Maker(goal, 64, 9, "cpu").make(f"liv:{encoder}")
    assert len(one.parts[0][0]._goals) == len(goal.videos), "the goal's key frames"
    with pytest.raises(ValueError, match="liv:enc.*needs a goal"):
        maker.make(f"liv:{encoder}")
    with pytest.raises(ValueError, match="reward 'vlm-rm:alpha=0': needs prompt="):
        maker.make("vlm-rm:alpha=0")


def test_a_learning_run_by_name(registered):
    env = make_env(Run("metaworld/reach", "glow:factor=2", 0, None))
    _, info = env.reset(seed=0)
    *_, info = env.step(env.action_space.sample())
    assert info["reward_glow"] > 0
    env.close()


# LeRobot, by a stand-in with the interface of its version 0.6.1


@pytest.fixture
def lerobot(monkeypatch):
    """What `lerobot.rewards` offers; the models pay what they saw."""
    calls = []

    class Config:
        image_key, task_key = "observation.images.top", "task"
        pretrained_path = None
        input_features = {"observation.image": None, "observation.state": None}  # noqa: RUF012

        def __init__(self, kind, device="cpu"):
            self.type, self.device = kind, device

        @classmethod
        def from_pretrained(cls, path):
            return cls(path.partition("/")[0])

    class Model(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.config = config
            # One module by two names: LeRobot saves its tensors once.
            self.one = self.other = torch.nn.BatchNorm2d(2)

        def compute_reward(self, batch):
            calls.append(batch)
            (frames, *_) = (
                v for k, v in batch.items() if k.startswith("observation.im")
            )
            newest = frames[:, -1] if frames.ndim == 5 else frames
            return newest.mean((1, 2, 3))

    def make_reward_model(config):
        calls.append((config.type, config.pretrained_path))
        return Model(config)

    rewards = types.ModuleType("lerobot.rewards")
    rewards.make_reward_model = make_reward_model
    rewards.make_reward_model_config = Config
    rewards.make_reward_pre_post_processors = lambda config: (dict, None)
    configs = types.ModuleType("lerobot.configs.rewards")
    configs.RewardModelConfig = Config
    for name, module in {
        "lerobot": types.ModuleType("lerobot"),
        "lerobot.rewards": rewards,
        "lerobot.configs": types.ModuleType("lerobot.configs"),
        "lerobot.configs.rewards": configs,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_lerobots_videos(lerobot):
    model = load_reward(
        "lerobot:topreward", prompt="open it", every=2, length=3, device="cpu"
    )
    assert lerobot.pop() == ("topreward", None)
    env = RewardModelWrapper(PointMass(size=16, horizon=9), model)
    frames = [env.reset(seed=0)[0]]
    for step in range(1, 6):
        frame, *_, info = env.step(env.action_space.sample())
        frames.append(frame)
        assert info["reward_lerobot_due"] == (step % 2 == 0)
        if step % 2 == 0:
            # The newest frame is the last of the video, in [0, 1].
            batch = lerobot.pop()
            assert batch["task"] == ["open it"]
            video = batch["observation.images.top"]
            assert video.shape == (1, 3, 3, 16, 16)
            places = np.rint(np.linspace(0, step, 3)).astype(int)
            expected = np.stack([frames[i] for i in places]) / 255
            seen = video[0].permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(seen, expected, atol=1e-6)
    check_reward_model(model, size=(16, 16))


#: The weights of the stand-in as LeRobot saves them, some under each name.
SAVED = {
    "one.weight": torch.ones(2),
    "other.bias": torch.zeros(2),
    "one.running_mean": torch.zeros(2),
    "one.running_var": torch.ones(2),
    "other.num_batches_tracked": torch.tensor(0),
}


@pytest.fixture
def saved(lerobot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("reward_classifier/x")
    folder.mkdir(parents=True)

    def write(tensors):
        save_file(tensors, folder / "model.safetensors")
        return str(folder)

    return write


def test_lerobots_classifier(lerobot, saved):
    path = saved(SAVED)
    model = load_reward("lerobot:reward_classifier", path=path, every=3, device="cpu")
    assert lerobot.pop() == ("reward_classifier", path)
    assert model.wants(np.arange(1, 7)).tolist() == [False, False, True] * 2
    env = RewardModelWrapper(PointMass(size=16, horizon=9), model)
    env.reset(seed=0)
    steps = [env.step(env.action_space.sample()) for _ in range(3)]
    assert [info["reward_lerobot_due"] for *_, info in steps] == [False, False, True]
    assert steps[-1][1] == pytest.approx(steps[-1][0].mean() / 255, rel=1e-5)
    check_reward_model(model, size=(16, 16))


def test_lerobots_classifier_of_two_cameras(lerobot, saved, monkeypatch):
    names = ("observation.images.wrist", "observation.images.front")
    config = sys.modules["lerobot.configs.rewards"].RewardModelConfig
    monkeypatch.setattr(config, "input_features", dict.fromkeys(names))
    model = load_reward(
        "lerobot:reward_classifier", path=saved(SAVED), every=1, device="cpu"
    )
    env = gym.wrappers.TransformObservation(
        PointMass(size=16),
        lambda frame: {"far": frame, "near": 255 - frame},
        gym.spaces.Dict(
            dict.fromkeys(("far", "near"), PointMass(16).observation_space)
        ),
    )
    views = {"wrist": "obs:near", "front": "obs:far"}
    env = RewardModelWrapper(env, model, frames=views)
    env.reset(seed=0)
    seen = env.step(env.action_space.sample())[0]
    batch = lerobot.pop()
    for key, view in zip(names, ("near", "far"), strict=True):
        picture = batch[key][0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(picture, seen[view] / 255, atol=1e-6)
    monkeypatch.setattr(config, "input_features", {"observation.state": None})
    with pytest.raises(ValueError, match="a classifier of pictures is expected"):
        load_reward("lerobot:reward_classifier", path=saved(SAVED), device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"one.weight": None}, "missing: one.weight, other.weight"),
        ({"head": torch.ones(1)}, "unknown: head"),
        ({"one.weight": torch.ones(3)}, r"of another shape: one.weight \(3,\)"),
    ],
)
def test_lerobots_weights_are_all_there(saved, change, message):
    changed = {k: v for k, v in {**SAVED, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        load_reward("lerobot:reward_classifier", path=saved(changed), device="cpu")


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        (
            "sarm",
            {"prompt": "a"},
            "lerobot:sarm: expected one of robometer.*SARM reads",
        ),
        ("robomter", {"prompt": "a"}, "lerobot:robomter: expected one of"),
        ("robometer", {}, "lerobot:robometer needs prompt="),
        ("topreward", {"prompt": " "}, "none empty"),
        ("topreward", {"prompt": "a", "every": 0}, "every=0"),
        ("reward_classifier", {}, "needs path="),
        ("reward_classifier", {"prompt": "a", "path": "b"}, "takes no prompt="),
        ("robometer", {"prompt": "a", "path": "sarm/x"}, "holds a 'sarm'.*not a 'rob"),
    ],
)
def test_lerobots_bad_options(lerobot, variant, options, message):
    with pytest.raises(ValueError, match=message):
        load_reward(f"lerobot:{variant}", device="cpu", **options)


def test_without_lerobot_the_extra_is_named():
    if "lerobot" in sys.modules:
        pytest.skip("lerobot is here")
    with pytest.raises(
        ImportError, match=r"lerobot 0.6.*genreward-wrappers\[lerobot\]"
    ):
        load_reward("lerobot:topreward", prompt="open it", device="cpu")
