"""What a goal is made from: everything that decides how it turns out, checked early."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genreward_wrappers.checks import at_least, not_negative
from genreward_wrappers.data.files import canonical, hash_file
from genreward_wrappers.data.minari import MINARI
from genreward_wrappers.encoders.texts import as_texts
from genreward_wrappers.envs.policies import check_policy
from genreward_wrappers.generators.episode_settings import EMBEDDED
from genreward_wrappers.generators.settings import Model
from genreward_wrappers.goal_pipeline.generate import FIRST_SEED

GENERATOR = EMBEDDED
CLIP = "embedded:clip-64"
ENCODER = "embedded:video-vae-64"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a goal turns out.

    Attributes:
        env_id: The environment's registered id; it must offer pixels.
        prompt: The task in words.
        options: Further arguments to make the environment with, such as ``size``.
        horizon: How many steps an episode has; only needed where the environment sets
            no limit.
        model: The generator, and how it is held in memory.
        sampling: Further arguments of `Sampling`; the prompt is the recipe's.
        starts: How many first frames to take from resets.
        candidates: How many videos to generate from each.
        seed: The first seed, of resets and of noise.
        clip: The model of images and texts that chooses.
        success_prompt: What the scene looks like when the task is done, in one or
            several wordings; None uses the prompt.
        baseline: What the scene looks like at the beginning, also in words; None
            subtracts nothing.
        prior: How much later key frames are preferred.
        videos: How many of the best candidates to keep at most.
        size: (height, width) of the goal's videos, or one number for both.
        length: How many frames each has; None keeps as many as were generated.
        encoder: The encoder that the goal is compared by.
        license: The videos' licence, which follows from the generator's.
        nets: Whether to train nets for the frame-level reward.
        data: The folder of episodes to train them on, or "minari:<dataset>"; None
            records episodes of random actions.
        episodes: How many of those to record.
        features: What the nets see: an encoder or "state"; None is the goal's encoder.
        updates: How many gradient steps to train the nets for.
        check: How many held-out episodes each policy plays; 0 leaves the check out.
        check_policies: Who plays them; None is random actions and, in Meta-World, also
            the scripted policy, without and with noise.
    """

    env_id: str
    prompt: str
    options: Mapping[str, Any] = field(default_factory=dict)
    horizon: int | None = None
    model: Model = field(default_factory=lambda: Model(GENERATOR))
    sampling: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 4
    candidates: int = 4
    seed: int = FIRST_SEED
    clip: str = CLIP
    success_prompt: Sequence[str] | None = None
    baseline: Sequence[str] | None = None
    prior: float = 0.0
    videos: int = 8
    size: int | tuple[int, int] = 64
    length: int | None = None
    encoder: str = ENCODER
    license: str = ""
    nets: bool = True
    data: str | None = None
    episodes: int = 50
    features: str | None = None
    updates: int = 10_000
    check: int = 10
    check_policies: Sequence[str] | None = None


def check_recipe(recipe: Recipe) -> None:
    """Raises for what would otherwise only show after hours."""
    at_least(1, starts=recipe.starts, candidates=recipe.candidates)
    at_least(1, videos=recipe.videos, episodes=recipe.episodes, updates=recipe.updates)
    at_least(1, horizon=recipe.horizon)
    at_least(0, check=recipe.check)
    at_least(2, length=recipe.length)
    not_negative(prior=recipe.prior)
    as_texts(recipe.prompt, "prompt")
    for name in ("success_prompt", "baseline"):
        if getattr(recipe, name) is not None:
            as_texts(getattr(recipe, name), name)
    for policy in recipe.check_policies or ():
        check_policy(policy, recipe.env_id)


def horizon_of(recipe: Recipe) -> int:
    """How many steps an episode has, as the wrappers will count them."""
    import gymnasium as gym

    try:
        limit = gym.spec(recipe.env_id).max_episode_steps
    except gym.error.Error as error:
        raise ValueError(f"env {recipe.env_id!r}: {error}") from error
    found = recipe.horizon or limit
    if found is None:
        raise ValueError(
            f"{recipe.env_id!r} sets no limit to its episodes: give the number of "
            "steps that the task should take, --horizon N (horizon=N)"
        )
    return found


def known(data: str) -> dict[str, str]:
    """What a user's own episodes are known by: their content, not their place.

    Raises:
        ValueError: There is no such folder.
    """
    if data.startswith(MINARI):
        return {"source": data}
    folder = Path(data)
    if not folder.is_dir():
        raise ValueError(
            f"data {data!r}: there is no such folder; expected one of recorded "
            f'episodes, as `genreward collect` writes them, or "{MINARI}<dataset id>"'
        )
    files = {path.name: hash_file(path) for path in folder.glob("*.safetensors")}
    return {"sha256": hashlib.sha256(canonical(files).encode()).hexdigest()}
