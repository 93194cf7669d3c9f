"""What the wrappers cost, and what batching and streaming save.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --against ../other/src

Six tables, each from one run on this machine: the import; microseconds a step of every
host with a model that does nothing; where the CPU time of a pixel environment goes;
streamed against re-encoded video at the same cadence; one model for N environments
against a model in each. ``--against`` prints another one instead: what a step costs
here and with another copy of the package, by turns, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

import genreward_wrappers
from genreward_wrappers import (
    GoalBundle,
    RewardModel,
    RewardModelWrapper,
    Score,
    load_encoder,
    load_goal,
    vector,
)
from genreward_wrappers.core import Session
from genreward_wrappers.rewards.clip_readers import StreamReading
from genreward_wrappers.rewards.video_level import VideoLevel
from genreward_wrappers.sb3 import VecRewardModel


class Nothing(RewardModel):
    """Pays nothing, at once."""

    name = "nothing"

    def __init__(self, count: int) -> None:
        """For a number of rows."""
        self.score = Score(np.zeros(count, np.float32), np.ones(count, bool))

    def reset(self, memory: Any, frames: Any, mask: Any, seeds: Any) -> None:
        """Nothing to remember."""
        return

    def step(self, memory: Any, transition: Any) -> tuple[Score, None]:
        """Nothing to score."""
        return self.score, None


SPACE = spaces.Box(0, 255, (64, 64, 3), np.uint8)


class Still(gym.Env):
    """An environment that costs nothing itself."""

    observation_space = SPACE
    action_space = spaces.Discrete(2)
    frame = np.zeros((64, 64, 3), np.uint8)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """The frame."""
        return self.frame, {}

    def step(self, action: Any) -> Any:
        """The frame."""
        return self.frame, 0.0, False, False, {}


class StillVector(VectorEnv):
    """The same for N environments."""

    def __init__(self, count: int) -> None:
        """Of 64x64 frames."""
        self.num_envs = count
        self.single_observation_space = SPACE
        self.observation_space = gym.vector.utils.batch_space(SPACE, count)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = gym.vector.utils.batch_space(spaces.Discrete(2), count)
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
        self.frames = np.zeros((count, 64, 64, 3), np.uint8)
        self.zeros, self.no = np.zeros(count), np.zeros(count, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """The frames."""
        return self.frames, {}

    def step(self, actions: Any) -> Any:
        """The frames."""
        return self.frames, self.zeros, self.no, self.no, {}


def clock(run: Callable[[], Any], seconds: float = 0.5, repeats: int = 5) -> float:
    """CPU seconds a call, the best of several rounds."""
    run()
    begin = time.process_time()
    run()
    count = max(1, int(seconds / repeats / max(time.process_time() - begin, 1e-7)))
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        for _ in range(count):
            run()
        best = min(best, (time.process_time() - begin) / count)
    return best


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """Prints Markdown, and gives it."""
    cells = [head, ["---"] * len(head), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    text = "\n".join([f"\n**{title}**\n", *lines])
    print(text, flush=True)
    return text


def compared(count: int, fast: float, slow: float) -> list[str]:
    """A row: milliseconds for each of ``count``, and the ratio of the two."""
    each = [f"{1e3 * seconds / count:.2f}" for seconds in (fast, slow)]
    return [str(count), *each, f"{slow / fast:.1f}x"]


def imports() -> None:
    """What importing the package adds to importing gymnasium, in fresh processes."""

    def seconds(module: str) -> float:
        code = f"import time; t = time.perf_counter(); import {module}"
        code += "; print(time.perf_counter() - t)"
        run = partial(subprocess.check_output, [sys.executable, "-c", code])
        return min(float(run()) for _ in range(5))

    gymnasium, ours = seconds("gymnasium"), seconds("genreward_wrappers")
    rows = [[f"{1e3 * gymnasium:.0f}", f"{1e3 * ours:.0f}"]]
    table("Import, ms", ["gymnasium", "genreward_wrappers (with gymnasium)"], rows)


def against(source: Path, rounds: int = 5) -> None:
    """Each host with this package and with another, in processes that take turns.

    In seconds of a processor, which others on the machine change less than the clock.
    """
    here, own = Path(__file__).parents[1], Path(genreward_wrappers.__file__).parents[1]
    code = "from benchmarks import overhead; overhead.steps()"
    costs: dict[Path, list[list[float]]] = {own: [], source.resolve(): []}
    for _ in range(rounds):
        for path, found in costs.items():
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{here}"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found.append([float(cost) for cost in done.stdout.split()])
    ours, theirs = (np.min(found, axis=0) for found in costs.values())
    rows = [
        [name, f"{1e6 * us:.1f}", f"{1e6 * them:.1f}", f"{us / them:.2f}"]
        for name, us, them in zip(HOSTS, ours, theirs, strict=True)
    ]
    head = ["host", "here, us", "there, us", "ratio"]
    table("CPU time of a step, a model that does nothing, 64x64 frames", head, rows)


#: The hosts that `steps` times.
HOSTS = ("single", "vector of 4", "stable-baselines3 of 4")


def steps() -> None:
    """Prints the seconds of a step of each of `HOSTS`, less the environment alone."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    four = np.zeros(4, int)
    pairs = [
        (RewardModelWrapper(Still(), Nothing(1)), Still(), 0),
        (vector.RewardModelWrapper(StillVector(4), Nothing(4)), StillVector(4), four),
        (
            VecRewardModel(DummyVecEnv([Still] * 4), Nothing(4)),
            DummyVecEnv([Still] * 4),
            four,
        ),
    ]
    for wrapped, bare, action in pairs:
        wrapped.reset()
        bare.reset()
        costs = [clock(partial(env.step, action)) for env in (wrapped, bare)]
        print(costs[0] - costs[1])


