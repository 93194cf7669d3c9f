"""From an environment and a sentence to a goal: the stages, going on, the check."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from genreward_wrappers import GenRewardWrapper, GoalBundle, load_encoder
from genreward_wrappers.cli.main import main
from genreward_wrappers.cli.make_goal import _say
from genreward_wrappers.data import files
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.encoders.names import embedded_encoders
from genreward_wrappers.evaluate.judge.bootstrap import Estimate, undefined
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model
from genreward_wrappers.goal_pipeline import collect as collecting
from genreward_wrappers.goal_pipeline import make_goal as module
from genreward_wrappers.goal_pipeline.card import check_summary, readme
from genreward_wrappers.goal_pipeline.check import (
    Check,
    Figure,
    check_goal,
    policies_of,
)
from genreward_wrappers.goal_pipeline.collect import collect
from genreward_wrappers.goal_pipeline.make_goal import make_goal
from genreward_wrappers.goal_pipeline.pack import pack
from genreward_wrappers.goal_pipeline.recipe import Recipe, known
from genreward_wrappers.goal_pipeline.stages import Stage, Work
from genreward_wrappers.training.forward_backward.train import FBTrainer
from tests import video_pipelines

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")

ENV = "test/make"
SIZE = (32, 48)
PROMPT = "push the disc to its target"
GREEDY = f"{__name__}:greedy"


def greedy(env, seed):
    """Straight to the target."""

    def act(observation):
        inside = env.unwrapped
        way = inside.target - inside.position
        return np.clip(way / inside.speed, -1, 1).astype(np.float32)

    return act


@pytest.fixture(autouse=True, scope="module")
def _world():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gym.register(
        ENV,
        "genreward_wrappers.testing:PointMass",
        kwargs={"size": SIZE},
        max_episode_steps=20,
    )
    yield
    del gym.registry[ENV]
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    video_pipelines.cogvideox().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(generator, clip_folder):
    return Recipe(
        ENV,
        PROMPT,
        model=Model(str(generator), device="cpu"),
        sampling={"steps": 2, "frames": 9},
        starts=2,
        candidates=2,
        clip=f"open_clip:{clip_folder}",
        videos=3,
        size=SIZE,
        encoder="pixels",
        episodes=9,
        updates=40,
        check=4,
        check_policies=("random", GREEDY),
    )


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return make_goal(recipe, folder / "goal.safetensors")


@pytest.fixture
def calls(monkeypatch):
    """What was really made, by name."""
    made = {"video": 0, "choice": 0, "episode": 0, "update": 0, "figures": 0}

    def count(where, name, what):
        original = getattr(where, name)

        def counted(*arguments, **more):
            found = original(*arguments, **more)
            made[what] += 1
            return found

        monkeypatch.setattr(where, name, counted)

    count(Generator, "__call__", "video")
    count(module, "select", "choice")
    count(collecting, "record", "episode")
    count(FBTrainer, "update", "update")
    count(module, "check_goal", "figures")
    return made


def forbidden(*_, **__):
    raise AssertionError("nothing had to be made")


# What is made


def test_the_bundle_is_what_the_commands_make_one_by_one(
    recipe, whole, tmp_path, monkeypatch, capsys
):
    """By the commands of its own that each stage has, through the terminal."""
    monkeypatch.chdir(tmp_path)
    size = [str(side) for side in SIZE]
    lines = [
        ["generate", "--model", recipe.model.source, "--prompt", PROMPT, "--env", ENV,
         "--steps", "2", "--frames", "9", "--starts", "2", "--candidates", "2",
         "--device", "cpu", "--output", "videos"],
        ["pack", "videos", "--size", *size, "--length", "9", "--encoder", "pixels",
         "--output", "packed.safetensors"],
        ["select", "packed.safetensors", "--encoder", recipe.clip, "--keep", "3",
         "--device", "cpu", "--output", "chosen.safetensors"],
        ["collect", "--env", ENV, "--episodes", "9", "--steps", "20",
         "--processes", "1", "--output", "data"],
        ["train-fb", "--goal", "chosen.safetensors", "--data", "data",
         "--updates", "40", "--device", "cpu", "--output", "goal.safetensors"],
    ]  # fmt: skip
    for line in lines:
        assert main(line) == 0, capsys.readouterr().err
    expected = GoalBundle.load("goal.safetensors")
    assert whole.goal.with_(provenance=whole.goal.provenance[:-1]) == expected
    assert len(expected.videos) == 3
    assert expected.nets
    assert [step["step"] for step in whole.goal.provenance] == [
        "generate", "pack", "select", "forward-backward", "check",
    ]  # fmt: skip


def test_a_wrapper_takes_it(whole):
    env = GenRewardWrapper(gym.make(ENV, render_mode="rgb_array"), goal=str(whole.path))
    env.reset(seed=0)
    # Whoever follows exactly is paid 1, and by chance an action may.
    env.action_space.seed(0)
    info = env.step(env.action_space.sample())[4]
    assert info["reward_video_due"]
    assert info["reward_frame_due"]
    assert 0 < info["reward_video"] <= 1
    assert np.isfinite(info["reward_frame"])
    env.close()


def test_beside_it_lie_a_card_and_a_picture(whole):
    card = whole.path.with_suffix(".md").read_text()
    assert 'goal = load_goal("goal.safetensors")' in card
    assert "## On held-out episodes" in card
    for line in whole.check.lines:
        assert line.split(":")[1].strip() in card
    assert whole.path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert f"]({whole.path.with_suffix('.png').name})" in card


def test_without_nets_and_without_check(recipe, tmp_path, calls):
    plain = dataclasses.replace(recipe, nets=False, check=0, videos=99, length=5)
    made = make_goal(plain, tmp_path / "goal.safetensors")
    assert made.check is None
    assert not made.goal.nets
    # All there are, where more are asked for.
    assert made.goal.videos.shape == (4, 5, *SIZE, 3)
    assert calls == {"video": 4, "choice": 1, "episode": 0, "update": 0, "figures": 0}
    assert check_summary(made.goal) == []


def test_episodes_of_ones_own_are_trained_on(recipe, tmp_path, calls):
    collect(ENV, tmp_path / "mine", policy=GREEDY, episodes=4, seed=7)
    calls["episode"] = 0
    own = dataclasses.replace(recipe, data=str(tmp_path / "mine"), check=0)
    made = make_goal(own, tmp_path / "goal.safetensors")
    assert calls["episode"] == 0
    step = made.goal.provenance[-1]
    assert step["seeds"] == [7, 10]
    assert step["data"] == f"recorded: {GREEDY}"
    # The same episodes elsewhere are the same.
    shutil.move(tmp_path / "mine", tmp_path / "moved")
    moved = dataclasses.replace(own, data=str(tmp_path / "moved"))
    calls.update(dict.fromkeys(calls, 0))
    assert make_goal(moved, tmp_path / "goal.safetensors").goal == made.goal
    assert set(calls.values()) == {0}
    collect(ENV, tmp_path / "moved", policy=GREEDY, episodes=1, seed=90)
    with pytest.raises(ValueError, match="stage 'nets'.*data.sha256"):
        make_goal(moved, tmp_path / "goal.safetensors")


def test_a_goal_is_not_judged_on_what_it_was_trained_on(recipe, tmp_path):
    collect(ENV, tmp_path / "mine", episodes=3, seed=2_000_000)
    own = dataclasses.replace(recipe, data=str(tmp_path / "mine"))
    with pytest.raises(ValueError, match="must not be judged on what made it"):
        make_goal(own, tmp_path / "goal.safetensors")


def test_nets_on_states_are_trained_and_judged(recipe, tmp_path):
    """In its last stage the held-out episodes hand on their states."""
    look, data = {"size": SIZE, "obs": "dict"}, tmp_path / "mine"
    collect(ENV, data, policy=GREEDY, episodes=3, seed=90, options=look)
    own = dataclasses.replace(
        recipe, features="state", data=str(data), options={"obs": "dict"}
    )
    made = make_goal(own, tmp_path / "goal.safetensors")
    assert "goal_states" in made.goal.nets_config["input"]
    (video, frame) = made.check.figures
    assert (video.reward, frame.reward) == ("video", "frame")
    assert frame.auc.value is not None


# Going on


STAGES = (
    "candidates", "choice", "data", "pictures to features", "nets", "held-out", "check",
)  # fmt: skip


@pytest.mark.parametrize("stop", STAGES)
def test_a_stopped_run_resumes(stop, recipe, whole, tmp_path, calls):
    output = tmp_path / "goal.safetensors"
    everything = {"video": 4, "choice": 1, "episode": 17, "update": 40, "figures": 1}
    seen = []

    def interrupted(stage, done, total, figures=None):
        seen.append(stage)
        # In the middle, where a stage has one.
        if stage == stop and done >= total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_goal(recipe, output, on_progress=interrupted)
    assert not output.exists()
    assert seen[-1] == stop
    before = dict(calls)
    calls.update(dict.fromkeys(calls, 0))
    made = make_goal(recipe, output)
    assert output.read_bytes() == whole.path.read_bytes()
    assert made.check == whole.check
    missing = {what: everything[what] - before[what] for what in everything}
    # What was told before it was kept is made again: a step of a checkpoint.
    again = {"candidates": {"video": 0}, "nets": {"update": 2}}.get(stop, {})
    assert calls == {w: missing[w] + again.get(w, 0) for w in missing}
    assert any(before.values()) or stop == "candidates"
    assert sum(calls.values()) < sum(everything.values()) or stop == "candidates"
    assert not list((tmp_path / "goal.work").glob("*.checkpoint"))


def test_what_is_there_is_not_made_again(recipe, whole, tmp_path, calls, monkeypatch):
    work = tmp_path / "work"
    shutil.copytree(whole.path.with_suffix(".work"), work)
    with monkeypatch.context() as patch:
        patch.setattr(Generator, "_load", forbidden)
        make_goal(recipe, tmp_path / "again.safetensors", work=work)
    assert set(calls.values()) == {0}
    assert (tmp_path / "again.safetensors").read_bytes() == whole.path.read_bytes()
    # What is damaged is made again, and what follows is still right.
    chosen_path = work / "choice.safetensors"
    chosen_path.write_bytes(chosen_path.read_bytes()[:-1])
    next((work / "data").iterdir()).unlink()
    make_goal(recipe, tmp_path / "again.safetensors", work=work)
    assert calls == {"video": 0, "choice": 1, "episode": 1, "update": 0, "figures": 0}
    assert (tmp_path / "again.safetensors").read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize(
    ("change", "stage", "said", "remade"),
    [
        (
            {"prompt": "push the disc away"},
            "candidates",
            f"settings.prompt: {PROMPT!r}, not 'push the disc away'",
            {"video": 4, "choice": 1, "episode": 0, "update": 40, "figures": 1},
        ),
        (
            {"candidates": 3},
            "candidates",
            "candidates: 2, not 3",
            {"video": 2, "choice": 1, "episode": 0, "update": 40, "figures": 1},
        ),
        (
            {"success_prompt": ["the disc is there"]},
            "choice",
            "success_prompt: None, not ['the disc is there']",
            {"video": 0, "choice": 1, "episode": 0, "update": 40, "figures": 1},
        ),
        (
            {"episodes": 8},
            "data",
            "episodes: 9, not 8",
            {"video": 0, "choice": 0, "episode": 0, "update": 40, "figures": 1},
        ),
        (
            {"updates": 20},
            "nets",
            "updates: 40, not 20",
            {"video": 0, "choice": 0, "episode": 0, "update": 20, "figures": 1},
        ),
        (
            {"check": 5},
            "held-out",
            "episodes: 4, not 5",
            {"video": 0, "choice": 0, "episode": 2, "update": 0, "figures": 1},
        ),
    ],
)
def test_other_settings_are_an_error_that_names_the_stage(
    change, stage, said, remade, recipe, whole, tmp_path, calls
):
    work, output = tmp_path / "work", tmp_path / "goal.safetensors"
    shutil.copytree(whole.path.with_suffix(".work"), work)
    other = dataclasses.replace(recipe, **change)
    with pytest.raises(ValueError, match=f"the stage '{stage}'.*--overwrite") as caught:
        make_goal(other, output, work=work)
    assert said in str(caught.value)
    assert set(calls.values()) == {0}
    made = make_goal(other, output, work=work, overwrite=True)
    assert calls == remade
    assert made.goal != whole.goal
    episodes = len(list((work / "data").glob("*.safetensors")))
    assert episodes == change.get("episodes", 9)
    # And that is what is there now.
    calls.update(dict.fromkeys(calls, 0))
    assert make_goal(other, output, work=work).goal == made.goal
    assert set(calls.values()) == {0}


def test_a_stage_that_was_stopped_knows_its_settings(recipe, tmp_path):
    def interrupted(stage, done, total, figures=None):
        if done:
            raise KeyboardInterrupt

    output = tmp_path / "goal.safetensors"
    with pytest.raises(KeyboardInterrupt):
        make_goal(recipe, output, on_progress=interrupted)
    other = dataclasses.replace(recipe, sampling={"steps": 3, "frames": 9})
    with pytest.raises(ValueError, match="'candidates'.*num_inference_steps: 2, not 3"):
        make_goal(other, output)


def test_a_stage_follows_those_that_it_is_made_from(tmp_path):
    made = []

    def write(name, text):
        def make():
            made.append(name)
            path = tmp_path / name
            path.write_text(text)
            return [path]

        return make

    def run(text):
        made.clear()
        work = Work(tmp_path)
        stages = [
            Stage("one", {"n": (1, 2)}, write("a", text), ["a"]),
            Stage("two", {}, write("b", "b"), ["b"], after=["one"]),
            Stage("three", {}, write("c", "c"), ["c"]),
        ]
        work.check(stages, overwrite=False)
        return [work.run(stage) for stage in stages]

    assert run("x") == [[tmp_path / "a"], [tmp_path / "b"], [tmp_path / "c"]]
    assert made == ["a", "b", "c"]
    run("x")
    assert made == []
    # Made again with the same result: what follows stays. With another: it does not.
    (tmp_path / "a").unlink()
    run("x")
    assert made == ["a"]
    (tmp_path / "a").unlink()
    run("y")
    assert made == ["a", "b"]
    (tmp_path / "c").write_text("something else")
    run("y")
    assert made == ["c"]
    # A receipt that cannot be read is none.
    (tmp_path / "three.json").write_text("{")
    run("y")
    assert made == ["c"]


# What it is worth


def away(env, seed):
    """Straight from the target."""
    act = greedy(env, seed)
    return lambda observation: -act(observation)


AWAY = f"{__name__}:away"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Episodes of the same four starts: there, and away."""
    folder = tmp_path_factory.mktemp("played")
    return {
        policy: collect(
            ENV, folder, policy=policy, episodes=4, seed=2_000_000, steps=20
        )
        for policy in (AWAY, GREEDY)
    }


