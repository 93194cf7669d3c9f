"""What the tests of priors share: small ones, and how they are trained."""

from __future__ import annotations

import numpy as np
import torch

from genreward_wrappers.core import Session
from genreward_wrappers.rewards.peers.diffusion_reward import DiffusionReward
from genreward_wrappers.rewards.peers.viper import Viper
from genreward_wrappers.training.priors.settings import PriorTraining
from genreward_wrappers.training.priors.train import PriorTrainer
from genreward_wrappers.training.priors.vq import VQConfig
from genreward_wrappers.training.priors.vq_diffusion import DiffusionConfig, VQDiffusion

KINDS = ("viper", "diffusion-reward")
CODEC = VQConfig(size=(32, 32), codes=16, dim=4, channels=(8, 8, 8, 8))
SHORT = PriorTraining(codec_steps=40, steps=30, codec_batch=8, batch=4, revive=10)
NET = {
    "viper": {"frames": 5, "width": 16, "layers": 2, "heads": 2},
    "diffusion-reward": {"width": 16, "layers": 2, "heads": 2, "hops": 4, "steps": 20},
}


def trainer(kind, videos, training=SHORT, codec=CODEC, **net):
    return PriorTrainer(
        kind, videos, codec, training, device="cpu", **{**NET[kind], **net}
    )


def reward_model(kind, prior, **options):
    if kind == "viper":
        return Viper(prior, **options)
    return DiffusionReward(prior, **options)


def small_diffusion(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"codes": 3, "positions": 2, "steps": 6, "hops": 3, "width": 8}
    net = VQDiffusion(DiffusionConfig(**{**shape, "layers": 2, "heads": 2, **changes}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net.eval()


def film(seed=0, steps=9, rows=2, size=32):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (steps + 1, rows, size, size, 3)).astype(np.uint8)


def play(model, frames, restart=None, seed=0):
    """(steps, rows) scores; row 1 begins anew after one of the steps."""
    session = Session([model], frames.shape[1])
    session.begin(frames[0], seed=seed)
    no = np.zeros(frames.shape[1], bool)
    found = []
    for t in range(len(frames) - 1):
        score = session.score(np.zeros((len(no), 2)), frames[t + 1], no, no)
        assert score[model.name].due.all()
        found.append(score[model.name].value)
        if t == restart:
            session.begin(frames[t + 1], np.arange(len(no)) == 1)
    return np.array(found)
