"""Encoders: streaming equals encoding whole clips, and loading is strict."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genreward_wrappers.encoders.base import (
    Grammar,
    VideoEncoder,
    as_frames,
    resize_frames,
    resolve_device,
    resolve_dtype,
    tree_map,
)
from genreward_wrappers.encoders.names import embedded_encoders
from genreward_wrappers.encoders.pixels import PooledPixels
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.stream import (
    Emitted,
    StreamState,
    stream_push,
    stream_restart,
    stream_start,
)

diffusers = pytest.importorskip("diffusers")

from genreward_wrappers.encoders import vae_checkpoint  # noqa: E402
from genreward_wrappers.encoders.vae_checkpoint import load_video_vae  # noqa: E402
from genreward_wrappers.encoders.video_vae import (  # noqa: E402
    CogVideoXEncoder,
    VideoVAEEncoder,
    WanEncoder,
)

SIZE = (16, 16)


def tiny_cogvideox(seed: int = 0, **config: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    return diffusers.AutoencoderKLCogVideoX(
        **{
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("CogVideoXDownBlock3D",) * 3,
            "up_block_types": ("CogVideoXUpBlock3D",) * 3,
            "latent_channels": 8,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "sample_height": SIZE[0],
            "sample_width": SIZE[1],
            **config,
        }
    )


def tiny_wan(seed: int = 0, **config: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    shape = {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1, "dim_mult": [1, 2, 2]}
    shape["temperal_downsample"] = [True, True]
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    return diffusers.AutoencoderKLWan(**{**shape, **statistics, **config})


def cogvideox(seed: int = 0, **options: object) -> CogVideoXEncoder:
    return CogVideoXEncoder(tiny_cogvideox(seed), device="cpu", **options)


def wan(seed: int = 0, **options: object) -> WanEncoder:
    options = {"size": SIZE, "device": "cpu", **options}
    return WanEncoder(tiny_wan(seed), **options)


def wan_2_2() -> WanEncoder:
    """With patches and residual blocks, as Wan 2.2 has them."""
    model = tiny_wan(is_residual=True, patch_size=2, in_channels=12, out_channels=12)
    return WanEncoder(model, size=SIZE, device="cpu")


def pixels(**options: object) -> PooledPixels:
    return PooledPixels(**{"size": SIZE, "grid": 8, "device": "cpu", **options})


ENCODERS = {make.__name__: make for make in (cogvideox, wan, wan_2_2, pixels)}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> VideoEncoder:
    return ENCODERS[request.param]()


def video(*shape: int, seed: int = 0) -> np.ndarray:
    """Random frames of the given leading shape."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*shape, *SIZE, 3), dtype=np.uint8)


def stream(encoder: VideoEncoder, clips: np.ndarray) -> Tensor:
    """Clips (n, T, H, W, 3) of one length pushed frame by frame."""
    state, latents = stream_start(encoder, len(clips)), []
    for time in range(clips.shape[1]):
        state, emitted = stream_push(encoder, state, clips[:, time])
        latents += [part.latents for part in emitted]
    return torch.cat(latents, dim=1)


