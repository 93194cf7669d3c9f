"""CLIP through VLM-RM, features of DINOv3 through nets, and training the nets."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bench import Bench, Row, Rows
from genreward_wrappers import load_goal
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.images import Pictures
from genreward_wrappers.training.forward_backward.data import Batch
from genreward_wrappers.training.forward_backward.nets import FBConfig, FBNets
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.train import FBTrainer

ACTIONS = 4
#: DINOv3 ViT-L/16 as published, and one for a CPU.
DINO = {
    False: {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_register_tokens": 4,
    },
    True: {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
    },
}


def rows(bench: Bench) -> Rows:
    """CLIP's two sizes, DINOv3 with nets, and updates of the nets."""
    counts = (1, 2) if bench.tiny else (1, 8, 64)
    for name in ("ViT-B-32",) if bench.tiny else ("ViT-B-32", "ViT-bigG-14"):
        reward = cache(partial(_vlm_rm, bench, name))
        for count in counts:
            title = f"vlm-rm, {name}, N={count}"
            yield title, partial(_frames_a_second, bench, reward, count)
    reward = cache(partial(_frame_level, bench))
    for count in counts:
        title = f"frame, DINOv3 ViT-L/16, N={count}"
        yield title, partial(_frames_a_second, bench, reward, count)
    for conditioned in (False, True):
        title = f"forward-backward, {'standard' if conditioned else 'one-step'}"
        yield title, partial(_updates, bench, conditioned)


def _vlm_rm(bench: Bench, name: str) -> Any:
    """CLIP of open_clip with random weights, and its own tokenizer."""
    import open_clip

    from genreward_wrappers.encoders.clip import ClipEncoder
    from genreward_wrappers.rewards.peers.vlm_rm import VLMRM

    config = open_clip.get_model_config(name)
    if bench.tiny:
        config["vision_cfg"] |= {"layers": 1, "width": 64, "image_size": 32}
        config["text_cfg"] |= {"layers": 1, "width": 32, "heads": 2}
        config["embed_dim"] = 16
    shape = {k: v for k, v in config.items() if k != "custom_text"}
    with bench.building(torch.float32):
        model = open_clip.CLIP(**shape)
    # What open_clip says of models that it loads; all of CLIP's are alike.
    from open_clip.transform import PreprocessCfg

    size = config["vision_cfg"]["image_size"]
    model.visual.preprocess_cfg = PreprocessCfg(size=size).__dict__
    encoder = ClipEncoder(
        model,
        config,
        lambda: open_clip.get_tokenizer(name),
        device=bench.device,
        dtype="bfloat16",
    )
    reward = VLMRM("a robot opens a door", "a robot and a door", encoder=encoder)
    return reward.values


def _frame_level(bench: Bench) -> Any:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    from genreward_wrappers.encoders.vision import TransformersEncoder
    from genreward_wrappers.rewards.frame_level import FrameLevel

    config = DINOv3ViTConfig(**DINO[bench.tiny])
    with bench.building(torch.float32):
        model = DINOv3ViTModel(config)
    pictures = Pictures(size=(config.image_size,) * 2, resize="squash")
    encoder = TransformersEncoder(
        model, pictures, device=bench.device, dtype="bfloat16"
    )
    with bench.building(torch.float32):
        nets = FBNets(FBConfig(config.hidden_size, ACTIONS, hidden=_hidden(bench)))
    weights, shape = nets.to_arrays()
    card = {"encoder": encoder_card(encoder), "stack": 1}
    goal = load_goal("metaworld/drawer-close").with_(
        nets=weights, nets_config={**shape, "input": card}
    )
    reward = FrameLevel(goal, encoder, form="value", device=str(bench.device))
    actions = np.zeros((64, ACTIONS), np.float32)
    return lambda frames: reward.values(frames, actions[: len(frames)])


def _frames_a_second(bench: Bench, reward: Any, count: int) -> Row:
    values = reward()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, 64, 64, 3), np.uint8)
    seconds, memory = bench.measured(lambda: values(frames))
    return {"ms_a_step": 1e3 * seconds, "frames_a_second": count / seconds, **memory}


def _updates(bench: Bench, conditioned: bool) -> Row:
    """Gradient steps on features of DINOv3's size."""
    features, batch = (32, 8) if bench.tiny else (1024, 1024)
    shape = FBConfig(features, ACTIONS, hidden=_hidden(bench), conditioned=conditioned)
    trainer = FBTrainer(shape, FBTraining(batch=batch), device=str(bench.device))
    rng = np.random.default_rng(0)
    states = rng.standard_normal((2, batch, features)).astype(np.float32)
    actions = rng.uniform(-1, 1, (2, batch, ACTIONS)).astype(np.float32)
    no = np.zeros(batch, np.bool_)
    some = Batch(states[0], actions[0], states[1], no, actions[1])
    seconds, memory = bench.measured(lambda: trainer.update(some), 20)
    return {"updates_a_second": 1 / seconds, "batch": batch, **memory}


def _hidden(bench: Bench) -> int:
    return 16 if bench.tiny else FBConfig(1, 1).hidden
