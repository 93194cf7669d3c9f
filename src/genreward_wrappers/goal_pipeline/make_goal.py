"""`make_goal`: candidates, a choice, data, nets and a check, one after the other.

Nothing is made here that a command of its own does not make: `genreward generate`,
`pack`, `select`, `collect` and `train-fb`. What is here is their order, their settings
in one place, and a work folder from which a stopped run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from genreward_wrappers.data.contact_sheet import contact_sheet, png_of
from genreward_wrappers.data.files import canonical, hash_file, write_atomic
from genreward_wrappers.data.frames import image_size
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.texts import as_texts, text_tower
from genreward_wrappers.envs.policies import check_policy
from genreward_wrappers.generators.candidates import load_candidate
from genreward_wrappers.generators.episode_goals import EMBEDDED
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Model, Sampling
from genreward_wrappers.goal_pipeline.card import readme
from genreward_wrappers.goal_pipeline.check import (
    Check,
    check_goal,
    first_seed,
    policies_of,
)
from genreward_wrappers.goal_pipeline.collect import FIRST_SEED as DATA_SEED
from genreward_wrappers.goal_pipeline.collect import LONGEST, collect
from genreward_wrappers.goal_pipeline.generate import FIRST_SEED as GOAL_SEED
from genreward_wrappers.goal_pipeline.generate import generate
from genreward_wrappers.goal_pipeline.pack import pack_candidates
from genreward_wrappers.goal_pipeline.select import select
from genreward_wrappers.goal_pipeline.stages import Stage, Work
from genreward_wrappers.progress import OnStage, no_progress
from genreward_wrappers.training.forward_backward.features import (
    Features,
    default_cache,
)
from genreward_wrappers.training.forward_backward.fit import (
    SMALL_TRAINING,
    Plan,
    train_fb,
)
from genreward_wrappers.training.forward_backward.settings import FBTraining
from genreward_wrappers.training.forward_backward.sources import (
    MINARI,
    load_trajectories,
)

GENERATOR = EMBEDDED
CLIP = "embedded:clip-64"
ENCODER = "embedded:video-vae-64"

#: A checkpoint of the nets so many times in a training run, and at least every 500.
CHECKPOINTS, EVERY = 20, 500

HELD_OUT = "held-out"


@dataclass(frozen=True)
class Recipe:
    """All that decides what a goal will be.

    Attributes:
        env_id: The environment's registered id, with pixels somewhere.
        prompt: The task in words.
        options: What else to make the environment with, such as ``size``.
        horizon: Steps of an episode; needed only where the environment sets no limit.
        model: The generator, and how it is held in memory.
        sampling: What else is asked of it; its prompt is the recipe's.
        starts: How many first frames.
        candidates: How many videos of each.
        seed: The first one, of resets and of noise.
        clip: A model of pictures and texts, which chooses.
        success_prompt: The task done, in words, or several wordings; None is the
            prompt.
        baseline: The scene as it begins, likewise; None for none.
        prior: How much a later key frame is preferred.
        videos: How many candidates are kept at most, the best.
        size: (height, width) of the goal's videos, or one number.
        length: Frames of each; None is what the generator made.
        encoder: Of the goal's videos.
        license: The videos' licence, which follows from the generator's.
        nets: Whether nets of the frame-level reward are trained.
        data: A folder of episodes to train them on, or "minari:<dataset>"; None
            records episodes of random actions.
        episodes: How many of those.
        features: What the nets see: an encoder; None is the goal's own.
        updates: Gradient steps.
        check: Held-out episodes of each policy; 0 leaves the check out.
        check_policies: Who plays them; None is random actions and, in Meta-World, the
            scripted policy, without and with noise.
    """

    env_id: str
    prompt: str
    options: Mapping[str, Any] = field(default_factory=dict)
    horizon: int | None = None
    model: Model = field(default_factory=lambda: Model(GENERATOR))
    sampling: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 4
    candidates: int = 4
    seed: int = GOAL_SEED
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


@dataclass(frozen=True)
class Made:
    """What came of it.

    Attributes:
        goal: The bundle.
        path: Where it is; a card and a contact sheet lie beside it.
        check: What held-out episodes say of it; None if nobody asked.
        horizon: Steps of an episode.
    """

    goal: GoalBundle
    path: Path
    check: Check | None
    horizon: int


def make_goal(
    recipe: Recipe,
    output: str | PathLike[str],
    *,
    work: str | PathLike[str] | None = None,
    overwrite: bool = False,
    processes: int = 1,
    on_progress: OnStage = no_progress,
) -> Made:
    """Makes a goal bundle that `GenRewardWrapper` takes.

    Args:
        recipe: What to make.
        output: The bundle to write.
        work: A folder for what is made on the way; None is beside the output. A run
            that was stopped goes on from there.
        overwrite: Whether stages that are there with other settings are made anew.
        processes: How many episodes to play at a time.
        on_progress: Called with the stage, how far it is, and perhaps figures by name.

    Raises:
        ValueError: Something does not fit, or a stage is there with other settings.
        FileNotFoundError: There is no such model here, nor a way to fetch it.
        ImportError: A package is missing.
    """
    output = Path(output)
    folder = output.with_suffix(".work") if work is None else Path(work)
    _check_recipe(recipe)
    maker = _Maker(recipe, folder, processes, on_progress)
    stages = maker.stages()
    bench = Work(folder)
    bench.check(stages, overwrite)
    for stage in stages:
        maker.files[stage.name] = bench.run(stage)
    goal, check = maker.bundle(), None
    if recipe.check:
        check = maker.checked()
        goal = goal.with_(provenance=(*goal.provenance, check.step()))
    goal.save(output)
    picture = output.with_suffix(".png")
    write_atomic(picture, png_of(contact_sheet(goal)))
    card = readme(goal, "", output.name, picture.name)
    write_atomic(output.with_suffix(".md"), card.encode())
    return Made(goal, output, check, maker.horizon)


class _Maker:
    """The stages of one recipe, which hand files on to each other."""

    def __init__(
        self, recipe: Recipe, folder: Path, processes: int, on_progress: OnStage
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.processes, self.on_progress = processes, on_progress
        self.device = recipe.model.device
        self.files: dict[str, list[Path]] = {}
        self.horizon = _horizon(recipe)
        self.generator = Generator(recipe.model)
        self.policies = tuple(
            policies_of(recipe.env_id)
            if recipe.check_policies is None
            else recipe.check_policies
        )

    def stages(self) -> list[Stage]:
        """Those that the recipe asks for, in their order."""
        recipe, size = self.recipe, image_size(self.recipe.size)
        env = {"id": recipe.env_id, "options": dict(recipe.options)}
        sampling = Sampling(recipe.prompt, **recipe.sampling)
        clip = load_encoder(recipe.clip, device=self.device)
        text_tower(clip)
        encoder = load_encoder(recipe.encoder, device="cpu", size=size)
        stages = [
            Stage(
                "candidates",
                {
                    "model": self.generator.identity,
                    "settings": self.generator.settings(sampling),
                    "env": env,
                    "starts": recipe.starts,
                    "candidates": recipe.candidates,
                    "seed": recipe.seed,
                },
                partial(self._candidates, sampling),
                ["candidates"],
                grows=("starts", "candidates"),
            ),
            Stage(
                "choice",
                {
                    "clip": encoder_card(clip),
                    "success_prompt": recipe.success_prompt,
                    "baseline": recipe.baseline,
                    "prior": recipe.prior,
                    "videos": recipe.videos,
                    "size": size,
                    "length": recipe.length,
                    "encoder": encoder_card(encoder),
                    "license": recipe.license,
                },
                self._choice,
                ["choice.safetensors"],
                after=("candidates",),
            ),
        ]
        last = "choice"
        if recipe.nets:
            if recipe.data is None:
                settings = {
                    "env": env,
                    "policy": "random",
                    "episodes": recipe.episodes,
                    "seed": DATA_SEED,
                    "steps": min(self.horizon, LONGEST),
                }
                stages.append(
                    Stage("data", settings, self._data, ["data"], grows=("episodes",))
                )
            stages.append(
                Stage(
                    "nets",
                    {
                        "features": recipe.features,
                        "training": dict(SMALL_TRAINING),
                        "updates": recipe.updates,
                        "data": None if recipe.data is None else known(recipe.data),
                    },
                    self._nets,
                    ["nets.safetensors", "nets.checkpoint"],
                    after=("choice", "data") if recipe.data is None else ("choice",),
                )
            )
            last = "nets"
        self.last = last
        if recipe.check:
            settings = {
                "env": env,
                "policies": self.policies,
                "episodes": recipe.check,
                "steps": self.horizon,
            }
            stages += [
                Stage(
                    HELD_OUT,
                    settings,
                    self._held_out,
                    [HELD_OUT],
                    grows=("policies", "episodes"),
                ),
                Stage(
                    "check",
                    {"horizon": self.horizon},
                    self._check,
                    ["figures.json"],
                    after=(last, HELD_OUT),
                ),
            ]
        return stages

    def bundle(self) -> GoalBundle:
        """The goal, as far as it is made."""
        return GoalBundle.load(self.files[self.last][0])

    def checked(self) -> Check:
        """What the check found."""
        return Check.from_json(json.loads(self.files["check"][0].read_text()))

    def _candidates(self, sampling: Sampling) -> list[Path]:
        recipe = self.recipe
        found = generate(
            self.generator,
            sampling,
            self.folder / "candidates",
            env_id=recipe.env_id,
            options=recipe.options,
            starts=recipe.starts,
            candidates=recipe.candidates,
            seed=recipe.seed,
            on_progress=partial(self.on_progress, "candidates"),
        )
        # What comes next needs the memory.
        self.generator.unload()
        return found

    def _choice(self) -> list[Path]:
        recipe, paths = self.recipe, self.files["candidates"]
        goal = pack_candidates(
            paths,
            camera=str(recipe.options.get("camera", "")),
            size=recipe.size,
            length=recipe.length or load_candidate(paths[0]).videos.shape[1],
            encoder=recipe.encoder,
            license=recipe.license,
        )
        chosen, _ = select(
            goal,
            recipe.clip,
            prompts=recipe.success_prompt,
            baseline=recipe.baseline,
            prior=recipe.prior,
            keep=min(recipe.videos, len(paths)),
            device=self.device,
            on_progress=partial(self.on_progress, "choice"),
        )
        return [_saved(chosen, self.folder / "choice.safetensors")]

    def _data(self) -> list[Path]:
        paths = self._play("random", self.recipe.episodes, DATA_SEED, "data", 0, 1)
        # All that lies there is trained on: nothing of an earlier, larger number.
        for path in {*(self.folder / "data").glob("*.safetensors")} - {*paths}:
            path.unlink()
        return paths

    def _nets(self) -> list[Path]:
        recipe = self.recipe
        goal = GoalBundle.load(self.files["choice"][0])
        features = Features.for_goal(goal, recipe.features, device=self.device)
        recorded = load_trajectories(
            str(recipe.data or self.folder / "data"),
            features,
            cache=default_cache(),
            on_progress=partial(self.on_progress, "pictures to features"),
        )
        checkpoint = self.folder / "nets.checkpoint"

        def on_update(step: int, figures: Mapping[str, float]) -> None:
            self.on_progress("nets", step, recipe.updates, figures)

        made = train_fb(
            goal,
            recorded,
            features,
            training=FBTraining(**SMALL_TRAINING),
            plan=Plan(
                recipe.updates,
                checkpoint,
                every=max(1, min(EVERY, recipe.updates // CHECKPOINTS)),
                on_progress=on_update,
            ),
            device=self.device,
        )
        path = _saved(made, self.folder / "nets.safetensors")
        checkpoint.unlink(missing_ok=True)
        return [path]

    def _held_out(self) -> list[Path]:
        count, parts = self.recipe.check, len(self.policies)
        return [
            path
            for i, policy in enumerate(self.policies)
            for path in self._play(policy, count, first_seed(i), HELD_OUT, i, parts)
        ]

    def _check(self) -> list[Path]:
        paths, count = self.files[HELD_OUT], self.recipe.check
        check = check_goal(
            self.bundle(),
            {
                policy: paths[i * count : (i + 1) * count]
                for i, policy in enumerate(self.policies)
            },
            self.horizon,
            device=self.device,
            on_progress=partial(self.on_progress, "check"),
        )
        path = self.folder / "figures.json"
        write_atomic(path, (canonical(check.to_json()) + "\n").encode())
        return [path]

    def _play(
        self, policy: str, episodes: int, seed: int, stage: str, part: int, parts: int
    ) -> list[Path]:
        """Records episodes; all policies of a stage count as one."""

        def on_progress(done: int, total: int) -> None:
            self.on_progress(stage, part * total + done, parts * total)

        return collect(
            self.recipe.env_id,
            self.folder / stage,
            policy=policy,
            episodes=episodes,
            seed=seed,
            # Data may be of shorter episodes than the reward is judged on.
            steps=self.horizon if stage == HELD_OUT else min(self.horizon, LONGEST),
            options=self.recipe.options,
            processes=self.processes,
            on_progress=on_progress,
        )


def _saved(goal: GoalBundle, path: Path) -> Path:
    goal.save(path)
    return path


def known(data: str) -> dict[str, str]:
    """What episodes of one's own are known by: what they hold, not where they are.

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


