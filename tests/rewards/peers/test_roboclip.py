"""RoboCLIP: the network by numpy, the payment by explicit loops."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import load_file

from genreward_wrappers import GoalBundle, RewardModelWrapper, load_reward
from genreward_wrappers.core import Session, Transition
from genreward_wrappers.data.files import FileError, load_tensors, save_tensors
from genreward_wrappers.encoders.s3d import (
    LAYOUT,
    S3D,
    S3DConfig,
    S3DEncoder,
    load_s3d,
    save_s3d,
    space_to_depth,
)
from genreward_wrappers.rewards.peers.roboclip import RoboCLIP
from genreward_wrappers.testing import PointMass, check_reward_model
from tests.rewards.peers.in_use import check_an_agent_trains, check_hosts_agree

CONFIG = S3DConfig(shrink=16, features=8, vocabulary=12, word=6, hidden=10, max_words=4)
WORDS = ["robot", "opening", "a", "drawer", "closing", "red", "disc", "don't"]


@pytest.fixture(scope="module")
def network():
    """Random weights, and statistics that are not those of a new model."""
    torch.manual_seed(0)
    model = S3D(CONFIG).requires_grad_(False)
    for name, tensor in model.state_dict().items():
        if name.endswith(("bn1.bias", "bn2.bias")):
            tensor.normal_(0, 0.2)
        elif name.endswith(("bn1.weight", "bn2.weight")):
            tensor.uniform_(0.5, 1.5)
    # Statistics of some videos, so that their differences live to the last layer.
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.momentum = 1.0
    videos = torch.from_numpy(clips(6, 8, 32, 32, seed=9)).permute(0, 4, 1, 2, 3)
    levels = torch.linspace(0, 1, 6)[:, None, None, None, None]
    model.train()(videos / 255 * levels)
    model.eval()
    return model


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("s3d") / "s3d.safetensors"
    save_s3d(path, network, CONFIG, WORDS)
    return path


@pytest.fixture(scope="module")
def encoder(weights):
    """In float64, so that comparisons can be close."""
    return load_s3d(weights, size=(32, 32), device="cpu", dtype="float64")


# The network, again in numpy and float64


class Again:
    """S3D-G from its description, one clip (C, T, H, W) at a time."""

    def __init__(self, model):
        self.w = {k: v.double().numpy() for k, v in model.state_dict().items()}

    def conv(self, name, x, pad):
        kernel = self.w[f"{name}.weight"]
        x = np.pad(x, [(0, 0), *[(p, p) for p in pad]])
        windows = sliding_window_view(x, kernel.shape[2:], axis=(1, 2, 3))
        return np.einsum("cthwijk,ocijk->othw", windows, kernel)

    def norm(self, name, x):
        mean, var, weight, bias = (
            self.w[f"{name}.{part}"][:, None, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * weight + bias, 0)

    def one(self, name, x, pad=(0, 0, 0)):
        return self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, pad))

    def split(self, name, x):
        x = self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, (0, 1, 1)))
        return self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", x, (1, 0, 0)))

    def linear(self, name, x):
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def gate(self, name, x):
        logits = self.linear(f"{name}.fc", x.mean((1, 2, 3)))
        return x / (1 + np.exp(-logits))[:, None, None, None]

    def pool(self, x, kernel, stride):
        """Windows that begin at every stride; beyond the end there is nothing."""
        for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), 1):
            starts = range(0, x.shape[axis], s)
            x = np.stack(
                [x.take(range(i, min(i + k, x.shape[axis])), axis).max(axis)
                 for i in starts], axis
            )  # fmt: skip
        return x

    def inception(self, name, x):
        near = np.pad(x, [(0, 0)] + [(1, 1)] * 3)
        near = sliding_window_view(near, (3, 3, 3), axis=(1, 2, 3)).max((4, 5, 6))
        branches = [
            self.one(f"{name}.conv_b0", x),
            self.split(f"{name}.conv_b1_b", self.one(f"{name}.conv_b1_a", x)),
            self.split(f"{name}.conv_b2_b", self.one(f"{name}.conv_b2_a", x)),
            self.one(f"{name}.conv_b3_b", near),
        ]
        return np.concatenate(
            [self.gate(f"{name}.gating_b{i}", b) for i, b in enumerate(branches)]
        )

    def video(self, video):
        """(T, H, W, 3) in [0, 1] to features."""
        t, h, w, _ = video.shape
        cells = np.empty((24, t // 2, h // 2, w // 2))
        for a in range(2):
            for b in range(2):
                for c in range(2):
                    for colour in range(3):
                        cells[((a * 2 + b) * 2 + c) * 3 + colour] = video[
                            a::2, b::2, c::2, colour
                        ]
        x = self.one("conv1", cells, (1, 2, 2))[:, 1:, 1:, 1:]
        x = self.one("conv_2b", self.pool(x, (1, 3, 3), (1, 2, 2)))
        x = self.gate("gating", self.split("conv_2c", x))
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        x = self.inception("mixed_3c", self.inception("mixed_3b", x))
        x = self.pool(x, (3, 3, 3), (2, 2, 2))
        for letter in "bcdef":
            x = self.inception(f"mixed_4{letter}", x)
        x = self.pool(x, (2, 2, 2), (2, 2, 2))
        x = self.inception("mixed_5c", self.inception("mixed_5b", x))
        return self.linear("fc", x.mean((1, 2, 3)))

    def text(self, rows):
        rows = list(rows) + [0] * (4 - len(rows))
        hidden = [
            np.maximum(
                self.linear(
                    "text_module.fc1", self.w["text_module.word_embd.weight"][row]
                ),
                0,
            )
            for row in rows
        ]
        return self.linear("text_module.fc2", np.max(hidden, 0))


def clips(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(8, 32, 32), (4, 44, 36), (16, 32, 32)])
def test_the_video_tower(network, shape):
    videos = clips(2, *shape)
    again = Again(network)
    expected = np.array([again.video(video / 255) for video in videos])
    assert np.ptp(expected, 0).max() > 1e-3, "it tells the videos apart"
    tensor = torch.from_numpy(videos).permute(0, 4, 1, 2, 3).double() / 255
    double = copy.deepcopy(network).double()
    np.testing.assert_allclose(double(tensor).numpy(), expected, atol=1e-9)
    # In float32, which is the default, as well as that goes.
    np.testing.assert_allclose(network(tensor.float()), expected, atol=1e-3)


def test_space_to_depth_is_even():
    with pytest.raises(ValueError, match=r"even number.*\(4, 6, 7\)"):
        space_to_depth(torch.zeros(1, 3, 4, 6, 7))


def test_the_published_layout():
    """Parameters by name and shape, as the published state dict has them."""
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in S3D(S3DConfig()).state_dict().items()}
    assert shapes["conv1.conv1.weight"] == (64, 24, 2, 4, 4)
    assert shapes["conv_2b.conv1.weight"] == (64, 64, 1, 1, 1)
    assert shapes["conv_2c.conv1.weight"] == (192, 64, 1, 3, 3)
    assert shapes["conv_2c.conv2.weight"] == (192, 192, 3, 1, 1)
    assert shapes["gating.fc.weight"] == (192, 192)
    outputs = {"3b": 256, "3c": 480, "4b": 512, "4c": 512, "4d": 512, "4e": 528,
               "4f": 832, "5b": 832, "5c": 1024}  # fmt: skip
    inputs = [192, *outputs.values()]
    for (block, width), given in zip(outputs.items(), inputs, strict=False):
        name = f"mixed_{block}"
        assert shapes[f"{name}.conv_b0.conv1.weight"][1] == given
        wide = [shapes[f"{name}.gating_b{i}.fc.weight"][0] for i in range(4)]
        assert sum(wide) == width
        for branch in ("conv_b1_b", "conv_b2_b"):
            assert shapes[f"{name}.{branch}.conv2.weight"][2:] == (3, 1, 1)
        assert shapes[f"{name}.conv_b3_b.conv1.weight"][1] == given
    assert shapes["fc.weight"] == (512, 1024)
    assert shapes["text_module.word_embd.weight"] == (66_250, 300)
    assert shapes["text_module.fc1.weight"] == (2048, 300)
    assert shapes["text_module.fc2.weight"] == (512, 2048)
    parts = {name.split(".")[0] for name in shapes}
    blocks = {f"mixed_{block}" for block in outputs}
    assert parts == {"conv1", "conv_2b", "conv_2c", "gating", "fc",
                     "text_module", *blocks}  # fmt: skip
    assert len(shapes) == 537


# Texts


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Robot opening a DRAWER", [1, 2, 3, 4]),
        ("robot: drawer!", [1, 4]),
        ("don't", [8]),
    ],
)
def test_the_text_tower(network, encoder, text, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = encoder.encode_texts(text)
    np.testing.assert_allclose(found[0], Again(network).text(rows), atol=1e-5)


def test_words_that_are_not_read(network, encoder):
    expected = Again(network).text([1, 2, 3, 4])
    with pytest.warns(UserWarning, match="4 words.*it sees 'robot opening a drawer'"):
        found = encoder.encode_texts("robot opening a drawer red disc")
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    with pytest.warns(UserWarning, match="know 'blue', 'knob' in 'a blue robot knob'"):
        found = encoder.encode_texts("a blue robot knob")
    np.testing.assert_allclose(found[0], Again(network).text([3, 1]), atol=1e-5)
    with pytest.raises(ValueError, match="none of the words of 'blue knob'"):
        encoder.encode_texts("blue knob")


# Its file


def test_the_file_keeps_everything(network, encoder, weights, tmp_path):
    for name, tensor in encoder.model.state_dict().items():
        own = network.state_dict()[name]
        assert torch.equal(tensor, own.to(tensor.dtype)), name
    assert load_s3d(weights, device="cpu").model.fc.weight.dtype == torch.float32
    assert encoder.config == CONFIG
    assert list(encoder._rows) == WORDS
    assert str(weights) in repr(encoder)
    with pytest.raises(FileError, match="no S3D model at"):
        load_s3d(tmp_path / "none.safetensors")
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(FileError, match="(?s)pickle, which is never read.*convert s3d"):
        load_s3d(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="two even numbers"):
        load_s3d(weights, size=(31, 32), device="cpu")
    with pytest.raises(ValueError, match="12 words do not fit a table of 12 rows"):
        S3DEncoder(network, CONFIG, WORDS + list("wxyz"), device="cpu")


def test_half_precision_in_the_file_is_float32_in_use(network, tmp_path):
    path = tmp_path / "half.safetensors"
    save_s3d(path, copy.deepcopy(network).half(), CONFIG, WORDS, size=(32, 48))
    found = load_s3d(path, device="cpu")
    assert found.pictures.size == (32, 48), "the one that it was trained at"
    half = load_file(path)
    for name, tensor in found.model.state_dict().items():
        if tensor.is_floating_point():
            assert half[name].dtype == torch.float16
            assert tensor.dtype == torch.float32, name
            assert torch.equal(tensor, network.state_dict()[name].half().float())
    assert load_s3d(path, size=(64, 64), device="cpu").pictures.size == (64, 64)


def test_files_that_say_no_size_are_of_the_published_one(weights, tmp_path):
    arrays, header = load_tensors(weights, LAYOUT)
    assert header.pop("size") == [224, 224]
    save_tensors(tmp_path / "old.safetensors", arrays, LAYOUT, header)
    old = load_s3d(tmp_path / "old.safetensors", device="cpu")
    assert old.pictures.size == (224, 224)


# The reward


@pytest.fixture(scope="module")
def make(encoder):
    return partial(RoboCLIP, weights=encoder, length=4)


def by_hand(network, seen, goal):
    """The dot product for one episode's frames, its first one included."""
    places = np.rint(np.linspace(0, len(seen) - 1, 4)).astype(int)
    return Again(network).video(np.stack([seen[i] for i in places]) / 255) @ goal