def assert_close(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    error = (actual - expected).norm() / expected.norm()
    assert error <= relative, f"{error:.2e} off"


def library_encode(encoder: VideoVAEEncoder, clip: np.ndarray) -> Tensor:
    """The mode that diffusers' own `encode` gives, as (n, t, C, h, w)."""
    pixels = torch.from_numpy(clip).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        return encoder.model.encode(pixels).latent_dist.mode().transpose(1, 2)


# --- the grammar


@pytest.mark.parametrize(
    ("grammar", "whole"),
    [
        (Grammar(9, 8, 3, 2), {9: 3, 17: 5, 25: 7}),
        (Grammar(1, 4, 1, 1), {1: 1, 5: 2, 9: 3, 13: 4, 17: 5, 21: 6, 25: 7}),
        (Grammar(), {frames: frames for frames in range(1, 26)}),
    ],
    ids=str,
)
def test_grammar(grammar: Grammar, whole: dict[int, int]) -> None:
    for frames in range(26):
        assert grammar.is_whole(frames) == (frames in whole)
        below = [length for length in whole if length <= frames]
        assert grammar.floor(frames) == max(below, default=0)
        assert grammar.latents_by(frames) == whole.get(max(below, default=0), 0)
        if frames <= max(whole):
            assert grammar.ceil(frames) == min(n for n in whole if n >= frames)
        if frames not in whole:
            with pytest.raises(ValueError, match=f"got {frames} frames"):
                grammar.latents(frames)
    for frames, latents in whole.items():
        spans = grammar.spans(frames)
        assert [stop for _, stop in spans] == [n for n in whole if n <= frames]
        assert [start for start, _ in spans][1:] == [stop for _, stop in spans][:-1]
        assert grammar.last_frame(latents - 1) == frames - 1


def test_a_grammar_has_positive_numbers() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Grammar(9, 0, 3, 2)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_grammar_is_the_models(name: str) -> None:
    encoder = ENCODERS[name]()
    for frames in (encoder.grammar.first, encoder.grammar.first + encoder.grammar.rest):
        latents = encoder.encode_clips(video(1, frames))
        shape = (1, encoder.grammar.latents(frames), *encoder.latent_shape)
        assert tuple(latents.shape) == shape
        assert latents.dtype == torch.float32


# --- streaming


@pytest.mark.parametrize(
    ("make", "frames"),
    [
        *((cogvideox, frames) for frames in (9, 17, 49)),
        *((wan, frames) for frames in (1, 5, 9, 17)),
    ],
)
def test_streaming_is_the_librarys_encode_bit_for_bit(make, frames: int) -> None:
    encoder, clip = make(), video(1, frames)
    if make is wan:
        # Its final 1x1 convolution is a matrix product over the whole clip, and the
        # last bits of a matrix product may depend on its size: that is tested below.
        encoder.model.quant_conv = torch.nn.Identity()
    assert torch.equal(stream(encoder, clip), library_encode(encoder, clip))


@pytest.mark.parametrize("make", [wan, wan_2_2])
def test_streaming_wan_to_its_last_convolution(make) -> None:
    encoder, clip = make(), video(1, 9)
    streamed = stream(encoder, clip)
    assert_close(streamed, library_encode(encoder, clip), 1e-6)
    assert torch.equal(streamed, encoder.encode_clips(clip))


def test_cogvideox_chunks_cannot_be_cut_finer() -> None:
    """Why the grammar matters: 9 + 4 + 4 frames are other latents than 9 + 8."""
    encoder, clip = cogvideox(), video(1, 17)
    whole = encoder.encode_clips(clip)
    encoder.grammar = replace(encoder.grammar, rest=4, rest_latents=1)
    finer = stream(encoder, clip)
    assert torch.equal(finer[:, :3], whole[:, :3])
    with pytest.raises(AssertionError, match="off"):
        assert_close(finer, whole, 1e-3)


def test_rows_anywhere_in_their_clips(encoder: VideoEncoder) -> None:
    """Staggered starts and a restart in the middle give what single clips give."""
    rows, ticks = 4, 27
    starts = [[0], [0, 16], [8], [1, 18]]
    most = 0
    frames = video(rows, ticks)
    state, got = stream_start(encoder, rows), {}
    for tick in range(ticks):
        restarting = np.array([tick in starts[row][1:] for row in range(rows)])
        taking = np.array([tick >= starts[row][0] for row in range(rows)])
        state = stream_restart(state, restarting)
        state, emitted = stream_push(encoder, state, frames[:, tick], taking)
        most = max(most, len(emitted))
        for part in emitted:
            for i, row in enumerate(part.rows.tolist()):
                began = max(start for start in starts[row] if start <= tick)
                key = (row, began)
                assert part.start[i] == sum(len(x) for x in got.get(key, []))
                got.setdefault(key, []).append(part.latents[i])

    assert most == 2, "no tick had fresh and continuing rows"
    expected_keys = {(row, start) for row in range(rows) for start in starts[row]}
    assert set(got) == expected_keys
    for row, began in expected_keys:
        ends = [start for start in starts[row] if start > began]
        taken = encoder.grammar.floor(min([*ends, ticks]) - began)
        clip = frames[row, began : began + taken]
        assert_close(torch.cat(got[row, began]), encoder.encode_clips(clip[None])[0])


class CountingEncoder(PooledPixels):
    """Chunks of 3 and 2, whose cache is the last frame and the number of chunks."""

    def __init__(self) -> None:
        super().__init__(SIZE, 8, device="cpu")
        self.grammar = Grammar(3, 2, 1, 1)
        self.calls: list[tuple[int, int]] = []

    def encode_chunk(self, frames, cache=None):
        self.calls.append(tuple(frames.shape[:2]))
        n = len(frames)
        chunks = torch.zeros(n) if cache is None else cache["chunks"]
        before = frames[:, 0] if cache is None else cache["nested"][0]
        new = {"chunks": chunks + 1, "nested": [frames[:, -1], None]}
        change = self.encode_images(frames[:, -1]) - self.encode_images(before)
        return (change + chunks.view(-1, 1, 1, 1))[:, None], new


def test_at_most_two_forwards_a_push_and_none_between_chunks() -> None:
    encoder, frames = CountingEncoder(), video(12, 4)
    state = stream_start(encoder, 4)
    calls = []
    for tick in range(12):
        late = np.array([True, True, tick >= 2, tick >= 2])
        state, emitted = stream_push(encoder, state, frames[tick], late)
        assert [len(part.rows) for part in emitted] == [n for n, _ in encoder.calls]
        calls.append(encoder.calls)
        encoder.calls = []
    assert calls[:5] == [[], [], [(2, 3)], [], [(2, 3), (2, 2)]]
    assert all(
        new == ([(4, 2)] if tick % 2 == 0 else [])
        for tick, new in enumerate(calls[5:], start=5)
    )


@pytest.mark.parametrize("make", [cogvideox, wan])
def test_a_push_that_completes_nothing_keeps_the_cache(make) -> None:
    encoder = make()
    state = stream_start(encoder, 2)
    for tick in range(encoder.grammar.first):
        state, _ = stream_push(encoder, state, video(2, seed=tick))
    after, emitted = stream_push(encoder, state, video(2))
    assert emitted == []
    assert after.cache is state.cache


def flat(state: StreamState) -> list[Tensor]:
    """Copies of all tensors of a state."""
    found: list[Tensor] = [state.pending.clone(), state.count.clone()]
    tree_map(lambda tensor: found.append(tensor.clone()) or tensor, state.cache)
    return found


def test_old_states_stay_usable(encoder: VideoEncoder) -> None:
    """Any earlier state, pushed again, gives the same latents."""
    frames = video(3, 20)
    state = stream_start(encoder, 3)
    history: list[tuple[StreamState, list[Tensor], list[Emitted]]] = []

    def push(state: StreamState, tick: int) -> tuple[StreamState, list[Emitted]]:
        # Rows drift apart, so that parts of the cache are replaced.
        if tick in (2, 11):
            state = stream_restart(state, np.array([False, tick == 2, tick == 11]))
        return stream_push(encoder, state, frames[:, tick], [True, True, tick != 5])

    for tick in range(20):
        new, emitted = push(state, tick)
        history.append((state, flat(state), emitted))
        state = new
    for tick, (old, copies, emitted) in enumerate(history):
        assert all(map(torch.equal, flat(old), copies)), f"written to after {tick}"
        _, again = push(old, tick)
        assert len(again) == len(emitted)
        for one, other in zip(again, emitted, strict=True):
            assert torch.equal(one.rows, other.rows)
            assert torch.equal(one.start, other.start)
            assert torch.equal(one.latents, other.latents)


def test_masked_out_rows_take_nothing() -> None:
    encoder, clip = wan(), video(2, 5)
    state = stream_start(encoder, 2)
    for tick in range(5):
        state, _ = stream_push(encoder, state, clip[:, tick], [True, False])
    assert state.count.tolist() == [5, 0]
    same, emitted = stream_push(encoder, state, clip[:, 0], [False, False])
    assert same is state
    assert emitted == []


def test_pushes_are_checked() -> None:
    encoder = pixels()
    state = stream_start(encoder, 2)
    with pytest.raises(ValueError, match="each of the 2 rows of the state, got 3"):
        stream_push(encoder, state, video(3))
    with pytest.raises(ValueError, match=r"bool \(2,\), got int64 \(2,\)"):
        stream_push(encoder, state, video(2), [1, 0])
    with pytest.raises(ValueError, match=r"bool \(2,\), got bool \(3,\)"):
        stream_restart(state, [True, False, True])


def test_a_chunk_has_its_length() -> None:
    encoder = cogvideox()
    with pytest.raises(ValueError, match="first chunk must have 9 frames, got 8"):
        encoder.encode_chunk(video(1, 8))
    _, cache = encoder.encode_chunk(video(1, 9))
    with pytest.raises(ValueError, match="later chunk must have 8 frames, got 9"):
        encoder.encode_chunk(video(1, 9), cache)


# --- whole clips and images


@pytest.mark.parametrize("make", [cogvideox, wan])
def test_parts_of_a_batch_are_the_batch(make) -> None:
    encoder, clips = make(), video(5, 17)
    one_by_one = torch.cat([encoder.encode_clips(clip[None]) for clip in clips])
    assert_close(encoder.encode_clips(clips), one_by_one)
    encoder.pixel_budget = 2 * 9 * SIZE[0] * SIZE[1]
    forwards = []
    encoder.model.encoder.register_forward_pre_hook(
        lambda module, inputs: forwards.append(len(inputs[0]))
    )
    assert_close(encoder.encode_clips(clips), one_by_one)
    assert max(forwards) < 5
    assert_close(stream(encoder, clips), one_by_one)


def test_images_are_clips_of_one_frame(encoder: VideoEncoder) -> None:
    images = video(3)
    expected = torch.cat([encoder.encode_clips(i[None, None])[:, 0] for i in images])
    assert_close(encoder.encode_images(images), expected)


class SummedOverTime(torch.nn.Module):
    """A causal convolution of a clip of one frame, in the library's own modules."""

    def __init__(self, conv: torch.nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x, conv_cache=None):
        flat = torch.nn.functional.conv2d(
            x[:, :, 0],
            self.conv.weight.sum(2),
            self.conv.bias,
            self.conv.stride[1:],
            self.conv.padding[1:],
        )
        return flat[:, :, None], None


@pytest.mark.parametrize("layers", [1, 2])
def test_single_frames_go_through_what_the_librarys_modules_do(layers: int) -> None:
    model = tiny_cogvideox(layers_per_block=layers)
    encoder = CogVideoXEncoder(model, device="cpu")
    images = video(3)
    found = encoder.encode_images(images)
    for module in list(model.encoder.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "CogVideoXCausalConv3d":
                setattr(module, name, SummedOverTime(child.conv))
    with torch.inference_mode():
        moments, _ = model.encoder(encoder._video(torch.from_numpy(images[:, None])))
    expected = moments.chunk(2, dim=1)[0][:, :, 0]
    # The same layers in the same order; where the channels lie in memory decides the
    # last digits.
    assert_close(found, expected, 1e-5)


def test_cogvideox_takes_windows_of_16_and_wan_says_what_it_would_drop() -> None:
    assert cogvideox().encode_clips(video(1, 16)).shape[1] == 4
    with pytest.raises(ValueError, match="got 16 frames; of those it would drop the l"):
        wan().encode_clips(video(1, 16))


def test_latents_may_enter_a_training_step() -> None:
    weight = torch.ones((), requires_grad=True)
    encoder = cogvideox()
    (encoder.encode_images(video(1)) * weight).sum().backward()
    (encoder.encode_chunk(video(1, 9))[0] * weight).sum().backward()
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_bfloat16_gives_float32_latents() -> None:
    encoder = cogvideox(dtype="bfloat16")
    latents = stream(encoder, video(1, 9))
    assert latents.dtype == torch.float32
    assert_close(latents, cogvideox().encode_clips(video(1, 9)), 0.05)


def test_pixels_are_block_means() -> None:
    encoder = PooledPixels(size=(32, 16), grid=8, device="cpu")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 5, 32, 16, 3), dtype=np.uint8)
    blocks = frames.reshape(2, 5, 8, 4, 8, 2, 3).mean(axis=(3, 5)) / 255
    expected = np.moveaxis(blocks, -1, 2)
    np.testing.assert_allclose(encoder.encode_clips(frames), expected, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_images(frames[0]), expected[0], atol=1e-6)
    assert encoder.latent_shape == expected.shape[2:]
    with pytest.raises(ValueError, match="multiples of grid"):
        PooledPixels(size=(64, 64), grid=7)