def goal_of(paths):
    """As long as an episode may be: what is done early stays done."""
    videos = [Episode.load(path).frames for path in paths]
    return pack(
        [np.concatenate([v, v[-1:].repeat(21 - len(v), 0)]) for v in videos],
        size=SIZE, length=21, encoder="pixels",
    )  # fmt: skip


def test_a_goal_of_the_task_ranks_successes_first_and_one_of_failures_last(played):
    right = check_goal(goal_of(played[GREEDY]), played, 20)
    wrong = check_goal(goal_of(played[AWAY]), played, 20)
    assert right.figures[0].auc.value > 0.9
    assert wrong.figures[0].auc.value < 0.1
    assert (right.wrong_way_round, wrong.wrong_way_round) == (False, True)
    assert "RANKS FAILURES ABOVE SUCCESSES" in wrong.lines[0]
    assert "RANKS" not in right.lines[0]
    assert right.episodes == {
        AWAY: {"episodes": 4, "successes": 0, "first seed": 2_000_000},
        GREEDY: {"episodes": 4, "successes": 4, "first seed": 2_001_000},
    }


def test_the_figures_are_those_of_the_wrapper(whole, played):
    """Scores by stepping the wrapped environment; figures pair by pair."""
    check = check_goal(whole.goal, played, 20)
    assert [figure.reward for figure in check.figures] == ["video", "frame"]
    scores, returns, wins = {"video": [], "frame": []}, [], []
    for policy, make in ((AWAY, away), (GREEDY, greedy)):
        for seed in range(2_000_000, 2_000_004):
            env = GenRewardWrapper(
                gym.make(ENV, render_mode="rgb_array"), goal=str(whole.path)
            )
            observation, _ = env.reset(seed=seed)
            act, over, own, parts = (
                make(env, seed),
                False,
                0.0,
                {"video": [], "frame": []},
            )
            while not over:
                observation, _, done, cut, info = env.step(act(observation))
                over, own = done or cut, own + info["reward_env"]
                for name, part in parts.items():
                    part.append(info[f"reward_{name}"])
            for name, part in parts.items():
                scores[name].append(np.mean(part))
            returns.append(own)
            wins.append(policy == GREEDY)
            env.close()
    for figure in check.figures:
        mean = np.array(scores[figure.reward])
        good, bad = mean[wins], mean[~np.array(wins)]
        above = [(a > b) + 0.5 * (a == b) for a in good for b in bad]
        assert figure.auc.value == pytest.approx(np.mean(above))
        assert figure.rank == pytest.approx(spearmanr(mean, returns)[0])


