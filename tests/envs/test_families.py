"""A family of environments is one record, and everything else follows from it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from genreward_wrappers.envs import families
from genreward_wrappers.envs.families import FAMILIES, Family, find_family, find_script
from genreward_wrappers.envs.policies import check_policy, make_policy


class Toy(gym.Env):
    """Its state is what it is told."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (2,))

    def __init__(self, task):
        self.task = task


@pytest.fixture
def toy(monkeypatch):
    family = Family(
        name="toy",
        tasks={"up": "up-v9"},
        entry_point=f"{__name__}:Toy",
        step_limit=lambda task: 7,
        package="numpy",
        extra="toy",
        script=lambda task: lambda state: np.full(2, 0.25 * len(task)),
    )
    monkeypatch.setattr(families, "FAMILIES", (*FAMILIES, family))
    yield family
    gym.registry.pop("toy/up", None)


def test_a_record_is_all_that_a_family_needs(toy):
    families.register_environments()
    assert gym.spec("toy/up").max_episode_steps == 7
    env = gym.make("toy/up", disable_env_checker=True)
    assert env.unwrapped.task == "up-v9"
    for observation in (np.zeros(2), {"state": np.zeros(2)}):
        act = make_policy("scripted", env, "toy/up", 0)
        np.testing.assert_array_equal(act(observation), [0.5, 0.5])
    noisy = make_policy("noisy", env, "toy/up", 0)
    assert np.std([noisy(np.zeros(2)) for _ in range(20)]) > 0.01
    with pytest.raises(ValueError, match="cannot be planned in"):
        check_policy("planned", "toy/up")


def test_unknown_tasks_and_families_have_no_script(toy):
    assert find_family("toy/down") is toy
    assert find_family("nothing/up") is None
    assert find_script("toy/up") is not None
    for env_id in ("toy/down", "nothing/up", "up", "dmc/walker-walk"):
        assert find_script(env_id) is None


def test_every_id_of_every_family_is_registered():
    import genreward_wrappers  # noqa: F401

    for family in FAMILIES:
        for name, task in family.tasks.items():
            spec = gym.spec(f"{family.name}/{name}")
            assert spec.kwargs == {"task": task}
            assert spec.entry_point == family.entry_point