@pytest.mark.parametrize(("side", "grid"), [(64, 8), (35, 5), (256, 1)])
def test_pixels_are_means_that_do_not_round_until_the_end(side, grid) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(128, 256, (2, side, side, 3), dtype=np.uint8)
    cell = side // grid
    cells = frames.reshape(2, grid, cell, grid, cell, 3)
    whole = cells.sum(axis=(2, 4), dtype=np.int64)
    exact = whole.astype(np.float32) / np.float32(cell**2) / np.float32(255)
    found = PooledPixels((side, side), grid, device="cpu").encode_images(frames)
    np.testing.assert_array_equal(found, np.moveaxis(exact, -1, 1))


def test_latents_of_images_may_be_trained_on() -> None:
    latents = cogvideox().encode_images(video(2))
    weight = torch.ones((), requires_grad=True)
    (latents * weight).sum().backward()
    assert_close(weight.grad, latents.sum(), 1e-4)


# --- frames


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 3, 64, 64), np.float32), r"float32 \(4, 3, 64, 64\)"),
        (np.zeros((4, 3, 64, 64), np.uint8), r"uint8 \(4, 3, 64, 64\)"),
        (np.zeros((4, 64, 64, 1), np.uint8), r"uint8 \(4, 64, 64, 1\)"),
        (np.zeros((4, 64, 64), np.uint8), r"uint8 \(4, 64, 64\)"),
        (np.zeros((64, 64, 3), np.uint8), r"uint8 \(64, 64, 3\)"),
        (np.zeros((4, 64, 64, 4), np.uint8), r"uint8 \(4, 64, 64, 4\)"),
        (torch.zeros((4, 64, 64, 3)), r"float32 \(4, 64, 64, 3\)"),
    ],
)
def test_bad_frames_are_quoted(frames: object, message: str) -> None:
    encoder = PooledPixels(device="cpu")
    match = rf"must be uint8 \(n, H, W, 3\) RGB, got {message}"
    with pytest.raises(ValueError, match=match):
        encoder.encode_images(frames)
    with pytest.raises(ValueError, match=match):
        stream_push(encoder, stream_start(encoder, 4), frames)


