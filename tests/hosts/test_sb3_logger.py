"""`sb3.RewardLogger`: what it logs is what was paid."""

from __future__ import annotations

import csv
from functools import partial

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from genreward_wrappers import RewardModelWrapper
from genreward_wrappers.sb3 import RewardLogger, VecRewardModel
from genreward_wrappers.testing import PointMass, Traveller

WRAP = {"weight": 2.0, "env_weight": 0.5}
ARENA = {"size": 16, "horizon": 9}


class Notes(BaseCallback):
    """Everything that happened, to add up by hand."""

    def _on_step(self):
        rows = zip(
            self.locals["infos"], self.locals["dones"], self.locals["rewards"],
            strict=True,
        )  # fmt: skip
        self.rows = [*getattr(self, "rows", []), [(dict(i), d, r) for i, d, r in rows]]
        return True


def by_hand(rows, count):
    """(returns of each part, success) of the episodes in the order of their ends."""
    running = [[] for _ in range(count)]
    found = []
    for step in rows:
        for row, (info, done, paid) in enumerate(step):
            running[row].append((info, paid))
            if done:
                parts = {
                    name: sum(i[f"reward_{name}"] for i, _ in running[row])
                    for name in ("traveller", "env")
                }
                parts["total"] = sum(float(p) for _, p in running[row])
                found.append((parts, any(i["is_success"] for i, _ in running[row])))
                running[row] = []
    return found


def log_of(folder):
    with (folder / "progress.csv").open() as file:
        # Two episodes that end at once are two rows, of which the second is bare.
        return [row for row in csv.DictReader(file) if row.get("reward/total", "x")]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_what_is_logged_is_what_was_paid(inside, algorithm, tmp_path):
    def make():
        env = PointMass(**ARENA)
        return RewardModelWrapper(env, Traveller(), **WRAP) if inside else env

    venv = make_vec_env(make, n_envs=2, seed=0)
    if not inside:
        venv = VecRewardModel(venv, Traveller(), **WRAP)
    sizes = {"n_steps": 40, "batch_size": 40, "n_epochs": 1}
    if algorithm is SAC:
        sizes = {"learning_starts": 1_000, "buffer_size": 1_000}
    agent = algorithm("MlpPolicy", venv, seed=0, device="cpu", **sizes)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    # Notes come first: the logger adds the episode's success to the last step's info.
    notes = Notes()
    agent.learn(160, [notes, RewardLogger(window=4)], log_interval=1)
    expected = by_hand(notes.rows, 2)[-4:]
    last = log_of(tmp_path)[-1]
    for name in ("traveller", "env", "total"):
        mean = np.mean([parts[name] for parts, _ in expected])
        assert float(last[f"reward/{name}"]) == pytest.approx(mean, abs=1e-4), name
    everything = by_hand(notes.rows, 2)
    rate = np.mean([success for _, success in everything])
    assert float(last["rollout/success_rate"]) == pytest.approx(rate)


class SolvedEarly(PointMass):
    """Succeeds in the middle of its episodes and not at their end."""

    def step(self, action):
        observation, paid, _, cut, _ = super().step(action)
        return observation, paid, False, cut, {"is_success": self._step == 3}


def test_success_at_any_step_counts(tmp_path):
    """By itself stable-baselines3 asks the last step, and says 0."""
    rates = {}
    for name, more in (("alone", []), ("ours", [RewardLogger()])):
        venv = make_vec_env(partial(SolvedEarly, **ARENA), n_envs=1, seed=0)
        venv = VecMonitor(VecRewardModel(venv, Traveller()))
        agent = PPO("MlpPolicy", venv, n_steps=20, batch_size=20, n_epochs=1)
        agent.set_logger(configure(str(tmp_path / name), ["csv"]))
        agent.learn(20, more)
        rates[name] = float(log_of(tmp_path / name)[-1]["rollout/success_rate"])
    assert rates == {"alone": 0.0, "ours": 1.0}


@pytest.mark.parametrize("inside", [True, False])
def test_evaluation_by_the_environments_own_return(inside, tmp_path):
    """Where `Monitor` stands inside the reward, and by the reward's where outside."""
    env = PointMass(**ARENA, obs="state", render_mode="rgb_array")
    held = RewardModelWrapper(Monitor(env) if inside else env, Traveller())
    held = held if inside else Monitor(held)
    agent = PPO("MlpPolicy", held, n_steps=20, batch_size=20, n_epochs=1)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(20, EvalCallback(held, eval_freq=20, n_eval_episodes=2, verbose=0))
    agent.logger.close()
    (found,) = (row for row in log_of(tmp_path) if row["eval/mean_reward"])
    assert float(found["eval/success_rate"]) in (0.0, 0.5, 1.0)
    own = float(found["eval/mean_reward"]) < 0
    assert own == inside, "the arena pays costs, and the model does not"


def test_the_total_is_not_normalised(tmp_path):
    venv = make_vec_env(partial(PointMass, **ARENA), n_envs=1, seed=0)
    venv = VecNormalize(VecRewardModel(venv, Traveller(), **WRAP), norm_obs=False)
    agent = PPO("MlpPolicy", venv, n_steps=18, batch_size=18, n_epochs=1)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(18, RewardLogger())
    last = {k: float(v) for k, v in log_of(tmp_path)[-1].items() if v}
    expected = 2 * last["reward/traveller"] + 0.5 * last["reward/env"]
    assert last["reward/total"] == pytest.approx(expected, abs=1e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="window=0: expected at least 1"):
        RewardLogger(window=0)
    agent = PPO("MlpPolicy", PointMass(**ARENA), n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match="no part of a reward.*reward wrapper"):
        agent.learn(8, RewardLogger())
