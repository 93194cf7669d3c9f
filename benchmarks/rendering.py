"""Frames a second: upstream's way of drawing against ours.

    python -m benchmarks.rendering

Each way draws in a process of its own, since upstream's renderers take each other's GL
contexts, and the processes take turns, so that a busy machine is as busy for each. Only
drawing is timed, no physics. Four tables: upstream against `render_quality`, meshes
whole and simplified, what each option of it costs, and vector environments in one
process and in several.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym

import genreward_wrappers  # noqa: F401  (registers the environments)
from benchmarks.overhead import table
from genreward_wrappers.envs._gl import choose_backend

Draw = Callable[[], Any]


def metaworld_upstream(task: str, size: int) -> Draw:
    """Meta-World as it is shipped, by the camera that stands where ours does."""
    choose_backend()
    import metaworld  # noqa: F401  (registers the environments)

    env = gym.make(
        "Meta-World/MT1",
        env_name=f"{task}-v3",
        seed=0,
        render_mode="rgb_array",
        camera_name="corner4",
        width=size,
        height=size,
    )
    env.reset()
    return env.render


def dm_control_upstream(task: str, size: int) -> Draw:
    """dm_control through Shimmy."""
    choose_backend()
    import shimmy  # noqa: F401  (registers the environments)

    env = gym.make(
        f"dm_control/{task}-v0",
        render_mode="rgb_array",
        render_kwargs={"height": size, "width": size, "camera_id": 0},
    )
    env.reset(seed=0)
    return env.render


def ours(env_id: str, size: int, **options: Any) -> Draw:
    """Any environment of this package, made to draw although nothing has happened."""
    env = gym.make(env_id, obs="state", size=size, render_mode="rgb_array", **options)
    env.reset(seed=0)
    inner: Any = env.unwrapped

    def draw() -> Any:
        inner._frame = None
        return env.render()

    return draw


UPSTREAM: dict[str, Callable[[str, int], Draw]] = {
    "metaworld": metaworld_upstream,
    "dmc": dm_control_upstream,
}


def serve(make: Callable[[], Draw], pipe: Connection) -> None:
    """Draws as many pictures as it is asked for, and answers how long it took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draw = make()
        # Textures are uploaded with the first one.
        draw()
    pipe.send(None)
    while count := pipe.recv():
        begin = time.perf_counter()
        for _ in range(count):
            draw()
        pipe.send((time.perf_counter() - begin) / count)


class Way:
    """One way of drawing, in a process of its own."""

    def __init__(self, make: Callable[[], Draw]) -> None:
        """Starts it; it is ready when it has drawn once."""
        spawn = multiprocessing.get_context("spawn")
        self._pipe, other = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(make, other), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()
        self._count = 1
        self._count = max(1, int(0.15 / self.seconds()))

    def seconds(self) -> float:
        """A picture's time, now."""
        self._pipe.send(self._count)
        taken: float = self._pipe.recv()
        return taken

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(0)
        self._process.join()


@contextlib.contextmanager
def ways(makes: list[Callable[[], Draw]]) -> Iterator[list[Way]]:
    """Several of them, one after the other, so that none starts while one is timed."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Way(make))) for make in makes]


def by_turns(timed: list[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Seconds of each in each round."""
    taken: list[list[float]] = [[] for _ in timed]
    for _ in range(rounds):
        for run, found in zip(timed, taken, strict=True):
            found.append(run())
    return taken


def ratio(slow: list[float], fast: list[float]) -> str:
    """The median of the rounds' ratios: each is of one moment."""
    return f"{statistics.median(s / f for s, f in zip(slow, fast, strict=True)):.1f}x"


def rate(taken: list[float]) -> str:
    """Frames a second in the median round."""
    return f"{1 / statistics.median(taken):.0f}"


