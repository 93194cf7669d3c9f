"""What several tests share: no network, a small goal, a small random video VAE."""

from __future__ import annotations

import os

# Before anything imports huggingface_hub or torch, which read them once. The tests'
# models are tiny: a second thread costs more than it brings.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from genreward_wrappers import GoalBundle
from tests import ROOT

#: Modules and folders that train, draw many pictures or play whole episodes. Single
#: tests of others are marked where they stand.
SLOW = (
    "assets",
    "cli",
    "doctor",
    "envs",
    "evaluate",
    "goal_pipeline/test_collect.py",
    "goal_pipeline/test_make_goal.py",
    "generators/test_published.py",
    "models",
    "scripts",
    "test_examples.py",
    "test_meshes.py",
    "training/forward_backward/test_tabular.py",
    "training/priors",
)


def pytest_collection_modifyitems(items):
    """Marks what is slow."""
    slow = [ROOT / "tests" / name for name in SLOW]
    for item in items:
        if any(item.path.is_relative_to(path) for path in slow):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def one_thread():
    """For models so small that a second thread costs more than it brings."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def goal() -> GoalBundle:
    """Three videos of a square that crosses a noisy 32x32 picture, 33 frames each."""
    rng = np.random.default_rng(0)
    videos = np.empty((3, 33, 32, 32, 3), np.uint8)
    for k, video in enumerate(videos):
        still = rng.integers(0, 100, (32, 32, 3))
        for t, frame in enumerate(video):
            frame[:] = still
            row, column = 4 + 8 * k, round(t / 32 * 24)
            frame[row : row + 8, column : column + 8] = (250, 200 - 60 * k, 60 * k)
    return GoalBundle(videos, env_id="toy/square", prompt="a square crosses")


@pytest.fixture(scope="session")
def vae():
    """A small random AutoencoderKLCogVideoX at 32x32, as an encoder."""
    import torch
    from diffusers import AutoencoderKLCogVideoX

    from genreward_wrappers.encoders.video_vae import CogVideoXEncoder

    torch.manual_seed(0)
    model = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=32,
        sample_width=32,
    )
    return CogVideoXEncoder(model, size=(32, 32), device="cpu", source="test")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A small random CLIP of open_clip's own class, as a folder in its layout."""
    import json

    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "layers": 2, "width": 32, "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 12, "vocab_size": 49_408, "width": 16, "heads": 2,
            "layers": 1,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    # As drawn, all texts are nearly one: tell them apart.
    model.token_embedding.weight.data.mul_(30)
    folder = tmp_path_factory.mktemp("clip")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    card = {
        "model_cfg": config,
        "preprocess_cfg": {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.25, 0.27]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="session")
def embed(clip_folder):
    """Unit embeddings of texts or frames in float64, by open_clip alone."""
    import open_clip
    import torch
    from PIL import Image

    where = f"local-dir:{clip_folder}"
    model, transform = open_clip.create_model_from_pretrained(where)
    tokenizer = open_clip.get_tokenizer(where)
    model.double().eval()

    def of(things):
        with torch.no_grad():
            if isinstance(things, list):
                found = model.encode_text(tokenizer(things))
            else:
                images = torch.stack([transform(Image.fromarray(f)) for f in things])
                found = model.encode_image(images.double())
        found = found.numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return of
