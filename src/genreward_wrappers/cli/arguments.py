"""What the commands share: how one is added, and the options that several have.

Nothing here imports torch: what a user typed wrongly is reported before seconds are
spent on that.
"""

from __future__ import annotations

import argparse
import ast
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from genreward_wrappers.encoders.names import (
    check_device,
    check_dtype,
    check_encoder,
)

if TYPE_CHECKING:
    from genreward_wrappers.data.goals import GoalBundle
    from genreward_wrappers.rewards.spec import RewardSpec

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run = Callable[[argparse.Namespace], int]


def checked(check: Callable[[str], None]) -> Callable[[str], str]:
    """An argument's type: a text that passes a check, whose words an error has."""

    def read(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    return read


def seed_number(text: str) -> int:
    """A number that all generators take as their seed."""
    last = 2**32 - 1
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= last:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 0 to {last}, got {text!r}"
        )
    return seed


#: Options of several commands, spelled here and nowhere else.
SHARED: dict[str, dict[str, Any]] = {
    "--env": {
        "metavar": "ID",
        "help": "The environment's id, as gymnasium.make takes it.",
    },
    "--env-arg": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "An argument to make the environment with, for example size=96. May "
        "be given several times.",
    },
    "--goal": {
        "metavar": "GOAL",
        "help": "A goal bundle (a path or an hf:// address), or the id of an "
        "environment that has an embedded goal.",
    },
    "--prompt": {"default": "", "metavar": "TEXT", "help": "The task in words."},
    "--camera": {
        "default": "",
        "metavar": "NAME",
        "help": "The camera that the videos show; needed where there are several.",
    },
    "--encoder": {
        "metavar": "ENCODER",
        "help": "The encoder that the goal is meant for: pixels, embedded:<name>, "
        "hf://<owner>/<repo>, open_clip:<model>/<tag>, transformers:<id>, or a folder.",
    },
    "--size": {
        "type": int,
        "nargs": "+",
        "metavar": "N",
        "help": "The height and width of the videos in pixels; one number is both.",
    },
    "--license": {
        "default": "",
        "metavar": "TEXT",
        "help": "The licence of the videos, for example cc-by-4.0.",
    },
    "--prior": {
        "type": float,
        "default": 0.0,
        "metavar": "W",
        "help": "How strongly later key frames are preferred: the first frame loses W "
        "standard deviations of the scores.",
    },
    "--baseline": {
        "action": "append",
        "metavar": "TEXT",
        "help": "What the scene looks like at the beginning, in words; similarity to "
        "it is subtracted. May be given several times.",
    },
    "--starts": {
        "type": int,
        "default": 1,
        "metavar": "N",
        "help": "How many first frames to take from resets of the environment.",
    },
    "--candidates": {
        "type": int,
        "default": 4,
        "metavar": "N",
        "help": "How many videos to generate from each first frame.",
    },
    "--features": {
        "metavar": "ENCODER",
        "help": "What the nets see: an encoder, or state for the environment's own "
        "numbers. The goal's encoder by default.",
    },
    "--updates": {
        "type": int,
        "default": 10_000,
        "metavar": "N",
        "help": "How many gradient steps to train the nets for.",
    },
    "--revision": {
        "metavar": "REVISION",
        "help": "The branch, tag or commit of the Hub repository; its main branch by "
        "default.",
    },
    "--seed": {
        "type": seed_number,
        "default": 0,
        "metavar": "SEED",
        "help": "The seed of all random numbers.",
    },
    "--processes": {
        "type": int,
        "default": os.cpu_count() or 1,
        "metavar": "N",
        "help": "How many processes play episodes at a time; one per core by default.",
    },
    "--checkpoint": {
        "type": Path,
        "metavar": "FILE",
        "help": "The file that an interrupted run resumes from; next to the output "
        "by default.",
    },
    "--tensorboard": {
        "type": Path,
        "metavar": "FOLDER",
        "help": "A folder to log the figures to for TensorBoard; none by default.",
    },
    "--cache": {
        "type": Path,
        "metavar": "FOLDER",
        "help": "Where encoded data is kept between runs; the user's cache folder by "
        "default.",
    },
    "--picture": {
        "type": Path,
        "metavar": "FILE",
        "help": "The picture to draw the videos and their key frames into; none by "
        "default.",
    },
    "--device": {
        "type": checked(check_device),
        "default": "auto",
        "metavar": "DEVICE",
        "help": 'Where the models run: "auto" (a GPU if there is one), "cpu", "cuda" '
        'or "cuda:<index>".',
    },
    "--dtype": {
        "type": checked(check_dtype),
        "metavar": "TYPE",
        "help": "The type that the models compute in: float32 (the default), float16 "
        "or bfloat16.",
    },
    "--output": {
        "type": Path,
        "required": True,
        "metavar": "FILE",
        "help": "The file to write.",
    },
    "--json": {
        "action": "store_true",
        "help": "Print the result as JSON, for other programs to read.",
    },
}


#: The help of a ``--goal`` that may also be a video.
GOAL_OR_VIDEO = (
    "A goal bundle, or a video of the task; the environment's embedded goal by default."
)