def test_lists_are_no_frames() -> None:
    with pytest.raises(TypeError, match="got list"):
        as_frames([[0]])


def test_flipped_and_read_only_arrays_are_taken() -> None:
    frames = video(2)
    flipped = frames[:, ::-1, ::-1]
    assert np.array_equal(as_frames(flipped).numpy(), flipped)
    frames.setflags(write=False)
    assert np.array_equal(as_frames(frames).numpy(), frames)


def test_frames_are_shrunk_with_antialiasing() -> None:
    lines = torch.zeros((1, 64, 96, 3), dtype=torch.uint8)
    lines[:, :, ::4] = 255
    small = resize_frames(lines, (16, 24))
    assert small.shape == (1, 16, 24, 3)
    assert small.dtype == torch.uint8
    # Without antialiasing, no sample comes near the one white column in four.
    assert (small[:, :, 2:-2].float() - 255 / 4).abs().max() < 1
    assert resize_frames(lines, (64, 96)) is lines


@pytest.mark.parametrize(
    ("have", "reason"), [((12, 12), "enlarge"), ((64, 96), "another aspect ratio")]
)
def test_frames_that_do_not_fit_are_refused(have, reason: str) -> None:
    frames = np.zeros((1, *have, 3), np.uint8)
    with pytest.raises(ValueError, match=f"{have[0]}x{have[1]} .* 16x16 .*{reason}"):
        pixels().encode_images(frames)