def against_upstream(env_ids: list[str], sizes: list[int], rounds: int) -> None:
    """Upstream, full and fast, per environment and size."""
    rows = []
    for env_id in env_ids:
        namespace, _, task = env_id.partition("/")
        for size in sizes:
            makes = [
                partial(UPSTREAM[namespace], task, size),
                partial(ours, env_id, size, render_quality="full"),
                partial(ours, env_id, size),
            ]
            with ways(makes) as running:
                taken = by_turns([way.seconds for way in running], rounds)
            rows.append(
                [env_id, f"{size}x{size}", *map(rate, taken), ratio(taken[0], taken[2])]
            )
    head = ["environment", "size", "upstream", "full", "fast", "fast / upstream"]
    table("Frames a second", head, rows)


def meshes(env_ids: list[str], sizes: list[int], rounds: int) -> None:
    """Fast with whole meshes and with simplified ones, which are the default."""
    rows = []
    for env_id in env_ids:
        for size in sizes:
            makes = [
                partial(ours, env_id, size, render_quality={"whole_meshes": True}),
                partial(ours, env_id, size),
            ]
            with ways(makes) as running:
                taken = by_turns([way.seconds for way in running], rounds)
            cells = [*map(rate, taken), ratio(*taken)]
            rows.append([env_id, f"{size}x{size}", *cells])
    head = ["environment", "size", "whole", "simplified", "simplified / whole"]
    table("Meshes, frames a second", head, rows)


def options(env_ids: list[str], size: int, rounds: int) -> None:
    """What each option of `render_quality` costs, added to fast alone."""
    qualities: dict[str, Any] = {
        "fast": "fast",
        "reflections": {"reflections": True},
        "samples 4": {"samples": 4},
        "shadows": {"shadows": True},
        "whole meshes": {"whole_meshes": True},
        "full": "full",
    }
    rows = []
    for env_id in env_ids:
        makes = [
            partial(ours, env_id, size, render_quality=quality)
            for quality in qualities.values()
        ]
        with ways(makes) as running:
            taken = by_turns([way.seconds for way in running], rounds)
        each = [f"{1e3 * statistics.median(found):.1f}" for found in taken]
        rows.append([env_id, *each])
    table(f"Milliseconds a frame at {size}x{size}", ["environment", *qualities], rows)


def vectors(env_id: str, sizes: list[int], rounds: int, count: int = 2) -> None:
    """Environments that draw in this process, and in workers; physics included."""
    rows = []
    for size in sizes:
        made = [
            gym.make_vec(env_id, count, "sync", size=size),
            gym.make_vec(
                env_id, count, "async", vector_kwargs={"context": "spawn"}, size=size
            ),
        ]

        def steps(envs: Any) -> float:
            begin = time.perf_counter()
            for _ in range(16):
                envs.step(envs.action_space.sample())
            return (time.perf_counter() - begin) / 16 / count

        for envs in made:
            envs.reset(seed=0)
        taken = by_turns([partial(steps, envs) for envs in made], rounds)
        for envs in made:
            envs.close()
        cells = [*map(rate, taken), ratio(taken[0], taken[1])]
        rows.append([str(count), f"{size}x{size}", *cells])
    head = ["environments", "size", "sync", "async, spawn", "async / sync"]
    table(f"{env_id}, steps with pictures a second, all together", head, rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument(
        "--only", choices=["upstream", "meshes", "options", "vectors"], help="one table"
    )
    args = parser.parse_args()
    env_ids = []
    if importlib.util.find_spec("metaworld") is not None:
        env_ids += ["metaworld/pick-place", "metaworld/door-open"]
    if importlib.util.find_spec("shimmy") is not None:
        env_ids += ["dmc/walker-walk", "dmc/cheetah-run"]
    env_ids = [env_id for env_id in env_ids if env_id in gym.registry]
    has_meshes = [env_id for env_id in env_ids if env_id.startswith("metaworld/")]
    if args.only in (None, "upstream"):
        against_upstream(env_ids, args.sizes, args.rounds)
    if args.only in (None, "meshes"):
        meshes(has_meshes, args.sizes, args.rounds)
    if args.only in (None, "options"):
        options(env_ids, 128, args.rounds)
    if args.only in (None, "vectors") and has_meshes:
        vectors(has_meshes[0], args.sizes[:2], args.rounds)


if __name__ == "__main__":
    main()