def _horizon(recipe: Recipe) -> int:
    """Steps of an episode, as the wrappers will take them."""
    import gymnasium as gym

    try:
        limit = gym.spec(recipe.env_id).max_episode_steps
    except gym.error.Error as error:
        raise ValueError(f"env {recipe.env_id!r}: {error}") from error
    found = recipe.horizon or limit
    if found is None:
        raise ValueError(
            f"{recipe.env_id!r} sets no limit to its episodes: say after how many "
            "steps the task should be done, --horizon N (horizon=N)"
        )
    return found


def _check_recipe(recipe: Recipe) -> None:
    """Raises for what would otherwise be found out after hours."""
    least = {"starts": 1, "candidates": 1, "videos": 1, "episodes": 1, "updates": 1}
    for name, low in {**least, "check": 0, "horizon": 1, "length": 2}.items():
        value = getattr(recipe, name)
        if value is not None and value < low:
            raise ValueError(f"{name}={value}: expected at least {low}")
    if not 0 <= recipe.prior < float("inf"):
        raise ValueError(f"prior={recipe.prior}: expected a number from 0")
    as_texts(recipe.prompt, "prompt")
    for name in ("success_prompt", "baseline"):
        if getattr(recipe, name) is not None:
            as_texts(getattr(recipe, name), name)
    for policy in recipe.check_policies or ():
        check_policy(policy, recipe.env_id)
