"""The families of environments of this package: one record each.

A family is known by what stands before the slash of an environment's id. What ids there
are, what has to be installed and who can play is read here by everybody else, so that a
new family is a module and a record.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym

from genreward_wrappers.envs import dm_control, metaworld


@dataclass(frozen=True)
class Family:
    """A family of environments.

    Attributes:
        name: What stands before the slash of its ids.
        tasks: What stands after it, and the environment's own name of it.
        entry_point: The environment's class, as "module:class"; it takes ``task``.
        step_limit: The most steps of an episode, for a task; None is no limit.
        package: What has to be installed.
        extra: The extra of this package that installs it.
        script: Makes a task's scripted policy, which acts on the state; None if there
            is none.
        planned: Whether `planner.Planner` can plan in it.
    """

    name: str
    tasks: Mapping[str, str]
    entry_point: str
    step_limit: Callable[[str], int | None]
    package: str
    extra: str
    script: Callable[[str], Callable[[Any], Any]] | None = None
    planned: bool = False

    def register(self) -> None:
        """Registers the family's environments, unless they are registered already."""
        for name, task in self.tasks.items():
            env_id = f"{self.name}/{name}"
            if env_id not in gym.registry:
                gym.register(
                    id=env_id,
                    entry_point=self.entry_point,
                    max_episode_steps=self.step_limit(task),
                    kwargs={"task": task},
                    # This package's tests check them. To users, the checker only
                    # reports that some of Meta-World's states never change.
                    disable_env_checker=True,
                )


_METAWORLD = Family(
    name="metaworld",
    tasks={task.removesuffix("-v3"): task for task in metaworld.TASKS},
    entry_point=f"{__package__}.metaworld:MetaWorldEnv",
    step_limit=lambda task: 256,
    package="metaworld",
    extra="metaworld",
    script=metaworld.scripted_policy,
)
_DMC = Family(
    name="dmc",
    tasks={task: task for task in dm_control.TASKS},
    entry_point=f"{__package__}.dm_control:DmControlEnv",
    step_limit=lambda task: None if task.startswith("lqr-") else 1000,
    package="dm_control",
    extra="dm-control",
    planned=True,
)
_DISTRACTING = replace(
    _DMC, name="distracting", entry_point=f"{__package__}.distracting:DistractingEnv"
)

FAMILIES = (_METAWORLD, _DMC, _DISTRACTING)


def find_family(env_id: str) -> Family | None:
    """The family that an environment's id begins with, if there is one."""
    name = env_id.partition("/")[0]
    return next((family for family in FAMILIES if family.name == name), None)


def find_script(env_id: str) -> Callable[[], Callable[[Any], Any]] | None:
    """What makes a scripted policy for an environment, if its family has one."""
    family, task = find_family(env_id), env_id.partition("/")[2]
    if family is None or family.script is None or task not in family.tasks:
        return None
    return functools.partial(family.script, task)


def register_environments() -> None:
    """Registers the environments of all families."""
    for family in FAMILIES:
        family.register()