def test_shrinking_comes_before_streaming() -> None:
    encoder = cogvideox()
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (1, 9, 40, 40, 3), dtype=np.uint8)
    assert torch.equal(stream(encoder, clip), encoder.encode_clips(clip))


# --- fingerprints


def test_fingerprints_are_of_what_determines_the_latents() -> None:
    base = cogvideox().fingerprint
    assert json.loads(json.dumps(base)) == base
    assert cogvideox().fingerprint == base
    assert base["grammar"] == [9, 8, 3, 2]
    others = [
        cogvideox(seed=1),
        cogvideox(size=(64, 64)),
        cogvideox(dtype="bfloat16"),
        CogVideoXEncoder(tiny_cogvideox(norm_num_groups=2), device="cpu"),
        wan(),
        pixels(),
        pixels(grid=4),
    ]
    different = {json.dumps(e.fingerprint, sort_keys=True) for e in others}
    assert len(different) == len(others)
    assert json.dumps(base, sort_keys=True) not in different


def test_one_weight_changes_the_hash_and_the_decoder_does_not() -> None:
    model = tiny_cogvideox()
    with torch.no_grad():
        next(model.decoder.parameters()).add_(1)
    same = CogVideoXEncoder(model, device="cpu").fingerprint
    assert same == cogvideox().fingerprint
    with torch.no_grad():
        next(model.encoder.parameters()).view(-1)[0] += 1e-6
    assert CogVideoXEncoder(model, device="cpu").fingerprint != same


