"""Choosing key frames: the score by open_clip alone, the choice, and what is kept."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from genreward_wrappers import GoalBundle, GoalError, load_encoder
from genreward_wrappers.cli.main import main
from genreward_wrappers.data.contact_sheet import (
    BORDER,
    LINE,
    MARK,
    contact_sheet,
    save_picture,
    shown_frames,
)
from genreward_wrappers.goal_pipeline.card import curve_summary, describe
from genreward_wrappers.goal_pipeline.select import STEP, chosen, draw, select

open_clip = pytest.importorskip("open_clip")

PROMPTS = ["the square is at the right", "a bright square touches the edge"]
SCENES = ["the square is at the left", "noise", "a grey picture"]


@pytest.fixture(scope="module")
def encoder(clip_folder):
    return load_encoder(f"open_clip:{clip_folder}", device="cpu")


def last_best(row):
    """The last of the frames that score best: some frames here are the same twice."""
    return max(i for i, value in enumerate(row) if value > max(row) - 1e-9)


def with_nets(goal, **more):
    nets_config = {"features": 3, "statistics": {"mean": 0.5, "std": 2.0}, **more}
    return goal.with_(nets={"a": np.ones((2, 3), np.float32)}, nets_config=nets_config)


# The score


@pytest.mark.parametrize("prior", [0.0, 0.7])
@pytest.mark.parametrize("scenes", [None, SCENES[:1], SCENES])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
def test_the_score_is_open_clips(goal, encoder, embed, prompts, scenes, prior):
    def along(texts):
        mean = embed(texts).sum(0)
        return mean / np.sqrt((mean**2).sum())

    count, frames = goal.videos.shape[:2]
    expected = np.empty((count, frames))
    for k in range(count):
        for i, x in enumerate(embed(goal.videos[k])):
            expected[k, i] = x @ along(prompts)
            if scenes:
                expected[k, i] -= x @ along(scenes)
    spread = expected.std()
    assert spread > 1e-3, "it tells the frames apart"
    for i in range(frames):
        expected[:, i] -= prior * spread * (frames - 1 - i) / (frames - 1)
    bundle, found = select(goal, encoder, prompts=prompts, baseline=scenes, prior=prior)
    np.testing.assert_allclose(found.curves, expected, atol=2e-6)
    assert bundle.key_frames == tuple(map(last_best, expected))
    best = expected.max(1)
    assert found.ranking == tuple(sorted(range(count), key=lambda k: -best[k]))
    np.testing.assert_allclose(found.scores, best, atol=2e-6)


def test_a_baseline_chooses_what_is_nearest_along_the_way(goal, encoder, embed):
    """As the docs say: the projection on the way from the baseline to the goal."""
    g, b = embed(PROMPTS[:1])[0], embed(SCENES[:1])[0]
    way = (g - b) / np.linalg.norm(g - b)
    best = [last_best((embed(video) - b) @ way) for video in goal.videos]
    bundle, _ = select(goal, encoder, prompts=PROMPTS[0], baseline=SCENES[0])
    assert bundle.key_frames == tuple(best)
    plain, _ = select(goal, encoder, prompts=PROMPTS[0])
    assert plain.key_frames != bundle.key_frames, "the baseline has a say"


def test_a_strong_prior_takes_the_last_frame(goal, encoder):
    last = goal.videos.shape[1] - 1
    none, _ = select(goal, encoder, prompts=PROMPTS)
    assert none.key_frames != (last,) * 3
    strong, _ = select(goal, encoder, prompts=PROMPTS, prior=1e3)
    assert strong.key_frames == (last,) * 3


def test_of_equal_frames_the_last_and_of_equal_videos_the_first(goal, encoder):
    videos = np.repeat(goal.videos[:1, :1], 7, 1).repeat(3, 0)
    still = goal.with_(videos=videos, key_frames=())
    bundle, found = select(still, encoder, prior=2.0, keep=2)
    assert bundle.key_frames == (6, 6)
    assert found.ranking == (0, 1, 2)
    assert found.kept == (0, 1)


# The bundle


def test_the_best_are_kept_in_their_order(goal, encoder):
    _, everything = select(goal, encoder, prompts=PROMPTS)
    for keep in (1, 2, 3):
        bundle, found = select(goal, encoder, prompts=PROMPTS, keep=keep)
        best = sorted(np.argsort(-everything.scores)[:keep].tolist())
        assert found.kept == tuple(best)
        np.testing.assert_array_equal(bundle.videos, goal.videos[best])
        assert bundle.key_frames == tuple(everything.key_frames[i] for i in best)
        assert len(found.curves) == 3, "those that are not kept were scored too"
    # Order and rank are told apart: the best one is not the first here.
    assert everything.ranking != (0, 1, 2)


def test_what_the_bundle_says(goal, encoder, clip_folder, tmp_path):
    path = tmp_path / "new.safetensors"
    bundle, found = select(
        goal, encoder, prompts=PROMPTS, baseline=SCENES, prior=0.5, keep=2
    )
    bundle.save(path)
    again = GoalBundle.load(path)
    assert again.prompt == goal.prompt, "its own prompt stays"
    assert again.provenance[:-1] == goal.provenance
    step = again.provenance[-1]
    assert step["step"] == STEP
    assert (step["prompts"], step["baseline"]) == (PROMPTS, SCENES)
    assert step["encoder"]["source"] == f"open_clip:{clip_folder}"
    assert step["encoder"]["fingerprint"] == encoder.fingerprint
    assert step["prior"] == 0.5
    np.testing.assert_allclose(step["curves"], found.curves, atol=0.5001e-4)
    assert all(len(f"{v:f}".rstrip("0")) <= 7 for row in step["curves"] for v in row)
    read = chosen(again)
    for name in ("key_frames", "ranking", "kept", "prompts", "baseline", "prior"):
        assert getattr(read, name) == getattr(found, name), name


def test_a_bundle_without_a_prompt_keeps_the_first(goal, encoder):
    bundle, found = select(goal.with_(prompt=""), encoder, prompts=PROMPTS)
    assert bundle.prompt == PROMPTS[0]
    assert select(goal, encoder)[1].prompts == (goal.prompt,)
    assert found.prompts == tuple(PROMPTS)


def test_curves_of_other_key_frames_are_not_shown(goal, encoder):
    bundle, _ = select(goal, encoder, prompts=PROMPTS)
    assert len(curve_summary(bundle)) == 3
    moved = [(i + 1) % 33 for i in bundle.key_frames]
    for other in (
        goal,
        bundle.with_(key_frames=tuple(moved)),
        bundle.with_(videos=bundle.videos[:2], key_frames=bundle.key_frames[:2]),
        goal.with_(provenance=({"step": STEP, "curves": "drawn by hand"},)),
    ):
        assert chosen(other) is None
        assert curve_summary(other) == []


# The nets


@pytest.mark.parametrize(
    "lie",
    [
        {"kept": [False, 1, 2]},
        {"kept": [99, 1, 2]},
        {"kept": []},
        {"key_frames": [99, 1, 2]},
        {"key_frames": ["a", 1, 2]},
        {"ranking": [0, 0, 1]},
        {"curves": [[1, 2], [1]]},
        {"curves": []},
        {"curves": [["x"]]},
        {"prompts": "abc"},
        {"prior": None},
    ],
    ids=str,
)
def test_what_nobody_chose_is_not_shown(goal, encoder, lie):
    made, _ = select(goal, encoder)
    step = {**made.provenance[-1], **lie}
    other = made.with_(provenance=(*made.provenance[:-1], step))
    assert chosen(made) is not None
    assert chosen(other) is None
    assert curve_summary(other) == []


def test_nets_stay_and_their_statistics_go(goal, encoder):
    old = with_nets(goal, input={"stack": 2})
    with pytest.warns(UserWarning, match='statistics.*form="value".*train-fb'):
        bundle, _ = select(old, encoder, prompts=PROMPTS)
    np.testing.assert_array_equal(bundle.nets["a"], old.nets["a"])
    assert bundle.nets_config == {"features": 3, "input": {"stack": 2}}
    assert "statistics" in old.nets_config, "the old bundle is as it was"


def test_statistics_stay_where_nothing_changed(goal, encoder):
    once, _ = select(goal, encoder, prompts=PROMPTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twice, _ = select(with_nets(once), encoder, prompts=PROMPTS)
        # Asked for states, which are beside the nets and not in the videos.
        states = with_nets(goal, input={"stack": 1, "goal_states": [[0.0]]})
        other, _ = select(states, encoder, prompts=PROMPTS, keep=1)
    assert "statistics" in twice.nets_config
    assert other.nets_config == states.nets_config
    # One goal fewer is another best of the goals.
    with pytest.warns(UserWarning, match="statistics"):
        fewer, _ = select(with_nets(once), encoder, prompts=PROMPTS, keep=2)
    assert "statistics" not in fewer.nets_config


def test_nets_without_statistics_say_what_to_do(goal, vae, encoder):
    """The frame-level reward itself refuses to normalise, and works without."""
    from genreward_wrappers.encoders.base import encoder_card
    from genreward_wrappers.rewards.frame_level import FrameLevel
    from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets

    size = int(np.prod(vae.latent_shape))
    torch.manual_seed(0)
    config = FBConfig(features=size, actions=2, z=4, hidden=8, backward_hidden=8)
    nets, kept = FBNets(config).to_arrays()
    statistics = {"mean": 0.0, "std": 1.0, "transitions": 9}
    trained = goal.with_(
        nets=nets,
        nets_config={**kept, "statistics": statistics},
        encoder=encoder_card(vae),
    )
    FrameLevel(trained, vae)
    with pytest.warns(UserWarning, match="statistics"):
        bundle, _ = select(trained, encoder, prompts=PROMPTS)
    with pytest.raises(GoalError, match="no statistics to normalise with"):
        FrameLevel(bundle, vae)
    frames = goal.videos[:, 0]
    actions = np.zeros((3, 2), np.float32)
    before = FrameLevel(trained, vae, form="value").values(frames, actions)
    after = FrameLevel(bundle, vae, form="value").values(frames, actions)
    assert np.abs(after - before).max() > 1e-6, "asked for another key frame"


# Pictures


def test_the_curves_are_drawn(goal, encoder, tmp_path):
    bundle, found = select(goal, encoder, prompts=PROMPTS, keep=2)
    path = tmp_path / "curves.png"
    draw(path, goal, found)
    with Image.open(path) as picture:
        assert picture.width > 600
        assert picture.height > 400
    with pytest.raises(GoalError, match="curves are of 3 videos"):
        draw(path, bundle, found)


@pytest.mark.parametrize(
    ("length", "key", "columns", "expected"),
    [
        (33, 32, 5, [0, 8, 16, 24, 32]),
        (33, 21, 5, [0, 8, 16, 21, 32]),
        (33, 1, 5, [0, 1, 16, 24, 32]),
        (33, 31, 3, [0, 31, 32]),
        (33, 3, 2, [3, 32]),
        (3, 1, 9, [0, 1, 2]),
    ],
)
def test_which_frames_are_shown(length, key, columns, expected):
    assert shown_frames(length, key, columns) == expected


def test_the_key_frame_is_framed(goal):
    goal = goal.with_(key_frames=(0, 16, 21))
    sheet = contact_sheet(goal, columns=5)
    tile = 3 * 32 + 2 * BORDER
    assert sheet.shape == (3 * (tile + LINE), 5 * tile, 3)
    for row, column in ((0, 0), (1, 2), (2, 3)):
        for c in range(5):
            top, left = row * (tile + LINE), c * tile
            framed = (sheet[top, left : left + tile] == MARK).all()
            assert framed == (c == column), (row, c)
    picture = sheet[2 * (tile + LINE) + BORDER :, 3 * tile + BORDER :][:96, :96]
    np.testing.assert_array_equal(picture[::3, ::3], goal.videos[2, 21])
    with pytest.raises(GoalError, match="columns=1: expected at least 2"):
        contact_sheet(goal, columns=1)


def test_pictures_of_no_format(goal, tmp_path):
    with pytest.raises(ValueError, match="end with '.doc'"):
        save_picture(tmp_path / "sheet.doc", contact_sheet(goal))


# The commands


def test_the_commands(goal, clip_folder, tmp_path, capsys):
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    goal.save(old)
    encoder = f"open_clip:{clip_folder}"
    texts = ["--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--baseline", SCENES[0]]
    rest = ["--prior", "0.2", "--keep", "2", "--device", "cpu", "--output", str(new)]
    assert main(["select", str(old), "--encoder", encoder, *texts, *rest]) == 0
    made = GoalBundle.load(new)
    expected, _ = select(
        goal, encoder, prompts=PROMPTS, baseline=SCENES[0], prior=0.2, keep=2,
        device="cpu",
    )  # fmt: skip
    assert made == expected
    printed = capsys.readouterr().out
    for line in curve_summary(made):
        assert line in printed
    first = f"video 0, candidate {chosen(made).kept[0]}"
    assert f"{first}: key frame {made.key_frames[0]} of 33, score " in printed
    assert "of 3 candidates" in printed
    assert (tmp_path / "new.png").exists()

    sheet = tmp_path / "sheet.png"
    assert main(["inspect", str(new), "--picture", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert curve_summary(made)[0] in printed
    assert '"curves": "3 videos of 33 frames"' in printed
    np.testing.assert_array_equal(np.asarray(Image.open(sheet)), contact_sheet(made))
    assert json.loads(json.dumps(describe(made)))["key frames"] == list(made.key_frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bare.safetensors"], "has no prompt, and none was given"),
        (["goal.safetensors", "--prompt", " "], "at least one text, none empty"),
        (["goal.safetensors", "--encoder", "clip"], "unknown encoder 'clip'"),
        (["goal.safetensors", "--encoder", "pixels"], "has no text tower"),
        (["goal.safetensors", "--encoder", "open_clip:ViT-B-31/x"], "did you mean"),
        # Only the hub has it, and there is no network.
        (["goal.safetensors", "--encoder", ""], "cannot get the weights"),
        (["goal.safetensors", "--keep", "4"], "keep=4: the goal has 3 videos"),
        (["goal.safetensors", "--keep", "0"], "expected 1 to 3"),
        (["goal.safetensors", "--prior", "-1"], "prior=-1.0: expected a number from 0"),
        (["goal.safetensors", "--prior", "nan"], "prior=nan"),
        (["goal.safetensors", "--prompt", "x", "--baseline", "x"], "same embedding"),
        (["nowhere.safetensors"], "no goal bundle at nowhere.safetensors"),
        (["goal.safetensors", "--picture", "out.safetensors"], "are both"),
    ],
)
def test_bad_input(
    goal, clip_folder, arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    goal.save("goal.safetensors")
    goal.with_(prompt=" ").save("bare.safetensors")
    if "--encoder" not in arguments:
        arguments = [*arguments, "--encoder", f"open_clip:{clip_folder}"]
    assert main(["select", *arguments, "--output", "out.safetensors"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("genreward select: ")
    assert not (tmp_path / "out.safetensors").exists()
    assert not (tmp_path / "out.png").exists()
