"""Ways to run the small encoders on a CPU, and what each is worth.

    python -m benchmarks.encoding

The networks alone, on frames that are ready, on one thread: the default way and the
others take turns, and of several rounds of CPU time the best counts. A compiled network
is compiled for each number of frames by itself, which is the fastest that the compiler
makes; what that takes is the first call's wall time, with no compiled code kept from
earlier runs.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.overhead import table
from benchmarks.step import cpu_by_turns
from genreward_wrappers import load_encoder
from genreward_wrappers.encoders.still_frames import still_encoder

COUNTS = (1, 8, 64)
DEFAULT = "the default"

Network = Callable[[Tensor], Tensor]
#: A network and the type of its input.
Way = tuple[Network, torch.dtype]


def vae_ways() -> dict[str, Way]:
    """The networks that give the embedded VAE's moments of frames (n, 3, 1, H, W)."""
    exact, rough = (
        load_encoder("embedded:video-vae-64", device="cpu", dtype=dtype).model
        for dtype in ("float32", "bfloat16")
    )
    colours_first = still_encoder(exact, torch.contiguous_format)
    return {
        "the library's modules": (lambda x: exact.encoder(x)[0], torch.float32),
        "channels first in memory": (colours_first, torch.float32),
        **_compiled_ways(still_encoder(exact), still_encoder(rough)),
    }


def clip_ways() -> dict[str, Way]:
    """The networks that give the embedded CLIP's embeddings of frames."""
    exact, rough = (
        load_encoder("embedded:clip-64", device="cpu", dtype=dtype).model.encode_image
        for dtype in ("float32", "bfloat16")
    )

    def last(image: Network, x: Tensor) -> Tensor:
        return image(x[:, :, 0].contiguous(memory_format=torch.channels_last))

    colours_first: Network = lambda x: exact(x[:, :, 0].contiguous())  # noqa: E731
    return {
        "channels first in memory": (colours_first, torch.float32),
        **_compiled_ways(partial(last, exact), partial(last, rough)),
    }


def _compiled_ways(exact: Network, rough: Network) -> dict[str, Way]:
    """A network as it is and compiled, in both types."""
    return {
        DEFAULT: (exact, torch.float32),
        "`torch.compile`": (compiled(exact), torch.float32),
        "`torch.compile`, constant weights": (constant(exact), torch.float32),
        "`bfloat16`": (rough, torch.bfloat16),
        "`bfloat16`, `torch.compile`": (compiled(rough), torch.bfloat16),
    }


def compiled(network: Network, **options: bool) -> Network:
    """A network compiled anew for every shape of its input."""
    made: Network = torch.compile(network, dynamic=False, options=options or None)
    return made


def constant(network: Network) -> Network:
    """The same with weights that the compiler may lay out as it likes."""
    from torch.fx.experimental.proxy_tensor import make_fx

    known: dict[torch.Size, Network] = {}

    def run(x: Tensor) -> Tensor:
        if x.shape not in known:
            known[x.shape] = compiled(make_fx(network)(x), freezing=True)
        return known[x.shape](x)

    return run


ENCODERS: dict[str, Callable[[], dict[str, Way]]] = {
    "video-vae-64": vae_ways,
    "clip-64": clip_ways,
}


def measure(
    ways: dict[str, Way], count: int, rounds: int
) -> dict[str, tuple[float, float, float]]:
    """Each way's (CPU seconds, seconds of the first call, difference from the default).

    The difference is the largest of any number, as a share of the largest number.
    """
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.uniform(-1, 1, (count, 3, 1, 64, 64)))
    runs, first, outputs = {}, {}, {}
    with torch.no_grad():
        for name, (network, dtype) in ways.items():
            runs[name] = partial(network, frames.to(dtype))
            begin = time.perf_counter()
            outputs[name] = runs[name]().float()
            first[name] = time.perf_counter() - begin
        spent = cpu_by_turns(runs, rounds, max(1, 8 // count))
    right = outputs[DEFAULT]
    return {
        name: (
            seconds,
            first[name],
            float((outputs[name] - right).abs().max() / right.abs().max()),
        )
        for name, seconds in spent.items()
    }


def encoding_table(
    rounds: int, counts: tuple[int, ...] = COUNTS, encoders: tuple[str, ...] = ()
) -> str:
    """The table; without a compiler it has no compiled ways, and says so."""
    can_compile = shutil.which("c++") is not None
    rows = []
    for encoder in encoders or tuple(ENCODERS):
        ways = ENCODERS[encoder]()
        if not can_compile:
            ways = {n: way for n, way in ways.items() if "compile" not in n}
        with _nothing_kept():
            found = [measure(ways, count, rounds) for count in counts]
        for name in ways:
            ratios = [f"{each[DEFAULT][0] / each[name][0]:.2f}x" for each in found]
            if name == DEFAULT:
                ratios = [f"{1e3 * each[name][0]:.2f} ms" for each in found]
            differs = max(each[name][2] for each in found)
            first = max(each[name][1] for each in found)
            rows.append(
                [
                    encoder,
                    name,
                    *ratios,
                    f"{differs:.0e}" if differs else "none",
                    f"{first:.0f} s" if "compile" in name else "",
                ]
            )
        if not can_compile:
            rows.append([encoder, "`torch.compile` needs a C++ compiler", *[""] * 5])
    head = ["encoder", "way", *map(str, counts), "difference", "compiled in"]
    title = "Ways to run the small encoders: speed against the default, by frames"
    return table(f"{title}, one thread", head, rows)


def _nothing_kept() -> Any:
    """Compiles in this process, and without code of earlier runs."""
    import torch._inductor.config as inductor

    patch: Any = inductor.patch(force_disable_caches=True, compile_threads=1)
    return patch


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoding_table(args.rounds)


if __name__ == "__main__":
    main()
