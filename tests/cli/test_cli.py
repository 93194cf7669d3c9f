"""The command line, as a user types it."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from genreward_wrappers import GoalBundle, cli, progress
from genreward_wrappers.cli import demo
from genreward_wrappers.cli.arguments import SHARED
from genreward_wrappers.cli.main import COMMANDS, main, make_parser
from genreward_wrappers.data.video_files import read_video, write_video
from genreward_wrappers.goal_pipeline.pack import pack

RNG = np.random.default_rng(0)


def film(path, shape=(20, 64, 64)):
    """A bright column that moves to the right, written as a video."""
    frames = np.full((*shape, 3), 30, np.uint8)
    for t, frame in enumerate(frames):
        frame[:, 2 * t : 2 * t + 16] = (200, 120, 40)
    if path.suffix == ".npy":
        np.save(path, frames)
    else:
        write_video(path, frames)
    return frames


@pytest.mark.parametrize("name", ["goal.mp4", "goal.gif", "goal.npy"])
def test_pack_and_inspect(name, tmp_path, capsys):
    video, goal = tmp_path / name, tmp_path / "goal.safetensors"
    if name.endswith("gif"):
        import imageio.v3 as imageio

        frames = film(tmp_path / "x.npy")
        imageio.imwrite(video, frames, plugin="pillow", duration=100)
    else:
        frames = film(video)
    command = ["pack", str(video), "--env", "My-v0", "--prompt", "move right"]
    assert main([*command, "--length", "33", "--output", str(goal)]) == 0
    assert "1 videos of 33 frames" in capsys.readouterr().out
    bundle = GoalBundle.load(goal)
    assert (bundle.env_id, bundle.prompt) == ("My-v0", "move right")
    assert bundle.encoder["source"] == "embedded:video-vae-64"
    index = np.rint(np.linspace(0, len(frames) - 1, 33)).astype(int)
    # Video codecs lose a little; arrays lose nothing.
    error = np.abs(bundle.videos[0].astype(int) - frames[index]).mean()
    assert error <= (0 if name.endswith("npy") else 16)
    assert main(["inspect", str(goal)]) == 0
    assert "move right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "no video at nowhere.mp4"),
        (["text.mp4"], "(Invalid data found when processing input): is it damaged"),
        (["one.npy"], "at least 2 frames"),
        (["float.npy"], "got float64"),
        (["small.npy"], "would have to be enlarged to 64x64"),
        (["wide.npy"], "another aspect ratio"),
        (["fine.npy", "--size", "1", "2", "3"], "one or two numbers"),
        (["fine.npy", "--length", "1"], "at least 2 frames"),
        (["fine.npy", "--encoder", "embedded:huge"], "no embedded encoder 'huge'"),
    ],
)
def test_pack_bad_input(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("not a video")
    np.save("one.npy", np.zeros((1, 64, 64, 3), np.uint8))
    np.save("float.npy", np.zeros((5, 64, 64, 3)))
    np.save("small.npy", np.zeros((5, 32, 32, 3), np.uint8))
    np.save("wide.npy", np.zeros((5, 64, 128, 3), np.uint8))
    np.save("fine.npy", np.zeros((5, 64, 64, 3), np.uint8))
    assert main(["pack", *arguments, "--output", "goal.safetensors"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("genreward pack: ")
    assert not (tmp_path / "goal.safetensors").exists()


def test_pack_keeps_a_videos_own_length():
    """Up to 129 frames; the first video says how many."""
    video = RNG.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    goal = pack([video, video[:9]], size=32, encoder=None)
    assert goal.videos.shape[1] == 40
    np.testing.assert_array_equal(goal.videos[0], video)
    assert pack([np.repeat(video, 5, 0)], size=32, encoder=None).videos.shape[1] == 129


def test_pack_says_what_the_embedded_encoder_has_never_seen():
    video = RNG.integers(0, 256, (9, 64, 64, 3)).astype(np.uint8)
    with pytest.warns(UserWarning, match="never seen any of 'CarRacing-v3'.*open_clip"):
        pack([video], env_id="CarRacing-v3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack([video], env_id="metaworld/reach")
        pack([video], env_id="CarRacing-v3", encoder="pixels")


def test_pack_shrinks_larger_videos():
    video = RNG.integers(0, 256, (9, 128, 192, 3)).astype(np.uint8)
    goal = pack([video, video], size=(32, 48), length=9, encoder=None)
    assert goal.videos.shape == (2, 9, 32, 48, 3)
    blocks = video.reshape(9, 32, 4, 48, 4, 3).mean((2, 4))
    np.testing.assert_allclose(goal.videos[0], blocks, atol=0.51)


def test_video_round_trip(tmp_path):
    frames = film(tmp_path / "x.mp4", (12, 64, 96))
    again = read_video(tmp_path / "x.mp4")
    assert again.shape == frames.shape
    assert np.abs(again.astype(int) - frames).mean() < 8


def test_demo_plays_draws_and_ranks(tmp_path, capsys, monkeypatch):
    """What the demo is for: the reward pays who does the task more."""
    played = []
    play = demo.play_policies
    monkeypatch.setattr(
        demo, "play_policies", lambda *a, **k: played.extend(play(*a, **k)) or played
    )
    line = ["demo", "--output", str(tmp_path / "out"), "--seed", "3"]
    assert main([*line, "--device", "cpu"]) == 0
    episodes = played
    printed, shown = capsys.readouterr()
    assert "scripted: 256 of 256" in shown
    table = printed.splitlines()[:5]
    assert max(map(len, table)) < 80
    for word in ("scripted", "noisy", "random", "reward_video", "reward_env"):
        assert word in printed
    assert (tmp_path / "out" / "rewards.png").stat().st_size > 20_000
    assert len(read_video(tmp_path / "out" / "policies.mp4")) == 129
    paid = [sum(episode.rewards["reward_total"]) for episode in episodes]
    assert [episode.name for episode in episodes] == [
        "scripted",
        "noisy",
        "random",
        "still",
    ]
    assert episodes[0].solved
    assert episodes[2].solved is episodes[3].solved is None
    assert min(paid[:2]) > max(paid[2:])


def test_errors_are_one_line_and_status_one(capsys):
    assert main(["inspect", "metaworld/nothing"]) == 1
    assert "no embedded goal for 'metaworld/nothing'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no embedded goal"):
        main(["--traceback", "inspect", "metaworld/nothing"])
    assert main(["demo", "--env", "CarRacing-v3"]) == 1
    assert "scripted policy" in capsys.readouterr().err
    assert main([]) == 2
    assert "demo" in capsys.readouterr().out
    assert main(["goals"]) == 0
    assert "metaworld/pick-place" in capsys.readouterr().out


def test_a_machine_that_cannot_draw_is_told_in_one_line(monkeypatch, capsys, tmp_path):
    from genreward_wrappers.envs._gl import DrawingError

    def make_env(*_):
        raise DrawingError("MuJoCo cannot draw here")

    monkeypatch.setattr("genreward_wrappers.cli.demo.make_env", make_env)
    assert main(["demo", "--quiet", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "genreward demo: MuJoCo cannot draw here\n"


@pytest.mark.parametrize("name", ["mps", "cuda:x", "gpu"])
def test_a_device_that_is_none_is_told_at_once(name, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--device", name])
    said = "argument --device: device must be 'auto', 'cpu', 'cuda' or 'cuda:<index>'"
    assert f"{said}, got '{name}'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("seed", ["-1", "half", str(2**32)])
def test_a_seed_that_is_none_is_told_at_once(seed, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--env", "metaworld/reach", f"--seed={seed}"])
    said = "argument --seed: expected a whole number from 0 to 4294967295, got "
    assert f"{said}{seed!r}" in capsys.readouterr().err


def test_a_dtype_that_is_none_is_told_at_once(capsys):
    with pytest.raises(SystemExit):
        main(["score", "x.mp4", "--dtype", "float31"])
    said = "argument --dtype: dtype must be 'float32', 'float16' or 'bfloat16', got "
    assert f"{said}'float31'" in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_stops_without_a_traceback(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "genreward_wrappers", "demo", "--output", out],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    # The folder is made right before the first policy plays.
    while not out.exists() and process.poll() is None:
        time.sleep(0.1)
    # Long enough to be in the middle of it. All that is compiled has been imported by
    # then: of an interrupt in such an import the module makes an error of its own.
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in error
    assert "Traceback" not in error


def test_live_wants_a_folder(tmp_path, capsys):
    assert main(["live", str(tmp_path / "none")]) == 1
    assert "the wrappers' record= makes it" in capsys.readouterr().err


def test_live_serves_until_it_is_stopped(tmp_path):
    command = [sys.executable, "-m", "genreward_wrappers", "live", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        line = server.stdout.readline()
        url = line.split()[1]
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert "Reward inspector" in answer.read().decode()
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 130
    assert "Traceback" not in errors


# What holds for every command


def parsers():
    """Every command's parser by its name."""
    (action,) = (
        a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)
    )
    return action.choices