def hosts() -> None:
    """A model that does nothing, in every host, less the environment alone."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    rows = []
    bare, env = Still(), RewardModelWrapper(Still(), Nothing(1))
    env.reset()
    cost = clock(lambda: env.step(0)) - clock(lambda: bare.step(0))
    rows.append(["single", "1", f"{1e6 * cost:.1f}", f"{1e6 * cost:.1f}"])
    for count in (4, 16, 64):
        actions = np.zeros(count, int)
        alone = StillVector(count)
        envs = vector.RewardModelWrapper(StillVector(count), Nothing(count))
        envs.reset()
        cost = clock(partial(envs.step, actions)) - clock(partial(alone.step, actions))
        each = f"{1e6 * cost / count:.1f}"
        rows.append(["vector", str(count), f"{1e6 * cost:.1f}", each])
    for count in (4, 16):
        actions = np.zeros(count, int)
        alone = DummyVecEnv([Still] * count)
        alone.reset()
        venv = VecRewardModel(DummyVecEnv([Still] * count), Nothing(count))
        venv.reset()
        cost = clock(partial(venv.step, actions)) - clock(partial(alone.step, actions))
        each = f"{1e6 * cost / count:.1f}"
        rows.append(["stable-baselines3", str(count), f"{1e6 * cost:.1f}", each])
    head = ["host", "environments", "us a step", "us an environment"]
    table("Overhead of each host, a model that does nothing, 64x64 frames", head, rows)


def shares(steps: int) -> None:
    """Where the time of a step goes: simulation, rendering, encoding, scoring."""
    spent: dict[str, float] = {}

    @contextmanager
    def timed(part: str) -> Any:
        begin = time.process_time()
        yield
        spent[part] = spent.get(part, 0.0) + time.process_time() - begin

    def watch(thing: Any, name: str, part: str) -> None:
        inner = getattr(thing, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            with timed(part):
                return inner(*args, **kwargs)

        setattr(thing, name, outer)

    from genreward_wrappers import VideoLevelReward

    rows = []
    for reading, length in (("frames", None), ("stream", 129), ("stream", 33)):
        spent.clear()
        env = gym.make("metaworld/pick-place", obs="state", render_mode="rgb_array")
        wrapped = VideoLevelReward(env, frames="render", reading=reading, length=length)
        model = wrapped.session.models[0]
        encoder = model.encoder
        for name in ("encode_images", "encode_chunk"):
            watch(encoder, name, "encode")
        watch(env, "step", "simulate")
        watch(env, "render", "render")
        wrapped.reset(seed=0)
        spent.clear()
        begin = time.process_time()
        for _ in range(steps):
            wrapped.step(env.action_space.sample())
        total = time.process_time() - begin
        for name in ("encode_images", "encode_chunk"):
            delattr(encoder, name)
        rest = total - sum(spent.values())
        parts = [spent.get(p, 0.0) for p in ("simulate", "render", "encode")] + [rest]
        rows.append(
            [
                f"{reading}, {length or steps + 1} frames",
                f"{1e3 * total / steps:.2f}",
                *(f"{part / total:.0%}" for part in parts),
            ]
        )
        wrapped.close()
    head = ["reading", "ms a step", "simulate", "render", "encode", "score and host"]
    table(f"Share of CPU time, metaworld/pick-place, {steps} steps", head, rows)


def streaming(goal: GoalBundle) -> None:
    """A score at every chunk of an episode: streamed, or the prefix encoded anew."""
    encoder = load_encoder(goal.encoder["source"], device="cpu")
    rng = np.random.default_rng(0)
    rows = []
    for length in (33, 65, 129):
        clip = rng.integers(0, 256, (length, *encoder.size, 3)).astype(np.uint8)
        reading = StreamReading(encoder, goal.videos, length - 1, length)
        mask = np.ones(1, bool)

        def stream(clip: Any = clip, reading: Any = reading, mask: Any = mask) -> None:
            memory = reading.reset(None, clip[:1], mask)
            for frame in clip[1:]:
                memory = reading._push(memory, frame[None], mask)[-1]

        def again(clip: Any = clip, length: int = length) -> None:
            for end in range(9, length + 1, 8):
                encoder.encode_clips(clip[None, :end])

        fast, slow = clock(stream, repeats=1), clock(again, repeats=1)
        ratio = f"{slow / fast:.1f}x"
        rows.append([str(length), f"{1e3 * fast:.0f}", f"{1e3 * slow:.0f}", ratio])
    head = ["frames", "streamed, ms", "prefix encoded anew, ms", "ratio"]
    table("An episode's clip with a score at every chunk", head, rows)


def batching(goal: GoalBundle) -> None:
    """One model for N environments against a model in each, per environment step."""
    rng = np.random.default_rng(0)
    rows = []
    model = VideoLevel(goal, device="cpu", horizon=256)
    no1 = np.zeros(1, bool)
    for count in (1, 4, 16):
        frames = rng.integers(0, 256, (count, 64, 64, 3)).astype(np.uint8)
        no, actions = np.zeros(count, bool), np.zeros((count, 1))
        together = Session([model], count)
        together.begin(frames)
        each = [Session([model], 1) for _ in range(count)]
        for row, session in enumerate(each):
            session.begin(frames[row : row + 1])

        def one(
            s: Any = together, f: Any = frames, n: Any = no, a: Any = actions
        ) -> None:
            s.score(a, f, n, n)

        def many(each: Any = each, f: Any = frames) -> None:
            for row, session in enumerate(each):
                session.score(np.zeros((1, 1)), f[row : row + 1], no1, no1)

        # Few calls, so that no session runs past the end of its 256 steps.
        fast, slow = clock(one, 0.2, 2), clock(many, 0.2, 2)
        rows.append(compared(count, fast, slow))
    head = ["environments", "one model, ms", "a model each, ms", "ratio"]
    table("Scoring one environment step, single frames through the VAE", head, rows)


def images() -> None:
    """Single frames through added-up kernels, against the library's own encode."""
    encoder = load_encoder("embedded:video-vae-64", device="cpu")
    rng = np.random.default_rng(0)
    rows = []
    for count in (1, 16):
        frames = rng.integers(0, 256, (count, 64, 64, 3)).astype(np.uint8)
        fast = clock(lambda f=frames: encoder.encode_images(f))
        slow = clock(lambda f=frames: encoder.encode_clips(f[:, None]))
        rows.append(compared(count, fast, slow))
    head = ["frames at once", "ms a frame", "the library's encode, ms", "ratio"]
    table("Single frames through the VAE", head, rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument(
        "--against", type=Path, help="the src folder of another copy of the package"
    )
    args = parser.parse_args()
    if args.against is not None:
        against(args.against)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    imports()
    hosts()
    shares(args.steps)
    goal = load_goal("metaworld/pick-place")
    streaming(goal)
    batching(goal)
    images()


if __name__ == "__main__":
    main()