# --- loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with a CogVideoX VAE in `vae`."""
    path = tmp_path_factory.mktemp("pipeline")
    tiny_cogvideox().save_pretrained(path / "vae")
    return path


def test_load_from_a_folder(folder: Path) -> None:
    encoder = load_video_vae(folder, subfolder="vae", device="cpu")
    assert isinstance(encoder, CogVideoXEncoder)
    assert encoder.size == SIZE
    assert encoder.model.decoder is None
    assert encoder.fingerprint == cogvideox().fingerprint
    clip = video(1, 9)
    expected = cogvideox().encode_clips(clip)
    assert torch.equal(encoder.encode_clips(clip), expected)
    assert torch.equal(stream(encoder, clip), expected)


def test_the_load_path_is_not_in_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    tiny_cogvideox().save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sharded = load_video_vae(tmp_path, device="cpu")
    whole = load_video_vae(folder / "vae", device="cpu", keep_decoder=True)
    assert sharded.fingerprint == whole.fingerprint
    assert sharded.source != whole.source
    with torch.no_grad():
        assert whole.model.decode(torch.zeros(1, 8, 1, 4, 4)).sample.shape[1] == 3


def test_a_model_in_use_survives_its_file(tmp_path: Path) -> None:
    tiny_cogvideox().save_pretrained(tmp_path)
    encoder, images = load_encoder(str(tmp_path), device="cpu"), video(1)
    before = encoder.encode_images(images)
    tiny_cogvideox(seed=1).save_pretrained(tmp_path / "other")
    # In place: a file that is replaced would stay as it was for those who read it.
    other = (tmp_path / "other" / vae_checkpoint.WEIGHTS).read_bytes()
    with (tmp_path / vae_checkpoint.WEIGHTS).open("r+b") as file:
        file.write(other)
    assert torch.equal(encoder.encode_images(images), before)
    retrained = load_encoder(str(tmp_path), device="cpu")
    assert retrained.fingerprint != encoder.fingerprint