@pytest.mark.parametrize(
    ("auc", "rank", "wrong", "said"),
    [
        (Estimate(0.9, 0.7, 1.0, 20), 0.5, False, "ranks successes above failures"),
        (Estimate(0.6, 0.4, 0.8, 20), 0.5, False, "cannot be told from chance"),
        (Estimate(0.5, None, None, 4), None, False, "cannot be told from chance"),
        (Estimate(0.4, 0.2, 0.6, 20), 0.5, True, "SUCCESSES, which .* be chance"),
        (Estimate(0.2, 0.1, 0.4, 20), 0.5, True, "FAILURES ABOVE SUCCESSES: AUC 0.20"),
        (undefined(20, "no successes"), 0.5, False, r"successes\); it agrees"),
        (undefined(20, "no successes"), -0.5, True, "CONTRADICTS the .* -0.50"),
        (undefined(20, "no successes"), None, False, "unknown .*, or agrees"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_figure(auc, rank, wrong, said, goal):
    figure = Figure("video", auc, rank)
    assert figure.wrong_way_round is wrong
    assert re.search(said, figure.said)
    check = Check((figure,), {"random": {"episodes": 4, "successes": 0}})
    assert Check.from_json(json.loads(json.dumps(check.to_json()))) == check
    # The bundle says it, and no longer once it has been changed.
    bundle = goal.with_(provenance=(*goal.provenance, check.step()))
    assert check_summary(bundle) == check.lines
    card = readme(bundle, "me/goals", "goal.safetensors", "goal.png")
    assert ("do not train on it" in card) is wrong
    changed = bundle.with_(
        provenance=(*bundle.provenance, {**check.step(), "step": "x"})
    )
    assert check_summary(changed) == []
    assert "do not train on it" not in readme(changed, "", "goal.safetensors", "x.png")


def test_an_episode_that_is_over_before_anything_is_due(whole, played):
    cut = [Episode.load(path) for path in played[GREEDY]]
    folder = played[GREEDY][0].parent / "cut"
    folder.mkdir()
    paths = []
    for i, episode in enumerate(cut):
        keep = 1 if i == 0 else len(episode)
        short = dataclasses.replace(
            episode,
            frames=episode.frames[: keep + 1],
            frame_steps=episode.frame_steps[: keep + 1],
            actions=episode.actions[:keep],
            success=episode.success[:keep],
            rewards={"env": episode.rewards["env"][:keep]},
        )
        paths.append(folder / f"{i}.safetensors")
        short.save(paths[-1])
    # 65 frames of 200 steps: the first is looked at after three.
    check = check_goal(whole.goal, {AWAY: played[AWAY], GREEDY: paths}, 200)
    assert check.figures[0].auc.n == 7


def test_who_plays_the_held_out_episodes():
    assert policies_of("metaworld/reach") == ("random", "scripted", "noisy")
    assert policies_of(ENV) == policies_of("dmc/walker-walk") == ("random",)


# Bad input, found out before anything is made


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"prompt": " "}, ValueError, "prompt=' '"),
        ({"starts": 0}, ValueError, "starts=0: expected at least 1"),
        ({"updates": 0}, ValueError, "updates=0"),
        ({"check": -1}, ValueError, "check=-1: expected at least 0"),
        ({"length": 1}, ValueError, "length=1: expected at least 2"),
        ({"prior": -1.0}, ValueError, "prior=-1.0"),
        ({"success_prompt": []}, ValueError, "success_prompt="),
        ({"env_id": "no/such-v0"}, ValueError, "no/such"),
        ({"check_policies": ["wild"]}, ValueError, "policy 'wild'"),
        ({"data": "./none"}, ValueError, "there is no such folder"),
        ({"clip": "pixels"}, ValueError, "has no text tower"),
        ({"model": Model("./none", device="cpu")}, FileNotFoundError, "no folder"),
        ({"sampling": {"frames": 10}}, ValueError, r"4k \+ 1"),
        ({"encoder": "embedded:none"}, ValueError, "no embedded encoder 'none'"),
    ],
)
def test_what_is_refused(change, error, said, recipe, tmp_path, monkeypatch, calls):
    monkeypatch.setattr(Generator, "_load", forbidden)
    with pytest.raises(error, match=said):
        make_goal(dataclasses.replace(recipe, **change), tmp_path / "goal.safetensors")
    assert set(calls.values()) == {0}
    assert not (tmp_path / "goal.work").exists()