@pytest.mark.parametrize("goal_kind", ["text", "video", "bundle"])
def test_an_episode_is_paid_at_its_end(network, make, goal_kind):
    again = Again(network)
    demo = clips(9, 32, 32, seed=3)
    if goal_kind == "text":
        model = make("robot opening a drawer", horizon=6)
        goal = again.text([1, 2, 3, 4])
    elif goal_kind == "video":
        model = make(goal=demo, horizon=6)
        goal = again.video(demo[[0, 3, 5, 8]] / 255)
    else:
        model = make(goal=GoalBundle(np.stack([demo, demo[::-1]])), horizon=6)
        goal = sum(again.video(d[[0, 3, 5, 8]] / 255) for d in (demo, demo[::-1])) / 2
    frames = clips(7, 1, 32, 32)
    session = Session([model], 1)
    session.begin(frames[0])
    no = np.zeros(1, bool)
    for step in range(1, 7):
        cut = np.array([step == 6])
        score = session.score(np.zeros(1), frames[step], no, cut)["roboclip"]
        assert score.due[0] == (step == 6)
        assert step == 6 or score.value[0] == 0
    expected = by_hand(network, frames[:, 0], goal)
    assert score.value[0] == pytest.approx(expected, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_two_environments_by_explicit_loops(network, make, sparse):
    """Ends and cuts at different times, a rest, an episode that outlives the time."""
    horizon = 9
    model = make("red disc", horizon=horizon, sparse=sparse)
    goal = Again(network).text([6, 7])
    kept = {0, 3, 6, 9} if sparse else set(range(10))
    asked = model.wants(np.arange(1, 12))
    assert set(np.flatnonzero(asked) + 1) == kept - {0}
    lengths = {0: [9, 4, 1, 9], 1: [3, 12, 5]}
    frames = clips(40, 2, 32, 32)
    session = Session([model], 2)
    session.begin(frames[0])
    seen = {row: [frames[0, row]] for row in lengths}
    paid = {0: 0, 1: 0}
    step = {0: 0, 1: 0}
    total = 0
    for t in range(1, 30):
        if not any(lengths.values()):
            break
        active = np.array([bool(lengths[row]) for row in (0, 1)])
        # Row 1 rests at one moment.
        active[1] &= t != 6
        ends = np.zeros(2, bool)
        for row in (0, 1):
            if active[row]:
                step[row] += 1
                ends[row] = step[row] == lengths[row][0]
                if step[row] in kept:
                    seen[row].append(frames[t, row])
        by_itself = np.array([True, False])
        score = session.score(
            np.zeros(2), frames[t], ends & by_itself, ends & ~by_itself, active
        )["roboclip"]
        for row in (0, 1):
            late = step[row] > horizon
            due = active[row] and (ends[row] or step[row] == horizon) and not late
            assert score.due[row] == due, (t, row)
            expected = by_hand(network, seen[row], goal) if due else 0
            assert score.value[row] == pytest.approx(expected, abs=1e-5), (t, row)
            paid[row] += due
            total += due
        if ends.any():
            session.begin(frames[t], ends)
            for row in np.flatnonzero(ends):
                seen[row], step[row] = [frames[t, row]], 0
                lengths[row].pop(0)
    assert total == 7, "every episode, once"


def test_environments_may_draw_into_one_buffer(make):
    model = make("red disc", horizon=4)
    frames = clips(5, 1, 32, 32)
    values = []
    for buffer in (None, np.empty_like(frames[0])):

        def shown(t, buffer=buffer):
            if buffer is None:
                return frames[t]
            buffer[:] = frames[t]
            return buffer

        no, everyone = np.zeros(1, bool), np.ones(1, bool)
        seeds = np.zeros(1, np.uint64)
        memory = model.reset(None, shown(0), everyone, seeds)
        for t in range(1, 5):
            steps = np.array([t])
            step = Transition(
                frames[t - 1], np.zeros(1), shown(t), no, no, everyone, steps
            )
            score, memory = model.step(memory, step)
        values.append(score.value[0])
    assert values[0] == values[1]


def test_contracts(make):
    check_reward_model(make("red disc", horizon=9), size=(32, 32))
    check_reward_model(make("red disc", horizon=9, sparse=True), size=(32, 32))
    check_reward_model(make(goal=clips(9, 32, 32), horizon=3), size=(32, 32))


def test_a_dark_episode_is_one_whatever_else_is_there(network, make):
    """Pixels are divided by 255 always; nothing looks at how bright they are."""
    model = make("red disc", horizon=1)
    goal = Again(network).text([6, 7])
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 2, (32, 32, 3)).astype(np.uint8)
    bright = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    no, yes = np.zeros(2, bool), np.ones(2, bool)
    for other in (dark, bright):
        session = Session([model], 2)
        session.begin(np.stack([dark, other]))
        score = session.score(np.zeros(2), np.stack([dark, other]), no, yes)
        value = score["roboclip"].value[0]
        assert value == pytest.approx(by_hand(network, [dark] * 2, goal), abs=1e-5)