PUBLISHED_COGVIDEOX = {
    "_class_name": "AutoencoderKLCogVideoX",
    "_diffusers_version": "0.32.0.dev0",
    "act_fn": "silu",
    "block_out_channels": [16, 32, 32, 64],
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "invert_scale_latents": True,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 3,
    "norm_eps": 1e-06,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_height": 48,
    "sample_width": 72,
    "scaling_factor": 0.7,
    "shift_factor": None,
    "temporal_compression_ratio": 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
PUBLISHED_WAN = {
    "_class_name": "AutoencoderKLWan",
    "_diffusers_version": "0.33.0.dev0",
    "attn_scales": [],
    "base_dim": 8,
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}


@pytest.mark.parametrize(
    ("config", "size", "latent"),
    [
        (PUBLISHED_COGVIDEOX, None, (16, 6, 9)),
        (PUBLISHED_WAN, (48, 72), (16, 6, 9)),
    ],
    ids=["cogvideox", "wan"],
)
def test_the_published_configurations_load(
    tmp_path: Path, config: dict, size: tuple[int, int] | None, latent: tuple
) -> None:
    """The keys that THUDM/CogVideoX-5b-I2V and Wan-AI/Wan2.1 have, narrower."""
    model = getattr(diffusers, config["_class_name"]).from_config(config)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(str(tmp_path), device="cpu", size=size)
    assert encoder.latent_shape == latent
    assert encoder.dtype == torch.float32
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (1, 9, 48, 72, 3), dtype=np.uint8)
    assert torch.equal(stream(encoder, clip), encoder.encode_clips(clip))


def test_wan_needs_a_size(tmp_path: Path) -> None:
    tiny_wan().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"names no resolution; give size="):
        load_encoder(str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match=r"multiples of 4, got \(30, 32\)"):
        load_encoder(str(tmp_path), device="cpu", size=(30, 32))


def test_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "vae/config.json").read_text())
    torch.save(tiny_cogvideox().state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.bin.*only safetensors"):
        load_encoder(str(tmp_path), device="cpu")


def test_weights_are_loaded_strictly(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "vae" / vae_checkpoint.WEIGHTS)
    del weights["encoder.conv_out.conv.bias"]
    save_file(weights, tmp_path / vae_checkpoint.WEIGHTS)
    (tmp_path / "config.json").write_text((folder / "vae/config.json").read_text())
    with pytest.raises(
        ValueError, match=r"(?s)do not fit .*encoder\.conv_out\.conv\.bias"
    ):
        load_video_vae(tmp_path, device="cpu")


def test_what_is_not_a_video_vae_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folders inside that have one: vae"):
        load_encoder(str(folder), device="cpu")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ValueError, match=r"'AutoencoderKL'.*AutoencoderKLWan"):
        load_encoder(str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match="neither a local folder nor a hub id"):
        load_video_vae("no/such/folder", device="cpu")


def test_without_the_hub_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError) as error:
        load_encoder("hf://nobody/no-such-model/vae@main", device="cpu")
    assert "cannot get 'nobody/no-such-model' (subfolder vae" in str(error.value)
    assert "hf download nobody/no-such-model --include 'vae/*'" in str(error.value)
    assert "local folder" in str(error.value)


def test_hub_specs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked = []

    def download(
        repository: str, subfolder: str | None, revision: str | None, allowed: bool
    ) -> Path:
        assert allowed
        asked.append((repository, subfolder, revision))
        return folder / "vae"

    monkeypatch.setattr(vae_checkpoint, "_download", download)
    specs = ["hf://o/r", "hf://o/r/vae", "hf://o/r/a/b@v1", "hf://o/r@refs/pr/1"]
    loaded = [load_encoder(spec, device="cpu") for spec in specs]
    assert asked == [
        ("o/r", None, None),
        ("o/r", "vae", None),
        ("o/r", "a/b", "v1"),
        ("o/r", None, "refs/pr/1"),
    ]
    assert [encoder.source for encoder in loaded] == specs


def test_without_diffusers_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"genreward-wrappers\[video\]"):
        load_video_vae(folder, subfolder="vae", device="cpu")


def test_one_object_for_one_request(folder: Path) -> None:
    spec = str(folder / "vae")
    encoder = load_encoder(spec, device="cpu")
    assert load_encoder(spec, device=torch.device("cpu"), dtype="float32") is encoder
    assert load_encoder(spec, device="cpu", dtype="bfloat16") is not encoder
    assert load_encoder(spec, device="cpu", size=(64, 64)) is not encoder
    assert load_encoder(spec, device="cpu", size=(64, 64)).size == (64, 64)
    pooled = load_encoder("pixels:16", device="cpu")
    assert load_encoder("pixels:16", device="cpu") is pooled
    assert pooled.latent_shape == (3, 16, 16)
    assert load_encoder("pixels", device="cpu").latent_shape == (3, 8, 8)