def test_where_the_environment_sets_no_limit_one_is_asked_for(recipe, tmp_path):
    gym.register("test/endless", "genreward_wrappers.testing:PointMass")
    try:
        endless = dataclasses.replace(recipe, env_id="test/endless")
        with pytest.raises(ValueError, match="sets no limit .*--horizon N"):
            make_goal(endless, tmp_path / "goal.safetensors")
    finally:
        del gym.registry["test/endless"]


def test_episodes_of_ones_own_are_known_by_what_they_hold(tmp_path):
    assert known("minari:a/b-v0") == {"source": "minari:a/b-v0"}
    (tmp_path / "a.safetensors").write_bytes(b"a")
    before = known(str(tmp_path))
    (tmp_path / "notes.txt").write_text("not read")
    assert known(str(tmp_path)) == before
    (tmp_path / "a.safetensors").write_bytes(b"b")
    assert known(str(tmp_path)) != before


# The command


def test_the_command(recipe, whole, tmp_path, monkeypatch, capsys):
    output = tmp_path / "goal.safetensors"
    line = ["make-goal", "--env", ENV, "--prompt", PROMPT, "--output", str(output),
            "--generator", recipe.model.source, "--steps", "2", "--frames", "9",
            "--starts", "2", "--candidates", "2", "--clip", recipe.clip,
            "--videos", "3", "--size", "32", "48", "--encoder", "pixels",
            "--episodes", "9", "--updates", "40", "--check", "4", "--device", "cpu",
            "--check-policy", "random", "--check-policy", GREEDY,
            "--processes", "1"]  # fmt: skip
    work = tmp_path / "work"
    shutil.copytree(whole.path.with_suffix(".work"), work)
    assert main([*line, "--work", str(work)]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert output.read_bytes() == whole.path.read_bytes()
    for text in (*whole.check.lines, "held-out episodes that succeeded: random "):
        assert text in said.out
    assert ("WRONG WAY ROUND" in said.err) == whole.check.wrong_way_round
    first, second = said.out.splitlines()[-2:]
    scope = {}
    exec(f"{first}\n{second}", scope)
    scope["env"].reset(seed=0)
    info = scope["env"].step(scope["env"].action_space.sample())[4]
    assert {"reward_video", "reward_frame"} <= set(info)
    scope["env"].close()
    # Ctrl-C and other settings.
    assert main([*line, "--work", str(work), "--updates", "41"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("genreward make-goal: the stage 'nets' in ")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "select", stopped)
    again = [*line, "--work", str(work), "--success-prompt", "there", "--overwrite"]
    assert main(again) == 130
    assert "stopped" in capsys.readouterr().err


def test_a_goal_that_is_the_wrong_way_round_is_said_loudly(
    recipe, whole, tmp_path, monkeypatch, capsys
):
    bad = Check(
        (Figure("video", Estimate(0.1, 0.0, 0.3, 8), -0.5),), whole.check.episodes
    )
    monkeypatch.setattr(module, "check_goal", lambda *_, **__: bad)
    work = tmp_path / "work"
    shutil.copytree(whole.path.with_suffix(".work"), work)
    (work / "check.json").unlink()
    made = make_goal(recipe, tmp_path / "goal.safetensors", work=work)
    assert made.check == bad
    _say(made, ENV, {"size": (32, 48)}, 7)
    said = capsys.readouterr()
    assert "WARNING: THIS GOAL IS THE WRONG WAY ROUND" in said.err
    assert "video: RANKS FAILURES ABOVE SUCCESSES: AUC 0.10 (0.00 to 0.30)" in said.out
    assert "render_mode='rgb_array', size=(32, 48)), " in said.out
    assert said.out.endswith(", horizon=7)\n")
    card = (tmp_path / "goal.md").read_text()
    assert "> **This goal is the wrong way round.**" in card
    assert main(["inspect", str(made.path)]) == 0
    assert "RANKS FAILURES ABOVE SUCCESSES" in capsys.readouterr().out


def test_an_embedded_model_of_pictures_and_texts(clip_folder, tmp_path, monkeypatch):
    package = tmp_path / "package"
    shutil.copytree(clip_folder, package / "assets" / "clip-64")
    monkeypatch.setattr(files.resources, "files", lambda name: package)
    assert embedded_encoders() == ["clip-64"]
    found = load_encoder("embedded:clip-64", device="cpu")
    plain = load_encoder(f"open_clip:{clip_folder}", device="cpu")
    assert found.fingerprint == plain.fingerprint
    assert found.source == "embedded:clip-64"
    text = "push the disc"
    assert torch.equal(found.encode_texts(text), plain.encode_texts(text))