class Help(argparse.HelpFormatter):
    """Help that ends with each option's default, and keeps examples as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        # Only what has to be given: each option follows with its description.
        needed = [a for a in actions if a.required or not a.option_strings]
        self._prog += " [options]"
        super().add_usage(usage, needed, groups, prefix)

    def add_argument(self, action: argparse.Action) -> None:
        # `genreward --help` lists the commands in groups at its end.
        if not isinstance(action, argparse._SubParsersAction):
            super().add_argument(action)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_help_string(self, action: argparse.Action) -> str:
        said = action.help or ""
        default = action.default
        empty = default in (None, argparse.SUPPRESS, "") or default == []
        if empty or isinstance(default, bool) or "default" in said:
            return said
        text = " ".join(map(str, default)) if isinstance(default, list) else default
        return f"{said} Default: {str(text).replace('%', '%%')}."

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # Indented lines are commands to copy.
        return "\n".join(
            line if line.startswith("  ") else textwrap.fill(line, width)
            for line in text.splitlines()
        )


def add_command(
    commands: Commands, name: str, run: Run, help: str, about: str, example: str
) -> argparse.ArgumentParser:
    """Adds a command.

    Args:
        commands: Where to.
        name: What it is called.
        run: Runs it; returns the exit status.
        help: One line for the list of commands.
        about: A paragraph for its own help.
        example: What follows the command's name in an example.
    """
    lines = example.replace("\n", " \\\n      ")
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=about,
        epilog=f"Example:\n  genreward {name} {lines}".rstrip(),
        formatter_class=Help,
    )
    # After the command as well as before it, where the default is set.
    add_verbosity(command, argparse.SUPPRESS)
    command.set_defaults(run=run)
    return command


def add_verbosity(parser: argparse.ArgumentParser, default: Any = False) -> None:
    """Adds what every command has: ``--quiet`` and ``--traceback``."""
    for flag, said in (
        ("--quiet", "Show no progress, only results and errors."),
        ("--traceback", "Show where an error comes from."),
    ):
        parser.add_argument(flag, action="store_true", default=default, help=said)


def add_count(
    command: argparse._ActionsContainer, flag: str, help: str, **changes: Any
) -> None:
    """Adds an option that takes a whole number."""
    command.add_argument(flag, **{"type": int, "metavar": "N", "help": help, **changes})


def add_shared(command: argparse._ActionsContainer, flag: str, **changes: Any) -> None:
    """Adds an option of `SHARED`, with what is different in this command."""
    command.add_argument(flag, **{**SHARED[flag], **changes})


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the arguments that the user gave, by name."""
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def read_pairs(
    items: Sequence[str], flag: str = "--env-arg", example: str = "size=96"
) -> dict[str, Any]:
    """Values by their keys; what is no Python literal is a text."""
    pairs: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(
                f"{flag} {item!r}: expected KEY=VALUE, for example {example}"
            )
        try:
            pairs[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[key] = value
    return pairs


def read_size(numbers: Sequence[int]) -> tuple[int, int]:
    """(height, width) of one number or two."""
    if len(numbers) > 2:
        raise ValueError(f"--size takes one or two numbers, got {list(numbers)}")
    return numbers[0], numbers[-1]


def check_env(env_id: str) -> None:
    """Raises unless gymnasium knows the environment.

    Raises:
        ValueError: It does not.
    """
    import gymnasium as gym

    import genreward_wrappers  # noqa: F401  # registers its own environments

    try:
        gym.spec(env_id)
    except (gym.error.Error, ImportError) as error:
        raise ValueError(f"env {env_id!r}: {error}") from error


def check_goal(goal: str | None, env_id: str | None = None) -> GoalBundle | None:
    """The goal, or an error if there is none; None for one that is on the Hub.

    Raises:
        GoalError: There is none, or it is damaged.
    """
    from genreward_wrappers.data.goals import GoalError, HubAddress, load_goal
    from genreward_wrappers.data.video_files import is_videos

    if is_videos(goal):
        if not Path(str(goal)).exists():
            raise GoalError(f"there is no video at {goal}")
        raise GoalError(
            f"{goal} is a video, and this command takes a goal bundle. Make one with: "
            f"genreward pack {goal} --env {env_id or 'ID'} --output goal.safetensors"
        )
    if goal is not None and goal.startswith("hf://"):
        HubAddress.parse(goal)
        return None
    return load_goal(goal, env_id)


def check_goal_or_video(
    goal: str | None, env_id: str | None, rewards: Iterable[RewardSpec]
) -> None:
    """Raises unless there is a goal for rewards, or a video that makes one.

    Raises:
        GoalError: There is none, it is damaged, the video makes no goal, or the goal
            lacks the nets that a reward asks.
    """
    from genreward_wrappers.data.video_files import is_videos
    from genreward_wrappers.generators.own_videos import load_or_pack
    from genreward_wrappers.rewards.frame_options import check_nets

    if is_videos(goal):
        # Pixels need no encoder, and so no torch.
        found: GoalBundle | None = load_or_pack(goal, env_id, "pixels")
    else:
        found = check_goal(goal, env_id)
    if found is not None and any(reward.name == "frame" for reward in rewards):
        check_nets(found)


def check_encoders(*names: str | None) -> None:
    """Raises for what can be no encoder's name; one that was not given is none."""
    for name in filter(None, names):
        check_encoder(name)


def check_least(args: argparse.Namespace, **least: int) -> None:
    """Raises for numbers that are too small, in the words of the command line."""
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {value}: expected at least {low}")


def check_places(places: Iterable[str | Path]) -> None:
    """Raises for files and folders that are not there; Minari finds its own."""
    for place in places:
        if not (str(place).startswith("minari:") or Path(place).exists()):
            raise FileNotFoundError(f"there is no file or folder {place}")


def check_writable(folder: Path) -> None:
    """Raises if nothing can be written to the folder, before anything is computed."""
    probe = folder / ".probe"
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        # What else is wrong must not leave an empty folder behind.
        for path in new:
            path.rmdir()
    except OSError as error:
        raise OSError(
            f"--output {folder} cannot be written to ({error.strerror}): give another "
            "folder"
        ) from error
