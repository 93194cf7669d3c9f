"""The command line; ``genreward --help`` lists its commands."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genreward_wrappers import __version__
from genreward_wrappers.cli.arguments import (
    add_generator,
    read_model,
    read_sampling,
)
from genreward_wrappers.cli.arguments import add_options as _add_options
from genreward_wrappers.cli.arguments import read_options as _options
from genreward_wrappers.cli.arguments import read_size as _size
from genreward_wrappers.cli.finetune import add_finetune
from genreward_wrappers.cli.make_goal import add_make_goal


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    args.said = shlex.join(["genreward", *(sys.argv[1:] if argv is None else argv)])
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    # What a user can put right comes as one line, not as a traceback.
    except (ValueError, TypeError, ImportError, OSError) as error:
        if args.traceback:
            raise
        print(f"genreward {args.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genreward",
        description="Gymnasium wrappers that turn generated goal videos into rewards.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error comes from"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")

    demo = commands.add_parser(
        "demo",
        help="three policies under the reward of an embedded goal",
        description="Runs a scripted, a noisy and a random policy on a Meta-World task "
        "with an embedded goal; prints what each earns, and draws it.",
    )
    demo.add_argument("--env", default="metaworld/pick-place")
    demo.add_argument("--goal", help="a goal bundle instead of the embedded one")
    demo.add_argument("--output", type=Path, default=Path("genreward_demo"))
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--device", default="auto")
    demo.set_defaults(run=_demo)

    pack = commands.add_parser(
        "pack",
        help="make a goal bundle of videos of your own",
        description="Brings videos (mp4, gif, npy), or a folder of candidates from "
        "`genreward generate`, to one size and length and packs them into a goal "
        "bundle.",
    )
    pack.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    pack.add_argument("--env", default="", help="the id of the environment")
    pack.add_argument("--camera", default="", help="the environment's camera")
    pack.add_argument("--prompt", default="", help="the task in words")
    pack.add_argument(
        "--size", type=int, nargs="+", default=[64], metavar="N", help="height [width]"
    )
    pack.add_argument("--length", type=int, default=129, help="frames a video")
    pack.add_argument("--encoder", default="embedded:video-vae-64")
    pack.add_argument("--license", default="")
    pack.add_argument("--output", type=Path, required=True)
    pack.set_defaults(run=_pack)

    add_finetune(commands)
    _add_generate(commands)
    _add_train_fb(commands)
    add_make_goal(commands)

    inspect = commands.add_parser("inspect", help="say what a goal bundle holds")
    inspect.add_argument("goal", help="a path, hf:// address or environment id")
    inspect.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the videos and key frames"
    )
    inspect.set_defaults(run=_inspect)

    _add_select(commands)
    _add_hub(commands)

    collect = commands.add_parser(
        "collect",
        help="record episodes to train on",
        description="Plays an environment and writes one file an episode into a "
        "folder: frames, states, actions, rewards, success. Episodes that are there "
        "already are not played again, so it goes on where it was stopped.",
    )
    collect.add_argument("--env", required=True, metavar="ID")
    collect.add_argument(
        "--policy",
        default="random",
        metavar="NAME",
        help="random (the default); scripted or noisy, for Meta-World; planned, for "
        "dm_control; or MODULE:FUNCTION, a function of (env, seed) that gives a "
        "function from observations to actions",
    )
    collect.add_argument("--episodes", type=int, default=50)
    collect.add_argument("--seed", type=int, default=4_000_000, help="of the first")
    collect.add_argument("--steps", type=int, default=1_000, help="at most, an episode")
    collect.add_argument(
        "--frames",
        type=int,
        default=0,
        metavar="N",
        help="keep so many of an episode, evenly, for video models; 0: all",
    )
    collect.add_argument("--prompt", default="", help="what the task is, in words")
    _add_options(collect)
    collect.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, metavar="N"
    )
    collect.add_argument("--output", type=Path, required=True, help="a folder")
    collect.set_defaults(run=_collect)

    _add_evaluate(commands)
    for kind, said in (
        ("viper", "the likelihood of a frame"),
        ("diffusion-reward", "the certainty of what comes next"),
    ):
        _add_train(commands, kind, said)

    live = commands.add_parser(
        "live",
        help="watch the episodes that a training run records",
        description="Shows, in a browser on this machine, the episodes in a folder "
        "that a wrapper writes to (record=), and goes on as they come.",
    )
    live.add_argument("folder", type=Path)
    live.add_argument("--port", type=int, default=8000)
    live.set_defaults(run=_live)

    doctor = commands.add_parser(
        "doctor",
        help="does this machine render rightly and fast?",
        description="Checks versions, devices, rendering and the embedded files; each "
        "finding says what to do.",
    )
    doctor.add_argument("--env", default="metaworld/pick-place")
    doctor.add_argument("--output", type=Path, help="a folder for the check picture")
    doctor.set_defaults(run=_doctor)

    convert = commands.add_parser(
        "convert",
        help="turn published weights into safetensors",
        description="Reads the published weights of S3D (with the list of its words) "
        "or LIV, which are pickles, with tensors alone allowed, checks that they are "
        "all there, and writes what RoboCLIP's weights= or LIV's encoder= take.",
    )
    convert.add_argument("kind", choices=("s3d", "liv"))
    convert.add_argument("source", type=Path, metavar="IN")
    convert.add_argument(
        "target", type=Path, metavar="OUT", help="a file for s3d, a folder for liv"
    )
    convert.add_argument("--words", type=Path, help="for s3d: s3d_dict.npy")
    convert.add_argument("--sha256", help="what IN's is expected to be")
    convert.set_defaults(run=_convert)

    goals = commands.add_parser("goals", help="list the embedded goals")
    goals.set_defaults(run=_goals)
    return parser


def _add_train(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], kind: str, said: str
) -> None:
    train = commands.add_parser(
        f"train-{kind}",
        help=f"train a reward on videos: {said}",
        description="Trains a VQ codec and a prior over its codes on videos of a task, "
        "recorded or generated; resumes where an earlier call stopped.",
    )
    train.add_argument(
        "videos",
        nargs="*",
        type=Path,
        metavar="VIDEO",
        help="videos (mp4, gif, npy), recorded episodes, folders of them, or of "
        "LeRobotDatasets",
    )
    train.add_argument(
        "--camera", default="", metavar="NAME", help="of a LeRobotDataset with several"
    )
    train.add_argument(
        "--goal",
        action="append",
        default=[],
        metavar="GOAL",
        help="a goal bundle or the id of an environment with an embedded one",
    )
    train.add_argument("--output", type=Path, required=True, metavar="FILE")
    train.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        help="height [width]; by default 64, or that of --codec",
    )
    train.add_argument("--codec-steps", type=int, metavar="N", help="of the codec")
    train.add_argument(
        "--codec",
        type=Path,
        metavar="FILE",
        help="another prior, of either kind, whose codec is taken as it is",
    )
    train.add_argument("--steps", type=int, metavar="N", help="of the prior")
    train.add_argument("--batch", type=int, metavar="N", help="windows of a step")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument(
        "--every", type=int, default=50, metavar="N", help="steps to a checkpoint"
    )
    train.add_argument("--device", default="auto")
    train.set_defaults(run=_train, kind=kind)


def _train(args: argparse.Namespace) -> int:
    from genreward_wrappers.training.priors.store import Prior
    from genreward_wrappers.training.priors.train import (
        BATCH,
        PriorTrainer,
        PriorTraining,
        train,
    )
    from genreward_wrappers.training.priors.vq import VQConfig
    from genreward_wrappers.training.videos import load_videos

    size = _size(args.size) if args.size else None
    codec = Prior.load(args.codec, device=args.device).codec if args.codec else None
    shape = codec.config if codec else VQConfig(size=size or (64, 64))
    if size not in (None, shape.size):
        raise ValueError(
            f"--size {size}: the codec of {args.codec} sees frames of {shape.size}; "
            "leave --size out"
        )
    given = {"codec_steps": args.codec_steps, "steps": args.steps, "batch": args.batch}
    said = {name: value for name, value in given.items() if value is not None}
    trainer = PriorTrainer(
        args.kind,
        load_videos(args.videos, args.goal, shape.size, args.camera),
        codec or shape,
        PriorTraining(**{"batch": BATCH[args.kind], "seed": args.seed, **said}),
        device=args.device,
    )
    prior = train(trainer, args.output, every=args.every)
    figures = "  ".join(f"{k} {v:.4g}" for k, v in prior.statistics.items())
    print(f"{args.output}: the reward over the training videos: {figures}")
    return 0


def _add_select(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    select = commands.add_parser(
        "select",
        help="choose each goal video's key frame by the task's words",
        description="Scores every frame of every video against the task's words by a "
        "model of pictures and texts, makes the best one the key frame, ranks the "
        "videos, and writes a new bundle and a picture of the curves.",
    )
    select.add_argument("goal", help="a path, hf:// address or environment id")
    select.add_argument(
        "--encoder",
        metavar="MODEL",
        help="open_clip:<model>/<pretrained tag> or open_clip:<folder>",
    )
    select.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="the task done, in words; the bundle's own by default; may be given "
        "several times",
    )
    select.add_argument(
        "--baseline",
        action="append",
        metavar="TEXT",
        help="the scene as it begins, whose likeness is taken off; may be given "
        "several times",
    )
    select.add_argument(
        "--prior",
        type=float,
        default=0.0,
        metavar="W",
        help="prefer later frames: a first frame loses W standard deviations of the "
        "scores",
    )
    select.add_argument("--keep", type=int, metavar="N", help="the best N videos only")
    select.add_argument("--device", default="auto")
    select.add_argument("--dtype")
    select.add_argument(
        "--picture", type=Path, metavar="FILE", help="beside the output by default"
    )
    select.add_argument("--output", type=Path, required=True)
    select.set_defaults(run=_select)


def _select(args: argparse.Namespace) -> int:
    from genreward_wrappers.data.goals import load_goal
    from genreward_wrappers.goal_pipeline.card import curve_summary
    from genreward_wrappers.goal_pipeline.select import (
        ENCODER,
        draw,
        import_figure,
        select,
    )
    from genreward_wrappers.progress import told

    picture = args.picture or args.output.with_suffix(".png")
    if picture == args.output:
        raise ValueError(f"--picture and --output are both {picture}")
    # Found out before the frames are scored.
    import_figure()
    candidates = load_goal(args.goal)
    with told("videos") as tick:
        goal, selection = select(
            candidates,
            args.encoder or ENCODER,
            prompts=args.prompt,
            baseline=args.baseline,
            prior=args.prior,
            keep=args.keep,
            device=args.device,
            dtype=args.dtype,
            tick=tick,
        )
    goal.save(args.output)
    draw(picture, candidates, selection)
    print("\n".join(curve_summary(goal)))
    print(f"{args.output}: {goal!r}; the curves: {picture}")
    return 0


def _add_hub(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    push = commands.add_parser(
        "push",
        help="upload a goal bundle to the Hugging Face Hub",
        description="Uploads a bundle with a card and a contact sheet. The repository "
        "and the branch are made if they are not there.",
    )
    push.add_argument("goal", type=Path, metavar="FILE")
    push.add_argument("repo", metavar="OWNER/REPO")
    push.add_argument("--revision", metavar="BRANCH", help="the main one by default")
    push.add_argument("--private", action="store_true")
    push.set_defaults(run=_push)

    pull = commands.add_parser(
        "pull",
        help="fetch a goal bundle from the Hugging Face Hub",
        description="Fetches a bundle, checks it and writes it where you say. Offline "
        "(HF_HUB_OFFLINE=1) it takes what was fetched before.",
    )
    pull.add_argument(
        "address", metavar="hf://OWNER/REPO/FILE[@REVISION]", help="best with a commit"
    )
    pull.add_argument("--output", type=Path, required=True)
    pull.set_defaults(run=_pull)


def _push(args: argparse.Namespace) -> int:
    from genreward_wrappers.data.goals import GoalBundle
    from genreward_wrappers.goal_pipeline.card import forbidding
    from genreward_wrappers.goal_pipeline.hub import push

    address = push(args.goal, args.repo, revision=args.revision, private=args.private)
    for licence in forbidding(GoalBundle.load(args.goal)):
        print(f"not for commercial use, and its card says so: {licence}")
    print(f"{args.goal}: {address}")
    return 0


def _pull(args: argparse.Namespace) -> int:
    from genreward_wrappers.goal_pipeline.card import forbidding
    from genreward_wrappers.goal_pipeline.hub import pull

    pulled = pull(args.address, args.output)
    for licence in forbidding(pulled.goal):
        print(f"not for commercial use: {licence}")
    if pulled.advice:
        print(pulled.advice, file=sys.stderr)
    print(f"{args.output}: {pulled.goal!r}")
    return 0


def _add_generate(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    generate = commands.add_parser(
        "generate",
        help="make goal videos with a video diffusion model",
        description="Makes candidate videos of a prompt that continue first frames, "
        "with any image-to-video or text-to-video pipeline of diffusers, and draws a "
        "contact sheet of them. Candidates that are there already are not made again. "
        "`genreward pack FOLDER` makes a goal of them.",
    )
    generate.add_argument(
        "--model", required=True, help="a pipeline's folder, hub id or embedded:<name>"
    )
    generate.add_argument("--prompt", required=True, help="the task in words")
    start = generate.add_argument_group("the first frame")
    start.add_argument("--env", default="", metavar="ID", help="from its resets")
    _add_options(start)
    start.add_argument("--starts", type=int, default=1, help="first frames of it")
    start.add_argument("--image", type=Path, metavar="FILE", help="or from a picture")
    generate.add_argument(
        "--candidates", type=int, default=4, metavar="N", help="of each first frame"
    )
    generate.add_argument(
        "--seed",
        type=int,
        default=1_000_000,
        help="the first one, of resets and of noise",
    )
    add_generator(generate)
    generate.add_argument("--output", type=Path, required=True, help="a folder")
    generate.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from genreward_wrappers.generators.candidates import SHEET
    from genreward_wrappers.generators.pipeline import Sampling
    from genreward_wrappers.goal_pipeline.generate import generate
    from genreward_wrappers.progress import told

    with told("denoising steps") as tick:
        paths = generate(
            read_model(args, args.model),
            Sampling(args.prompt, **read_sampling(args)),
            args.output,
            env_id=args.env,
            options=_options(args.option),
            image=args.image,
            starts=args.starts,
            candidates=args.candidates,
            seed=args.seed,
            tick=tick,
        )
    print(f"{args.output}: {len(paths)} candidates, to be seen in {SHEET}")
    return 0


def _add_evaluate(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="judge rewards before training on them",
        description="Scores test episodes of known worth with one or more rewards and "
        "their controls; prints figures and verdicts, writes report.json and a page.",
    )
    evaluate.add_argument("--env", required=True, metavar="ID")
    evaluate.add_argument(
        "--reward",
        action="append",
        metavar="NAME[:KEY=VALUE,...]",
        help="genreward (the default), video, frame, paper, pixels, random, env, or a "
        "name that load_reward knows, as "
        "\"vlm-rm:prompt='a red, round disc',alpha=0\"; may be given several times",
    )
    evaluate.add_argument("--goal", help="a goal bundle instead of the embedded one")
    evaluate.add_argument(
        "--rollouts",
        metavar="SOURCE",
        help="test episodes of your own: a folder, or minari:<dataset>",
    )
    evaluate.add_argument("--camera", help="the environment's, if not its default one")
    evaluate.add_argument("--frames", type=int, default=65, help="scored an episode")
    evaluate.add_argument("--output", type=Path, default=Path("genreward_report"))
    evaluate.add_argument("--cache", type=Path, help="a folder for test episodes")
    evaluate.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, metavar="N"
    )
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--dtype")
    evaluate.add_argument(
        "--fail-below",
        action="append",
        default=[],
        metavar="FIGURE=VALUE",
        help="exit with status 1 if a reward's figure is lower, as auc=0.8",
    )
    evaluate.add_argument(
        "--learn",
        type=int,
        nargs="?",
        const=20_000,
        metavar="STEPS",
        help="also train an agent on each reward alone (20000 steps take some ten "
        "minutes a run on one core); goes on where an earlier call stopped",
    )
    evaluate.add_argument("--seeds", type=int, default=2, help="agents a reward")
    evaluate.set_defaults(run=_evaluate)


def _add_train_fb(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    train = commands.add_parser(
        "train-fb",
        help="train the nets of the frame-level reward",
        description="Trains forward-backward nets on recorded episodes, judges them on "
        "episodes that it held out, and writes the goal with the nets in it. Goes on "
        "where it was stopped.",
    )
    train.add_argument("--goal", required=True, help="a path, hf:// address or id")
    train.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="a folder of episodes from `genreward collect`, or minari:<dataset>",
    )
    train.add_argument(
        "--features",
        metavar="ENCODER",
        help="what F and B see: an encoder, the goal's own by default, or state",
    )
    train.add_argument("--stack", type=int, default=1, help="pictures seen at once")
    train.add_argument(
        "--variant",
        choices=("standard", "one-step"),
        default="standard",
        help="of the best policy for each goal, or of the policy in the data",
    )
    for name, kind in (
        ("discount", float),
        ("z", int),
        ("hidden", int),
        ("backward-hidden", int),
    ):
        train.add_argument(f"--{name}", type=kind)
    for name, kind in (
        ("batch", int),
        ("learning-rate", float),
        ("target-rate", float),
        ("q-weight", float),
        ("seed", int),
    ):
        train.add_argument(f"--{name}", type=kind)
    train.add_argument("--updates", type=int, default=10_000)
    train.add_argument(
        "--settle",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the updates, the last ones, with a fifth of the learning rate",
    )
    train.add_argument("--checkpoint", type=Path, help="beside the output by default")
    train.add_argument("--tensorboard", type=Path, metavar="FOLDER")
    train.add_argument("--cache", type=Path, help="a folder for features")
    train.add_argument("--device", default="auto")
    train.add_argument("--output", type=Path, required=True)
    train.set_defaults(run=_train_fb)


def _train_fb(args: argparse.Namespace) -> int:
    from genreward_wrappers.cli.train_fb import run_train_fb

    def given(*names: str) -> dict[str, Any]:
        values = {name: getattr(args, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    return run_train_fb(
        args.goal,
        args.data,
        args.output,
        encoder=args.features,
        stack=args.stack,
        config={
            "conditioned": args.variant == "standard",
            **given("discount", "z", "hidden", "backward_hidden"),
        },
        training=given("batch", "learning_rate", "target_rate", "q_weight", "seed"),
        updates=args.updates,
        settle=args.settle,
        checkpoint=args.checkpoint,
        tensorboard=args.tensorboard,
        cache=args.cache,
        device=args.device,
    )


def _collect(args: argparse.Namespace) -> int:
    from genreward_wrappers.goal_pipeline.collect import collect
    from genreward_wrappers.progress import told

    with told("episodes") as tick:
        paths = collect(
            args.env,
            args.output,
            policy=args.policy,
            episodes=args.episodes,
            seed=args.seed,
            steps=args.steps,
            frames=args.frames,
            prompt=args.prompt,
            options=_options(args.option),
            processes=args.processes,
            tick=tick,
        )
    print(f"{args.output}: {len(paths)} episodes of the policy {args.policy!r}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from genreward_wrappers.cli.evaluate import run_evaluate

    return run_evaluate(
        args.env,
        args.reward or ["genreward"],
        goal=args.goal,
        rollouts=args.rollouts,
        camera=args.camera,
        frames=args.frames,
        output=args.output,
        cache=args.cache,
        processes=args.processes,
        device=args.device,
        dtype=args.dtype,
        limits=_limits(args.fail_below),
        learn_steps=args.learn,
        seeds=args.seeds,
        command=args.said,
    )


def _limits(given: Sequence[str]) -> Mapping[str, float]:
    limits = {}
    for item in given:
        name, _, value = item.partition("=")
        try:
            limits[name] = float(value)
        except ValueError as error:
            raise ValueError(
                f"--fail-below {item!r}: expected FIGURE=VALUE, as auc=0.8"
            ) from error
    return limits


def _live(args: argparse.Namespace) -> int:
    from genreward_wrappers.evaluate.page.live import serve

    server = serve(args.folder, port=args.port)
    print(f"{args.folder}: {server.url} (stop with Ctrl-C)", flush=True)
    try:
        server.serve_forever()
    finally:
        server.close()
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from genreward_wrappers.doctor import run_doctor

    return run_doctor(args.env, args.output)


def _demo(args: argparse.Namespace) -> int:
    from genreward_wrappers.cli.demo import run_demo

    run_demo(args.env, args.goal, args.output, args.seed, args.device)
    return 0


def _pack(args: argparse.Namespace) -> int:
    from genreward_wrappers.goal_pipeline.pack import pack, pack_candidates

    made = [path.is_dir() or path.suffix == ".safetensors" for path in args.videos]
    if any(made) and not all(made):
        raise ValueError(
            "videos and candidates of `genreward generate` are packed apart, got both"
        )
    goal = (pack_candidates if all(made) else pack)(
        args.videos,
        env_id=args.env,
        camera=args.camera,
        prompt=args.prompt,
        size=_size(args.size),
        length=args.length,
        encoder=args.encoder,
        license=args.license,
    )
    goal.save(args.output)
    print(f"{args.output}: {goal!r}")
    return 0


def _convert(args: argparse.Namespace) -> int:
    from genreward_wrappers.encoders.convert import convert

    convert(args.kind, args.source, args.target, words=args.words, sha256=args.sha256)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from genreward_wrappers.data.contact_sheet import contact_sheet, save_picture
    from genreward_wrappers.data.goals import load_goal
    from genreward_wrappers.goal_pipeline.card import (
        check_summary,
        curve_summary,
        describe,
    )

    goal = load_goal(args.goal)
    if args.picture is not None:
        save_picture(args.picture, contact_sheet(goal))
    print(repr(goal))
    print(json.dumps(describe(goal), indent=2))
    for line in (*curve_summary(goal), *check_summary(goal)):
        print(line)
    return 0


def _goals(args: argparse.Namespace) -> int:
    from genreward_wrappers.data.goals import embedded_goals

    print("\n".join(embedded_goals()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