def test_larger_frames_are_brought_to_size(network, encoder, make):
    """64x64 as 32x32, each pixel the mean of its neighbourhood."""
    model = make("red disc", horizon=1)
    still = np.kron(clips(32, 32, seed=5), np.ones((2, 2, 1), np.uint8))
    fitted = encoder.pictures.fit(torch.from_numpy(still)).numpy()
    assert fitted.shape == (32, 32, 3)
    session = Session([model], 1)
    session.begin(still[None])
    no, yes = np.zeros(1, bool), np.ones(1, bool)
    score = session.score(np.zeros(1), still[None], no, yes)["roboclip"]
    expected = by_hand(network, [fitted] * 2, Again(network).text([6, 7]))
    assert score.value[0] == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_hosts_agree(make):
    def check(reward, over, info):
        assert info["reward_roboclip_due"] == over

    for own, ends in check_hosts_agree(make("red disc", horizon=8), 18, check):
        assert np.count_nonzero(own) == ends >= 2


def test_an_agent_trains_on_it(make):
    check_an_agent_trains(make("red disc", horizon=25))


def test_by_its_name_the_time_limit_comes_by_itself(weights):
    env = gym.make("CartPole-v1", render_mode="rgb_array", max_episode_steps=6)
    options = {"prompt": "red disc", "weights": str(weights), "length": 4, "size": 32}
    wrapped = RewardModelWrapper(env, "roboclip", options=options, frames="render")
    wrapped.reset(seed=0)
    steps = [wrapped.step(t % 2) for t in range(6)]
    assert [info["reward_roboclip_due"] for *_, info in steps] == [False] * 5 + [True]
    wrapped.close()
    # Without a time limit there is no end to pay at.
    with pytest.raises(ValueError, match="no time limit, so give horizon="):
        RewardModelWrapper(PointMass(size=32), "roboclip", options=options)
    RewardModelWrapper(PointMass(size=32), "roboclip", options=options, horizon=9)


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": "red disc"}, ValueError, "no time limit, so give horizon="),
        ({"horizon": 9}, ValueError, "one of prompt=.*got prompt=None and goal=None"),
        ({"prompt": "a", "goal": clips(9, 32, 32), "horizon": 9}, ValueError,
         r"one of prompt=.*goal=an array uint8 \(9, 32, 32, 3\)"),
        ({"prompt": "", "horizon": 9}, ValueError, "prompt=''.*none empty"),
        ({"prompt": "a", "horizon": 0}, ValueError, "horizon of at least 1"),
        ({"prompt": "a", "horizon": 9, "length": 5}, ValueError, "even length"),
        ({"goal": clips(3, 32, 32), "horizon": 9}, ValueError,
         "goal video has 3 frames.*looks at 4.*length=2"),
        ({"goal": clips(32, 32), "horizon": 9}, ValueError, r"uint8 video.*\(32, 32"),
        ({"goal": clips(9, 32, 32) / 255, "horizon": 9}, ValueError, "got float64"),
        ({"prompt": "a", "horizon": 9, "weights": 3}, TypeError,
         "weights=3.*genreward convert s3d"),
    ],
)  # fmt: skip
def test_bad_options(make, options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_a_goal_video_of_another_aspect(make):
    model = make(goal=clips(9, 32, 48), horizon=5)
    session = Session([model], 1)
    with pytest.raises(ValueError, match="32x48.*frames are 32x32: another aspect"):
        session.begin(clips(1, 32, 32))
    # Another size of the same aspect is brought to the model's.
    Session([model], 1).begin(clips(1, 64, 96))


def test_needs_its_weights():
    with pytest.raises(TypeError, match="'weights'; its options are prompt, goal"):
        load_reward("roboclip", prompt="a", horizon=9)
