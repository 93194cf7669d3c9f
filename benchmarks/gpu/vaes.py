"""The video VAEs at full size: milliseconds a frame, and how busy the device is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.bench import Bench, Row, Rows
from genreward_wrappers.encoders.still_frames import still_encoder
from genreward_wrappers.encoders.video_vae import (
    CogVideoXEncoder,
    VideoVAEEncoder,
    WanEncoder,
)

#: Published configurations are the defaults of diffusers; these are for a CPU.
TINY: dict[str, dict[str, Any]] = {
    "CogVideoX": {
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "latent_channels": 4,
    },
    "Wan": {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1, "latents_mean": [0.0] * 4,
            "latents_std": [1.0] * 4},
}  # fmt: skip


def rows(bench: Bench) -> Rows:
    """The peak, then each VAE and size: single frames, streams, compiled, graphs."""
    peak = cache(partial(_peak, bench))
    yield "matrix product, bfloat16", lambda: {"tflops": peak()}
    sides = (16,) if bench.tiny else (256, 480)
    counts = (1, 2) if bench.tiny else (1, 8, 64)
    for side in sides:
        for name in TINY:
            encoder = cache(partial(_encoder, bench, name, side))
            for how in (_single, _streamed):
                for count in counts:
                    title = f"{name}, {side}x{side}, {how.__name__[1:]}, N={count}"
                    yield title, partial(how, bench, encoder, count, peak)
    for count in counts[:2]:
        for how in (_compiled, _graphed):
            encoder = cache(partial(_encoder, bench, "CogVideoX", sides[0]))
            title = f"CogVideoX, {sides[0]}x{sides[0]}, {how.__name__[1:]}, N={count}"
            yield title, partial(how, bench, encoder, count, peak)


def _peak(bench: Bench) -> float:
    """TFLOP/s of a large matrix product on random numbers."""
    side = 64 if bench.tiny else 8192
    options: Any = {"device": bench.device, "dtype": torch.bfloat16}
    a, b = (torch.randn(side, side, **options) for _ in range(2))
    return 2 * side**3 / bench.seconds(lambda: a @ b, 10) / 1e12


def _encoder(bench: Bench, name: str, side: int) -> VideoVAEEncoder:
    import diffusers

    model = {"CogVideoX": diffusers.AutoencoderKLCogVideoX,
             "Wan": diffusers.AutoencoderKLWan}[name]  # fmt: skip
    kind = {"CogVideoX": CogVideoXEncoder, "Wan": WanEncoder}[name]
    with bench.building():
        made = model(**(TINY[name] if bench.tiny else {}))
    return kind(
        made, size=(side, side), device=bench.device, dtype="bfloat16", sha256="random"
    )


def _frames(encoder: VideoVAEEncoder, *lead: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (*lead, *encoder.size, 3), np.uint8)


def _figures(
    bench: Bench,
    run: Callable[[], Any],
    frames: int,
    flops: float,
    peak: Callable[[], float],
) -> Row:
    seconds, memory = bench.measured(run, 3)
    tflops = flops / seconds / 1e12
    share = tflops / peak()
    return {
        "ms_a_frame": 1e3 * seconds / frames,
        "tflops": tflops,
        "share_of_peak": share,
        **memory,
    }


def _flops(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _single(bench: Bench, encoder: Any, count: int, peak: Any) -> Row:
    """Frames on their own, from main memory, as the default reward reads them."""
    vae = encoder()
    frames = _frames(vae, count)
    flops = count * _flops(lambda: vae.encode_images(frames[:1]))
    return _figures(bench, lambda: vae.encode_images(frames), count, flops, peak)


def _streamed(bench: Bench, encoder: Any, count: int, peak: Any) -> Row:
    """A later chunk of N clips."""
    vae = encoder()
    first, rest = vae.grammar.first, vae.grammar.rest
    begun = _frames(vae, 1, first)
    _, one = vae.encode_chunk(begun)
    chunk = _frames(vae, count, rest)
    flops = count * _flops(lambda: vae.encode_chunk(chunk[:1], one))
    _, many = vae.encode_chunk(np.repeat(begun, count, 0))
    run = partial(vae.encode_chunk, chunk, many)
    return _figures(bench, run, count * rest, flops, peak)


def _compiled(bench: Bench, encoder: Any, count: int, peak: Any) -> Row:
    """Single frames through a compiled encoder, the frames on the device already."""
    vae = encoder()
    backend = "eager" if bench.tiny else "inductor"
    return _bare(bench, vae, count, peak, partial(torch.compile, backend=backend))


def _graphed(bench: Bench, encoder: Any, count: int, peak: Any) -> Row:
    """The same as one CUDA graph, eager kernels inside."""
    if not bench.cuda:
        return {"left_out": "graphs are CUDA's"}
    return _bare(bench, encoder(), count, peak, None)


def _bare(bench: Bench, vae: Any, count: int, peak: Any, compile: Any) -> Row:
    forward = still_encoder(vae.model)
    video = vae._video(torch.from_numpy(_frames(vae, count, 1)))
    with torch.inference_mode():
        flops = _flops(lambda: forward(video))
        eager = bench.seconds(lambda: forward(video), 3)
        if compile is not None:
            faster = compile(forward)
            run = partial(faster, video)
        else:
            run = _graph(lambda: forward(video))
        row = _figures(bench, run, count, flops, peak)
    return {**row, "eager_ms_a_frame": 1e3 * eager / count}


def _graph(run: Callable[[], Any]) -> Callable[[], Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
