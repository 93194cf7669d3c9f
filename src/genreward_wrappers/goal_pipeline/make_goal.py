"""`make_goal`: candidates, a choice, data, nets and a check, one after the other.

Each part has a command of its own: `genreward generate`, `pack`, `select`, `collect`
and `train-fb`. This module adds their order, their settings in one place, and a work
folder from which an interrupted run resumes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

from genreward_wrappers.data.contact_sheet import contact_sheet, png_of
from genreward_wrappers.data.files import canonical, write_atomic
from genreward_wrappers.data.frames import image_size
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.encoders.base import encoder_card
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.texts import text_tower
from genreward_wrappers.generators.candidates import load_candidate
from genreward_wrappers.generators.pipeline import Generator
from genreward_wrappers.generators.settings import Sampling
from genreward_wrappers.goal_pipeline.card import readme
from genreward_wrappers.goal_pipeline.check import (
    Check,
    check_goal,
    first_seed,
    policies_of,
)
from genreward_wrappers.goal_pipeline.collect import FIRST_SEED as DATA_SEED
from genreward_wrappers.goal_pipeline.collect import LONGEST, collect
from genreward_wrappers.goal_pipeline.generate import generate
from genreward_wrappers.goal_pipeline.pack import pack_candidates
from genreward_wrappers.goal_pipeline.recipe import (
    Recipe,
    check_recipe,
    horizon_of,
    known,
)
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
    load_trajectories,
)

#: A checkpoint of the nets so many times in a training run, and at least every 500.
CHECKPOINTS, EVERY = 20, 500

HELD_OUT = "held-out"


@dataclass(frozen=True)
class Made:
    """The result.

    Attributes:
        goal: The bundle.
        path: Its file; a card and a contact sheet lie next to it.
        check: What held-out episodes say about it; None if it was not checked.
        horizon: How many steps an episode has.
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
        work: The folder of what is made on the way, from which an interrupted run
            resumes; None is next to the output.
        overwrite: Whether to replace stages that were made with other settings.
        processes: How many episodes to play at a time.
        on_progress: Called with the stage's name, what is done, of how much, and
            perhaps figures by name.

    Raises:
        ValueError: The settings do not fit together, or a stage was made with others.
        FileNotFoundError: A model is not on this machine and cannot be downloaded.
        ImportError: A package is missing.
    """
    output = Path(output)
    folder = output.with_suffix(".work") if work is None else Path(work)
    check_recipe(recipe)
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
    """The stages of one recipe, which pass files on to each other."""

    def __init__(
        self, recipe: Recipe, folder: Path, processes: int, on_progress: OnStage
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.processes, self.on_progress = processes, on_progress
        self.device = recipe.model.device
        self.files: dict[str, list[Path]] = {}
        self.horizon = horizon_of(recipe)
        self.generator = Generator(recipe.model)
        self.policies = tuple(
            policies_of(recipe.env_id)
            if recipe.check_policies is None
            else recipe.check_policies
        )

    def stages(self) -> list[Stage]:
        """The stages that the recipe asks for, in their order."""
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
        """The goal as the last stage left it."""
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