def test_help_lists_every_command_in_its_group(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for name in parsers():
        assert f"\n  {name} " in said
    for group in COMMANDS:
        assert f"\n{group}:\n" in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("name", parsers())
def test_every_option_is_described_with_its_default(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command = parsers()[name]
    for action in command._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        said = command._get_formatter()._get_help_string(action)
        assert said[0].isupper(), said
        assert said.endswith("."), said
        valued = action.option_strings and action.nargs != 0 and not action.required
        if valued and action.default != "":
            assert "efault" in said or "May be given" in said, said
    text = command.format_help()
    assert max(map(len, text.splitlines())) <= 80
    (example,) = text.split("Example:\n")[1:]
    line = shlex.split(example.replace("\\\n", " "), comments=True)
    assert line[0] == "genreward"
    make_parser().parse_args(line[1:])


def test_shared_options_are_spelled_once():
    for path in Path(cli.__path__[0]).glob("*.py"):
        text = "".join(path.read_text().split())
        for flag in SHARED:
            assert f'add_argument("{flag}"' not in text, f"{path.name}: {flag}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("score nowhere.mp4 --goal metaworld/reach", "there is no nowhere.mp4"),
        ("relabel nowhere --output new", "no dataset that can be relabelled"),
        ("evaluate --env metaworld/pik-place", "Did you mean: `pick-place`"),
        ("evaluate --env metaworld/reach --reward vidoe", "no reward 'vidoe'"),
        ("evaluate --env metaworld/reach --fail-below acu=1", "no such figure"),
        ("evaluate --env metaworld/reach --frames 1", "--frames 1: expected at least"),
        ("evaluate --env metaworld/reach --goal no.safetensors", "no.safetensors"),
        ("evaluate --env CartPole-v1", "no embedded goal for 'CartPole-v1'"),
        ("evaluate --env CartPole-v1 --rollouts no", "there is no such folder"),
        ("collect --env Nothing-v0 --output out", "Nothing"),
        ("demo --env metaworld/pik-place", "Did you mean: `pick-place`"),
        ("generate --model m --prompt p --env Nothing-v0 --output o", "Nothing"),
        ("generate --model m --prompt p --starts 0 --output o", "--starts 0"),
        ("inspect no.safetensors", "no.safetensors"),
        ("make-goal --env Nothing-v0 --prompt p --output o.safetensors", "Nothing"),
        ("pack nowhere.mp4 --output o.safetensors", "no video at nowhere.mp4"),
        ("pack v.mp4 --output o.safetensors --encoder vea", "unknown encoder 'vea'"),
        ("train-fb --goal metaworld/reach --data d --output o --features vea", "'vea'"),
        ("select no.safetensors --output o.safetensors", "no.safetensors"),
        ("train --env metaworld/pik-place", "Did you mean: `pick-place`"),
        ("train --env CartPole-v1", "an environment that offers its state"),
        ("train --env metaworld/sweep", "no embedded goal for 'metaworld/sweep'"),
        (
            "train --env metaworld/reach --goal dmc/walker-walk --reward frame",
            "no forward-backward nets",
        ),
        ("score no.mp4 --goal dmc/walker-walk --reward frame", "no forward-backward"),
        ("train --env metaworld/reach --steps 0", "--steps 0: expected at least 1"),
        ("train --env metaworld/reach --goal no.mp4", "there is no video at no.mp4"),
        ("train-fb --goal no.safetensors --data d --output o", "no.safetensors"),
        ("generate --model m --prompt p --output o", "there is no folder m"),
        ("finetune --model m --data d --output o", "there is no folder m"),
        ("push nowhere.safetensors me/goals", "no goal bundle at nowhere"),
        ("pull nowhere --output o", "'nowhere' is no address of a goal"),
        ("train-viper --goal metaworld/no --output o", "no embedded goal for"),
    ],
)
def test_what_is_wrong_is_said_before_torch_is_imported(
    line, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code = (
        "import sys; from genreward_wrappers.cli.main import main\n"
        "sys.modules['torch'] = None\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(line)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith(f"genreward {line.split()[0]}: ")
    assert "torch" not in done.stderr
    assert not list(tmp_path.iterdir()), "nothing is left behind"


WRONG_REWARDS = {
    "vidoe": "there is no reward 'vidoe'; there are",
    "video:scoer=motion": "no option 'scoer' (did you mean 'score'?)",
    "video:score=likeness": "score='likeness': expected one of 'tracking'",
    "pixels:window=9": "window=9 does nothing with reading='frames'",
    "paper:contrast=2": "contrast=2 does nothing with score='cosine'",
    "video:length=many": "length='many': expected a whole number",
    "video:every=0": "every=0: expected a whole number, at least 1",
    "video:align=0.5": "align=0.5: expected a whole number, at least 1",
    "frame:form=fair": "form='fair': expected one of 'value'",
    "genreward:frame_every=0": "every=0: expected a whole number, at least 1",
    "genreward:env_weight=much": "the weight of 'env' is 'much'",
    "genreward:preset=papr": "preset='papr': expected one of",
    "generated:videos=0": "videos=0: expected a whole number",
    "vlm-rm:promt=a cup": "no option 'promt' (did you mean 'prompt'?)",
    "lerobot:robometer:lenght=3": "no option 'lenght' (did you mean 'length'?)",
    "vlm-rm:prompt=a cup,alpha=half": "alpha='half': expected a number",
    "roboclip:weights=w,sparse=maybe": "sparse='maybe': expected True or False",
    "diffusion-reward:chains=1.5": "chains=1.5: expected a whole number",
    "tadpole:prompt=cup,size=small": "size='small': expected a whole number",
    "video:encoder=vidoe_vae": "unknown encoder 'vidoe_vae'; it must be",
    "generated:encoder=hf://owner": "unknown encoder 'hf://owner'; it must be",
    "paper:encoder=embedded:vido": "no embedded encoder 'vido'; there are",
    "genreward:encoder=THUDM/CogVideoX-2b": "write 'hf://THUDM/CogVideoX-2b'",
    "generated:generator=embedded:x": "there is no embedded generator 'x'",
    "generated:generator=nowhere": "there is no folder nowhere, and it is no hub id",
    "vlm-rm": "needs prompt=, and has no default for it",
    "vlm-rm:prompt=cup,alpha=2": "alpha=2: expected a number from 0 to 1",
    "vlm-rm:prompt=3,alpha=0": "prompt=3: expected a text or a list of texts",
    "vlm-rm:prompt=cup": "alpha=0.5 looks along the way from a baseline",
    "vlm-rm:prompt=' ',alpha=0": "prompt=' ': expected at least one text",
    "vlm-rm:prompt=cup,alpha=0,resize=cut": "resize='cut': expected one of 'squash'",
    "vlm-rm:prompt=cup,alpha=0,device=cdua": "'cuda:<index>', got 'cdua'",
    "vlm-rm:prompt=cup,alpha=0,dtype=int8": "or 'bfloat16', got 'int8'",
    "vlm-rm:prompt=cup,alpha=0,encoder=clip": "unknown encoder 'clip'; it must be",
    "liv:encoder=open_clip:ViT-B32/openai": "no model 'ViT-B32' (did you mean 'ViT-B",
    "liv:encoder=open_clip:.": "there is no open_clip_config.json in .",
    "liv:prompt=cup": "needs encoder=, and has no default for it",
    "liv:encoder=pixels,form=sum": "form='sum': expected one of 'plain'",
    "roboclip:prompt=cup": "needs weights=, and has no default for it",
    "roboclip:weights=w": "there is no S3D model at w",
    "roboclip:weights=w,length=5": "an even length, got horizon=None and length=5",
    "roboclip:weights=w,size=3": "size=3: expected an even number",
    "viper:prior=p": "there is no video prior at p",
    "viper:prior=p,likelihood=first": "likelihood='first': expected one of 'last'",
    "viper:prior=p,every=0": "every=0: expected a whole number, at least 1",
    "diffusion-reward:prior=p,chains=0": "chains=0: expected a whole number",
    "tadpole:prompt=cup": "needs pipeline=, and has no default for it",
    "tadpole:prompt=cup,pipeline=p,stride=9": "window=8, stride=9: expected 1 <=",
    "tadpole:prompt=cup,pipeline=p,noise=[5,4]": "noise=[5, 4]: expected two whole",
    "lerobot:sarm": "SARM reads the robot's state beside the pictures",
    "lerobot:robometer": "lerobot:robometer needs prompt=, got None",
    "lerobot:robometer:prompt=cup,length=0": "length=0: expected a whole number",
    "lerobot:reward_classifier": "needs path=, a folder or hub id of its weights",
    "viper:1": "expected options as key=value, got '1'",
}

REWARDED = {
    "evaluate": "--env metaworld/reach",
    "relabel": "nowhere --output new",
    "score": "nowhere.mp4",
    "serve": "--goal metaworld/reach",
    "train": "--env metaworld/reach",
}


def complaints(lines, folder):
    """What commands say, a line each, that all fail where there is no torch."""
    code = (
        "import json, sys; from genreward_wrappers.cli.main import main\n"
        "sys.modules['torch'] = None\n"
        "for line in json.load(sys.stdin):\n"
        "    assert main(line) == 1, line\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def assert_said(wrong, lines, folder):
    """Every line's command says what is wrong with its last word."""
    for line, said in zip(lines, complaints(lines, folder), strict=True):
        assert said.startswith(f"genreward {line[0]}: "), line
        assert wrong[line[-1]] in said, line


def test_a_wrong_reward_is_said_before_torch_is_imported(tmp_path):
    """Its name, its options and their values, by every command that takes one."""
    lines = [
        [command, *shlex.split(rest), "--reward", reward]
        for command, rest in REWARDED.items()
        for reward in WRONG_REWARDS
    ]
    assert_said(WRONG_REWARDS, lines, tmp_path)


DAMAGED = {
    "evaluate --env metaworld/reach --reward video:encoder=model": "cut short",
    "generate --model model --prompt p --output o": "cut short",
    "pack v.npy --output o --encoder open_clip:model/cut.safetensors": "cut short",
    "pack v.npy --output o --encoder transformers:model": "cut short",
    "train --env metaworld/reach --reward generated:generator=model": "cut short",
    "serve --reward viper:prior=model/cut.safetensors": "The video prior is a",
    "serve --reward diffusion-reward:prior=text": "genreward train-diffusion-reward",
    "serve --reward roboclip:weights=model/cut.safetensors": "The S3D model is a",
    "convert s3d text o": "convert s3d needs --words",
    "convert s3d text o --words text": "text is no file of torch.save",
    "convert liv cut.pt o": "cut.pt is damaged or cut short",
    "convert liv text o --sha256 12": "not the expected 12",
    "convert liv nowhere o": "there is no file nowhere",
}


def test_damaged_weights_are_said_before_torch_is_imported(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/open_clip_config.json").touch()
    whole = save({"weight": np.zeros(9)})
    (tmp_path / "model/cut.safetensors").write_bytes(whole[:-1])
    (tmp_path / "text").write_text("weights")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    lines = [*map(shlex.split, DAMAGED)]
    found = zip(DAMAGED.values(), complaints(lines, tmp_path), strict=True)
    for wanted, said in found:
        assert wanted in said


WRONG_VIDEOS = {
    "nowhere.mp4": "there is no video at nowhere.mp4",
    "broken.mp4": "broken.mp4 does not decode as a video",
    "one.npy": "one.npy: a goal video needs at least 2 frames, got 1",
    "wide.npy": "wide.npy is 64x96 (height x width), another aspect ratio than 64x64",
}


def test_a_video_that_is_no_goal_is_said_before_torch_is_imported(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for name, shape in (("one", (1, 64, 64, 3)), ("wide", (5, 64, 96, 3))):
        np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.uint8))
    lines = [
        [command, *shlex.split(rest), "--goal", video]
        for command, rest in {**REWARDED, "demo": ""}.items()
        for video in WRONG_VIDEOS
    ]
    assert_said(WRONG_VIDEOS, lines, tmp_path)


MISPLACED = {
    "train --env metaworld/reach --output file/o": "file/o cannot be written to (",
    "evaluate --env metaworld/reach --output file/o": "file/o cannot be written to (",
    "train-fb --goal metaworld/reach --data . --output file/o": "file cannot be",
    "train-viper . --output file/o": "file cannot be written to (",
    "make-goal --env metaworld/reach --prompt p --output file/o": "file cannot be writ",
    "train-fb --goal metaworld/reach --data no --output o": "no file or folder no",
    "finetune --model me/model --data no --output o": "no file or folder no",
    "train-viper no.mp4 --output o": "no file or folder no.mp4",
    "make-goal --env metaworld/reach --prompt p --data no --output o": "or folder no",
}


def test_wrong_places_are_said_before_torch_is_imported(tmp_path):
    (tmp_path / "file").touch()
    lines = [line.split() for line in MISPLACED]
    found = zip(MISPLACED.values(), complaints(lines, tmp_path), strict=True)
    for wanted, said in found:
        assert wanted in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_makes_a_bundle_of_a_bundle_takes_no_video(tmp_path):
    lines = [
        "train-fb --goal my.mp4 --data d --output o",
        "select my.mp4 --output o.safetensors",
        "train-viper --goal my.mp4 --output o",
        "inspect my.mp4",
    ]
    (tmp_path / "my.mp4").touch()
    said = complaints([line.split() for line in lines], tmp_path)
    assert all("genreward pack my.mp4 --env ID" in line for line in said), said


def test_warnings_are_one_line(tmp_path):
    np.save(tmp_path / "clip.npy", np.zeros((9, 64, 64, 3), np.uint8))
    line = "pack clip.npy --env CarRacing-v3 --output goal.safetensors"
    done = subprocess.run(
        [sys.executable, "-m", "genreward_wrappers", *line.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    (warning,) = (x for x in done.stderr.splitlines() if "CarRacing" in x)
    assert warning.startswith("warning: 'embedded:video-vae-64' was trained on")
    assert ".py" not in done.stderr


def test_json_for_other_programs(capsys, tmp_path):
    assert main(["goals", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "metaworld/pick-place" in {row["env"] for row in rows}
    assert main(["inspect", "metaworld/pick-place", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["environment"] == "metaworld/pick-place"
    assert about["prompt"]


def test_version_and_completion(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["-V"])
    assert caught.value.code == 0
    pytest.importorskip("shtab")
    capsys.readouterr()
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for name in parsers():
        assert name in script
    assert "--fail-below" in script


def test_completion_without_shtab_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 1
    assert '"genreward-wrappers[completion]"' in capsys.readouterr().err


def test_quiet_and_traceback_come_before_or_after_the_command():
    for line in ("--quiet goals", "goals --quiet"):
        args = make_parser().parse_args(line.split())
        assert args.quiet
        assert not args.traceback


def test_progress_in_a_pipe_is_lines(capsys, monkeypatch):
    with progress.progress_bars(["loss"]) as on_progress:
        for done in range(4):
            on_progress("clips", done, 3)
        on_progress("steps", 1, 2, {"loss": 0.25, "other": 1.0})
    # Not every call, but always the beginning and the end.
    assert capsys.readouterr().err.splitlines() == [
        "clips: 0 of 3",
        "clips: 3 of 3",
        "steps: 1 of 2  loss 0.25",
    ]
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with progress.progress_bar("episodes") as on_progress:
        for done in range(3):
            on_progress(done, 2)
    lines = [f"episodes: {done} of 2" for done in range(3)]
    assert capsys.readouterr().err.splitlines() == lines
    with progress.progress_bar("episodes", quiet=True) as on_progress:
        on_progress(0, 2)
    assert capsys.readouterr().err == ""


def test_progress_in_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.progress_bars(["loss"]) as on_progress:
        on_progress("steps", 1, 2, {"loss": 0.25})
        on_progress("steps", 2, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    assert "loss 0.25" in err