@pytest.mark.parametrize("spec", ["pixel", "hf://owner", "no/such/folder", "pixels:x"])
def test_unknown_specs_are_quoted(spec: str) -> None:
    with pytest.raises(ValueError, match=f"unknown encoder '{spec}'.*hf://<owner>"):
        load_encoder(spec, device="cpu")


def test_a_hub_id_alone_names_the_forms_that_take_one() -> None:
    named = "'hf://THUDM/CogVideoX-2b' if it is a video VAE, or 'transformers:THUDM/"
    with pytest.raises(ValueError, match=named):
        load_encoder("THUDM/CogVideoX-2b", device="cpu")


def test_a_device_that_nobody_has_tried_is_refused_in_our_words() -> None:
    for device in ("mps", "meta"):
        with pytest.raises(ValueError, match=f"'cuda:<index>', got '{device}'"):
            load_encoder("pixels", device=device)


def test_unknown_embedded_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no embedded encoder 'nothing'; there are"):
        load_encoder("embedded:nothing", device="cpu")


@pytest.mark.parametrize("name", embedded_encoders())
def test_embedded_encoders_stream(name: str) -> None:
    encoder = load_encoder(f"embedded:{name}", device="cpu")
    rng = np.random.default_rng(0)
    frames = encoder.grammar.first + encoder.grammar.rest
    clip = rng.integers(0, 256, (1, frames, *encoder.size, 3), dtype=np.uint8)
    streamed, whole = stream(encoder, clip), encoder.encode_clips(clip)
    if isinstance(encoder, VideoVAEEncoder):
        assert torch.equal(streamed, whole)
    else:
        # Pictures go through one by one, or all at once: to rounding.
        torch.testing.assert_close(streamed, whole)


def test_devices_and_types() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda"}
    with pytest.raises(ValueError, match="got 'gpu'"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match="'cuda:99' was asked for, but torch"):
        resolve_device("cuda:99")
    assert resolve_dtype("float16") == resolve_dtype(torch.float16) == torch.float16
    with pytest.raises(ValueError, match="got 'int8'"):
        resolve_dtype("int8")


@pytest.mark.timeout(60)
def test_pixels_need_no_diffusers() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None;"
        "from genreward_wrappers.encoders.registry import load_encoder;"
        "load_encoder('pixels', device='cpu')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_batch_that_does_not_fit_says_what_halves_it(monkeypatch) -> None:
    encoder = cogvideox()
    encoder.pixel_budget = 4 * SIZE[0] * SIZE[1]

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch, "group_norm", full)
    with pytest.raises(ValueError, match="not enough memory") as caught:
        encoder.encode_images(video(9))
    told = str(caught.value)
    assert "batches of up to 4 frames of 16x16" in told
    assert "encoder.pixel_budget = 512, which halves the batch" in told
    assert 'dtype="bfloat16"' in told
    assert "CUDA out of memory" in told
    encoder.pixel_budget = 1
    with pytest.raises(ValueError, match="What helps: dtype"):
        encoder.encode_images(video(1))


def test_what_is_no_want_of_memory_stays_what_it_is(monkeypatch) -> None:
    def broken(*args, **kwargs):
        raise RuntimeError("something else")

    monkeypatch.setattr(torch, "group_norm", broken)
    with pytest.raises(RuntimeError, match="^something else$"):
        cogvideox().encode_images(video(1))


def test_the_cpu_is_known_by_the_name_that_accelerate_gives_it() -> None:
    assert resolve_device(torch.device("cpu", 0)).type == "cpu"


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "cuda:99", "none of these"])
def test_a_device_that_is_not_served_is_refused_in_our_words(device: str) -> None:
    with pytest.raises(ValueError, match="device") as caught:
        load_encoder("pixels", device=device)
    assert repr(device) in str(caught.value)
    assert "'cpu'" in str(caught.value)
